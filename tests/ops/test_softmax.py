"""Softmax and its relatives against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from passes.errors import ShapeError, UnsupportedOpError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

FUNCTIONS: list[Callable[..., Any]] = [
    F.softmax,
    F.log_softmax,
    F.softmin,
    torch.softmax,
    torch.log_softmax,
    torch.special.softmax,
    torch.special.log_softmax,
    lambda x, dim, **dtype: x.softmax(dim, **dtype),
    lambda x, dim, **dtype: x.log_softmax(dim=dim, **dtype),
]
MODULES: list[Callable[..., nn.Module]] = [nn.Softmax, nn.LogSoftmax, nn.Softmin]


@given(
    function=st.sampled_from(FUNCTIONS),
    shape=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    dim=st.integers(-5, 4),
    dtype=st.sampled_from([None, torch.float64, torch.float16]),
)
def test_shape(function: Callable[..., Any], shape: list[int], dim: int, dtype: torch.dtype | None) -> None:
    if not -len(shape) <= dim < len(shape):
        # Meta kernels take any dim; those that compute do not.
        with pytest.raises(IndexError):
            function(torch.zeros(shape), dim)
        with pytest.raises(ShapeError):
            propagated(lambda x: function(x, dim), torch.zeros(shape))
    else:
        assert_shape_matches(lambda x: function(x, dim, **({"dtype": dtype} if dtype else {})), torch.empty(shape))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("opset", [13, 18, 23])
def test_function(function: Callable[..., Any], dim: int, opset: int) -> None:
    assert_lowering_matches(
        lambda x: function(x, dim),
        torch.randn(2, 3, 4) * 5,
        opset=opset,
        dynamic={0: {0: "N", 2: "T"}},
        also=(torch.randn(5, 3, 1),),
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_dtype(function: Callable[..., Any]) -> None:
    x = torch.randn(3, 4)
    for found, asked in (
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.float16, torch.float32),
        (torch.int64, torch.float32),
    ):
        assert_shape_matches(lambda x, asked=asked: function(x, 1, dtype=asked), x.to(found))
        assert_lowering_matches(lambda x, asked=asked: function(x, 1, dtype=asked), (x * 3).to(found))
    assert_lowering_matches(lambda x: function(x, -1), x.half(), rtol=2e-3, atol=2e-3)
    assert_lowering_matches(lambda x: function(x, -1), x.double(), rtol=1e-12)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 2), (1, 2, 3, 4, 2)])
def test_module(module: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
    for dim in range(-max(len(shape), 1), max(len(shape), 1)):
        assert_lowering_matches(module(dim), torch.randn(shape))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 2)])
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_implicit_dim(module: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
    assert_lowering_matches(module(dim=None), torch.randn(shape))
    assert_lowering_matches(F.softmax, torch.randn(shape))


@pytest.mark.parametrize("shape", [(3, 2, 4), (2, 3, 2, 4)])
def test_softmax2d(shape: tuple[int, ...]) -> None:
    assert_shape_matches(nn.Softmax2d(), torch.empty(shape))
    assert_lowering_matches(nn.Softmax2d(), torch.randn(shape), dynamic={0: {len(shape) - 1: "W"}})


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 2, 4, 5)])
def test_softmax2d_refusals(shape: tuple[int, ...]) -> None:
    assert_shape_matches(nn.Softmax2d(), torch.empty(shape))


def test_integers_are_refused() -> None:
    for function in FUNCTIONS:
        x = torch.ones(2, 3, dtype=torch.int64)
        with pytest.raises((RuntimeError, NotImplementedError)):
            function(x, 0)
        with pytest.raises(ShapeError, match="floating-point"):
            propagated(lambda x, function=function: function(x, 0), x)
    assert_shape_matches(lambda x: F.softmin(x, 0, dtype=torch.float32), torch.ones(2, dtype=torch.bool))
    with pytest.raises(UnsupportedOpError):
        assert_lowering_matches(lambda x: F.softmin(x, 0, dtype=torch.float32), torch.ones(2, dtype=torch.uint8))
