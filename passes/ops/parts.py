"""Parts of a tensor that follow from its shape alone: a stretch of an axis, windows, triangles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from passes.dimension import Size
from passes.errors import check
from passes.ops.assignment import chosen, counted
from passes.ops.axes import axis_of, moved
from passes.ops.indexing import along, getitem_shape, lower_getitem
from passes.ops.layout import same_size, transposed
from passes.ops.op import Op
from passes.ops.repetition import FAR
from passes.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx_emitter import Emitter, Value

# A part of an axis ----------------------------------------------------------------------------------

select = Op("select", functions=(torch.select,), methods=("select",), view=True)


@select.shape
def select_shape(input: TensorSpec, dim: int, index: Size | TensorSpec) -> TensorSpec:
    return getitem_shape(input, along(input.ndim, dim, index))


@select.lower
def lower_select(emit: Emitter, input: Value, dim: int, index: Any) -> Value:
    return lower_getitem(emit, input, along(input.ndim, dim, index))


narrow = Op("narrow", functions=(torch.narrow,), methods=("narrow",), view=True)


@narrow.shape
def narrow_shape(input: TensorSpec, dim: int, start: Size, length: Size) -> TensorSpec:
    check(input.ndim >= 1, "a 0-d tensor cannot be narrowed")
    axis = axis_of(dim, input.ndim)
    size = input.shape[axis]
    check(-size <= start and start <= size, "start {} is out of range for axis {} of size {}", start, axis, size)
    check(length >= 0, "a part cannot have the length {}", length)
    first = start + size if start < 0 else start
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
def lower_narrow(emit: Emitter, input: Value, dim: int, start: Size, length: Size) -> Value:
    axis = axis_of(dim, input.ndim)
    backwards = isinstance(start, int) and start < 0
    end = FAR if backwards and same_size(start + length, 0) else start + length
    return emit.slice(input, axis, start, end)


def strided(input: torch.Tensor, size: Sequence[int], stride: Sequence[int], offset: int) -> torch.Tensor:
    """`torch.as_strided` of a vector whose elements lie one behind the other."""
    return torch.as_strided(input.contiguous(), size, stride, offset)


in_strides = Op("strided", functions=(strided,), view=True)


@in_strides.shape
def strided_shape(input: TensorSpec, size: Sequence[int], stride: Sequence[int], offset: int) -> TensorSpec:
    return input.with_shape(*size)


@in_strides.lower
def lower_strided(emit: Emitter, input: Value, size: Sequence[int], stride: Sequence[int], offset: int) -> Value:
    (length,) = input.shape
    assert isinstance(length, int)
    positions = torch.arange(length).as_strided(tuple(size), tuple(stride), offset)
    return emit.node("Gather", input, emit.constant(positions.contiguous()), axis=0)


unfold = Op("unfold_axis", methods=("unfold",), view=True)


@unfold.shape
def unfold_shape(input: TensorSpec, dimension: int, size: int, step: int) -> TensorSpec:
    axis = axis_of(dimension, input.ndim)
    length = input.shape[axis] if input.ndim else 1
    check(step > 0, "windows must move by at least 1, found {}", step)
    check(size >= 0, "a window cannot have the size {}", size)
    check(size <= length, "a window of {} does not fit axis {} of size {}", size, axis, length)
    if not input.ndim:
        return input.with_shape(size)
    return input.with_shape(*input.shape[:axis], (length - size) // step + 1, *input.shape[axis + 1 :], size)


@unfold.lower
def lower_unfold(emit: Emitter, input: Value, dimension: int, size: int, step: int) -> Value:
    """Each window's positions gathered along the axis; the axis within the window then goes last."""
    if not input.ndim:
        return emit.reshape(input, [1]) if size else emit.slice(emit.reshape(input, [1]), 0, 0, 0)
    axis = axis_of(dimension, input.ndim)
    count = emit.result.shape[axis]
    starts = emit.unsqueeze(counted(emit, 0, count, step), 1)
    within = emit.constant(torch.arange(size))
    fixed = isinstance(count, int)
    positions = (
        emit.constant(torch.arange(0, count * step, step)[:, None] + torch.arange(size))
        if fixed
        else emit.node("Add", starts, within)
    )
    windows = emit.node("Gather", input, positions, axis=axis)
    return transposed(emit, windows, moved(input.ndim + 1, [axis + 1], [input.ndim]))


# Triangles ------------------------------------------------------------------------------------------

TRIANGLES = {torch.uint8: torch.int32, torch.int8: torch.int32, torch.int16: torch.int32}


def _triangle(name: str, upper: bool) -> None:
    op = Op(name, functions=(getattr(torch, name),), methods=(name,))

    @op.shape
    def shape(input: TensorSpec, diagonal: int = 0) -> TensorSpec:
        check(input.ndim >= 2, "{} takes a tensor of 2 axes or more, found {}", name, input.ndim)
        return input

    @op.lower
    def lower(emit: Emitter, input: Value, diagonal: Any = 0) -> Value:
        """Trilu since opset 14; before, a choice by column minus row."""
        offset = replace(emit.operand(diagonal, torch.int64), spec=TensorSpec((), torch.int64))
        if emit.opset >= 14:
            # onnxruntime has no Trilu for the narrow integers.
            wide = emit.cast(input, TRIANGLES.get(input.dtype, input.dtype))
            result = emit.node("Trilu", wide, None if same_size(diagonal, 0) else offset, upper=int(upper))
            return emit.cast(replace(result, spec=wide.spec), input.dtype)
        rows, columns = (counted(emit, 0, size) for size in input.shape[-2:])
        difference = emit.node("Sub", columns, emit.unsqueeze(rows, 1))
        outside = emit.node("Less" if upper else "Greater", difference, offset)
        return chosen(emit, outside, emit.scalar(0, input), input)


_triangle("tril", upper=False)
_triangle("triu", upper=True)
