"""Functions of other libraries that are one op each: recorded as such while a forward is traced, not traced through.

Their own code asks how many elements there are to choose between two ways to the same result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from passes.ops.op import LIBRARY
from tracer.capture.values.tensor import has_traced
from tracer.memory.recorder import Recorder


def library_functions() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Such functions, by the loaded modules in which they are found: their own, and those above it."""
    for name in LIBRARY:
        home, _, function = name.rpartition(".")
        native = _found(home, function)
        while home and native is not None:
            if _found(home, function) is native:
                yield sys.modules[home], function, native
            home = home.rpartition(".")[0]


def _found(home: str, function: str) -> Any:
    return getattr(sys.modules.get(home), function, None)


def recorded(tracer: Recorder, native: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which becomes a node where it is called with a traced tensor."""

    @wraps(native)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not has_traced((args, kwargs)):
            return native(*args, **kwargs)
        return tracer.create_proxy("call_function", native, args, kwargs)

    return call


__all__ = ["library_functions", "recorded"]
