"""Multi-head attention: queries, keys and values projected, attended to in each head, and projected back.

Sequences are [L, N, E], or [N, L, E] with `batch_first`, or [L, E] without a batch. A hint that the mask is causal
is followed as torch does off its fast path: it then takes the mask's place, except where there is a padding
mask too, or the weights are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import UnsupportedOpError, check
from passes.ops.attention import (
    Attention,
    attention_cost,
    attention_weights,
    check_mask,
    computed_in,
    drops_weights,
    lower_attention,
    mask_bias,
)
from passes.ops.layout import transposed
from passes.ops.linear import Linear, linear_cost, linear_shape, lower_linear
from passes.ops.op import Op, Owned
from passes.ops.pad import Pad, lower_pad
from passes.ops.promotion import broadcast
from passes.ops.random_numbers import refuse
from passes.ops.record import Record, T
from passes.ops.repetition import expanded
from passes.sizes.dimension import Size
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class MultiheadAttention(Record[T]):
    query: T
    key: T
    value: T
    embed_dim: int
    num_heads: int
    in_weights: Sequence[T]
    out_weight: T
    in_bias: T | None = None
    out_bias: T | None = None
    bias_k: T | None = None
    bias_v: T | None = None
    add_zero_attn: bool = False
    dropout_p: float = 0.0
    key_padding_mask: T | None = None
    attn_mask: T | None = None
    is_causal: bool = False
    need_weights: bool = True
    average_attn_weights: bool = True
    batch_first: bool = False


multihead_attention = Op("multihead_attention", MultiheadAttention, random=drops_weights)


@multihead_attention.function(F.multi_head_attention_forward)
def bind_function(
    query: Any, key: Any, value: Any, embed_dim_to_check: Any, num_heads: Any, in_proj_weight: Any, in_proj_bias: Any,
    bias_k: Any, bias_v: Any, add_zero_attn: Any, dropout_p: Any, out_proj_weight: Any, out_proj_bias: Any,
    training: Any = True, key_padding_mask: Any = None, need_weights: Any = True, attn_mask: Any = None,
    use_separate_proj_weight: Any = False, q_proj_weight: Any = None, k_proj_weight: Any = None,
    v_proj_weight: Any = None, static_k: Any = None, static_v: Any = None, average_attn_weights: Any = True,
    is_causal: Any = False,
) -> Mapping[str, Any]:  # fmt: skip
    if static_k is not None or static_v is not None:
        raise UnsupportedOpError("multi-head attention with static_k or static_v is not known")
    separate = (q_proj_weight, k_proj_weight, v_proj_weight)
    return {
        "query": query, "key": key, "value": value, "embed_dim": embed_dim_to_check, "num_heads": num_heads,
        "in_weights": separate if use_separate_proj_weight else (in_proj_weight,), "in_bias": in_proj_bias,
        "out_weight": out_proj_weight, "out_bias": out_proj_bias, "bias_k": bias_k, "bias_v": bias_v,
        "add_zero_attn": add_zero_attn, "dropout_p": dropout_p if training else 0.0,
        "key_padding_mask": key_padding_mask, "attn_mask": attn_mask, "is_causal": is_causal,
        "need_weights": need_weights, "average_attn_weights": average_attn_weights,
    }  # fmt: skip


@multihead_attention.module(nn.MultiheadAttention)
def bind_module(
    module: nn.MultiheadAttention, query: Any, key: Any, value: Any, key_padding_mask: Any = None,
    need_weights: Any = True, attn_mask: Any = None, average_attn_weights: Any = True, is_causal: Any = False,
) -> Mapping[str, Any]:  # fmt: skip
    weights = ("in_proj_weight",) if module._qkv_same_embed_dim else ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    return {
        "query": query, "key": key, "value": value, "embed_dim": module.embed_dim, "num_heads": module.num_heads,
        "in_weights": tuple(map(Owned, weights)), "in_bias": Owned("in_proj_bias"),
        "out_weight": Owned("out_proj.weight"), "out_bias": Owned("out_proj.bias"),
        "bias_k": Owned("bias_k"), "bias_v": Owned("bias_v"), "add_zero_attn": module.add_zero_attn,
        "key_padding_mask": key_padding_mask, "attn_mask": attn_mask, "is_causal": is_causal,
        "need_weights": need_weights, "average_attn_weights": average_attn_weights, "batch_first": module.batch_first,
    }  # fmt: skip


class Sizes(NamedTuple):
    """The batch, the heads, the queries and keys that are given, what is added to the keys, a head's width."""

    batch: Size
    heads: int
    queries: Size
    keys: Size
    added: int
    width: int

    @property
    def all_keys(self) -> Size:
        return self.keys + self.added


def _sizes(query: Any, key: Any, embed_dim: int, num_heads: int, added: int, batch_first: bool) -> Sizes:
    """The sizes, from specs or from ONNX values."""
    along, across = (1, 0) if batch_first and query.ndim == 3 else (0, 1)
    batch = query.shape[across] if query.ndim == 3 else 1
    return Sizes(batch, num_heads, query.shape[along], key.shape[along], added, embed_dim // num_heads)


def _follows_hint(is_causal: bool, key_padding_mask: Any, need_weights: bool) -> bool:
    """Whether the hint takes the mask's place (see the module's docstring)."""
    return is_causal and key_padding_mask is None and not need_weights


# Shapes -------------------------------------------------------------------------------------------


@multihead_attention.shape
def multihead_attention_shape(call: MultiheadAttention[TensorSpec]) -> tuple[TensorSpec, TensorSpec | None]:
    """The result, shaped as the query, and the weights: [N, L, S] on average, [N, heads, L, S] of each head."""
    query, embed_dim, num_heads = call.query, call.embed_dim, call.num_heads
    check(embed_dim % num_heads == 0, "embed_dim is {}, which {} heads do not divide", embed_dim, num_heads)
    check((call.bias_k is None) == (call.bias_v is None), "a bias is added to keys and values, or to neither")
    check(not call.is_causal or call.attn_mask is not None, "is_causal is a hint about a mask, but there is no mask")
    _check_sequences(query, call.key, call.value, embed_dim, call.batch_first)
    _check_projections((query, call.key, call.value), call.in_weights, call.in_bias, embed_dim)
    sizes = _sizes(
        query, call.key, embed_dim, num_heads, (call.bias_k is not None) + call.add_zero_attn, call.batch_first
    )
    hint = _follows_hint(call.is_causal, call.key_padding_mask, call.need_weights)
    _check_masks(query, sizes, call.key_padding_mask, None if hint else call.attn_mask)
    result = linear_shape(Linear(query, call.out_weight, call.out_bias))
    if not call.need_weights:
        return result, None
    heads = () if call.average_attn_weights else (num_heads,)
    return result, query.with_shape(*(() if query.ndim == 2 else (sizes.batch,)), *heads, sizes.queries, sizes.all_keys)


def _check_sequences(query: TensorSpec, key: TensorSpec, value: TensorSpec, embed_dim: int, batch_first: bool) -> None:
    check(query.ndim in (2, 3), "the query needs 3 axes, or 2 without a batch, found {}", query)
    for name, operand in {"key": key, "value": value}.items():
        check(operand.ndim == query.ndim, "the query {} and the {} {} need as many axes", query, name, operand)
    check(
        query.shape[-1] == embed_dim,
        "embed_dim is {}, but the query's last axis is {}",
        embed_dim, query.shape[-1],
        remedy="make embed_dim {1}, or project the query to {0} features before",
    )  # fmt: skip
    check(key.shape[:-1] == value.shape[:-1], "the key {} and the value {} do not go together", key, value)
    if query.ndim == 3:
        across = 0 if batch_first else 1
        fits = query.shape[across] == key.shape[across]
        check(fits, "the query has a batch of {}, the key of {}", query.shape[across], key.shape[across])


def _check_projections(
    operands: Sequence[TensorSpec], weights: Sequence[TensorSpec], bias: TensorSpec | None, embed_dim: int
) -> None:
    packed = len(weights) == 1
    rows = 3 * embed_dim if packed else embed_dim
    for operand, weight in zip(operands, [*weights] * 3 if packed else weights, strict=True):
        check(
            linear_shape(Linear(operand, weight)).shape[-1] == rows,
            "a projection needs {} rows, found {}",
            rows,
            weight,
        )
    if bias is not None:
        check(bias.shape == (3 * embed_dim,), "the projections need {} biases, found {}", 3 * embed_dim, bias)


def _check_masks(query: TensorSpec, sizes: Sizes, padding: TensorSpec | None, mask: TensorSpec | None) -> None:
    if padding is not None:
        check_mask(padding, query.dtype)
        expected = (sizes.keys,) if query.ndim == 2 else (sizes.batch, sizes.keys)
        check(padding.shape == expected, "key_padding_mask must be {}, found {}", shape_text(expected), padding)
    if mask is not None:
        check_mask(mask, query.dtype)
        plain, per_head = (sizes.queries, sizes.keys), (sizes.batch * sizes.heads, sizes.queries, sizes.keys)
        fits = mask.shape == (plain if mask.ndim == 2 else per_head)
        check(fits, "attn_mask must be {} or {}, found {}", shape_text(plain), shape_text(per_head), mask)


@multihead_attention.cost
def multihead_attention_cost(
    result: Any, call: MultiheadAttention[TensorSpec]) -> Size:  # fmt: skip
    """The projections, and attention in each head."""
    query = call.query
    projections: Size = linear_cost(result[0], Linear(query, call.out_weight))
    for operand in (query, call.key, call.value):
        projections = projections + linear_cost(
            operand.with_shape(*operand.shape[:-1], call.embed_dim), Linear(operand, call.out_weight)
        )
    sizes = _sizes(
        query,
        call.key,
        call.embed_dim,
        call.num_heads,
        (call.bias_k is not None) + call.add_zero_attn,
        call.batch_first,
    )
    queries, keys = (
        query.with_shape(sizes.batch, sizes.heads, length, sizes.width) for length in (sizes.queries, sizes.all_keys)
    )
    return projections + attention_cost(queries, Attention(queries, keys, keys))


# Lowering -----------------------------------------------------------------------------------------


@multihead_attention.lower
def lower_multihead_attention(emit: Emitter, call: MultiheadAttention[Value]) -> tuple[Value, Value | None]:
    """Everything between the projections is [N, heads, length, width]."""
    query = call.query
    if call.dropout_p > 0:
        refuse(emit)
    sizes = _sizes(
        query,
        call.key,
        call.embed_dim,
        call.num_heads,
        (call.bias_k is not None) + call.add_zero_attn,
        call.batch_first,
    )
    projected = _projected(emit, (query, call.key, call.value), call.in_weights, call.in_bias)
    queries, keys, values = (_in_heads(emit, operand, sizes, call.batch_first) for operand in projected)
    zeros = [emit.constant(torch.zeros(call.embed_dim, dtype=query.dtype))] if call.add_zero_attn else []
    keys = _with_rows(emit, keys, [*([call.bias_k] if call.bias_k else []), *zeros], sizes)
    values = _with_rows(emit, values, [*([call.bias_v] if call.bias_v else []), *zeros], sizes)
    hint = _follows_hint(call.is_causal, call.key_padding_mask, call.need_weights)
    bias = _bias(emit, sizes, call.key_padding_mask, None if hint else call.attn_mask, computed_in(query.dtype))
    if call.need_weights:
        attended, weights = _attended_with_weights(emit, queries, keys, values, bias)
        weights = _weights_result(emit, weights, call.average_attn_weights)
    else:
        attended, weights = lower_attention(emit, Attention(queries, keys, values, bias, is_causal=hint)), None
    in_order = transposed(emit, attended, (0, 2, 1, 3) if call.batch_first else (2, 0, 1, 3))
    return lower_linear(emit, Linear(emit.reshape(in_order, query.shape), call.out_weight, call.out_bias)), weights


def _projected(
    emit: Emitter, operands: Sequence[Value], weights: Sequence[Value], bias: Value | None
) -> Sequence[Value]:
    """Query, key and value projected; in one product where they are one tensor and their weights are packed."""
    if len(weights) == 1 and operands.count(operands[0]) == 3:
        spec = linear_shape(Linear(operands[0].known, weights[0].known))
        return _thirds(emit, replace(lower_linear(emit, Linear(operands[0], weights[0], bias)), spec=spec), -1)
    weights = _thirds(emit, weights[0], 0) if len(weights) == 1 else weights
    biases: Sequence[Value | None] = _thirds(emit, bias, 0) if bias is not None else (None, None, None)
    return [
        replace(
            lower_linear(emit, Linear(operand, weight, own_bias)),
            spec=linear_shape(Linear(operand.known, weight.known)),
        )
        for operand, weight, own_bias in zip(operands, weights, biases, strict=True)
    ]


def _thirds(emit: Emitter, packed: Value, dim: int) -> Sequence[Value]:
    axis = dim % packed.ndim
    third = packed.shape[axis] // 3
    spec = packed.known.with_shape(*packed.shape[:axis], third, *packed.shape[axis + 1 :])
    return [replace(part, spec=spec) for part in emit.split(packed, [third] * 3, axis)]


def _in_heads(emit: Emitter, sequence: Value, sizes: Sizes, batch_first: bool) -> Value:
    length = sequence.shape[1 if batch_first and sequence.ndim == 3 else 0]
    if batch_first:
        apart = emit.reshape(sequence, [sizes.batch, length, sizes.heads, sizes.width])
        return transposed(emit, apart, (0, 2, 1, 3))
    return transposed(emit, emit.reshape(sequence, [length, sizes.batch, sizes.heads, sizes.width]), (1, 2, 0, 3))


def _with_rows(emit: Emitter, sequence: Value, rows: Sequence[Value], sizes: Sizes) -> Value:
    """Keys or values with rows of `embed_dim` numbers after their own, the same in each batch."""
    if not rows:
        return sequence
    batch, heads, length, width = sequence.shape
    laid = [expanded(emit, emit.reshape(row, [1, heads, 1, width]), [batch, heads, 1, width]) for row in rows]
    spec = sequence.known.with_shape(batch, heads, length + len(rows), width)
    return replace(emit.node("Concat", sequence, *laid, axis=2), spec=spec)


def _bias(emit: Emitter, sizes: Sizes, padding: Value | None, mask: Value | None, dtype: torch.dtype) -> Value | None:
    """Both masks as one bias that broadcasts to [N, heads, queries, keys]. What is added to the keys is not masked."""
    biases: list[Value] = []
    if mask is not None:
        bias = mask_bias(emit, mask, dtype, masked=True)
        per_head = [sizes.batch, sizes.heads, sizes.queries, sizes.keys]
        biases.append(emit.reshape(bias, per_head) if mask.ndim == 3 else bias)
    if padding is not None:
        bias = mask_bias(emit, padding, dtype, masked=True)
        biases.append(emit.reshape(bias, [sizes.batch, 1, 1, sizes.keys]))
    if not biases:
        return None
    total, *more = biases
    for bias in more:
        total = replace(emit.node("Add", total, bias), spec=broadcast(total.known, bias.known))
    spec = total.known.with_shape(*total.shape[:-1], sizes.all_keys)
    return replace(lower_pad(emit, Pad(total, [0, sizes.added])), spec=spec)


def _attended_with_weights(
    emit: Emitter, queries: Value, keys: Value, values: Value, bias: Value | None
) -> tuple[Value, Value]:
    """Attention by the formula, and its weights; a query that may attend to nothing gets NaN, as in torch."""
    dtype, within = queries.dtype, computed_in(queries.dtype)
    weights = attention_weights(emit, emit.cast(queries, within), emit.cast(keys, within), bias)
    attended = emit.node("MatMul", weights, emit.cast(values, within))
    return emit.cast(replace(attended, spec=queries.known.with_dtype(within)), dtype), weights


def _weights_result(emit: Emitter, weights: Value, average: bool) -> Value:
    result = emit.result[1]
    if average:
        weights = emit.reduce("ReduceMean", weights, [1], keepdim=False)
    if result.ndim == (2 if average else 3):
        weights = emit.squeeze(weights, 0)
    return emit.cast(replace(weights, spec=result.with_dtype(computed_in(result.dtype))), result.dtype)
