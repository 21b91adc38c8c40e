"""Where a tensor is not zero, and the elements there: results whose size the data say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from passes.errors import check
from passes.ops.indexing import mask_count, through_mask
from passes.ops.op import Op
from passes.ops.positions import may_be_negative
from passes.ops.promotion import broadcast_shapes
from passes.ops.record import Record, T
from passes.ops.repetition import expanded
from passes.sizes.dimension import Size
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class Nonzero(Record[T]):
    input: T
    as_tuple: bool = False


nonzero = Op("nonzero", Nonzero, functions=(torch.nonzero,), methods=("nonzero",))


@nonzero.function(torch.argwhere)
@nonzero.method("argwhere")
def bind_argwhere(input: Any) -> Mapping[str, Any]:
    return {"input": input, "as_tuple": False}


@nonzero.shape
def nonzero_shape(call: Nonzero[TensorSpec]) -> TensorSpec | tuple[TensorSpec, ...]:
    """The places, one a row; or one tensor for each axis, where a 0-d tensor counts as of one axis."""
    input, count = call.input, mask_count(call.input)
    if call.as_tuple:
        return (TensorSpec((count,), torch.int64, input.device),) * max(input.ndim, 1)
    return TensorSpec((count, input.ndim), torch.int64, input.device)


@nonzero.lower
def lower_nonzero(emit: Emitter, call: Nonzero[Value]) -> Value | tuple[Value, ...]:
    """NonZero, which gives one row for each axis."""
    input = call.input
    if not call.as_tuple:
        return places_in_rows(emit, input)
    rows = _nonzero(emit, input)
    if input.ndim <= 1:
        return (emit.node("Squeeze", rows, emit.ints(0)),)
    return tuple(emit.node("Gather", rows, emit.scalar(axis, torch.int64), axis=0) for axis in range(input.ndim))


def places_in_rows(emit: Emitter, input: Value) -> Value:
    """The places of what is not zero, one a row; of a 0-d tensor rows without columns."""
    columns = emit.node("Transpose", _nonzero(emit, input), perm=[1, 0])
    return columns if input.ndim else emit.node("Slice", columns, emit.ints(0), emit.ints(0), emit.ints(1))


def _nonzero(emit: Emitter, input: Value) -> Value:
    return emit.node("NonZero", emit.cast(input if input.ndim else emit.unsqueeze(input, 0), torch.bool))


@dataclass(frozen=True, slots=True)
class NonzeroStatic(Record[T]):
    input: T
    size: Size
    fill_value: int = -1


nonzero_static = Op("nonzero_static", NonzeroStatic, functions=(torch.nonzero_static,), methods=("nonzero_static",))


@nonzero_static.shape
def nonzero_static_shape(call: NonzeroStatic[TensorSpec]) -> TensorSpec:
    """So many places, one a row, whatever is found."""
    check(not may_be_negative(call.size) or call.size >= 0, "there cannot be {} places", call.size)
    return TensorSpec((call.size, call.input.ndim), torch.int64, call.input.device)


@nonzero_static.lower
def lower_nonzero_static(emit: Emitter, call: NonzeroStatic[Value]) -> Value:
    """The places that are found, then so many rows of the fill value; of these the first."""
    shape = emit.result.shape
    found = places_in_rows(emit, call.input)
    rest = emit.node("Expand", emit.scalar(call.fill_value, torch.int64), emit.sizes(shape))
    return emit.slice(emit.node("Concat", found, rest, axis=0), 0, 0, shape[0])


@dataclass(frozen=True, slots=True)
class MaskedSelect(Record[T]):
    input: T
    mask: T


masked_select = Op("masked_select", MaskedSelect, functions=(torch.masked_select,), methods=("masked_select",))


@masked_select.shape
def masked_select_shape(call: MaskedSelect[TensorSpec]) -> TensorSpec:
    input, mask = call.input, call.mask
    check(mask.dtype == torch.bool, "masked_select takes a mask of bool, found {}", mask.dtype)
    shape = broadcast_shapes(input.shape, mask.shape)
    return input.with_shape(mask_count(mask, shape))


@masked_select.lower
def lower_masked_select(emit: Emitter, call: MaskedSelect[Value]) -> Value:
    """One Compress of what both broadcast to."""
    shape = broadcast_shapes(call.input.shape, call.mask.shape)
    input, mask = (expanded(emit, value, shape) for value in (call.input, call.mask))
    if not shape:
        input, mask = (emit.unsqueeze(value, 0) for value in (input, mask))
    return through_mask(emit, input, mask, 0)


__all__ = ["Nonzero", "lower_nonzero", "masked_select", "nonzero", "nonzero_shape"]
