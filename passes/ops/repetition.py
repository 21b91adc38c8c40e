"""Elements repeated along axes, reversed or moved round: expand, repeat, flip, roll."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.ops.axes import axes_of, axis_of
from passes.ops.layout import Transpose, keeps_shape, swapped, transpose_shape, transposed
from passes.ops.op import Op
from passes.ops.positions import may_be_negative
from passes.ops.promotion import broadcast_shapes
from passes.ops.record import Record, T, star
from passes.sizes.dimension import Dim, Size, is_of_data, maximum, product, same_size
from passes.sizes.unknown import DataSize
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

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


@dataclass(frozen=True, slots=True)
class Expand(Record[T]):
    input: T
    size: tuple[Size, ...] = star()


expand = Op("expand", Expand, functions=(torch.broadcast_to,), methods=("expand", "broadcast_to"), view=True)
expand.identity("expand_to_its_shape", why="Where no axis is added and no size grows, nothing is repeated.")(
    keeps_shape
)


_REPEATS = "give a number for each of the {1} axes, 1 for those that stay"


@expand.shape
def expand_shape(call: Expand[TensorSpec]) -> TensorSpec:
    input, size = call.input, call.size
    lead = len(size) - input.ndim
    check(lead >= 0, "a tensor of {} axes cannot be expanded to the {} sizes {}", input.ndim, len(size), size)
    shape: list[Size] = []
    for axis, target in enumerate(size):
        if axis < lead:
            check(not may_be_negative(target) or target >= 0, "{} is no size of a new axis", target)
            shape.append(target)
            continue
        found = input.shape[axis - lead]
        if is_open(target):
            shape.append(found)
            continue
        fixed_one = not isinstance(found, Dim) and found == 1
        check(not may_be_negative(target) or target >= 0, "{} is no size", target)
        check(
            fixed_one
            or is_of_data(found)  # which the file refuses where it is neither
            or found == target
            or found == 1,
            "axis {} of size {} cannot be expanded to {}",
            axis,
            found,
            target,
            remedy="expand axes of size 1 only, or repeat the tensor with x.repeat",
        )
        shape.append(target)
    return input.with_shape(*shape)


@expand.lower
def lower_expand(emit: Emitter, call: Expand[Value]) -> Value:
    return expanded(emit, call.input, emit.result.shape)


@dataclass(frozen=True, slots=True)
class ExpandAs(Record[T]):
    input: T
    other: T


expand_as = Op("expand_as", ExpandAs, methods=("expand_as",), view=True)
expand_as.identity("expand_as_its_shape", why="Where no axis is added and no size grows, nothing is repeated.")(
    keeps_shape
)


@expand_as.shape
def expand_as_shape(call: ExpandAs[TensorSpec]) -> TensorSpec:
    return expand_shape(Expand(call.input, call.other.shape))


@expand_as.lower
def lower_expand_as(emit: Emitter, call: ExpandAs[Value]) -> Value:
    return expanded(emit, call.input, emit.result.shape)


@dataclass(frozen=True, slots=True)
class BroadcastTensors(Record[T]):
    tensors: tuple[T, ...] = star()


broadcast_tensors = Op(
    "broadcast_tensors", BroadcastTensors, functions=(torch.functional.broadcast_tensors,), view=True
)


@broadcast_tensors.shape
def broadcast_tensors_shape(call: BroadcastTensors[TensorSpec]) -> tuple[TensorSpec, ...]:
    shape = broadcast_shapes(*(tensor.shape for tensor in call.tensors))
    return tuple(tensor.with_shape(*shape) for tensor in call.tensors)


@broadcast_tensors.lower
def lower_broadcast_tensors(emit: Emitter, call: BroadcastTensors[Value]) -> tuple[Value, ...]:
    return tuple(expanded(emit, tensor, emit.result[0].shape) for tensor in call.tensors)


# A whole tensor several times -----------------------------------------------------------------------


def _tiled(input: TensorSpec, counts: Sequence[Size]) -> TensorSpec:
    for count in counts:
        check(not may_be_negative(count) or count >= 0, "a tensor cannot be repeated {} times", count)
    shape = (1,) * (len(counts) - input.ndim) + input.shape
    return input.with_shape(*(size * count for size, count in zip(shape, counts, strict=True)))


def _lower_tiled(emit: Emitter, input: Value, counts: Sequence[Size]) -> Value:
    new_axes = range(len(counts) - input.ndim)
    lifted = emit.unsqueeze(input, *new_axes) if new_axes else input
    once = all(not isinstance(count, Dim) and count == 1 for count in counts)
    return lifted if once else emit.node("Tile", lifted, emit.sizes(counts))


@dataclass(frozen=True, slots=True)
class Repeat(Record[T]):
    input: T
    repeats: tuple[Size, ...] = star()


repeat = Op("repeat", Repeat, methods=("repeat",))
repeat.identity("repeat_once", why="Where no size grows, every element is there once.")(keeps_shape)


@repeat.shape
def repeat_shape(call: Repeat[TensorSpec]) -> TensorSpec:
    check(
        len(call.repeats) >= call.input.ndim,
        "{} repeats are given for a tensor of {} axes",
        len(call.repeats),
        call.input.ndim,
        remedy=_REPEATS,
    )
    return _tiled(call.input, call.repeats)


@repeat.lower
def lower_repeat(emit: Emitter, call: Repeat[Value]) -> Value:
    return _lower_tiled(emit, call.input, call.repeats)


@dataclass(frozen=True, slots=True)
class Tile(Record[T]):
    input: T
    dims: tuple[Size, ...] = star()


tile = Op("tile", Tile, functions=(torch.tile,), methods=("tile",))
tile.identity("tile_once", why="Where no size grows, every element is there once.")(keeps_shape)


def _padded(dims: Sequence[Size], ndim: int) -> tuple[Size, ...]:
    return (1,) * (ndim - len(dims)) + tuple(dims)


@tile.shape
def tile_shape(call: Tile[TensorSpec]) -> TensorSpec:
    return _tiled(call.input, _padded(call.dims, call.input.ndim))


@tile.lower
def lower_tile(emit: Emitter, call: Tile[Value]) -> Value:
    return _lower_tiled(emit, call.input, _padded(call.dims, call.input.ndim))


@dataclass(frozen=True, slots=True)
class RepeatInterleave(Record[T]):
    """Without `repeats` the tensor is these, and each element's place is repeated."""

    input: T
    repeats: Size | T | None = None
    dim: int | None = None
    output_size: Size | None = None


repeat_interleave = Op("repeat_interleave", RepeatInterleave, methods=("repeat_interleave",))


@repeat_interleave.function(torch.repeat_interleave)
def bind_repeat_interleave(
    input: Any = None, repeats: Any = None, dim: int | None = None, *, output_size: Size | None = None, **names: Any
) -> Mapping[str, Any]:
    """`repeat_interleave(repeats)` and `repeat_interleave(input, repeats, dim)`."""
    first = names.get("self", repeats if input is None else input)
    return {"input": first, "repeats": None if first is repeats else repeats, "dim": dim, "output_size": output_size}


@repeat_interleave.shape
def repeat_interleave_shape(call: RepeatInterleave[TensorSpec]) -> TensorSpec:
    input, repeats, dim = call.input, call.repeats, call.dim
    check(dim is None or input.ndim >= 1, "a 0-d tensor has no axis {}", dim)
    if repeats is None:
        check(input.ndim == 1, "repeats are along 1 axis, found {}", input)
        return input.with_shape(_sum_of(input, input.shape[0], call.output_size))
    flat = input.with_shape(input.numel()) if dim is None else input
    axis = axis_of(dim or 0, flat.ndim)
    if isinstance(repeats, TensorSpec):
        length = _sum_of(repeats, flat.shape[axis], call.output_size)
    else:
        check(not may_be_negative(repeats) or repeats >= 0, "elements cannot be repeated {} times", repeats)
        length = flat.shape[axis] * repeats
    return flat.with_shape(*flat.shape[:axis], length, *flat.shape[axis + 1 :])


def _sum_of(repeats: TensorSpec, size: Size, output_size: Size | None) -> Any:
    """How many elements there are when each of an axis is repeated as often as a tensor says."""
    check(repeats.dtype in (torch.int64, torch.int32), "repeats are int64 or int32, found {}", repeats)
    check(repeats.ndim <= 1, "repeats are along 1 axis at most, found {}", repeats)
    each = repeats.ndim == 1 and not same_size(repeats.shape[0], 1)
    check(not each or repeats.shape[0] == size, "{} repeats are given for an axis of {}", repeats.numel(), size)
    if output_size is not None:
        return output_size
    return DataSize("sum of repeats", 0, None, repeats if each or same_size(size, 1) else None)


@repeat_interleave.lower
def lower_repeat_interleave(emit: Emitter, call: RepeatInterleave[Value]) -> Value:
    """A new axis after the repeated one, expanded and merged into it; or the places of what is repeated, gathered."""
    input, repeats = call.input, call.repeats
    if repeats is None:
        return emit.cast(_places_repeated(emit, input, input.shape[0]), input.dtype)
    if call.dim is None:
        input = _flat(emit, input)
    axis = axis_of(call.dim or 0, input.ndim)
    if not isinstance(repeats, (int, Dim)):
        return emit.node("Gather", input, _places_repeated(emit, repeats, input.shape[axis]), axis=axis)
    shape = [*input.shape[: axis + 1], repeats, *input.shape[axis + 1 :]]
    ones: list[Size] = [1] * len(shape)
    ones[axis + 1] = repeats
    repeated = emit.node("Expand", emit.unsqueeze(input, axis + 1), emit.sizes(ones))
    return emit.reshape(repeated, emit.result.shape)


def _places_repeated(emit: Emitter, repeats: Value, size: Size) -> Value:
    """The places 0 to `size`, each as often as the repeats say: the rows of the flags of a table that has so many."""
    counts = emit.cast(expanded(emit, repeats, [size]), torch.int64)
    most = emit.reduce("ReduceMax", emit.node("Concat", counts, emit.ints(0), axis=0), None, False)
    numbers = emit.node("Range", emit.scalar(0, torch.int64), most, emit.scalar(1, torch.int64))
    flags = emit.node("Less", numbers, emit.unsqueeze(counts, 1))
    rows = emit.node("Gather", emit.node("NonZero", flags), emit.scalar(0, torch.int64), axis=0)
    length: Any = DataSize("sum of repeats")
    return replace(rows, spec=TensorSpec((length,), torch.int64))


def _flat(emit: Emitter, value: Value) -> Value:
    return value if value.ndim == 1 else emit.reshape(value, [product(value.shape)])


# Another order along axes ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flip(Record[T]):
    input: T
    dims: tuple[int, ...] = star()


flip = Op("flip", Flip, functions=(torch.flip,), methods=("flip",))


@flip.shape
def flip_shape(call: Flip[TensorSpec]) -> TensorSpec:
    axes_of(call.dims, call.input.ndim)
    return call.input


@flip.lower
def lower_flip(emit: Emitter, call: Flip[Value]) -> Value:
    return _flipped(emit, call.input, axes_of(call.dims, call.input.ndim) if call.input.ndim else ())


@dataclass(frozen=True, slots=True)
class FlipFixed(Record[T]):
    input: T


def _flip_fixed(name: str, axis: int) -> None:
    op = Op(name, FlipFixed, functions=(getattr(torch, name),), methods=(name,))

    @op.shape
    def shape(call: FlipFixed[TensorSpec]) -> TensorSpec:
        check(call.input.ndim > axis, "{} takes a tensor of {} axes or more, found {}", name, axis + 1, call.input.ndim)
        return call.input

    @op.lower
    def lower(emit: Emitter, call: FlipFixed[Value]) -> Value:
        return _flipped(emit, call.input, (axis,))


_flip_fixed("flipud", 0)
_flip_fixed("fliplr", 1)


def _flipped(emit: Emitter, value: Value, axes: Sequence[int]) -> Value:
    """One Slice that walks the axes backwards."""
    if not axes:
        return value
    starts, ends, steps = [-1] * len(axes), [-FAR] * len(axes), [-1] * len(axes)
    result = emit.node("Slice", value, emit.ints(*starts), emit.ints(*ends), emit.ints(*axes), emit.ints(*steps))
    return replace(result, spec=value.spec)


@dataclass(frozen=True, slots=True)
class Rot90(Record[T]):
    input: T
    k: int = 1
    dims: Sequence[int] = (0, 1)


rot90 = Op("rot90", Rot90, functions=(torch.rot90,), methods=("rot90",))


@rot90.shape
def rot90_shape(call: Rot90[TensorSpec]) -> TensorSpec:
    input = call.input
    check(input.ndim >= 2, "rot90 takes a tensor of 2 axes or more, found {}", input.ndim)
    check(len(call.dims) == 2, "rot90 turns a plane of 2 axes, found {}", len(call.dims))
    first, second = axes_of(call.dims, input.ndim)
    return transpose_shape(Transpose(input, first, second)) if call.k % 2 else input


@rot90.lower
def lower_rot90(emit: Emitter, call: Rot90[Value]) -> Value:
    """Half a turn reverses both axes; a quarter turn reverses one and swaps them."""
    first, second = axes_of(call.dims, call.input.ndim)
    turned = _flipped(emit, call.input, [(), (second,), (first, second), (first,)][call.k % 4])
    return transposed(emit, turned, swapped(call.input.ndim, first, second)) if call.k % 2 else turned


@dataclass(frozen=True, slots=True)
class Roll(Record[T]):
    input: T
    shifts: Size | Sequence[Size]
    dims: int | Sequence[int] | None = None


roll = Op("roll", Roll, functions=(torch.roll,), methods=("roll",))


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
def roll_shape(call: Roll[TensorSpec]) -> TensorSpec:
    _rolls(call.input, call.shifts, call.dims)
    return call.input


@roll.lower
def lower_roll(emit: Emitter, call: Roll[Value]) -> Value:
    """Along each axis, the last `shift` elements before the others."""
    input, dims = call.input, call.dims
    rolls = _rolls(input, call.shifts, dims)
    flat = dims is None or dims == () or dims == []
    value = _flat(emit, input) if flat else input
    shape = value.shape
    for axis, shift in rolls:
        size = shape[axis]
        if not (isinstance(size, Dim) and isinstance(shift, int) and size.at_least(abs(shift) + 1)):
            shift = shift % maximum(size, 1)
        if not isinstance(shift, Dim) and shift == 0:
            continue
        last = emit.slice(value, axis, -shift, FAR)
        first = emit.slice(value, axis, 0, -shift)
        value = emit.node("Concat", last, first, axis=axis)
    return emit.reshape(value, emit.result.shape) if flat and input.ndim != 1 else value
