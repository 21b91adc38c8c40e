"""Functions of one tensor, element by element."""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from passes.ops.elementwise import NEVER, Lowering, Native, elementwise, floating, not_bool, tensors_only
from passes.ops.promotion import as_value
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

ONE = ("input",)
BFLOAT16_SINCE_22 = Native(bfloat16=22)


def spellings(name: str) -> dict[str, Any]:
    """What torch calls the function of that name: in `torch` and `torch.special`, in place, and as a method."""
    found = [getattr(home, name) for home in (torch, torch.special) if hasattr(home, name)]
    writing = [getattr(torch, f"{name}_")] if hasattr(torch, f"{name}_") else []
    methods = (name,) if hasattr(torch.Tensor, name) else ()
    return {"functions": tuple(dict.fromkeys(found)), "inplace": tuple(writing), "methods": methods}


def declare(
    *names: str, functions: tuple[Callable[..., Any], ...] = (), methods: tuple[str, ...] = (), **options: Any
) -> Callable[[Lowering], Lowering]:
    """An elementwise function of one tensor, under all spellings of its names."""
    every = [spellings(name) for name in names]
    return elementwise(
        names[0],
        *functions,
        *(function for found in every for function in found["functions"]),
        methods=(*methods, *(method for found in every for method in found["methods"])),
        inplace=tuple(function for found in every for function in found["inplace"]),
        operands=ONE,
        **{"refuse": tensors_only, **options},
    )


# Functions with an ONNX node of their own -----------------------------------------------------------

# By torch's names, the node and the opset since which it takes bfloat16. Integers are computed as floats.
NODES: dict[tuple[str, ...], tuple[str, int]] = {
    ("exp",): ("Exp", 13),
    ("log",): ("Log", 13),
    ("sqrt",): ("Sqrt", 13),
    ("reciprocal",): ("Reciprocal", 13),
    ("erf",): ("Erf", 13),
    ("sin",): ("Sin", 22),
    ("cos",): ("Cos", 22),
    ("tan",): ("Tan", 22),
    ("asin", "arcsin"): ("Asin", 22),
    ("acos", "arccos"): ("Acos", 22),
    ("atan", "arctan"): ("Atan", 22),
    ("sinh",): ("Sinh", 22),
    ("cosh",): ("Cosh", 22),
    ("asinh", "arcsinh"): ("Asinh", 22),
    ("acosh", "arccosh"): ("Acosh", 22),
    ("atanh", "arctanh"): ("Atanh", 22),
}


def _node(op_type: str) -> Callable[..., Value]:
    def lower(emit: Emitter, input: Value) -> Value:
        return emit.node(op_type, input)

    return lower


for _names, (_op_type, _since) in NODES.items():
    declare(*_names, compute=floating, native=Native(bfloat16=_since))(_node(_op_type))


# Functions composed of others ---------------------------------------------------------------------


@declare("rsqrt", compute=floating)
def lower_rsqrt(emit: Emitter, input: Value) -> Value:
    return emit.node("Reciprocal", emit.node("Sqrt", input))


@declare("exp2", compute=floating, native=Native(bfloat16=15))
def lower_exp2(emit: Emitter, input: Value) -> Value:
    return emit.node("Pow", emit.scalar(2, input), input)


def _logarithm(base: float) -> Callable[..., Value]:
    def lower(emit: Emitter, input: Value) -> Value:
        return emit.node("Mul", emit.node("Log", input), as_value(emit, 1 / math.log(base), input.dtype))

    return lower


declare("log2", compute=floating)(_logarithm(2))
declare("log10", compute=floating)(_logarithm(10))


@declare("expm1", compute=floating, native=BFLOAT16_SINCE_22)
def lower_expm1(emit: Emitter, input: Value) -> Value:
    """`exp(x) - 1 = 2 sinh(x/2) exp(x/2)`, which keeps the digits of small x.

    The result is -1 long before these two are infinite and 0, so smaller numbers count as the one where it is. In
    float64, for which runtimes have no Sinh, with u = exp(x) rounded: (u - 1) x / log(u), or x where u is 1 (as in
    `log1p`).
    """
    lowest = as_value(emit, 2 * math.log(torch.finfo(input.dtype).eps) - 1, input.dtype)
    if input.dtype == torch.float64:
        one, highest = emit.scalar(1, input), as_value(emit, 709.0, input.dtype)
        limited = emit.node("Clip", input, lowest, highest)
        moved = emit.node("Exp", limited)
        flat = emit.node("Equal", moved, one)
        logarithm = emit.node("Where", flat, one, emit.node("Log", moved))
        exact = emit.node("Div", emit.node("Mul", emit.node("Sub", moved, one), limited), logarithm)
        plain = emit.node("Sub", emit.node("Exp", input), one)
        small = emit.node("Where", flat, input, exact)
        return emit.node("Where", emit.node("Greater", input, highest), plain, small)
    input = type(input)(emit.node("Max", input, lowest).name, input.spec)
    half = emit.node("Mul", input, as_value(emit, 0.5, input.dtype))
    product = emit.node("Mul", emit.node("Sinh", half), emit.node("Exp", half))
    return emit.node("Mul", product, emit.scalar(2, input))


@declare("log1p", compute=floating)
def lower_log1p(emit: Emitter, input: Value) -> Value:
    """`log(1 + x)` without losing the digits of small x: with u = 1 + x rounded, log(u) x / (u - 1), or x where u is 1.

    Kahan's correction, as in Goldberg, "What every computer scientist should know about floating-point arithmetic",
    theorem 4. An infinite x is its own result.
    """
    one = emit.scalar(1, input)
    moved = emit.node("Add", input, one)
    shift = emit.node("Sub", moved, one)
    exact = emit.node("Equal", shift, input)
    # Where nothing was rounded the ratio is 1, or 0/0 or inf/inf, which must not be computed into the result.
    ratio = emit.node("Where", exact, one, emit.node("Div", input, shift))
    logarithm = emit.node("Mul", emit.node("Log", moved), ratio)
    return emit.node("Where", emit.node("Equal", moved, one), input, logarithm)


@declare("erfc", compute=floating)
def lower_erfc(emit: Emitter, input: Value) -> Value:
    return emit.node("Sub", emit.scalar(1, input), emit.node("Erf", input))


@declare("logit", compute=floating)
def lower_logit(emit: Emitter, input: Value, eps: float | None = None) -> Value:
    """`log(x / (1 - x))`, of x limited to eps..1 - eps."""
    if eps is not None:
        low, high = (as_value(emit, limit, input.dtype) for limit in (eps, 1 - eps))
        input = type(input)(emit.node("Clip", input, low, high).name, input.spec)
    return emit.node("Log", emit.node("Div", input, emit.node("Sub", emit.scalar(1, input), input)))


@declare("deg2rad", compute=floating)
def lower_deg2rad(emit: Emitter, input: Value) -> Value:
    return emit.node("Mul", input, as_value(emit, math.pi / 180, input.dtype))


@declare("rad2deg", compute=floating)
def lower_rad2deg(emit: Emitter, input: Value) -> Value:
    return emit.node("Mul", input, as_value(emit, 180 / math.pi, input.dtype))


@declare("sinc", compute=floating, native=BFLOAT16_SINCE_22)
def lower_sinc(emit: Emitter, input: Value) -> Value:
    """`sin(pi x) / (pi x)`, and 1 at 0."""
    angle = emit.node("Mul", input, as_value(emit, math.pi, input.dtype))
    ratio = emit.node("Div", emit.node("Sin", angle), angle)
    return emit.node("Where", emit.node("Equal", input, emit.scalar(0, input)), emit.scalar(1, input), ratio)


# Sign and magnitude -------------------------------------------------------------------------------


def integer_square(dtype: torch.dtype) -> torch.dtype:
    return torch.int64 if dtype == torch.bool else dtype


@declare("square", compute=integer_square, native=Native(small_integers=14))
def lower_square(emit: Emitter, input: Value) -> Value:
    return emit.node("Mul", input, input)


def magnitude(dtype: torch.dtype, **options: Any) -> torch.dtype:
    """The absolute value of a complex number is real."""
    return dtype.to_real() if dtype.is_complex else dtype


@declare(
    "abs",
    "absolute",
    functions=(builtins.abs, operator.abs),
    methods=("__abs__",),
    compute=magnitude,
    kinds="integer float",
)
def lower_abs(emit: Emitter, input: Value) -> Value:
    return emit.node("Abs", input)


def refuse_bool(input: TensorSpec) -> None:
    tensors_only(input)
    not_bool(input)


@declare("neg", "negative", functions=(operator.neg,), methods=("__neg__",), refuse=refuse_bool)
def lower_neg(emit: Emitter, input: Value) -> Value:
    if input.dtype == torch.uint8:
        # ONNX negates signed numbers only; the difference wraps to the same byte.
        negated = emit.node("Neg", emit.cast(input, torch.int32))
        return emit.cast(negated, torch.uint8)
    return emit.node("Neg", input)


@declare("positive", functions=(operator.pos,), refuse=refuse_bool, view=True)
def lower_positive(emit: Emitter, input: Value) -> Value:
    return emit.node("Identity", input)


@declare("sign")
def lower_sign(emit: Emitter, input: Value) -> Value:
    """0 for what is not a number, as in torch; ONNX's Sign keeps it."""
    if input.dtype == torch.bool:
        return emit.node("Identity", input)
    sign = emit.node("Sign", input)
    if not input.dtype.is_floating_point:
        return sign
    return emit.node("Where", emit.node("IsNaN", input), emit.scalar(0, input), sign)


@declare("sgn")
def lower_sgn(emit: Emitter, input: Value) -> Value:
    return lower_sign(emit, input)


@declare("signbit", result=torch.bool)
def lower_signbit(emit: Emitter, input: Value) -> Value:
    """Whether the number is negative; the sign of a zero shows in its reciprocal."""
    if input.dtype == torch.bool:
        return emit.node("And", input, emit.scalar(False, torch.bool))
    zero = emit.scalar(0, input)
    negative = emit.node("Less", input, zero)
    if not input.dtype.is_floating_point:
        return negative
    inverse = emit.node("Less", emit.node("Reciprocal", input), zero)
    return emit.node("Or", negative, inverse)


# Rounding -----------------------------------------------------------------------------------------


def truncate(emit: Emitter, value: Value) -> Value:
    """Towards zero; ONNX has no such node."""
    return emit.node("Mul", emit.node("Sign", value), emit.node("Floor", emit.node("Abs", value)))


def _rounding(op_type: str) -> Callable[..., Value]:
    def lower(emit: Emitter, input: Value) -> Value:
        return emit.node(op_type if input.dtype.is_floating_point else "Identity", input)

    return lower


declare("floor", functions=(math.floor,), kinds="integer float")(_rounding("Floor"))
declare("ceil", functions=(math.ceil,), kinds="integer float")(_rounding("Ceil"))


@declare("trunc", "fix", functions=(math.trunc,), kinds="integer float")
def lower_trunc(emit: Emitter, input: Value) -> Value:
    return truncate(emit, input) if input.dtype.is_floating_point else emit.node("Identity", input)


@declare("round", functions=(builtins.round,), kinds="integer float", native=BFLOAT16_SINCE_22)
def lower_round(emit: Emitter, input: Value, decimals: int = 0) -> Value:
    """To the nearest, halves to the even; to `decimals` places by scaling, as torch does."""
    if not input.dtype.is_floating_point:
        if decimals:
            emit.unsupported("torch itself rounds no integers to decimal places")
        return emit.node("Identity", input)
    if not decimals:
        return emit.node("Round", input)
    scale = as_value(emit, float(10 ** builtins.abs(decimals)), input.dtype)
    there, back = ("Mul", "Div") if decimals > 0 else ("Div", "Mul")
    return emit.node(back, emit.node("Round", emit.node(there, input, scale)), scale)


@declare("frac", kinds="float", refuse=refuse_bool)
def lower_frac(emit: Emitter, input: Value) -> Value:
    return emit.node("Sub", input, truncate(emit, input))


# Numbers that are none ----------------------------------------------------------------------------


@declare("nan_to_num", native=Native(small_integers=NEVER, boolean=NEVER))
def lower_nan_to_num(
    emit: Emitter, input: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Value:
    """Replaces nan by 0 and the infinities by the largest numbers, or by those given."""
    if not input.dtype.is_floating_point:
        return emit.node("Identity", input)
    limits = torch.finfo(input.dtype)
    high = limits.max if posinf is None else posinf
    low = limits.min if neginf is None else neginf
    is_nan = emit.node("IsNaN", input)
    finite = emit.node("Where", is_nan, as_value(emit, 0.0 if nan is None else nan, input.dtype), input)
    for infinity, replacement in ((math.inf, high), (-math.inf, low)):
        found = emit.node("Equal", input, as_value(emit, infinity, input.dtype))
        finite = emit.node("Where", found, as_value(emit, float(replacement), input.dtype), finite)
    return finite


def _constant_for_integers(value: bool) -> Callable[[Emitter, Value], Value]:
    """An answer that is the same for every integer, in the input's shape."""

    def answer(emit: Emitter, input: Value) -> Value:
        number = emit.cast(input, torch.bool)
        other = emit.node("Not", number)
        return emit.node("Or" if value else "And", number, other)

    return answer


always, never = _constant_for_integers(True), _constant_for_integers(False)


@declare("isnan", result=torch.bool)
def lower_isnan(emit: Emitter, input: Value) -> Value:
    return emit.node("IsNaN", input) if input.dtype.is_floating_point else never(emit, input)


@declare("isinf", result=torch.bool)
def lower_isinf(emit: Emitter, input: Value) -> Value:
    """IsInf takes float and double only at first."""
    if not input.dtype.is_floating_point:
        return never(emit, input)
    if emit.takes("IsInf", input.dtype):
        return emit.node("IsInf", input)
    return emit.node("Equal", emit.node("Abs", input), as_value(emit, math.inf, input.dtype))


@declare("isposinf", result=torch.bool)
def lower_isposinf(emit: Emitter, input: Value) -> Value:
    if not input.dtype.is_floating_point:
        return never(emit, input)
    return emit.node("Equal", input, as_value(emit, math.inf, input.dtype))


@declare("isneginf", result=torch.bool)
def lower_isneginf(emit: Emitter, input: Value) -> Value:
    if not input.dtype.is_floating_point:
        return never(emit, input)
    return emit.node("Equal", input, as_value(emit, -math.inf, input.dtype))


@declare("isfinite", result=torch.bool, native=Native(bfloat16=16))
def lower_isfinite(emit: Emitter, input: Value) -> Value:
    """The magnitude is below infinity, which nan is not."""
    if not input.dtype.is_floating_point:
        return always(emit, input)
    return emit.node("Less", emit.node("Abs", input), as_value(emit, math.inf, input.dtype))


# The angle of two ---------------------------------------------------------------------------------


@elementwise(
    "atan2",
    *(torch.atan2, torch.arctan2),
    methods=("atan2", "arctan2"),
    compute=floating,
    native=BFLOAT16_SINCE_22,
    refuse=tensors_only,
)
def lower_atan2(emit: Emitter, input: Value, other: Value) -> Value:
    """The angle of the point (other, input): atan of the ratio, turned by half a turn left of the axis.

    The ratio is infinite on the axis, where atan gives the quarter turn; at the origin it is taken for 0, and on a
    diagonal, which infinities lie on, for 1 or -1. The half turn has the sign of `input`, that of a zero included.
    """
    zero, pi = emit.scalar(0, input), as_value(emit, math.pi, input.dtype)
    origin = emit.node("And", emit.node("Equal", input, zero), emit.node("Equal", other, zero))
    diagonal = emit.node("Equal", emit.node("Abs", input), emit.node("Abs", other))
    signs = emit.node("Mul", emit.node("Sign", input), emit.node("Sign", other))
    ratio = emit.node("Where", diagonal, signs, emit.node("Div", input, other))
    ratio = emit.node("Where", origin, input, ratio)
    angle = emit.node("Atan", ratio)
    turn = emit.node("Where", lower_signbit(emit, input), emit.node("Neg", pi), pi)
    return emit.node("Where", lower_signbit(emit, other), emit.node("Add", angle, turn), angle)
