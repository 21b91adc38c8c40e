"""Running extremes and differences along an axis: shapes on meta, values in onnxruntime."""

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
DTYPES = (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)


@given(shape=shapes, dim=axes, dtype=st.sampled_from(DTYPES))
def test_running_shape(shape: list[int], dim: int, dtype: torch.dtype) -> None:
    if not -max(len(shape), 1) <= dim < max(len(shape), 1):
        return  # meta tensors may let it pass: see test_refusals_name_the_numbers
    for function in (torch.cummax, torch.cummin, torch.logcumsumexp, torch.cumsum, torch.cumprod):
        assert_shape_matches(lambda x: function(x, dim), torch.zeros(shape, dtype=dtype))  # noqa: B023


@given(
    shape=shapes,
    n=st.integers(-1, 4),
    dim=axes,
    before=st.none() | st.integers(0, 2),
    after=st.none() | st.integers(0, 2),
    dtype=st.sampled_from(DTYPES),
)
def test_diff_shape(shape: list[int], n: int, dim: int, before: Any, after: Any, dtype: torch.dtype) -> None:
    x = torch.zeros(shape)

    def difference(x: torch.Tensor) -> torch.Tensor:
        ends = [None if size is None else x[..., :size].to(dtype) for size in (before, after)]
        return torch.diff(x, n, dim, *ends)

    assert_shape_matches(difference if shape else lambda x: torch.diff(x, n, dim), x)


LOWERINGS: dict[str, Callable[[torch.Tensor], Any]] = {
    "cummax": lambda x: torch.cummax(x, 1),
    "cummin": lambda x: x.cummin(dim=0),
    "places of running extremes": lambda x: x.cummax(-1).indices + x.cummin(-1)[1],
    "running extremes of equal elements": lambda x: (x.round().cummax(0), x.round().cummin(0)),
    "logcumsumexp": lambda x: torch.logcumsumexp(x, 0),
    "logcumsumexp of nothing": lambda x: torch.full_like(x, -torch.inf).logcumsumexp(1),
    "diff": lambda x: torch.diff(x),
    "diff along rows": lambda x: x.diff(dim=0),
    "diff twice": lambda x: x.diff(2, 1),
    "diff with ends": lambda x: torch.diff(x, dim=1, prepend=x[:, :1], append=torch.zeros_like(x[:, :2])),
    "diff of flags": lambda x: (x > 0).diff(),
    "diff not at all": lambda x: x.diff(0),
}


@pytest.mark.parametrize("name", LOWERINGS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_lowering(name: str, dynamic: bool) -> None:
    assert_lowering_matches(
        LOWERINGS[name],
        torch.randn(4, 5),
        dynamic={0: {0: "N", 1: "T"}} if dynamic else None,
        also=(torch.randn(7, 3),) if dynamic else None,
    )


@pytest.mark.parametrize("opset", [13, 18, 23])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: torch.dtype, opset: int) -> None:
    x = torch.randint(0, 9, (3, 5)).to(dtype)
    assert_lowering_matches(lambda x: (x.cummax(1), x.cummin(0), x.diff()), x, opset=opset)
    if dtype.is_floating_point:
        assert_lowering_matches(lambda x: x.logcumsumexp(1), x, opset=opset, rtol=1e-2)


def test_0d() -> None:
    x = torch.tensor(1.5)
    assert_lowering_matches(lambda x: (x.cummax(0), x.cummin(-1), x.logcumsumexp(0), x.cumprod(0)), x)


def test_of_a_size_that_may_be_too_small() -> None:
    """That the axis is long enough is recorded; nothing is left of a shorter one."""
    x = torch.randn(2, 3)
    assert_lowering_matches(lambda x: x.diff(4), x)
    assert_lowering_matches(lambda x: x.diff(2), torch.randn(5, 2), dynamic={0: {0: "N"}}, also=(torch.randn(3, 2),))


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ShapeError, match="differences cannot be taken -1 times"):
        propagated(lambda x: x.diff(-1), torch.zeros(3))
    with pytest.raises(ShapeError, match="axis 2 is out of range"):
        propagated(lambda x: x.cummax(2), torch.zeros(2, 3))
