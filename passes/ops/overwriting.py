"""A whole tensor, or its diagonal, written over: `copy_`, `fill_`, `zero_`, `fill_diagonal_`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.ops.assignment import chosen, counted
from passes.ops.creation import filled
from passes.ops.op import Op
from passes.ops.promotion import as_value, broadcast_shapes, is_number
from passes.ops.record import Record, T
from passes.ops.repetition import expanded
from passes.sizes.dimension import Dim, product
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class Copy(Record[T]):
    input: T
    src: Any
    non_blocking: bool = False


copy = Op("copy", Copy, methods=("copy_",))


@copy.shape
def copy_shape(call: Copy[TensorSpec]) -> TensorSpec:
    """The source in the tensor's shape and dtype."""
    input, src = call.input, call.src
    if isinstance(src, TensorSpec):
        fits = broadcast_shapes(input.shape, src.shape) == input.shape
        check(fits, "{} cannot be copied into {}", src, input)
    else:
        check(is_number(src), "only a tensor or a number can be copied into a tensor, found {}", src)
    return input


@copy.lower
def lower_copy(emit: Emitter, call: Copy[Value]) -> Value:
    return expanded(emit, as_value(emit, call.src, call.input.dtype), call.input.shape)


@dataclass(frozen=True, slots=True)
class Fill(Record[T]):
    input: T
    value: Any


fill = Op("fill", Fill, functions=(torch.fill, torch.fill_), methods=("fill_",))


@fill.function(torch.zero_)
@fill.method("zero_")
def bind_zero(input: Any) -> Mapping[str, Any]:
    return {"input": input, "value": 0}


def _check_value(value: Any) -> None:
    if isinstance(value, TensorSpec):
        check(value.ndim == 0, "a tensor is filled with a number or a 0-d tensor, found {}", value)
    else:
        check(is_number(value), "a tensor is filled with a number or a 0-d tensor, found {}", value)


@fill.shape
def fill_shape(call: Fill[TensorSpec]) -> TensorSpec:
    _check_value(call.value)
    return call.input


@fill.lower
def lower_fill(emit: Emitter, call: Fill[Value]) -> Value:
    return filled(emit, call.value)


@dataclass(frozen=True, slots=True)
class FillDiagonal(Record[T]):
    input: T
    fill_value: Any
    wrap: bool = False


fill_diagonal = Op("fill_diagonal", FillDiagonal, methods=("fill_diagonal_",))


@fill_diagonal.shape
def fill_diagonal_shape(call: FillDiagonal[TensorSpec]) -> TensorSpec:
    input = call.input
    check(input.ndim >= 2, "a diagonal runs through 2 axes or more, found {}", input)
    check(
        input.ndim == 2 or all(size == input.shape[0] for size in input.shape),
        "a diagonal through more than 2 axes needs them of equal length, found {}",
        input,
    )
    return input


@fill_diagonal.lower
def lower_fill_diagonal(emit: Emitter, call: FillDiagonal[Value]) -> Value:
    """Every `s`-th element, `s` being one step along each axis.

    A matrix taller than it is wide starts anew below its diagonal with `wrap`; without, it keeps to its first square.
    """
    input = call.input
    step = sum((product(input.shape[axis + 1 :]) for axis in range(input.ndim)), start=0)
    rows, width = input.shape[0], input.shape[-1]
    numbers = counted(emit, 0, product(input.shape))
    on_diagonal = emit.node("Equal", emit.node("Mod", numbers, emit.operand(step, torch.int64)), emit.ints(0))
    if not call.wrap and input.ndim == 2 and (isinstance(rows, Dim) or isinstance(width, Dim) or rows > width):
        within = emit.node("Less", numbers, emit.operand(width * width, torch.int64))
        on_diagonal = emit.node("And", on_diagonal, within)
    return chosen(emit, emit.reshape(on_diagonal, input.shape), as_value(emit, call.fill_value, input.dtype), input)
