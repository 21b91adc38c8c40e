"""Pools over a sliding window: maximum, average and power mean, over one to three spatial axes.

torch counts windows so that the last one starts inside the input or its left padding, also with `ceil_mode`;
ONNX's own `ceil_mode` does not. So the windows that `ceil_mode` adds are lowered as padding at the end.
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
from passes.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx_emitter import Emitter, Value

Sizes = int | Sequence[int]

max_pool = Op("max_pool")
avg_pool = Op("avg_pool")
lp_pool = Op("lp_pool")


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


def per_axis(name: str, sizes: Any, rank: int) -> tuple[int, ...]:
    """One number for all spatial axes, or one for each, as one for each."""
    if isinstance(sizes, int):
        return (sizes,) * rank
    given = tuple(sizes)
    check(len(given) in (1, rank), "{} has {} numbers for {} spatial axes: {}", name, len(given), rank, given)
    return given * rank if len(given) == 1 else given


def check_rank(input: TensorSpec, rank: int) -> None:
    check(
        input.ndim in (rank + 1, rank + 2),
        "a {}d pool needs an input of {} or {} axes, found {}",
        rank,
        rank + 1,
        rank + 2,
        shape_text(input.shape),
    )
    empty = [axis for axis, size in enumerate(input.shape) if size == 0 and not (axis == 0 and input.ndim == rank + 2)]
    check(not empty, "a pool needs an input without empty axes, found {}", shape_text(input.shape))


class Windows:
    """The windows of a pool along its spatial axes, and how many of them there are."""

    def __init__(
        self, input: TensorSpec | Value, rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
    ):
        self.rank = rank
        self.kernel = per_axis("kernel_size", kernel, rank)
        given = stride is not None and stride != [] and stride != ()
        self.stride = per_axis("stride", stride, rank) if given else self.kernel
        self.padding = per_axis("padding", padding, rank)
        self.dilation = per_axis("dilation", dilation, rank)
        self.ceil = ceil
        self.sizes = input.shape[-rank:]
        self.counts = tuple(self._count(axis) for axis in range(rank))

    def reach(self, axis: int) -> int:
        """How many elements one window spans."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def _count(self, axis: int) -> Size:
        kernel, stride, padding = self.kernel[axis], self.stride[axis], self.padding[axis]
        check(kernel > 0, "kernel_size must be positive, found {}", kernel)
        check(stride > 0, "stride must be positive, found {}", stride)
        check(self.dilation[axis] > 0, "dilation must be positive, found {}", self.dilation[axis])
        check(
            0 <= padding <= kernel // 2,
            "padding must be at most half of the kernel's {} elements, found {}",
            kernel,
            padding,
        )
        room = self.sizes[axis] + 2 * padding - self.reach(axis)
        if not self.ceil:
            check(
                room >= 0,
                "the window of {} elements is larger than spatial axis {}, which has {} with its padding",
                self.reach(axis),
                axis,
                self.sizes[axis] + 2 * padding,
            )
            return room // stride + 1
        # With ceil_mode the last window reaches beyond the end, but starts inside the input or its left padding.
        last_start = self.sizes[axis] + padding - 1 - max(self.reach(axis) - stride - padding, 0)
        check(last_start >= 0, "the window of {} elements finds no place on spatial axis {}", self.reach(axis), axis)
        return last_start // stride + 1

    def end_padding(self, axis: int) -> int:
        """How far beyond the input the last window reaches, or may reach where the size is dynamic; at least the
        padding."""
        padding, stride, size = self.padding[axis], self.stride[axis], self.sizes[axis]
        if not self.ceil:
            return padding
        count = self.counts[axis]
        if isinstance(size, int) and isinstance(count, int):
            return max((count - 1) * stride + self.reach(axis) - size - padding, padding)
        return min(padding + stride, self.reach(axis)) - 1

    def pads(self) -> list[int]:
        """ONNX's `pads`: what is before each spatial axis, then what is behind."""
        return [*self.padding, *(self.end_padding(axis) for axis in range(self.rank))]


@max_pool.shape
def max_pool_shape(
    input: TensorSpec,
    rank: int,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> TensorSpec | tuple[TensorSpec, TensorSpec]:
    check_rank(input, rank)
    check(input.dtype != torch.bool, "a maximum pool takes numbers, found {}", input.dtype)
    windows = Windows(input, rank, kernel_size, stride, padding, dilation, ceil_mode)
    result = input.with_shape(*input.shape[:-rank], *windows.counts)
    return (result, result.with_dtype(torch.int64)) if return_indices else result


@avg_pool.shape
def avg_pool_shape(
    input: TensorSpec,
    rank: int,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> TensorSpec:
    check_rank(input, rank)
    check(divisor_override != 0, "divisor_override must not be 0")
    windows = Windows(input, rank, kernel_size, stride, padding, 1, ceil_mode)
    if rank == 3:  # torch asks this of a 3d average alone, whatever its padding
        for size, kernel in zip(windows.sizes, windows.kernel, strict=True):
            check(size >= kernel, "the window of {} elements is larger than an axis of {}", kernel, size)
    return input.with_shape(*input.shape[:-rank], *windows.counts)


@lp_pool.shape
def lp_pool_shape(
    input: TensorSpec,
    rank: int,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> TensorSpec:
    return avg_pool_shape(input, rank, kernel_size, stride, 0, ceil_mode)


# Lowerings ----------------------------------------------------------------------------------------


def batched(emit: Emitter, input: Value, rank: int, pool: Callable[[Value], Sequence[Value]]) -> list[Value]:
    """The results of a pool that takes a batch axis, for an input that may have none."""
    if input.ndim == rank + 2:
        return list(pool(input))
    return [emit.squeeze(result, 0) for result in pool(emit.unsqueeze(input, 0))]


@max_pool.lower
def lower_max_pool(
    emit: Emitter,
    input: Value,
    rank: int,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value | tuple[Value, Value]:
    """MaxPool. ONNX counts the places of maxima through the whole tensor, torch within each plane."""
    windows = Windows(input, rank, kernel_size, stride, padding, dilation, ceil_mode)
    pads = windows.pads()
    # onnxruntime refuses a padding as large as the kernel, which a dilated window may need at the end.
    apart = any(size >= kernel for size, kernel in zip(pads, windows.kernel * 2, strict=True))
    if apart and return_indices:
        emit.unsupported("the places of maxima where the last dilated window reaches a kernel's size beyond the input")

    def pool(x: Value) -> tuple[Value, ...]:
        if apart:
            around = emit.ints(0, 0, *pads[:rank], 0, 0, *pads[rank:])
            x = emit.node("Pad", x, around, emit.scalar(_lowest(input.dtype), input))
        return emit.nodes(
            "MaxPool",
            x,
            outputs=2 if return_indices else 1,
            kernel_shape=list(windows.kernel),
            strides=list(windows.stride),
            pads=None if apart else pads,
            dilations=list(windows.dilation),
        )

    result, *places = batched(emit, input, rank, pool)
    if not return_indices:
        return result
    plane = emit.size(product(windows.sizes))
    return result, emit.node("Mod", places[0], plane)


def _lowest(dtype: torch.dtype) -> float:
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


@avg_pool.lower
def lower_avg_pool(
    emit: Emitter,
    input: Value,
    rank: int,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """AveragePool. Padding counts for torch, what `ceil_mode` adds behind it does not: it is padded away first."""
    windows = Windows(input, rank, kernel_size, stride, padding, 1, ceil_mode)
    pads = windows.pads()
    own = [*windows.padding, *windows.padding]
    summed = divisor_override is not None
    mixed = count_include_pad and not summed and pads != own

    def pool(x: Value) -> tuple[Value, ...]:
        if mixed and any(own):
            x = emit.node("Pad", x, emit.ints(0, 0, *windows.padding, 0, 0, *windows.padding))
        node = emit.node(
            "AveragePool",
            x,
            kernel_shape=list(windows.kernel),
            strides=list(windows.stride),
            pads=[after - before for after, before in zip(pads, own, strict=True)] if mixed else pads,
            count_include_pad=int(summed or (count_include_pad and not mixed)) or None,
        )
        if divisor_override is not None:
            node = emit.node("Mul", node, emit.scalar(math.prod(windows.kernel) / divisor_override, input))
        return (node,)

    return batched(emit, input, rank, pool)[0]


@lp_pool.lower
def lower_lp_pool(
    emit: Emitter,
    input: Value,
    rank: int,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Value:
    """torch's own formula: the average of x^p, times the window's size, to 1/p; not a number where that is negative."""
    power = emit.node("Pow", input, emit.scalar(float(norm_type), input))
    mean = lower_avg_pool(emit, type(input)(power.name, input.spec), rank, kernel_size, stride, 0, ceil_mode)
    window = math.prod(per_axis("kernel_size", kernel_size, rank))
    total = emit.node("Mul", mean, emit.scalar(float(window), input))
    return emit.node("Pow", total, emit.scalar(1.0 / norm_type, input))


__all__ = ["batched", "check_rank", "per_axis"]
