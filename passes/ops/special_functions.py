"""Functions of probability and of signs that ONNX has no node for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.ops.comparison import choice
from passes.ops.elementwise import NEVER, Native, elementwise, floating, tensors_only
from passes.ops.promotion import as_value
from passes.ops.unary_math import always, declare, lower_signbit

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

# M. Giles, "Approximating the erfinv function", 2010: coefficients of the polynomials in single precision, from the
# highest power on, for the centre and for the tails.
CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
)  # fmt: skip
TAILS = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
)  # fmt: skip


@declare("erfinv", compute=floating, native=Native(bfloat16=NEVER))
def lower_erfinv(emit: Emitter, input: Value) -> Value:
    """Giles's approximation, in w = -log(1 - x^2). It is as exact as single precision."""
    if input.dtype == torch.float64:
        emit.unsupported("ONNX has no erfinv, and the approximation is not as exact as float64")
    one = emit.scalar(1, input)
    inside = emit.node("Mul", emit.node("Sub", one, input), emit.node("Add", one, input))
    w = emit.node("Neg", emit.node("Log", inside))
    centre = _polynomial(emit, CENTRE, emit.node("Sub", w, as_value(emit, 2.5, input.dtype)), input.dtype)
    far = emit.node("Sub", emit.node("Sqrt", w), as_value(emit, 3.0, input.dtype))
    tails = _polynomial(emit, TAILS, far, input.dtype)
    near = emit.node("Less", w, as_value(emit, 5.0, input.dtype))
    found = emit.node("Mul", emit.node("Where", near, centre, tails), input)
    # At 1 and -1 w is infinite, and so is the result, which the tails' negative leading term would turn round.
    at_end = emit.node("Equal", emit.node("Abs", input), one)
    return emit.node("Where", at_end, emit.node("Mul", input, as_value(emit, math.inf, input.dtype)), found)


def _polynomial(emit: Emitter, coefficients: Sequence[float], x: Value, dtype: torch.dtype) -> Value:
    """By Horner's scheme."""
    total = as_value(emit, coefficients[0], dtype)
    for coefficient in coefficients[1:]:
        total = emit.node("Add", emit.node("Mul", total, x), as_value(emit, coefficient, dtype))
    return total


@declare("ndtr", compute=floating)
def lower_ndtr(emit: Emitter, input: Value) -> Value:
    """The normal distribution function, `(1 + erf(x / sqrt(2))) / 2`."""
    error = emit.node("Erf", emit.node("Mul", input, as_value(emit, math.sqrt(0.5), input.dtype)))
    return emit.node("Mul", emit.node("Add", error, emit.scalar(1, input)), as_value(emit, 0.5, input.dtype))


@declare("entr", compute=floating)
def lower_entr(emit: Emitter, input: Value) -> Value:
    """The entropy `-x log(x)`, 0 at 0, minus infinity below."""
    entropy = emit.node("Neg", emit.node("Mul", input, emit.node("Log", input)))
    zero = emit.scalar(0, input)
    above = emit.node("Where", emit.node("Equal", input, zero), zero, entropy)
    return emit.node("Where", emit.node("Less", input, zero), as_value(emit, -math.inf, input.dtype), above)


# Signs ----------------------------------------------------------------------------------------------


@elementwise("copysign", torch.copysign, methods=("copysign",), compute=floating)
def lower_copysign(emit: Emitter, input: Value, other: Value) -> Value:
    """The sign of a zero counts."""
    size = emit.node("Abs", input)
    return emit.node("Where", lower_signbit(emit, other), emit.node("Neg", size), size)


def refuse_heaviside(input: Any, values: Any) -> None:
    tensors_only(input, values)
    check(input.dtype == values.dtype, "heaviside takes one dtype, found {} and {}", input, values)


@elementwise(
    "heaviside", torch.heaviside, methods=("heaviside",), operands=("input", "values"), refuse=refuse_heaviside
)
def lower_heaviside(emit: Emitter, input: Value, values: Value) -> Value:
    """0 below zero, 1 above, and at zero the value given."""
    if input.dtype == torch.bool:
        return emit.node("Or", input, values)
    step = emit.cast(emit.node("Less", emit.scalar(0, input), input), input.dtype)
    at_zero = emit.node("Equal", input, emit.scalar(0, input))
    return choice(emit, type(input)(at_zero.name), values, type(input)(step.name, input.spec), input.dtype)


@declare("angle", compute=floating)
def lower_angle(emit: Emitter, input: Value) -> Value:
    """Of a real number: pi below zero, else 0, or not a number."""
    negative = emit.node("Less", input, emit.scalar(0, input))
    turned = emit.node("Where", negative, as_value(emit, math.pi, input.dtype), emit.scalar(0, input))
    return emit.node("Where", emit.node("IsNaN", input), input, turned)


@declare("isreal", result=torch.bool)
def lower_isreal(emit: Emitter, input: Value) -> Value:
    return always(emit, input)
