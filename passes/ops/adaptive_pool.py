"""Adaptive pools: the output size is given, the windows follow from the input's.

Window i of n over an axis of length L spans [floor(i*L/n), ceil((i+1)*L/n)), as torch defines it. Windows over several
axes are rectangles, so averages and maxima are taken axis by axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.dimension import Dim, Size, product
from passes.errors import check
from passes.ops.op import Op
from passes.ops.pool import batched, check_rank
from passes.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx_emitter import Emitter, Value

OutputSize = int | Sequence[int | None] | None

adaptive_avg_pool = Op("adaptive_avg_pool")
adaptive_max_pool = Op("adaptive_max_pool")


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
_declare_avg(2, F.adaptive_avg_pool2d, torch._C._nn.adaptive_avg_pool2d)
_declare_avg(3, F.adaptive_avg_pool3d, torch._C._nn.adaptive_avg_pool3d)
_declare_max(1, False, F.adaptive_max_pool1d)
_declare_max(2, False, F.adaptive_max_pool2d)
_declare_max(3, False, F.adaptive_max_pool3d)
_declare_max(1, True, F.adaptive_max_pool1d_with_indices, torch.adaptive_max_pool1d)
_declare_max(2, True, F.adaptive_max_pool2d_with_indices, torch._C._nn.adaptive_max_pool2d)
_declare_max(3, True, F.adaptive_max_pool3d_with_indices, torch._C._nn.adaptive_max_pool3d)

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
    given: tuple[int | None, ...]
    given = (output_size,) * rank if output_size is None or isinstance(output_size, int) else tuple(output_size)
    given = given * rank if len(given) == 1 else given
    check(len(given) == rank, "output_size has {} numbers for {} spatial axes: {}", len(given), rank, given)
    check(all(size is None or size >= 0 for size in given), "output_size must not be negative, found {}", given)
    return tuple(own if size is None else size for own, size in zip(input.shape[-rank:], given, strict=True))


@adaptive_avg_pool.shape
def adaptive_avg_pool_shape(input: TensorSpec, rank: int, output_size: OutputSize) -> TensorSpec:
    check_rank(input, rank)
    return input.with_shape(*input.shape[:-rank], *_output(input, rank, output_size))


@adaptive_max_pool.shape
def adaptive_max_pool_shape(
    input: TensorSpec, rank: int, output_size: OutputSize, return_indices: bool = False
) -> TensorSpec | tuple[TensorSpec, TensorSpec]:
    check_rank(input, rank)
    result = input.with_shape(*input.shape[:-rank], *_output(input, rank, output_size))
    return (result, result.with_dtype(torch.int64)) if return_indices else result


@adaptive_avg_pool.identity
def is_avg_identity(result: TensorSpec, input: TensorSpec, rank: int, output_size: OutputSize) -> bool:
    return all(map(_same, input.shape, result.shape))


@adaptive_max_pool.identity
def is_max_identity(
    result: Any, input: TensorSpec, rank: int, output_size: OutputSize, return_indices: bool = False
) -> bool:
    return not return_indices and all(map(_same, input.shape, result.shape))


def _same(length: Size, count: Size) -> bool:
    """Whether an axis keeps its size, at every size that it may have; asks no question that would be recorded."""
    if isinstance(length, Dim) and isinstance(count, Dim):
        return length.terms == count.terms
    return type(length) is type(count) and length == count


# Lowerings ----------------------------------------------------------------------------------------


@adaptive_avg_pool.lower
def lower_adaptive_avg_pool(emit: Emitter, input: Value, rank: int, output_size: OutputSize) -> Value:
    """GlobalAveragePool to size 1, AveragePool where all windows are alike, else axis by axis: means of whole axes,
    and products with averaging matrices."""
    output = _output(input, rank, output_size)
    if _is_one(output):
        return batched(emit, input, rank, lambda x: [emit.node("GlobalAveragePool", x)])[0]
    even = _even_windows(input.shape[-rank:], output)
    if even is not None:
        pool = {"kernel_shape": even, "strides": even}
        return batched(emit, input, rank, lambda x: [emit.node("AveragePool", x, **pool)])[0]
    value, shape = _whole_axes(emit, "ReduceMean", input, output)
    windowed = _windowed_axes(emit, shape, output)
    for axis, length, count in windowed:
        folded = emit.reshape(value, (product(shape[:axis]), length, product(shape[axis + 1 :])))
        value = emit.node("MatMul", emit.constant(_averaging_matrix(length, count), input.dtype), folded)
        shape[axis] = count
    return emit.reshape(value, shape) if windowed else value


@adaptive_max_pool.lower
def lower_adaptive_max_pool(
    emit: Emitter, input: Value, rank: int, output_size: OutputSize, return_indices: bool = False
) -> Value | tuple[Value, Value]:
    """GlobalMaxPool to size 1, MaxPool where all windows are alike, else axis by axis: maxima of whole axes, and of
    each window's slice."""
    output = _output(input, rank, output_size)
    if _is_one(output) and not return_indices:
        return batched(emit, input, rank, lambda x: [emit.node("GlobalMaxPool", x)])[0]
    even = _even_windows(input.shape[-rank:], output)
    if even is not None:
        outputs = 2 if return_indices else 1
        pool = {"kernel_shape": even, "strides": even}
        pooled = batched(emit, input, rank, lambda x: emit.nodes("MaxPool", x, outputs=outputs, **pool))
        if not return_indices:
            return pooled[0]
        return pooled[0], emit.node("Mod", pooled[1], emit.size(product(input.shape[-rank:])))
    if return_indices:
        emit.unsupported("the places of maxima in windows of unequal or dynamic sizes")
    value, shape = _whole_axes(emit, "ReduceMax", input, output)
    for axis, length, count in _windowed_axes(emit, shape, output):
        parts = [
            emit.reduce("ReduceMax", emit.slice(value, axis, start, end), (axis,), True)
            for start, end in _windows(length, count)
        ]
        value = emit.node("Concat", *parts, axis=axis)
    return value


def _is_one(output: Sequence[Size]) -> bool:
    return all(isinstance(count, int) and count == 1 for count in output)


def _whole_axes(emit: Emitter, op_type: str, input: Value, output: Sequence[Size]) -> tuple[Value, list[Size]]:
    """The input with the axes that become one element reduced, and its shape then."""
    shape = list(input.shape)
    whole = [axis for axis, count in enumerate(output, start=-len(output)) if _is_one([count])]
    for axis in whole:
        shape[axis] = 1
    axes = [axis % len(shape) for axis in whole]
    return (emit.reduce(op_type, input, axes, True) if axes else input), shape


def _windowed_axes(emit: Emitter, shape: Sequence[Size], output: Sequence[Size]) -> list[tuple[int, int, int]]:
    """Each axis that changes its size, with its length and the number of its windows, which must be fixed."""
    changed = []
    for axis, count in enumerate(output, start=len(shape) - len(output)):
        length = shape[axis]
        if _same(length, count):
            continue
        if isinstance(length, Dim) or isinstance(count, Dim):
            emit.unsupported("an adaptive pool to more than one element over a dynamic size")
        if count == 0:
            emit.unsupported("an adaptive pool to no element")
        changed.append((axis, length, count))
    return changed


def _even_windows(sizes: Sequence[Size], output: Sequence[Size]) -> list[int] | None:
    """The window's size where each axis is fixed and a whole number of windows, else None."""
    pairs = [(a, b) for a, b in zip(sizes, output, strict=True) if isinstance(a, int) and isinstance(b, int) and b]
    if len(pairs) < len(sizes) or any(length % count for length, count in pairs):
        return None
    return [length // count for length, count in pairs]


def _windows(length: int, count: int) -> list[tuple[int, int]]:
    return [(index * length // count, -(-(index + 1) * length // count)) for index in range(count)]


def _averaging_matrix(length: int, count: int) -> torch.Tensor:
    """[count, length]: row i averages window i."""
    matrix = torch.zeros(count, length, dtype=torch.float64)
    for index, (start, end) in enumerate(_windows(length, count)):
        matrix[index, start:end] = 1 / (end - start)
    return matrix
