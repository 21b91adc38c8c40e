"""Comparisons, logic and choices against torch: shapes and dtypes on meta, values in onnxruntime."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.errors import CaptureError, ShapeError, UnsupportedOpError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

COMPARISONS: list[Callable[..., Any]] = [
    operator.eq,
    operator.ne,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
    torch.eq,
    torch.not_equal,
    torch.less,
    torch.less_equal,
    torch.greater,
    torch.greater_equal,
    lambda x, y: x.lt(y),
    lambda x, y: x.greater_equal(y),
]
LOGICAL: list[Callable[..., Any]] = [torch.logical_and, torch.logical_or, torch.logical_xor]
BITWISE: list[Callable[..., Any]] = [operator.and_, operator.or_, operator.xor, lambda x, y: x.bitwise_and(y)]
EXTREMES: list[Callable[..., Any]] = [torch.maximum, torch.minimum, torch.fmax, torch.fmin]
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.float32, torch.float64)
DTYPES = (torch.bool, *INTEGERS, *FLOATS)
shapes = st.lists(st.integers(0, 3), max_size=3)


@given(
    st.sampled_from([*COMPARISONS, *LOGICAL, *BITWISE, *EXTREMES]),
    shapes,
    shapes,
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
)
def test_shape_of_tensors(
    function: Callable[..., Any], left: list[int], right: list[int], left_dtype: torch.dtype, right_dtype: torch.dtype
) -> None:
    assert_shape_matches(function, torch.empty(left, dtype=left_dtype), torch.empty(right, dtype=right_dtype))


@given(st.sampled_from([*COMPARISONS, *LOGICAL, *EXTREMES]), shapes, st.sampled_from([True, 2, 2.5]))
def test_shape_with_a_number(function: Callable[..., Any], shape: list[int], number: float) -> None:
    assert_shape_matches(lambda x: function(x, number), torch.empty(shape))


@given(
    shapes,
    shapes,
    shapes,
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.sampled_from(["where", "fill", "clamp"]),
)
def test_shape_of_choices(
    first: list[int], second: list[int], third: list[int], a: torch.dtype, b: torch.dtype, what: str
) -> None:
    condition = torch.empty(first, dtype=torch.bool)
    x, y = torch.empty(second, dtype=a), torch.empty(third, dtype=b)
    calls: dict[str, Callable[..., Any]] = {
        "where": lambda c, x, y: torch.where(c, x, y),
        "fill": lambda c, x, y: x.masked_fill(c, y),
        "clamp": lambda c, x, y: torch.clamp(x, y, x),
    }
    assert_shape_matches(calls[what], condition, x, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", COMPARISONS)
def test_comparison(function: Callable[..., Any], dtype: torch.dtype) -> None:
    x, y = torch.tensor([[0, 1, 2]]).to(dtype), torch.tensor([[1], [2]]).to(dtype)
    assert_lowering_matches(function, x, y)
    assert_lowering_matches(function, x, y, opset=13)
    if dtype != torch.bool:
        assert_lowering_matches(lambda x: function(x, 1.5), x)


@pytest.mark.parametrize("function", COMPARISONS[:6])
def test_comparison_with_nan_and_a_dynamic_size(function: Callable[..., Any]) -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 2.0])
    assert_lowering_matches(lambda x: function(x, x), x)
    assert_lowering_matches(
        lambda x: function(x, x.shape[0]), torch.tensor([1.0, 2.0]), dynamic={0: {0: "N"}}, also=(torch.arange(4.0),)
    )


@pytest.mark.parametrize(
    "function", [*LOGICAL, lambda x, y: x.logical_not().logical_or(y), lambda x, y: x.logical_and_(y)]
)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_logical(function: Callable[..., Any], dtype: torch.dtype) -> None:
    x, y = torch.tensor([0, 2, 0, 1]).to(dtype), torch.tensor([0, 0, 3, 1]).to(dtype)
    assert_shape_matches(function, x, y)
    assert_lowering_matches(function, x, y)


@pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS])
@pytest.mark.parametrize("function", BITWISE)
def test_bitwise(function: Callable[..., Any], dtype: torch.dtype) -> None:
    x, y = torch.tensor([0, 6, 1, 100]).to(dtype), torch.tensor([3, 5, 0, 75]).to(dtype)
    assert_lowering_matches(function, x, y)
    if dtype == torch.bool:
        assert_lowering_matches(function, x, y, opset=13)
    else:
        with pytest.raises(UnsupportedOpError, match="since opset 18"):
            assert_lowering_matches(function, x, y, opset=17)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS])
def test_bitwise_not(dtype: torch.dtype, opset: int) -> None:
    assert_lowering_matches(lambda x: ~x, torch.tensor([0, 1, 100]).to(dtype), opset=opset)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_shifts(dtype: torch.dtype) -> None:
    x = torch.tensor([1, 5, 100] if dtype == torch.uint8 else [1, -5, 100]).to(dtype)
    y = torch.tensor([0, 1, 3]).to(dtype)
    assert_lowering_matches(lambda x, y: x << y, x, y)
    assert_lowering_matches(lambda x, y: x >> y, x, y)
    assert_lowering_matches(lambda x, y: (x >> 2).bitwise_left_shift(y), x, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [*EXTREMES, torch.max, torch.min])
def test_extremes(function: Callable[..., Any], dtype: torch.dtype) -> None:
    x, y = torch.tensor([[0, 1, 2]]).to(dtype), torch.tensor([[1], [2]]).to(dtype)
    assert_lowering_matches(function, x, y)
    assert_lowering_matches(function, x, torch.tensor([1]))


@pytest.mark.parametrize("function", EXTREMES)
def test_extremes_of_nan(function: Callable[..., Any]) -> None:
    x, y = torch.tensor([math.nan, 1.0, math.nan, 2.0]), torch.tensor([1.0, math.nan, math.nan, 3.0])
    assert_lowering_matches(function, x, y)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x.clamp(-0.5, 0.5),
        lambda x, y: torch.clamp(x, min=0.1),
        lambda x, y: torch.clip(x, max=0),
        lambda x, y: x.clamp_(0.5, -0.5),
        lambda x, y: torch.clamp(x, y, y + 0.1),
        lambda x, y: torch.clamp(x, max=y),
        lambda x, y: x.clamp_min(0.25),
        lambda x, y: torch.clamp_max(x, y),
        lambda x, y: torch.clamp_min_(x * 1.5, 0.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.int16])
def test_clamp(function: Callable[..., Any], dtype: torch.dtype) -> None:
    x, y = (torch.randn(3, 2) * 3).to(dtype), torch.randn(3, 1).to(dtype)
    if not dtype.is_floating_point and function.__code__.co_names == ("clamp_",):
        return
    assert_shape_matches(function, x, y)
    assert_lowering_matches(function, x, y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where(dtype: torch.dtype) -> None:
    condition = torch.tensor([[True, False, True]])
    x, y = torch.tensor([1, 0, 3]).to(dtype), torch.tensor([[0], [5]]).to(dtype)
    for opset in (13, 20):
        assert_lowering_matches(torch.where, condition, x, y, opset=opset)
        assert_lowering_matches(lambda c, x: x.where(c, 0.5), condition, x, opset=opset)
        assert_lowering_matches(lambda c, x: x.masked_fill(c, 1), condition, x, opset=opset)


@pytest.mark.parametrize(
    "function",
    [
        lambda c, x: x.masked_fill(c, -math.inf),
        lambda c, x: x.masked_fill(~c, torch.finfo(x.dtype).min),
        lambda c, x: x.masked_fill_(c, x[0, 0]),
        lambda c, x: torch.masked_fill(x, c, x.mean().double()),
        lambda c, x: x.long().masked_fill(c, 2.5),
        lambda c, x: torch.where(c, 1.0, 2.0) + x,
        lambda c, x: torch.where(c, x, x.mean().double()),
        lambda c, x: torch.where(x > 0, x, -x),
        lambda c, x: x.where(x > 0, x.exp()),
    ],
)
def test_choices(function: Callable[..., Any]) -> None:
    c, x = torch.tensor([True, False, True]), torch.randn(2, 3)
    assert_shape_matches(function, c, x)
    assert_lowering_matches(function, c, x)


@pytest.mark.parametrize("equal_nan", [True, False])
def test_isclose(equal_nan: bool) -> None:
    x = torch.tensor([1.0, 1.0, math.nan, math.inf, math.inf, 0.0])
    y = torch.tensor([1.0 + 1e-6, 1.1, math.nan, math.inf, 1.0, 1e-9])
    assert_shape_matches(lambda x, y: torch.isclose(x, y), x, y)
    assert_lowering_matches(lambda x, y: torch.isclose(x, y, equal_nan=equal_nan), x, y)
    assert_lowering_matches(lambda x, y: x.isclose(y, rtol=0.5), x, y)
    assert_lowering_matches(lambda x, y: torch.isclose(x.bool().long(), y.bool().long(), atol=0.5), x, y)


@pytest.mark.parametrize(
    "call",
    [
        lambda b, i: torch.clamp(i),
        lambda b, i: i.masked_fill(i, 1),
        lambda b, i: i.masked_fill(b, torch.ones(2)),
        lambda b, i: i.masked_fill_(torch.ones(3, 2, dtype=torch.bool), 1),
        lambda b, i: torch.where(i, i, i),
        lambda b, i: ~i.float(),
        lambda b, i: torch.isclose(i, i.float()),
        lambda b, i: i < "a",
    ],
)
def test_refusals(call: Callable[..., Any]) -> None:
    b, i = torch.tensor([True, False]), torch.tensor([1, 2])
    with pytest.raises((RuntimeError, TypeError)):
        call(b.clone(), i.clone())
    with pytest.raises((ShapeError, CaptureError)):
        propagated(call, b, i)


def test_places_of_a_condition_alone() -> None:
    assert_lowering_matches(lambda x: torch.where(x > 0), torch.tensor([[1.0, -1.0, 0.0], [2.0, 3.0, -4.0]]))


def test_dynamic_axes() -> None:
    x, longer = torch.randn(2, 3), torch.randn(4, 3)
    assert_lowering_matches(
        lambda x: x.masked_fill(x > x[:1], 0.0).clamp(min=-1).where(x < 1, x), x, dynamic={0: {0: "N"}}, also=(longer,)
    )
