"""Lookups by index: embedding, embedding bags."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.op import Op, Owned
from passes.ops.record import Record, T
from passes.sizes.dimension import Size
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class Embedding(Record[T]):
    input: T
    weight: T
    padding_idx: int | None = None
    max_norm: float | None = None
    norm_type: float = 2.0
    scale_grad_by_freq: bool = False
    sparse: bool = False


embedding = Op("embedding", Embedding, functions=(F.embedding,))


@dataclass(frozen=True, slots=True)
class EmbeddingBag(Record[T]):
    input: T
    weight: T
    offsets: T | None = None
    max_norm: float | None = None
    norm_type: float = 2.0
    scale_grad_by_freq: bool = False
    mode: str = "mean"
    sparse: bool = False
    per_sample_weights: T | None = None
    include_last_offset: bool = False
    padding_idx: int | None = None


embedding_bag = Op("embedding_bag", EmbeddingBag, functions=(F.embedding_bag,))


# Embedding ----------------------------------------------------------------------------------------


@embedding.module(nn.Embedding)
def bind_embedding(module: nn.Embedding, input: Any) -> Mapping[str, Any]:
    return {
        "input": input,
        "weight": Owned("weight"),
        "padding_idx": module.padding_idx,
        "max_norm": module.max_norm,
        "norm_type": module.norm_type,
    }


@embedding.function(torch.embedding)
def bind_builtin(
    weight: Any, indices: Any, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Mapping[str, Any]:
    return {"input": indices, "weight": weight, "padding_idx": None if padding_idx == -1 else padding_idx}


@embedding.shape
def embedding_shape(call: Embedding[TensorSpec]) -> TensorSpec:
    """[*] of indices and [num_embeddings, embedding_dim] give [*, embedding_dim]. padding_idx concerns gradients."""
    _check_lookup(call.input, call.weight, call.padding_idx)
    return call.weight.with_shape(*call.input.shape, call.weight.shape[1])


@embedding.places("input")
def embedding_rows(call: Embedding[TensorSpec]) -> Size:
    return call.weight.shape[0]


@embedding.lower
def lower_embedding(emit: Emitter, call: Embedding[Value]) -> Value:
    return _rows(emit, call.input, call.weight, call.max_norm, call.norm_type)


def _check_lookup(input: TensorSpec, weight: TensorSpec, padding_idx: int | None) -> None:
    check(
        input.dtype in (torch.int64, torch.int32),
        "an embedding is indexed by int64 or int32, found {}",
        input.dtype,
        remedy="give the indices as int64: a sample of that type, or x.long()",
    )
    check(weight.ndim == 2, "an embedding's weight has 2 axes, found {}", weight.ndim)
    rows = weight.shape[0]
    check(
        padding_idx is None or -rows <= padding_idx < rows,
        "padding_idx is {}, but there are {} rows",
        padding_idx,
        rows,
    )


def _rows(emit: Emitter, input: Value, weight: Value, max_norm: float | None, norm_type: float) -> Value:
    """The rows of the weight that the indices name; those longer than max_norm are scaled down to it.

    torch scales them in the weight itself; looked up again, such a row is scaled no further.
    """
    rows = emit.node("Gather", weight, input)
    if max_norm is None:
        return rows
    if math.isinf(norm_type):
        norm = emit.reduce("ReduceMax", emit.node("Abs", rows), [-1], True)
    elif norm_type in (1, 2):
        norm = emit.reduce(f"ReduceL{int(norm_type)}", rows, [-1], True)
    else:
        powers = emit.node("Pow", emit.node("Abs", rows), emit.scalar(norm_type, weight))
        norm = emit.node("Pow", emit.reduce("ReduceSum", powers, [-1], True), emit.scalar(1 / norm_type, weight))
    limit = emit.scalar(max_norm, weight)
    scale = emit.node("Div", limit, emit.node("Add", norm, emit.scalar(1e-7, weight)))
    longer = emit.node("Greater", norm, limit)
    return emit.node("Mul", rows, emit.node("Where", longer, scale, emit.scalar(1, weight)))


# Embedding bags -----------------------------------------------------------------------------------


@embedding_bag.module(nn.EmbeddingBag)
def bind_embedding_bag(
    module: nn.EmbeddingBag, input: Any, offsets: Any = None, per_sample_weights: Any = None
) -> Mapping[str, Any]:
    return {
        "input": input,
        "weight": Owned("weight"),
        "offsets": offsets,
        "max_norm": module.max_norm,
        "norm_type": module.norm_type,
        "mode": module.mode,
        "per_sample_weights": per_sample_weights,
        "include_last_offset": module.include_last_offset,
        "padding_idx": module.padding_idx,
    }


@embedding_bag.shape
def embedding_bag_shape(call: EmbeddingBag[TensorSpec]) -> TensorSpec:
    """[bags, length] indices give [bags, embedding_dim]; so do [n] of them, with the offsets where bags start."""
    input, weight, offsets, mode, per_sample_weights = (
        call.input,
        call.weight,
        call.offsets,
        call.mode,
        call.per_sample_weights,
    )
    _check_lookup(input, weight, call.padding_idx)
    check(mode in ("sum", "mean", "max"), "mode is 'sum', 'mean' or 'max', found {!r}", mode)
    check(input.ndim in (1, 2), "an embedding bag needs indices of 1 or 2 axes, found {}", input.ndim)
    if per_sample_weights is not None:
        check(mode == "sum", "per_sample_weights need the mode 'sum', found {!r}", mode)
        check(
            per_sample_weights.shape == input.shape,
            "per_sample_weights have the shape {}, but the indices {}",
            list(per_sample_weights.shape),
            list(input.shape),
        )
        check(
            per_sample_weights.dtype == weight.dtype,
            "per_sample_weights are {}, but the weight is {}",
            per_sample_weights.dtype,
            weight.dtype,
        )
    if input.ndim == 2:
        check(offsets is None, "indices of 2 axes are bags already, so they take no offsets")
        return weight.with_shape(input.shape[0], weight.shape[1])
    if offsets is None:
        check(False, "indices of 1 axis need offsets")
        raise AssertionError
    check(offsets.ndim == 1, "offsets have 1 axis, found {}", offsets.ndim)
    check(offsets.dtype in (torch.int64, torch.int32), "offsets are int64 or int32, found {}", offsets.dtype)
    check(
        not call.include_last_offset or offsets.shape[0] >= 1, "include_last_offset needs at least 1 offset, found none"
    )
    return weight.with_shape(offsets.shape[0] - int(call.include_last_offset), weight.shape[1])


@embedding_bag.lower
def lower_embedding_bag(emit: Emitter, call: EmbeddingBag[Value]) -> Value:
    """The rows of each bag, reduced. With offsets, a mask [bags, n] says which index lies in which bag."""
    input = call.input
    rows = _rows(emit, input, call.weight, call.max_norm, call.norm_type)
    if call.per_sample_weights is not None:
        rows = emit.node("Mul", rows, emit.unsqueeze(call.per_sample_weights, -1))
    present = _not_padding(emit, input, call.weight, call.padding_idx)
    if call.offsets is not None:
        inside = _inside(emit, input, call.offsets, call.include_last_offset)
        present = emit.node("And", inside, present) if present is not None else inside
    elif present is None and (call.mode == "sum" or input.shape[1] != 0):
        return emit.reduce({"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax"}[call.mode], rows, [1], False)
    elif present is None:
        return emit.reduce("ReduceSum", rows, [1], False)
    return _reduce_present(emit, rows, present, call.mode, call.weight, matrix=call.offsets is not None)


def _not_padding(emit: Emitter, input: Value, weight: Value, padding_idx: int | None) -> Value | None:
    if padding_idx is None:
        return None
    row = padding_idx if padding_idx >= 0 else padding_idx + weight.shape[0]
    return emit.node("Not", emit.node("Equal", input, emit.operand(row, input.dtype)))


def _inside(emit: Emitter, input: Value, offsets: Value, include_last_offset: bool) -> Value:
    """[bags, n]: whether index i lies in bag b, that is, offsets[b] <= i < offsets[b + 1]."""
    offsets = emit.cast(offsets, torch.int64)
    length = emit.size(input.shape[0])
    zero, one = emit.scalar(0, torch.int64), emit.scalar(1, torch.int64)
    places = emit.node("Range", zero, emit.squeeze(length, 0), one)
    bounds = offsets if include_last_offset else emit.node("Concat", offsets, length, axis=0)
    bounds = emit.unsqueeze(bounds, 1)
    starts = emit.slice(bounds, 0, 0, -1)
    ends = emit.slice(bounds, 0, 1, 2**63 - 1)
    return emit.node("And", emit.node("LessOrEqual", starts, places), emit.node("Less", places, ends))


def _reduce_present(emit: Emitter, rows: Value, present: Value, mode: str, weight: Value, matrix: bool) -> Value:
    """Reduces the rows that are present in each bag; a bag without any gives zeros.

    `rows` are [n, dim] under a `matrix` of [bags, n], or [bags, length, dim] under [bags, length].
    """
    zero = emit.scalar(0, weight)
    if mode == "max":
        masked = emit.node("Where", emit.unsqueeze(present, -1), rows, emit.scalar(-math.inf, weight))
        largest = emit.reduce("ReduceMax", masked, [1], False)
        return emit.node("Where", emit.node("Equal", largest, emit.scalar(-math.inf, weight)), zero, largest)
    counted = emit.cast(present, weight.dtype)
    if matrix:
        total = emit.node("MatMul", counted, rows)
    else:
        total = emit.reduce("ReduceSum", emit.node("Mul", rows, emit.unsqueeze(counted, -1)), [1], False)
    if mode == "sum":
        return total
    count = emit.reduce("ReduceSum", counted, [1], True)
    return emit.node("Div", total, emit.node("Max", count, emit.scalar(1, weight)))
