"""Elements between channels and space: pixel and channel shuffles, sliding blocks to columns and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.op import Op
from passes.ops.pad import Pad, lower_pad
from passes.ops.record import Record, T
from passes.sizes.dimension import Size, product
from passes.torch_private import native_nn
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

Pair = int | Sequence[int]


@dataclass(frozen=True, slots=True)
class PixelShuffle(Record[T]):
    input: T
    upscale_factor: int


pixel_shuffle = Op("pixel_shuffle", PixelShuffle, functions=(torch.pixel_shuffle,), view=True)


@dataclass(frozen=True, slots=True)
class PixelUnshuffle(Record[T]):
    input: T
    downscale_factor: int


pixel_unshuffle = Op("pixel_unshuffle", PixelUnshuffle, functions=(torch.pixel_unshuffle,), view=True)


@dataclass(frozen=True, slots=True)
class ChannelShuffle(Record[T]):
    input: T
    groups: int


channel_shuffle = Op(
    "channel_shuffle", ChannelShuffle, functions=(torch.channel_shuffle, torch.native_channel_shuffle), view=True
)


@dataclass(frozen=True, slots=True)
class Unfold(Record[T]):
    input: T
    kernel_size: Pair
    dilation: Pair = 1
    padding: Pair = 0
    stride: Pair = 1


unfold = Op("unfold", Unfold, functions=(F.unfold,))


@dataclass(frozen=True, slots=True)
class Fold(Record[T]):
    input: T
    output_size: Size | Sequence[Size]
    kernel_size: Pair
    dilation: Pair = 1
    padding: Pair = 0
    stride: Pair = 1


fold = Op("fold", Fold, functions=(F.fold,))


# Shuffles -----------------------------------------------------------------------------------------


@pixel_shuffle.module(nn.PixelShuffle)
def bind_pixel_shuffle(module: nn.PixelShuffle, input: Any) -> Mapping[str, Any]:
    return {"input": input, "upscale_factor": module.upscale_factor}


_BLOCK = "make the channels a multiple of upscale_factor squared"


@pixel_shuffle.shape
def pixel_shuffle_shape(call: PixelShuffle[TensorSpec]) -> TensorSpec:
    """[*, C·r², H, W] to [*, C, H·r, W·r]."""
    r = _check_factor(call.input, call.upscale_factor)
    *lead, channels, height, width = call.input.shape
    check(channels % (r * r) == 0, "the input's {} channels do not divide by {} * {}", channels, r, r, remedy=_BLOCK)
    return call.input.with_shape(*lead, channels // (r * r), height * r, width * r)


@pixel_shuffle.lower
def lower_pixel_shuffle(emit: Emitter, call: PixelShuffle[Value]) -> Value:
    """DepthToSpace of a batch of images; runtimes have it for floating point alone, so others are transposed."""
    input = call.input
    if input.dtype.is_floating_point:
        images = input if input.ndim == 4 else emit.reshape(input, [product(input.shape[:-3]), *input.shape[-3:]])
        shuffled = emit.node("DepthToSpace", images, blocksize=call.upscale_factor, mode="CRD")
        return shuffled if input.ndim == 4 else emit.reshape(shuffled, emit.result.shape)
    *_, channels, height, width = input.shape
    r = call.upscale_factor
    blocks = emit.reshape(input, [product(input.shape[:-3]), channels // (r * r), r, r, height, width])
    return emit.reshape(emit.node("Transpose", blocks, perm=[0, 1, 4, 2, 5, 3]), emit.result.shape)


@pixel_unshuffle.module(nn.PixelUnshuffle)
def bind_pixel_unshuffle(module: nn.PixelUnshuffle, input: Any) -> Mapping[str, Any]:
    return {"input": input, "downscale_factor": module.downscale_factor}


@pixel_unshuffle.shape
def pixel_unshuffle_shape(call: PixelUnshuffle[TensorSpec]) -> TensorSpec:
    """[*, C, H·r, W·r] to [*, C·r², H, W]."""
    r = _check_factor(call.input, call.downscale_factor)
    *lead, channels, height, width = call.input.shape
    for what, size in (("height", height), ("width", width)):
        check(size % r == 0, "the {} {} does not divide by {}", what, size, r)
    return call.input.with_shape(*lead, channels * r * r, height // r, width // r)


@pixel_unshuffle.lower
def lower_pixel_unshuffle(emit: Emitter, call: PixelUnshuffle[Value]) -> Value:
    """Blocks apart, their elements before the places. (SpaceToDepth orders the channels differently.)"""
    *_, channels, height, width = call.input.shape
    r = call.downscale_factor
    blocks = emit.reshape(call.input, [product(call.input.shape[:-3]), channels, height // r, r, width // r, r])
    return emit.reshape(emit.node("Transpose", blocks, perm=[0, 1, 3, 5, 2, 4]), emit.result.shape)


def _check_factor(input: TensorSpec, factor: int) -> int:
    check(input.ndim >= 3, "an image needs at least 3 axes, found {}", input)
    check(factor >= 1, "the factor is {}, but must be at least 1", factor)
    return factor


@channel_shuffle.module(nn.ChannelShuffle)
def bind_channel_shuffle(module: nn.ChannelShuffle, input: Any) -> Mapping[str, Any]:
    return {"input": input, "groups": module.groups}


@channel_shuffle.shape
def channel_shuffle_shape(call: ChannelShuffle[TensorSpec]) -> TensorSpec:
    input, groups = call.input, call.groups
    check(input.ndim >= 3, "the input needs at least 3 axes, found {}", input)
    check(groups >= 1, "groups is {}, but must be at least 1", groups)
    check(input.shape[1] % groups == 0, "the input's {} channels do not divide into {} groups", input.shape[1], groups)
    return input


@channel_shuffle.lower
def lower_channel_shuffle(emit: Emitter, call: ChannelShuffle[Value]) -> Value:
    input = call.input
    batch, channels, *rest = input.shape
    grouped = emit.reshape(input, [batch, call.groups, channels // call.groups, *rest])
    perm = [0, 2, 1, *range(3, input.ndim + 1)]
    return emit.reshape(emit.node("Transpose", grouped, perm=perm), input.shape)


# Sliding blocks -----------------------------------------------------------------------------------


@unfold.function(native_nn.im2col)
def im2col_arguments(input: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Mapping[str, Any]:
    return {
        "input": input, "kernel_size": kernel_size, "dilation": dilation, "padding": padding, "stride": stride,
    }  # fmt: skip


@unfold.module(nn.Unfold)
def bind_unfold(module: nn.Unfold, input: Any) -> Mapping[str, Any]:
    return im2col_arguments(input, module.kernel_size, module.dilation, module.padding, module.stride)


@unfold.shape
def unfold_shape(call: Unfold[TensorSpec]) -> TensorSpec:
    """[N, C, H, W] to [N, C·kh·kw, blocks]."""
    input = call.input
    check(input.ndim in (3, 4), "unfold takes [N, C, H, W] or [C, H, W], found {}", input)
    check(0 not in [size for size in input.shape[-3:] if isinstance(size, int)], "the input {} is empty", input)
    *lead, channels, height, width = input.shape
    blocks = _block_counts((height, width), call.kernel_size, call.dilation, call.padding, call.stride)
    kernel = _pair("kernel_size", call.kernel_size, 1)
    return input.with_shape(*lead, channels * kernel[0] * kernel[1], product(blocks))


@unfold.lower
def lower_unfold(emit: Emitter, call: Unfold[Value]) -> Value:
    """Pad, then for each axis one Gather of every block's places: [N, C, kh, H', kw, W'], columns last."""
    input = call.input
    kernel, steps = _pair("kernel_size", call.kernel_size, 1), _pair("stride", call.stride, 1)
    spreads, pads = _pair("dilation", call.dilation, 1), _pair("padding", call.padding, 0)
    blocks = _block_counts(input.shape[-2:], call.kernel_size, call.dilation, call.padding, call.stride)
    last = input.ndim - 1
    result = lower_pad(emit, Pad(input, (pads[1], pads[1], pads[0], pads[0])))
    for axis, index in ((last, 1), (last - 1, 0)):
        places = _places(emit, kernel[index], spreads[index], blocks[index], steps[index])
        result = emit.node("Gather", result, places, axis=axis)
    lead = list(range(input.ndim - 2))
    rows, columns = last - 1, last + 1
    apart = emit.node("Transpose", result, perm=[*lead, rows, columns, rows + 1, columns + 1])
    return emit.reshape(apart, emit.result.shape)


def _places(emit: Emitter, kernel: int, spread: int, count: Size, step: int) -> Value:
    """`k * spread + block * step` of [kernel, count]."""
    if not (isinstance(kernel, int) and isinstance(spread, int)):
        emit.unsupported(f"windows of {kernel} places that are {spread} apart, which is dynamic")
    within = torch.arange(kernel)[:, None] * spread
    if isinstance(count, int):
        return emit.constant(within + torch.arange(count) * step)
    end = emit.squeeze(emit.size(count * step), 0)
    starts = emit.node("Range", emit.scalar(0, torch.int64), end, emit.scalar(step, torch.int64))
    return emit.node("Add", emit.constant(within), starts)


@fold.function(native_nn.col2im)
def col2im_arguments(
    input: Any, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> Mapping[str, Any]:
    return {"output_size": output_size, **im2col_arguments(input, kernel_size, dilation, padding, stride)}


@fold.module(nn.Fold)
def bind_fold(module: nn.Fold, input: Any) -> Mapping[str, Any]:
    return col2im_arguments(
        input, module.output_size, module.kernel_size, module.dilation, module.padding, module.stride
    )


@fold.shape
def fold_shape(call: Fold[TensorSpec]) -> TensorSpec:
    """[N, C·kh·kw, blocks] to [N, C, H, W]."""
    input = call.input
    check(input.ndim in (2, 3), "fold takes [N, C * kernel, blocks] or [C * kernel, blocks], found {}", input)
    check(0 not in [size for size in input.shape[-2:] if isinstance(size, int)], "the input {} is empty", input)
    *lead, columns, found = input.shape
    kernel = _pair("kernel_size", call.kernel_size, 1)
    height, width = _image_size(call.output_size)
    area = kernel[0] * kernel[1]
    check(
        columns % area == 0,
        "the input's axis of size {} does not divide by the {} of a kernel {}",
        columns,
        area,
        kernel,
    )
    expected = product(_block_counts((height, width), call.kernel_size, call.dilation, call.padding, call.stride))
    check(found == expected, "an image of {} x {} has {} blocks, but the input has {}", height, width, expected, found)
    return input.with_shape(*lead, columns // area, height, width)


@fold.lower
def lower_fold(emit: Emitter, call: Fold[Value]) -> Value:
    """Col2Im; before opset 18 a transposed convolution whose kernels each hold a single 1."""
    input = call.input
    kernel, steps = _pair("kernel_size", call.kernel_size, 1), _pair("stride", call.stride, 1)
    spreads, pads = _pair("dilation", call.dilation, 1), _pair("padding", call.padding, 0)
    size = _image_size(call.output_size)
    batched = input if input.ndim == 3 else emit.unsqueeze(input, 0)
    geometry: dict[str, Any] = {"dilations": list(spreads), "pads": [*pads, *pads], "strides": list(steps)}
    if emit.has("Col2Im"):
        image = emit.node("Col2Im", batched, emit.sizes(size), emit.ints(*kernel), **geometry)
        return image if input.ndim == 3 else emit.squeeze(image, 0)
    channels = emit.result.shape[-3]
    if not isinstance(channels, int) or not input.dtype.is_floating_point:
        emit.unsupported(f"fold of {input.dtype} with {channels} channels needs Col2Im of opset 18")
    blocks = _block_counts(size, call.kernel_size, call.dilation, call.padding, call.stride)
    left = [
        length - ((count - 1) * step - 2 * pad + spread * (reach - 1) + 1)
        for length, count, step, pad, spread, reach in zip(size, blocks, steps, pads, spreads, kernel, strict=True)
    ]
    if not all(isinstance(rest, int) for rest in left):
        emit.unsupported("fold to a dynamic size that the blocks do not fill needs Col2Im of opset 18")
    area = kernel[0] * kernel[1]
    one_hot = torch.eye(area, dtype=input.dtype).reshape(area, 1, *kernel).repeat(channels, 1, 1, 1)
    batch = input.shape[0] if input.ndim == 3 else 1
    columns = emit.reshape(batched, [batch, channels * area, *blocks])
    image = emit.node("ConvTranspose", columns, emit.constant(one_hot), group=channels, output_padding=left, **geometry)
    return image if input.ndim == 3 else emit.squeeze(image, 0)


def _block_counts(
    spatial: Sequence[Size], kernel_size: Pair, dilation: Pair, padding: Pair, stride: Pair
) -> tuple[Size, ...]:
    """How many blocks fit along each axis: `(size + 2p - d(k - 1) - 1) // s + 1`."""
    counts = tuple(
        (size + 2 * pad - spread * (kernel - 1) - 1) // step + 1
        for size, kernel, spread, pad, step in zip(
            spatial,
            _pair("kernel_size", kernel_size, 1),
            _pair("dilation", dilation, 1),
            _pair("padding", padding, 0),
            _pair("stride", stride, 1),
            strict=True,
        )
    )
    for size, count in zip(spatial, counts, strict=True):
        check(
            count >= 1,
            "no block of {} fits into a padded size of {}",
            kernel_size,
            size,
            remedy="give a larger image or a smaller kernel",
        )
    return counts


def _image_size(output_size: Size | Sequence[Size]) -> tuple[Size, Size]:
    given = tuple(output_size) if isinstance(output_size, Sequence) else (output_size, output_size)
    check(len(given) == 2, "output_size needs 2 numbers, found {}", len(given))
    height, width = given
    check(height >= 1 and width >= 1, "output_size is {} x {}, but must be at least 1", height, width)
    return height, width


def _pair(what: str, given: Pair, least: int) -> tuple[int, int]:
    numbers = tuple(given) if isinstance(given, Sequence) else (given, given)
    check(len(numbers) == 2, "{} needs 2 numbers, found {}", what, len(numbers))
    check(min(numbers) >= least, "{} is {}, but must be at least {}", what, given, least)
    return numbers[0], numbers[1]
