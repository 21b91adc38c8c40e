"""Elements taken from or put into a tensor at positions along an axis: gather, scatter, select."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.onnx.opsets import scattering
from passes.ops.assignment import places_of, scattered
from passes.ops.axes import axis_of
from passes.ops.op import Op
from passes.ops.promotion import as_value, broadcast_shapes, is_number
from passes.ops.record import Record, T
from passes.ops.repetition import expanded
from passes.sizes.dimension import Size, is_static, product, same_size, sampled
from passes.sizes.floating import is_exactly
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

INDEX_DTYPES = (torch.int64, torch.int32)


def _at_least_1d(emit: Emitter, value: Value) -> Value:
    """torch takes a 0-d tensor for one with a single axis where an axis is named."""
    return value if value.ndim else emit.unsqueeze(value, 0)


@dataclass(frozen=True, slots=True)
class IndexSelect(Record[T]):
    input: T
    dim: int
    index: T


index_select = Op("index_select", IndexSelect, functions=(torch.index_select,), methods=("index_select",))


@index_select.shape
def index_select_shape(call: IndexSelect[TensorSpec]) -> TensorSpec:
    input, index = call.input, call.index
    axis = axis_of(call.dim, input.ndim)
    check(index.ndim <= 1, "index_select takes an index of 1 axis, found {}", index.ndim)
    check(
        index.dtype in INDEX_DTYPES,
        "the index is {}, which is neither int64 nor int32",
        index.dtype,
        remedy="convert it: index.long()",
    )
    if not input.ndim:
        check(index.numel() == 1, "index_select of a 0-d tensor takes 1 index, found {}", index.numel())
        return input
    return input.with_shape(*input.shape[:axis], index.numel(), *input.shape[axis + 1 :])


@index_select.places("index")
def index_select_places(call: IndexSelect[TensorSpec]) -> Size:
    return call.input.shape[axis_of(call.dim, call.input.ndim)] if call.input.ndim else 1


@index_select.lower
def lower_index_select(emit: Emitter, call: IndexSelect[Value]) -> Value:
    input = call.input
    if not input.ndim:
        return input
    return emit.node("Gather", input, _at_least_1d(emit, call.index), axis=axis_of(call.dim, input.ndim))


# One position per element ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gather(Record[T]):
    input: T
    dim: int
    index: T
    sparse_grad: bool = False


gather = Op("gather", Gather, functions=(torch.gather,), methods=("gather",))


@gather.shape
def gather_shape(call: Gather[TensorSpec]) -> TensorSpec:
    _check_index(call.input, axis_of(call.dim, call.input.ndim), call.index)
    return call.input.with_shape(*call.index.shape)


def _check_index(input: TensorSpec, axis: int, index: TensorSpec, source: TensorSpec | None = None) -> None:
    """An index has as many axes as the tensor, and is nowhere larger but along the axis that it indexes."""
    if same_size(index.numel(), 0):
        return
    check(
        index.dtype in INDEX_DTYPES,
        "the index is {}, which is neither int64 nor int32",
        index.dtype,
        remedy="convert it: index.long()",
    )
    check(max(index.ndim, 1) == max(input.ndim, 1), "index {} and tensor {} have unlike axes", index, input)
    for other, size in enumerate(index.shape):
        if input.ndim and other != axis:
            check(size <= input.shape[other], "index {} is larger than the tensor {} on axis {}", index, input, other)
    if source is not None:
        check(max(source.ndim, 1) == max(index.ndim, 1), "index {} and source {} have unlike axes", index, source)
        for other in range(min(index.ndim, source.ndim)):
            size = source.shape[other]
            check(index.shape[other] <= size, "index {} is larger than the source {} on axis {}", index, source, other)


@gather.lower
def lower_gather(emit: Emitter, call: Gather[Value]) -> Value:
    index = call.index
    axis = axis_of(call.dim, call.input.ndim)
    if is_static(index.shape) and 0 in index.shape:  # torch takes any dtype and rank where nothing is gathered
        return emit.constant(torch.empty(sampled(index.shape), dtype=call.input.dtype))
    lifted, positions = _at_least_1d(emit, call.input), _at_least_1d(emit, index)
    result = emit.node("GatherElements", lifted, positions, axis=axis)
    return result if index.ndim else emit.squeeze(result, 0)


@dataclass(frozen=True, slots=True)
class TakeAlongDim(Record[T]):
    input: T
    indices: T
    dim: int | None = None


take_along_dim = Op("take_along_dim", TakeAlongDim, functions=(torch.take_along_dim,), methods=("take_along_dim",))


def _without(shape: tuple[Size, ...], axis: int) -> tuple[Size, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])


@take_along_dim.shape
def take_along_dim_shape(call: TakeAlongDim[TensorSpec]) -> TensorSpec:
    input, indices = call.input, call.indices
    check(indices.dtype == torch.int64, "take_along_dim takes int64 indices, found {}", indices.dtype)
    if call.dim is None:
        return input.with_shape(indices.numel())
    check(input.ndim == indices.ndim >= 1, "input {} and indices {} have unlike axes, or none", input, indices)
    axis = axis_of(call.dim, input.ndim)
    shape = broadcast_shapes(_without(input.shape, axis), _without(indices.shape, axis))
    return input.with_shape(*shape[:axis], *indices.shape[axis : axis + 1], *shape[axis + 1 :])


@take_along_dim.lower
def lower_take_along_dim(emit: Emitter, call: TakeAlongDim[Value]) -> Value:
    input = call.input
    if call.dim is None:
        flat = emit.reshape(input, [product(input.shape)])
        return emit.node("Gather", flat, emit.reshape(call.indices, [product(call.indices.shape)]), axis=0)
    axis = axis_of(call.dim, input.ndim)
    shape = list(emit.result.shape)
    positions = expanded(emit, call.indices, shape)
    shape[axis] = input.shape[axis]
    return emit.node("GatherElements", expanded(emit, input, shape), positions, axis=axis)


@dataclass(frozen=True, slots=True)
class Take(Record[T]):
    input: T
    index: T


take = Op("take", Take, functions=(torch.take,), methods=("take",))


@take.shape
def take_shape(call: Take[TensorSpec]) -> TensorSpec:
    index = call.index
    check(index.dtype == torch.int64, "take needs an int64 index, found {}", index.dtype)
    if same_size(call.input.numel(), 0):
        check(same_size(index.numel(), 0), "{} elements are taken from an empty tensor", index.numel())
    return call.input.with_shape(*index.shape)


@take.lower
def lower_take(emit: Emitter, call: Take[Value]) -> Value:
    flat = call.input if call.input.ndim == 1 else emit.reshape(call.input, [product(call.input.shape)])
    return emit.node("Gather", flat, call.index, axis=0)


@dataclass(frozen=True, slots=True)
class Put(Record[T]):
    input: T
    index: T
    source: T
    accumulate: bool = False


put = Op("put", Put, methods=("put",))


@put.shape
def put_shape(call: Put[TensorSpec]) -> TensorSpec:
    """The tensor with elements at places, counted through all of it, replaced or added to."""
    input, index, source = call.input, call.index, call.source
    check(index.dtype == torch.int64, "put needs an int64 index, found {}", index.dtype)
    check(source.dtype == input.dtype, "{} cannot be put into {}: the dtypes differ", source, input)
    check(source.numel() == index.numel(), "{} cannot be put at the places {}: so many are not there", source, index)
    return input


@put.lower
def lower_put(emit: Emitter, call: Put[Value]) -> Value:
    count = product(call.index.shape)
    if call.accumulate and not emit.allows(scattering("add")):
        emit.unsupported(f"ONNX adds at positions since opset {scattering('add').since}")
    flat = emit.reshape(call.input, [product(call.input.shape)])
    index, source = (emit.reshape(value, [count]) for value in (call.index, call.source))
    found = scattered(emit, "ScatterElements", flat, index, source, "add" if call.accumulate else None, axis=0)
    return emit.reshape(found, call.input.shape)


@dataclass(frozen=True, slots=True)
class MaskedScatter(Record[T]):
    input: T
    mask: T
    source: T


masked_scatter = Op("masked_scatter", MaskedScatter, functions=(torch.masked_scatter,), methods=("masked_scatter",))


@masked_scatter.shape
def masked_scatter_shape(call: MaskedScatter[TensorSpec]) -> TensorSpec:
    input = call.input
    check(call.mask.dtype == torch.bool, "the mask must be bool, found {}", call.mask)
    check(call.source.dtype == input.dtype, "{} cannot be put into {}: the dtypes differ", call.source, input)
    return input.with_shape(*broadcast_shapes(input.shape, call.mask.shape))


@masked_scatter.lower
def lower_masked_scatter(emit: Emitter, call: MaskedScatter[Value]) -> Value:
    shape = emit.result.shape
    if same_size(product(call.source.shape), 0):
        return expanded(emit, call.input, shape)
    places = places_of(emit, expanded(emit, call.mask, shape))
    count = emit.axis_size(places, 0)
    source = emit.reshape(call.source, [product(call.source.shape)])
    updates = emit.node("Slice", source, emit.ints(0), count, emit.ints(0))
    return emit.node("ScatterND", expanded(emit, call.input, shape), places, updates)


@dataclass(frozen=True, slots=True)
class Scatter(Record[T]):
    input: T
    dim: int
    index: T
    src: Any = None
    value: Any = None
    reduce: str | None = None


scatter = Op("scatter", Scatter, functions=(torch.scatter,), methods=("scatter",))

# How each reduction is called in ONNX, and what leaves the other operand as it is.
REDUCTIONS = {"add": "add", "sum": "add", "multiply": "mul", "prod": "mul", "amax": "max", "amin": "min"}


@scatter.shape
def scatter_shape(call: Scatter[TensorSpec]) -> TensorSpec:
    source = call.value if call.src is None else call.src
    check(source is not None, "scatter is given nothing to scatter")
    check(call.reduce in (None, "add", "multiply"), "reduce is 'add' or 'multiply', not {!r}", call.reduce)
    return _scattered(call.input, call.dim, call.index, source)


def _scattered(input: TensorSpec, dim: int, index: TensorSpec, source: Any) -> TensorSpec:
    tensor = source if isinstance(source, TensorSpec) else None
    check(tensor is None or tensor.dtype == input.dtype, "{} cannot be scattered into {}", tensor, input)
    _check_index(input, axis_of(dim, input.ndim), index, tensor)
    return input


def _lower_scattered(emit: Emitter, input: Value, dim: int, index: Value, source: Any, reduction: str | None) -> Value:
    """ScatterElements; of a source larger than the index, its first elements on every axis."""
    if same_size(product(index.shape), 0):
        return input
    if reduction is not None and not emit.allows(scattering(reduction)):
        first = scattering(reduction).since
        emit.unsupported(f"ONNX has no scatter with the reduction {reduction!r} before opset {first}")
    axis = axis_of(dim, input.ndim)
    lifted, positions = _at_least_1d(emit, input), _at_least_1d(emit, index)
    updates = as_value(emit, source, input.dtype)
    if is_number(source):
        updates = expanded(emit, updates, positions.shape)
    updates = _at_least_1d(emit, updates)
    for other, (size, found) in enumerate(zip(positions.shape, updates.shape, strict=True)):
        if not same_size(size, found):
            updates = replace(emit.slice(updates, other, 0, size), spec=updates.spec)
    result = scattered(emit, "ScatterElements", lifted, positions, updates, reduction, axis=axis)
    return result if input.ndim else emit.squeeze(result, 0)


@scatter.lower
def lower_scatter(emit: Emitter, call: Scatter[Value]) -> Value:
    reduction = REDUCTIONS[call.reduce] if call.reduce is not None else None
    return _lower_scattered(
        emit, call.input, call.dim, call.index, call.value if call.src is None else call.src, reduction
    )


@dataclass(frozen=True, slots=True)
class ScatterAdd(Record[T]):
    input: T
    dim: int
    index: T
    src: T


scatter_add = Op("scatter_add", ScatterAdd, functions=(torch.scatter_add,), methods=("scatter_add",))


@scatter_add.shape
def scatter_add_shape(call: ScatterAdd[TensorSpec]) -> TensorSpec:
    return _scattered(call.input, call.dim, call.index, call.src)


@scatter_add.lower
def lower_scatter_add(emit: Emitter, call: ScatterAdd[Value]) -> Value:
    return _lower_scattered(emit, call.input, call.dim, call.index, call.src, "add")


@dataclass(frozen=True, slots=True)
class ScatterReduce(Record[T]):
    input: T
    dim: int
    index: T
    src: T
    reduce: str
    include_self: bool = True


scatter_reduce = Op("scatter_reduce", ScatterReduce, functions=(torch.scatter_reduce,), methods=("scatter_reduce",))


@scatter_reduce.shape
def scatter_reduce_shape(call: ScatterReduce[TensorSpec]) -> TensorSpec:
    kinds = ("sum", "prod", "mean", "amax", "amin")
    check(call.reduce in kinds, "reduce is one of {}, not {!r}", ", ".join(kinds), call.reduce)
    return _scattered(call.input, call.dim, call.index, call.src)


@scatter_reduce.lower
def lower_scatter_reduce(emit: Emitter, call: ScatterReduce[Value]) -> Value:
    """Without the tensor's own elements, those that are reduced into are first set to what leaves the rest as is."""
    input = call.input
    if call.reduce == "mean":
        emit.unsupported("ONNX has no scatter that takes the mean")
    if not call.include_self:
        neutral = {"sum": 0, "prod": 1, "amax": _lowest(input.dtype), "amin": _highest(input.dtype)}[call.reduce]
        cleared = _lower_scattered(emit, input, call.dim, call.index, neutral, None)
        input = replace(cleared, spec=input.spec)
    return _lower_scattered(emit, input, call.dim, call.index, call.src, REDUCTIONS[call.reduce])


def _lowest(dtype: torch.dtype) -> float:
    return -torch.inf if dtype.is_floating_point else int(dtype != torch.bool and torch.iinfo(dtype).min)


def _highest(dtype: torch.dtype) -> float:
    return torch.inf if dtype.is_floating_point else 1 if dtype == torch.bool else torch.iinfo(dtype).max


# A whole slice per position -------------------------------------------------------------------------


def _check_slices(input: TensorSpec, dim: int, index: TensorSpec, source: TensorSpec | None) -> TensorSpec:
    axis = axis_of(dim, input.ndim)
    check(index.ndim <= 1, "the index must have 1 axis, found {}", index.ndim)
    check(
        index.dtype in INDEX_DTYPES,
        "the index is {}, which is neither int64 nor int32",
        index.dtype,
        remedy="convert it: index.long()",
    )
    if source is not None:
        check(source.dtype == input.dtype, "a {} tensor takes no {}", input.dtype, source.dtype)
        check(source.ndim == input.ndim or not source.ndim, "source {} and tensor {} have unlike axes", source, input)
        for other in range(min(input.ndim, source.ndim)):
            room = index.numel() if other == axis else input.shape[other]
            check(
                source.shape[other] == room,
                "source {} has {} on axis {}, not {}",
                source,
                source.shape[other],
                other,
                room,
            )
        check(source.numel() == 1 or source.ndim > 0, "a 0-d source fills one place, not {}", index)
        if not source.ndim:
            check(index.numel() == 1, "a 0-d source fills one place, not {}", index)
    return input


def _lower_slices(
    emit: Emitter, input: Value, dim: int, index: Value, source: Value | None, fill: Any, reduction: str | None
) -> Value:
    """ScatterElements with the index laid along the axis and repeated over the others."""
    if reduction is not None and not emit.allows(scattering(reduction)):
        emit.unsupported(f"ONNX reduces at positions by {reduction!r} since opset {scattering(reduction).since}")
    axis = axis_of(dim, input.ndim)
    lifted = _at_least_1d(emit, input)
    count = product(index.shape)
    shape = [count if other == axis else size for other, size in enumerate(lifted.shape)]
    along: list[Size] = [count if other == axis else 1 for other in range(lifted.ndim)]
    positions = expanded(emit, emit.reshape(index, along), shape)
    updates = expanded(emit, as_value(emit, fill, input.dtype) if source is None else source, shape)
    result = scattered(emit, "ScatterElements", lifted, positions, updates, reduction, axis=axis)
    return result if input.ndim else emit.squeeze(result, 0)


@dataclass(frozen=True, slots=True)
class IndexCopy(Record[T]):
    input: T
    dim: int
    index: T
    source: T


index_copy = Op("index_copy", IndexCopy, functions=(torch.index_copy,), methods=("index_copy",))


@index_copy.shape
def index_copy_shape(call: IndexCopy[TensorSpec]) -> TensorSpec:
    check(call.index.dtype == torch.int64, "index_copy takes an int64 index, found {}", call.index.dtype)
    return _check_slices(call.input, call.dim, call.index, call.source)


@index_copy.lower
def lower_index_copy(emit: Emitter, call: IndexCopy[Value]) -> Value:
    return _lower_slices(emit, call.input, call.dim, call.index, call.source, None, None)


@dataclass(frozen=True, slots=True)
class IndexAdd(Record[T]):
    input: T
    dim: int
    index: T
    source: T
    alpha: float = 1


index_add = Op("index_add", IndexAdd, functions=(torch.index_add,), methods=("index_add",))


@index_add.shape
def index_add_shape(call: IndexAdd[TensorSpec]) -> TensorSpec:
    return _check_slices(call.input, call.dim, call.index, call.source)


@index_add.lower
def lower_index_add(emit: Emitter, call: IndexAdd[Value]) -> Value:
    source = call.source
    if not is_exactly(call.alpha, 1):
        scaled = emit.node("And" if source.dtype == torch.bool else "Mul", source, emit.scalar(call.alpha, source))
        source = replace(scaled, spec=source.spec)
    return _lower_slices(emit, call.input, call.dim, call.index, source, None, "add")


@dataclass(frozen=True, slots=True)
class IndexFill(Record[T]):
    input: T
    dim: int
    index: T
    value: Any


index_fill = Op("index_fill", IndexFill, functions=(torch.index_fill,), methods=("index_fill",))


@index_fill.shape
def index_fill_shape(call: IndexFill[TensorSpec]) -> TensorSpec:
    check(not isinstance(call.value, TensorSpec) or not call.value.ndim, "index_fill takes a number or a 0-d tensor")
    check(call.index.dtype == torch.int64, "index_fill takes an int64 index, found {}", call.index.dtype)
    return _check_slices(call.input, call.dim, call.index, None)


@index_fill.lower
def lower_index_fill(emit: Emitter, call: IndexFill[Value]) -> Value:
    return _lower_slices(emit, call.input, call.dim, call.index, None, call.value, None)
