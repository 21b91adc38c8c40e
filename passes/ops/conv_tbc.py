"""Convolution over time with the axes in the order time, batch, channels, as old sequence models have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from passes.errors import check
from passes.ops.conv import Conv, lower_conv
from passes.ops.layout import transposed
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.sizes.dimension import Size, product
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class ConvTbc(Record[T]):
    input: T
    weight: T
    bias: T
    pad: int = 0


conv_tbc = Op("conv_tbc", ConvTbc, functions=(torch.conv_tbc,))


@conv_tbc.shape
def conv_tbc_shape(call: ConvTbc[TensorSpec]) -> TensorSpec:
    """[T, B, C_in] with a weight [k, C_in, C_out]: [T + 2 pad - k + 1, B, C_out]."""
    input, weight = call.input, call.weight
    check(input.ndim == 3, "the input needs the 3 axes time, batch and channels, found {}", input)
    check(weight.ndim == 3, "the weight needs the 3 axes time, input and output channels, found {}", weight)
    check(call.bias.shape == weight.shape[2:], "the bias needs {} elements, found {}", weight.shape[2], call.bias)
    channels = weight.shape[1]
    check(input.shape[2] == channels, "the weight takes {} channels, but the input has {}", channels, input.shape[2])
    check(call.pad >= 0, "padding is {}, but must not be negative", call.pad)
    length = input.shape[0] + 2 * call.pad - weight.shape[0] + 1
    check(length >= 0, "the kernel of {} elements does not fit a time of {}", weight.shape[0], input.shape[0])
    return input.with_shape(length, input.shape[1], weight.shape[2])


@conv_tbc.lower
def lower_conv_tbc(emit: Emitter, call: ConvTbc[Value]) -> Value:
    """A Conv with the axes in its order, and back."""
    result = lower_conv(
        emit,
        Conv(
            1, transposed(emit, call.input, (1, 2, 0)), transposed(emit, call.weight, (2, 1, 0)), call.bias, 1, call.pad
        ),
    )
    return transposed(emit, result, (2, 0, 1))


@conv_tbc.cost
def conv_tbc_cost(result: TensorSpec, call: ConvTbc[TensorSpec]) -> Size:
    return result.numel() * product(call.weight.shape[:2])
