"""Attention against torch: shapes on meta and of its kernels, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import tracer
from passes.errors import ShapeError, UnsupportedOpError
from passes.program.notes import CALL, VALUE
from tests.ops.oracle import Call, assert_lowering_matches, assert_shape_matches, propagated

OPSETS = [13, 18, 23]
attend: Callable[..., torch.Tensor] = F.scaled_dot_product_attention
sizes = st.integers(1, 3)
batches = st.lists(sizes, max_size=3)


def assert_shape_as_torch(function: Callable[..., Any], *tensors: torch.Tensor) -> None:
    """As on meta; what torch's kernels refuse is refused too, though: meta takes a mask larger than the scores."""
    try:
        function(*tensors)
    except (RuntimeError, IndexError):
        with pytest.raises(ShapeError):
            propagated(function, *tensors)
    else:
        assert_shape_matches(function, *tensors)


@given(
    batch=st.tuples(batches, batches, batches), queries=sizes, keys=sizes, values=sizes, widths=st.tuples(sizes, sizes),
    width=sizes,
)  # fmt: skip
def test_any_operands_shape(
    batch: tuple[list[int], ...], queries: int, keys: int, values: int, widths: tuple[int, int], width: int
) -> None:
    query = torch.zeros(*batch[0], queries, widths[0])
    key, value = torch.zeros(*batch[1], keys, widths[1]), torch.zeros(*batch[2], values, width)
    assert_shape_as_torch(attend, query, key, value)


@given(
    batch=batches,
    queries=sizes,
    keys=sizes,
    width=sizes,
    is_causal=st.booleans(),
    lead=batches,
    ones=st.tuples(*[st.booleans()] * 2),
)
def test_operands_that_fit_shape(
    batch: list[int], queries: int, keys: int, width: int, is_causal: bool, lead: list[int], ones: tuple[bool, bool]
) -> None:
    query, key, value = (
        torch.zeros(*batch, queries, 4), torch.zeros(*batch, keys, 4), torch.zeros(*batch, keys, width)
    )  # fmt: skip
    assert_shape_as_torch(lambda q, k, v: attend(q, k, v, is_causal=is_causal, scale=2), query, key, value)
    mask = torch.zeros(*lead, 1 if ones[0] else queries, 1 if ones[1] else keys)
    for given_mask in (mask, mask.bool(), mask.int(), mask.double()):
        assert_shape_as_torch(lambda q, k, v, m: attend(q, k, v, attn_mask=m), query, key, value, given_mask)


@given(lead=st.lists(sizes, max_size=2), heads=st.tuples(*[st.integers(1, 4)] * 3))
def test_shared_heads_shape(lead: list[int], heads: tuple[int, int, int]) -> None:
    operands = [torch.zeros(*lead, count, length, 4) for count, length in zip(heads, (3, 5, 5), strict=True)]
    assert_shape_as_torch(lambda q, k, v: attend(q, k, v, enable_gqa=True), *operands)


def test_refusals() -> None:
    q = torch.zeros(2, 3, 4)
    with pytest.raises(ShapeError, match="a mask or is_causal, not both"):
        propagated(lambda q: attend(q, q, q, torch.ones(3, 3), is_causal=True), q)
    with pytest.raises(ShapeError, match="there are 3 keys, but 2 values"):
        propagated(lambda q: attend(q, q, q[:, :2]), q)
    with pytest.raises(ShapeError, match=r"between 0 and 1, found 1\.5"):
        propagated(lambda q: attend(q, q, q, dropout_p=1.5), q)
    assert_shape_matches(lambda q: attend(q, q.half(), q), q)
    assert_shape_matches(lambda q: attend(q.int(), q.int(), q.int()), q)


# Values -------------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "whole scale": {"scale": 2},
    "negative scale": {"scale": -0.5},
    "no scale": {"scale": 0.0},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("lengths", [(3, 5), (5, 3)])
def test_lowering(options: dict[str, Any], opset: int, lengths: tuple[int, int]) -> None:
    queries, keys = lengths
    for batch in [(), (2,), (2, 3), (2, 1, 3)]:
        q, k, v = torch.randn(*batch, queries, 4), torch.randn(*batch, keys, 4), torch.randn(*batch, keys, 6)
        assert_lowering_matches(lambda q, k, v: attend(q, k, v, **options), q, k, v, opset=opset)


@pytest.mark.parametrize("shapes", [
    [(2, 1, 3, 4), (1, 4, 5, 4), (2, 4, 5, 4)],
    [(2, 4, 3, 4), (2, 1, 5, 4), (2, 1, 5, 4)],
    [(2, 3, 4), (5, 4), (1, 5, 6)],
    [(2, 3, 3, 4), (2, 3, 5, 4), (2, 1, 5, 4)],
])  # fmt: skip
@pytest.mark.parametrize("opset", OPSETS)
def test_batches_broadcast(shapes: list[tuple[int, ...]], opset: int) -> None:
    assert_lowering_matches(attend, *map(torch.randn, shapes), opset=opset)


@pytest.mark.parametrize("shape", [(3, 5), (1, 5), (3, 1), (2, 1, 3, 5), (2, 4, 1, 5), (4, 3, 5)])
@pytest.mark.parametrize("opset", OPSETS)
def test_masks(shape: tuple[int, ...], opset: int) -> None:
    q, k, v = torch.randn(2, 4, 3, 4), torch.randn(2, 4, 5, 4), torch.randn(2, 4, 5, 6)
    allowed = torch.rand(shape) > 0.4
    for mask in (allowed, torch.randn(shape), torch.zeros(shape).masked_fill(~allowed, -torch.inf)):
        assert_lowering_matches(attend, q, k, v, mask, opset=opset)


@pytest.mark.parametrize("mask", [torch.tensor([True, False, True]), torch.tensor(-1.5), torch.tensor(-torch.inf)])
def test_masks_of_few_axes(mask: torch.Tensor) -> None:
    q = torch.randn(2, 3, 4)
    assert_shape_matches(lambda q: attend(q, q, q, mask.to(q.device)), q)
    assert_lowering_matches(attend, q, q, q, mask)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("shape", [(2, 4, 3, 4), (3, 4)])
def test_a_query_that_may_attend_to_nothing_gets_zeros(opset: int, shape: tuple[int, ...]) -> None:
    q = torch.randn(shape)
    allowed = torch.ones(3, 3, dtype=torch.bool)
    allowed[1] = False
    for mask in (allowed, torch.zeros(3, 3).masked_fill(~allowed, -torch.inf)):
        assert not attend(q, q, q, mask)[..., 1, :].any()
        assert_lowering_matches(attend, q, q, q, mask, opset=opset)
    broken = q.clone()
    broken[..., 0, 0] = torch.nan
    assert_lowering_matches(attend, broken, q, q, allowed, opset=opset)


@pytest.mark.parametrize("heads", [(6, 2, 2), (6, 1, 1), (4, 4, 4), (6, 2, 3), (4, 4, 2)])
@pytest.mark.parametrize("opset", OPSETS)
def test_shared_heads(heads: tuple[int, int, int], opset: int) -> None:
    q, k, v = (torch.randn(2, count, length, 4) for count, length in zip(heads, (3, 5, 5), strict=True))
    for causal in (False, True):
        shared = partial(attend, enable_gqa=True, is_causal=causal)
        assert_lowering_matches(shared, q, k, v, opset=opset)
    mask = torch.rand(2, 1, 3, 5) > 0.3
    assert_lowering_matches(lambda q, k, v, m: attend(q, k, v, m, enable_gqa=True), q, k, v, mask, opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
def test_dynamic_sizes(opset: int) -> None:
    dynamic = {0: {0: "N", 2: "L"}, 1: {0: "N", 2: "S"}, 2: {0: "N", 2: "S"}}
    q, k, v = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 6)
    also = torch.randn(3, 4, 7, 8), torch.randn(3, 2, 2, 8), torch.randn(3, 2, 2, 6)
    for causal in (False, True):
        shared = partial(attend, enable_gqa=True, is_causal=causal)
        assert_lowering_matches(shared, q, k, v, dynamic=dynamic, also=also, opset=opset)
    mask, other = torch.rand(2, 1, 1, 5) > 0.4, torch.rand(3, 1, 1, 2) > 0.4
    assert_lowering_matches(
        lambda q, k, v, m: attend(q, k, v, m, enable_gqa=True), q, k, v, mask,
        dynamic={**dynamic, 3: {0: "N", 3: "S"}}, also=(*also, other), opset=opset,
    )  # fmt: skip


@pytest.mark.parametrize("opset", OPSETS)
def test_a_dynamic_width(opset: int) -> None:
    dynamic = {0: {3: "E"}, 1: {3: "E"}, 2: {3: "E"}}
    operands, others = (tuple(torch.randn(2, 2, 3, width) for _ in range(3)) for width in (4, 9))
    assert_lowering_matches(attend, *operands, dynamic=dynamic, also=others, opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.float64, 1e-12)])
def test_other_dtypes(opset: int, dtype: torch.dtype, tolerance: float) -> None:
    q, k, v = (torch.randn(2, 2, 3, 4).to(dtype) for _ in range(3))
    masks = [torch.rand(3, 3) > 0.4, torch.randn(3, 3).to(dtype)]
    if dtype == torch.float16:
        masks.append(torch.randn(3, 3))
    tolerances = {"rtol": tolerance, "atol": tolerance}
    for mask in masks:
        assert_lowering_matches(attend, q, k, v, mask, opset=opset, **tolerances)
    assert_lowering_matches(lambda q, k, v: attend(q, k, v, is_causal=True), q, k, v, opset=opset, **tolerances)


@pytest.mark.parametrize("opset", OPSETS)
def test_half_does_not_overflow(opset: int) -> None:
    """The scores, around 4e5, are beyond half."""
    q = torch.full((1, 1, 3, 8), 300.0).half()
    assert_lowering_matches(attend, q, q, torch.randn(1, 1, 3, 8).half(), opset=opset, rtol=2e-3, atol=2e-3)


def test_bfloat16_between_casts() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        q = x.bfloat16()
        return attend(q, q, q).float()

    assert_lowering_matches(forward, torch.randn(2, 2, 3, 4), rtol=2e-2, atol=2e-2)


def test_dropout_is_refused() -> None:
    """The function drops in eval mode too, unlike the module."""
    q = torch.randn(2, 2, 3, 4)
    with pytest.raises(UnsupportedOpError, match="random"):
        tracer.convert(Call(lambda q: attend(q, q, q, dropout_p=0.5)), (q,), route="direct", verify=False)


def op_types(function: Callable[..., Any], *tensors: torch.Tensor) -> set[str]:
    return {node.op_type for node in assert_lowering_matches(function, *tensors, opset=23).graph.node}


def test_the_standards_own_operator_where_it_is_exact() -> None:
    q, mask = torch.randn(2, 4, 3, 8), torch.zeros(3, 3)
    assert op_types(attend, q, q, q) == {"Attention"}
    assert op_types(lambda q: attend(q, q, q, is_causal=True, scale=0.5), q) == {"Attention"}
    assert op_types(lambda q, k: attend(q, k, k, enable_gqa=True), q, q[:, :2].contiguous()) == {"Attention"}
    assert "Attention" not in op_types(attend, q, q, q, mask)
    assert "Attention" not in op_types(attend, q[0], q[0], q[0])
    assert "Attention" not in op_types(lambda q: attend(q, q, q, scale=-1.0), q)


@pytest.mark.parametrize("keys", [1, 2])
def test_cost(keys: int) -> None:
    q, k, v = torch.empty(2, 4, 3, 8), torch.empty(2, keys, 5, 8), torch.empty(2, keys, 5, 6)
    node = list(propagated(lambda q, k, v: attend(q, k, v, enable_gqa=True), q, k, v).graph.nodes)[-2]
    call = CALL.of(node)
    specs = call.record.map(lambda leaf: VALUE.of(leaf))
    assert call.op.cost_rule(VALUE.of(node), specs) == 2 * 4 * 3 * 5 * (8 + 6)
