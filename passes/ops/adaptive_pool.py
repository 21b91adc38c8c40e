"""Adaptive pools: the output size is given, the windows follow from the input's.

Window i of n over an axis of length L spans [floor(i*L/n), ceil((i+1)*L/n)), as torch defines it. Windows over several
axes are rectangles, so averages and maxima are taken axis by axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.dimension import Size, product
from passes.errors import check
from passes.ops.op import Op
from passes.ops.pool import batched
from passes.ops.windows import check_rank
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
def is_identity(result: TensorSpec, input: TensorSpec, rank: int, output_size: OutputSize) -> bool:
    pairs = zip(input.shape, result.shape, strict=True)
    return all(type(ours) is type(theirs) and ours == theirs for ours, theirs in pairs)


# Lowerings ----------------------------------------------------------------------------------------


@adaptive_avg_pool.lower
def lower_adaptive_avg_pool(emit: Emitter, input: Value, rank: int, output_size: OutputSize) -> Value:
    """GlobalAveragePool to size 1, AveragePool where all windows are alike, else a product with averaging matrices."""
    output = _output(input, rank, output_size)
    if all(size == 1 for size in output if isinstance(size, int)) and all(isinstance(size, int) for size in output):
        return batched(emit, input, rank, lambda x: [emit.node("GlobalAveragePool", x)])[0]
    spatial = _fixed(emit, input.shape[-rank:], output)
    kernel = _even_windows(spatial)
    if kernel is not None:
        return batched(emit, input, rank, lambda x: [emit.node("AveragePool", x, kernel_shape=kernel, strides=kernel)])[
            0
        ]
    value, sizes = input, [length for length, _ in spatial]
    for axis, (length, count) in enumerate(spatial):
        if length == count:
            continue
        behind = math.prod(sizes[axis + 1 :])
        folded = emit.node("Reshape", value, emit.ints(-1, length, behind))
        value = emit.node("MatMul", emit.constant(_averaging_matrix(length, count), input.dtype), folded)
        sizes[axis] = count
    return emit.reshape(value, (*input.shape[:-rank], *output))


@adaptive_max_pool.lower
def lower_adaptive_max_pool(
    emit: Emitter, input: Value, rank: int, output_size: OutputSize, return_indices: bool = False
) -> Value | tuple[Value, Value]:
    """GlobalMaxPool to size 1, MaxPool where all windows are alike, else the maximum of each window's slice."""
    output = _output(input, rank, output_size)
    to_one = all(isinstance(size, int) and size == 1 for size in output)
    if to_one and not return_indices:
        return batched(emit, input, rank, lambda x: [emit.node("GlobalMaxPool", x)])[0]
    spatial = _fixed(emit, input.shape[-rank:], output)
    kernel = _even_windows(spatial)
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
        emit.unsupported("the places of maxima in windows of unequal sizes")
    value = input
    for axis, (length, count) in zip(range(input.ndim - rank, input.ndim), spatial, strict=True):
        if length == count:
            continue
        parts = [
            emit.reduce("ReduceMax", emit.slice(value, axis, start, end), (axis,), True)
            for start, end in _windows(length, count)
        ]
        value = emit.node("Concat", *parts, axis=axis)
    return value


def _fixed(emit: Emitter, sizes: Sequence[Size], output: Sequence[Size]) -> list[tuple[int, int]]:
    """Each spatial axis's length and output size, which must both be known."""
    pairs = [(a, b) for a, b in zip(sizes, output, strict=True) if isinstance(a, int) and isinstance(b, int)]
    if len(pairs) < len(sizes):
        emit.unsupported("an adaptive pool to more than one element over a dynamic size")
    if any(count == 0 for _, count in pairs):
        emit.unsupported("an adaptive pool to no element")
    return pairs


def _even_windows(spatial: Sequence[tuple[int, int]]) -> list[int] | None:
    """The window's size where each axis is a whole number of windows, else None."""
    if any(length % count for length, count in spatial):
        return None
    return [length // count for length, count in spatial]


def _windows(length: int, count: int) -> list[tuple[int, int]]:
    return [(index * length // count, -(-(index + 1) * length // count)) for index in range(count)]


def _averaging_matrix(length: int, count: int) -> torch.Tensor:
    """[count, length]: row i averages window i."""
    matrix = torch.zeros(count, length, dtype=torch.float64)
    for index, (start, end) in enumerate(_windows(length, count)):
        matrix[index, start:end] = 1 / (end - start)
    return matrix
