"""Subscripts: `x[...]`, `x[...] = y`, and the ops that are one of these by another name.

A subscript is read as torch reads it. Numbers, slices, None and `...` are *basic*: they give a view. What
tensors (or lists) then remain are *picks* on axes of that view; their broadcast shape replaces the axes they are
on, in place where these are neighbours, else at the front.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import NeedsDataError, ShapeError, UnsupportedOpError, check
from passes.ops.axes import axis_of, moved
from passes.ops.layout import transposed
from passes.ops.op import Op
from passes.ops.positions import clamped, distance
from passes.ops.promotion import broadcast_shapes
from passes.ops.record import Record, T
from passes.ops.repetition import FAR, expanded
from passes.sizes.dimension import Dim, Size, product, same_size
from passes.sizes.unknown import DataSize, is_data_size
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


_WITHOUT_AXES = "a mask without axes beside other indices is not known"


@dataclass(frozen=True, slots=True)
class Span:
    """A slice of one axis. `start` and `stop` are as written, which ONNX clamps as Python does; `length` is known."""

    start: Size
    stop: Size
    step: int
    first: Size
    length: Size


@dataclass(slots=True)
class Subscript:
    """A subscript read against a shape.

    `spans` and `points` are by axis of the tensor; `layout` lists the view's axes, each the tensor's axis that
    it is or None where it is new; `picks` are by axis of the view. A mask spans as many axes as it has.
    """

    spans: dict[int, Span]
    points: dict[int, Any]
    layout: list[int | None]
    picks: dict[int, Any]

    def view_shape(self, shape: Sequence[Size]) -> list[Size]:
        sizes = [self.spans[axis].length if axis in self.spans else size for axis, size in enumerate(shape)]
        return [1 if axis is None else sizes[axis] for axis in self.layout]


def read(tensor: TensorSpec | Value, index: Any, *, assigning: bool = False) -> Subscript:
    """The subscript `index` of a tensor. Raises ShapeError where torch refuses it.

    A 0-d index tensor is a point where elements are read, and a pick where they are assigned.
    """
    shape = tensor.shape
    entries = [_as_pick(entry) for entry in (index if type(index) is tuple else [index])]
    consumed = sum(map(_axes_consumed, entries))
    check(
        consumed <= len(shape),
        "{} indices are given for a tensor of {} axes, {}",
        consumed, len(shape), shape_text(tuple(shape)),
        remedy="give at most {1} indices",
    )  # fmt: skip
    rest = [slice(None)] * (len(shape) - consumed)
    dots = [position for position, entry in enumerate(entries) if entry is Ellipsis]
    check(len(dots) <= 1, "a subscript takes one ellipsis, found {}", len(dots))
    if dots:
        entries[dots[0] : dots[0] + 1] = rest
    else:
        entries += rest
    found = Subscript({}, {}, [], {})
    axis = 0
    for entry in entries:
        if entry is None:
            found.layout.append(None)
        elif isinstance(entry, slice):
            if (span := _span(entry, shape[axis])) is not None:
                found.spans[axis] = span
            found.layout.append(axis)
            axis += 1
        elif isinstance(entry, (int, Dim)) or (entry.ndim == 0 and not is_mask(entry) and not assigning):
            if isinstance(entry, (int, Dim)):
                size = shape[axis]
                fits = -size <= entry and entry < size
                check(
                    fits,
                    "index {} is out of range for axis {} of size {}",
                    entry, axis, size,
                    remedy="use an index below {2}",
                )  # fmt: skip
            found.points[axis] = entry
            axis += 1
        else:
            if len(found.layout) in found.picks:
                raise UnsupportedOpError(_WITHOUT_AXES)
            found.picks[len(found.layout)] = entry
            covered = range(axis, axis + _axes_consumed(entry))
            if is_mask(entry):
                _check_mask(entry, [shape[one] for one in covered])
            found.layout += covered
            axis += len(covered)
    return found


def along(ndim: int, dim: int, entry: Any) -> tuple[Any, ...]:
    """The subscript that is `entry` on one axis and everything on the others."""
    check(ndim >= 1, "a 0-d tensor has no axis to take a part of")
    return (*[slice(None)] * axis_of(dim, ndim), entry)


def _as_pick(entry: Any) -> Any:
    """A list of numbers is a tensor of them; a list of flags is a mask."""
    if isinstance(entry, bool):
        raise UnsupportedOpError("a subscript that is True or False is not known", remedy="index with None or a tensor")
    if entry is None or entry is Ellipsis or isinstance(entry, (int, Dim, slice)):
        return entry
    if isinstance(entry, (list, tuple, range)):
        try:
            entry = torch.tensor(entry)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ShapeError(f"{entry} is no index: {error}") from error
        entry = entry if entry.numel() else entry.long()
    check(
        getattr(entry, "dtype", None) in (torch.int64, torch.int32, torch.bool, torch.uint8),
        "tensors used as indices are int64, int32 or bool, found {}",
        entry,
    )
    return entry


def is_mask(entry: Any) -> bool:
    return getattr(entry, "dtype", None) in (torch.bool, torch.uint8)


def _axes_consumed(entry: Any) -> int:
    if entry is None or entry is Ellipsis:
        return 0
    return int(entry.ndim) if is_mask(entry) else 1


def _span(entry: slice, size: Size) -> Span | None:
    """A slice of an axis, clamped as Python's; None where it is plainly the whole axis."""
    step = 1 if entry.step is None else entry.step
    check(isinstance(step, int) and step > 0, "the step of a slice must be positive, found {}", step)
    start: Size = 0 if entry.start is None else entry.start
    stop: Size = FAR if entry.stop is None else entry.stop
    for bound in (start, stop):
        if not isinstance(bound, (int, Dim)):
            raise NeedsDataError(f"a slice to {bound} has a length that depends on data")
    first = clamped(start, size)
    # An end past every size that can be leaves nothing to ask of a dynamic one.
    end = size if isinstance(stop, int) and stop >= 2**31 - 1 else clamped(stop, size)
    if step == 1 and same_size(first, 0) and same_size(end, size):
        return None
    return Span(start, stop, step, first, (distance(first, end) + step - 1) // step)


def _check_mask(mask: Any, covered: Sequence[Size]) -> None:
    check(
        all(found == size for found, size in zip(mask.shape, covered, strict=True)),
        "a mask {} does not fit the axes {} that it is on",
        shape_text(tuple(mask.shape)),
        shape_text(tuple(covered)),
    )


def listed(pick: Any) -> Any:
    """A mask that is known now, as the numbers of the elements that it lets through."""
    if isinstance(pick, torch.Tensor) and pick.dtype == torch.bool:
        if pick.ndim != 1:
            raise UnsupportedOpError("a mask written out over several axes is not known")
        return pick.nonzero()[:, 0]
    return pick


def neighbours(axes: Sequence[int]) -> bool:
    return list(axes) == list(range(axes[0], axes[0] + len(axes)))


# x[...] ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Getitem(Record[T]):
    input: T
    index: Any


getitem = Op("getitem", Getitem, functions=(operator.getitem,), methods=("__getitem__",), view=True)


@getitem.shape
def getitem_shape(call: Getitem[TensorSpec]) -> TensorSpec:
    found = read(call.input, call.index)
    view = found.view_shape(call.input.shape)
    if (masked := only_mask(found)) is not None:
        place, mask = masked
        return call.input.with_shape(*view[:place], mask_count(mask), *view[place + mask.ndim :])
    return call.input.with_shape(*picked_shape(view, spread_masks(found, counts_of)))


def only_mask(found: Subscript) -> tuple[int, Any] | None:
    """The axis of the view at which a mask begins whose elements only the data say, and the mask, where there is no
    other index beside it."""
    ((axis, pick), *others) = found.picks.items() or [(0, None)]
    return (axis, pick) if pick is not None and not others and is_mask(listed(pick)) else None


def spread_masks(found: Subscript, indices_of: Callable[[Any], Sequence[Any]]) -> dict[int, Any]:
    """The picks with `indices_of(mask)` in place of each mask: an index for each of the axes that it is on.

    That is what a mask beside other indices stands for.
    """
    spread: dict[int, Any] = {}
    for axis, pick in found.picks.items():
        pick = listed(pick)
        if not is_mask(pick):
            spread[axis] = pick
        elif not pick.ndim:
            raise UnsupportedOpError(_WITHOUT_AXES)
        else:
            spread |= dict(enumerate(indices_of(pick), start=axis))
    return spread


def counts_of(mask: Any) -> list[TensorSpec]:
    """The indices that a mask stands for, as far as they are known before it is."""
    return [TensorSpec((mask_count(mask),), torch.int64)] * mask.ndim


def mask_count(mask: TensorSpec, shape: Sequence[Size] | None = None) -> Any:
    """How many elements a mask lets through, once it is broadcast to a shape."""
    same = shape is None or tuple(shape) == mask.shape
    return DataSize(
        "number of elements that are not zero",
        0,
        product(mask.shape if shape is None else shape),
        mask if same else None,
    )


def through_mask(emit: Emitter, value: Value, mask: Value, axis: int) -> Value:
    """The parts of a value that a mask lets through, which lies on its axes from `axis` on: one Compress."""
    if mask.ndim == 0:
        value, mask = emit.unsqueeze(value, axis), emit.unsqueeze(mask, 0)
    elif mask.ndim > 1:
        count = product(mask.shape)
        value = emit.reshape(value, [*value.shape[:axis], count, *value.shape[axis + mask.ndim :]])
        mask = emit.reshape(mask, [count])
    return emit.node("Compress", value, emit.cast(mask, torch.bool), axis=axis)


def picked_shape(view: Sequence[Size], picks: dict[int, Any]) -> list[Size]:
    if not picks:
        return list(view)
    axes = list(picks)
    shape = broadcast_shapes(*(tuple(pick.shape) for pick in picks.values()))
    place = axes[0] if neighbours(axes) else 0
    rest = [size for axis, size in enumerate(view) if axis not in picks]
    return [*rest[:place], *shape, *rest[place:]]


@getitem.identity("index_all", why="An index that takes every axis whole and adds none picks all elements in order.")
def getitem_identity(result: TensorSpec, call: Getitem[TensorSpec]) -> bool:
    found = read(call.input, call.index)
    return not (found.spans or found.points or found.picks or None in found.layout)


@getitem.lower
def lower_getitem(emit: Emitter, call: Getitem[Value]) -> Value:
    """Slice, Gather and Unsqueeze for the basic part, one each where possible; for the picks Gather, GatherND, or
    Compress for a mask."""
    found = read(call.input, call.index)
    value = sliced(emit, call.input, found.spans)
    for axis in sorted(found.points, reverse=True):
        value = _gathered(emit, value, _position(emit, found.points[axis]), axis)
    new = [axis for axis, source in enumerate(found.layout) if source is None]
    if new:
        value = emit.unsqueeze(value, *new)
    if (masked := only_mask(found)) is not None:
        return through_mask(emit, value, masked[1], masked[0])
    picks = {axis: pick_value(emit, pick) for axis, pick in spread_masks(found, partial(places_on, emit)).items()}
    return _picked(emit, value, picks) if picks else value


def places_on(emit: Emitter, mask: Value) -> list[Value]:
    """The places that a mask lets through: an index for each of its axes."""
    rows = emit.node("NonZero", emit.cast(mask, torch.bool))
    each = emit.split(rows, [1] * mask.ndim, 0) if mask.ndim > 1 else [rows]
    return [
        replace(emit.node("Squeeze", row, emit.ints(0)), spec=spec)
        for row, spec in zip(each, counts_of(mask), strict=True)
    ]


def sliced(emit: Emitter, value: Value, spans: dict[int, Span]) -> Value:
    """All slices in one node."""
    if not spans:
        return value
    steps = [span.step for span in spans.values()]
    result = emit.node(
        "Slice",
        value,
        emit.sizes(span.start for span in spans.values()),
        emit.sizes(span.stop for span in spans.values()),
        emit.ints(*spans),
        emit.ints(*steps) if any(step != 1 for step in steps) else None,
    )
    assert value.spec is not None
    shape = (spans[axis].length if axis in spans else size for axis, size in enumerate(value.shape))
    return replace(result, spec=value.spec.with_shape(*shape))


def _position(emit: Emitter, point: Any) -> Value:
    """A 0-d index."""
    if isinstance(point, Dim):
        return replace(emit.squeeze(emit.size(point), 0), spec=TensorSpec((), torch.int64))
    return emit.scalar(point, torch.int64) if isinstance(point, int) else pick_value(emit, point)


def pick_value(emit: Emitter, pick: Any) -> Value:
    return emit.constant(listed(pick)) if isinstance(pick, torch.Tensor) else pick


def _gathered(emit: Emitter, value: Value, index: Value, axis: int) -> Value:
    """The elements at `index` along an axis, which the index's axes replace."""
    assert value.spec is not None
    shape = (*value.shape[:axis], *index.shape, *value.shape[axis + 1 :])
    return replace(emit.node("Gather", value, index, axis=axis), spec=value.spec.with_shape(*shape))


def coordinates_of(emit: Emitter, picks: Sequence[Value]) -> Value:
    """Indices side by side along a new last axis, as GatherND and ScatterND take them."""
    shape = broadcast_shapes(*(pick.shape for pick in picks))
    whole = [emit.cast(pick, torch.int64) for pick in picks]
    if any(map(is_data_size, shape)):
        together = emit.node("Shape", reduce(partial(emit.node, "Add"), whole))
        whole = [replace(emit.node("Expand", pick, together), spec=TensorSpec(shape, torch.int64)) for pick in whole]
    columns = [emit.unsqueeze(expanded(emit, pick, shape), len(shape)) for pick in whole]
    spec = TensorSpec((*shape, len(picks)), torch.int64)
    return columns[0] if len(columns) == 1 else replace(emit.node("Concat", *columns, axis=-1), spec=spec)


def _picked(emit: Emitter, value: Value, picks: dict[int, Value]) -> Value:
    """One pick is a Gather. Several are a GatherND, with their axes at the front and the result's put in place."""
    axes = list(picks)
    if len(axes) == 1:
        return _gathered(emit, value, picks[axes[0]], axes[0])
    front = transposed(emit, value, moved(value.ndim, axes, range(len(axes))))
    coordinates = coordinates_of(emit, list(picks.values()))
    result = emit.node("GatherND", front, coordinates)
    rank = coordinates.ndim - 1
    place = axes[0] if neighbours(axes) else 0
    return transposed(emit, result, moved(len(emit.result.shape), range(rank), range(place, place + rank)))
