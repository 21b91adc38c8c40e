"""Elementwise functions against torch: shapes and dtypes on meta, values in onnxruntime."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.errors import ShapeError
from passes.ops.unary_math import NODES
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

# Functions by name, and the numbers at which they are computed.
NUMBERS = [-2.5, -1.5, -0.7, -0.0, 0.0, 0.3, 0.5, 1.0, 2.5, 7.0]
POSITIVE = [0.1, 0.5, 1.0, 2.5, 40.0]
ABOVE_ONE = [1.0, 1.5, 9.0]
INSIDE = [-0.9, -0.3, 0.0, 0.2, 0.9]
DOMAINS: dict[str, list[float]] = {
    **dict.fromkeys(("log", "sqrt", "rsqrt", "reciprocal", "log2", "log10"), POSITIVE),
    **dict.fromkeys(("asin", "arcsin", "acos", "arccos", "atanh", "arctanh"), INSIDE),
    **dict.fromkeys(("acosh", "arccosh"), ABOVE_ONE),
    "log1p": [-0.5, -1e-6, 0.0, 1e-6, 1e-3, 3.0, math.inf],
    "expm1": [-20.0, -1e-6, 0.0, 1e-6, 1e-3, 3.0],
    "logit": [0.1, 0.5, 0.9],
}
SPECIAL = [math.nan, math.inf, -math.inf]
NAMES = [
    *(name for names in NODES for name in names),
    *("rsqrt", "exp2", "log2", "log10", "expm1", "log1p", "erfc", "logit", "deg2rad", "rad2deg", "sinc"),
    *("square", "abs", "absolute", "neg", "negative", "sign", "sgn", "signbit", "positive"),
    *("floor", "ceil", "round", "trunc", "fix", "frac"),
    *("nan_to_num", "isnan", "isinf", "isposinf", "isneginf", "isfinite"),
]
WITHOUT_DOUBLE = ("tan", "asin", "arcsin", "acos", "arccos", "atan", "arctan", "sinh", "cosh", "asinh", "arcsinh")
WITHOUT_DOUBLE += ("acosh", "arccosh", "atanh", "arctanh", "erf", "erfc", "expm1")
KEEPING_SPECIAL = ("nan_to_num", "isnan", "isinf", "isposinf", "isneginf", "isfinite", "signbit", "abs", "floor")
DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64)


@given(st.sampled_from(NAMES), st.lists(st.integers(0, 3), max_size=3), st.sampled_from([*DTYPES, torch.bfloat16]))
def test_shape(name: str, shape: list[int], dtype: torch.dtype) -> None:
    assert_shape_matches(getattr(torch, name), torch.empty(shape, dtype=dtype))


@pytest.mark.parametrize("name", NAMES)
def test_lowering(name: str) -> None:
    x = torch.tensor(DOMAINS.get(name, NUMBERS))
    if name in KEEPING_SPECIAL:
        x = torch.cat([x, torch.tensor(SPECIAL)])
    function = getattr(torch, name)
    for opset in (13, 23):
        assert_lowering_matches(function, x, opset=opset, rtol=1e-5, atol=1e-7)
    assert_lowering_matches(function, x[1], rtol=1e-5, atol=1e-7)
    if name not in WITHOUT_DOUBLE:
        assert_lowering_matches(function, x.double(), rtol=1e-9, atol=1e-12)
    if hasattr(torch.Tensor, name):
        assert_lowering_matches(lambda x: getattr(x, name)(), x)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.int8])
@pytest.mark.parametrize("name", NAMES)
def test_lowering_of_integers(name: str, dtype: torch.dtype) -> None:
    if name in ("frac", "atanh", "arctanh", "logit"):
        return  # torch has no kernel, or no finite value at a whole number
    numbers = [1, 1, 1] if name in ("asin", "arcsin", "acos", "arccos") else [1, 2, 5]
    if dtype == torch.int64 and name not in DOMAINS:
        numbers = [0, -1, 4]
    for opset in (13, 20):
        assert_lowering_matches(getattr(torch, name), torch.tensor(numbers, dtype=dtype), opset=opset)


@pytest.mark.parametrize("name", ["sign", "square", "isnan", "isfinite", "signbit", "exp", "nan_to_num", "sgn"])
def test_lowering_of_bool(name: str) -> None:
    assert_lowering_matches(getattr(torch, name), torch.tensor([True, False]))


@pytest.mark.parametrize(
    "function",
    [
        operator.neg,
        operator.abs,
        abs,
        lambda x: +x,
        lambda x: x.exp_().sqrt_(),
        lambda x: torch.exp_(x * 1),
        lambda x: x.round(decimals=1),
        lambda x: torch.round(x * 100, decimals=-1),
        lambda x: torch.logit(x, eps=0.1),
        lambda x: torch.special.logit(x.abs() / 4 + 0.1, 0.2),
        lambda x: torch.special.expm1(x),
        lambda x: torch.special.erf(x),
        lambda x: torch.nan_to_num(x / 0, nan=5.0, posinf=2.0, neginf=-3),
    ],
)
def test_other_spellings(function: Callable[..., Any]) -> None:
    x = torch.tensor([-0.66, 0.0, 0.25, 1.37])
    assert_shape_matches(function, x)
    assert_lowering_matches(function, x)


@pytest.mark.parametrize("opset", [13, 20])
def test_atan2(opset: int) -> None:
    """Every quadrant, both axes, and the four signed zeros."""
    numbers = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.5])
    y, x = torch.meshgrid(numbers, numbers, indexing="ij")
    assert_shape_matches(torch.atan2, y, x)
    assert_lowering_matches(torch.atan2, y.contiguous(), x.contiguous(), opset=opset)
    assert_lowering_matches(lambda y, x: y.arctan2(x), torch.tensor([1, -1]), torch.tensor([-2.0, -2.0]))


@pytest.mark.parametrize("name", ["neg", "positive", "frac"])
def test_bool_is_refused(name: str) -> None:
    x = torch.tensor([True])
    with pytest.raises(RuntimeError):
        getattr(torch, name)(x)
    with pytest.raises(ShapeError):
        propagated(getattr(torch, name), x)


def test_in_place_keeps_the_dtype() -> None:
    x = torch.tensor([1, 2])
    with pytest.raises(RuntimeError):
        x.clone().sqrt_()
    with pytest.raises(ShapeError, match="cannot be written"):
        propagated(lambda x: x.sqrt_(), x)


def test_dynamic() -> None:
    x = torch.rand(2, 3)
    assert_lowering_matches(
        lambda x: x.exp().log1p().frac().atan2(x), x, dynamic={0: {0: "N"}}, also=(torch.rand(5, 3),)
    )
