"""Convolutions and transposed convolutions over 1, 2 and 3 spatial axes, batched or not.

Sizes along one spatial axis, with kernel k, stride s, dilation d and padding p on each side:

    convolution             out = (in + 2p - d(k - 1) - 1) // s + 1
    transposed convolution  out = (in - 1)s - 2p + d(k - 1) + output_padding + 1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from passes.errors import ShapeError, check
from passes.ops.op import Inference, Op, Owned
from passes.ops.pad import Pad, lower_pad, pad_shape
from passes.ops.promotion import check_weight_dtype
from passes.ops.record import Record, T
from passes.sizes.dimension import Dim, Size, is_static, pinned, product
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

PerAxis = int | Sequence[int]


@dataclass(frozen=True, slots=True)
class Conv(Record[T]):
    rank: int
    input: T
    weight: T
    bias: T | None = None
    stride: PerAxis = 1
    padding: PerAxis | str = 0
    dilation: PerAxis = 1
    groups: int = 1
    padding_mode: str = "zeros"


conv = Op("conv", Conv)


@dataclass(frozen=True, slots=True)
class ConvTranspose(Record[T]):
    rank: int
    input: T
    weight: T
    bias: T | None = None
    stride: PerAxis = 1
    padding: PerAxis = 0
    dilation: PerAxis = 1
    groups: int = 1
    output_padding: PerAxis = 0
    output_size: Sequence[Size] | None = None


conv_transpose = Op("conv_transpose", ConvTranspose)


def conv_arguments(
    rank: int, input: Any, weight: Any, bias: Any = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1,
) -> Mapping[str, Any]:  # fmt: skip
    return {
        "rank": rank, "input": input, "weight": weight, "bias": bias,
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups,
    }  # fmt: skip


def conv_transpose_arguments(
    rank: int, input: Any, weight: Any, bias: Any = None,
    stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: Any = 1, dilation: Any = 1,
) -> Mapping[str, Any]:  # fmt: skip
    arguments = conv_arguments(rank, input, weight, bias, stride, padding, dilation, groups)
    return {**arguments, "output_padding": output_padding}


def bind_conv(rank: int, module: Any, input: Any) -> Mapping[str, Any]:
    return {**_own_arguments(rank, module, input), "padding_mode": module.padding_mode}


def bind_conv_transpose(rank: int, module: Any, input: Any, output_size: Any = None) -> Mapping[str, Any]:
    return {
        **_own_arguments(rank, module, input),
        "output_padding": module.output_padding,
        "output_size": output_size,
    }


def _own_arguments(rank: int, module: Any, input: Any) -> Mapping[str, Any]:
    return conv_arguments(
        rank, input, Owned("weight"), Owned("bias"), module.stride, module.padding, module.dilation, module.groups
    )


def infer_conv(module: Any, call: Conv[TensorSpec] | ConvTranspose[TensorSpec]) -> Inference:
    """The channels of the input, and the weight and bias that follow from them."""
    _check_rank(call.input, call.rank)
    channels = call.input.shape[-call.rank - 1]
    check(
        channels % module.groups == 0,
        "the input's {} channels do not divide into {} groups",
        channels, module.groups,
        remedy="choose groups that divide {0}",
    )  # fmt: skip
    outside, inside = (
        (channels, module.out_channels // module.groups)
        if module.transposed
        else (module.out_channels, channels // module.groups)
    )
    shapes: dict[str, tuple[Size, ...]] = {"weight": (outside, inside, *module.kernel_size)}
    if module.bias is not None:
        shapes["bias"] = (module.out_channels,)
    return Inference({"in_channels": channels}, shapes)


_RANKS: list[tuple[int, Callable[..., Any], Callable[..., Any]]] = [
    (1, torch.conv1d, torch.conv_transpose1d),
    (2, torch.conv2d, torch.conv_transpose2d),
    (3, torch.conv3d, torch.conv_transpose3d),
]
for _rank, _function, _transposed in _RANKS:
    conv.function(_function)(partial(conv_arguments, _rank))
    conv_transpose.function(_transposed)(partial(conv_transpose_arguments, _rank))
    for _op, _bind, _name in (
        (conv, bind_conv, f"Conv{_rank}d"),
        (conv_transpose, bind_conv_transpose, f"ConvTranspose{_rank}d"),
    ):
        _op.module(getattr(nn, _name), getattr(nn, f"Lazy{_name}"))(partial(_bind, _rank))
        _op.infer(getattr(nn, f"Lazy{_name}"))(infer_conv)


# Shapes -------------------------------------------------------------------------------------------


@conv.shape
def conv_shape(call: Conv[TensorSpec]) -> TensorSpec:
    rank, input, weight = call.rank, call.input, call.weight
    groups = pinned(call.groups)
    strides, dilations = _check_operands(rank, input, weight, call.stride, call.dilation, groups)
    _check_channels(rank, input, weight.shape[1] * groups)
    _check_groups("out_channels", weight.shape[0], groups)
    _check_bias(weight, call.bias, weight.shape[0])
    pads = _padding(rank, call.padding, weight, strides, dilations)
    padded = input if call.padding_mode == "zeros" else pad_shape(Pad(input, _flat(pads), call.padding_mode))
    pairs = pads if call.padding_mode == "zeros" else [(0, 0)] * rank
    spatial = [
        _conv_size(axis, *sizes)
        for axis, sizes in enumerate(
            zip(padded.shape[-rank:], weight.shape[2:], strides, pairs, dilations, strict=True)
        )
    ]
    return input.with_shape(*input.shape[: -rank - 1], weight.shape[0], *spatial)


def _conv_size(axis: int, size: Size, kernel: Size, stride: int, pads: tuple[int, int], dilation: int) -> Size:
    reach = dilation * (kernel - 1) + 1
    padded = size + sum(pads)
    check(
        padded >= reach,
        "the kernel reaches over {} elements, but spatial axis {} has {} with its padding",
        reach, axis, padded,
        remedy="give a larger input, or a kernel that reaches over at most {2} elements",
    )  # fmt: skip
    return (padded - reach) // stride + 1


@conv_transpose.shape
def conv_transpose_shape(call: ConvTranspose[TensorSpec]) -> TensorSpec:
    rank, input, weight, groups = call.rank, call.input, call.weight, pinned(call.groups)
    strides, dilations = _check_operands(rank, input, weight, call.stride, call.dilation, groups)
    _check_channels(rank, input, weight.shape[0])
    _check_groups("in_channels", weight.shape[0], groups)
    _check_bias(weight, call.bias, weight.shape[1] * groups)
    smallest = _smallest_sizes(rank, input, weight, strides, _pads(rank, call.padding), dilations)
    extra = _output_padding(rank, input, strides, smallest, call.output_padding, call.output_size)
    for axis, (more, step, spread) in enumerate(zip(extra, strides, dilations, strict=True)):
        check(more >= 0, "output_padding of spatial axis {} is {}, below 0", axis, more)
        check(
            more < max(step, spread),
            "output_padding of spatial axis {} is {}, but must be below its stride {} or its dilation {}",
            axis, more, step, spread,
        )  # fmt: skip
    spatial = [least + more for least, more in zip(smallest, extra, strict=True)]
    for axis, size in enumerate(spatial):
        check(size >= 1, "spatial axis {} of the result would have size {}", axis, size)
    return input.with_shape(*input.shape[: -rank - 1], weight.shape[1] * groups, *spatial)


def _smallest_sizes(
    rank: int, input: TensorSpec | Value, weight: TensorSpec | Value, strides: Sequence[int], pads: Sequence[int],
    dilations: Sequence[int],
) -> list[Size]:  # fmt: skip
    """The result's spatial sizes without output padding."""
    return [
        (size - 1) * step - 2 * pad + spread * (kernel - 1) + 1
        for size, step, pad, spread, kernel in zip(
            input.shape[-rank:], strides, pads, dilations, weight.shape[2:], strict=True
        )
    ]


def _output_padding(
    rank: int, input: TensorSpec, strides: Sequence[int], smallest: Sequence[Size], output_padding: PerAxis,
    output_size: Sequence[Size] | None,
) -> Sequence[Size]:  # fmt: skip
    """What the stride leaves open of the result's size: given as it is, or by the size asked for."""
    if output_size is None:
        return _per_axis(rank, "output_padding", output_padding)
    leading = input.ndim - rank
    check(
        len(output_size) in (rank, leading + rank),
        "output_size needs {} or {} numbers for an input of {} axes, found {}",
        rank, leading + rank, input.ndim, len(output_size),
    )  # fmt: skip
    asked = output_size[-rank:]
    for axis, (size, least, step) in enumerate(zip(asked, smallest, strides, strict=True)):
        check(
            size >= least and size <= least + step - 1,
            "output_size of spatial axis {} is {}, but can only be {} to {}",
            axis, size, least, least + step - 1,
        )  # fmt: skip
    return [size - least for size, least in zip(asked, smallest, strict=True)]


def _check_operands(
    rank: int, input: TensorSpec, weight: TensorSpec, stride: PerAxis, dilation: PerAxis, groups: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Strides and dilations per axis, after the checks that both directions share."""
    _check_rank(input, rank)
    check(weight.ndim == rank + 2, "the weight needs {} axes, found {}", rank + 2, weight)
    check_weight_dtype(input, weight)
    check(0 not in [s for s in input.shape[-rank:] if isinstance(s, int)], "the input {} is empty", input)
    check(groups >= 1, "groups is {}, but must be at least 1", groups)
    strides, dilations = _per_axis(rank, "stride", stride), _per_axis(rank, "dilation", dilation)
    check(min(strides) >= 1, "stride is {}, but must be at least 1", stride, remedy="give a stride of 1 or more")
    check(min(dilations) >= 1, "dilation is {}, but must be at least 1", dilation)
    return strides, dilations


def _check_rank(input: TensorSpec, rank: int) -> None:
    check(
        input.ndim in (rank + 1, rank + 2),
        "a {}d convolution needs an input of {} axes, or of {} without a batch, found {}",
        rank, rank + 2, rank + 1, input,
        remedy="give it [batch, channels, and {0} spatial axes]; x.unsqueeze or x.flatten add and join axes",
    )  # fmt: skip


def _check_channels(rank: int, input: TensorSpec, expected: Size) -> None:
    found = input.shape[-rank - 1]
    if found == expected:
        return
    remedy = f"make in_channels {found}, or declare the layer as its lazy class"
    if input.shape[-1] == expected and input.shape[-2] != expected:
        leading = range(input.ndim - rank - 1)
        order = (*leading, input.ndim - 1, *range(len(leading), input.ndim - 1))
        remedy = f"the channels seem to be last; bring them first: x.permute{order}"
    raise ShapeError(f"in_channels is {expected}, but the input has {found} channels", remedy=remedy)


def _check_groups(what: str, channels: Size, groups: int) -> None:
    check(
        channels >= groups and channels % groups == 0,
        "{} is {}, which does not divide into {} groups",
        what, channels, groups,
        remedy="choose groups that divide {1}",
    )  # fmt: skip


def _check_bias(weight: TensorSpec, bias: TensorSpec | None, channels: Size) -> None:
    if bias is not None:
        check(bias.shape == (channels,), "the bias needs {} elements, found {}", channels, bias)
        check(bias.dtype == weight.dtype, "the bias is {}, but the weight is {}", bias.dtype, weight.dtype)


def _per_axis(rank: int, what: str, given: PerAxis) -> Sequence[int]:
    """One number per spatial axis; a single one stands for all. ONNX has them as numbers: an open size is assumed to be
    as sampled."""
    numbers = (given,) if isinstance(given, (int, Dim)) else tuple(given)
    check(len(numbers) in (1, rank), "{} needs 1 or {} numbers, found {}", what, rank, len(numbers))
    return tuple(map(pinned, numbers)) * (rank if len(numbers) == 1 else 1)


def _pads(rank: int, padding: PerAxis) -> Sequence[int]:
    pads = _per_axis(rank, "padding", padding)
    check(min(pads) >= 0, "padding is {}, but must not be negative", padding)
    return pads


def _padding(
    rank: int, padding: PerAxis | str, weight: TensorSpec | Value, strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """(before, after) per spatial axis; "same" puts the odd one after."""
    if not isinstance(padding, str):
        return [(pad, pad) for pad in _pads(rank, padding)]
    check(padding in ("same", "valid"), 'padding is {!r}, but can only be "same", "valid" or numbers', padding)
    if padding == "valid":
        return [(0, 0)] * rank
    check(max(strides) == 1, 'padding="same" needs a stride of 1, found {}', tuple(strides))
    totals = [spread * (int(kernel) - 1) for spread, kernel in zip(dilations, weight.shape[2:], strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def _flat(pads: Sequence[tuple[int, int]]) -> list[int]:
    """Padding per axis as `F.pad` takes it: from the last axis backwards."""
    return [amount for pair in reversed(pads) for amount in pair]


# Lowerings ----------------------------------------------------------------------------------------


@conv.lower
def lower_conv(emit: Emitter, call: Conv[Value]) -> Value:
    """Conv; a padding mode other than zeros is a Pad before it."""
    rank = call.rank
    strides, dilations = _per_axis(rank, "stride", call.stride), _per_axis(rank, "dilation", call.dilation)
    pads = _padding(rank, call.padding, call.weight, strides, dilations)
    padded = call.input
    if call.padding_mode != "zeros":
        padded = lower_pad(emit, Pad(call.input, _flat(pads), call.padding_mode))
        pads = [(0, 0)] * rank
    attributes = _attributes(call.weight, strides, pads, dilations, call.groups)
    return _in_batch(emit, "Conv", call.input.ndim == rank + 2, padded, call.weight, call.bias, attributes)


@conv_transpose.lower
def lower_conv_transpose(emit: Emitter, call: ConvTranspose[Value]) -> Value:
    """ConvTranspose.

    Output padding is below the stride there. More (as a dilation allows) is a row of zeros after the input for each
    whole stride. What is only known at run time is cut from the most that the stride leaves open.
    """
    rank = call.rank
    strides, dilations = _per_axis(rank, "stride", call.stride), _per_axis(rank, "dilation", call.dilation)
    pads = _pads(rank, call.padding)
    if not is_static(strides):
        emit.unsupported(f"a transposed convolution with the stride {strides[0]}, which is dynamic")
    smallest = _smallest_sizes(rank, call.input, call.weight, strides, pads, dilations)
    sizes: tuple[Size, ...] = emit.result.shape[-rank:]
    extra = [size - least for size, least in zip(sizes, smallest, strict=True)]
    rows, within = zip(
        *(divmod(more if isinstance(more, int) else step - 1, step) for more, step in zip(extra, strides, strict=True)),
        strict=True,
    )
    padded = lower_pad(emit, Pad(call.input, _flat([(0, count) for count in rows])))
    attributes = _attributes(call.weight, strides, [(pad, pad) for pad in pads], dilations, call.groups)
    attributes["output_padding"] = list(within)
    result = _in_batch(emit, "ConvTranspose", call.input.ndim == rank + 2, padded, call.weight, call.bias, attributes)
    open_axes = [axis for axis, more in enumerate(extra) if isinstance(more, Dim)]
    if not open_axes:
        return result
    ends = emit.sizes(sizes[axis] for axis in open_axes)
    axes = emit.ints(*(axis - rank for axis in open_axes))
    return emit.node("Slice", result, emit.ints(*(0 for _ in open_axes)), ends, axes)


def _attributes(
    weight: Value, strides: Sequence[int], pads: Sequence[tuple[int, int]], dilations: Sequence[int], groups: int
) -> dict[str, Any]:
    static = [size for size in weight.shape[2:] if isinstance(size, int)]
    return {
        "kernel_shape": static if len(static) == len(pads) else None,
        "strides": list(strides),
        "pads": [before for before, _ in pads] + [after for _, after in pads],
        "dilations": list(dilations),
        "group": groups,
    }


def _in_batch(
    emit: Emitter, op_type: str, batched: bool, input: Value, weight: Value, bias: Value | None, attributes: Any
) -> Value:
    """The node on a batch of one where there is none."""
    if not weight.dtype.is_floating_point:
        emit.unsupported(f"ONNX has no {op_type} for {weight.dtype}")
    operands = [input if batched else emit.unsqueeze(input, 0), weight, bias]
    result = emit.node(op_type, *operands, **attributes)
    return result if batched else emit.squeeze(result, 0)


# Multiply-adds ------------------------------------------------------------------------------------


@conv.cost
def conv_cost(result: TensorSpec, call: Conv[TensorSpec]) -> Size:
    return result.numel() * product(call.weight.shape[1:])


@conv_transpose.cost
def conv_transpose_cost(result: TensorSpec, call: ConvTranspose[TensorSpec]) -> Size:
    return call.input.numel() * product(call.weight.shape[1:])
