"""Convolution over time with the axes in the order time, batch, channels, as old sequence models have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from passes.dimension import Size, product
from passes.errors import check
from passes.ops.conv import lower_conv
from passes.ops.layout import transposed
from passes.ops.op import Op
from passes.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx_emitter import Emitter, Value

conv_tbc = Op("conv_tbc", functions=(torch.conv_tbc,))


@conv_tbc.shape
def conv_tbc_shape(input: TensorSpec, weight: TensorSpec, bias: TensorSpec, pad: int = 0) -> TensorSpec:
    """[T, B, C_in] with a weight [k, C_in, C_out]: [T + 2 pad - k + 1, B, C_out]."""
    check(input.ndim == 3, "the input needs the 3 axes time, batch and channels, found {}", input)
    check(weight.ndim == 3, "the weight needs the 3 axes time, input and output channels, found {}", weight)
    check(bias.shape == weight.shape[2:], "the bias needs {} elements, found {}", weight.shape[2], bias)
    channels = weight.shape[1]
    check(input.shape[2] == channels, "the weight takes {} channels, but the input has {}", channels, input.shape[2])
    check(pad >= 0, "padding is {}, but must not be negative", pad)
    length = input.shape[0] + 2 * pad - weight.shape[0] + 1
    check(length >= 0, "the kernel of {} elements does not fit a time of {}", weight.shape[0], input.shape[0])
    return input.with_shape(length, input.shape[1], weight.shape[2])


@conv_tbc.lower
def lower_conv_tbc(emit: Emitter, input: Value, weight: Value, bias: Value, pad: int = 0) -> Value:
    """A Conv with the axes in its order, and back."""
    result = lower_conv(emit, 1, transposed(emit, input, (1, 2, 0)), transposed(emit, weight, (2, 1, 0)), bias, 1, pad)
    return transposed(emit, result, (2, 0, 1))


@conv_tbc.cost
def conv_tbc_cost(result: TensorSpec, input: TensorSpec, weight: TensorSpec, bias: TensorSpec, pad: int = 0) -> Size:
    return result.numel() * product(weight.shape[:2])
