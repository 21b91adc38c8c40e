"""Comparisons, logic on truth values and on bits, and choices between values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import ShapeError, check
from passes.onnx.opsets import since
from passes.ops.elementwise import NEVER, Native, elementwise, is_constant, tensors_only
from passes.ops.nonzero import Nonzero, lower_nonzero, nonzero_shape
from passes.ops.op import Op
from passes.ops.promotion import as_value, broadcast, broadcast_shapes, category, is_number, promote, result_dtype
from passes.ops.record import Record, T
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

# Node, opset since which it takes bfloat16, and torch's names; all give bool.
COMPARISONS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("Equal", 13, ("eq",)),
    ("Less", 13, ("lt", "less")),
    ("Greater", 13, ("gt", "greater")),
    ("LessOrEqual", 16, ("le", "less_equal")),
    ("GreaterOrEqual", 16, ("ge", "greater_equal")),
)


def _comparison(op_type: str) -> Callable[..., Value]:
    def lower(emit: Emitter, input: Value, other: Value) -> Value:
        return emit.node(op_type, input, other)

    return lower


for _op_type, _since, _names in COMPARISONS:
    _name = _names[0]
    elementwise(
        _name,
        getattr(operator, _name),
        *(getattr(torch, name) for name in _names),
        methods=(*_names, f"__{_name}__"),
        result=torch.bool,
        native=Native(bfloat16=_since, boolean=0 if _op_type == "Equal" else NEVER),
    )(_comparison(_op_type))


@elementwise(
    "ne",
    *(operator.ne, torch.ne, torch.not_equal),
    methods=("ne", "not_equal", "__ne__"),
    result=torch.bool,
)
def lower_ne(emit: Emitter, input: Value, other: Value) -> Value:
    return emit.node("Not", emit.node("Equal", input, other))


# Truth values -------------------------------------------------------------------------------------


def as_truth(dtype: torch.dtype) -> torch.dtype:
    """Any number but 0 counts as true, nan too; Cast does the same."""
    return torch.bool


def _logical(op_type: str) -> Callable[..., Value]:
    def lower(emit: Emitter, input: Value, other: Value) -> Value:
        return emit.node(op_type, input, other)

    return lower


for _name, _op_type in {"and": "And", "or": "Or", "xor": "Xor"}.items():
    elementwise(
        f"logical_{_name}",
        getattr(torch, f"logical_{_name}"),
        methods=(f"logical_{_name}",),
        compute=as_truth,
        refuse=tensors_only,
    )(_logical(_op_type))


@elementwise("logical_not", torch.logical_not, methods=("logical_not",), operands=("input",), compute=as_truth)
def lower_logical_not(emit: Emitter, input: Value) -> Value:
    return emit.node("Not", input)


# Bits ---------------------------------------------------------------------------------------------


def _bitwise(name: str, op_type: str) -> Callable[..., Value]:
    def lower(emit: Emitter, input: Value, other: Value) -> Value:
        if input.dtype == torch.bool:
            return emit.node(op_type, input, other)
        bitwise = f"Bitwise{op_type}"
        if not emit.has(bitwise):
            emit.unsupported(
                f"ONNX has bitwise {name} of integers since opset {since(bitwise)}; this is opset {emit.opset}"
            )
        return emit.node(bitwise, input, other)

    return lower


for _name, _op_type in {"and": "And", "or": "Or", "xor": "Xor"}.items():
    _operator = getattr(operator, f"{_name}_" if _name != "xor" else "xor")
    elementwise(
        f"bitwise_{_name}",
        *(getattr(torch, f"bitwise_{_name}"), _operator),
        methods=(f"bitwise_{_name}", f"__{_name}__"),
        reflected=(f"__r{_name}__",),
        inplace=(getattr(operator, f"i{_name}"),),
        kinds="bool integer",
    )(_bitwise(_name, _op_type))


def refuse_bits_of_floats(input: TensorSpec) -> None:
    check(category(input.dtype) < 2, "~ needs an integer or bool tensor, found {}", input)


@elementwise(
    "bitwise_not",
    *(torch.bitwise_not, operator.invert, operator.inv),
    methods=("bitwise_not", "__invert__"),
    operands=("input",),
    refuse=refuse_bits_of_floats,
)
def lower_bitwise_not(emit: Emitter, input: Value) -> Value:
    """Before opset 18, `~x` of integers is `-1 - x`, which wraps to the same bits."""
    if input.dtype == torch.bool:
        return emit.node("Not", input)
    if emit.has("BitwiseNot"):
        return emit.node("BitwiseNot", input)
    wide = torch.int64 if input.dtype == torch.int64 else torch.int32
    inverted = emit.node("Sub", emit.scalar(-1, wide), emit.cast(input, wide))
    return inverted if wide == input.dtype else emit.cast(inverted, input.dtype)


def lower_left_shift(emit: Emitter, input: Value, other: Value) -> Value:
    """By a factor of two for each place; ONNX's own BitShift takes unsigned integers only."""
    for factor in _halves_of_shift(emit, other):
        input = type(input)(emit.node("Mul", input, factor).name, input.spec)
    return input


def lower_right_shift(emit: Emitter, input: Value, other: Value) -> Value:
    """The arithmetic shift: a floor division, exact after the remainder is taken off."""
    for factor in _halves_of_shift(emit, other):
        whole = emit.node("Sub", input, emit.node("Mod", input, factor))
        input = type(input)(emit.node("Div", whole, factor).name, input.spec)
    return input


def _halves_of_shift(emit: Emitter, places: Value) -> list[Value]:
    """Two powers of two, which together shift by so many places: one alone may not fit into the dtype."""
    two = emit.scalar(2, places)
    half = emit.node("Div", places, two)
    return [emit.node("Pow", two, part) for part in (half, emit.node("Sub", places, half))]


for _name, _shift in {"left": lower_left_shift, "right": lower_right_shift}.items():
    _operator = getattr(operator, f"{_name[0]}shift")
    elementwise(
        f"bitwise_{_name}_shift",
        *(getattr(torch, f"bitwise_{_name}_shift"), _operator),
        methods=(f"bitwise_{_name}_shift", f"__{_name[0]}shift__"),
        reflected=(f"__r{_name[0]}shift__",),
        inplace=(getattr(operator, f"i{_name[0]}shift"),),
        kinds="integer",
        native=Native(small_integers=NEVER),
    )(_shift)


# Extremes -----------------------------------------------------------------------------------------


@elementwise("maximum", torch.maximum, methods=("maximum",), native=Native(small_integers=NEVER), refuse=tensors_only)
def lower_maximum(emit: Emitter, input: Value, other: Value) -> Value:
    """nan wins, as in torch."""
    return emit.node("Or" if input.dtype == torch.bool else "Max", input, other)


@elementwise("minimum", torch.minimum, methods=("minimum",), native=Native(small_integers=NEVER), refuse=tensors_only)
def lower_minimum(emit: Emitter, input: Value, other: Value) -> Value:
    return emit.node("And" if input.dtype == torch.bool else "Min", input, other)


def _among_numbers(lower_pair: Callable[..., Value]) -> Callable[..., Value]:
    """nan loses: each operand stands in for the other's."""

    def lower(emit: Emitter, input: Value, other: Value) -> Value:
        if not input.dtype.is_floating_point:
            return lower_pair(emit, input, other)
        left = emit.node("Where", emit.node("IsNaN", input), other, input)
        right = emit.node("Where", emit.node("IsNaN", other), input, other)
        return lower_pair(emit, *(type(input)(value.name, input.spec) for value in (left, right)))

    return lower


for _name, _lower_pair in {"fmax": lower_maximum, "fmin": lower_minimum}.items():
    elementwise(
        _name,
        getattr(torch, _name),
        methods=(_name,),
        native=Native(small_integers=NEVER, bfloat16=16),
        refuse=tensors_only,
    )(_among_numbers(_lower_pair))


def refuse_clamp(input: Any, min: Any = None, max: Any = None) -> None:
    check(min is not None or max is not None, "clamp needs a min or a max, found neither")
    tensor_limits = [limit for limit in (min, max) if isinstance(limit, TensorSpec) and limit.ndim]
    check(
        not tensor_limits or all(limit is None or isinstance(limit, TensorSpec) for limit in (min, max)),
        "clamp takes both limits as tensors or both as numbers, found {} and {}",
        min,
        max,
    )


def lower_clamp_to_numbers(emit: Emitter, input: Value, min: Any = None, max: Any = None) -> Value:
    """Clip. A limit of floats that is left out is written as infinite: runtimes take the largest number for it."""
    if any(isinstance(limit, float) and math.isnan(limit) for limit in (min, max)):
        return emit.node("Add", input, as_value(emit, math.nan, input.dtype))
    if input.dtype.is_floating_point:
        min, max = -math.inf if min is None else min, math.inf if max is None else max
    low, high = (None if limit is None else as_value(emit, limit, input.dtype) for limit in (min, max))
    return emit.node("Clip", input, low, high)


@elementwise(
    "clamp",
    *(torch.clamp, torch.clip),
    methods=("clamp", "clip"),
    inplace=(torch.clamp_, torch.clip_),
    operands=("input", "min", "max"),
    kinds="integer float",
    native=Native(small_integers=NEVER),
    refuse=refuse_clamp,
    by_number=lower_clamp_to_numbers,
)
def lower_clamp(emit: Emitter, input: Value, min: Value | None = None, max: Value | None = None) -> Value:
    """Where the limits cross, max wins; one that is not a number wins over all, which Clip does not do."""
    raised = emit.node("Max", input, min) if min is not None else input
    return emit.node("Min", raised, max) if max is not None else raised


def _clamp_side(name: str, op_type: str) -> None:
    clamp_side = elementwise(
        f"clamp_{name}",
        getattr(torch, f"clamp_{name}"),
        methods=(f"clamp_{name}",),
        inplace=(getattr(torch, f"clamp_{name}_"),),
        operands=("input", name),
        kinds="integer float",
        native=Native(small_integers=NEVER),
    )
    if name == "min":

        @clamp_side
        def lower_clamp_min(emit: Emitter, input: Value, min: Value) -> Value:
            return emit.node("Max", input, min)

    else:

        @clamp_side
        def lower_clamp_max(emit: Emitter, input: Value, max: Value) -> Value:
            return emit.node("Min", input, max)


_clamp_side("min", "Max")
_clamp_side("max", "Min")


# Closeness ----------------------------------------------------------------------------------------


def refuse_isclose(input: Any, other: Any, rtol: float = 0, atol: float = 0, equal_nan: bool = False) -> None:
    tensors_only(input, other)
    check(
        input.dtype == other.dtype, "isclose compares tensors of one dtype, found {} and {}", input.dtype, other.dtype
    )
    check(rtol >= 0 and atol >= 0, "tolerances are not negative, found rtol {} and atol {}", rtol, atol)


@elementwise("isclose", torch.isclose, methods=("isclose",), result=torch.bool, refuse=refuse_isclose)
def lower_isclose(
    emit: Emitter, input: Value, other: Value, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Value:
    """`input == other or |input - other| <= atol + rtol |other|`, the difference being finite."""
    equal = emit.node("Equal", input, other)
    if input.dtype == torch.bool:
        return equal
    if equal_nan and input.dtype.is_floating_point:
        equal = emit.node("Or", equal, emit.node("And", emit.node("IsNaN", input), emit.node("IsNaN", other)))
    if rtol == 0 and atol == 0:
        return equal
    dtype = input.dtype if input.dtype.is_floating_point else torch.get_default_dtype()
    left, right = emit.cast(input, dtype), emit.cast(other, dtype)
    difference = emit.node("Abs", emit.node("Sub", left, right))
    scaled = emit.node("Mul", as_value(emit, float(rtol), dtype), emit.node("Abs", right))
    near = emit.node("LessOrEqual", difference, emit.node("Add", as_value(emit, float(atol), dtype), scaled))
    if dtype == input.dtype:
        near = emit.node("And", near, emit.node("Less", difference, as_value(emit, float("inf"), dtype)))
    return emit.node("Or", equal, near)


# Choices ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Where(Record[T]):
    condition: T
    input: Any = None
    other: Any = None


where = Op("where", Where)
CHOICE = Native(small_integers=NEVER, bfloat16=16, boolean=NEVER)


@where.shape
def where_shape(call: Where[TensorSpec]) -> TensorSpec | tuple[TensorSpec, ...]:
    condition = call.condition
    tensors_only(condition)
    if call.input is None and call.other is None:
        return nonzero_shape(Nonzero(condition, as_tuple=True))
    check(condition.dtype in (torch.bool, torch.uint8), "where needs a condition of bool, found {}", condition.dtype)
    dtype = result_dtype(call.input, call.other)
    return broadcast(condition, call.input, call.other, dtype=dtype)


@where.function(torch.where)
def bind_where(condition: Any, input: Any = None, other: Any = None, **synonyms: Any) -> Mapping[str, Any]:
    if input is None or other is None:
        input, other = synonyms.get("self", input), other
    if input is None or other is None:
        check(input is None and other is None, "where takes a condition alone, or with two tensors to choose between")
    return {"condition": condition, "input": input, "other": other}


@where.method("where")
def bind_where_method(input: Any, condition: Any, other: Any) -> Mapping[str, Any]:
    return {"condition": condition, "input": input, "other": other}


@where.lower
def lower_where(emit: Emitter, call: Where[Value]) -> Value | tuple[Value, ...]:
    """Where; or NonZero, for a condition alone."""
    if call.input is None:
        return lower_nonzero(emit, Nonzero(call.condition, as_tuple=True))
    return choice(emit, call.condition, call.input, call.other, result_dtype(call.input, call.other))


def choice(emit: Emitter, condition: Value, chosen: Any, otherwise: Any, dtype: torch.dtype) -> Value:
    """Where, in a dtype that runtimes have it for."""
    if dtype.is_complex:
        emit.unsupported("ONNX has no complex numbers")
    working = CHOICE.dtype(dtype, emit.opset)
    values = promote(emit, chosen, otherwise, dtype=working)
    result = emit.node("Where", emit.cast(condition, torch.bool), *values)
    return result if working == dtype else emit.cast(result, dtype)


@dataclass(frozen=True, slots=True)
class MaskedFill(Record[T]):
    input: T
    mask: T
    value: Any
    inplace: bool = False


masked_fill = Op("masked_fill", MaskedFill, functions=(torch.masked_fill,), methods=("masked_fill",))


@masked_fill.shape
def masked_fill_shape(call: MaskedFill[TensorSpec]) -> TensorSpec:
    """The value is converted to the input's dtype, unlike in `where`."""
    input, mask, value = call.input, call.mask, call.value
    tensors_only(input, mask)
    check(
        mask.dtype == torch.bool,
        "masked_fill needs a mask of bool, found {}",
        mask.dtype,
        remedy="compare, as in x > 0, or convert: mask.bool()",
    )
    if isinstance(value, TensorSpec):
        check(value.ndim == 0, "masked_fill takes a 0-d value, found one of shape {}", shape_text(value.shape))
    elif not is_number(value):
        raise ShapeError(f"masked_fill takes a number or a 0-d tensor, found {value}")
    shape = broadcast_shapes(input.shape, mask.shape)
    check(
        not call.inplace or shape == input.shape,
        "the mask of shape {} does not fit into the tensor of shape {}",
        shape_text(mask.shape),
        shape_text(input.shape),
    )
    return input.with_shape(*shape)


@masked_fill.method("masked_fill_")
def bind_masked_fill_(input: Any, mask: Any, value: Any) -> Mapping[str, Any]:
    return {"input": input, "mask": mask, "value": value, "inplace": True}


@masked_fill.lower
def lower_masked_fill(emit: Emitter, call: MaskedFill[Value]) -> Value:
    input, value = call.input, call.value
    if is_constant(value) and category(input.dtype) < 2:
        value = bool(value) if input.dtype == torch.bool else int(value)
    return choice(emit, call.mask, value, input, input.dtype)


__all__ = ["choice", "masked_fill", "where"]
