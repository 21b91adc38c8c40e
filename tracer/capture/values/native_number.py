"""What torch's native code sees in a traced number: a symbolic one, as torch has them, with a node behind it.

Such a number fits wherever a size or a scalar does, and torch hands the whole call over to its modes without asking
for the value (`real_calls.py`). Where it hands nothing over, as in `torch.Tensor(n, 3)`, it asks the node.
"""

from __future__ import annotations

import torch

from passes.errors import CaptureError
from passes.torch_private import function_modes, overrides_are_off

SYMBOLIC: dict[type, type] = {int: torch.SymInt, float: torch.SymFloat, bool: torch.SymBool}


class FixedNode:
    """A fixed number, as torch asks the node of a symbolic one."""

    def __init__(self, number: int | float):
        self.number = number

    def is_int(self) -> bool:
        return type(self.number) is int

    def is_float(self) -> bool:
        return type(self.number) is float

    def is_bool(self) -> bool:
        return type(self.number) is bool

    def is_constant(self) -> bool:
        return True

    def is_nested_int(self) -> bool:
        return False

    def maybe_as_int(self) -> int | float:
        return self.number

    constant_int = maybe_as_int

    def guard_int(self, file: str, line: int) -> int:
        return int(self.number)

    def guard_float(self, file: str, line: int) -> float:
        return float(self.number)

    def guard_bool(self, file: str, line: int) -> bool:
        return bool(self.number)


def check_seen() -> None:
    """Raises CaptureError where no mode is asked: it would be unknown what becomes of the number."""
    if not function_modes() or overrides_are_off():
        raise hidden()


def hidden() -> CaptureError:
    return CaptureError(
        "the forward computes with a size where torch's function modes are off",
        remedy="call torch's functions outside of a block of DisableTorchFunction",
    )


__all__ = ["SYMBOLIC", "FixedNode", "check_seen", "hidden"]
