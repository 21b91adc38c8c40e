"""Normalisation by neighbouring channels (local response norm) and by the length of vectors (`F.normalize`)."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.norm import check_floating
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.ops.reduction import reduce
from passes.sizes.dimension import may_be_zero, product
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class LocalResponseNorm(Record[T]):
    input: T
    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0


local_response_norm = Op("local_response_norm", LocalResponseNorm, functions=(F.local_response_norm,))


cross_map_lrn = Op("cross_map_lrn", LocalResponseNorm)


@dataclass(frozen=True, slots=True)
class Normalize(Record[T]):
    input: T
    p: float = 2.0
    dim: int | Sequence[int] | None = 1
    eps: float = 1e-12


normalize = Op("normalize", Normalize, functions=(F.normalize,))


# Local response norm: y = x / (k + alpha/size * sum of squares of `size` channels around)**beta --------


@local_response_norm.module(nn.LocalResponseNorm)
@cross_map_lrn.module(nn.CrossMapLRN2d)
def bind_response_norm(module: Any, input: Any) -> Mapping[str, Any]:
    return {"input": input, "size": module.size, "alpha": module.alpha, "beta": module.beta, "k": module.k}


@local_response_norm.shape
def local_response_norm_shape(call: LocalResponseNorm[TensorSpec]) -> TensorSpec:
    input = call.input
    check(input.ndim >= 3, "expected an input of at least 3 axes, found {}", input.ndim)
    empty = any(isinstance(length, int) and length == 0 for length in input.shape)
    check(call.size > 0 or empty, "size must be positive, found {}", call.size)
    return input if input.dtype.is_floating_point or empty else input.with_dtype(torch.get_default_dtype())


@cross_map_lrn.shape
def cross_map_lrn_shape(call: LocalResponseNorm[TensorSpec]) -> TensorSpec:
    input = call.input
    check_floating(input)
    check(input.ndim == 4, "expected an input of 4 axes, found {}", input.ndim)
    check(call.size > 0, "size must be positive, found {}", call.size)
    return input


@local_response_norm.lower
def lower_local_response_norm(emit: Emitter, call: LocalResponseNorm[Value]) -> Value:
    """LRN for images and an odd size; an even window leans to the other side in ONNX than in torch."""
    input, size = call.input, call.size
    if not input.dtype.is_floating_point:
        emit.unsupported(f"local_response_norm of {input.dtype} averages in integers")
    if input.ndim == 4 and size % 2 == 1 and input.dtype == torch.float32:
        return emit.node("LRN", input, size=size, alpha=call.alpha, beta=call.beta, bias=float(call.k))
    # The channels as rows of one-channel images, averaged over `size` of them.
    squared = replace(emit.node("Mul", input, input), spec=input.spec)
    if any(map(may_be_zero, input.shape)):
        emit.unsupported("local_response_norm of an input that may be empty")
    squares = emit.reshape(squared, [input.shape[0], 1, input.shape[1], product(input.shape[2:])])
    mean = emit.node(
        "AveragePool", squares, kernel_shape=[size, 1], pads=[size // 2, 0, (size - 1) // 2, 0], count_include_pad=1
    )
    return _divided_by_response(
        emit, input, emit.node("Reshape", mean, emit.node("Shape", input)), call.alpha, call.beta, call.k
    )


@cross_map_lrn.lower
def lower_cross_map_lrn(emit: Emitter, call: LocalResponseNorm[Value]) -> Value:
    """A product with the matrix that says which channels count for which.

    torch's running sum takes channels up to `reach` around, and never drops channel 0 again.
    """
    input = call.input
    channels = input.shape[1]
    if not isinstance(channels, int):
        emit.unsupported("CrossMapLRN2d over a dynamic number of channels")
    reach = int((call.size - 1) / 2)
    row, column = torch.arange(channels).unsqueeze(1), torch.arange(channels)
    counts = (column <= row + reach) & ((column == 0) | (column >= row - reach))
    kernel = emit.constant((counts / call.size).to(input.dtype).reshape(channels, channels, 1, 1))
    return _divided_by_response(
        emit, input, emit.node("Conv", emit.node("Mul", input, input), kernel), call.alpha, call.beta, call.k
    )


def _divided_by_response(emit: Emitter, input: Value, mean: Value, alpha: float, beta: float, k: float) -> Value:
    response = emit.node("Add", emit.node("Mul", mean, emit.scalar(alpha, input)), emit.scalar(k, input))
    return emit.node("Div", input, emit.node("Pow", response, emit.scalar(beta, input)))


# F.normalize: y = x / max(norm(x, p), eps) --------------------------------------------------------


@normalize.shape
def normalize_shape(call: Normalize[TensorSpec]) -> TensorSpec:
    input = call.input
    check_floating(input)
    dims = _dims(input, call.dim)
    rank = max(input.ndim, 1)
    for axis in dims:
        check(-rank <= axis < rank, "dim {} does not exist in an input of {} axes", axis, input.ndim)
    check(len({axis % rank for axis in dims}) == len(dims), "the dims {} repeat one", dims)
    if call.p < 0 or call.p == math.inf:
        for axis in dims if input.ndim else ():
            size = input.shape[axis]
            check(
                not isinstance(size, int) or size > 0, "the {}-norm of an empty axis ({}) is not defined", call.p, axis
            )
    return input


def _dims(input: TensorSpec | Value, dim: int | Sequence[int] | None) -> tuple[int, ...]:
    """The axes that one norm spans; without any named it is all of them."""
    if dim is None or dim in ((), []):
        return tuple(range(input.ndim))
    return tuple(map(operator.index, dim if isinstance(dim, Sequence) else [dim]))


@normalize.lower
def lower_normalize(emit: Emitter, call: Normalize[Value]) -> Value:
    input = call.input
    norm = _norm(emit, input, float(call.p), _dims(input, call.dim))
    return emit.node("Div", input, emit.node("Max", norm, emit.scalar(call.eps, input)))


def _norm(emit: Emitter, input: Value, p: float, dims: tuple[int, ...]) -> Value:
    if input.ndim == 0:
        dims = ()
    if p in (1.0, 2.0):
        return emit.reduce(f"ReduceL{int(p)}", input, dims or None, True)
    magnitude = emit.node("Abs", input)
    if math.isinf(p):
        return reduce(emit, "ReduceMax" if p > 0 else "ReduceMin", input, magnitude, dims or None, True)
    if p == 0:
        nonzero = emit.cast(emit.cast(input, torch.bool), input.dtype)
        return emit.reduce("ReduceSum", nonzero, dims or None, True)
    powers = emit.node("Pow", magnitude, emit.scalar(p, input))
    return emit.node("Pow", emit.reduce("ReduceSum", powers, dims or None, True), emit.scalar(1 / p, input))
