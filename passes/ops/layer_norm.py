"""Normalisation within one sample: layer norm, group norm, RMS norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.onnx.opsets import SCALE_OF_EACH_CHANNEL
from passes.ops.norm import (
    LOW_PRECISION,
    check_floating,
    check_parameter,
    filled,
    has_instance_normalization,
    normalized,
    scaled,
)
from passes.ops.op import Op, Owned
from passes.ops.record import Record, T
from passes.sizes.dimension import Dim, Size, hint, is_static, may_be_zero, pinned, product
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class LayerNorm(Record[T]):
    input: T
    normalized_shape: Sequence[Size]
    weight: T | None = None
    bias: T | None = None
    eps: float = 1e-5
    cudnn_enable: bool = True


layer_norm = Op("layer_norm", LayerNorm, functions=(F.layer_norm, torch.layer_norm))


@dataclass(frozen=True, slots=True)
class GroupNorm(Record[T]):
    input: T
    num_groups: int
    weight: T | None = None
    bias: T | None = None
    eps: float = 1e-5
    cudnn_enabled: bool = True


group_norm = Op("group_norm", GroupNorm, functions=(F.group_norm, torch.group_norm))


@dataclass(frozen=True, slots=True)
class RmsNorm(Record[T]):
    input: T
    normalized_shape: Sequence[Size]
    weight: T | None = None
    eps: float | None = None


rms_norm = Op("rms_norm", RmsNorm, functions=(F.rms_norm, torch.rms_norm))


@layer_norm.module(nn.LayerNorm)
def bind_layer_norm(module: nn.LayerNorm, input: Any) -> Mapping[str, Any]:
    return {
        "input": input,
        "normalized_shape": module.normalized_shape,
        "weight": Owned("weight"),
        "bias": Owned("bias"),
        "eps": module.eps,
    }


@group_norm.module(nn.GroupNorm)
def bind_group_norm(module: nn.GroupNorm, input: Any) -> Mapping[str, Any]:
    return {
        "input": input,
        "num_groups": module.num_groups,
        "weight": Owned("weight"),
        "bias": Owned("bias"),
        "eps": module.eps,
    }


@rms_norm.module(nn.RMSNorm)
def bind_rms_norm(module: nn.RMSNorm, x: Any) -> Mapping[str, Any]:
    return {"input": x, "normalized_shape": module.normalized_shape, "weight": Owned("weight"), "eps": module.eps}


# Layer norm and RMS norm: over the last axes ------------------------------------------------------


@layer_norm.shape
def layer_norm_shape(call: LayerNorm[TensorSpec]) -> TensorSpec:
    input = call.input
    shape = _check_normalized_shape(input, call.normalized_shape)
    check_parameter("weight", call.weight, shape, input)
    check_parameter("bias", call.bias, shape, input)
    return input


@rms_norm.shape
def rms_norm_shape(call: RmsNorm[TensorSpec]) -> TensorSpec:
    shape = _check_normalized_shape(call.input, call.normalized_shape)
    check_parameter("weight", call.weight, shape, call.input)
    return call.input


def _check_normalized_shape(input: TensorSpec, normalized_shape: Any) -> tuple[Size, ...]:
    check_floating(input)
    check(
        isinstance(normalized_shape, (tuple, list)) and len(normalized_shape) > 0,
        "normalized_shape should name the sizes of the last axes, found {}",
        normalized_shape,
    )
    shape: tuple[Size, ...] = tuple(normalized_shape)
    found = input.shape[-len(shape) :]
    check(
        input.ndim >= len(shape) and all(a == b for a, b in zip(found, shape, strict=True)),
        "normalized_shape is {}, but the input's last axes are {}",
        shape_text(shape),
        shape_text(found),
        remedy="make normalized_shape {1}, or bring the axes to normalise to the end",
    )
    return shape


@layer_norm.lower
def lower_layer_norm(emit: Emitter, call: LayerNorm[Value]) -> Value:
    input = call.input
    shape = input.shape[-len(call.normalized_shape) :]
    if emit.has("LayerNormalization") and _is_uniform(input, call.weight, call.bias) and is_static(shape):
        scale = call.weight or filled(emit, 1, tuple(map(hint, shape)), input.dtype)
        return emit.node("LayerNormalization", input, scale, call.bias, axis=-len(shape), epsilon=call.eps)
    return normalized(emit, input, range(-len(shape), 0), call.eps, call.weight, call.bias)


@rms_norm.lower
def lower_rms_norm(emit: Emitter, call: RmsNorm[Value]) -> Value:
    """`x / sqrt(mean(x**2) + eps) * weight`, in float32 for low precision, whose epsilon is then the default."""
    input, eps = call.input, call.eps
    dtype = torch.float32 if input.dtype in LOW_PRECISION else input.dtype
    eps = torch.finfo(dtype).eps if eps is None else eps
    shape = input.shape[-len(call.normalized_shape) :]
    if emit.has("RMSNormalization") and _is_uniform(input, call.weight) and is_static(shape):
        scale = call.weight or filled(emit, 1, tuple(map(hint, shape)), input.dtype)
        return emit.node("RMSNormalization", input, scale, axis=-len(shape), epsilon=eps)
    x = emit.cast(input, dtype)
    mean = emit.reduce("ReduceMean", emit.node("Mul", x, x), range(-len(shape), 0), True)
    root = emit.node("Sqrt", emit.node("Add", mean, emit.scalar(eps, dtype)))
    result = scaled(emit, emit.node("Div", x, root), call.weight, None, dtype)
    return result if dtype == input.dtype else emit.cast(result, input.dtype)


def _is_uniform(input: Value, *parameters: Value | None) -> bool:
    """Whether one ONNX operator computes all of it: one dtype, and not float64, which it would compute in float32."""
    return input.dtype != torch.float64 and all(p.dtype == input.dtype for p in parameters if p is not None)


# Group norm ---------------------------------------------------------------------------------------


@group_norm.shape
def group_norm_shape(call: GroupNorm[TensorSpec]) -> TensorSpec:
    input, num_groups = call.input, pinned(call.num_groups)
    check_floating(input)
    check(input.ndim >= 2, "expected an input of at least 2 axes (batch, channels), found {}", input.ndim)
    batch, channels, *spatial = input.shape
    check(num_groups > 0, "num_groups must be positive, found {}", num_groups)
    check(
        channels % num_groups == 0,
        "the input's {} channels do not divide into {} groups",
        channels, num_groups,
        remedy="choose num_groups that divides {0}",
    )  # fmt: skip
    check(
        product((batch * channels // num_groups, *spatial)) != 1,
        "expected more than 1 value per group to take statistics of, found 1",
    )
    check_parameter("weight", call.weight, (channels,), input)
    check_parameter("bias", call.bias, (channels,), input)
    return input


@group_norm.lower
def lower_group_norm(emit: Emitter, call: GroupNorm[Value]) -> Value:
    """GroupNormalization scales per channel since opset 21; below, each group is an instance of an instance norm."""
    input, num_groups = call.input, call.num_groups
    channels, trailing = input.shape[1], input.ndim - 2
    native = emit.allows(SCALE_OF_EACH_CHANNEL) and not any(map(may_be_zero, input.shape))
    if native and _is_uniform(input, call.weight, call.bias) and isinstance(channels, int):
        scale = call.weight or filled(emit, 1, (channels,), input.dtype)
        shift = call.bias or filled(emit, 0, (channels,), input.dtype)
        return emit.node("GroupNormalization", input, scale, shift, num_groups=num_groups, epsilon=call.eps)
    grouped = emit.reshape(input, [input.shape[0], num_groups, product(input.shape[1:]) // num_groups])
    if has_instance_normalization(emit, grouped):
        units = filled(emit, 1, (num_groups,), input.dtype), filled(emit, 0, (num_groups,), input.dtype)
        standard = emit.node("InstanceNormalization", grouped, *units, epsilon=call.eps)
    else:
        standard = normalized(emit, grouped, (2,), call.eps)
    dynamic = sum(isinstance(size, Dim) for size in input.shape)
    whole = (
        emit.node("Reshape", standard, emit.node("Shape", input))
        if dynamic > 1
        else emit.reshape(standard, input.shape)
    )
    return scaled(emit, whole, call.weight, call.bias, input.dtype, trailing)
