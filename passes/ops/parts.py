"""Parts of a tensor that follow from its shape alone: a stretch of an axis, windows, triangles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from passes.errors import check
from passes.ops.assignment import chosen, counted
from passes.ops.axes import axis_of, moved
from passes.ops.indexing import Getitem, along, getitem_shape, lower_getitem
from passes.ops.layout import transposed
from passes.ops.op import Op
from passes.ops.positions import from_front
from passes.ops.record import Record, T
from passes.ops.repetition import FAR
from passes.sizes.dimension import Size, is_of_data, pinned, same_size
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


# A part of an axis ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Select(Record[T]):
    input: T
    dim: int
    index: Size | T


select = Op("select", Select, functions=(torch.select,), methods=("select",), view=True)


@select.shape
def select_shape(call: Select[TensorSpec]) -> TensorSpec:
    return getitem_shape(Getitem(call.input, along(call.input.ndim, call.dim, call.index)))


@select.lower
def lower_select(emit: Emitter, call: Select[Value]) -> Value:
    return lower_getitem(emit, Getitem(call.input, along(call.input.ndim, call.dim, call.index)))


@dataclass(frozen=True, slots=True)
class Narrow(Record[T]):
    input: T
    dim: int
    start: Size
    length: Size


narrow = Op("narrow", Narrow, functions=(torch.narrow,), methods=("narrow",), view=True)


@narrow.shape
def narrow_shape(call: Narrow[TensorSpec]) -> TensorSpec:
    input, start, length = call.input, call.start, call.length
    check(input.ndim >= 1, "a 0-d tensor cannot be narrowed")
    axis = axis_of(call.dim, input.ndim)
    size = input.shape[axis]
    check(-size <= start and start <= size, "start {} is out of range for axis {} of size {}", start, axis, size)
    check(length >= 0, "a part cannot have the length {}", length)
    first = from_front(start, size)
    check(
        first + length <= size,
        "{} elements from {} do not fit axis {} of size {}",
        length,
        start,
        axis,
        size,
        remedy="let start and length add up to at most {3}",
    )
    return input.with_shape(*input.shape[:axis], length, *input.shape[axis + 1 :])


@narrow.lower
def lower_narrow(emit: Emitter, call: Narrow[Value]) -> Value:
    start = call.start
    axis = axis_of(call.dim, call.input.ndim)
    if is_of_data(start):
        start = from_front(start, call.input.shape[axis])
    backwards = isinstance(start, int) and start < 0
    end = FAR if backwards and same_size(start + call.length, 0) else start + call.length
    return emit.slice(call.input, axis, start, end)


def strided(input: torch.Tensor, size: Sequence[int], stride: Sequence[int], offset: int) -> torch.Tensor:
    """`torch.as_strided` of a vector whose elements lie one behind the other."""
    return torch.as_strided(input.contiguous(), size, stride, offset)


@dataclass(frozen=True, slots=True)
class InStrides(Record[T]):
    input: T
    size: Sequence[int]
    stride: Sequence[int]
    offset: int


in_strides = Op("strided", InStrides, functions=(strided,), view=True)


@in_strides.shape
def strided_shape(call: InStrides[TensorSpec]) -> TensorSpec:
    return call.input.with_shape(*call.size)


@in_strides.lower
def lower_strided(emit: Emitter, call: InStrides[Value]) -> Value:
    (length,) = call.input.shape
    assert isinstance(length, int)
    positions = torch.arange(length).as_strided(tuple(call.size), tuple(call.stride), call.offset)
    return emit.node("Gather", call.input, emit.constant(positions.contiguous()), axis=0)


@dataclass(frozen=True, slots=True)
class Unfold(Record[T]):
    input: T
    dimension: int
    size: Size
    step: int


unfold = Op("unfold_axis", Unfold, methods=("unfold",), view=True)


@unfold.shape
def unfold_shape(call: Unfold[TensorSpec]) -> TensorSpec:
    input, size, step = call.input, call.size, pinned(call.step)
    axis = axis_of(call.dimension, input.ndim)
    length = input.shape[axis] if input.ndim else 1
    check(step > 0, "windows must move by at least 1, found {}", step)
    check(size >= 0, "a window cannot have the size {}", size)
    check(size <= length, "a window of {} does not fit axis {} of size {}", size, axis, length)
    if not input.ndim:
        return input.with_shape(size)
    return input.with_shape(*input.shape[:axis], (length - size) // step + 1, *input.shape[axis + 1 :], size)


@unfold.lower
def lower_unfold(emit: Emitter, call: Unfold[Value]) -> Value:
    """Each window's positions gathered along the axis; the axis within the window then goes last."""
    input = call.input
    if not input.ndim:
        return emit.reshape(input, [1]) if call.size else emit.slice(emit.reshape(input, [1]), 0, 0, 0)
    axis = axis_of(call.dimension, input.ndim)
    count = emit.result.shape[axis]
    if isinstance(count, int) and isinstance(call.size, int):
        starting = torch.arange(0, count * call.step, call.step)
        positions = emit.constant(starting[:, None] + torch.arange(call.size))
    else:
        starts = emit.unsqueeze(counted(emit, 0, count, call.step), 1)
        positions = emit.node("Add", starts, counted(emit, 0, call.size))
    windows = emit.node("Gather", input, positions, axis=axis)
    return transposed(emit, windows, moved(input.ndim + 1, [axis + 1], [input.ndim]))


# Triangles ------------------------------------------------------------------------------------------

TRIANGLES = {torch.uint8: torch.int32, torch.int8: torch.int32, torch.int16: torch.int32}


@dataclass(frozen=True, slots=True)
class Triangle(Record[T]):
    input: T
    diagonal: int = 0


def _triangle(name: str, upper: bool) -> None:
    op = Op(name, Triangle, functions=(getattr(torch, name),), methods=(name,))

    @op.shape
    def shape(call: Triangle[TensorSpec]) -> TensorSpec:
        check(call.input.ndim >= 2, "{} takes a tensor of 2 axes or more, found {}", name, call.input.ndim)
        return call.input

    @op.lower
    def lower(emit: Emitter, call: Triangle[Value]) -> Value:
        """Trilu since opset 14; before, a choice by column minus row."""
        input = call.input
        whole = emit.has("Trilu") and same_size(call.diagonal, 0)
        offset = None if whole else replace(emit.operand(call.diagonal, torch.int64), spec=TensorSpec((), torch.int64))
        if emit.has("Trilu"):
            # onnxruntime has no Trilu for the narrow integers.
            wide = emit.cast(input, TRIANGLES.get(input.dtype, input.dtype))
            result = emit.node("Trilu", wide, offset, upper=int(upper))
            return emit.cast(replace(result, spec=wide.spec), input.dtype)
        rows, columns = (counted(emit, 0, size) for size in input.shape[-2:])
        difference = emit.node("Sub", columns, emit.unsqueeze(rows, 1))
        outside = emit.node("Less" if upper else "Greater", difference, offset)
        return chosen(emit, outside, emit.scalar(0, input), input)


_triangle("tril", upper=False)
_triangle("triu", upper=True)
