"""How far vectors lie apart: between two tensors' rows, among all pairs of rows, and by their angle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from passes.errors import check
from passes.ops.arithmetic import refuse_difference
from passes.ops.assignment import counted
from passes.ops.axes import axis_of
from passes.ops.elementwise import NEVER, Native, tensors_only
from passes.ops.layout import transposed
from passes.ops.matmul import in_wider
from passes.ops.op import Op
from passes.ops.promotion import broadcast, broadcast_shapes, float_dtype, promote, result_dtype
from passes.ops.record import Record, T
from passes.ops.reduction import reduce, reduced
from passes.ops.vector_norm import VectorNorm, norm_of, vector_norm_shape
from passes.sizes.dimension import Dim, Size, same_size
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

# onnxruntime has next to no bfloat16.
WIDE = Native(bfloat16=NEVER)


def _in_result_dtype(emit: Emitter, value: Value, computed: torch.dtype) -> Value:
    return value if computed == emit.result.dtype else emit.cast(value, emit.result.dtype)


# Rows of two tensors ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairwiseDistance(Record[T]):
    x1: T
    x2: T
    p: float = 2.0
    eps: float = 1e-6
    keepdim: bool = False


pairwise_distance = Op("pairwise_distance", PairwiseDistance, functions=(torch.pairwise_distance,))


@pairwise_distance.module(nn.PairwiseDistance)
def bind_pairwise_distance(module: nn.PairwiseDistance, x1: Any, x2: Any) -> Mapping[str, Any]:
    return {"x1": x1, "x2": x2, "p": module.norm, "eps": module.eps, "keepdim": module.keepdim}


@pairwise_distance.shape
def pairwise_distance_shape(call: PairwiseDistance[TensorSpec]) -> TensorSpec:
    x1, x2 = call.x1, call.x2
    tensors_only(x1, x2)
    refuse_difference(x1, x2)
    return vector_norm_shape(
        VectorNorm(broadcast(x1, x2, dtype=float_dtype(result_dtype(x1, x2))), call.p, -1, call.keepdim)
    )


@pairwise_distance.lower
def lower_pairwise_distance(emit: Emitter, call: PairwiseDistance[Value]) -> Value:
    """The norm of x1 - x2 + eps over the last axis."""
    spec = TensorSpec(
        broadcast_shapes(call.x1.shape, call.x2.shape), WIDE.dtype(result_dtype(call.x1, call.x2), emit.opset)
    )
    difference = in_wider(emit, "Sub", *promote(emit, call.x1, call.x2, dtype=spec.dtype))
    difference = emit.cast(replace(difference, spec=spec), WIDE.dtype(emit.result.dtype, emit.opset))
    moved = replace(emit.node("Add", difference, emit.scalar(call.eps, difference)), spec=difference.spec)
    return _in_result_dtype(emit, norm_of(emit, moved, call.p, -1, call.keepdim), moved.dtype)


@dataclass(frozen=True, slots=True)
class CosineSimilarity(Record[T]):
    x1: T
    x2: T
    dim: int = 1
    eps: float = 1e-8


cosine_similarity = Op("cosine_similarity", CosineSimilarity, functions=(torch.cosine_similarity,))


@cosine_similarity.module(nn.CosineSimilarity)
def bind_cosine_similarity(module: nn.CosineSimilarity, x1: Any, x2: Any) -> Mapping[str, Any]:
    return {"x1": x1, "x2": x2, "dim": module.dim, "eps": module.eps}


@cosine_similarity.shape
def cosine_similarity_shape(call: CosineSimilarity[TensorSpec]) -> TensorSpec:
    """The result of a 0-d tensor with others is promoted as if it had axes, because it is broadcast first."""
    tensors_only(call.x1, call.x2)
    dtype = torch.promote_types(call.x1.dtype, call.x2.dtype)
    check(dtype.is_floating_point, "a cosine similarity needs floating-point numbers, found {}", dtype)
    return reduced(broadcast(call.x1, call.x2, dtype=dtype), call.dim, False)


@cosine_similarity.lower
def lower_cosine_similarity(emit: Emitter, call: CosineSimilarity[Value]) -> Value:
    """The sum of products of both, each divided by its norm, which counts as eps where it is smaller."""
    dtype = WIDE.dtype(emit.result.dtype, emit.opset)
    common = TensorSpec(broadcast_shapes(call.x1.shape, call.x2.shape), dtype)
    units = []
    for value in promote(emit, call.x1, call.x2, dtype=dtype):
        value = _along(emit, value, common, axis_of(call.dim, common.ndim))
        length = emit.node("Max", norm_of(emit, value, 2, call.dim, True), emit.scalar(call.eps, dtype))
        units.append(emit.node("Div", value, length))
    products = replace(emit.node("Mul", *units), spec=common)
    return _in_result_dtype(emit, reduce(emit, "ReduceSum", products, products, call.dim, False), dtype)


def _along(emit: Emitter, value: Value, common: TensorSpec, axis: int) -> Value:
    """The value with the common number of axes, and as long along one of them as the common shape.

    A norm is that of the broadcast tensor: one element that stands for four counts four times.
    """
    missing = common.ndim - value.ndim
    if missing:
        value = emit.unsqueeze(value, *range(missing))
    if not common.ndim or same_size(value.shape[axis], common.shape[axis]):
        return value
    target = [common.shape[each] if each == axis else 1 for each in range(common.ndim)]
    shape = (*value.shape[:axis], common.shape[axis], *value.shape[axis + 1 :])
    return replace(emit.node("Expand", value, emit.sizes(target)), spec=common.with_shape(*shape))


# All pairs of rows --------------------------------------------------------------------------------


# From this many rows on, torch computes Euclidean distances by a matrix product unless told otherwise.
MANY_ROWS = 26
IF_NECESSARY, WITH_PRODUCT, WITHOUT_PRODUCT = (
    "use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cdist(Record[T]):
    x1: T
    x2: T
    p: float = 2.0
    compute_mode: str = IF_NECESSARY


cdist = Op("cdist", Cdist, functions=(torch.cdist,))


@dataclass(frozen=True, slots=True)
class Pdist(Record[T]):
    input: T
    p: float = 2.0


pdist = Op("pdist", Pdist, functions=(torch.pdist,))


def _check_order(p: float) -> None:
    check(p >= 0, "a distance has an order of at least 0, found {}", p)


@cdist.shape
def cdist_shape(call: Cdist[TensorSpec]) -> TensorSpec:
    """[..., rows, features] and [..., others, features] -> [..., rows, others]; the leading axes broadcast."""
    x1, x2 = call.x1, call.x2
    _check_order(call.p)
    check(
        call.compute_mode in (IF_NECESSARY, WITH_PRODUCT, WITHOUT_PRODUCT),
        "{!r} is no compute_mode of cdist",
        call.compute_mode,
    )
    for tensor in (x1, x2):
        check(tensor.dtype.is_floating_point, "cdist needs floating-point numbers, found {}", tensor)
        check(tensor.ndim >= 2, "cdist needs tensors of at least 2 axes, found {}", tensor)
    check(x1.dtype == x2.dtype, "cdist takes one dtype, found {} and {}", x1.dtype, x2.dtype)
    features = x1.shape[-1], x2.shape[-1]
    check(features[0] == features[1], "cdist takes rows of one length, found {} and {}", *features)
    return x1.with_shape(*broadcast_shapes(x1.shape[:-2], x2.shape[:-2]), x1.shape[-2], x2.shape[-2])


@cdist.lower
def lower_cdist(emit: Emitter, call: Cdist[Value]) -> Value:
    """The norms of all differences; Euclidean ones by a matrix product where torch does so, or may do so."""
    x1, x2 = call.x1, call.x2
    dtype = WIDE.dtype(emit.result.dtype, emit.opset)
    x1, x2 = emit.cast(x1, dtype), emit.cast(x2, dtype)
    many = any(isinstance(rows, Dim) or rows >= MANY_ROWS for rows in (x1.shape[-2], x2.shape[-2]))
    if call.p == 2 and (call.compute_mode == WITH_PRODUCT or (call.compute_mode == IF_NECESSARY and many)):
        return _in_result_dtype(emit, _euclidean(emit, x1, x2), dtype)
    differences = emit.node("Sub", emit.unsqueeze(x1, -2), emit.unsqueeze(x2, -3))
    spec = TensorSpec((*emit.result.shape, x1.shape[-1]), dtype)
    return _in_result_dtype(emit, norm_of(emit, replace(differences, spec=spec), call.p, -1, False), dtype)


def _euclidean(emit: Emitter, x1: Value, x2: Value) -> Value:
    """`|a - b|^2 = |a|^2 + |b|^2 - 2 a b`, which takes no memory for the differences; rounding may bring it below 0."""
    turned = [*range(x2.ndim - 2), x2.ndim - 1, x2.ndim - 2]
    products = emit.node("MatMul", x1, transposed(emit, x2, turned))
    own = emit.reduce("ReduceSumSquare", x1, [-1], True)
    other = emit.unsqueeze(emit.reduce("ReduceSumSquare", x2, [-1], False), -2)
    twice = emit.node("Mul", products, emit.scalar(2, x1))
    return emit.node("Sqrt", emit.node("Relu", emit.node("Sub", emit.node("Add", own, other), twice)))


@cdist.cost
def cdist_cost(result: TensorSpec, call: Cdist[TensorSpec]) -> Size:
    return result.numel() * call.x1.shape[-1]


@pdist.shape
def pdist_shape(call: Pdist[TensorSpec]) -> TensorSpec:
    """[rows, features] -> [rows (rows - 1) / 2]: the upper triangle of `cdist(input, input)`, row by row."""
    input = call.input
    _check_order(call.p)
    check(input.ndim == 2, "pdist needs a matrix, found {}", input)
    check(input.dtype.is_floating_point, "pdist needs floating-point numbers, found {}", input)
    rows = input.shape[0]
    return input.with_shape(rows * (rows - 1) // 2)


@pdist.lower
def lower_pdist(emit: Emitter, call: Pdist[Value]) -> Value:
    """The norms of the differences between the rows of each pair."""
    input = call.input
    dtype = WIDE.dtype(input.dtype, emit.opset)
    value = emit.cast(input, dtype)
    left, right = (emit.node("Gather", value, numbers, axis=0) for numbers in _pairs(emit, input.shape[0]))
    spec = TensorSpec((*emit.result.shape, input.shape[1]), dtype)
    differences = replace(emit.node("Sub", left, right), spec=spec)
    return _in_result_dtype(emit, norm_of(emit, differences, call.p, -1, False), dtype)


def _pairs(emit: Emitter, rows: Size) -> tuple[Value, ...]:
    """The numbers of the rows of each pair: first the earlier rows', then the later ones'."""
    if isinstance(rows, int):
        return tuple(emit.constant(numbers) for numbers in torch.triu_indices(rows, rows, offset=1))
    numbers = counted(emit, 0, rows)
    later = emit.node("Less", emit.unsqueeze(numbers, 1), numbers)
    return tuple(emit.squeeze(each, 0) for each in emit.split(emit.node("NonZero", later), [1, 1], 0))


@pdist.cost
def pdist_cost(result: TensorSpec, call: Pdist[TensorSpec]) -> Size:
    return result.numel() * call.input.shape[1]
