"""Where a tensor is not zero, and the elements there: results whose size the data say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from passes.errors import check
from passes.ops.indexing import mask_count, through_mask
from passes.ops.op import Op
from passes.ops.promotion import broadcast_shapes
from passes.ops.record import Record, T
from passes.ops.repetition import expanded
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
    flags = emit.cast(input if input.ndim else emit.unsqueeze(input, 0), torch.bool)
    rows = emit.node("NonZero", flags)
    if call.as_tuple:
        if input.ndim <= 1:
            return (emit.node("Squeeze", rows, emit.ints(0)),)
        return tuple(emit.node("Gather", rows, emit.scalar(axis, torch.int64), axis=0) for axis in range(input.ndim))
    columns = emit.node("Transpose", rows, perm=[1, 0])
    return columns if input.ndim else emit.node("Slice", columns, emit.ints(0), emit.ints(0), emit.ints(1))


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
