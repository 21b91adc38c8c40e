"""Batch and instance normalisation: `y = (x - mean) / sqrt(var + eps) * weight + bias`, per channel.

Always as in eval mode: with the running statistics of the layer where it keeps them, else with the
statistics of the input itself, the variance being the biased one.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import TracerWarning, check
from passes.onnx.opsets import STATISTICS_OF_ANOTHER_TYPE
from passes.ops.op import Inference, Op, Owned
from passes.ops.record import Record, T
from passes.sizes.dimension import hint, may_be_zero, product
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

LOW_PRECISION = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class BatchNorm(Record[T]):
    input: T
    running_mean: T | None
    running_var: T | None
    weight: T | None = None
    bias: T | None = None
    training: bool = False
    momentum: float | None = 0.1
    eps: float = 1e-5
    ranks: tuple[int, ...] | None = None


batch_norm = Op("batch_norm", BatchNorm, functions=(F.batch_norm,))


@dataclass(frozen=True, slots=True)
class InstanceNorm(Record[T]):
    input: T
    running_mean: T | None = None
    running_var: T | None = None
    weight: T | None = None
    bias: T | None = None
    use_input_stats: bool = True
    momentum: float | None = 0.1
    eps: float = 1e-5
    ranks: tuple[int, int] | None = None


instance_norm = Op("instance_norm", InstanceNorm, functions=(F.instance_norm,))


# Spellings ----------------------------------------------------------------------------------------


@batch_norm.function(torch.batch_norm)
def bind_torch_batch_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float,
    eps: float, cudnn_enabled: bool,
) -> Mapping[str, Any]:  # fmt: skip
    return {
        "input": input, "running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias,
        "training": training, "eps": eps,
    }  # fmt: skip


@instance_norm.function(torch.instance_norm)
def bind_torch_instance_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, use_input_stats: bool, momentum: float,
    eps: float, cudnn_enabled: bool,
) -> Mapping[str, Any]:  # fmt: skip
    return {
        "input": input, "running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias,
        "use_input_stats": use_input_stats, "eps": eps,
    }  # fmt: skip


OWNED = {name: Owned(name) for name in ("running_mean", "running_var", "weight", "bias")}


def bind_batch_norm(module: Any, input: Any, *, ranks: tuple[int, ...] | None) -> Mapping[str, Any]:
    without_statistics = module.running_mean is None and module.running_var is None
    return {"input": input, **OWNED, "training": without_statistics, "eps": module.eps, "ranks": ranks}


def bind_instance_norm(module: Any, input: Any, *, ranks: tuple[int, int]) -> Mapping[str, Any]:
    return {
        "input": input,
        **OWNED,
        "use_input_stats": not module.track_running_stats,
        "eps": module.eps,
        "ranks": ranks,
    }


# The ranks that each class takes; an instance norm takes its first one as an input without a batch axis.
BATCH_NORMS: dict[type[nn.Module], tuple[int, ...] | None] = {
    nn.BatchNorm1d: (2, 3),
    nn.BatchNorm2d: (4,),
    nn.BatchNorm3d: (5,),
    nn.LazyBatchNorm1d: (2, 3),
    nn.LazyBatchNorm2d: (4,),
    nn.LazyBatchNorm3d: (5,),
    nn.SyncBatchNorm: None,
}
INSTANCE_NORMS: dict[type[nn.Module], tuple[int, int]] = {
    nn.InstanceNorm1d: (2, 3),
    nn.InstanceNorm2d: (3, 4),
    nn.InstanceNorm3d: (4, 5),
    nn.LazyInstanceNorm1d: (2, 3),
    nn.LazyInstanceNorm2d: (3, 4),
    nn.LazyInstanceNorm3d: (4, 5),
}
for _cls, _ranks in BATCH_NORMS.items():
    batch_norm.module(_cls)(partial(bind_batch_norm, ranks=_ranks))
for _cls, _pair in INSTANCE_NORMS.items():
    instance_norm.module(_cls)(partial(bind_instance_norm, ranks=_pair))


@batch_norm.infer(nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d)
def infer_batch_norm(module: nn.Module, call: BatchNorm[TensorSpec]) -> Inference:
    return _features(call.input)


def _features(input: TensorSpec) -> Inference:
    check(input.ndim >= 2, "a lazy norm needs an input of at least 2 axes, found {}", input.ndim)
    num_features = input.shape[1]
    return Inference({"num_features": num_features}, dict.fromkeys(OWNED, (num_features,)))


@instance_norm.infer(nn.LazyInstanceNorm1d, nn.LazyInstanceNorm2d, nn.LazyInstanceNorm3d)
def infer_instance_norm(module: Any, call: InstanceNorm[TensorSpec]) -> Inference:
    """As torch does, the second axis counts the features, even of an input without a batch axis; with a warning."""
    input = call.input
    if input.ndim == module._get_no_batch_dim():
        kind, channels, taken = type(module).__name__, input.shape[0], input.shape[1]
        remedy = "give the sample a batch axis"
        fault = (
            f"{kind} counts the features of an input without a batch axis on its second axis, {taken}, as torch does"
        )
        check(channels == taken, "{}, but its channels are the first, {}", fault, channels, remedy=remedy)
        warnings.warn(f"{fault}; {remedy}", TracerWarning, stacklevel=2)
    return _features(input)


# Shapes -------------------------------------------------------------------------------------------


def check_floating(input: TensorSpec) -> None:
    check(input.dtype.is_floating_point, "a norm needs an input of floating point, found {}", input.dtype)


def check_parameter(name: str, tensor: TensorSpec | None, shape: tuple[Any, ...], input: TensorSpec) -> None:
    """A parameter or statistic has this shape and the input's dtype (or float32, for an input of low precision)."""
    if tensor is None:
        return
    check(
        tensor.ndim == len(shape) and all(a == b for a, b in zip(tensor.shape, shape, strict=True)),
        "the {} should be of shape {}, found {}", name, list(shape), list(tensor.shape),
        remedy="make the layer for {1}, or give it an input that it was made for",
    )  # fmt: skip
    check(
        tensor.dtype == input.dtype or (input.dtype in LOW_PRECISION and tensor.dtype == torch.float32),
        "the input is {}, but the {} is {}", input.dtype, name, tensor.dtype,
    )  # fmt: skip


def check_rank(input: TensorSpec, ranks: tuple[int, ...] | None) -> None:
    if ranks is None:
        check(input.ndim >= 2, "expected an input of at least 2 axes (batch, channels), found {}", input.ndim)
    else:
        check(
            input.ndim in ranks,
            "expected an input of {} axes, found {}: {}",
            " or ".join(map(str, ranks)), input.ndim, input,
            remedy="give it [batch, channels, ...] with as many axes as it expects, or use the class for {1}",
        )  # fmt: skip


@batch_norm.shape
def batch_norm_shape(call: BatchNorm[TensorSpec]) -> TensorSpec:
    input = call.input
    check_floating(input)
    check_rank(input, call.ranks)
    check(call.eps > 0 or (call.eps == 0 and not call.training), "eps must be positive, found {}", call.eps)
    if call.training:
        values = product((input.shape[0], *input.shape[2:]))
        check(values != 1, "expected more than 1 value per channel to take statistics of, found 1")
    else:
        check(
            call.running_mean is not None and call.running_var is not None,
            "running_mean and running_var must be given unless batch statistics are used",
        )
    _check_channels(input, input.shape[1], call.running_mean, call.running_var, call.weight, call.bias)
    return input


@instance_norm.shape
def instance_norm_shape(call: InstanceNorm[TensorSpec]) -> TensorSpec:
    input = call.input
    check_floating(input)
    check_rank(input, call.ranks)
    channel_axis = 0 if _is_unbatched(input, call.ranks) else 1
    if call.use_input_stats:
        values = product(input.shape[channel_axis + 1 :])
        check(values != 1, "expected more than 1 spatial element to take statistics of, found 1")
    else:
        check(
            call.running_mean is not None and call.running_var is not None,
            "running_mean and running_var must be given unless the input's own statistics are used",
        )
    _check_channels(input, input.shape[channel_axis], call.running_mean, call.running_var, call.weight, call.bias)
    return input


def _check_channels(input: TensorSpec, channels: Any, *tensors: TensorSpec | None) -> None:
    made_for = next((tensor.shape[0] for tensor in tensors if tensor is not None and tensor.ndim == 1), channels)
    check(
        made_for == channels,
        "num_features is {}, but the input has {} channels",
        made_for, channels,
        remedy="make num_features {1}, or declare the layer as its lazy class",
    )  # fmt: skip
    for name, tensor in zip(OWNED, tensors, strict=True):
        check_parameter(name, tensor, (channels,), input)


def _is_unbatched(input: TensorSpec | Value, ranks: tuple[int, int] | None) -> bool:
    return ranks is not None and input.ndim == ranks[0]


# Lowerings ----------------------------------------------------------------------------------------


@batch_norm.lower
def lower_batch_norm(emit: Emitter, call: BatchNorm[Value]) -> Value:
    input = call.input
    if call.training:
        return normalized(
            emit, input, (0, *range(2, input.ndim)), call.eps, call.weight, call.bias, trailing=input.ndim - 2
        )
    assert call.running_mean is not None
    assert call.running_var is not None
    return _with_statistics(emit, input, call.running_mean, call.running_var, call.weight, call.bias, call.eps)


@instance_norm.lower
def lower_instance_norm(emit: Emitter, call: InstanceNorm[Value]) -> Value:
    input = call.input
    batched = input
    if _is_unbatched(input, call.ranks):
        batched = replace(emit.unsqueeze(input, 0), spec=TensorSpec((1, *input.shape), input.dtype))
    if call.use_input_stats:
        result = _instances(emit, batched, call.weight, call.bias, call.eps)
    else:
        assert call.running_mean is not None
        assert call.running_var is not None
        result = _with_statistics(emit, batched, call.running_mean, call.running_var, call.weight, call.bias, call.eps)
    return result if batched is input else emit.squeeze(result, 0)


def _instances(emit: Emitter, input: Value, weight: Value | None, bias: Value | None, eps: float) -> Value:
    channels = input.shape[1]
    if isinstance(channels, int) and has_instance_normalization(emit, input):
        scale = emit.cast(weight, input.dtype) if weight else filled(emit, 1, (channels,), input.dtype)
        shift = emit.cast(bias, input.dtype) if bias else filled(emit, 0, (channels,), input.dtype)
        return emit.node("InstanceNormalization", input, scale, shift, epsilon=eps)
    return normalized(emit, input, range(2, input.ndim), eps, weight, bias, trailing=input.ndim - 2)


def _with_statistics(
    emit: Emitter, input: Value, mean: Value, var: Value, weight: Value | None, bias: Value | None, eps: float
) -> Value:
    """BatchNormalization; its parameters may have their own dtype since opset 15.

    Its epsilon is float32, so in float64 it is the formula itself.
    """
    if input.dtype == torch.float64:
        mean, var = (_before(emit, emit.cast(value, input.dtype), input.ndim - 2) for value in (mean, var))
        deviation = emit.node("Sqrt", emit.node("Add", var, emit.scalar(eps, input)))
        standard = emit.node("Div", emit.node("Sub", input, mean), deviation)
        return scaled(emit, standard, weight, bias, input.dtype, trailing=input.ndim - 2)
    channels = tuple(map(hint, mean.shape))
    scale = weight or filled(emit, 1, channels, mean.dtype)
    shift = bias or filled(emit, 0, channels, mean.dtype)
    if not emit.allows(STATISTICS_OF_ANOTHER_TYPE):
        scale, shift, mean, var = (emit.cast(value, input.dtype) for value in (scale, shift, mean, var))
    return emit.node("BatchNormalization", input, scale, shift, mean, var, epsilon=eps)


def has_instance_normalization(emit: Emitter, input: Value) -> bool:
    """Whether InstanceNormalization takes an input, in ONNX and in the runtimes, which know none in float64 and break
    down at instances without elements."""
    dtype = input.dtype
    taken = dtype in (torch.float32, torch.float16) or (
        dtype == torch.bfloat16 and emit.takes("InstanceNormalization", dtype)
    )
    return taken and not any(map(may_be_zero, input.shape[1:]))


def filled(emit: Emitter, number: float, shape: tuple[int, ...], dtype: torch.dtype) -> Value:
    """A constant of one number, for a parameter that the layer does not have but the ONNX operator needs."""
    return emit.constant(torch.full(shape, number, dtype=dtype))


def normalized(
    emit: Emitter,
    input: Value,
    dims: Sequence[int],
    eps: float,
    weight: Value | None = None,
    bias: Value | None = None,
    trailing: int = 0,
) -> Value:
    """The formula itself, with statistics over `dims`; the parameters stand before `trailing` axes of the input.

    Low precision is computed in float32 and rounded once, as torch does.
    """
    dtype = torch.float32 if input.dtype in LOW_PRECISION else input.dtype
    x = emit.cast(input, dtype)
    centered = emit.node("Sub", x, emit.reduce("ReduceMean", x, dims, True))
    variance = emit.reduce("ReduceMean", emit.node("Mul", centered, centered), dims, True)
    deviation = emit.node("Sqrt", emit.node("Add", variance, emit.scalar(eps, dtype)))
    result = scaled(emit, emit.node("Div", centered, deviation), weight, bias, dtype, trailing)
    return result if dtype == input.dtype else emit.cast(result, input.dtype)


def _before(emit: Emitter, parameter: Value, trailing: int) -> Value:
    """One number per channel, laid so that `trailing` axes of the input come after the channels."""
    return emit.unsqueeze(parameter, *range(1, trailing + 1)) if trailing else parameter


def scaled(
    emit: Emitter, value: Value, weight: Value | None, bias: Value | None, dtype: torch.dtype, trailing: int = 0
) -> Value:
    """`value * weight + bias`, as far as they are there."""
    for op_type, parameter in (("Mul", weight), ("Add", bias)):
        if parameter is not None:
            value = emit.node(op_type, value, _before(emit, emit.cast(parameter, dtype), trailing))
    return value
