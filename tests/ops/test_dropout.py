"""Dropout and identity: at inference they leave no trace."""

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
from passes.program.notes import VALUE
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

# torch comments on the ranks that it takes for channel-wise dropout.
pytestmark = pytest.mark.filterwarnings("ignore:dropout[23]d. Received a:UserWarning")

MODULES: list[type[nn.Module]] = [
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
]
FUNCTIONS: list[Callable[..., Any]] = [
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
]  # fmt: skip
BUILTINS: list[Callable[..., Any]] = [
    torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout,
    torch.dropout_, torch.feature_dropout_, torch.alpha_dropout_, torch.feature_alpha_dropout_,
]  # fmt: skip


@given(
    function=st.sampled_from(FUNCTIONS),
    shape=st.lists(st.integers(0, 3), max_size=5),
    p=st.sampled_from([0.0, 0.5, 1.0, -0.1, 1.5]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool]),
)
def test_shape(function: Callable[..., Any], shape: list[int], p: float, dtype: torch.dtype) -> None:
    assert_shape_matches(lambda x: function(x, p, training=False), torch.empty(shape, dtype=dtype))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("inplace", [False, True])
def test_module(module: Callable[..., nn.Module], inplace: bool) -> None:
    x = torch.randn(2, 3, 4)
    model = nn.Sequential(module(0.3, inplace=inplace), nn.Identity(1, unused=True), nn.Linear(4, 2))
    assert_shape_matches(nn.Sequential(module(0.3)), x)
    proto = assert_lowering_matches(model, x, dynamic={0: {0: "N"}}, also=(torch.randn(5, 3, 4),))
    assert "Dropout" not in {node.op_type for node in proto.graph.node}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_function(function: Callable[..., Any]) -> None:
    x = torch.randn(2, 3, 4)
    proto = assert_lowering_matches(lambda x: torch.tanh(function(x, 0.3, False, True)), x)
    assert [node.op_type for node in proto.graph.node] == ["Tanh"]


@pytest.mark.parametrize("function", BUILTINS)
def test_builtin(function: Callable[..., Any]) -> None:
    x = torch.randn(2, 3, 4)
    assert_shape_matches(lambda x: function(x, 0.5, False), x)
    assert_lowering_matches(lambda x: function(x, 0.5, train=False), x)


@pytest.mark.parametrize("opset", [13, 17, 18, 23])
def test_alone(opset: int) -> None:
    """A graph whose output is its input."""
    assert_lowering_matches(nn.Sequential(nn.Dropout(), nn.Identity()), torch.randn(2, 3), opset=opset)
    assert_lowering_matches(nn.Identity(), torch.ones(3, dtype=torch.int64), opset=opset)


def attends(x: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(x, x, x, dropout_p=0.1)


DROPPING: list[Callable[..., Any]] = [
    *(lambda x, f=f: f(x, 0.5) for f in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)),
    *(lambda x, f=f: f(x, 0.5, True) for f in [*FUNCTIONS, *BUILTINS]),
    lambda x: F.dropout(x, 1.0),
    lambda x: F.rrelu(x, training=True),
    attends,
]


@pytest.mark.parametrize("function", DROPPING)
def test_what_drops_in_eval_mode_is_refused(function: Callable[..., Any]) -> None:
    program = propagated(function, torch.randn(2, 3, 4))
    assert VALUE.of(program.output()).shape == (2, 3, 4)
    with pytest.raises(UnsupportedOpError, match="draws random numbers"):
        assert_lowering_matches(function, torch.randn(2, 3, 4))


@pytest.mark.parametrize("function", [F.dropout, F.dropout1d, F.alpha_dropout, F.feature_alpha_dropout])
def test_what_drops_nothing_is_the_identity(function: Callable[..., Any]) -> None:
    for drop in (lambda x: function(x, 0.0), lambda x: function(x, 0.5, training=False)):
        assert_lowering_matches(lambda x, drop=drop: torch.tanh(drop(x)), torch.randn(2, 3, 4))
    if "alpha" in function.__name__:
        assert_lowering_matches(lambda x: torch.tanh(function(x)), torch.randn(2, 3, 4))


def test_dropout1d_refuses_images() -> None:
    with pytest.raises(ShapeError, match="2 or 3 axes, found 4"):
        propagated(nn.Dropout1d(), torch.randn(1, 2, 3, 4))
