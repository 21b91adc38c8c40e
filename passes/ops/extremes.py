"""Extremes and where they are: max, min, amax, argmax, aminmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from passes.errors import check
from passes.ops.axes import axis_of
from passes.ops.comparison import lower_maximum, lower_minimum
from passes.ops.elementwise import NEVER, Native
from passes.ops.op import PARAMETER_SYNONYMS, Op
from passes.ops.promotion import broadcast, promote, result_dtype
from passes.ops.record import Record, T
from passes.ops.reduction import EXTREMES, Dims, check_not_empty, reduce, reduced
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


POSITIONS = Native(small_integers=NEVER, boolean=NEVER)


def lower_extreme(emit: Emitter, op_type: str, input: Value, dim: Dims, keepdim: bool) -> Value:
    working = EXTREMES.dtype(input.dtype, emit.opset)
    extreme = reduce(emit, op_type, input, emit.cast(input, working), dim, keepdim)
    return extreme if working == input.dtype else emit.cast(extreme, input.dtype)


def position_along(
    emit: Emitter, op_type: str, input: Value, axis: int, keepdim: bool = False, last: bool = False
) -> Value:
    """ArgMax or ArgMin: of equal elements the first, or the `last`; of those that are not numbers, if there are any."""
    value = emit.cast(input, POSITIONS.dtype(input.dtype, emit.opset))
    options = {"axis": axis, "keepdims": int(keepdim), "select_last_index": 1 if last else None}
    position = emit.node(op_type, value, **options)
    if not input.dtype.is_floating_point:
        return position
    unordered = emit.node("ArgMax", emit.cast(emit.node("IsNaN", value), torch.int32), **options)
    found = emit.node("IsNaN", emit.reduce("ReduceL1", value, [axis], keepdim))
    return emit.node("Where", found, unordered, position)


def lower_position(emit: Emitter, op_type: str, input: Value, dim: int | None, keepdim: bool) -> Value:
    """Without an axis the position counts over all elements in their order."""
    if dim is not None and input.ndim:
        return position_along(emit, op_type, input, axis_of(dim, input.ndim), keepdim)
    flat = input if input.ndim == 1 else emit.node("Reshape", input, emit.ints(-1))
    position = position_along(emit, op_type, replace(flat, spec=TensorSpec((0,), input.dtype)), 0)
    return emit.node("Reshape", position, emit.ints(*[1] * input.ndim)) if keepdim and input.ndim else position


@dataclass(frozen=True, slots=True)
class Extreme(Record[T]):
    input: T
    dim: Dims = ()
    keepdim: bool = False


@dataclass(frozen=True, slots=True)
class Position(Record[T]):
    input: T
    dim: int | None = None
    keepdim: bool = False


def _reduced_extremes(name: str) -> None:
    op_type = f"Reduce{name.capitalize()}"

    extreme = Op(f"a{name}", Extreme, functions=(getattr(torch, f"a{name}"),), methods=(f"a{name}",))

    @extreme.shape
    def extreme_shape(call: Extreme[TensorSpec]) -> TensorSpec:
        check_not_empty(call.input, call.dim, f"a{name}")
        return reduced(call.input, call.dim, call.keepdim)

    @extreme.lower
    def lower(emit: Emitter, call: Extreme[Value]) -> Value:
        return lower_extreme(emit, op_type, call.input, call.dim, call.keepdim)

    position = Op(f"arg{name}", Position, functions=(getattr(torch, f"arg{name}"),), methods=(f"arg{name}",))

    @position.shape
    def position_shape(call: Position[TensorSpec]) -> TensorSpec:
        dim = call.dim
        check(dim is None or isinstance(dim, int), "arg{} takes one axis, found {}", name, dim)
        check_not_empty(call.input, dim, f"arg{name}")
        return reduced(call.input, dim, call.keepdim, torch.int64)

    @position.lower
    def lower_arg(emit: Emitter, call: Position[Value]) -> Value:
        return lower_position(emit, f"Arg{name.capitalize()}", call.input, call.dim, call.keepdim)


@dataclass(frozen=True, slots=True)
class Extremes(Record[T]):
    input: T
    dim: int | None = None
    keepdim: bool = False
    other: Any = None


def _extremes(name: str, lower_pair: Callable[..., Value]) -> None:
    """`max(x)`, `max(x, dim, keepdim)` with the positions beside the values, and `max(x, other)`."""
    op = Op(name, Extremes)
    reduction, position = f"Reduce{name.capitalize()}", f"Arg{name.capitalize()}"

    @op.function(getattr(torch, name))
    @op.method(name)
    def bind(input: Any, dim: Any = None, keepdim: bool = False, other: Any = None, **synonyms: Any) -> dict[str, Any]:
        if isinstance(dim, fx.Node):
            dim, other = None, dim
        named = {PARAMETER_SYNONYMS.get(key, key): value for key, value in synonyms.items()}
        return {"input": input, "dim": dim, "keepdim": keepdim, "other": other, **named}

    @op.shape
    def shape(call: Extremes[TensorSpec]) -> Any:
        dim = call.dim
        if call.other is not None:
            return broadcast(call.input, call.other)
        check(dim is None or isinstance(dim, int), "{} takes one axis, found {}; use a{} for several", name, dim, name)
        check_not_empty(call.input, dim, name)
        values = reduced(call.input, dim, call.keepdim)
        return values if dim is None else (values, values.with_dtype(torch.int64))

    @op.lower
    def lower(emit: Emitter, call: Extremes[Value]) -> Any:
        input = call.input
        if call.other is not None:
            working = Native(small_integers=NEVER).dtype(result_dtype(input, call.other), emit.opset)
            extreme = lower_pair(emit, *promote(emit, input, call.other, dtype=working))
            return extreme if working == emit.result.dtype else emit.cast(extreme, emit.result.dtype)
        values = lower_extreme(emit, reduction, input, call.dim, call.keepdim)
        return values if call.dim is None else (values, lower_position(emit, position, input, call.dim, call.keepdim))


for _name, _pair in {"max": lower_maximum, "min": lower_minimum}.items():
    _reduced_extremes(_name)
    _extremes(_name, _pair)


@dataclass(frozen=True, slots=True)
class Aminmax(Record[T]):
    input: T
    dim: int | None = None
    keepdim: bool = False


aminmax = Op("aminmax", Aminmax, functions=(torch.aminmax,), methods=("aminmax",))


@aminmax.shape
def aminmax_shape(call: Aminmax[TensorSpec]) -> tuple[TensorSpec, TensorSpec]:
    check_not_empty(call.input, call.dim, "aminmax")
    found = reduced(call.input, call.dim, call.keepdim)
    return found, found


@aminmax.lower
def lower_aminmax(emit: Emitter, call: Aminmax[Value]) -> tuple[Value, Value]:
    low, high = (
        lower_extreme(emit, op_type, call.input, call.dim, call.keepdim) for op_type in ("ReduceMin", "ReduceMax")
    )
    return low, high
