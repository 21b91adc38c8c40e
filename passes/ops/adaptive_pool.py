"""Adaptive pools: the output size is given, the windows follow from the input's.

Window i of n over an axis of length L spans [floor(i*L/n), ceil((i+1)*L/n)), as torch defines it. Windows over several
axes are rectangles, so averages and maxima are taken axis by axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.assignment import counted
from passes.ops.op import Op
from passes.ops.pool import batched
from passes.ops.record import Record, T
from passes.ops.reduction import mean_of
from passes.ops.windows import check_rank
from passes.sizes.dimension import Dim, Size, may_be_zero, product, same_size
from passes.torch_private import native_nn
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

OutputSize: TypeAlias = "Size | Sequence[Size | None] | None"


@dataclass(frozen=True, slots=True)
class AdaptiveAvgPool(Record[T]):
    input: T
    rank: int
    output_size: OutputSize


adaptive_avg_pool = Op("adaptive_avg_pool", AdaptiveAvgPool)


@dataclass(frozen=True, slots=True)
class AdaptiveMaxPool(Record[T]):
    input: T
    rank: int
    output_size: OutputSize
    return_indices: bool = False


adaptive_max_pool = Op("adaptive_max_pool", AdaptiveMaxPool)


# Spellings ----------------------------------------------------------------------------------------


def _declare_avg(rank: int, *functions: Callable[..., Any]) -> None:
    @adaptive_avg_pool.function(*functions)
    def bind(input: Any, output_size: OutputSize) -> Mapping[str, Any]:
        return {"input": input, "rank": rank, "output_size": output_size}


def _declare_max(rank: int, indices: bool, *functions: Callable[..., Any]) -> None:
    @adaptive_max_pool.function(*functions)
    def bind(input: Any, output_size: OutputSize, return_indices: bool = False) -> Mapping[str, Any]:
        return {"input": input, "rank": rank, "output_size": output_size, "return_indices": indices or return_indices}


_declare_avg(1, F.adaptive_avg_pool1d)
_declare_avg(2, F.adaptive_avg_pool2d, native_nn.adaptive_avg_pool2d)
_declare_avg(3, F.adaptive_avg_pool3d, native_nn.adaptive_avg_pool3d)
_declare_max(1, False, F.adaptive_max_pool1d)
_declare_max(2, False, F.adaptive_max_pool2d)
_declare_max(3, False, F.adaptive_max_pool3d)
_declare_max(1, True, F.adaptive_max_pool1d_with_indices, torch.adaptive_max_pool1d)
_declare_max(2, True, F.adaptive_max_pool2d_with_indices, native_nn.adaptive_max_pool2d)
_declare_max(3, True, F.adaptive_max_pool3d_with_indices, native_nn.adaptive_max_pool3d)

_AVERAGES = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_MAXIMA = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)


def _rank_of(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    return next(rank for rank, kind in enumerate(kinds, start=1) if isinstance(module, kind))


@adaptive_avg_pool.module(*_AVERAGES)
def bind_avg_module(module: Any, input: Any) -> Mapping[str, Any]:
    return {"input": input, "rank": _rank_of(module, _AVERAGES), "output_size": module.output_size}


@adaptive_max_pool.module(*_MAXIMA)
def bind_max_module(module: Any, input: Any) -> Mapping[str, Any]:
    rank = _rank_of(module, _MAXIMA)
    return {
        "input": input,
        "rank": rank,
        "output_size": module.output_size,
        "return_indices": module.return_indices,
    }


# Shapes -------------------------------------------------------------------------------------------


def _output(input: TensorSpec | Value, rank: int, output_size: OutputSize) -> tuple[Size, ...]:
    """The output's spatial sizes; None keeps the input's."""
    given: tuple[Size | None, ...]
    given = (output_size,) * rank if output_size is None or isinstance(output_size, (int, Dim)) else tuple(output_size)
    given = given * rank if len(given) == 1 else given
    check(len(given) == rank, "output_size has {} numbers for {} spatial axes: {}", len(given), rank, given)
    check(all(size is None or size >= 0 for size in given), "output_size must not be negative, found {}", given)
    return tuple(own if size is None else size for own, size in zip(input.shape[-rank:], given, strict=True))


@adaptive_avg_pool.shape
def adaptive_avg_pool_shape(call: AdaptiveAvgPool[TensorSpec]) -> TensorSpec:
    input = call.input
    output = _output(input, call.rank, call.output_size)
    check_rank(input, call.rank, may_be_empty=all(same_size(size, 1) for size in output))
    return input.with_shape(*input.shape[: -call.rank], *output)


@adaptive_max_pool.shape
def adaptive_max_pool_shape(call: AdaptiveMaxPool[TensorSpec]) -> TensorSpec | tuple[TensorSpec, TensorSpec]:
    input = call.input
    check_rank(input, call.rank)
    result = input.with_shape(*input.shape[: -call.rank], *_output(input, call.rank, call.output_size))
    return (result, result.with_dtype(torch.int64)) if call.return_indices else result


@adaptive_avg_pool.identity(
    "average_of_single_elements", why="With as many windows as elements each has one, which is its average."
)
def is_identity(result: TensorSpec, call: AdaptiveAvgPool[TensorSpec]) -> bool:
    pairs = zip(call.input.shape, result.shape, strict=True)
    return all(type(ours) is type(theirs) and ours == theirs for ours, theirs in pairs)


# Lowerings ----------------------------------------------------------------------------------------


def _lowered_output(emit: Emitter, input: Value, rank: int, output_size: OutputSize) -> tuple[Size, ...]:
    output = _output(input, rank, output_size)
    if any(same_size(size, 0) for size in output):
        emit.unsupported("an adaptive pool to no element")
    return output


@adaptive_avg_pool.lower
def lower_adaptive_avg_pool(emit: Emitter, call: AdaptiveAvgPool[Value]) -> Value:
    """GlobalAveragePool to size 1, AveragePool where all windows are alike, else a product with averaging matrices."""
    input, rank = call.input, call.rank
    output = _lowered_output(emit, input, rank, call.output_size)
    if all(same_size(size, 1) for size in output):
        if any(map(may_be_zero, input.shape)):  # which runtimes do not pool
            return mean_of(emit, input, input, tuple(range(input.ndim - rank, input.ndim)), keepdim=True)
        return batched(emit, input, rank, lambda x: [emit.node("GlobalAveragePool", x)])[0]
    kernel = _even_windows(input.shape[-rank:], output)
    if kernel is not None:
        nodes = batched(emit, input, rank, lambda x: [emit.node("AveragePool", x, kernel_shape=kernel, strides=kernel)])
        return nodes[0]
    value, shape = input, list(input.shape)
    for axis, count in enumerate(output, start=input.ndim - rank):
        if not same_size(shape[axis], count):
            before, behind = product(shape[:axis]), product(shape[axis + 1 :])
            rows = emit.reshape(value, [before, shape[axis], behind])
            means = emit.node("MatMul", _averaging_matrix(emit, shape[axis], count, input.dtype), rows)
            value = replace(means, spec=emit.result.with_shape(before, count, behind))
            shape[axis] = count
    return emit.reshape(value, shape)


@adaptive_max_pool.lower
def lower_adaptive_max_pool(emit: Emitter, call: AdaptiveMaxPool[Value]) -> Value | tuple[Value, Value]:
    """GlobalMaxPool to size 1, MaxPool where all windows are alike, else the maximum of each window's slice."""
    input, rank, return_indices = call.input, call.rank, call.return_indices
    output = _lowered_output(emit, input, rank, call.output_size)
    if all(same_size(size, 1) for size in output) and not return_indices:
        return batched(emit, input, rank, lambda x: [emit.node("GlobalMaxPool", x)])[0]
    kernel = _even_windows(input.shape[-rank:], output)
    if kernel is not None:
        outputs = 2 if return_indices else 1
        pooled = batched(
            emit,
            input,
            rank,
            lambda x: emit.nodes("MaxPool", x, outputs=outputs, kernel_shape=kernel, strides=kernel),
        )
        if not return_indices:
            return pooled[0]
        return pooled[0], emit.node("Mod", pooled[1], emit.size(product(input.shape[-rank:])))
    if return_indices:
        return _lower_places(emit, input, rank, output)
    value = input
    for axis, count in enumerate(output, start=input.ndim - rank):
        if not same_size(input.shape[axis], count):
            value = _maxima(emit, value, axis, input.shape[axis], count)
    return value


def _maxima(emit: Emitter, value: Value, axis: int, length: Size, count: Size) -> Value:
    """The maximum of each window along an axis: of its slice, or of the axis with all else masked."""
    if isinstance(length, int) and isinstance(count, int):
        parts = [
            emit.reduce("ReduceMax", emit.slice(value, axis, start, end), (axis,), True)
            for start, end in _windows(length, count)
        ]
        return emit.node("Concat", *parts, axis=axis)
    dtype = emit.result.dtype
    behind = emit.result.ndim - axis - 1
    inside = _inside(emit, length, count)
    mask = emit.unsqueeze(inside, *range(2, 2 + behind)) if behind else inside
    masked = emit.node("Where", mask, emit.node("Unsqueeze", value, emit.ints(axis)), emit.scalar(-math.inf, dtype))
    return emit.reduce("ReduceMax", masked, (axis + 1,), False)


def _lower_places(emit: Emitter, input: Value, rank: int, output: Sequence[Size]) -> tuple[Value, Value]:
    """Every window gathered, made as long as the longest by repeating its end, and the first maximum of each.

    `places` are the windows' elements by their number in the plane: [*output, elements of a window].
    """
    places = torch.zeros((1,) * (2 * rank), dtype=torch.int64)
    for axis, (length, count) in enumerate(_known(emit, input.shape[-rank:], output)):
        windows = _windows(length, count)
        reach = torch.arange(max(end - start for start, end in windows))
        rows = [torch.clamp(start + reach, max=end - 1) for start, end in windows]
        along = [1] * (2 * rank)
        along[axis], along[rank + axis] = count, len(reach)
        places = places * length + torch.stack(rows).reshape(along)
    numbers = emit.constant(places.flatten(rank))
    lead = input.shape[:-rank]
    plane = emit.reshape(input, [*lead, product(input.shape[-rank:])])
    gathered = emit.node("Gather", plane, numbers, axis=len(lead))
    first = emit.node("ArgMax", gathered, axis=-1, keepdims=1)
    maxima = emit.node("GatherElements", gathered, first, axis=-1)
    found = emit.node("GatherElements", emit.node("Expand", numbers, emit.node("Shape", gathered)), first, axis=-1)
    return emit.squeeze(maxima, -1), emit.squeeze(found, -1)


# Windows ------------------------------------------------------------------------------------------


def _known(emit: Emitter, sizes: Sequence[Size], output: Sequence[Size]) -> list[tuple[int, int]]:
    """Each spatial axis's length and output size, which must both be known."""
    pairs = [(a, b) for a, b in zip(sizes, output, strict=True) if isinstance(a, int) and isinstance(b, int)]
    if len(pairs) < len(sizes):
        emit.unsupported("the places of maxima in windows over a dynamic size are not known")
    return pairs


def _even_windows(sizes: Sequence[Size], output: Sequence[Size]) -> list[int] | None:
    """The window's size where each axis is a whole number of windows, as far as is known; else None."""
    kernel: list[int] = []
    for length, count in zip(sizes, output, strict=True):
        if not (isinstance(length, int) and isinstance(count, int)) or not count or length % count:
            return None
        kernel.append(length // count)
    return kernel


def _windows(length: int, count: int) -> list[tuple[int, int]]:
    return [(index * length // count, -(-(index + 1) * length // count)) for index in range(count)]


def _bounds(emit: Emitter, length: Size, count: Size) -> tuple[Value, Value]:
    """Columns of where each window starts, and of what comes behind it."""
    index = emit.unsqueeze(counted(emit, 0, count), 1)
    one, elements, windows = (emit.operand(size, torch.int64) for size in (1, length, count))
    before = emit.node("Mul", index, elements)
    through = emit.node("Add", before, elements)
    rounding = emit.node("Sub", windows, one)
    return emit.node("Div", before, windows), emit.node("Div", emit.node("Add", through, rounding), windows)


def _inside(emit: Emitter, length: Size, count: Size) -> Value:
    """[count, length]: whether an element lies in a window."""
    start, end = _bounds(emit, length, count)
    places = counted(emit, 0, length)
    inside = emit.node("And", emit.node("Not", emit.node("Less", places, start)), emit.node("Less", places, end))
    return replace(inside, spec=TensorSpec((count, length), torch.bool))


def _averaging_matrix(emit: Emitter, length: Size, count: Size, dtype: torch.dtype) -> Value:
    """[count, length]: row i averages window i."""
    if isinstance(length, int) and isinstance(count, int):
        matrix = torch.zeros(count, length, dtype=torch.float64)
        for index, (start, end) in enumerate(_windows(length, count)):
            matrix[index, start:end] = 1 / (end - start)
        return emit.constant(matrix, dtype)
    first, behind = _bounds(emit, length, count)
    width = emit.cast(emit.node("Sub", behind, first), dtype)
    return emit.node("Div", emit.cast(_inside(emit, length, count), dtype), width)
