"""Assignment to a subscript, `x[...] = y`, as a function: the whole tensor with those elements replaced."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.onnx.opsets import SCATTERED_SUM
from passes.ops.axes import inverse, moved
from passes.ops.indexing import (
    Getitem,
    Span,
    Subscript,
    along,
    coordinates_of,
    counts_of,
    getitem_shape,
    neighbours,
    only_mask,
    pick_value,
    picked_shape,
    places_on,
    read,
    sliced,
    spread_masks,
)
from passes.ops.layout import transposed
from passes.ops.op import Op
from passes.ops.positions import from_front
from passes.ops.promotion import as_value
from passes.ops.record import Record, T
from passes.ops.repetition import FAR, expanded
from passes.sizes.dimension import Dim, Size, is_of_data, product, same_size
from passes.sizes.unknown import is_data_size
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from passes.onnx.emitter import Emitter, Value


def with_item(input: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """A copy of `input` after `input[index] = value`: what the graph calls in place of the statement."""
    result = input.clone()
    result[index] = value
    return result


@dataclass(frozen=True, slots=True)
class Setitem(Record[T]):
    input: T
    index: Any
    value: Any


setitem = Op("setitem", Setitem, functions=(with_item,))


@setitem.shape
def setitem_shape(call: Setitem[TensorSpec]) -> TensorSpec:
    """The whole tensor, with the subscript's elements replaced."""
    found = read(call.input, call.index, assigning=True)
    target = _target_shape(found, call.input.shape)
    if isinstance(call.value, TensorSpec):
        given = _without_lead(call.value.shape, len(target))
        # How many elements a mask lets through is for the data to say.
        fits = len(given) <= len(target) and all(
            (not isinstance(size, Dim) and size == 1) or room is None or _may_broadcast(size, room) or size == room
            for size, room in zip(reversed(given), reversed(target), strict=False)
        )
        check(
            fits,
            "{} cannot be assigned to elements of shape {}",
            shape_text(call.value.shape),
            shape_text(tuple(target)),
            remedy="assign a value of shape {1}",
        )
    return call.input


def _may_broadcast(size: Size, room: Size) -> bool:
    """Whether a size comes from data, and may be 1 as well as what there is room for."""
    return is_of_data(size) and not same_size(room, 1)


def _target_shape(found: Subscript, shape: Sequence[Size]) -> list[Any]:
    """The shape of the elements that a subscript names; None for the count of what a mask lets through."""
    view = found.view_shape(shape)
    if (masked := only_mask(found)) is not None:
        axis, mask = masked
        return [*view[:axis], None, *view[axis + mask.ndim :]]
    return [None if is_data_size(size) else size for size in picked_shape(view, spread_masks(found, counts_of))]


def _without_lead(shape: tuple[Size, ...], ndim: int) -> tuple[Size, ...]:
    """A shape without the leading axes of size 1 that go beyond `ndim`."""
    while len(shape) > ndim and not isinstance(shape[0], Dim) and shape[0] == 1:
        shape = shape[1:]
    return shape


@setitem.lower
def lower_setitem(emit: Emitter, call: Setitem[Value]) -> Value:
    return assigned(emit, call.input, call.index, call.value)


def assigned(emit: Emitter, input: Value, index: Any, value: Any, reduction: str | None = None) -> Value:
    """From the outside in: each sliced axis is cut out, assigned to, and put back in its place.

    A `reduction` is ScatterND's, and says what becomes of elements at picks.
    """
    found = read(input, index, assigning=True)
    target = _target_shape(found, input.shape)
    given = as_value(emit, value, input.dtype)
    if given.ndim > len(target):
        given = emit.reshape(given, _without_lead(given.shape, len(target)))
    if None not in target:
        given = expanded(emit, given, target)
    points = [(axis, _point_span(point, input.shape[axis])) for axis, point in found.points.items()]
    spans = [*found.spans.items(), *points]
    return _assigned(emit, input, spans, found, given, reduction)


def _point_span(point: Size, size: Size) -> Span:
    """One element of an axis as a slice of length 1."""
    if is_of_data(point):
        point = from_front(point, size)
    stop: Size = FAR if same_size(point, -1) else point + 1
    return Span(point, stop, 1, point, 1)


def _assigned(
    emit: Emitter, tensor: Value, spans: list[tuple[int, Span]], found: Subscript, given: Value, reduction: str | None
) -> Value:
    if not spans:
        return _filled(emit, tensor, found, given, reduction)
    axis, span = spans[0]
    if same_size(span.length, 0):
        return tensor
    part = sliced(emit, tensor, {axis: span})
    return _put_back(emit, tensor, _assigned(emit, part, spans[1:], found, given, reduction), axis, span)


def _put_back(emit: Emitter, tensor: Value, part: Value, axis: int, span: Span) -> Value:
    """The tensor with a slice of an axis replaced: what comes before, the part, what comes after."""
    if span.step != 1:
        order = moved(tensor.ndim, [axis], [0])
        front, updates = transposed(emit, tensor, order), transposed(emit, part, order)
        rows = counted(emit, span.first, span.length, span.step)
        result = emit.node("ScatterND", front, emit.unsqueeze(rows, 1), updates)
        return transposed(emit, replace(result, spec=front.spec), inverse(order))
    size = tensor.shape[axis]
    first = span.first + size if isinstance(span.first, int) and span.first < 0 else span.first
    start, stop = span.start, span.stop
    if is_of_data(first) or is_of_data(span.length):  # as written, they may lie in the other order
        start, stop = first, first + span.length
    before = [] if same_size(first, 0) else [emit.slice(tensor, axis, 0, start)]
    after = [] if same_size(first + span.length, size) else [emit.slice(tensor, axis, stop, FAR)]
    if not before and not after:
        return part
    return replace(emit.node("Concat", *before, part, *after, axis=axis), spec=tensor.spec)


def counted(emit: Emitter, first: Size, count: Size, step: int = 1) -> Value:
    """The numbers first, first + step, … as int64."""
    if isinstance(count, int) and isinstance(first, int):
        return emit.constant(torch.arange(first, first + count * step, step))
    bounds = [emit.operand(bound, torch.int64) for bound in (first, first + count * step, step)]
    return replace(emit.node("Range", *bounds), spec=TensorSpec((count,), torch.int64))


def _filled(emit: Emitter, tensor: Value, found: Subscript, given: Value, reduction: str | None) -> Value:
    """Assignment to whole axes and to picks. The tensor still has its points' axes, and not yet the new ones."""
    if not found.picks:
        return emit.reshape(given, tensor.shape) if given.ndim != tensor.ndim else given
    if only_mask(found) is not None and reduction is None:
        return _masked(emit, tensor, found, given)
    view = [1 if source is None else tensor.shape[source] for source in found.layout]
    same = found.layout == list(range(tensor.ndim))
    lifted = tensor if same else emit.reshape(tensor, view)
    picks = {axis: pick_value(emit, pick) for axis, pick in spread_masks(found, partial(places_on, emit)).items()}
    axes = list(picks)
    order = moved(lifted.ndim, axes, range(len(axes)))
    front = transposed(emit, lifted, order)
    coordinates = coordinates_of(emit, list(picks.values()))
    rank = coordinates.ndim - 1
    place = axes[0] if neighbours(axes) else 0
    missing = lifted.ndim - len(axes) + rank - given.ndim
    given = emit.unsqueeze(given, *range(missing)) if missing else given
    updates = transposed(emit, given, moved(given.ndim, range(place, place + rank), range(rank)))
    if any(map(is_data_size, coordinates.shape)):
        picked = emit.slice(emit.node("Shape", coordinates), 0, 0, rank)
        rest = emit.slice(emit.node("Shape", front), 0, len(axes), FAR)
        updates = emit.node("Expand", updates, emit.node("Concat", picked, rest, axis=0))
    result = scattered(emit, "ScatterND", front, coordinates, updates, reduction)
    back = transposed(emit, result, inverse(order))
    return back if same else emit.reshape(back, tensor.shape)


# Two-byte numbers, for which onnxruntime's kernels ask that; and truth, where a sum is "or" and a product "and".
REDUCED_IN = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.bool: torch.int32}


def scattered(
    emit: Emitter, op_type: str, data: Value, positions: Value, updates: Value, reduction: str | None, **attributes: Any
) -> Value:
    """ScatterND or ScatterElements; what it reduces in a dtype that onnxruntime has a kernel for."""
    working = REDUCED_IN.get(data.dtype, data.dtype) if reduction is not None else data.dtype
    wide, updates = (data, updates) if working == data.dtype else (emit.cast(v, working) for v in (data, updates))
    result = emit.node(op_type, wide, positions, updates, reduction=reduction, **attributes)
    return replace(result if working == data.dtype else emit.cast(result, data.dtype), spec=data.spec)


def _masked(emit: Emitter, tensor: Value, found: Subscript, given: Value) -> Value:
    """A choice between two tensors, mask and what is assigned laid along the tensor's own axes; where each place gets a
    value of its own, those are put there."""
    ((place, mask),) = found.picks.items()
    flags = emit.cast(mask, torch.bool)
    covered = found.layout[place : place + mask.ndim]
    extent: dict[int | None, Size] = dict(zip(covered, mask.shape, strict=True))
    # The view's axes from the back, the mask's taken together as the one that `given` has there.
    view = [*found.layout[:place], None, *found.layout[place + mask.ndim :]]
    axis = given.ndim - (len(view) - place)
    if axis >= 0 and not same_size(given.shape[axis], 1):
        return _scattered_through(emit, tensor, found, flags, given, axis)
    sizes = {axis: size for axis, size in zip(reversed(view), reversed(given.shape), strict=False) if axis is not None}
    if not same_size(product(given.shape), 1):
        given = emit.reshape(given, [sizes.get(axis, 1) for axis in range(tensor.ndim)])
    where = emit.reshape(flags, [extent.get(axis, 1) for axis in range(tensor.ndim)])
    return replace(chosen(emit, where, given, tensor), spec=tensor.spec)


def _scattered_through(emit: Emitter, tensor: Value, found: Subscript, flags: Value, given: Value, axis: int) -> Value:
    """The tensor with values at the places that a mask lets through, one after the other; `axis` is theirs.

    One ScatterND, with the axes that the mask covers at the front.
    """
    ((place, mask),) = found.picks.items()
    if mask.ndim == 0:
        emit.unsupported("several values for the one place of a mask without axes")
    view = [1 if source is None else tensor.shape[source] for source in found.layout]
    before, behind = found.layout[:place], found.layout[place + mask.ndim :]
    target = [*view[:place], given.shape[axis], *view[place + mask.ndim :]]
    own = [size for size, source in zip(target, [*before, -1, *behind], strict=True) if source is not None]
    full = expanded(emit, given, target)
    full = full if len(own) == len(target) else emit.reshape(full, own)
    count_axis = sum(source is not None for source in before)
    covered = [source for source in found.layout[place : place + mask.ndim] if source is not None]
    order = moved(tensor.ndim, covered, range(len(covered)))
    front = transposed(emit, tensor, order)
    updates = transposed(emit, full, moved(full.ndim, [count_axis], [0]))
    result = emit.node("ScatterND", front, places_of(emit, flags), updates)
    return transposed(emit, replace(result, spec=front.spec), inverse(order))


def places_of(emit: Emitter, flags: Value) -> Value:
    """The places that a mask lets through, one a row."""
    return emit.node("Transpose", emit.node("NonZero", flags), perm=[1, 0])


def chosen(emit: Emitter, condition: Value, first: Value, second: Value) -> Value:
    """`first` where the condition holds, else `second`, both of one dtype. onnxruntime has no Where for some."""
    wide = {torch.bool: torch.uint8, torch.int16: torch.int32}.get(second.dtype)
    if wide is None:
        return emit.node("Where", condition, first, second)
    result = emit.node("Where", condition, emit.cast(first, wide), emit.cast(second, wide))
    return emit.cast(result, second.dtype)


# The same by other names ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IndexPut(Record[T]):
    input: T
    indices: Sequence[Any]
    values: T
    accumulate: bool = False


index_put = Op("index_put", IndexPut, functions=(torch.index_put, torch.index_put_), methods=("index_put",))


@index_put.shape
def index_put_shape(call: IndexPut[TensorSpec]) -> TensorSpec:
    input, values = call.input, call.values
    check(values.dtype == input.dtype, "{} cannot be put into {}: the dtypes differ", values, input)
    room = _target_shape(read(input, tuple(call.indices), assigning=True), input.shape)
    check(values.ndim <= len(room), "{} cannot be put into elements of {} axes", values, len(room))
    return setitem_shape(Setitem(input, tuple(call.indices), values))


@index_put.lower
def lower_index_put(emit: Emitter, call: IndexPut[Value]) -> Value:
    if call.accumulate and not emit.allows(SCATTERED_SUM):
        emit.unsupported(f"ONNX adds at positions since opset {SCATTERED_SUM.since}")
    return assigned(emit, call.input, tuple(call.indices), call.values, "add" if call.accumulate else None)


@dataclass(frozen=True, slots=True)
class SelectScatter(Record[T]):
    input: T
    src: T
    dim: int
    index: Size


select_scatter = Op("select_scatter", SelectScatter, functions=(torch.select_scatter,), methods=("select_scatter",))


@dataclass(frozen=True, slots=True)
class SliceScatter(Record[T]):
    input: T
    src: T
    dim: int = 0
    start: Size | None = None
    end: Size | None = None
    step: int = 1


slice_scatter = Op("slice_scatter", SliceScatter, functions=(torch.slice_scatter,), methods=("slice_scatter",))


def _replaced(input: TensorSpec, src: TensorSpec, index: Any) -> TensorSpec:
    part = getitem_shape(Getitem(input, index))
    check(part.shape == src.shape, "{} takes the place of a part of shape {}", src, shape_text(part.shape))
    return input


@select_scatter.shape
def select_scatter_shape(call: SelectScatter[TensorSpec]) -> TensorSpec:
    return _replaced(call.input, call.src, along(call.input.ndim, call.dim, call.index))


@select_scatter.lower
def lower_select_scatter(emit: Emitter, call: SelectScatter[Value]) -> Value:
    return assigned(emit, call.input, along(call.input.ndim, call.dim, call.index), call.src)


@slice_scatter.shape
def slice_scatter_shape(call: SliceScatter[TensorSpec]) -> TensorSpec:
    return _replaced(call.input, call.src, along(call.input.ndim, call.dim, slice(call.start, call.end, call.step)))


@slice_scatter.lower
def lower_slice_scatter(
    emit: Emitter, call: SliceScatter[Value]) -> Value:  # fmt: skip
    return assigned(
        emit, call.input, along(call.input.ndim, call.dim, slice(call.start, call.end, call.step)), call.src
    )
