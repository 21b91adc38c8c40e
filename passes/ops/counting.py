"""How often each number occurs, and numbers as flags of a class each: the largest of them says how many there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from passes.errors import NeedsDataError, check
from passes.onnx.opsets import scattering
from passes.ops.op import Op
from passes.ops.positions import may_be_negative
from passes.ops.record import Record, T
from passes.sizes.dimension import Size, may_be_zero, same_size
from passes.sizes.floating import is_exactly
from passes.sizes.unknown import DataSize
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class OneHot(Record[T]):
    input: T
    num_classes: Size = -1


one_hot = Op("one_hot", OneHot, functions=(F.one_hot,))


@one_hot.shape
def one_hot_shape(call: OneHot[TensorSpec]) -> TensorSpec:
    input, num_classes = call.input, call.num_classes
    check(input.dtype == torch.int64, "one_hot needs int64 indices, found {}", input.dtype)
    if is_exactly(num_classes, -1):
        check(input.numel() >= 1, "one_hot of {} has no largest class, which says how many there are", input)
        classes: Any = DataSize("number of classes that one_hot finds", 1, None, input)
        return input.with_shape(*input.shape, classes)
    check(not may_be_negative(num_classes) or num_classes >= 0, "one_hot cannot have {} classes", num_classes)
    return input.with_shape(*input.shape, num_classes)


@one_hot.lower
def lower_one_hot(emit: Emitter, call: OneHot[Value]) -> Value:
    input, values = call.input, emit.ints(0, 1)
    depth = (
        emit.node("Add", emit.reshape(_largest(emit, input), [1]), emit.ints(1))
        if is_exactly(call.num_classes, -1)
        else emit.size(call.num_classes)
    )
    if input.ndim:
        return emit.node("OneHot", input, depth, values, axis=-1)
    return emit.squeeze(emit.node("OneHot", emit.unsqueeze(input, 0), depth, values, axis=-1), 0)


def _largest(emit: Emitter, input: Value) -> Value:
    return replace(emit.reduce("ReduceMax", input, None, False), spec=TensorSpec((), torch.int64))


@dataclass(frozen=True, slots=True)
class Bincount(Record[T]):
    input: T
    weights: T | None = None
    minlength: Size = 0


bincount = Op("bincount", Bincount, functions=(torch.bincount,), methods=("bincount",))


@bincount.shape
def bincount_shape(call: Bincount[TensorSpec]) -> TensorSpec:
    input, weights, minlength = call.input, call.weights, call.minlength
    whole = not (input.dtype.is_floating_point or input.dtype.is_complex or input.dtype == torch.bool)
    check(input.ndim == 1 and whole, "bincount takes a vector of integers, found {}", input)
    check(not may_be_negative(minlength) or minlength >= 0, "bincount cannot have {} bins", minlength)
    if same_size(input.shape[0], 0):
        return TensorSpec((minlength,), torch.int64, input.device)
    bins: Any = DataSize("number of bins that bincount finds", minlength, None)
    if weights is None:
        return TensorSpec((bins,), torch.int64, input.device)
    check(weights.shape == input.shape, "the weights {} are not one for each of {}", weights, input)
    if may_be_zero(input.shape[0]):
        raise NeedsDataError(
            "bincount with weights gives floats, but int64 where there is nothing to count, which the data say",
            remedy="use torch.zeros(bins).index_add(0, numbers, weights)",
        )
    dtype = torch.float32 if weights.dtype == torch.float32 else torch.float64
    return TensorSpec((bins,), dtype, input.device)


@bincount.lower
def lower_bincount(emit: Emitter, call: Bincount[Value]) -> Value:
    """The weights added up where the numbers say, in as many bins as the largest of them needs."""
    input, dtype = emit.cast(call.input, torch.int64), emit.result.dtype
    if same_size(input.shape[0], 0):
        return emit.node("Expand", emit.scalar(0, dtype), emit.sizes([call.minlength]))
    least = emit.node("Sub", emit.size(call.minlength), emit.ints(1))
    numbers = emit.node("Concat", input, least, axis=0)
    bins = emit.node("Add", emit.node("Reshape", _largest(emit, numbers), emit.ints(1)), emit.ints(1))
    zeros = emit.node("Expand", emit.scalar(0, dtype), bins)
    if call.weights is None:
        # Each number is there once, so that nothing is to be added up.
        found, _, _, counts = emit.nodes("Unique", input, outputs=4, sorted=1)
        return emit.node("ScatterElements", zeros, found, counts, axis=0)
    weights = emit.cast(call.weights, dtype)
    if emit.allows(scattering("add")):
        return emit.node("ScatterElements", zeros, input, weights, axis=0, reduction="add")
    flags = emit.node("OneHot", input, bins, emit.ints(0, 1), axis=0)
    flags = emit.cast(replace(flags, spec=TensorSpec((), torch.int64)), dtype)
    return emit.squeeze(emit.node("MatMul", flags, emit.unsqueeze(weights, 1)), 1)


__all__ = ["bincount", "one_hot"]
