"""Sorting against torch: shapes and dtypes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.errors import ShapeError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

shapes = st.lists(st.integers(0, 3), max_size=3)
axes = st.integers(-4, 3)
DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float64)


@given(shapes, st.integers(-1, 4), axes, st.sampled_from(DTYPES))
def test_topk_shape(shape: list[int], k: int, dim: int, dtype: torch.dtype) -> None:
    assert_shape_matches(lambda x: torch.topk(x, k, dim), torch.empty(shape, dtype=dtype))


@given(shapes, axes, st.booleans(), st.sampled_from(["sort", "argsort"]))
def test_sort_shape(shape: list[int], dim: int, descending: bool, name: str) -> None:
    if not -max(len(shape), 1) <= dim < max(len(shape), 1):
        return  # meta tensors may let it pass: see test_refusals
    assert_shape_matches(lambda x: getattr(torch, name)(x, dim, descending), torch.empty(shape))


@given(st.lists(st.integers(1, 3), max_size=3), st.integers(-1, 4), axes, st.booleans())
def test_kthvalue_shape(shape: list[int], k: int, dim: int, keepdim: bool) -> None:
    assert_shape_matches(lambda x: torch.kthvalue(x, k, dim, keepdim), torch.empty(shape))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.topk(x, 2),
        lambda x: x.topk(3, dim=0, largest=False),
        lambda x: x.topk(k=1, dim=1, sorted=True)[1],
        lambda x: torch.topk(x, 2).values * 2,
        lambda x: torch.sort(x),
        lambda x: x.sort(0, descending=True),
        lambda x: torch.sort(x, stable=True, dim=1).indices,
        lambda x: torch.argsort(x, descending=True),
        lambda x: x.argsort(0),
        lambda x: torch.msort(x),
        lambda x: torch.kthvalue(x, 2),
        lambda x: x.kthvalue(3, 0, keepdim=True),
    ],
)
@pytest.mark.parametrize("opset", [13, 23])
def test_lowering(function: Callable[..., Any], opset: int) -> None:
    x = torch.randn(3, 4)
    assert_shape_matches(function, x)
    assert_lowering_matches(function, x, opset=opset)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 0, 3], [0, 1, 2]]).to(dtype)
    assert_lowering_matches(lambda x: torch.sort(x, dim=1, stable=True), x)
    if dtype != torch.bool:
        assert_lowering_matches(lambda x: torch.topk(x, 1)[0], x)


def test_equal_elements_keep_their_order() -> None:
    x = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    assert_lowering_matches(lambda x: torch.sort(x, stable=True), x)
    assert_lowering_matches(lambda x: torch.sort(x, stable=True, descending=True), x)


@pytest.mark.parametrize(
    "function", [torch.sort, torch.argsort, lambda x: x.topk(1), lambda x: x.topk(0), lambda x: x.kthvalue(1)]
)
def test_0d(function: Callable[..., Any]) -> None:
    assert_shape_matches(function, torch.tensor(1.5))
    assert_lowering_matches(function, torch.tensor(1.5))


def test_dynamic() -> None:
    """The sorted axis, the others, and a number of elements that comes from a size."""
    x, longer = torch.randn(4, 3), torch.randn(7, 3)
    for function in (
        lambda x: x.sort(0),
        lambda x: x.topk(2, dim=1),
        lambda x: x.topk(x.shape[0] // 2, dim=0),
        lambda x: x.kthvalue(2, dim=0),
    ):
        assert_lowering_matches(function, x, dynamic={0: {0: "N"}}, also=(longer,))


@pytest.mark.parametrize(
    "call",
    [lambda x: x.topk(4), lambda x: x.topk(-1), lambda x: x.sort(2), lambda x: x.kthvalue(0), lambda x: x.kthvalue(4)],
)
def test_refusals(call: Callable[..., Any]) -> None:
    x = torch.ones(2, 3)
    with pytest.raises((RuntimeError, IndexError)):
        call(x)
    with pytest.raises(ShapeError):
        propagated(call, x)


def test_message_has_the_numbers() -> None:
    with pytest.raises(ShapeError, match="topk of 4 elements, but axis 1 has only 3"):
        propagated(lambda x: x.topk(4), torch.ones(2, 3))
