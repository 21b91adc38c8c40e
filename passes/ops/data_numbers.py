"""A number that is in a tensor, where an operation takes a number: as a size, a length, a count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import NeedsDataError, check
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.sizes.unknown import DataSize
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


def whole_number(input: torch.Tensor) -> int:
    """The integer that a tensor of one element holds: what the graph calls where `item()` is taken as a size."""
    return int(input)


@dataclass(frozen=True, slots=True)
class WholeNumber(Record[T]):
    input: T


number = Op("item", WholeNumber, functions=(whole_number,))


@number.shape
def number_shape(call: WholeNumber[TensorSpec]) -> Any:
    input = call.input
    check(input.numel() == 1, "a tensor of one element is a number, found {}", input)
    if input.dtype.is_floating_point or input.dtype.is_complex:
        raise NeedsDataError(f"a number of {input.dtype} is taken as a size", remedy="round it to an integer first")
    limits = torch.iinfo(torch.uint8 if input.dtype == torch.bool else input.dtype)
    return DataSize("number that item() gives", limits.min, limits.max, input)


@number.lower
def lower_number(emit: Emitter, call: WholeNumber[Value]) -> Value:
    return call.input


__all__ = ["number", "whole_number"]
