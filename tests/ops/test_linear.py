"""Linear layers against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.ops.oracle import assert_lowering_matches, assert_shape_matches

sizes = st.integers(1, 5)


@given(lead=st.lists(sizes, max_size=3), found=sizes, expected=sizes, out=sizes, bias=st.booleans())
def test_shape(lead: list[int], found: int, expected: int, out: int, bias: bool) -> None:
    x, weight = torch.empty(*lead, found), torch.empty(out, expected)
    assert_shape_matches(lambda x, w, *b: F.linear(x, w, *b), x, weight, *([torch.empty(out)] if bias else []))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_lowering(lead: tuple[int, ...], bias: bool) -> None:
    assert_lowering_matches(nn.Linear(4, 5, bias=bias), torch.randn(*lead, 4))


def test_dynamic_leading_axes() -> None:
    assert_lowering_matches(
        nn.Linear(4, 5), torch.randn(2, 3, 4), dynamic={0: {0: "N", 1: "T"}}, also=(torch.randn(5, 1, 4),)
    )
