"""Products of matrices and vectors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import ShapeError, check
from passes.ops.op import Op
from passes.ops.promotion import broadcast, broadcast_shapes, promote
from passes.ops.record import Record, T
from passes.sizes.dimension import Dim, Size, same_size
from passes.sizes.floating import Floating, is_exactly
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

# onnxruntime multiplies no matrices of these; the product wraps as well after it as before.
WIDER = {torch.uint8: torch.int32, torch.int8: torch.int32, torch.int16: torch.int32}
# Nor does it add them up along axes. As a bool, a sum is whether it is not zero.
SUMMED_IN = {torch.bool: torch.int32, **WIDER}


def times(emit: Emitter, first: Value, second: Value) -> Value:
    """The product element by element, which of truth is "and"."""
    return in_wider(emit, "And" if first.dtype == torch.bool else "Mul", first, second)


def in_wider(
    emit: Emitter,
    op_type: str,
    *operands: Value,
    wider: Mapping[torch.dtype, torch.dtype] = WIDER,
    **attributes: Any,
) -> Value:
    """A node whose operands are computed in a dtype that onnxruntime has a kernel for, as `wider` says."""
    kind = operands[0].dtype
    wide = wider.get(kind, kind)
    result = emit.node(op_type, *(emit.cast(operand, wide) for operand in operands), **attributes)
    return result if wide is kind else emit.cast(result, kind)


# Matrices -------------------------------------------------------------------------------------------


def multiplied(first: TensorSpec, second: TensorSpec) -> TensorSpec:
    """The spec of `first @ second`, with batch axes broadcast; a vector is a row on the left, a column on the right."""
    check(first.ndim >= 1 and second.ndim >= 1, "a matrix product takes no 0-d tensors, found {} and {}", first, second)
    check(first.dtype == second.dtype, "a matrix product takes one dtype, found {} and {}", first.dtype, second.dtype)
    inner = second.shape[-2] if second.ndim > 1 else second.shape[0]
    if first.shape[-1] != inner:
        transposed = second.ndim > 1 and same_size(second.shape[-1], first.shape[-1])
        raise ShapeError(
            f"{first} and {second} cannot be multiplied: the first has rows of {first.shape[-1]}, "
            f"the second columns of {inner}",
            remedy="transpose the second: y.transpose(-2, -1)"
            if transposed
            else "make these two sizes equal, or transpose an operand",
        )
    try:
        batch = broadcast_shapes(first.shape[:-2], second.shape[:-2])
    except ShapeError as error:
        raise ShapeError(
            f"{first} and {second} cannot be multiplied: their batch axes {shape_text(first.shape[:-2])} and "
            f"{shape_text(second.shape[:-2])} do not broadcast",
            remedy="give both the same batch, or one of them a batch of 1",
        ) from error
    rows = first.shape[-2:-1] if first.ndim > 1 else ()
    return first.with_shape(*batch, *rows, *(second.shape[-1:] if second.ndim > 1 else ()))


def _lower_product(emit: Emitter, first: Value, second: Value) -> Value:
    if first.dtype == torch.bool:
        emit.unsupported("torch itself multiplies no matrices of bool")
    return in_wider(emit, "MatMul", first, second)


@dataclass(frozen=True, slots=True)
class Ranks:
    """How many axes the operands of a product must have."""

    first: int
    second: int


# Products of two operands; the ones with fixed ranks broadcast nothing.
PRODUCTS: dict[str, tuple[tuple[Callable[..., Any], ...], Ranks | None]] = {
    "matmul": ((torch.matmul, operator.matmul, operator.imatmul, torch.linalg.matmul), None),
    "mm": ((torch.mm,), Ranks(2, 2)),
    "bmm": ((torch.bmm,), Ranks(3, 3)),
    "mv": ((torch.mv,), Ranks(2, 1)),
    "dot": ((torch.dot,), Ranks(1, 1)),
    "vdot": ((torch.vdot,), Ranks(1, 1)),
}
SECOND_NAMES = ("other", "mat2", "vec", "tensor")


def _ranked(name: str, ranks: Ranks | None, first: TensorSpec, second: TensorSpec) -> TensorSpec:
    if ranks is not None:
        fits = (first.ndim, second.ndim) == (ranks.first, ranks.second)
        check(fits, "{} takes {} and {} axes, found {} and {}", name, ranks.first, ranks.second, first, second)
        batches = first.shape[:-2], second.shape[:-2]
        check(batches[0] == batches[1], "{} takes equal batches, found {} and {}", name, *batches)
    return multiplied(first, second)


@dataclass(frozen=True, slots=True)
class Product(Record[T]):
    input: T
    other: T


def _product(name: str, functions: tuple[Callable[..., Any], ...], ranks: Ranks | None) -> None:
    op = Op(name, Product)

    def bind(input: Any, *given: Any, **named: Any) -> Mapping[str, Any]:
        others = [*given, *(named[keyword] for keyword in SECOND_NAMES if keyword in named)]
        if len(others) != 1:
            raise TypeError(f"{name} takes 2 tensors, found {1 + len(others)}")
        return {"input": input, "other": others[0]}

    op.function(*functions)(bind)
    op.method(name, *(("__matmul__",) if name == "matmul" else ()))(bind)

    @op.shape
    def shape(call: Product[TensorSpec]) -> TensorSpec:
        return _ranked(name, ranks, call.input, call.other)

    @op.lower
    def lower(emit: Emitter, call: Product[Value]) -> Value:
        return _lower_product(emit, call.input, call.other)

    @op.cost
    def cost(result: TensorSpec, call: Product[TensorSpec]) -> Size:
        return result.numel() * call.input.shape[-1]


for _name, (_functions, _ranks) in PRODUCTS.items():
    _product(_name, _functions, _ranks)


rmatmul = Op("rmatmul", Product, methods=("__rmatmul__",))


@rmatmul.shape
def rmatmul_shape(call: Product[TensorSpec]) -> TensorSpec:
    return multiplied(call.other, call.input)


@rmatmul.cost
def rmatmul_cost(result: TensorSpec, call: Product[TensorSpec]) -> Size:
    return result.numel() * call.other.shape[-1]


@rmatmul.lower
def lower_rmatmul(emit: Emitter, call: Product[Value]) -> Value:
    return _lower_product(emit, call.other, call.input)


@dataclass(frozen=True, slots=True)
class Outer(Record[T]):
    input: T
    vec2: T


outer = Op("outer", Outer, functions=(torch.outer, torch.ger), methods=("outer", "ger"))


@outer.shape
def outer_shape(call: Outer[TensorSpec]) -> TensorSpec:
    input = call.input
    check(input.ndim == call.vec2.ndim == 1, "an outer product takes two vectors, found {} and {}", input, call.vec2)
    return broadcast(input.with_shape(input.shape[0], 1), call.vec2)


@outer.lower
def lower_outer(emit: Emitter, call: Outer[Value]) -> Value:
    column, row = promote(emit, call.input, call.vec2)
    return times(emit, emit.unsqueeze(column, 1), row)


@outer.cost
def outer_cost(result: TensorSpec, call: Outer[TensorSpec]) -> Size:
    return result.numel()


@dataclass(frozen=True, slots=True)
class MultiDot(Record[T]):
    tensors: Sequence[T]


multi_dot = Op("multi_dot", MultiDot, functions=(torch.linalg.multi_dot,))


@multi_dot.function(torch.functional.chain_matmul)
def bind_chain_matmul(*matrices: Any, out: Any = None) -> Mapping[str, Any]:
    return {"tensors": matrices[0] if len(matrices) == 1 and isinstance(matrices[0], (tuple, list)) else matrices}


@multi_dot.shape
def multi_dot_shape(call: MultiDot[TensorSpec]) -> TensorSpec:
    tensors = call.tensors
    check(len(tensors) >= 2, "multi_dot takes two tensors or more, found {}", len(tensors))
    for number, tensor in enumerate(tensors):
        at_end = number in (0, len(tensors) - 1)
        check(tensor.ndim == 2 or (at_end and tensor.ndim == 1), "multi_dot takes matrices, found {}", tensor)
    result = tensors[0]
    for tensor in tensors[1:]:
        result = multiplied(result, tensor)
    return result


@multi_dot.lower
def lower_multi_dot(emit: Emitter, call: MultiDot[Value]) -> Value:
    result = call.tensors[0]
    for tensor in call.tensors[1:]:
        assert result.spec is not None
        assert tensor.spec is not None
        result = replace(_lower_product(emit, result, tensor), spec=multiplied(result.spec, tensor.spec))
    return result


@multi_dot.cost
def multi_dot_cost(result: TensorSpec, call: MultiDot[TensorSpec]) -> Size:
    total: Size = 0
    left = call.tensors[0]
    for tensor in call.tensors[1:]:
        inner = left.shape[-1]
        left = multiplied(left, tensor)
        total = total + left.numel() * inner
    return total


# beta * input + alpha * (first @ second) ------------------------------------------------------------

SUMS: dict[str, tuple[Callable[..., Any], Ranks]] = {
    "addmm": (torch.addmm, Ranks(2, 2)),
    "baddbmm": (torch.baddbmm, Ranks(3, 3)),
    "addbmm": (torch.addbmm, Ranks(3, 3)),
    "addmv": (torch.addmv, Ranks(2, 1)),
    "addr": (torch.addr, Ranks(1, 1)),
}
OPERAND_NAMES = ("mat1", "batch1", "mat", "vec1", "mat2", "batch2", "vec", "vec2")


def _added(name: str, ranks: Ranks, first: TensorSpec, second: TensorSpec) -> TensorSpec:
    """The spec of the product that is added: of `addbmm`, summed over the batch; of `addr`, the outer one."""
    if name == "addr":
        return outer_shape(Outer(first, second))
    found = _ranked(name, ranks, first, second)
    return found.with_shape(*found.shape[1:]) if name == "addbmm" else found


def _fit_attributes(dtype: torch.dtype, *numbers: float) -> bool:
    """Whether numbers are attributes of a node without loss: those are float32, and fixed."""
    return all(isinstance(number, (int, float)) for number in numbers) and (
        dtype != torch.float64 or all(torch.tensor(number, dtype=torch.float32).item() == number for number in numbers)
    )


def _either(emit: Emitter, name: str, input: Value, first: Value, second: Value, both: bool) -> Value:
    """A sum of truths, which torch has of outer products alone: "or"."""
    if name != "addr" or not both:
        emit.unsupported(f"ONNX has no {name} of bool" if both else f"{name} of bool with alpha or beta 0")
    return emit.node("Or", input, times(emit, emit.unsqueeze(first, 1), second))


def _times(emit: Emitter, input: Value, beta: float | Floating) -> Value:
    """What is added to a product: nothing of an operand that a factor of 0 leaves out, whatever it holds."""
    if is_exactly(beta, 1):
        return input
    factor = emit.scalar(beta, input)
    scaled = emit.node("Mul", input, factor)
    if not isinstance(beta, (Dim, Floating)):
        return scaled
    nothing = emit.scalar(0, input)
    return emit.node("Where", emit.node("Equal", factor, nothing), nothing, scaled)


@dataclass(frozen=True, slots=True)
class SumOfProducts(Record[T]):
    input: T
    first: T
    second: T
    beta: float = 1
    alpha: float = 1


def _sum(name: str, function: Callable[..., Any], ranks: Ranks) -> None:
    op = Op(name, SumOfProducts)

    def bind(input: Any, *given: Any, beta: float = 1, alpha: float = 1, **named: Any) -> Mapping[str, Any]:
        factors = [*given, *(named[keyword] for keyword in OPERAND_NAMES if keyword in named)]
        if len(factors) != 2:
            raise TypeError(f"{name} takes 3 tensors, found {1 + len(factors)}")
        return {"input": input, "first": factors[0], "second": factors[1], "beta": beta, "alpha": alpha}

    op.function(function)(bind)
    op.method(name)(bind)

    @op.shape
    def shape(call: SumOfProducts[TensorSpec]) -> TensorSpec:
        input = call.input
        result = _added(name, ranks, call.first, call.second)
        check(input.dtype == result.dtype, "{} takes one dtype, found {} and {}", name, input.dtype, result.dtype)
        merged = broadcast_shapes(input.shape, result.shape)
        check(merged == result.shape, "{} cannot be added to a product {}", input, result)
        return result

    @op.lower
    def lower(emit: Emitter, call: SumOfProducts[Value]) -> Value:
        input, first, second, beta, alpha = call.input, call.first, call.second, call.beta, call.alpha
        if input.dtype == torch.bool:
            return _either(emit, name, input, first, second, bool(alpha and beta))
        if name == "addmm" and emit.result.dtype.is_floating_point and _fit_attributes(input.dtype, alpha, beta):
            scales = {"alpha": float(alpha), "beta": float(beta)}
            return emit.node("Gemm", first, second, input if beta else None, **scales)
        wide = WIDER.get(input.dtype, input.dtype)
        input, first, second = (emit.cast(operand, wide) for operand in (input, first, second))
        if name == "addr":
            found = emit.node("Mul", emit.unsqueeze(first, 1), second)
        else:
            found = emit.node("MatMul", first, second)
        if name == "addbmm":
            found = emit.reduce("ReduceSum", found, [0], keepdim=False)
        if not is_exactly(alpha, 1):
            found = emit.node("Mul", found, emit.scalar(alpha, input))
        if not is_exactly(beta, 0):
            found = emit.node("Add", _times(emit, input, beta), found)
        return emit.cast(replace(found, spec=emit.result.with_dtype(wide)), emit.result.dtype)

    @op.cost
    def cost(result: TensorSpec, call: SumOfProducts[TensorSpec]) -> Size:
        return (
            result.numel()
            if name == "addr"
            else call.first.numel() * (call.second.shape[-1] if call.second.ndim > 1 else 1)
        )


for _name, (_function, _sum_ranks) in SUMS.items():
    _sum(_name, _function, _sum_ranks)
