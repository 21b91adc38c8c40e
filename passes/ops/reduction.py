"""Reductions over some axes or all of them: sums, means, spread and truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from passes.errors import ShapeError, check
from passes.ops.axes import axes_of
from passes.ops.elementwise import NEVER, Native
from passes.ops.integer_reduction import exact_product, exact_sum, is_inexact
from passes.ops.matmul import SUMMED_IN
from passes.ops.op import PARAMETER_SYNONYMS, Op
from passes.ops.promotion import as_value, category, float_dtype
from passes.ops.record import Record, T
from passes.sizes.dimension import Size, product
from passes.torch_private import all_true, any_true
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

Dims: TypeAlias = "int | Sequence[int] | None"

# Runtimes reduce bytes, but no 16-bit integers; ONNX reduces bool since opset 20.
EXTREMES = Native(small_integers=NEVER, boolean=20)


# Axes ---------------------------------------------------------------------------------------------


def no_axes(dim: Dims) -> bool:
    return isinstance(dim, (tuple, list)) and not dim


def reduced_axes(input: TensorSpec | Value, dim: Dims) -> tuple[int, ...]:
    """The axes to reduce, counted from the front; None and no axes at all stand for every one."""
    if dim is None or no_axes(dim):
        return tuple(range(input.ndim))
    return axes_of(dim, input.ndim)


def reduced(input: TensorSpec, dim: Dims, keepdim: bool, dtype: torch.dtype | None = None) -> TensorSpec:
    """The input without the reduced axes, or with 1 in their place."""
    if not isinstance(input, TensorSpec):
        raise ShapeError(f"a reduction needs a tensor, found {input}")
    axes = reduced_axes(input, dim)
    kept = [1 if axis in axes else size for axis, size in enumerate(input.shape) if keepdim or axis not in axes]
    return TensorSpec(tuple(kept), dtype or input.dtype, input.device)


def check_not_empty(input: TensorSpec, dim: Dims, what: str) -> None:
    """An extreme of nothing does not exist."""
    for axis in reduced_axes(input, dim):
        if axis < input.ndim:
            size = input.shape[axis]
            check(size != 0, "{} over axis {}, which has no elements", what, axis)


def reduce(emit: Emitter, op_type: str, input: Value, value: Value, dim: Dims, keepdim: bool) -> Value:
    """A Reduce node over the axes of `input` that `dim` names; `value` is computed from it, in its shape.

    Runtimes keep or lose what is not a number by where it stands, and add integers in floating point: where it matters,
    other nodes see to that.
    """
    axes = reduced_axes(input, dim)
    if op_type in ("ReduceMax", "ReduceMin") and input.dtype.is_floating_point:
        plain = emit.reduce(op_type, value, axes if len(axes) < input.ndim else None, keepdim)
        return emit.node("Where", any_nan(emit, input, value, dim, keepdim), emit.scalar(math.nan, input), plain)
    return emit.reduce(op_type, value, axes if len(axes) < input.ndim else None, keepdim)


def any_nan(emit: Emitter, input: Value, value: Value, dim: Dims, keepdim: bool) -> Value:
    """Whether some element along the axes is not a number: the sum of the magnitudes then is none."""
    return emit.node("IsNaN", reduce(emit, "ReduceL1", input, value, dim, keepdim))


def mean_of(
    emit: Emitter, input: Value, value: Value, dim: Dims, keepdim: bool, dtype: torch.dtype | None = None
) -> Value:
    """The mean, in `dtype` where that is not the input's; of no elements it is not a number. Runtimes say 0."""
    count = reduced_size(input, dim)
    mean = reduce(emit, "ReduceMean", input, value, dim, keepdim)
    if isinstance(count, int) and count > 0:
        return mean
    nothing = emit.node("Equal", emit.operand(count, torch.int64), emit.scalar(0, torch.int64))
    return emit.node("Where", nothing, as_value(emit, math.nan, dtype or input.dtype), mean)


def reduced_size(input: TensorSpec | Value, dim: Dims) -> Size:
    """How many elements go into one result."""
    return product(input.shape[axis] for axis in reduced_axes(input, dim) if axis < input.ndim)


# Sums and means -----------------------------------------------------------------------------------


def sum_dtype(input: TensorSpec | Value, dtype: torch.dtype | None) -> torch.dtype:
    return dtype or (torch.int64 if category(input.dtype) < 2 else input.dtype)


def mean_dtype(input: TensorSpec | Value, dtype: torch.dtype | None) -> torch.dtype:
    found = dtype or input.dtype
    check(
        category(found) >= 2,
        "the mean of {} is no {}; convert it first, or give a floating-point dtype",
        input.dtype,
        found,
    )
    return found


def refuse_nothing(input: TensorSpec, dim: Dims) -> None:
    pass


def refuse_several_axes(input: TensorSpec, dim: Dims) -> None:
    check(dim is None or isinstance(dim, int), "prod takes one axis, found {}", dim)


ACCUMULATIONS: tuple[tuple[str, str, Callable[..., torch.dtype], Callable[..., None]], ...] = (
    ("sum", "ReduceSum", sum_dtype, refuse_nothing),
    ("nansum", "ReduceSum", sum_dtype, refuse_nothing),
    ("mean", "ReduceMean", mean_dtype, refuse_nothing),
    ("prod", "ReduceProd", sum_dtype, refuse_several_axes),
)


@dataclass(frozen=True, slots=True)
class Accumulation(Record[T]):
    input: T
    dim: Dims = None
    keepdim: bool = False
    dtype: torch.dtype | None = None


def _accumulation(
    name: str, op_type: str, dtype_of: Callable[..., torch.dtype], refuse: Callable[[TensorSpec, Dims], None]
) -> Op:
    op = Op(name, Accumulation, functions=(getattr(torch, name),), methods=(name,))

    @op.shape
    def shape(call: Accumulation[TensorSpec]) -> TensorSpec:
        refuse(call.input, call.dim)
        return reduced(call.input, call.dim, call.keepdim, dtype_of(call.input, call.dtype))

    @op.lower
    def lower(emit: Emitter, call: Accumulation[Value]) -> Value:
        input, dim, dtype = call.input, call.dim, call.dtype
        value = input
        if name == "nansum" and input.dtype.is_floating_point:
            numbers = emit.node("Where", emit.node("IsNaN", input), emit.scalar(0, input), input)
            value = type(input)(numbers.name, input.spec)
        dtype = emit.result.dtype
        if op_type == "ReduceMean":
            return mean_of(emit, input, emit.cast(value, dtype), dim, call.keepdim, dtype)
        working = SUMMED_IN.get(dtype, dtype)
        value = emit.cast(emit.cast(value, dtype), working)
        if is_inexact(op_type, input.dtype, dtype, reduced_size(input, dim)):
            exact = exact_sum if op_type == "ReduceSum" else exact_product
            result = exact(emit, value, reduced_axes(input, dim), call.keepdim)
        else:
            result = reduce(emit, op_type, input, value, dim, call.keepdim)
        return result if working == dtype else emit.cast(result, dtype)

    return op


for _accumulated in ACCUMULATIONS:
    _accumulation(*_accumulated)


nanmean = Op("nanmean", Accumulation, functions=(torch.nanmean,), methods=("nanmean",))


@nanmean.shape
def nanmean_shape(call: Accumulation[TensorSpec]) -> TensorSpec:
    input = call.input
    check(category(input.dtype) >= 2, "nanmean needs a floating-point input, found {}", input)
    return reduced(input, call.dim, call.keepdim, mean_dtype(input, call.dtype))


@nanmean.lower
def lower_nanmean(emit: Emitter, call: Accumulation[Value]) -> Value:
    """The sum of what is a number, over how many there are."""
    value = emit.cast(call.input, emit.result.dtype)
    numbers = emit.node("Not", emit.node("IsNaN", value))
    kept = emit.node("Where", numbers, value, emit.scalar(0, emit.result.dtype))
    count = reduce(emit, "ReduceSum", call.input, emit.cast(numbers, emit.result.dtype), call.dim, call.keepdim)
    return emit.node("Div", reduce(emit, "ReduceSum", call.input, kept, call.dim, call.keepdim), count)


@dataclass(frozen=True, slots=True)
class Logsumexp(Record[T]):
    input: T
    dim: Dims
    keepdim: bool = False


logsumexp = Op("logsumexp", Logsumexp, functions=(torch.logsumexp, torch.special.logsumexp), methods=("logsumexp",))


@logsumexp.shape
def logsumexp_shape(call: Logsumexp[TensorSpec]) -> TensorSpec:
    return reduced(call.input, call.dim, call.keepdim, float_dtype(call.input.dtype))


@logsumexp.lower
def lower_logsumexp(emit: Emitter, call: Logsumexp[Value]) -> Value:
    value = emit.cast(call.input, emit.result.dtype)
    return reduce(emit, "ReduceLogSumExp", call.input, value, call.dim, call.keepdim)


@dataclass(frozen=True, slots=True)
class CountNonzero(Record[T]):
    input: T
    dim: Dims = None


count_nonzero = Op("count_nonzero", CountNonzero, functions=(torch.count_nonzero,), methods=("count_nonzero",))


@count_nonzero.shape
def count_nonzero_shape(call: CountNonzero[TensorSpec]) -> TensorSpec:
    return reduced(call.input, call.dim, False, torch.int64)


@count_nonzero.lower
def lower_count_nonzero(emit: Emitter, call: CountNonzero[Value]) -> Value:
    counted = emit.cast(emit.cast(call.input, torch.bool), torch.int64)
    return reduce(emit, "ReduceSum", call.input, counted, call.dim, False)


# Spread -------------------------------------------------------------------------------------------


def bind_spread(
    input: Any,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
    **synonyms: Any,
) -> Mapping[str, Any]:
    """`var(dim, unbiased, keepdim)`, `var(unbiased)` and `var(dim, correction=…, keepdim=…)`."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    named = {PARAMETER_SYNONYMS.get(name, name): value for name, value in synonyms.items()}
    if correction is None:
        correction = int(unbiased is not False)
    return {"input": input, "dim": dim, "keepdim": keepdim, "correction": correction, **named}


@dataclass(frozen=True, slots=True)
class Spread(Record[T]):
    input: T
    dim: Dims = None
    keepdim: bool = False
    correction: float = 1


def _spread(name: str, root: bool, with_mean: bool) -> Op:
    op = Op(name, Spread)
    op.function(getattr(torch, name))(bind_spread)
    if hasattr(torch.Tensor, name):
        op.method(name)(bind_spread)

    @op.shape
    def shape(call: Spread[TensorSpec]) -> Any:
        check(category(call.input.dtype) >= 2, "{} needs a floating-point input, found {}", name, call.input)
        found = reduced(call.input, call.dim, call.keepdim)
        return (found, found) if with_mean else found

    @op.lower
    def lower(emit: Emitter, call: Spread[Value]) -> Any:
        """The sum of squared differences from the mean, over the number of elements less the correction."""
        input, dim = call.input, call.dim
        centre = reduce(emit, "ReduceMean", input, input, dim, True)
        difference = emit.node("Sub", input, centre)
        count = reduced_size(input, dim)
        if call.correction == 0:
            total = spread = mean_of(emit, input, emit.node("Mul", difference, difference), dim, call.keepdim)
        else:
            total = reduce(emit, "ReduceSumSquare", input, difference, dim, call.keepdim)
            spread = emit.node("Div", total, _freedom(emit, count, call.correction, input.dtype))
        if root:
            spread = emit.node("Sqrt", spread)
        if not with_mean:
            return spread
        mean = mean_of(emit, input, input, dim, call.keepdim)
        # torch goes from element to element, so that after an infinite one the mean is no number.
        return spread, emit.node("Where", emit.node("IsNaN", total), emit.scalar(math.nan, input), mean)

    return op


def _freedom(emit: Emitter, count: Size, correction: float, dtype: torch.dtype) -> Value:
    """`count - correction`, never negative."""
    if isinstance(count, int):
        return as_value(emit, float(max(count - correction, 0)), dtype)
    less = emit.node("Sub", as_value(emit, count, dtype), as_value(emit, float(correction), dtype))
    return emit.node("Max", less, emit.scalar(0, dtype))


for _name in ("var", "std"):
    _spread(_name, root=_name == "std", with_mean=False)
    _spread(f"{_name}_mean", root=_name == "std", with_mean=True)


# Truth --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Truth(Record[T]):
    input: T
    dim: Dims = None
    keepdim: bool = False


def _truth(name: str, op_type: str, in_checks: Callable[..., Any]) -> None:
    """`all` or `any`, and what torch's checks ask for in its place."""
    op = Op(name, Truth, functions=(getattr(torch, name), in_checks), methods=(name, in_checks.__name__))

    @op.shape
    def shape(call: Truth[TensorSpec]) -> TensorSpec:
        """bool, but for bytes, which once stood for bool. An empty list of axes reduces nothing here."""
        found = call.input if no_axes(call.dim) else reduced(call.input, call.dim, call.keepdim)
        return found.with_dtype(torch.uint8 if call.input.dtype == torch.uint8 else torch.bool)

    @op.lower
    def lower(emit: Emitter, call: Truth[Value]) -> Value:
        truth = emit.cast(call.input, torch.bool)
        if no_axes(call.dim):
            return emit.cast(truth, emit.result.dtype)
        # Of no elements, runtimes reduce numbers but not bool.
        count = reduced_size(call.input, call.dim)
        some = isinstance(count, int) and count > 0
        working = EXTREMES.dtype(torch.bool, emit.opset) if some else torch.uint8
        truth = emit.cast(truth, working)
        found = reduce(emit, op_type, truth, truth, call.dim, call.keepdim)
        if not some:
            found, working = emit.cast(found, torch.bool), torch.bool
        return found if working == emit.result.dtype else emit.cast(found, emit.result.dtype)


_truth("all", "ReduceMin", all_true)
_truth("any", "ReduceMax", any_true)


__all__ = ["reduce", "reduced", "reduced_axes"]
