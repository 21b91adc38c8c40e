"""Random tensors: their shapes, that they are refused, and that lazy layers after them get a dry run's weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import ShapeError, UnsupportedOpError
from passes.ops.op import FUNCTIONS
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

DRAWS: dict[str, Callable[[torch.Tensor], Any]] = {
    "rand": lambda x: torch.rand(x.shape[0], 4),
    "randn": lambda x: torch.randn((2, x.shape[1]), dtype=torch.float64),
    "rand_like": lambda x: torch.rand_like(x),
    "randn_like": lambda x: torch.randn_like(x, dtype=torch.float64),
    "randint": lambda x: torch.randint(3, (x.shape[0],)),
    "randint between": lambda x: torch.randint(low=1, high=5, size=(2, 3), dtype=torch.int32),
    "randint_like": lambda x: torch.randint_like(x, 3, dtype=torch.int64),
    "randint_like between": lambda x: torch.randint_like(x, 1, 4),
    "randperm": lambda x: torch.randperm(x.shape[0]),
    "randperm of floats": lambda x: torch.randperm(5, dtype=torch.float32),
    "normal": lambda x: torch.normal(x, 1.0),
    "normal of two tensors": lambda x: torch.normal(x[:1], x.abs()),
    "normal of a deviation": lambda x: torch.normal(0.5, x.abs()),
    "normal of a size": lambda x: torch.normal(0.0, 2.0, (x.shape[0], 3)),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "bernoulli of a number": lambda x: x.bernoulli(0.3),
    "multinomial": lambda x: torch.multinomial(x.softmax(1), 2),
    "multinomial with replacement": lambda x: x[0].softmax(0).multinomial(9, replacement=True),
    "gumbel_softmax": lambda x: F.gumbel_softmax(x, hard=True, dim=0),
    "uniform_": lambda x: torch.empty_like(x).uniform_(-1, 1),
    "normal_": lambda x: x.new_empty(2, 5).normal_(),
    "exponential_": lambda x: torch.zeros(3, x.shape[1]).exponential_(),
    "bernoulli_": lambda x: torch.zeros_like(x).bernoulli_(0.5),
    "fractional pool": lambda x: F.fractional_max_pool2d(x.reshape(1, 1, 4, 6), 2, output_size=(2, 3)),
    "fractional pool and places": lambda x: F.fractional_max_pool2d(
        x.reshape(1, 4, 6), (2, 1), output_ratio=(0.5, 0.7), return_indices=True
    ),
    "fractional pool in 3d": lambda x: F.fractional_max_pool3d(x.reshape(1, 2, 3, 4), 1, output_ratio=(0.5, 0.7, 0.8)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_shape(name: str) -> None:
    assert_shape_matches(DRAWS[name], torch.empty(4, 6))


@pytest.mark.parametrize("name", DRAWS)
def test_lowering_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedOpError, match="random numbers"):
        assert_lowering_matches(DRAWS[name], torch.rand(4, 6))


class Draws(nn.Module):
    """A lazy layer after random numbers."""

    def __init__(self, draw: Callable[[torch.Tensor], Any]):
        super().__init__()
        self.draw = draw
        self.fc = nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> Any:
        drawn = self.draw(x)
        return self.fc(x), drawn


def dry_run(model: nn.Module, x: torch.Tensor) -> nn.Module:
    torch.manual_seed(3)
    with torch.no_grad():
        model(x)
    return model


@pytest.mark.parametrize("name", DRAWS)
def test_lazy_layers_after_it_get_the_weights_of_a_dry_run(name: str) -> None:
    x = torch.rand(4, 6)
    found = tracer.resolve(Draws(DRAWS[name]), (tracer.spec(4, 6),), seed=3)
    assert torch.equal(found.fc.weight, dry_run(Draws(DRAWS[name]), x).fc.weight)
    assert not torch.equal(found.fc.weight, dry_run(nn.LazyLinear(3), x).weight), "nothing was drawn"


shapes = st.lists(st.integers(1, 3), max_size=3)


@given(mean=shapes, deviation=shapes)
def test_normal_shape(mean: list[int], deviation: list[int]) -> None:
    assert_shape_matches(lambda m, s: torch.normal(m, s), torch.zeros(mean), torch.zeros(deviation))


@given(shape=shapes, count=st.integers(1, 3), dim=st.integers(-3, 2))
def test_draws_by_numbers_shape(shape: list[int], count: int, dim: int) -> None:
    assert_shape_matches(lambda x: torch.multinomial(x, count, True), torch.ones(shape))
    if -len(shape) <= dim < len(shape):  # meta tensors take any axis
        assert_shape_matches(lambda x: F.gumbel_softmax(x, dim=dim), torch.ones(shape))


@given(
    shape=st.lists(st.integers(3, 9), min_size=2, max_size=5),
    kernel=st.integers(1, 3),
    size=st.none() | st.integers(1, 4) | st.lists(st.integers(1, 4), min_size=2, max_size=3),
    ratio=st.lists(st.sampled_from([0.3, 0.5, 0.7]), min_size=2, max_size=3),
)
def test_fractional_pool_shape(shape: list[int], kernel: int, size: Any, ratio: list[float]) -> None:
    for pool in (F.fractional_max_pool2d, F.fractional_max_pool3d):
        given_size = {"output_ratio": ratio} if size is None else {"output_size": size}
        assert_shape_matches(lambda x: pool(x, kernel, **given_size), torch.ones(shape))  # noqa: B023


def test_multinomial_follows_the_kernel() -> None:
    """Meta tensors let pass what the kernels refuse."""
    with pytest.raises(ShapeError, match="4 samples are drawn from 3 without replacement"):
        propagated(lambda x: torch.multinomial(x, 4), torch.ones(3))


def test_every_random_op_is_marked() -> None:
    for function in (torch.normal, torch.bernoulli, torch.multinomial, torch.randperm, F.gumbel_softmax):
        assert FUNCTIONS[function][0].random
