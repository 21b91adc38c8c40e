"""Where numbers belong among sorted ones, and whether they are among others. Each is compared with each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.ops.elementwise import check_operands
from passes.ops.op import Op
from passes.ops.promotion import is_number, promote
from passes.ops.record import Record, T
from passes.sizes.dimension import product
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class Searchsorted(Record[T]):
    sorted_sequence: T
    input: Any
    out_int32: bool = False
    right: bool = False
    side: str | None = None
    sorter: T | None = None


searchsorted = Op("searchsorted", Searchsorted, functions=(torch.searchsorted,))


@searchsorted.function(torch.bucketize)
def bind_bucketize(input: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Mapping[str, Any]:
    return {"sorted_sequence": boundaries, "input": input, "out_int32": out_int32, "right": right}


@searchsorted.shape
def searchsorted_shape(
    call: Searchsorted[TensorSpec]) -> TensorSpec:  # fmt: skip
    """An index for each input. The axes before the last are those of the sorted numbers, unless these are a vector."""
    sorted_sequence, input, sorter = call.sorted_sequence, call.input, call.sorter
    check(call.side in (None, "left", "right"), "side is 'left' or 'right', not {!r}", call.side)
    check(call.side != "left" or not call.right, "side is 'left', but right is True")
    check(sorted_sequence.ndim >= 1, "the sorted numbers need an axis, found {}", sorted_sequence)
    if sorter is not None:
        check(sorter.shape == sorted_sequence.shape, "{} does not put {} in order", sorter, sorted_sequence)
        check(sorter.dtype == torch.int64, "an order is int64, found {}", sorter)
    dtype = torch.int32 if call.out_int32 else torch.int64
    if is_number(input):
        check(sorted_sequence.ndim == 1, "a number is looked for in a vector, found {}", sorted_sequence)
        return sorted_sequence.with_shape().with_dtype(dtype)
    check(
        sorted_sequence.ndim == 1 or sorted_sequence.shape[:-1] == input.shape[:-1],
        "{} cannot be looked for in {}: the axes before the last differ",
        input,
        sorted_sequence,
    )
    check(sorted_sequence.ndim == 1 or input.ndim > 0, "a number is looked for in a vector, found {}", sorted_sequence)
    found: TensorSpec = input.with_dtype(dtype)
    return found


@searchsorted.lower
def lower_searchsorted(
    emit: Emitter, call: Searchsorted[Value]) -> Value:  # fmt: skip
    """How many of the sorted numbers are smaller; on the right side, how many are not larger."""
    sorted_sequence = call.sorted_sequence
    if call.sorter is not None:
        ordered = emit.node("GatherElements", sorted_sequence, call.sorter, axis=-1)
        sorted_sequence = type(sorted_sequence)(ordered.name, sorted_sequence.spec)
    bounds, numbers = promote(emit, sorted_sequence, call.input)
    bounds = emit.unsqueeze(bounds, -2) if bounds.ndim > 1 else bounds
    numbers = emit.unsqueeze(numbers, -1)
    if call.right or call.side == "right":
        before = emit.node("Not", emit.node("Less", numbers, bounds))
    else:
        before = emit.node("Less", bounds, numbers)
    return emit.cast(emit.reduce("ReduceSum", emit.cast(before, torch.int64), [-1], False), emit.result.dtype)


@dataclass(frozen=True, slots=True)
class Isin(Record[T]):
    elements: Any
    test_elements: Any
    assume_unique: bool = False
    invert: bool = False


isin = Op("isin", Isin, functions=(torch.isin,))


@isin.shape
def isin_shape(call: Isin[TensorSpec]) -> TensorSpec:
    elements = call.elements
    check_operands("isin", [elements, call.test_elements])
    for operand in (elements, call.test_elements):
        check(getattr(operand, "dtype", None) != torch.bool, "isin takes no bool tensors, found {}", operand)
    if isinstance(elements, TensorSpec):
        return elements.with_dtype(torch.bool)
    return TensorSpec((), torch.bool, call.test_elements.device)


@isin.lower
def lower_isin(emit: Emitter, call: Isin[Value]) -> Value:
    numbers, others = promote(emit, call.elements, call.test_elements)
    row = emit.reshape(others, [product(others.shape)])
    equal = emit.node("Equal", emit.unsqueeze(numbers, -1), row)
    count = emit.reduce("ReduceSum", emit.cast(equal, torch.int64), [-1], False)
    found = emit.cast(count, torch.bool)
    return emit.node("Not", found) if call.invert else found
