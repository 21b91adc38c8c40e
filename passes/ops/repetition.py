"""Elements repeated along axes, reversed or moved round: expand, repeat, flip, roll."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from passes.dimension import Dim, Size, product
from passes.errors import NeedsDataError, check
from passes.ops.axes import axes_of, axis_of
from passes.ops.layout import keeps_shape, same_size, swapped, transpose_shape, transposed
from passes.ops.op import Op
from passes.ops.promotion import broadcast_shapes
from passes.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx_emitter import Emitter, Value

# Beyond every size: a Slice reaches the end of its axis, or with a negative step its beginning.
FAR = 2**63 - 1


def is_open(size: Size) -> bool:
    """Whether a size is given as -1. A formula never is, so it is not asked."""
    return not isinstance(size, Dim) and size == -1


# Along axes of size 1 -------------------------------------------------------------------------------


def expanded(emit: Emitter, value: Value, shape: Sequence[Size]) -> Value:
    """The value broadcast to a shape. Axes that it has already are left to ONNX's own broadcasting, as 1."""
    lead = len(shape) - value.ndim
    if not lead and all(map(same_size, value.shape, shape)):
        return value
    kept = [axis >= lead and same_size(value.shape[axis - lead], size) for axis, size in enumerate(shape)]
    target = emit.sizes(1 if keep and isinstance(size, Dim) else size for size, keep in zip(shape, kept, strict=True))
    assert value.spec is not None
    return replace(emit.node("Expand", value, target), spec=value.spec.with_shape(*shape))


expand = Op("expand", functions=(torch.broadcast_to,), methods=("expand", "broadcast_to"), view=True)
expand.identity(keeps_shape)


_REPEATS = "give a number for each of the {1} axes, 1 for those that stay"


@expand.shape
def expand_shape(input: TensorSpec, *size: Size) -> TensorSpec:
    lead = len(size) - input.ndim
    check(lead >= 0, "a tensor of {} axes cannot be expanded to the {} sizes {}", input.ndim, len(size), size)
    shape: list[Size] = []
    for axis, target in enumerate(size):
        if axis < lead:
            check(isinstance(target, Dim) or target >= 0, "{} is no size of a new axis", target)
            shape.append(target)
            continue
        found = input.shape[axis - lead]
        if is_open(target):
            shape.append(found)
            continue
        fixed_one = not isinstance(found, Dim) and found == 1
        check(isinstance(target, Dim) or target >= 0, "{} is no size", target)
        check(
            fixed_one or found == target or found == 1,
            "axis {} of size {} cannot be expanded to {}",
            axis,
            found,
            target,
            remedy="expand axes of size 1 only, or repeat the tensor with x.repeat",
        )
        shape.append(target)
    return input.with_shape(*shape)


@expand.lower
def lower_expand(emit: Emitter, input: Value, *size: Size) -> Value:
    return expanded(emit, input, emit.result.shape)


expand_as = Op("expand_as", methods=("expand_as",), view=True)
expand_as.identity(keeps_shape)


@expand_as.shape
def expand_as_shape(input: TensorSpec, other: TensorSpec) -> TensorSpec:
    return expand_shape(input, *other.shape)


@expand_as.lower
def lower_expand_as(emit: Emitter, input: Value, other: Value) -> Value:
    return expanded(emit, input, emit.result.shape)


broadcast_tensors = Op("broadcast_tensors", functions=(torch.functional.broadcast_tensors,), view=True)


@broadcast_tensors.shape
def broadcast_tensors_shape(*tensors: TensorSpec) -> tuple[TensorSpec, ...]:
    shape = broadcast_shapes(*(tensor.shape for tensor in tensors))
    return tuple(tensor.with_shape(*shape) for tensor in tensors)


@broadcast_tensors.lower
def lower_broadcast_tensors(emit: Emitter, *tensors: Value) -> tuple[Value, ...]:
    return tuple(expanded(emit, tensor, emit.result[0].shape) for tensor in tensors)


# A whole tensor several times -----------------------------------------------------------------------


def _tiled(input: TensorSpec, counts: Sequence[Size]) -> TensorSpec:
    for count in counts:
        check(isinstance(count, Dim) or count >= 0, "a tensor cannot be repeated {} times", count)
    shape = (1,) * (len(counts) - input.ndim) + input.shape
    return input.with_shape(*(size * count for size, count in zip(shape, counts, strict=True)))


def _lower_tiled(emit: Emitter, input: Value, counts: Sequence[Size]) -> Value:
    new_axes = range(len(counts) - input.ndim)
    lifted = emit.unsqueeze(input, *new_axes) if new_axes else input
    once = all(not isinstance(count, Dim) and count == 1 for count in counts)
    return lifted if once else emit.node("Tile", lifted, emit.sizes(counts))


repeat = Op("repeat", methods=("repeat",))
repeat.identity(keeps_shape)


@repeat.shape
def repeat_shape(input: TensorSpec, *repeats: Size) -> TensorSpec:
    check(
        len(repeats) >= input.ndim,
        "{} repeats are given for a tensor of {} axes",
        len(repeats),
        input.ndim,
        remedy=_REPEATS,
    )
    return _tiled(input, repeats)


@repeat.lower
def lower_repeat(emit: Emitter, input: Value, *repeats: Size) -> Value:
    return _lower_tiled(emit, input, repeats)


tile = Op("tile", functions=(torch.tile,), methods=("tile",))
tile.identity(keeps_shape)


def _padded(dims: Sequence[Size], ndim: int) -> tuple[Size, ...]:
    return (1,) * (ndim - len(dims)) + tuple(dims)


@tile.shape
def tile_shape(input: TensorSpec, *dims: Size) -> TensorSpec:
    return _tiled(input, _padded(dims, input.ndim))


@tile.lower
def lower_tile(emit: Emitter, input: Value, *dims: Size) -> Value:
    return _lower_tiled(emit, input, _padded(dims, input.ndim))


repeat_interleave = Op("repeat_interleave", functions=(torch.repeat_interleave,), methods=("repeat_interleave",))


@repeat_interleave.shape
def repeat_interleave_shape(
    input: TensorSpec, repeats: Size | TensorSpec, dim: int | None = None, output_size: Size | None = None
) -> TensorSpec:
    check(dim is None or input.ndim >= 1, "a 0-d tensor has no axis {}", dim)
    flat = input.with_shape(input.numel()) if dim is None else input
    axis = axis_of(dim or 0, flat.ndim)
    if isinstance(repeats, TensorSpec):
        if output_size is None:
            raise NeedsDataError("how often each element is repeated depends on data, and so does the shape")
        length: Size = output_size
    else:
        check(isinstance(repeats, Dim) or repeats >= 0, "elements cannot be repeated {} times", repeats)
        length = flat.shape[axis] * repeats
    return flat.with_shape(*flat.shape[:axis], length, *flat.shape[axis + 1 :])


@repeat_interleave.lower
def lower_repeat_interleave(
    emit: Emitter, input: Value, repeats: Any, dim: int | None = None, output_size: Size | None = None
) -> Value:
    """A new axis after the repeated one, expanded and merged into it."""
    if not isinstance(repeats, (int, Dim)):
        emit.unsupported("how often each element is repeated depends on data")
    if dim is None:
        input = _flat(emit, input)
    axis = axis_of(dim or 0, input.ndim)
    shape = [*input.shape[: axis + 1], repeats, *input.shape[axis + 1 :]]
    ones: list[Size] = [1] * len(shape)
    ones[axis + 1] = repeats
    repeated = emit.node("Expand", emit.unsqueeze(input, axis + 1), emit.sizes(ones))
    return emit.reshape(repeated, emit.result.shape)


def _flat(emit: Emitter, value: Value) -> Value:
    return value if value.ndim == 1 else emit.reshape(value, [product(value.shape)])


# Another order along axes ---------------------------------------------------------------------------

flip = Op("flip", functions=(torch.flip,), methods=("flip",))


@flip.shape
def flip_shape(input: TensorSpec, *dims: int) -> TensorSpec:
    axes_of(dims, input.ndim)
    return input


@flip.lower
def lower_flip(emit: Emitter, input: Value, *dims: int) -> Value:
    return _flipped(emit, input, axes_of(dims, input.ndim) if input.ndim else ())


def _flip_fixed(name: str, axis: int) -> None:
    op = Op(name, functions=(getattr(torch, name),), methods=(name,))

    @op.shape
    def shape(input: TensorSpec) -> TensorSpec:
        check(input.ndim > axis, "{} takes a tensor of {} axes or more, found {}", name, axis + 1, input.ndim)
        return input

    @op.lower
    def lower(emit: Emitter, input: Value) -> Value:
        return _flipped(emit, input, (axis,))


_flip_fixed("flipud", 0)
_flip_fixed("fliplr", 1)


def _flipped(emit: Emitter, value: Value, axes: Sequence[int]) -> Value:
    """One Slice that walks the axes backwards."""
    if not axes:
        return value
    starts, ends, steps = [-1] * len(axes), [-FAR] * len(axes), [-1] * len(axes)
    result = emit.node("Slice", value, emit.ints(*starts), emit.ints(*ends), emit.ints(*axes), emit.ints(*steps))
    return replace(result, spec=value.spec)


rot90 = Op("rot90", functions=(torch.rot90,), methods=("rot90",))


@rot90.shape
def rot90_shape(input: TensorSpec, k: int = 1, dims: Sequence[int] = (0, 1)) -> TensorSpec:
    check(input.ndim >= 2, "rot90 takes a tensor of 2 axes or more, found {}", input.ndim)
    check(len(dims) == 2, "rot90 turns a plane of 2 axes, found {}", len(dims))
    first, second = axes_of(dims, input.ndim)
    return transpose_shape(input, first, second) if k % 2 else input


@rot90.lower
def lower_rot90(emit: Emitter, input: Value, k: int = 1, dims: Sequence[int] = (0, 1)) -> Value:
    """Half a turn reverses both axes; a quarter turn reverses one and swaps them."""
    first, second = axes_of(dims, input.ndim)
    turned = _flipped(emit, input, [(), (second,), (first, second), (first,)][k % 4])
    return transposed(emit, turned, swapped(input.ndim, first, second)) if k % 2 else turned


roll = Op("roll", functions=(torch.roll,), methods=("roll",))


def _rolls(
    input: TensorSpec | Value, shifts: Size | Sequence[Size], dims: int | Sequence[int] | None
) -> list[tuple[int, Size]]:
    """The axes to roll, each with its shift."""
    each = [shifts] if isinstance(shifts, (int, Dim)) else list(shifts)
    asked = [] if dims is None else [dims] if isinstance(dims, int) else list(dims)
    check(len(each) >= 1, "roll is given no shift")
    if not asked:
        check(len(each) == 1, "{} shifts are given, but no axes", len(each))
        return [(0, each[0])]
    check(len(each) == len(asked), "{} shifts are given for {} axes", len(each), len(asked))
    check(input.ndim >= 1, "a 0-d tensor has no axis to roll along")
    return [(axis_of(dim, input.ndim), shift) for dim, shift in zip(asked, each, strict=True)]


@roll.shape
def roll_shape(input: TensorSpec, shifts: Size | Sequence[Size], dims: int | Sequence[int] | None = None) -> TensorSpec:
    _rolls(input, shifts, dims)
    return input


@roll.lower
def lower_roll(
    emit: Emitter, input: Value, shifts: Size | Sequence[Size], dims: int | Sequence[int] | None = None
) -> Value:
    """Along each axis, the last `shift` elements before the others."""
    rolls = _rolls(input, shifts, dims)
    flat = dims is None or dims == () or dims == []
    value = _flat(emit, input) if flat else input
    shape = value.shape
    for axis, shift in rolls:
        size = shape[axis]
        if not isinstance(size, Dim):
            shift = shift % max(size, 1)
        elif not _within(shift, size):
            emit.unsupported(f"a roll by {shift} along an axis of the dynamic size {size} may wrap more than once")
        if not isinstance(shift, Dim) and shift == 0:
            continue
        last = emit.slice(value, axis, -shift, FAR)
        first = emit.slice(value, axis, 0, -shift)
        value = emit.node("Concat", last, first, axis=axis)
    return emit.reshape(value, emit.result.shape) if flat and input.ndim != 1 else value


def _within(shift: Size, size: Size) -> bool:
    return -size < shift < size
