"""Distances against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import ShapeError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

OPSETS = (13, 14, 20, 22, 23)
TIGHT = {"rtol": 1e-9, "atol": 1e-10}
LOOSE = {"rtol": 1e-2, "atol": 1e-2}
ORDERS = [0, 1, 2, 2.5, 0.5, math.inf]
shapes = st.lists(st.integers(0, 3), max_size=4)
orders = st.sampled_from([*ORDERS, -1, math.nan])
dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])
MODES = [
    "use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist",
]  # fmt: skip


class Bfloat16(nn.Module):
    """A function computed in bfloat16 between float32 inputs and a float32 output."""

    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.function(*(tensor.bfloat16() for tensor in tensors)).float()


# Shapes -------------------------------------------------------------------------------------------


@given(a=shapes, b=shapes, dim=st.integers(-4, 3), keepdim=st.booleans(), p=st.sampled_from(ORDERS))
def test_of_two_tensors_shape(a: list[int], b: list[int], dim: int, keepdim: bool, p: float) -> None:
    for x, y in ((a, b), (a, a), (a, a[1:]), (a, [1] * len(a))):
        tensors = torch.empty(x), torch.empty(y)
        assert_shape_matches(nn.PairwiseDistance(p, keepdim=keepdim), *tensors)
        assert_shape_matches(nn.CosineSimilarity(dim), *tensors)


@given(a=dtypes, b=dtypes, scalar=st.booleans())
def test_of_two_tensors_dtype(a: torch.dtype, b: torch.dtype, scalar: bool) -> None:
    if torch.bool in (a, b) and a != b:
        return  # torch refuses one bool operand on real tensors alone
    tensors = torch.zeros(2, 3, dtype=a), torch.zeros([] if scalar else [3], dtype=b)
    assert_shape_matches(F.pairwise_distance, *tensors)
    assert_shape_matches(F.cosine_similarity, *tensors)


@pytest.mark.parametrize("other", [torch.float32, torch.int64])
def test_a_difference_with_bool_is_refused(other: torch.dtype) -> None:
    tensors = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=other)
    with pytest.raises(RuntimeError):
        F.pairwise_distance(*tensors)
    with pytest.raises(ShapeError, match="bool tensors are not subtracted"):
        propagated(F.pairwise_distance, *tensors)


@given(a=shapes, b=shapes, rows=st.integers(0, 3), features=st.integers(0, 3), p=orders, mode=st.sampled_from(MODES))
def test_cdist_shape(a: list[int], b: list[int], rows: int, features: int, p: float, mode: str) -> None:
    for x, y in ((a, b), ([*a[:2], rows, features], [*b[:2], 2, features]), ([*a[:2], 3, features], [rows, features])):
        assert_shape_matches(lambda x, y: torch.cdist(x, y, p, mode), torch.empty(x), torch.empty(y))


@given(shape=shapes, p=orders, dtype=dtypes)
def test_pdist_shape(shape: list[int], p: float, dtype: torch.dtype) -> None:
    assert_shape_matches(lambda x: F.pdist(x, p), torch.zeros(shape, dtype=dtype))
    assert_shape_matches(lambda x: F.pdist(x, p), torch.zeros(3, 4, dtype=dtype))


@given(a=dtypes, b=dtypes)
def test_cdist_dtype(a: torch.dtype, b: torch.dtype) -> None:
    """Two floating-point dtypes are refused, as on real tensors; on the meta device torch does not look."""
    tensors = torch.zeros(2, 3, dtype=a), torch.zeros(4, 3, dtype=b)
    if a != b and a.is_floating_point and b.is_floating_point:
        with pytest.raises((RuntimeError, NotImplementedError)):
            torch.cdist(*tensors)
        with pytest.raises(ShapeError, match="one dtype"):
            propagated(torch.cdist, *tensors)
    else:
        assert_shape_matches(torch.cdist, *tensors)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ShapeError, match="'fast' is no compute_mode of cdist"):
        propagated(lambda x: torch.cdist(x, x, compute_mode="fast"), torch.empty(2, 3))


# Values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("p", [*ORDERS, -1, -math.inf])
@pytest.mark.parametrize("keepdim", [True, False])
def test_pairwise_distance(p: float, keepdim: bool, opset: int) -> None:
    layer = nn.PairwiseDistance(p, eps=1e-3, keepdim=keepdim)
    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert_lowering_matches(layer, x, y, opset=opset)
    assert_lowering_matches(layer, x.double(), y.double(), opset=opset, **TIGHT)


@pytest.mark.parametrize("shapes", [((3, 4), (4,)), ((4,), (4,)), ((2, 1, 4), (3, 1)), ((), ()), ((), (4,))])
def test_broadcasting(shapes: Any) -> None:
    x, y = map(torch.randn, shapes)
    assert_lowering_matches(F.pairwise_distance, x, y)
    assert_lowering_matches(lambda x, y: F.pairwise_distance(x, y, keepdim=True), x, y)
    for dim in range(-max(x.ndim, y.ndim, 1), max(x.ndim, y.ndim, 1)):
        assert_lowering_matches(nn.CosineSimilarity(dim), x, y)


@pytest.mark.parametrize("opset", OPSETS)
def test_cosine_similarity(opset: int) -> None:
    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    for layer in (nn.CosineSimilarity(), nn.CosineSimilarity(-1, eps=2.0)):
        assert_lowering_matches(layer, x, y, opset=opset)
        assert_lowering_matches(layer, x.double(), y.double(), opset=opset, **TIGHT)
        assert_lowering_matches(layer, x.half(), y.half(), opset=opset, **LOOSE)
        assert_lowering_matches(layer, x * 0, y, opset=opset)


@pytest.mark.parametrize("opset", [13, 23])
def test_mixed_dtypes(opset: int) -> None:
    x, y = torch.randn(3, 4), torch.tensor([[3, 1, 0, 7]])
    for dtype in (torch.int64, torch.int32, torch.float64, torch.float16):
        assert_lowering_matches(F.pairwise_distance, x, y.to(dtype), opset=opset)
        # Torch divides a half operand by its norm in half, before it meets the other.
        tolerance = LOOSE if dtype == torch.float16 else {}
        assert_lowering_matches(F.cosine_similarity, x, y.to(dtype), opset=opset, **tolerance)
    for dtype in (torch.int64, torch.int16, torch.uint8):
        assert_lowering_matches(F.pairwise_distance, y.to(dtype), (y.flip(1) * 30).to(dtype), opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("p", ORDERS)
def test_all_pairs(p: float, opset: int) -> None:
    x, y = torch.randn(3, 5, 4), torch.randn(2, 1, 6, 4)
    x[0, 0] = y[0, 0, 0]
    for dtype, tolerance in ((torch.float32, {}), (torch.float64, TIGHT)):
        assert_lowering_matches(lambda x, y: torch.cdist(x, y, p), x.to(dtype), y.to(dtype), opset=opset, **tolerance)
        assert_lowering_matches(lambda x: F.pdist(x, p), x[1].to(dtype), opset=opset, **tolerance)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", [3, 25, 26])
def test_cdist_modes(mode: str, rows: int) -> None:
    """Many rows meet in a matrix product, in torch and here."""
    x, y = torch.randn(2, rows, 4), torch.randn(5, 4)
    for first, second in ((x, y), (y, x)):
        model = assert_lowering_matches(lambda x, y: torch.cdist(x, y, compute_mode=mode), first, second, atol=1e-4)
        by_product = mode == MODES[1] or (mode == MODES[0] and rows > 25)
        assert ("MatMul" in [node.op_type for node in model.graph.node]) == by_product
    assert_lowering_matches(lambda x, y: torch.cdist(x, y, compute_mode=mode), x.double(), y.double(), **TIGHT)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows(rows: int) -> None:
    assert_lowering_matches(F.pdist, torch.randn(rows, 3))


def test_bfloat16() -> None:
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    for function in (F.pairwise_distance, F.cosine_similarity):
        assert_lowering_matches(Bfloat16(function), x, y, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("p", [0, 1, 2, 3, math.inf])
def test_dynamic(p: float) -> None:
    x, y = torch.randn(2, 5, 4), torch.randn(2, 3, 4)
    also = torch.randn(3, 30, 4), torch.randn(3, 1, 4)
    dynamic = {0: {0: "N", 1: "P"}, 1: {0: "N", 1: "R"}}
    assert_lowering_matches(lambda x, y: torch.cdist(x, y, p), x, y, dynamic=dynamic, also=also, atol=1e-4)
    rows = {0: {0: "P"}}
    for more in (1, 2, 9):
        assert_lowering_matches(lambda x: F.pdist(x, p), x[0], dynamic=rows, also=(torch.randn(more, 4),))
    both = {0: {0: "N", 1: "D"}, 1: {1: "D"}}
    also = torch.randn(5, 7), torch.randn(1, 7)
    assert_lowering_matches(lambda x, y: F.pairwise_distance(x, y, p), x[0], y[0, :1], dynamic=both, also=also)
    assert_lowering_matches(F.cosine_similarity, x[0], y[0, :1], dynamic=both, also=also)


class Quantized(nn.Module):
    """The nearest entry of a codebook, and how sure of it the model is."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(32, 4))
        self.embed = nn.LazyLinear(4)
        self.out = nn.LazyLinear(2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedded = self.embed(x)
        nearest = torch.cdist(embedded, self.codes).argmin(-1)
        return nearest, self.out(F.cosine_similarity(embedded[:, None], self.codes, dim=-1))


def test_in_a_model() -> None:
    conversion = tracer.convert(Quantized(), (tracer.spec("N", 3),), route="direct", seed=0)
    assert conversion.report.resolved == {"embed": {"in_features": 3}, "out": {"in_features": 32}}


def test_multiply_adds() -> None:
    report = tracer.inspect(Quantized(), (tracer.spec("N", 3),))
    assert report.macs == f"{3 * 4 + 32 * 4 + 32 * 2}*N"


def test_messages_have_the_numbers() -> None:
    with pytest.raises(ShapeError, match="cdist takes rows of one length, found 3 and 4"):
        propagated(torch.cdist, torch.empty(2, 3), torch.empty(2, 4))
    with pytest.raises(ShapeError, match=r"pdist needs a matrix, found float32\[2, 3, 4\]"):
        propagated(F.pdist, torch.empty(2, 3, 4))
