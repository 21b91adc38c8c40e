"""A mode that sees every operation before torch runs it, and that torch's compiler does not see.

torch keeps its compiler away from such modes by loading it at the first operation, which takes seconds. Here that is
left until something else has loaded it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from passes.torch_private import COMPILER, OpOverload, TorchDispatchMode, apart_from_compiler, hide_from_compiler


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside the block, `seen` stands for each of this thread's operations; it may run it, with other arguments too."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # see above

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # what is compiled inside the block is not compiled with the mode

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not isinstance(func, OpOverload):  # one of higher order
            return func(*args, **(kwargs or {}))
        if COMPILER in sys.modules:
            return self._seen_apart(func, args, kwargs or {})
        return self.seen(func, args, kwargs or {})

    def _apart(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        return self.seen(func, args, kwargs)

    _seen_apart: Any = apart_from_compiler(_apart)

    def seen(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """The result of the operation."""
        return func(*args, **kwargs)


hide_from_compiler(DispatchMode.__torch_dispatch__.__code__)
