"""Linear layers against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import ShapeError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

sizes = st.integers(1, 5)


@given(lead=st.lists(sizes, max_size=3), found=sizes, expected=sizes, out=sizes, bias=st.booleans())
def test_shape(lead: list[int], found: int, expected: int, out: int, bias: bool) -> None:
    x, weight = torch.empty(*lead, found), torch.empty(out, expected)
    assert_shape_matches(lambda x, w, *b: F.linear(x, w, *b), x, weight, *([torch.empty(out)] if bias else []))


@given(
    lead=st.lists(sizes, max_size=2),
    weight=st.sampled_from([(4,), (5, 4), (2, 5, 4), ()]),
    bias=st.none() | st.lists(st.sampled_from([1, 5, 3]), max_size=3),
)
def test_shape_of_odd_weights_and_biases(lead: list[int], weight: tuple[int, ...], bias: list[int] | None) -> None:
    x, w = torch.empty(*lead, 4), torch.empty(weight)
    if bias is None or weight == ():
        assert_shape_matches(F.linear, x, w)
    elif (
        len(weight) > 1 and len(bias) <= len(lead) + 1
    ):  # of more axes, torch's meta kernel takes what its CPU's does not
        assert_shape_matches(F.linear, x, w, torch.empty(bias))


def test_a_dtype_that_does_not_fit_says_what_would() -> None:
    for layer in (nn.LazyLinear(3), nn.LazyConv1d(3, 1), nn.PReLU()):
        with pytest.raises(ShapeError, match=r"the input is torch\.int64.*(?s:.*)remedy: convert the input .*float32"):
            tracer.inspect(layer, tracer.spec(2, 3, 4, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"the bias is torch\.float64, but the weight is torch\.float32"):
        propagated(lambda x: F.linear(x, torch.empty(3, 4), torch.empty(3).double()), torch.empty(2, 4))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_lowering(lead: tuple[int, ...], bias: bool) -> None:
    assert_lowering_matches(nn.Linear(4, 5, bias=bias), torch.randn(*lead, 4))


def test_dynamic_leading_axes() -> None:
    assert_lowering_matches(
        nn.Linear(4, 5), torch.randn(2, 3, 4), dynamic={0: {0: "N", 1: "T"}}, also=(torch.randn(5, 1, 4),)
    )
