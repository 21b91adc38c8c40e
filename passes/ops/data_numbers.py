"""A number that is in a tensor: what `item()`, `int(x)` and `float(x)` are, and what a tensor is as a size or a count.

It is a number of Python's from then on, in double precision where it is a float, and promotes as one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.sizes.unknown import DataFloat, DataSize
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


def whole_number(input: torch.Tensor) -> int:
    """The integer that a tensor of one element holds: what the graph calls for its `item()`."""
    return int(input)


def real_number(input: torch.Tensor) -> float:
    """The float that a tensor of one element holds: what the graph calls for its `item()`."""
    return float(input)


@dataclass(frozen=True, slots=True)
class Number(Record[T]):
    input: T


whole = Op("item", Number, functions=(whole_number,))
real = Op("item", Number, functions=(real_number,))

_WHAT = "number that item() gives"


def _check_single(input: TensorSpec) -> None:
    check(input.numel() == 1, "a tensor of one element is a number, found {}", input)


@whole.shape
def whole_shape(call: Number[TensorSpec]) -> Any:
    input = call.input
    _check_single(input)
    if input.dtype == torch.bool:
        return DataSize(_WHAT, 0, 1, input)
    limits = torch.iinfo(input.dtype)
    return DataSize(_WHAT, limits.min, limits.max, input)


@real.shape
def real_shape(call: Number[TensorSpec]) -> Any:
    _check_single(call.input)
    return DataFloat(_WHAT, call.input)


@whole.lower
@real.lower
def lower_number(emit: Emitter, call: Number[Value]) -> Value:
    return call.input


__all__ = ["real_number", "whole_number"]
