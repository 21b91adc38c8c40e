"""Arithmetic of two or three operands, each a tensor, a Python number or a dynamic size."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.ops.elementwise import NEVER, Native, Neutral, elementwise, floating, is_constant, not_bool, tensors_only
from passes.ops.op import FUNCTIONS
from passes.ops.promotion import as_value, category, result_dtype
from passes.ops.unary_math import truncate
from passes.sizes.dimension import is_of_data
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

SINCE_14 = Native(small_integers=14)
NO_SMALL_INTEGERS = Native(small_integers=NEVER)


# Sums ---------------------------------------------------------------------------------------------


def refuse_alpha(input: Any, other: Any, alpha: Any = 1) -> None:
    dtype = result_dtype(input, other)
    check(not isinstance(alpha, bool) or dtype == torch.bool, "alpha is {}, but the result is {}", alpha, dtype)
    check(not isinstance(alpha, float) or category(dtype) >= 2, "alpha is {}, but the result is {}", alpha, dtype)


def refuse_difference(input: Any, other: Any, alpha: Any = 1) -> None:
    """As torch's kernels do; its meta tensors let some of these pass."""
    for operand in (input, other):
        is_bool = isinstance(operand, bool) or (isinstance(operand, TensorSpec) and operand.dtype == torch.bool)
        check(not is_bool, "bool tensors are not subtracted; use ^ or logical_xor")
    refuse_alpha(input, other, alpha)


def scaled(emit: Emitter, value: Value, factor: Any) -> Value:
    """The value times a number, in the value's dtype."""
    if is_constant(factor) and factor == 1:
        return value
    product = emit.node("Mul", value, as_value(emit, factor, value.dtype))
    return type(value)(product.name, value.spec)


@elementwise(
    "add",
    *(torch.add, operator.add),
    methods=("add", "__add__"),
    reflected=("__radd__",),
    inplace=(operator.iadd,),
    native=SINCE_14,
    refuse=refuse_alpha,
    neutral=Neutral(
        0, "add_zero", "A sum with 0 is the other number; that -0.0 would become 0.0 is the one difference."
    ),
)
def lower_add(emit: Emitter, input: Value, other: Value, alpha: Any = 1) -> Value:
    if input.dtype == torch.bool:
        return emit.node("Or", input, other) if alpha else emit.node("Identity", input)
    return emit.node("Add", input, scaled(emit, other, alpha))


@elementwise(
    "sub",
    *(torch.sub, torch.subtract, operator.sub),
    methods=("sub", "subtract", "__sub__"),
    reflected=("__rsub__",),
    inplace=(operator.isub,),
    native=SINCE_14,
    kinds="integer float",
    refuse=refuse_difference,
    neutral=Neutral(0, "subtract_zero", "A number less 0 is the number."),
)
def lower_sub(emit: Emitter, input: Value, other: Value, alpha: Any = 1) -> Value:
    return emit.node("Sub", input, scaled(emit, other, alpha))


@FUNCTIONS[torch.sub][0].function(torch.rsub)
def bind_rsub(input: Any, other: Any, alpha: Any = 1) -> Mapping[str, Any]:
    return {"input": other, "other": input, "alpha": alpha}


# Products and quotients ---------------------------------------------------------------------------


@elementwise(
    "mul",
    *(torch.mul, torch.multiply, operator.mul),
    methods=("mul", "multiply", "__mul__"),
    reflected=("__rmul__",),
    inplace=(operator.imul,),
    native=SINCE_14,
    neutral=Neutral(1, "multiply_by_one", "A number times 1 is the number."),
    wide_numbers=True,
)
def lower_mul(emit: Emitter, input: Value, other: Value) -> Value:
    return emit.node("And" if input.dtype == torch.bool else "Mul", input, other)


def quotient_dtype(dtype: torch.dtype, rounding_mode: str | None = None) -> torch.dtype:
    return dtype if rounding_mode else floating(dtype)


def refuse_quotient(input: Any, other: Any, rounding_mode: str | None = None) -> None:
    check(rounding_mode in (None, "trunc", "floor"), "rounding_mode is {}, not None, trunc or floor", rounding_mode)
    check(rounding_mode != "floor" or result_dtype(input, other) != torch.bool, "bool tensors have no floored quotient")


def lower_div_by_number(emit: Emitter, input: Value, other: Any, rounding_mode: str | None = None) -> Value | None:
    """Rounding the quotient by a whole number before it is floored changes nothing.

    An infinite dividend has no remainder, so its floored quotient is not a number: that is what `input - input` adds.
    Of integers, the quotient towards zero is one too large where the remainder has the other sign than the divisor.
    """
    if rounding_mode != "floor" or other == 0 or input.dtype == torch.uint8:
        return None
    if not input.dtype.is_floating_point and other == -1:
        return emit.node("Neg", input)  # the lowest number has no opposite, and processors refuse to divide it
    if not input.dtype.is_floating_point:
        divisor, zero = as_value(emit, other, input.dtype), emit.scalar(0, input)
        rest = emit.node("Mod", input, divisor, fmod=1)
        above = emit.node("Less" if other > 0 else "Greater", rest, zero)
        return emit.node("Sub", emit.node("Div", input, divisor), emit.cast(above, input.dtype))
    if not float(other).is_integer():
        return None
    whole = emit.node("Floor", emit.node("Div", input, as_value(emit, other, input.dtype)))
    return emit.node("Add", whole, emit.node("Sub", input, input))


@elementwise(
    "div",
    *(torch.div, torch.divide, torch.true_divide, operator.truediv),
    methods=("div", "divide", "true_divide", "__truediv__", "__div__"),
    reflected=("__rtruediv__", "__rdiv__"),
    inplace=(operator.itruediv,),
    compute=quotient_dtype,
    native=SINCE_14,
    kinds="integer float",
    refuse=refuse_quotient,
    neutral=Neutral(1, "divide_by_one", "A number divided by 1, unless it is rounded, is the number."),
    by_number=lower_div_by_number,
    wide_numbers=True,
)
def lower_div(emit: Emitter, input: Value, other: Value, rounding_mode: str | None = None) -> Value:
    """ONNX divides integers towards zero."""
    if rounding_mode == "floor":
        return floor_quotient(emit, input, other)
    quotient = emit.node("Div", input, other)
    return truncate(emit, quotient) if rounding_mode and input.dtype.is_floating_point else quotient


def floor_quotient(emit: Emitter, input: Value, other: Value) -> Value:
    """`floor(input / other)`, as if the quotient were not rounded first (1.0 // 0.1 is 9).

    What is left after the remainder is a whole multiple of the divisor, one too many where their signs differ. Float
    division by zero is left as it is, infinite or not a number.
    """
    if not input.dtype.is_floating_point:
        if input.dtype == torch.uint8:
            return emit.node("Div", input, other)
        # One less than the quotient towards zero where the remainders of the two differ.
        same = emit.node("Equal", emit.node("Mod", input, other), emit.node("Mod", input, other, fmod=1))
        below = emit.node("Sub", emit.cast(same, input.dtype), emit.scalar(1, input))
        return emit.node("Add", emit.node("Div", input, other), below)
    rest = emit.node("Mod", input, other, fmod=1)
    differ = emit.node("Less", emit.node("Mul", rest, other), emit.scalar(0, other))
    multiples = emit.node("Round", emit.node("Div", emit.node("Sub", input, rest), other))
    whole = emit.node("Sub", multiples, emit.cast(differ, input.dtype))
    by_zero = emit.node("Equal", other, emit.scalar(0, other))
    return emit.node("Where", by_zero, emit.node("Div", input, other), whole)


def python_remainder(emit: Emitter, input: Value, other: Value) -> Value:
    """The remainder with the divisor's sign: fmod's has the dividend's, and moves by one divisor where they differ."""
    if not input.dtype.is_floating_point:
        return emit.node("Mod", input, other)
    rest = emit.node("Mod", input, other, fmod=1)
    differ = emit.node("Less", emit.node("Mul", rest, other), emit.scalar(0, other))
    return emit.node("Where", differ, emit.node("Add", rest, other), rest)


def bind_floor(input: Any, other: Any) -> Mapping[str, Any]:
    return {"input": input, "other": other, "rounding_mode": "floor"}


div = FUNCTIONS[torch.div][0]
div.function(torch.floor_divide, operator.floordiv)(bind_floor)
div.method("floor_divide", "__floordiv__")(bind_floor)
div.function(operator.ifloordiv)(lambda input, other: {**bind_floor(input, other), "inplace": True})
div.method("floor_divide_")(lambda input, other: {**bind_floor(input, other), "inplace": True})
div.method("__rfloordiv__")(lambda input, other: bind_floor(other, input))


@elementwise(
    "remainder",
    *(torch.remainder, operator.mod),
    methods=("remainder", "__mod__"),
    reflected=("__rmod__",),
    inplace=(operator.imod,),
    kinds="integer float",
)
def lower_remainder(emit: Emitter, input: Value, other: Value) -> Value:
    return python_remainder(emit, input, other)


@elementwise("fmod", torch.fmod, methods=("fmod",), kinds="integer float")
def lower_fmod(emit: Emitter, input: Value, other: Value) -> Value:
    return emit.node("Mod", input, other, fmod=1)


# Powers -------------------------------------------------------------------------------------------


BASE_AND_EXPONENT = ("input", "exponent")


def power_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.int64 if dtype == torch.bool else dtype


def refuse_power(input: Any, exponent: Any) -> None:
    asked = is_constant(exponent) or is_of_data(exponent)
    if asked and category(result_dtype(input, exponent)) < 2:
        check(exponent >= 0, "an integer tensor is raised to the power {}; convert it to float first", exponent)


def lower_known_power(emit: Emitter, input: Value, exponent: Any) -> Value | None:
    """The powers that have a node of their own; those of integers are exact as products, for runtimes' Pow is not."""
    if exponent == 2:
        return emit.node("Mul", input, input)
    if not input.dtype.is_floating_point:
        return _repeated_product(emit, input, int(exponent)) if exponent > 0 else None
    if exponent == 0.5:
        return emit.node("Sqrt", input)
    if exponent == -0.5 and input.dtype.itemsize > 2:
        return emit.node("Reciprocal", emit.node("Sqrt", input))
    if exponent == -1:
        return emit.node("Reciprocal", input)
    return None


def _repeated_product(emit: Emitter, base: Value, exponent: int) -> Value:
    """A positive power by squaring: a factor for each bit of the exponent that is set."""
    power: Value | None = None
    square = base
    while True:
        if exponent % 2:
            power = square if power is None else emit.node("Mul", power, square)
        exponent //= 2
        if not exponent:
            assert power is not None
            return power if power is not base else emit.node("Identity", base)
        square = emit.node("Mul", square, square)


def integer_power(emit: Emitter, base: Value, exponent: Value) -> Value:
    """A power of integers, exact and wrapping as torch's; runtimes compute theirs in floating point.

    An exponent from 64 on counts as 64 or 65: by then an even base has become 0, and of 1 and -1 only the parity
    counts. A negative power of another base than these two is 0.
    """
    zero, one, two, many = (emit.scalar(number, base) for number in (0, 1, 2, 64))
    negative = emit.node("Less", exponent, zero)
    parity = emit.node("Mod", exponent, two)
    limited = emit.node("Where", emit.node("Less", exponent, many), exponent, emit.node("Add", parity, many))
    rest = emit.node("Where", negative, parity, limited)
    power: Value | None = None
    square = base
    for place in range(7):
        if place:
            rest, square = emit.node("Div", rest, two), emit.node("Mul", square, square)
        factor = emit.node("Where", emit.node("Equal", emit.node("Mod", rest, two), one), square, one)
        power = factor if power is None else emit.node("Mul", power, factor)
    vanishes = emit.node("And", negative, emit.node("Not", emit.node("Equal", emit.node("Abs", base), one)))
    return emit.node("Where", vanishes, zero, power)


@elementwise(
    "pow",
    *(torch.pow, operator.pow),
    methods=("pow", "__pow__"),
    reflected=("__rpow__",),
    inplace=(operator.ipow,),
    operands=BASE_AND_EXPONENT,
    compute=power_dtype,
    native=Native(small_integers=NEVER, bfloat16=15),
    refuse=refuse_power,
    neutral=Neutral(1, "power_of_one", "A number to the power of 1 is the number."),
    by_number=lower_known_power,
)
def lower_pow(emit: Emitter, input: Value, exponent: Value) -> Value:
    if not input.dtype.is_floating_point:
        return integer_power(emit, input, exponent)
    return emit.node("Pow", input, exponent)


@elementwise(
    "float_power",
    torch.float_power,
    methods=("float_power",),
    operands=BASE_AND_EXPONENT,
    compute=lambda dtype: torch.float64,
    by_number=lower_known_power,
)
def lower_float_power(emit: Emitter, input: Value, exponent: Value) -> Value:
    return emit.node("Pow", input, exponent)


# Three operands -----------------------------------------------------------------------------------


def refuse_fused(input: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> None:
    tensors_only(input, tensor1, tensor2)


def refuse_fused_quotient(input: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> None:
    refuse_fused(input, tensor1, tensor2, value)
    check(
        category(result_dtype(tensor1, tensor2)) >= 2,
        "addcdiv does not divide the integers {} and {}",
        tensor1,
        tensor2,
    )


FUSED = ("input", "tensor1", "tensor2")


@elementwise("addcmul", torch.addcmul, methods=("addcmul",), operands=FUSED, native=SINCE_14, refuse=refuse_fused)
def lower_addcmul(emit: Emitter, input: Value, tensor1: Value, tensor2: Value, value: Any = 1) -> Value:
    return emit.node("Add", input, emit.node("Mul", scaled(emit, tensor1, value), tensor2))


@elementwise("addcdiv", torch.addcdiv, methods=("addcdiv",), operands=FUSED, refuse=refuse_fused_quotient)
def lower_addcdiv(emit: Emitter, input: Value, tensor1: Value, tensor2: Value, value: Any = 1) -> Value:
    return emit.node("Add", input, emit.node("Div", scaled(emit, tensor1, value), tensor2))


def refuse_lerp(input: Any, end: Any, weight: Any) -> None:
    tensors = [operand for operand in (input, end, weight) if isinstance(operand, TensorSpec)]
    tensors_only(input, end)
    check(
        len({tensor.dtype for tensor in tensors}) == 1,
        "lerp needs operands of one dtype, found {}",
        ", ".join(map(str, tensors)),
    )


@elementwise(
    "lerp", torch.lerp, methods=("lerp",), operands=("input", "end", "weight"), kinds="float", refuse=refuse_lerp
)
def lower_lerp(emit: Emitter, input: Value, end: Value, weight: Value) -> Value:
    return emit.node("Add", input, emit.node("Mul", weight, emit.node("Sub", end, input)))


# Two floating-point operands ----------------------------------------------------------------------


@elementwise("hypot", torch.hypot, methods=("hypot",), kinds="float", refuse=tensors_only)
def lower_hypot(emit: Emitter, input: Value, other: Value) -> Value:
    """`larger * sqrt(1 + (smaller / larger)^2)`, which squares nothing large; infinite beside anything infinite."""
    zero, one, infinity = (as_value(emit, number, input.dtype) for number in (0, 1, math.inf))
    sizes = [emit.node("Abs", value) for value in (input, other)]
    larger, smaller = emit.node("Max", *sizes), emit.node("Min", *sizes)
    ratio = emit.node("Div", smaller, emit.node("Where", emit.node("Equal", larger, zero), one, larger))
    root = emit.node("Sqrt", emit.node("Add", emit.node("Mul", ratio, ratio), one))
    infinite = emit.node("Or", *(emit.node("Equal", size, infinity) for size in sizes))
    return emit.node("Where", infinite, infinity, emit.node("Mul", larger, root))


@elementwise(
    "xlogy",
    *(torch.xlogy, torch.special.xlogy),
    methods=("xlogy",),
    compute=floating,
)
def lower_xlogy(emit: Emitter, input: Value, other: Value) -> Value:
    """`input * log(other)`, and 0 wherever the input is 0, unless the other is not a number."""
    zero = emit.scalar(0, input)
    product = emit.node("Mul", input, emit.node("Log", other))
    vanishes = emit.node("And", emit.node("Equal", input, zero), emit.node("Not", emit.node("IsNaN", other)))
    return emit.node("Where", vanishes, zero, product)


def refuse_logaddexp(input: Any, other: Any) -> None:
    tensors_only(input, other)
    not_bool(input, other)


@elementwise("logaddexp", torch.logaddexp, methods=("logaddexp",), kinds="float", refuse=refuse_logaddexp)
def lower_logaddexp(emit: Emitter, input: Value, other: Value) -> Value:
    """`max + log(1 + exp(-|difference|))`, and the maximum itself where both are the same infinity."""
    larger = emit.node("Max", input, other)
    gap = emit.node("Neg", emit.node("Abs", emit.node("Sub", input, other)))
    smooth = emit.node("Add", larger, emit.node("Log", emit.node("Add", emit.node("Exp", gap), emit.scalar(1, input))))
    return emit.node("Where", emit.node("Equal", input, other), _doubled(emit, larger, input), smooth)


@elementwise("logaddexp2", torch.logaddexp2, methods=("logaddexp2",), kinds="float", refuse=refuse_logaddexp)
def lower_logaddexp2(emit: Emitter, input: Value, other: Value) -> Value:
    """`max + log2(1 + 2^-|difference|)`, and the maximum itself where both are the same infinity."""
    one, two = emit.scalar(1, input), emit.scalar(2, input)
    larger = emit.node("Max", input, other)
    gap = emit.node("Neg", emit.node("Abs", emit.node("Sub", input, other)))
    natural = emit.node("Log", emit.node("Add", emit.node("Pow", two, gap), one))
    smooth = emit.node("Add", larger, emit.node("Mul", natural, as_value(emit, 1 / math.log(2), input.dtype)))
    return emit.node("Where", emit.node("Equal", input, other), emit.node("Add", larger, one), smooth)


def _doubled(emit: Emitter, larger: Value, input: Value) -> Value:
    """log(2 exp(x)) = x + log 2"""
    return emit.node("Add", larger, emit.constant(torch.tensor(2.0, dtype=torch.float64).log().to(input.dtype)))
