"""Tensors joined along an axis, and taken apart again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import NeedsDataError, check
from passes.ops.axes import axis_of
from passes.ops.op import Op
from passes.ops.positions import clamped, distance, may_be_negative
from passes.ops.promotion import result_dtype
from passes.ops.record import Record, T, star
from passes.ops.repetition import FAR, expanded
from passes.sizes.dimension import Dim, Size, is_of_data, pinned, product
from passes.sizes.unknown import DataSize
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

_PIECES = "give pieces that add up to {3}"

# Joining --------------------------------------------------------------------------------------------


def _is_legacy_empty(tensor: TensorSpec | Value) -> bool:
    """A tensor of shape [0], which `cat` skips whatever the others' shape is."""
    return len(tensor.shape) == 1 and not isinstance(tensor.shape[0], Dim) and tensor.shape[0] == 0


def _joined_dtype(tensors: Sequence[TensorSpec]) -> torch.dtype:
    return result_dtype(*(replace(tensor, shape=(1,)) for tensor in tensors))


def joined(tensors: Sequence[TensorSpec], dim: int) -> TensorSpec:
    """The spec of tensors laid one after the other along an axis that each of them has."""
    check(len(tensors) >= 1, "there are no tensors to join")
    check(all(tensor.ndim for tensor in tensors), "a 0-d tensor cannot be joined to others along an axis")
    parts = [tensor for tensor in tensors if not _is_legacy_empty(tensor)]
    if not parts:
        return replace(tensors[0], dtype=_joined_dtype(tensors))
    first = parts[0]
    axis = axis_of(dim, first.ndim)
    length: Size = 0
    for number, part in enumerate(parts):
        check(
            part.ndim == first.ndim,
            "tensors of {} and of {} axes cannot be joined: number 0 is {}, number {} is {}",
            first.ndim, part.ndim, first, number, part,
            remedy="bring them to the same number of axes, with flatten or unsqueeze",
        )  # fmt: skip
        for other in range(first.ndim):
            check(
                other == axis or part.shape[other] == first.shape[other],
                "tensors joined along axis {} must agree elsewhere, but axis {} is {} in number 0, {}, "
                "and {} in number {}, {}",
                axis, other, first.shape[other], shape_text(first.shape),
                part.shape[other], number, shape_text(part.shape),
                remedy="make axis {1} equal in all of them, or join along that axis",
            )  # fmt: skip
        length = length + part.shape[axis]
    return replace(first, shape=(*first.shape[:axis], length, *first.shape[axis + 1 :]), dtype=_joined_dtype(tensors))


def _concatenated(emit: Emitter, tensors: Sequence[Value], axis: int) -> Value:
    """One Concat of the tensors in the result's dtype; a single one is left as it is."""
    cast = [emit.cast(tensor, emit.result.dtype) for tensor in tensors]
    return cast[0] if len(cast) == 1 else emit.node("Concat", *cast, axis=axis)


@dataclass(frozen=True, slots=True)
class Cat(Record[T]):
    tensors: Sequence[T]
    dim: int = 0


cat = Op("cat", Cat, functions=(torch.cat, torch.concat, torch.concatenate))


@cat.shape
def cat_shape(call: Cat[TensorSpec]) -> TensorSpec:
    return joined(call.tensors, call.dim)


@cat.lower
def lower_cat(emit: Emitter, call: Cat[Value]) -> Value:
    parts = [tensor for tensor in call.tensors if not _is_legacy_empty(tensor)]
    return (
        _concatenated(emit, parts, axis_of(call.dim, parts[0].ndim))
        if parts
        else _concatenated(emit, call.tensors[:1], 0)
    )


@dataclass(frozen=True, slots=True)
class Stack(Record[T]):
    tensors: Sequence[T]
    dim: int = 0


stack = Op("stack", Stack, functions=(torch.stack,))


@stack.shape
def stack_shape(call: Stack[TensorSpec]) -> TensorSpec:
    tensors = call.tensors
    check(len(tensors) >= 1, "there are no tensors to stack")
    first = tensors[0]
    for number, tensor in enumerate(tensors):
        check(
            tensor.shape == first.shape,
            "stacked tensors must have one shape: number 0 is {}, number {} is {}",
            shape_text(first.shape),
            number,
            shape_text(tensor.shape),
            remedy="bring them to one shape first, with padding or a slice; torch.cat joins different lengths",
        )
    axis = axis_of(call.dim, first.ndim + 1)
    shape = (*first.shape[:axis], len(tensors), *first.shape[axis:])
    return replace(first, shape=shape, dtype=_joined_dtype(tensors))


@stack.lower
def lower_stack(emit: Emitter, call: Stack[Value]) -> Value:
    axis = axis_of(call.dim, call.tensors[0].ndim + 1)
    return _concatenated(emit, [emit.unsqueeze(tensor, axis) for tensor in call.tensors], axis)


def lifted_shape(shape: tuple[Size, ...], least: int) -> tuple[Size, ...]:
    """The shape with the axes that `atleast_1d`, `atleast_2d` or `atleast_3d` adds."""
    if least == 3 and len(shape) == 2:
        return (*shape, 1)
    if least == 3 and len(shape) == 1:
        return (1, *shape, 1)
    return (1,) * (least - len(shape)) + shape


def lifted(emit: Emitter, value: Value, least: int) -> Value:
    """The value with those axes."""
    if value.ndim >= least:
        return value
    if least == 3 and value.ndim:
        return emit.unsqueeze(value, *((2,) if value.ndim == 2 else (0, 2)))
    return emit.unsqueeze(value, *range(least - value.ndim))


@dataclass(frozen=True, slots=True)
class Stacking(Record[T]):
    tensors: Sequence[T]


def _stacking(name: str, least: int, *functions: Any) -> None:
    """`hstack` and its like: each tensor lifted to a least number of axes, then joined along the last of these.

    `hstack` joins vectors along their only axis and anything else along the second.
    """
    op = Op(name, Stacking, functions=functions)

    def axis_for(ndim: int) -> int:
        return min(1, ndim - 1) if name == "hstack" else 0 if name == "vstack" else 2

    @op.shape
    def shape(call: Stacking[TensorSpec]) -> TensorSpec:
        check(len(call.tensors) >= 1, "there are no tensors to join")
        raised = [tensor.with_shape(*lifted_shape(tensor.shape, least)) for tensor in call.tensors]
        return joined(raised, axis_for(raised[0].ndim))

    @op.lower
    def lower(emit: Emitter, call: Stacking[Value]) -> Value:
        raised = [lifted(emit, tensor, least) for tensor in call.tensors]
        parts = [tensor for tensor in raised if not _is_legacy_empty(tensor)] or raised[:1]
        return _concatenated(emit, parts, axis_for(parts[0].ndim))


_stacking("hstack", 1, torch.hstack)
_stacking("vstack", 2, torch.vstack, torch.row_stack)
_stacking("dstack", 3, torch.dstack)


@dataclass(frozen=True, slots=True)
class ColumnStack(Record[T]):
    tensors: Sequence[T]


column_stack = Op("column_stack", ColumnStack, functions=(torch.column_stack,))


@column_stack.shape
def column_stack_shape(call: ColumnStack[TensorSpec]) -> TensorSpec:
    columns = [tensor if tensor.ndim > 1 else tensor.with_shape(tensor.numel(), 1) for tensor in call.tensors]
    return joined(columns, 1)


@column_stack.lower
def lower_column_stack(emit: Emitter, call: ColumnStack[Value]) -> Value:
    columns = [
        tensor if tensor.ndim > 1 else emit.reshape(tensor, [product(tensor.shape), 1]) for tensor in call.tensors
    ]
    return _concatenated(emit, columns, 1)


@dataclass(frozen=True, slots=True)
class Meshgrid(Record[T]):
    tensors: tuple[T, ...] = star()
    indexing: str | None = "ij"


meshgrid = Op("meshgrid", Meshgrid, functions=(torch.functional.meshgrid,), view=True)


@meshgrid.shape
def meshgrid_shape(call: Meshgrid[TensorSpec]) -> tuple[TensorSpec, ...]:
    tensors = call.tensors
    check(len(tensors) >= 1, "meshgrid is given no tensors")
    check(call.indexing in ("ij", "xy", None), "indexing is 'ij' or 'xy', not {!r}", call.indexing)
    for tensor in tensors:
        check(tensor.ndim <= 1, "meshgrid takes tensors of at most 1 axis, found {}", tensor.ndim)
        check(
            tensor.dtype == tensors[0].dtype,
            "meshgrid takes one dtype, found {} and {}",
            tensors[0].dtype,
            tensor.dtype,
        )
    shape = [tensor.numel() for tensor in tensors]
    if call.indexing == "xy" and len(shape) >= 2:
        shape[:2] = shape[1], shape[0]
    return tuple(tensor.with_shape(*shape) for tensor in tensors)


@meshgrid.lower
def lower_meshgrid(emit: Emitter, call: Meshgrid[Value]) -> tuple[Value, ...]:
    """Each tensor along its own axis, expanded over the others."""
    shape = emit.result[0].shape
    order = list(range(len(call.tensors)))
    if call.indexing == "xy" and len(order) >= 2:
        order[:2] = 1, 0
    grids = []
    for axis, tensor in zip(order, call.tensors, strict=True):
        along: list[Size] = [1] * len(shape)
        along[axis] = shape[axis]
        column = tensor if len(shape) == 1 == tensor.ndim else emit.reshape(tensor, along)
        grids.append(expanded(emit, column, shape))
    return tuple(grids)


# Taking apart ---------------------------------------------------------------------------------------


def _pieces(input: TensorSpec, axis: int, lengths: Sequence[Size]) -> tuple[TensorSpec, ...]:
    return tuple(input.with_shape(*input.shape[:axis], size, *input.shape[axis + 1 :]) for size in lengths)


def _lower_pieces(emit: Emitter, input: Value, dim: int) -> tuple[Value, ...]:
    """A lowering: one Split into the lengths that the results have."""
    axis = axis_of(dim, input.ndim)
    if len(emit.result) == 1:
        return (input,)
    return emit.split(input, [piece.shape[axis] for piece in emit.result], axis)


def _axis_to_split(input: TensorSpec, dim: int) -> int:
    check(input.ndim >= 1, "a 0-d tensor has no axis to split")
    return axis_of(dim, input.ndim)


def _equal_lengths(size: Size, length: Size, most: int | None = None) -> list[Size]:
    """Pieces of one length along an axis, the last one shorter where they do not fit evenly.

    How many there are must be fixed: for a dynamic axis each further piece is asked for. The last one takes what
    is left, whether that is a whole piece or not.
    """
    lengths: list[Size] = []
    start: Size = 0
    while len(lengths) + 1 != most and start + length < size:
        lengths.append(length)
        start = start + length
    return [*lengths, size - start]


@dataclass(frozen=True, slots=True)
class Split(Record[T]):
    tensor: T
    split_size_or_sections: Size | Sequence[Size]
    dim: int = 0


split = Op(
    "split", Split, functions=(torch.functional.split, torch.unsafe_split, torch.split_with_sizes), view=True,
    methods=("unsafe_split", "split_with_sizes"),
)  # fmt: skip


@split.method("split")
def bind_split(input: Any, split_size: Any, dim: int = 0) -> Mapping[str, Any]:
    return {"tensor": input, "split_size_or_sections": split_size, "dim": dim}


@split.shape
def split_shape(call: Split[TensorSpec]) -> tuple[TensorSpec, ...]:
    tensor, split_size_or_sections = call.tensor, call.split_size_or_sections
    axis = _axis_to_split(tensor, call.dim)
    size = tensor.shape[axis]
    if isinstance(split_size_or_sections, (tuple, list)):
        lengths: Sequence[Size] = split_size_or_sections
        for length in lengths:
            check(not may_be_negative(length) or length >= 0, "a piece is negative: {}", lengths)
        total: Size = 0
        for length in lengths:
            total = total + length
        check(
            total == size, "the pieces {} add up to {}, but axis {} has {}", lengths, total, axis, size, remedy=_PIECES
        )
        return _pieces(tensor, axis, lengths)
    assert isinstance(split_size_or_sections, (int, Dim))
    length = split_size_or_sections
    check(not may_be_negative(length) or length >= 0, "a piece cannot have the length {}", length)
    if not isinstance(length, Dim) and length == 0:
        check(size == 0, "pieces of length 0 do not make up axis {} of size {}", axis, size)
        return _pieces(tensor, axis, [0])
    return _pieces(tensor, axis, _equal_lengths(size, length))


@split.lower
def lower_split(emit: Emitter, call: Split[Value]) -> tuple[Value, ...]:
    return _lower_pieces(emit, call.tensor, call.dim)


@dataclass(frozen=True, slots=True)
class Chunk(Record[T]):
    input: T
    chunks: int
    dim: int = 0


chunk = Op("chunk", Chunk, functions=(torch.chunk, torch.unsafe_chunk), methods=("chunk", "unsafe_chunk"), view=True)


@chunk.shape
def chunk_shape(call: Chunk[TensorSpec]) -> tuple[TensorSpec, ...]:
    input, chunks = call.input, call.chunks
    axis = _axis_to_split(input, call.dim)
    chunks = int(chunks)
    check(chunks > 0, "a tensor cannot be split into {} chunks", chunks)
    size = input.shape[axis]
    if not isinstance(size, Dim) and size == 0:
        return _pieces(input, axis, [0] * chunks)
    return _pieces(input, axis, _equal_lengths(size, (size + chunks - 1) // chunks, chunks))


@chunk.lower
def lower_chunk(emit: Emitter, call: Chunk[Value]) -> tuple[Value, ...]:
    return _lower_pieces(emit, call.input, call.dim)


@dataclass(frozen=True, slots=True)
class TensorSplit(Record[T]):
    input: T
    indices_or_sections: Size | Sequence[Size] | T
    dim: int = 0


tensor_split = Op("tensor_split", TensorSplit, functions=(torch.tensor_split,), methods=("tensor_split",), view=True)


def _evenly(size: Size, sections: int) -> list[Size]:
    """Lengths that differ by at most 1, the longer ones first: (size + sections - 1 - i) // sections."""
    return [(size + (sections - 1 - index)) // sections for index in range(sections)]


@tensor_split.shape
def tensor_split_shape(call: TensorSplit[TensorSpec]) -> tuple[TensorSpec, ...]:
    input, indices_or_sections = call.input, call.indices_or_sections
    axis = _axis_to_split(input, call.dim)
    size = input.shape[axis]
    if isinstance(indices_or_sections, TensorSpec):
        return _pieces(input, axis, _lengths_from(indices_or_sections, size))
    if isinstance(indices_or_sections, (int, Dim)):
        sections = int(indices_or_sections)
        check(sections > 0, "a tensor cannot be split into {} sections", sections)
        return _pieces(input, axis, _evenly(size, sections))
    cuts = [0, *(clamped(index, size) for index in indices_or_sections), size]
    return _pieces(input, axis, [distance(start, end) for start, end in pairwise(cuts)])


def _lengths_from(indices: TensorSpec, size: Size) -> list[Any]:
    """The lengths of the pieces between indices that are in a tensor."""
    check(indices.dtype == torch.int64, "tensor_split takes int64 indices, found {}", indices.dtype)
    check(indices.ndim <= 1, "tensor_split takes indices of at most 1 axis, found {}", indices)
    if not indices.ndim or isinstance(indices.shape[0], Dim):
        raise NeedsDataError("how many pieces tensor_split gives depends on the data", remedy="give that as a number")
    count = indices.shape[0]
    return [DataSize("length of a piece of tensor_split", 0, size) for _ in range(count + 1)] if count else [size]


@tensor_split.lower
def lower_tensor_split(emit: Emitter, call: TensorSplit[Value]) -> tuple[Value, ...]:
    """One Split; where indices run backwards the pieces overlap, and each is a Slice of its own, as where the order of
    the indices is not known."""
    input = call.input
    axis = axis_of(call.dim, input.ndim)
    indices: Any = call.indices_or_sections
    if not isinstance(indices, (int, Dim, tuple, list)):
        last = len(emit.result) - 1
        bounds = [emit.ints(0), *(emit.split(indices, [1] * last, 0) if last else ()), emit.ints(FAR)]
        return tuple(emit.node("Slice", input, *ends, emit.ints(axis)) for ends in pairwise(bounds))
    cuts = call.indices_or_sections if isinstance(call.indices_or_sections, (tuple, list)) else []
    positions = [clamped(index, input.shape[axis]) for index in cuts]
    if any(is_of_data(end - start) or start > end for start, end in pairwise(positions)):
        return tuple(emit.slice(input, axis, start, end) for start, end in pairwise([0, *cuts, FAR]))
    return _lower_pieces(emit, input, call.dim)


@dataclass(frozen=True, slots=True)
class Splitting(Record[T]):
    input: T
    indices_or_sections: Any


def _splitting(name: str, least: int) -> None:
    """`hsplit` and its like: tensor_split along a fixed axis, into equal sections only."""

    def bind(input: TensorSpec | Value, indices_or_sections: Any) -> int:
        check(
            len(input.shape) >= least, "{} takes a tensor of {} axes or more, found {}", name, least, len(input.shape)
        )
        axis = {"hsplit": min(1, len(input.shape) - 1), "vsplit": 0, "dsplit": 2}[name]
        if isinstance(indices_or_sections, int):
            check(indices_or_sections > 0, "a tensor cannot be split into {} sections", indices_or_sections)
            size = input.shape[axis]
            check(
                size % indices_or_sections == 0,
                "axis {} of size {} has no {} equal sections",
                axis,
                size,
                indices_or_sections,
            )
        return axis

    op = Op(name, Splitting, functions=(getattr(torch, name),), methods=(name,), view=True)

    @op.shape
    def shape(call: Splitting[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tensor_split_shape(
            TensorSplit(call.input, call.indices_or_sections, bind(call.input, call.indices_or_sections))
        )

    @op.lower
    def lower(emit: Emitter, call: Splitting[Value]) -> tuple[Value, ...]:
        return lower_tensor_split(
            emit, TensorSplit(call.input, call.indices_or_sections, bind(call.input, call.indices_or_sections))
        )


_splitting("hsplit", 1)
_splitting("vsplit", 2)
_splitting("dsplit", 3)


@dataclass(frozen=True, slots=True)
class Unbind(Record[T]):
    input: T
    dim: int = 0


unbind = Op("unbind", Unbind, functions=(torch.unbind,), methods=("unbind",), view=True)


@unbind.shape
def unbind_shape(call: Unbind[TensorSpec]) -> tuple[TensorSpec, ...]:
    input = call.input
    axis = _axis_to_split(input, call.dim)
    piece = input.with_shape(*input.shape[:axis], *input.shape[axis + 1 :])
    return tuple(piece for _ in range(pinned(input.shape[axis])))


@unbind.lower
def lower_unbind(emit: Emitter, call: Unbind[Value]) -> tuple[Value, ...]:
    axis = axis_of(call.dim, call.input.ndim)
    if len(emit.result) == 1:
        return (emit.squeeze(call.input, axis),)
    return tuple(emit.squeeze(part, axis) for part in emit.split(call.input, [1] * len(emit.result), axis))
