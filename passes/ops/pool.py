"""Pools over a sliding window: maximum, average and power mean, over one to three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.ops.windows import Sizes, Windows, check_rank, per_axis
from passes.sizes.dimension import product
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class MaxPool(Record[T]):
    input: T
    rank: int
    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0
    dilation: Sizes = 1
    ceil_mode: bool = False
    return_indices: bool = False


max_pool = Op("max_pool", MaxPool)


@dataclass(frozen=True, slots=True)
class AvgPool(Record[T]):
    input: T
    rank: int
    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None


avg_pool = Op("avg_pool", AvgPool)


@dataclass(frozen=True, slots=True)
class LpPool(Record[T]):
    input: T
    rank: int
    norm_type: float
    kernel_size: Sizes
    stride: Sizes | None = None
    ceil_mode: bool = False


lp_pool = Op("lp_pool", LpPool)


# Spellings ----------------------------------------------------------------------------------------


def _declare_max_pool(rank: int, indices: bool, *functions: Callable[..., Any]) -> None:
    @max_pool.function(*functions)
    def bind_max_pool(
        input: Any,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Mapping[str, Any]:
        return {
            "input": input,
            "rank": rank,
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "ceil_mode": ceil_mode,
            "return_indices": indices or return_indices,
        }


def _declare_avg_pool(rank: int, *functions: Callable[..., Any]) -> None:
    @avg_pool.function(*functions)
    def bind_avg_pool(
        input: Any,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Mapping[str, Any]:
        return {
            "input": input,
            "rank": rank,
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "ceil_mode": ceil_mode,
            "count_include_pad": count_include_pad,
            "divisor_override": divisor_override,
        }


def _declare_lp_pool(rank: int, function: Callable[..., Any]) -> None:
    @lp_pool.function(function)
    def bind_lp_pool(
        input: Any, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None, ceil_mode: bool = False
    ) -> Mapping[str, Any]:
        return {
            "input": input,
            "rank": rank,
            "norm_type": norm_type,
            "kernel_size": kernel_size,
            "stride": stride,
            "ceil_mode": ceil_mode,
        }


_declare_max_pool(1, False, F.max_pool1d, torch.max_pool1d)
_declare_max_pool(2, False, F.max_pool2d, torch.max_pool2d)
_declare_max_pool(3, False, F.max_pool3d, torch.max_pool3d)
_declare_max_pool(1, True, F.max_pool1d_with_indices, torch.max_pool1d_with_indices)
_declare_max_pool(2, True, F.max_pool2d_with_indices)
_declare_max_pool(3, True, F.max_pool3d_with_indices)
_declare_avg_pool(1, F.avg_pool1d)
_declare_avg_pool(2, F.avg_pool2d)
_declare_avg_pool(3, F.avg_pool3d)
_declare_lp_pool(1, F.lp_pool1d)
_declare_lp_pool(2, F.lp_pool2d)
_declare_lp_pool(3, F.lp_pool3d)

_RANKS: dict[type[nn.Module], int] = {
    kind: rank
    for kinds in (
        (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
        (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        (nn.LPPool1d, nn.LPPool2d, nn.LPPool3d),
    )
    for rank, kind in enumerate(kinds, start=1)
}


def _rank_of(module: nn.Module) -> int:
    return next(_RANKS[base] for base in type(module).__mro__ if base in _RANKS)


def _bind_module(module: Any, input: Any, *names: str) -> Mapping[str, Any]:
    return {"input": input, "rank": _rank_of(module), **{name: getattr(module, name) for name in names}}


@max_pool.module(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
def bind_max_pool_module(module: nn.Module, input: Any) -> Mapping[str, Any]:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    return _bind_module(module, input, *names)


@avg_pool.module(nn.AvgPool1d)
def bind_avg_pool1d_module(module: nn.Module, input: Any) -> Mapping[str, Any]:
    return _bind_module(module, input, "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")


@avg_pool.module(nn.AvgPool2d, nn.AvgPool3d)
def bind_avg_pool_module(module: nn.Module, input: Any) -> Mapping[str, Any]:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    return _bind_module(module, input, *names)


@lp_pool.module(nn.LPPool1d, nn.LPPool2d, nn.LPPool3d)
def bind_lp_pool_module(module: nn.Module, input: Any) -> Mapping[str, Any]:
    return _bind_module(module, input, "norm_type", "kernel_size", "stride", "ceil_mode")


# Shapes -------------------------------------------------------------------------------------------


@max_pool.shape
def max_pool_shape(call: MaxPool[TensorSpec]) -> TensorSpec | tuple[TensorSpec, TensorSpec]:
    input = call.input
    check_rank(input, call.rank)
    check(input.dtype != torch.bool, "a maximum pool takes numbers, found {}", input.dtype)
    windows = Windows(input, call.rank, call.kernel_size, call.stride, call.padding, call.dilation, call.ceil_mode)
    result = input.with_shape(*input.shape[: -call.rank], *windows.counts)
    return (result, result.with_dtype(torch.int64)) if call.return_indices else result


@avg_pool.shape
def avg_pool_shape(call: AvgPool[TensorSpec]) -> TensorSpec:
    input, rank = call.input, call.rank
    check_rank(input, rank)
    check(call.divisor_override != 0, "divisor_override must not be 0")
    windows = Windows(input, rank, call.kernel_size, call.stride, call.padding, 1, call.ceil_mode)
    if rank == 3:  # torch asks this of a 3d average alone, whatever its padding
        for size, kernel in zip(windows.sizes, windows.kernel, strict=True):
            check(size >= kernel, "the window of {} elements is larger than an axis of {}", kernel, size)
    return input.with_shape(*input.shape[:-rank], *windows.counts)


@lp_pool.shape
def lp_pool_shape(call: LpPool[TensorSpec]) -> TensorSpec:
    return avg_pool_shape(AvgPool(call.input, call.rank, call.kernel_size, call.stride, 0, call.ceil_mode))


# Lowerings ----------------------------------------------------------------------------------------


# ONNX pools floating point, and bytes where it takes the maximum. Maxima of these are the same in a wider dtype.
WIDER = {torch.int16: torch.float32, torch.int32: torch.float64}


def batched(emit: Emitter, input: Value, rank: int, pool: Callable[[Value], Sequence[Value]]) -> list[Value]:
    """The results of a pool that takes a batch axis and one of ONNX's dtypes, for an input that may have neither.

    The first result is the pool's, which has the input's dtype.
    """
    working = WIDER.get(input.dtype, input.dtype)
    lifted = emit.cast(input if input.ndim == rank + 2 else emit.unsqueeze(input, 0), working)
    results = pool(lifted)
    if input.ndim != rank + 2:
        results = [emit.squeeze(result, 0) for result in results]
    first, *others = results
    return [first if working == input.dtype else emit.cast(first, input.dtype), *others]


Pool = TypeVar("Pool", "MaxPool[Value]", "AvgPool[Value]")


def _without_whole_axes(emit: Emitter, call: Pool, dilation: Sizes, reduction: str) -> Pool | None:
    """The pool over what is left where one window covers all of an axis of open size, which is a reduction of that
    axis; None where no window does."""
    input, rank = call.input, call.rank
    windows = Windows(input, rank, call.kernel_size, call.stride, call.padding, dilation, call.ceil_mode)
    if not windows.whole:
        return None
    working = WIDER.get(input.dtype, input.dtype)
    value = emit.reduce(reduction, emit.cast(input, working), [axis - rank for axis in windows.whole], True)
    shape = [1 if axis - input.ndim + rank in windows.whole else size for axis, size in enumerate(input.shape)]
    spec = input.known.with_shape(*shape)
    reduced = emit.cast(replace(value, spec=spec.with_dtype(working)), input.dtype)
    kernel, stride = (
        tuple(1 if axis in windows.whole else number for axis, number in enumerate(numbers))
        for numbers in (windows.kernel, windows.stride)
    )
    return replace(call, input=replace(reduced, spec=spec), kernel_size=kernel, stride=stride)


@max_pool.lower
def lower_max_pool(emit: Emitter, call: MaxPool[Value]) -> Value | tuple[Value, Value]:
    """MaxPool. ONNX counts the places of maxima through the whole tensor, torch within each plane."""
    rank = call.rank
    reduced = _without_whole_axes(emit, call, call.dilation, "ReduceMax")
    if reduced is not None:
        if call.return_indices:
            emit.unsupported("the place of a maximum along an axis of open size")
        return reduced.input if reduced.kernel_size == (1,) * rank else lower_max_pool(emit, reduced)
    if call.input.dtype == torch.int64:
        emit.unsupported("ONNX has no MaxPool of int64, and no wider dtype")
    windows = Windows(call.input, rank, call.kernel_size, call.stride, call.padding, call.dilation, call.ceil_mode)
    pads = windows.pads()
    # onnxruntime refuses a padding as large as the kernel, which a dilated window may need at the end.
    apart = any(size >= kernel for size, kernel in zip(pads, windows.kernel * 2, strict=True))
    if apart and call.return_indices:
        emit.unsupported("the places of maxima where the last dilated window reaches a kernel's size beyond the input")

    def pool(x: Value) -> tuple[Value, ...]:
        if apart:
            around = emit.ints(0, 0, *pads[:rank], 0, 0, *pads[rank:])
            x = emit.node("Pad", x, around, emit.scalar(_lowest(x.dtype), x))
        return emit.nodes(
            "MaxPool",
            x,
            outputs=2 if call.return_indices else 1,
            kernel_shape=list(windows.kernel),
            strides=list(windows.stride),
            pads=None if apart else pads,
            dilations=list(windows.dilation),
        )

    result, *places = batched(emit, call.input, rank, pool)
    if not call.return_indices:
        return result
    plane = emit.size(product(windows.sizes))
    return result, emit.node("Mod", places[0], plane)


def _lowest(dtype: torch.dtype) -> float:
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


@avg_pool.lower
def lower_avg_pool(emit: Emitter, call: AvgPool[Value]) -> Value:
    """AveragePool. Padding counts for torch, what `ceil_mode` adds behind it does not: it is padded away first."""
    input = call.input
    if not input.dtype.is_floating_point:
        emit.unsupported(f"ONNX has no AveragePool of {input.dtype}, whose means are rounded to whole numbers")
    summed = call.divisor_override is not None
    reduced = _without_whole_axes(emit, call, 1, "ReduceSum" if summed else "ReduceMean")
    if reduced is not None:
        if summed or reduced.kernel_size != (1,) * call.rank:
            return lower_avg_pool(emit, reduced)
        return reduced.input
    windows = Windows(input, call.rank, call.kernel_size, call.stride, call.padding, 1, call.ceil_mode)
    pads = windows.pads()
    own = [*windows.padding, *windows.padding]
    mixed = call.count_include_pad and not summed and pads != own

    def pool(x: Value) -> tuple[Value, ...]:
        if mixed and any(own):
            x = emit.node("Pad", x, emit.ints(0, 0, *windows.padding, 0, 0, *windows.padding))
        node = emit.node(
            "AveragePool",
            x,
            kernel_shape=list(windows.kernel),
            strides=list(windows.stride),
            pads=[after - before for after, before in zip(pads, own, strict=True)] if mixed else pads,
            count_include_pad=int(summed or (call.count_include_pad and not mixed)) or None,
        )
        if call.divisor_override is not None:
            node = emit.node("Mul", node, emit.scalar(math.prod(windows.kernel) / call.divisor_override, input))
        return (node,)

    return batched(emit, input, call.rank, pool)[0]


@lp_pool.lower
def lower_lp_pool(emit: Emitter, call: LpPool[Value]) -> Value:
    """torch's own formula: the average of x^p, times the window's size, to 1/p; not a number where that is negative."""
    input = call.input
    power = emit.node("Pow", input, emit.scalar(float(call.norm_type), input))
    mean = lower_avg_pool(
        emit, AvgPool(type(input)(power.name, input.spec), call.rank, call.kernel_size, call.stride, 0, call.ceil_mode)
    )
    window = product(per_axis("kernel_size", call.kernel_size, call.rank))
    total = emit.node("Mul", mean, emit.scalar(window, input))
    return emit.node("Pow", total, emit.scalar(1.0 / call.norm_type, input))


__all__ = ["batched"]
