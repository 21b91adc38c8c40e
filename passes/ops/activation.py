"""Activations: functions of one tensor, element by element (and the gated GLU).

Each is declared once, by its lowering: the lowering's parameters are the op's signature, and a module holds
them in attributes of the same names.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.op import Op, Owned
from passes.ops.promotion import as_value, check_weight_dtype, float_dtype
from passes.ops.random_numbers import refuse
from passes.ops.record import Record, T, record_of
from passes.sizes.floating import is_exactly
from passes.torch_private import native_nn
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

Lowering = TypeVar("Lowering", bound=Callable[..., Any])


# What an activation makes of the input's dtype ----------------------------------------------------


def floating(input: TensorSpec, name: str) -> TensorSpec:
    check(input.dtype.is_floating_point, "{} needs a floating-point input, found {}", name, input.dtype)
    return input


def real(input: TensorSpec, name: str) -> TensorSpec:
    """Integers stay what they are."""
    check(input.dtype != torch.bool and not input.dtype.is_complex, "{} does not take {}", name, input.dtype)
    return input


def promoting(input: TensorSpec, name: str) -> TensorSpec:
    """Integers become the default floating-point dtype."""
    return input.with_dtype(float_dtype(input.dtype))


def promoting_real(input: TensorSpec, name: str) -> TensorSpec:
    check(input.dtype != torch.bool, "{} does not take {}", name, input.dtype)
    return promoting(input, name)


def activation(
    name: str,
    *functions: Callable[..., Any],
    modules: tuple[type[nn.Module], ...] = (),
    methods: tuple[str, ...] = (),
    result: Callable[[TensorSpec, str], TensorSpec] = floating,
    refuse: Callable[..., None] | None = None,
) -> Callable[[Lowering], Lowering]:
    """Declares the op that the decorated lowering lowers.

    `result` gives its result from its input, and `refuse` raises ShapeError for other arguments it does not take.
    """

    def declare(lowering: Lowering) -> Lowering:
        parameters = list(inspect.signature(lowering).parameters.values())[1:]
        op = Op(name, record_of(name, parameters), functions=functions, methods=methods)

        def shape(call: Record[TensorSpec]) -> TensorSpec:
            found = result(call.subject, name)
            if refuse is not None:
                refuse(**call.named())
            return found

        def lower(emit: Emitter, call: Record[Value]) -> Value:
            value: Value = lowering(emit, **call.named())
            return value

        def bind(module: nn.Module, input: Any) -> Mapping[str, Any]:
            own = {p.name: getattr(module, p.name) for p in parameters[1:] if hasattr(module, p.name)}
            return {"input": input, **own, "training": False} if "training" in own else {"input": input, **own}

        op.shape(shape)
        op.module(*modules)(bind)
        op.lower(lower)
        return lowering

    return declare


# Rectifiers ---------------------------------------------------------------------------------------


@activation("relu", F.relu, torch.relu, torch.relu_, modules=(nn.ReLU,), methods=("relu",), result=real)
def lower_relu(emit: Emitter, input: Value) -> Value:
    """Relu takes integers since opset 14 only, and runtimes hardly any; the maximum with 0 is the same."""
    if input.dtype.is_floating_point:
        return emit.node("Relu", input)
    return emit.node("Max", input, emit.scalar(0, input))


def refuse_limits(input: TensorSpec, min_val: float = -1.0, max_val: float = 1.0) -> None:
    check(min_val <= max_val, "hardtanh's min_val is {}, greater than its max_val {}", min_val, max_val)
    check(
        input.dtype != torch.uint8 or int(min_val) >= 0,
        "hardtanh cannot limit {} to {}..{}",
        input.dtype,
        min_val,
        max_val,
    )


@activation(
    "hardtanh", F.hardtanh, F.hardtanh_, native_nn.hardtanh, modules=(nn.Hardtanh,), result=real, refuse=refuse_limits
)
def lower_hardtanh(emit: Emitter, input: Value, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    return emit.node("Clip", input, emit.scalar(min_val, input), emit.scalar(max_val, input))


@activation("relu6", F.relu6, native_nn.relu6, modules=(nn.ReLU6,), result=real)
def lower_relu6(emit: Emitter, input: Value) -> Value:
    return emit.node("Clip", input, emit.scalar(0, input), emit.scalar(6, input))


@activation("leaky_relu", F.leaky_relu, F.leaky_relu_, native_nn.leaky_relu, modules=(nn.LeakyReLU,))
def lower_leaky_relu(emit: Emitter, input: Value, negative_slope: float = 0.01) -> Value:
    return _leaky(emit, input, negative_slope)


def refuse_slopes(input: TensorSpec, lower: float, upper: float, training: bool) -> None:
    check(lower <= upper, "rrelu's lower slope is {}, greater than its upper one {}", lower, upper)


@activation("rrelu", F.rrelu, F.rrelu_, torch.rrelu, modules=(nn.RReLU,), refuse=refuse_slopes)
def lower_rrelu(
    emit: Emitter, input: Value, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False
) -> Value:
    """In eval mode the random slope is its mean."""
    if training:
        refuse(emit)
    return _leaky(emit, input, (lower + upper) / 2)


def refuse_overflow(input: TensorSpec, threshold: float, value: float) -> None:
    """Integers below zero wrap around in an unsigned dtype; nothing else may leave the dtype's range."""
    if not input.dtype.is_floating_point:
        limits = torch.iinfo(input.dtype)
        for number in (threshold, value):
            lowest = limits.min if isinstance(number, float) else -limits.max
            check(lowest <= number <= limits.max, "threshold's {} does not fit into {}", number, input.dtype)


@activation(
    "threshold",
    *(F.threshold, torch.threshold, torch.threshold_),
    modules=(nn.Threshold,),
    result=real,
    refuse=refuse_overflow,
)
def lower_threshold(emit: Emitter, input: Value, threshold: float, value: float) -> Value:
    native = input.dtype.is_floating_point and not _is_double(input) and isinstance(threshold, (int, float))
    if native and is_exactly(value, 0):
        return emit.node("ThresholdedRelu", input, alpha=float(threshold))
    below = emit.node("LessOrEqual", input, as_value(emit, threshold, input.dtype))
    return emit.node("Where", below, as_value(emit, value, input.dtype), input)


@dataclass(frozen=True, slots=True)
class Prelu(Record[T]):
    input: T
    weight: T


prelu = Op("prelu", Prelu, functions=(torch.prelu,), methods=("prelu",))


@prelu.module(nn.PReLU)
def bind_prelu(module: nn.PReLU, input: Any) -> Mapping[str, Any]:
    return {"input": input, "weight": Owned("weight")}


@prelu.shape
def prelu_shape(call: Prelu[TensorSpec]) -> TensorSpec:
    """One slope for all, or one for each channel; the channels are axis 1 where there are two axes or more."""
    input, weight = call.input, call.weight
    check_weight_dtype(input, weight)
    check(weight.ndim <= 1, "prelu's weight has {} axes, but can have at most 1", weight.ndim)
    channels = input.shape[1] if input.ndim >= 2 else 1
    check(
        weight.numel() == 1 or weight.numel() == channels,
        "num_parameters is {}, but the input has {} channels",
        weight.numel(),
        channels,
        remedy="make num_parameters {1}, or 1 for all channels",
    )
    return floating(input, "prelu")


@prelu.lower
def lower_prelu(emit: Emitter, call: Prelu[Value]) -> Value:
    """The slope is laid along axis 1: it broadcasts from the last axis."""
    input, weight = call.input, call.weight
    if weight.ndim == 1 and input.ndim == 0:
        weight = emit.squeeze(weight, 0)
    elif weight.ndim and weight.shape != (1,) and input.ndim > 2:
        weight = emit.unsqueeze(weight, *range(1, input.ndim - 1))
    return _slope(emit, input, weight) if _is_double(input) else emit.node("PRelu", input, weight)


# Exponential units --------------------------------------------------------------------------------


@activation("elu", F.elu, F.elu_, modules=(nn.ELU,))
def lower_elu(emit: Emitter, input: Value, alpha: float = 1.0) -> Value:
    return _elu(emit, input, alpha, input.dtype)


@activation("selu", F.selu, torch.selu, torch.selu_, modules=(nn.SELU,))
def lower_selu(emit: Emitter, input: Value) -> Value:
    """The constants are those of Klambauer et al., "Self-Normalizing Neural Networks"."""
    if not _is_double(input):
        return emit.node("Selu", input)
    return emit.node("Mul", _elu(emit, input, 1.6732632423543772, input.dtype), emit.scalar(1.0507009873554805, input))


def refuse_zero_alpha(input: TensorSpec, alpha: float) -> None:
    check(alpha != 0, "celu's alpha cannot be 0")


@activation("celu", F.celu, torch.celu, torch.celu_, modules=(nn.CELU,), refuse=refuse_zero_alpha)
def lower_celu(emit: Emitter, input: Value, alpha: float = 1.0) -> Value:
    """Celu is defined for float32 alone; for alpha > 0 it is alpha * elu(x / alpha)."""
    if input.dtype == torch.float32 and isinstance(alpha, (int, float)):
        return emit.node("Celu", input, alpha=float(alpha))
    if alpha < 0:
        emit.unsupported(f"celu of {input.dtype} with the negative alpha {alpha}")
    scale = emit.scalar(alpha, input)
    return emit.node("Mul", _elu(emit, emit.node("Div", input, scale), 1.0, input.dtype), scale)


# Sigmoids and what is built from them -------------------------------------------------------------


@activation(
    "sigmoid",
    *(F.sigmoid, torch.sigmoid, torch.sigmoid_, torch.special.expit),
    modules=(nn.Sigmoid,),
    methods=("sigmoid",),
    result=promoting,
)
def lower_sigmoid(emit: Emitter, input: Value) -> Value:
    return emit.node("Sigmoid", emit.cast(input, emit.result.dtype))


@activation("tanh", F.tanh, torch.tanh, torch.tanh_, modules=(nn.Tanh,), methods=("tanh",), result=promoting)
def lower_tanh(emit: Emitter, input: Value) -> Value:
    return emit.node("Tanh", emit.cast(input, emit.result.dtype))


@activation("logsigmoid", F.logsigmoid, modules=(nn.LogSigmoid,))
def lower_logsigmoid(emit: Emitter, input: Value) -> Value:
    """log(sigmoid(x)) = -softplus(-x), which does not underflow."""
    return emit.node("Neg", _softplus(emit, emit.node("Neg", input), input.dtype))


@activation("silu", F.silu, native_nn.silu, native_nn.silu_, modules=(nn.SiLU,))
def lower_silu(emit: Emitter, input: Value) -> Value:
    return emit.node("Mul", input, emit.node("Sigmoid", input))


@activation("mish", F.mish, native_nn.mish, native_nn.mish_, modules=(nn.Mish,))
def lower_mish(emit: Emitter, input: Value) -> Value:
    if emit.has("Mish") and not _is_double(input):
        return emit.node("Mish", input)
    return emit.node("Mul", input, emit.node("Tanh", _softplus(emit, input, input.dtype)))


def refuse_approximation(input: TensorSpec, approximate: str) -> None:
    check(approximate in ("none", "tanh"), "gelu's approximate is 'none' or 'tanh', found {!r}", approximate)


@activation("gelu", F.gelu, modules=(nn.GELU,), refuse=refuse_approximation)
def lower_gelu(emit: Emitter, input: Value, approximate: str = "none") -> Value:
    """x/2 * (1 + erf(x / sqrt 2)), or x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))).

    ONNX defines its Gelu with constants in float32, so it is no operation for float64.
    """
    if emit.has("Gelu") and input.dtype != torch.float64:
        return emit.node("Gelu", input, approximate=approximate)
    if approximate == "none":
        inner = emit.node("Erf", emit.node("Div", input, emit.scalar(math.sqrt(2), input)))
    else:
        square = emit.node("Mul", input, input)
        factor = emit.node("Add", emit.node("Mul", square, emit.scalar(0.044715, input)), emit.scalar(1, input))
        scaled = emit.node("Mul", input, emit.scalar(math.sqrt(2 / math.pi), input))
        inner = emit.node("Tanh", emit.node("Mul", scaled, factor))
    half = emit.node("Mul", input, emit.scalar(0.5, input))
    return emit.node("Mul", half, emit.node("Add", inner, emit.scalar(1, input)))


@activation("softplus", F.softplus, modules=(nn.Softplus,))
def lower_softplus(emit: Emitter, input: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """log(1 + exp(beta x)) / beta, and x itself where beta x > threshold.

    From a threshold of 20 on, the two differ by less than 3e-9, and ONNX's Softplus does not overflow.
    """
    scale = emit.scalar(beta, input)
    scaled = input if is_exactly(beta, 1) else emit.node("Mul", input, scale)
    smooth = _softplus(emit, scaled, input.dtype)
    smooth = smooth if is_exactly(beta, 1) else emit.node("Div", smooth, scale)
    if threshold >= 20:
        return smooth
    return emit.node("Where", emit.node("Greater", scaled, emit.scalar(threshold, input)), input, smooth)


@activation("softsign", F.softsign, modules=(nn.Softsign,), result=promoting_real)
def lower_softsign(emit: Emitter, input: Value) -> Value:
    if input.dtype in (torch.uint8, torch.int8, torch.int16):
        emit.unsupported(f"softsign of {input.dtype}: torch adds 1 in this dtype, where it wraps around")
    if _is_double(input) or not input.dtype.is_floating_point:
        # torch adds 1 to an integer as it is; the largest one wraps around.
        denominator = emit.node("Add", emit.node("Abs", input), emit.scalar(1, input))
        exact = emit.cast(type(input)(denominator.name, input.spec), emit.result.dtype)
        return emit.node("Div", emit.cast(input, emit.result.dtype), exact)
    return emit.node("Softsign", input)


@activation("tanhshrink", F.tanhshrink, modules=(nn.Tanhshrink,), result=promoting_real)
def lower_tanhshrink(emit: Emitter, input: Value) -> Value:
    input = emit.cast(input, emit.result.dtype)
    return emit.node("Sub", input, emit.node("Tanh", input))


@activation("hardsigmoid", F.hardsigmoid, native_nn.hardsigmoid, native_nn.hardsigmoid_, modules=(nn.Hardsigmoid,))
def lower_hardsigmoid(emit: Emitter, input: Value) -> Value:
    """min(max(x/6 + 1/2, 0), 1)."""
    if not _is_double(input):
        return emit.node("HardSigmoid", input, alpha=1 / 6, beta=0.5)
    line = emit.node("Add", emit.node("Div", input, emit.scalar(6, input)), emit.scalar(0.5, input))
    return emit.node("Clip", line, emit.scalar(0, input), emit.scalar(1, input))


@activation("hardswish", F.hardswish, native_nn.hardswish, native_nn.hardswish_, modules=(nn.Hardswish,))
def lower_hardswish(emit: Emitter, input: Value) -> Value:
    if emit.has("HardSwish") and not _is_double(input):
        return emit.node("HardSwish", input)
    return emit.node("Mul", input, lower_hardsigmoid(emit, input))


# Shrinkage ----------------------------------------------------------------------------------------


@activation("hardshrink", torch.hardshrink, modules=(nn.Hardshrink,), methods=("hardshrink",))
def lower_hardshrink(emit: Emitter, input: Value, lambd: float = 0.5) -> Value:
    """Without Shrink, whose attributes are float32, and which makes 0 of what is not a number."""
    small = emit.node("LessOrEqual", emit.node("Abs", input), emit.scalar(lambd, input))
    return emit.node("Where", small, emit.scalar(0, input), input)


def refuse_negative_lambda(input: TensorSpec, lambd: float) -> None:
    check(lambd >= 0, "softshrink's lambd must be at least 0, found {}", lambd)


@activation("softshrink", F.softshrink, modules=(nn.Softshrink,), refuse=refuse_negative_lambda)
def lower_softshrink(emit: Emitter, input: Value, lambd: float = 0.5) -> Value:
    """What is left after the part within the limits is taken off; not Shrink, as in `hardshrink`."""
    return emit.node("Sub", input, emit.node("Clip", input, emit.scalar(-lambd, input), emit.scalar(lambd, input)))


# Gated --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Glu(Record[T]):
    input: T
    dim: int = -1


glu = Op("glu", Glu, functions=(F.glu, native_nn.glu))


@glu.module(nn.GLU)
def bind_glu(module: nn.GLU, input: Any) -> Mapping[str, Any]:
    return {"input": input, "dim": module.dim}


@glu.shape
def glu_shape(call: Glu[TensorSpec]) -> TensorSpec:
    input = call.input
    check(input.ndim >= 1, "glu needs an input of at least 1 axis, found a 0-d tensor")
    check(-input.ndim <= call.dim < input.ndim, "dim is {}, but the input has {} axes", call.dim, input.ndim)
    axis = call.dim % input.ndim
    size = input.shape[axis]
    check(size % 2 == 0, "glu halves axis {}, whose size {} is odd", axis, size, remedy="make that size even")
    halved = input.with_shape(*input.shape[:axis], size // 2, *input.shape[axis + 1 :])
    return floating(halved, "glu")


@glu.lower
def lower_glu(emit: Emitter, call: Glu[Value]) -> Value:
    axis = call.dim % call.input.ndim
    half = emit.result.shape[axis]
    values, gates = emit.split(call.input, [half, half], axis)
    return emit.node("Mul", values, emit.node("Sigmoid", gates))


# Functions that runtimes implement for single precision and less; double precision composes them ------


def _is_double(value: Value) -> bool:
    return value.dtype == torch.float64


def _leaky(emit: Emitter, input: Value, slope: float) -> Value:
    if not _is_double(input) and isinstance(slope, (int, float)):
        return emit.node("LeakyRelu", input, alpha=float(slope))
    return _slope(emit, input, emit.scalar(slope, input))


def _slope(emit: Emitter, input: Value, slope: Value) -> Value:
    negative = emit.node("Less", input, emit.scalar(0, input))
    return emit.node("Where", negative, emit.node("Mul", input, slope), input)


def _elu(emit: Emitter, input: Value, alpha: float, dtype: torch.dtype) -> Value:
    """x where x > 0, else alpha * (exp(x) - 1)."""
    if dtype != torch.float64 and isinstance(alpha, (int, float)):
        return emit.node("Elu", input, alpha=float(alpha))
    zero = emit.scalar(0, dtype)
    grown = emit.node("Exp", emit.node("Min", input, zero))
    below = emit.node("Mul", emit.node("Sub", grown, emit.scalar(1, dtype)), emit.scalar(alpha, dtype))
    return emit.node("Where", emit.node("Less", input, zero), below, input)


def _softplus(emit: Emitter, input: Value, dtype: torch.dtype) -> Value:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))."""
    if dtype == torch.float32:
        return emit.node("Softplus", input)  # runtimes compute it so; in other dtypes exp(x) may overflow
    small = emit.node("Exp", emit.node("Neg", emit.node("Abs", input)))
    rest = emit.node("Log", emit.node("Add", small, emit.scalar(1, dtype)))
    return emit.node("Add", emit.node("Max", input, emit.scalar(0, dtype)), rest)
