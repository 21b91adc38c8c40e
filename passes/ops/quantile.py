"""Medians and quantiles: what lies at a rank among sorted elements. One that is not a number makes the result none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.ops.axes import axis_of, moved
from passes.ops.layout import transposed
from passes.ops.op import Op
from passes.ops.ordering import top
from passes.ops.promotion import as_value
from passes.ops.record import Record, T
from passes.ops.reduction import check_not_empty, reduced
from passes.sizes.dimension import Size, maximum, may_be_zero, product, same_size
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _in_a_row(emit: Emitter, input: Value, dim: int | None) -> tuple[Value, int]:
    """The tensor and the axis to sort along; for None, all elements along one."""
    if dim is None or not input.ndim:
        return emit.reshape(input, [product(input.shape)]), 0
    return input, axis_of(dim, input.ndim)


def _not_a_number_if_any(emit: Emitter, result: Value, input: Value, axis: int) -> Value:
    """The result, which has the axis, but nan where the input holds one along it."""
    if not input.dtype.is_floating_point:
        return result
    found = emit.cast(emit.node("IsNaN", input), torch.int32)
    broken = emit.cast(emit.reduce("ReduceMax", found, [axis], True), torch.bool)
    return emit.node("Where", broken, as_value(emit, torch.nan, input.dtype), result)


# Medians --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Median(Record[T]):
    input: T
    dim: int | None = None
    keepdim: bool = False


median = Op("median", Median, functions=(torch.median,), methods=("median",))


@median.shape
def median_shape(call: Median[TensorSpec]) -> Any:
    """Of an even number of elements, the lower of the two in the middle; along an axis, with its position."""
    input = call.input
    if call.dim is None:
        return input.with_shape()
    check_not_empty(input, call.dim, "median")
    values = reduced(input, axis_of(call.dim, input.ndim), call.keepdim)
    return values, values.with_dtype(torch.int64)


@median.lower
def lower_median(emit: Emitter, call: Median[Value]) -> Any:
    """The last of the smaller half."""
    row, axis = _in_a_row(emit, call.input, call.dim)
    size = row.shape[axis]
    if same_size(size, 0):
        return emit.constant(_of_nothing(row.dtype))
    if call.dim is None and may_be_zero(size):
        return _median_if_any(emit, row)
    values, positions = top(emit, row, (size + 1) // 2, axis, largest=False)
    last = emit.ints(-1)
    middle = _not_a_number_if_any(emit, emit.node("Gather", values, last, axis=axis), row, axis)
    if call.dim is None:
        return emit.squeeze(middle, 0)
    place = emit.node("Gather", positions, last, axis=axis)
    if row.dtype.is_floating_point:
        unordered = emit.cast(emit.node("IsNaN", row), torch.int32)
        found = emit.node("IsNaN", middle)
        place = emit.node("Where", found, emit.node("ArgMax", unordered, axis=axis, keepdims=1), place)
    if call.keepdim and call.input.ndim:
        return middle, place
    return emit.squeeze(middle, axis), emit.squeeze(place, axis)


def _of_nothing(dtype: torch.dtype) -> torch.Tensor:
    """What torch says the median of no element is."""
    return torch.tensor(torch.nan if dtype.is_floating_point else torch.iinfo(dtype).min, dtype=dtype)


def _median_if_any(emit: Emitter, row: Value) -> Value:
    """The median of a row that may be empty. Behind it stands one element more, which is never among the lower half."""
    (size,) = row.shape
    largest = torch.inf if row.dtype.is_floating_point else torch.iinfo(row.dtype).max
    longer = emit.node("Concat", row, emit.constant([largest], row.dtype), axis=0)
    longer = replace(longer, spec=TensorSpec((size + 1,), row.dtype))
    values, _ = top(emit, longer, maximum((size + 1) // 2, 1), 0, largest=False)
    middle = _not_a_number_if_any(emit, emit.node("Gather", values, emit.ints(-1), axis=0), longer, 0)
    nothing = emit.node("Equal", emit.size(size), emit.ints(0))
    return emit.squeeze(emit.node("Where", nothing, emit.constant(_of_nothing(row.dtype)), middle), 0)


# Quantiles ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quantile(Record[T]):
    input: T
    q: Any
    dim: int | None = None
    keepdim: bool = False
    interpolation: str = "linear"


quantile = Op("quantile", Quantile, functions=(torch.quantile,), methods=("quantile",))


@quantile.shape
def quantile_shape(call: Quantile[TensorSpec]) -> TensorSpec:
    """Several quantiles go along a new first axis."""
    input, q = call.input, call.q
    check(input.dtype in (torch.float32, torch.float64), "quantile takes float32 or float64, found {}", input.dtype)
    check(call.interpolation in INTERPOLATIONS, "{!r} is none of {}", call.interpolation, ", ".join(INTERPOLATIONS))
    check(input.numel() != 0, "there are no quantiles of nothing, found {}", input)
    several: tuple[Size, ...] = ()
    if isinstance(q, TensorSpec):
        check(q.ndim <= 1, "quantiles are given as a number or along 1 axis, found {}", q)
        check(q.dtype == input.dtype, "the quantiles are {}, but the input is {}", q.dtype, input.dtype)
        several = q.shape
    else:
        check(0 <= q <= 1, "a quantile lies between 0 and 1, found {}", q)
    if call.dim is not None:
        axis_of(call.dim, input.ndim)
    found = reduced(input, call.dim, call.keepdim)
    return found.with_shape(*several, *found.shape)


@quantile.lower
def lower_quantile(emit: Emitter, call: Quantile[Value]) -> Value:
    """Of n elements in their order, what lies at q(n - 1), or between the two beside it."""
    input = call.input
    row, axis = _in_a_row(emit, input, call.dim)
    ordered, _ = top(emit, row, None, axis, largest=False)
    quantiles = emit.reshape(as_value(emit, call.q, input.dtype), [product(getattr(call.q, "shape", ()))])
    rank = emit.node("Mul", quantiles, emit.operand(row.shape[axis] - 1, input.dtype))
    rounded = {"lower": "Floor", "higher": "Ceil", "nearest": "Round"}.get(call.interpolation)
    if rounded is not None:
        found = _at(emit, ordered, emit.node(rounded, rank), axis)
    else:
        floor = emit.node("Floor", rank)
        below, above = (_at(emit, ordered, place, axis) for place in (floor, emit.node("Ceil", rank)))
        weight = emit.scalar(0.5, input) if call.interpolation == "midpoint" else emit.node("Sub", rank, floor)
        if call.interpolation == "linear" and row.ndim - axis > 1:
            weight = emit.unsqueeze(weight, *range(1, row.ndim - axis))
        found = emit.node("Add", below, emit.node("Mul", weight, emit.node("Sub", above, below)))
    found = _not_a_number_if_any(emit, found, row, axis)
    shape = [*row.shape]
    shape[axis] = product(getattr(call.q, "shape", ()))
    front = transposed(emit, replace(found, spec=emit.result.with_shape(*shape)), moved(row.ndim, [axis], [0]))
    return emit.reshape(front, emit.result.shape)


def _at(emit: Emitter, ordered: Value, ranks: Value, axis: int) -> Value:
    return emit.node("Gather", ordered, emit.cast(ranks, torch.int64), axis=axis)
