"""Linear algebra beyond products and norms: cross and Kronecker products, determinants, small inverses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.ops.axes import axis_of
from passes.ops.matmul import in_wider, times
from passes.ops.op import Op
from passes.ops.promotion import broadcast, promote
from passes.ops.record import Record, T
from passes.sizes.dimension import Size
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


# Products -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cross(Record[T]):
    input: T
    other: T
    dim: int | None = -1


cross = Op("cross", Cross, functions=(torch.linalg.cross,))


@cross.function(torch.cross)
@cross.method("cross")
def bind_cross(input: Any, other: Any, dim: int | None = None) -> Mapping[str, Any]:
    """Without an axis, `torch.cross` takes the first of size 3."""
    return {"input": input, "other": other, "dim": dim}


def _axis_of_three(input: TensorSpec | Value, dim: int | None) -> int:
    if dim is not None:
        return axis_of(dim, len(input.shape))
    axes = [axis for axis, size in enumerate(input.shape) if isinstance(size, int) and size == 3]
    check(bool(axes), "{} has no axis of 3 elements", input)
    return axes[0]


@cross.shape
def cross_shape(call: Cross[TensorSpec]) -> TensorSpec:
    input, other = call.input, call.other
    check(input.ndim == other.ndim >= 1, "a cross product takes equally many axes, found {} and {}", input, other)
    check(input.dtype == other.dtype, "a cross product takes one dtype, found {} and {}", input, other)
    axis = _axis_of_three(input, call.dim)
    for operand in (input, other):
        check(operand.shape[axis] == 3, "axis {} of {} must have 3 elements", axis, operand)
    return broadcast(input, other)


@cross.cost
def cross_cost(result: TensorSpec, call: Cross[TensorSpec]) -> Size:
    return result.numel() * 2


@cross.lower
def lower_cross(emit: Emitter, call: Cross[Value]) -> Value:
    """Each vector's elements moved round by one, times the other's by two; less the same the other way round."""
    axis = _axis_of_three(call.input, call.dim)
    by_one, by_two = emit.ints(1, 2, 0), emit.ints(2, 0, 1)

    def turned(value: Value, places: Value) -> Value:
        return replace(emit.node("Gather", value, places, axis=axis), spec=value.spec)

    terms = [
        times(emit, turned(call.input, first), turned(call.other, second))
        for first, second in ((by_one, by_two), (by_two, by_one))
    ]
    return in_wider(emit, "Sub", *(replace(term, spec=call.input.spec) for term in terms))


@dataclass(frozen=True, slots=True)
class Vecdot(Record[T]):
    x: T
    y: T
    dim: int = -1


vecdot = Op("vecdot", Vecdot, functions=(torch.linalg.vecdot,))


@vecdot.shape
def vecdot_shape(call: Vecdot[TensorSpec]) -> TensorSpec:
    x = call.x
    check(x.dtype == call.y.dtype, "vecdot takes one dtype, found {} and {}", x, call.y)
    check(x.dtype.is_floating_point, "vecdot takes floating-point vectors, found {}", x)
    found = broadcast(x, call.y)
    axis = axis_of(call.dim, found.ndim)
    return found.with_shape(*found.shape[:axis], *found.shape[axis + 1 :])


@vecdot.lower
def lower_vecdot(emit: Emitter, call: Vecdot[Value]) -> Value:
    ndim = max(call.x.ndim, call.y.ndim)
    product = emit.node("Mul", call.x, call.y)
    return emit.reduce("ReduceSum", product, [axis_of(call.dim, ndim)], False) if ndim else product


@vecdot.cost
def vecdot_cost(result: TensorSpec, call: Vecdot[TensorSpec]) -> Size:
    return broadcast(call.x, call.y).numel()


@dataclass(frozen=True, slots=True)
class Kron(Record[T]):
    input: T
    other: T


kron = Op("kron", Kron, functions=(torch.kron,), methods=("kron",))


def _side_by_side(shape: Sequence[Size], other: Sequence[Size]) -> list[tuple[Size, Size]]:
    """The sizes of two shapes, axis by axis from the last."""
    ndim = max(len(shape), len(other))
    padded = [[*[1] * (ndim - len(sizes)), *sizes] for sizes in (shape, other)]
    return list(zip(*padded, strict=True))


@kron.shape
def kron_shape(call: Kron[TensorSpec]) -> TensorSpec:
    """The other tensor once for each element, scaled by it: sizes multiply."""
    shape = [outer * inner for outer, inner in _side_by_side(call.input.shape, call.other.shape)]
    return call.input.with_shape(*shape).with_dtype(torch.promote_types(call.input.dtype, call.other.dtype))


@kron.cost
def kron_cost(result: TensorSpec, call: Kron[TensorSpec]) -> Size:
    return result.numel()


@kron.lower
def lower_kron(emit: Emitter, call: Kron[Value]) -> Value:
    """A product broadcast over axes that alternate between the two, which are then merged in pairs."""
    pairs = _side_by_side(call.input.shape, call.other.shape)
    outer, inner = promote(emit, call.input, call.other, dtype=emit.result.dtype)
    spread = emit.reshape(outer, list(chain.from_iterable((size, 1) for size, _ in pairs)))
    tiled = emit.reshape(inner, list(chain.from_iterable((1, size) for _, size in pairs)))
    product = times(emit, spread, tiled)
    every = emit.result.with_shape(*chain.from_iterable(pairs))
    return emit.reshape(replace(product, spec=every), emit.result.shape)


# Square matrices ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Det(Record[T]):
    input: T


det = Op("det", Det, functions=(torch.det, torch.linalg.det), methods=("det",))


@dataclass(frozen=True, slots=True)
class Inv(Record[T]):
    input: T


inv = Op("inv", Inv, functions=(torch.inverse, torch.linalg.inv), methods=("inverse",))

# An inverse is computed from the determinants of all its minors, which is for small matrices.
LARGEST_INVERSE = 4


def _check_square(input: TensorSpec) -> None:
    check(input.ndim >= 2, "a matrix has 2 axes, found {}", input)
    check(input.shape[-1] == input.shape[-2], "a square matrix is needed, found {}", input)
    check(input.dtype.is_floating_point, "a floating-point matrix is needed, found {}", input)


@det.shape
def det_shape(call: Det[TensorSpec]) -> TensorSpec:
    _check_square(call.input)
    return call.input.with_shape(*call.input.shape[:-2])


@det.lower
def lower_det(emit: Emitter, call: Det[Value]) -> Value:
    return emit.node("Det", call.input)


@inv.shape
def inv_shape(call: Inv[TensorSpec]) -> TensorSpec:
    _check_square(call.input)
    return call.input


@inv.lower
def lower_inv(emit: Emitter, call: Inv[Value]) -> Value:
    """Cramer's rule: the transposed matrix of cofactors over the determinant.

    Cofactor (i, j) is the determinant without row i and column j, with the sign of a checkerboard.
    """
    input = call.input
    size = input.shape[-1]
    if not isinstance(size, int) or not 1 <= size <= LARGEST_INVERSE:
        emit.unsupported(f"ONNX has no inverse, and one of {size} rows would have too many minors")
    if size == 1:
        return emit.node("Reciprocal", input)
    others = emit.constant(torch.tensor([[k for k in range(size) if k != i] for i in range(size)]))
    rank = input.ndim
    rows = emit.node("Gather", input, others, axis=rank - 2)  # [..., i, rows, columns]
    minors = emit.node("Gather", rows, others, axis=rank)  # [..., i, rows, j, columns]
    batch = list(range(rank - 2))
    # The adjugate's axes are (j, i).
    minors = emit.node("Transpose", minors, perm=[*batch, rank, rank - 2, rank - 1, rank + 1])
    signs = torch.tensor([[(-1.0) ** (i + j) for i in range(size)] for j in range(size)], dtype=input.dtype)
    adjugate = emit.node("Mul", emit.node("Det", minors), emit.constant(signs))
    return emit.node("Div", adjugate, emit.node("Unsqueeze", emit.node("Det", input), emit.ints(-1, -2)))
