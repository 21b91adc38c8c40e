"""How an elementwise op is declared: once, by a lowering over operands that already have one dtype. Registers no op.

    @elementwise("mul", torch.mul, operator.mul, methods=("mul",), inplace=(operator.imul,))
    def lower_mul(emit, input, other): return emit.node("Mul", input, other)

The lowering's parameters are the op's signature. From the declaration follow the shape rule (promotion,
broadcasting, refusals), the in-place spellings (whose result keeps the first operand's shape and dtype) and the casts.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from passes.errors import ShapeError, check
from passes.ops.op import Op
from passes.ops.promotion import as_value, broadcast, category, float_dtype, is_number, result_dtype
from passes.ops.record import Record, record_of
from passes.sizes.floating import DynamicNumber
from passes.values.spec import TensorSpec, describe, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

Lowering = TypeVar("Lowering", bound=Callable[..., Any])

NEVER = 1 << 16
KINDS = ("bool", "integer", "float")
SMALL_INTEGERS = (torch.uint8, torch.int8, torch.int16)


@dataclass(frozen=True, slots=True)
class Neutral:
    """A number that, as the second operand, leaves the first as it is: the rewrite that this allows, and why."""

    number: int
    rewrite: str
    why: str


@dataclass(frozen=True, slots=True)
class Native:
    """From which opset on an ONNX node takes a dtype; before, its operands are widened and the result narrowed.

    Widening is exact: integers wrap alike when narrowed again, and bool is computed as 0 and 1.
    """

    small_integers: int = 0
    bfloat16: int = 0
    boolean: int = 0

    def dtype(self, dtype: torch.dtype, opset: int) -> torch.dtype:
        """The dtype to compute in."""
        if dtype in SMALL_INTEGERS and opset < self.small_integers:
            return torch.int32
        if dtype == torch.bfloat16 and opset < self.bfloat16:
            return torch.float32
        return torch.uint8 if dtype == torch.bool and opset < self.boolean else dtype


def same(dtype: torch.dtype, **options: Any) -> torch.dtype:
    """Computed in the promoted dtype."""
    return dtype


def floating(dtype: torch.dtype, **options: Any) -> torch.dtype:
    """Computed in floating point; integers in the default one."""
    return float_dtype(dtype)


def tensors_only(*operands: Any, **options: Any) -> None:
    """Refuses Python numbers where torch does."""
    for operand in operands:
        check(isinstance(operand, TensorSpec), "a tensor is needed here, found the number {}", operand)


def not_bool(input: Any, *others: Any, **options: Any) -> None:
    """Refuses operands that are all bool."""
    check(result_dtype(input, *others) != torch.bool, "bool tensors are not supported here; use logical operations")


def elementwise(
    name: str,
    *functions: Callable[..., Any],
    methods: tuple[str, ...] = (),
    reflected: tuple[str, ...] = (),
    inplace: tuple[Callable[..., Any], ...] = (),
    operands: tuple[str, ...] = ("input", "other"),
    compute: Callable[..., torch.dtype] = same,
    result: torch.dtype | None = None,
    native: Native = Native(),
    kinds: str = "bool integer float",
    refuse: Callable[..., None] | None = None,
    neutral: Neutral | None = None,
    by_number: Callable[..., Any] | None = None,
    wide_numbers: bool = False,
    view: bool = False,
) -> Callable[[Lowering], Lowering]:
    """Declares the op that the decorated lowering lowers.

    `operands` are broadcast and promoted, other parameters are options. `compute` makes of the promoted dtype
    the one to compute in, `result` is the result's dtype where that is another. `reflected` methods take the
    operands in reverse; `inplace` are functions that write into the first one, as do the methods with an
    underscore. `kinds` names the dtypes that torch has kernels for (its meta tensors know of no such limit).
    `refuse` raises ShapeError for operands and options that torch does not take. A second operand
    that is the number of `neutral` leaves the first as it is. `by_number` is the lowering for further operands that are
    Python numbers (or absent), where that has a simpler form; it returns None where it has not. `wide_numbers` says
    that torch does not round a number to a 16-bit tensor's dtype before it computes. `view` is the op's.
    """

    def declare(lowering: Lowering) -> Lowering:
        parameters = list(inspect.signature(lowering).parameters.values())[1:]
        in_place = inspect.Parameter("inplace", inspect.Parameter.KEYWORD_ONLY, default=False, annotation="bool")
        record = record_of(name, [*parameters, in_place])
        option_names = tuple(parameter.name for parameter in parameters if parameter.name not in operands)
        op = Op(name, record, functions=functions, methods=methods, view=view)

        def split(call: Record[Any]) -> tuple[list[Any], dict[str, Any]]:
            given = [getattr(call, operand) for operand in operands]
            return given, {option: getattr(call, option) for option in option_names}

        def shape(call: Any) -> TensorSpec:
            given, options = split(call)
            check_operands(name, given)
            if refuse is not None:
                refuse(*given, **options)
            dtype = result or compute(result_dtype(*given), **options)
            found = broadcast(*given, dtype=dtype)
            return written_into(given[0], found) if call.inplace else found

        def lower(emit: Emitter, call: Record[Any]) -> Value:
            given, options = split(call)
            promoted = result_dtype(*given)
            computed = compute(promoted, **options)
            if promoted.is_complex or computed.is_complex:
                emit.unsupported("ONNX has no complex arithmetic")
            if KINDS[category(computed)] not in kinds:
                emit.unsupported(f"torch itself computes no {name} of {computed}")
            working = native.dtype(computed, emit.opset)
            if wide_numbers and any(is_constant(operand) and not fits(operand, working) for operand in given):
                working = torch.float32
            value: Value | None = None
            if by_number is not None and all(operand is None or is_constant(operand) for operand in given[1:]):
                value = by_number(emit, as_value(emit, given[0], working), *given[1:], **options)
            if value is None:
                values = [as_value(emit, operand, working) if operand is not None else None for operand in given]
                value = lowering(emit, *values, **options)
            assert value is not None
            return value if (result or working) == emit.result.dtype else emit.cast(value, emit.result.dtype)

        def bind_in_place(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
            return {**op.bind(args, kwargs).named(), "inplace": True}

        def bind_reflected(input: Any, other: Any) -> Mapping[str, Any]:
            return {operands[0]: other, operands[1]: input}

        op.shape(shape)
        op.lower(lower)
        op.function(*inplace)(bind_in_place)
        op.method(*(f"{method}_" for method in methods if not method.startswith("__")))(bind_in_place)
        op.method(*reflected)(bind_reflected)
        if neutral is not None:
            op.identity(neutral.rewrite, neutral.why)(_neutral_rule(operands[1], neutral.number))
        return lowering

    return declare


def _neutral_rule(operand: str, neutral: float) -> Callable[..., bool]:
    def identity(result: TensorSpec, call: Record[Any]) -> bool:
        other = getattr(call, operand)
        is_neutral = is_constant(other) and not isinstance(other, bool) and other == neutral
        return is_neutral and getattr(call, "rounding_mode", None) is None and bool(result == call.subject)

    return identity


def check_operands(name: str, operands: list[Any]) -> None:
    """Operands are tensors, Python numbers, dynamic sizes, or absent where the op allows it."""
    for operand in operands:
        if not (operand is None or isinstance(operand, TensorSpec) or is_number(operand)):
            raise ShapeError(f"{name} takes tensors and numbers, found {describe(operand)}")
    check(any(isinstance(operand, TensorSpec) for operand in operands), "{} needs a tensor, found only numbers", name)


def written_into(input: Any, found: TensorSpec) -> TensorSpec:
    """The result of an in-place operation: the first operand keeps its shape and dtype."""
    check(isinstance(input, TensorSpec), "an in-place operation needs a tensor to write into, found {}", input)
    target: TensorSpec = input
    if target.shape != found.shape:
        raise ShapeError(
            f"the result of shape {shape_text(found.shape)} cannot be written into the tensor of shape "
            f"{shape_text(target.shape)}"
        )
    check(
        category(found.dtype) <= category(target.dtype),
        "the result is {}, which cannot be written into a {} tensor",
        found.dtype,
        target.dtype,
    )
    return target


def fits(number: float, dtype: torch.dtype) -> bool:
    """Whether a number keeps its size in a 16-bit floating-point dtype, rather than become infinite or vanish."""
    if dtype not in (torch.float16, torch.bfloat16):
        return True
    limits = torch.finfo(dtype)
    size = abs(number)
    return not (limits.max < size < math.inf or 0 < size < limits.smallest_normal)


def is_constant(value: Any) -> bool:
    """Whether an operand is a number that is known now."""
    return is_number(value) and not isinstance(value, DynamicNumber)


__all__ = [
    "NEVER",
    "SMALL_INTEGERS",
    "Lowering",
    "Native",
    "check_operands",
    "elementwise",
    "floating",
    "is_constant",
    "not_bool",
    "same",
    "tensors_only",
    "written_into",
]
