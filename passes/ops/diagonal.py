"""Diagonals: taken out of a tensor, and laid into one of zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.ops.assignment import chosen, counted
from passes.ops.axes import axis_of, moved
from passes.ops.layout import transposed
from passes.ops.op import Op
from passes.ops.pad import Pad, lower_pad
from passes.ops.record import Record, T
from passes.ops.reduction import sum_dtype
from passes.sizes.dimension import Size, is_of_data, maximum, minimum, product, same_size
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


# Taken out ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Diagonal(Record[T]):
    input: T
    offset: int = 0
    dim1: int = 0
    dim2: int = 1


diagonal = Op("diagonal", Diagonal, functions=(torch.diagonal,), methods=("diagonal",), view=True)


@diagonal.function(torch.linalg.diagonal)
def bind_linalg_diagonal(A: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Mapping[str, Any]:  # noqa: N803
    return {"input": A, "offset": offset, "dim1": dim1, "dim2": dim2}


@diagonal.shape
def diagonal_shape(call: Diagonal[TensorSpec]) -> TensorSpec:
    input = call.input
    first, second = axis_of(call.dim1, input.ndim), axis_of(call.dim2, input.ndim)
    check(first != second, "a diagonal runs through two axes, found {} twice", call.dim1)
    rest = [size for axis, size in enumerate(input.shape) if axis not in (first, second)]
    return input.with_shape(*rest, _length(input.shape[first], input.shape[second], call.offset))


def _length(rows: Size, columns: Size, offset: int) -> Size:
    rows, columns = (rows, columns - offset) if offset >= 0 else (rows + offset, columns)
    if is_of_data(rows) or is_of_data(columns):
        return maximum(minimum(rows, columns), 0)
    length = rows if rows <= columns else columns
    return length if length > 0 else 0


@diagonal.lower
def lower_diagonal(emit: Emitter, call: Diagonal[Value]) -> Value:
    return _taken(
        emit, call.input, call.offset, axis_of(call.dim1, call.input.ndim), axis_of(call.dim2, call.input.ndim)
    )


def _taken(emit: Emitter, input: Value, offset: int, first: int, second: int) -> Value:
    """With its two axes last and taken together, a diagonal is every (columns + 1)-th element."""
    length = _length(input.shape[first], input.shape[second], offset)
    last = input.ndim - 2
    moved_last = transposed(emit, input, moved(input.ndim, [first, second], [last, last + 1]))
    columns = moved_last.shape[-1]
    start = offset if offset >= 0 else -offset * columns
    flat = emit.reshape(moved_last, [*moved_last.shape[:-2], moved_last.shape[-2] * columns])
    step = columns + 1
    if same_size(length, 0):
        return emit.slice(flat, last, 0, 0)
    bounds = [emit.sizes([start]), emit.sizes([start + (length - 1) * step + 1]), emit.ints(last), emit.sizes([step])]
    return emit.node("Slice", flat, *bounds)


@dataclass(frozen=True, slots=True)
class Trace(Record[T]):
    input: T


trace = Op("trace", Trace, functions=(torch.trace,), methods=("trace",))


@trace.shape
def trace_shape(call: Trace[TensorSpec]) -> TensorSpec:
    input = call.input
    check(input.ndim == 2, "a trace is a matrix's, found {}", input)
    return input.with_shape().with_dtype(sum_dtype(input, None))


@trace.lower
def lower_trace(emit: Emitter, call: Trace[Value]) -> Value:
    elements = replace(_taken(emit, call.input, 0, 0, 1), spec=call.input.spec)
    return emit.reduce("ReduceSum", emit.cast(elements, emit.result.dtype), [0], False)


# Laid into zeros ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiagEmbed(Record[T]):
    input: T
    offset: int = 0
    dim1: int = -2
    dim2: int = -1


diag_embed = Op("diag_embed", DiagEmbed, functions=(torch.diag_embed,), methods=("diag_embed",))


@diag_embed.shape
def diag_embed_shape(call: DiagEmbed[TensorSpec]) -> TensorSpec:
    """The last axis becomes the diagonal of a square through the axes `dim1` and `dim2` of the result."""
    input = call.input
    check(input.ndim >= 1, "a 0-d tensor has no elements to lay along a diagonal")
    first, second = axis_of(call.dim1, input.ndim + 1), axis_of(call.dim2, input.ndim + 1)
    check(first != second, "a diagonal runs through two axes, found {} twice", call.dim1)
    size = input.shape[-1] + abs(call.offset)
    rest = iter(input.shape[:-1])
    return input.with_shape(*(size if axis in (first, second) else next(rest) for axis in range(input.ndim + 1)))


@diag_embed.lower
def lower_diag_embed(emit: Emitter, call: DiagEmbed[Value]) -> Value:
    input = call.input
    square = _laid(emit, input, call.offset)
    last = input.ndim - 1
    axes = [axis_of(call.dim1, input.ndim + 1), axis_of(call.dim2, input.ndim + 1)]
    return transposed(emit, square, moved(input.ndim + 1, [last, last + 1], axes))


def _laid(emit: Emitter, input: Value, offset: int) -> Value:
    """The square through two new last axes. Above the main diagonal, element i lies in row i, below it in column i."""
    size = input.shape[-1] + abs(offset)
    places = counted(emit, 0, size)
    rows, columns = emit.unsqueeze(places, 1), places
    on_diagonal = emit.node("Equal", emit.node("Sub", columns, rows), emit.scalar(offset, torch.int64))
    padded = replace(lower_pad(emit, Pad(input, (0, abs(offset)))), spec=input.spec)
    spread = emit.unsqueeze(padded, input.ndim if offset >= 0 else input.ndim - 1)
    shape = (*input.shape[:-1], size, size)
    return replace(chosen(emit, on_diagonal, spread, emit.scalar(0, input)), spec=TensorSpec(shape, input.dtype))


@dataclass(frozen=True, slots=True)
class Diag(Record[T]):
    input: T
    diagonal: int = 0


diag = Op("diag", Diag, functions=(torch.diag,), methods=("diag",))


@diag.shape
def diag_shape(call: Diag[TensorSpec]) -> TensorSpec:
    """Of a matrix its diagonal; of a vector the matrix whose diagonal it is."""
    input = call.input
    check(input.ndim in (1, 2), "diag takes a vector or a matrix, found {}", input)
    return (
        diag_embed_shape(DiagEmbed(input, call.diagonal))
        if input.ndim == 1
        else diagonal_shape(Diagonal(input, call.diagonal))
    )


@diag.lower
def lower_diag(emit: Emitter, call: Diag[Value]) -> Value:
    return (
        _laid(emit, call.input, call.diagonal)
        if call.input.ndim == 1
        else _taken(emit, call.input, call.diagonal, 0, 1)
    )


@dataclass(frozen=True, slots=True)
class Diagflat(Record[T]):
    input: T
    offset: int = 0


diagflat = Op("diagflat", Diagflat, functions=(torch.diagflat,), methods=("diagflat",))


@diagflat.shape
def diagflat_shape(call: Diagflat[TensorSpec]) -> TensorSpec:
    return diag_embed_shape(DiagEmbed(call.input.with_shape(call.input.numel()), call.offset))


@diagflat.lower
def lower_diagflat(emit: Emitter, call: Diagflat[Value]) -> Value:
    return _laid(emit, emit.reshape(call.input, [product(call.input.shape)]), call.offset)
