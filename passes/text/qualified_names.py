"""Functions, classes and constants by the names at which Python finds them: `torch.cat`, `operator.add`."""

from __future__ import annotations

import builtins
import enum
import functools
import math
import operator
import sys
from collections.abc import Iterator
from typing import Any

import torch

from passes.torch_private import native_functions

# Where functions of torch and Python are looked for, by the name that people write.
_NAMESPACES: dict[str, Any] = {
    "torch": torch,
    "torch.nn.functional": torch.nn.functional,
    "operator": operator,
    "math": math,
    "builtins": builtins,
    "torch.Tensor": torch.Tensor,
    "torch.special": torch.special,
    "torch.linalg": torch.linalg,
    "torch.fft": torch.fft,
    "torch._C._VariableFunctions": native_functions,
}


def qualified_name(value: Any) -> str | None:
    """The name of a function, class or constant; None where it has none at which it could be found."""
    return next((name for name in _candidates(value) if _is_found(name, value)), None)


def find(name: str) -> Any:
    """What a qualified name stands for, in the modules that are loaded already: a text loads none.

    Raises LookupError where there is nothing of that name.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = sys.modules.get(".".join(parts[:length]))
        if module is not None:
            try:
                return functools.reduce(getattr, parts[length:], module)
            except AttributeError as error:
                raise LookupError(name) from error
    raise LookupError(name)


def _candidates(value: Any) -> Iterator[str]:
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        yield str(value)
    elif isinstance(value, enum.Enum):
        yield f"{type(value).__module__}.{type(value).__qualname__}.{value.name}"
    elif callable(value):
        own = getattr(value, "__name__", None)
        if isinstance(own, str):
            for prefix in _NAMESPACES:
                yield f"{prefix}.{own}"
                yield f"{prefix}.{own.partition('_')[2]}"  # torch.special.expit is called special_expit
        yield f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', own)}"
        yield f"torch.ops.{value}"  # torch's overloads: aten.add.Tensor


def _is_found(name: str, value: Any) -> bool:
    try:
        found = find(name)
    except (LookupError, RuntimeError):  # torch.ops raises its own
        return False
    return type(found) is type(value) and bool(found == value)
