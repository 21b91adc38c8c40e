"""Norms of vectors and matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from passes.errors import ShapeError, check
from passes.ops.axes import axes_of
from passes.ops.op import Op
from passes.ops.promotion import as_value
from passes.ops.record import Record, T
from passes.ops.reduction import Dims, check_not_empty, reduce, reduced
from passes.sizes.floating import fixed
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class VectorNorm(Record[T]):
    input: T
    ord: float = 2
    dim: Dims = None
    keepdim: bool = False
    dtype: torch.dtype | None = None


vector_norm = Op("vector_norm", VectorNorm, functions=(torch.linalg.vector_norm,))


@dataclass(frozen=True, slots=True)
class MatrixNorm(Record[T]):
    input: T
    ord: float | str = "fro"
    dim: tuple[int, int] = (-2, -1)
    keepdim: bool = False
    dtype: torch.dtype | None = None


matrix_norm = Op("matrix_norm", MatrixNorm, functions=(torch.linalg.matrix_norm,))


def check_floating(input: TensorSpec, dtype: torch.dtype | None) -> torch.dtype:
    for found in (input.dtype, dtype or input.dtype):
        check(found.is_floating_point or found.is_complex, "a norm needs floating-point numbers, found {}", found)
    return dtype or input.dtype


@vector_norm.shape
def vector_norm_shape(call: VectorNorm[TensorSpec]) -> TensorSpec:
    ord = fixed(call.ord)
    check(isinstance(ord, (int, float)), "the order of a vector norm is a number, not {}", ord)
    if ord < 0 or ord == math.inf:
        check_not_empty(call.input, call.dim, f"a norm of order {ord}")
    return reduced(call.input, call.dim, call.keepdim, check_floating(call.input, call.dtype))


@vector_norm.function(torch.norm)
@vector_norm.method("norm")
def bind_norm(
    input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, out: Any = None, dtype: Any = None
) -> Mapping[str, Any]:
    """`torch.norm` is a vector norm whatever the number of axes; its default name is that of matrices."""
    if p == "nuc":
        raise ShapeError("the nuclear norm needs singular values", remedy="use torch.linalg.matrix_norm")
    if p == "fro" and isinstance(dim, (tuple, list)):
        check(len(dim) <= 2, "the Frobenius norm is over at most 2 axes, found {}", dim)
    order = 2 if p is None or p == "fro" else p
    return {"input": input, "ord": order, "dim": dim, "keepdim": keepdim, "dtype": dtype}


@vector_norm.lower
def lower_vector_norm(emit: Emitter, call: VectorNorm[Value]) -> Value:
    return norm_of(emit, emit.cast(call.input, emit.result.dtype), call.ord, call.dim, call.keepdim)


def norm_of(emit: Emitter, value: Value, ord: float, dim: Dims, keepdim: bool) -> Value:
    """`sum(|x|^p)^(1/p)`; the largest or smallest magnitude for an infinite p; the number of non-zeros for 0."""
    if ord in (1, 2):
        return reduce(emit, f"ReduceL{int(ord)}", value, value, dim, keepdim)
    if ord == 0:
        nonzero = emit.cast(emit.cast(value, torch.bool), value.dtype)
        return reduce(emit, "ReduceSum", value, nonzero, dim, keepdim)
    magnitude = emit.node("Abs", value)
    if math.isinf(ord):
        return reduce(emit, "ReduceMax" if ord > 0 else "ReduceMin", value, magnitude, dim, keepdim)
    powers = emit.node("Pow", magnitude, as_value(emit, float(ord), value.dtype))
    total = reduce(emit, "ReduceSum", value, powers, dim, keepdim)
    return emit.node("Pow", total, as_value(emit, 1 / ord, value.dtype))


@matrix_norm.shape
def matrix_norm_shape(call: MatrixNorm[TensorSpec]) -> TensorSpec:
    input, dim = call.input, call.dim
    check(input.ndim >= 2, "a matrix norm needs a tensor of at least 2 axes, found {}", input)
    check(not isinstance(dim, int) and len(dim) == 2, "a matrix has two axes, found {}", dim)
    check(
        call.ord in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf),
        "a matrix norm is fro, nuc, ±1, ±2 or ±inf, not {}",
        call.ord,
    )
    return reduced(input, dim, call.keepdim, check_floating(input, call.dtype))


@matrix_norm.lower
def lower_matrix_norm(emit: Emitter, call: MatrixNorm[Value]) -> Value:
    """Order 1: the largest column sum of magnitudes; infinity: the largest row sum; negative: the smallest."""
    ord = call.ord
    value = emit.cast(call.input, emit.result.dtype)
    if isinstance(ord, str) or abs(ord) == 2:
        if ord != "fro":
            emit.unsupported(f"the matrix norm of order {ord} needs singular values")
        return reduce(emit, "ReduceL2", call.input, value, call.dim, call.keepdim)
    rows, columns = axes_of(call.dim, call.input.ndim)
    summed, searched = (rows, columns) if abs(ord) == 1 else (columns, rows)
    sums = emit.reduce("ReduceL1", value, [summed], True)
    sums = replace(sums, spec=value.known.with_shape(*(1 if i == summed else n for i, n in enumerate(value.shape))))
    extreme = reduce(emit, "ReduceMax" if ord > 0 else "ReduceMin", sums, sums, searched, True)
    return extreme if call.keepdim else emit.squeeze(extreme, rows, columns)


# A number, the name of a matrix norm, or None.
Order: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Norm(Record[T]):
    input: T
    ord: Order = None
    dim: Dims = None
    keepdim: bool = False
    dtype: torch.dtype | None = None


norm = Op("norm", Norm, functions=(torch.linalg.norm,))


def _as_matrix_norm(call: Norm[T]) -> MatrixNorm[T]:
    rows_and_columns: Any = (-2, -1) if call.dim is None else call.dim
    return MatrixNorm(call.input, call.ord, rows_and_columns, call.keepdim, call.dtype)


def is_matrix_norm(input: TensorSpec | Value, ord: Any, dim: Dims) -> bool:
    """With an order, two axes make a matrix; without one, the elements are one vector."""
    if ord is None:
        return False
    return input.ndim == 2 if dim is None else not isinstance(dim, int) and len(dim) == 2


@norm.shape
def norm_shape(call: Norm[TensorSpec]) -> TensorSpec:
    input, ord, dim = call.input, call.ord, call.dim
    if is_matrix_norm(input, ord, dim):
        return matrix_norm_shape(_as_matrix_norm(call))
    check(
        ord is None or dim is not None or input.ndim == 1,
        "linalg.norm with an order needs a vector or a matrix, found {}",
        input,
    )
    return vector_norm_shape(VectorNorm(input, 2 if ord is None else ord, dim, call.keepdim, call.dtype))


@norm.lower
def lower_norm(emit: Emitter, call: Norm[Value]) -> Value:
    ord, dim = call.ord, call.dim
    if is_matrix_norm(call.input, ord, dim):
        return lower_matrix_norm(emit, _as_matrix_norm(call))
    return lower_vector_norm(emit, VectorNorm(call.input, 2 if ord is None else ord, dim, call.keepdim, call.dtype))
