"""Scaled dot-product attention: `softmax(scale * query @ key.T + bias) @ value`, over any leading axes.

A bias stands for every mask: 0 where a query may attend to a key, minus infinity where it may not. Torch gives
a query that may attend to nothing a row of zeros; the formula would give it NaN.

Half and bfloat16 are computed in float32, as torch does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from passes.errors import check
from passes.ops.assignment import counted
from passes.ops.layout import swapped, transposed
from passes.ops.op import Op
from passes.ops.promotion import broadcast_shapes
from passes.ops.random_numbers import refuse
from passes.ops.record import Record, T
from passes.ops.repetition import expanded
from passes.sizes.dimension import Dim, Size, may_be_zero, product, same_size
from passes.sizes.floating import DynamicNumber
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """What torch computes attention in. The scores of half would overflow."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def drops_weights(call: Any) -> bool:
    """Whether it draws random numbers, as it does in eval mode, too."""
    return bool(call.dropout_p > 0)


@dataclass(frozen=True, slots=True)
class Attention(Record[T]):
    query: T
    key: T
    value: T
    attn_mask: T | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


attention = Op("attention", Attention, functions=(F.scaled_dot_product_attention,), random=drops_weights)


@attention.shape
def attention_shape(call: Attention[TensorSpec]) -> TensorSpec:
    """[..., L, E], [..., S, E] and [..., S, V] give [..., L, V]; a mask broadcasts to [..., L, S].

    With `enable_gqa` the third axis from the end counts heads, and each head of key and value serves several of
    the query's.
    """
    query, key, value, attn_mask = call.query, call.key, call.value, call.attn_mask
    operands = {"query": query, "key": key, "value": value}
    for name, operand in operands.items():
        check(
            operand.ndim >= 2 + call.enable_gqa,
            "{} needs {} axes or more, found {}",
            name,
            2 + call.enable_gqa,
            operand,
        )
        check(operand.dtype.is_floating_point, "attention needs floating-point operands, but {} is {}", name, operand)
        check(
            operand.dtype == query.dtype, "attention takes one dtype, but {} is {} and query {}", name, operand, query
        )
    check(0 <= call.dropout_p <= 1, "a dropout probability lies between 0 and 1, found {}", call.dropout_p)
    check(
        query.shape[-1] == key.shape[-1],
        "the query's last axis is {}, the key's {}",
        query.shape[-1],
        key.shape[-1],
        remedy="project both to one width",
    )
    check(key.shape[-2] == value.shape[-2], "there are {} keys, but {} values", key.shape[-2], value.shape[-2])
    if call.enable_gqa:
        key, value = _serving(key, query, "key"), _serving(value, query, "value")
    scores = (*broadcast_shapes(query.shape[:-2], key.shape[:-2]), query.shape[-2], key.shape[-2])
    if attn_mask is not None:
        check(not call.is_causal, "attention takes a mask or is_causal, not both")
        check_mask(attn_mask, query.dtype)
        fits = attn_mask.ndim <= len(scores) and broadcast_shapes(attn_mask.shape, scores) == scores
        check(fits, "the mask {} does not broadcast to the scores {}", attn_mask, query.with_shape(*scores))
    return query.with_shape(*broadcast_shapes(scores[:-2], value.shape[:-2]), query.shape[-2], value.shape[-1])


def check_mask(mask: TensorSpec, dtype: torch.dtype) -> None:
    fits = mask.dtype in (torch.bool, torch.float32, dtype)
    check(fits, "a mask is bool, float32 or of the query's dtype {}, found {}", dtype, mask)


def _serving(operand: TensorSpec, query: TensorSpec, name: str) -> TensorSpec:
    """A key or value with each head repeated for the query heads that it serves."""
    *lead, heads, length, width = operand.shape
    whole = query.shape[-3] % heads == 0
    check(whole, "the query's {} heads cannot share the {}'s {} evenly", query.shape[-3], name, heads)
    return operand.with_shape(*lead, query.shape[-3], length, width)


@attention.cost
def attention_cost(result: TensorSpec, call: Attention[TensorSpec]) -> Size:
    """The products of queries with keys, and of weights with values."""
    return product(result.shape[:-1]) * call.key.shape[-2] * (call.query.shape[-1] + call.value.shape[-1])


@attention.lower
def lower_attention(emit: Emitter, call: Attention[Value]) -> Value:
    """ONNX's own Attention where it does exactly this, else the formula."""
    query, key, value, attn_mask, scale = call.query, call.key, call.value, call.attn_mask, call.scale
    if call.dropout_p > 0:
        refuse(emit)
    spec = attention_shape(Attention(query.known, key.known, value.known, enable_gqa=call.enable_gqa))
    if attn_mask is None and _is_fused(emit, query, key, value, scale):
        factor = None if scale is None else float(scale)
        fused = emit.node("Attention", query, key, value, is_causal=int(call.is_causal) or None, scale=factor)
        return replace(fused, spec=spec)
    if call.enable_gqa:
        key, value = _repeated(emit, key, query), _repeated(emit, value, query)
    query, key, value = (emit.cast(operand, computed_in(spec.dtype)) for operand in (query, key, value))
    bias = None
    if attn_mask is not None:
        bias = mask_bias(emit, attn_mask, query.dtype, masked=False)
    elif call.is_causal:
        bias = _causal_bias(emit, query, key)
    result = emit.node("MatMul", attention_weights(emit, query, key, bias, scale), value)
    if attn_mask is not None and bias is not None:
        result = _zero_where_all_masked(emit, result, bias)
    return emit.cast(replace(result, spec=spec.with_dtype(query.dtype)), spec.dtype)


def _is_fused(emit: Emitter, query: Value, key: Value, value: Value, scale: float | None) -> bool:
    """Whether ONNX's Attention computes this as torch does.

    A mask excludes it: where everything is masked the standard gives NaN. So does half, whose scores overflow
    there, double, which onnxruntime computes less exactly, and a scale of which it would take the square root.
    """
    operands = (query, key, value)
    if not emit.has("Attention") or query.dtype != torch.float32 or any(operand.ndim != 4 for operand in operands):
        return False
    batches, heads, lengths, widths = zip(*(operand.shape for operand in operands), strict=True)
    return (
        (scale is None or (not isinstance(scale, DynamicNumber) and scale > 0))
        and all(same_size(batch, batches[0]) for batch in batches)
        and same_size(heads[1], heads[2])
        and _divides(heads[1], heads[0])
        and not any(map(may_be_zero, (*batches, *lengths, *widths)))
    )


def _divides(heads: Size, query_heads: Size) -> bool:
    """Whether each head serves a whole number of query heads, as far as is known without asking."""
    if isinstance(heads, Dim) or isinstance(query_heads, Dim):
        return same_size(heads, query_heads)
    return heads > 0 and query_heads % heads == 0


def _repeated(emit: Emitter, operand: Value, query: Value) -> Value:
    """A key or value with each head repeated for the query heads that it serves."""
    *lead, heads, length, width = operand.shape
    times = query.shape[-3] // heads
    if same_size(times, 1):
        return operand
    apart = expanded(emit, emit.unsqueeze(operand, -3), [*lead, heads, times, length, width])
    return emit.reshape(apart, [*lead, heads * times, length, width])


def attention_weights(emit: Emitter, query: Value, key: Value, bias: Value | None, scale: float | None = None) -> Value:
    """`softmax(scale * query @ key.T + bias)`, over the keys; the scale is by default 1/sqrt(E)."""
    transpose = transposed(emit, key, swapped(key.ndim, -2, -1))
    scores = emit.node("MatMul", _scaled(emit, query, scale), transpose)
    return emit.node("Softmax", emit.node("Add", scores, bias) if bias is not None else scores, axis=-1)


def _scaled(emit: Emitter, query: Value, scale: float | None) -> Value:
    width = query.shape[-1]
    if scale is None and isinstance(width, Dim):
        return emit.node("Div", query, emit.node("Sqrt", emit.operand(width, query.dtype)))
    factor = scale if scale is not None else 1 / math.sqrt(max(width, 1))
    return emit.node("Mul", query, emit.scalar(factor, query))


def mask_bias(emit: Emitter, mask: Value, dtype: torch.dtype, masked: bool) -> Value:
    """A mask as a bias; `masked` is what a bool mask says where a query may not attend to a key."""
    if mask.dtype != torch.bool:
        return emit.cast(mask, dtype)
    numbers = emit.scalar(-math.inf, dtype), emit.scalar(0.0, dtype)
    bias = emit.node("Where", mask, *(numbers if masked else reversed(numbers)))
    return replace(bias, spec=mask.known.with_dtype(dtype))


def _causal_bias(emit: Emitter, query: Value, key: Value) -> Value:
    """The n-th query attends to the first n keys, however many queries and keys there are."""
    rows, columns = (counted(emit, 0, operand.shape[-2]) for operand in (query, key))
    later = emit.node("Greater", columns, emit.unsqueeze(rows, 1))
    return emit.node("Where", later, emit.scalar(-math.inf, query), emit.scalar(0.0, query))


def _zero_where_all_masked(emit: Emitter, result: Value, bias: Value) -> Value:
    lifted = bias if bias.ndim else emit.unsqueeze(bias, 0)
    highest = emit.reduce("ReduceMax", lifted, [-1], keepdim=True)
    nothing = emit.node("Equal", highest, emit.scalar(-math.inf, bias))
    return emit.node("Where", nothing, emit.scalar(0.0, bias), result)
