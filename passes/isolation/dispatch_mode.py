"""A mode that sees every operation before torch runs it, and that torch's compiler does not see.

torch keeps its compiler away from such modes by loading it at the first operation, which takes seconds. Here that is
left until something else has loaded it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import CodeType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


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
        if not isinstance(func, torch._ops.OpOverload):  # one of higher order
            return func(*args, **(kwargs or {}))
        if "torch._dynamo" in sys.modules:
            return self._seen_apart(func, args, kwargs or {})
        return self.seen(func, args, kwargs or {})

    def _apart(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        return self.seen(func, args, kwargs)

    _seen_apart: Any = getattr(torch, "_disable_dynamo")(_apart)  # noqa: B009

    def seen(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """The result of the operation."""
        return func(*args, **kwargs)


def _hide(code: CodeType) -> None:
    """Keeps torch's compiler, once it is loaded, from compiling this code where it is called."""
    frames: Any = torch._C._dynamo.eval_frame
    if hasattr(frames, "skip_code"):
        frames.skip_code(code)
    else:
        skipped = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.DEFAULT)
        frames.set_code_exec_strategy(code, skipped)


_hide(DispatchMode.__torch_dispatch__.__code__)
