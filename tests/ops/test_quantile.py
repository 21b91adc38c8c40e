"""Medians and quantiles against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.errors import ShapeError
from passes.ops.quantile import INTERPOLATIONS
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

shapes = st.lists(st.integers(1, 4), max_size=3)
axes = st.none() | st.integers(-4, 3)


@given(shape=st.lists(st.integers(0, 3), max_size=3), dim=axes, keepdim=st.booleans())
def test_median_shape(shape: list[int], dim: int | None, keepdim: bool) -> None:
    x = torch.zeros(shape)
    try:
        torch.median(x) if dim is None else torch.median(x, dim, keepdim)
    except IndexError:  # meta tensors take an empty axis
        with pytest.raises(ShapeError):
            propagated(lambda x: torch.median(x, dim, keepdim), x)
    else:
        assert_shape_matches(lambda x: x.median() if dim is None else x.median(dim, keepdim), x)


@given(
    shape=st.lists(st.integers(0, 3), max_size=3),
    q=st.floats(-0.5, 1.5) | st.lists(st.integers(1, 3), max_size=2),
    dim=axes,
    keepdim=st.booleans(),
    interpolation=st.sampled_from([*INTERPOLATIONS, "cubic"]),
    dtypes=st.lists(st.sampled_from([torch.float32, torch.float64, torch.float16]), min_size=2, max_size=2),
)
def test_quantile_shape(shape: Any, q: Any, dim: Any, keepdim: bool, interpolation: str, dtypes: Any) -> None:
    x = torch.zeros(shape, dtype=dtypes[0])
    if isinstance(q, float):
        assert_shape_matches(lambda x: torch.quantile(x, q, dim, keepdim, interpolation=interpolation), x)
    else:
        assert_shape_matches(
            lambda x, q: x.quantile(q, dim, keepdim, interpolation=interpolation), x, torch.zeros(q, dtype=dtypes[1])
        )


LOWERINGS: dict[str, Callable[[torch.Tensor], Any]] = {
    "median": lambda x: x.median(),
    "median of an axis": lambda x: torch.median(x, 1),
    "median kept": lambda x: x.median(0, keepdim=True).values,
    "median of integers": lambda x: (x * 100).long().median(-1)[0],
    "quantile": lambda x: torch.quantile(x, 0.3),
    "quantile kept": lambda x: torch.quantile(x, 0.75, keepdim=True),
    "quantile of an axis": lambda x: x.quantile(0.4, dim=1),
    "quantile of an axis kept": lambda x: x.quantile(1.0, dim=0, keepdim=True),
    "quantiles": lambda x: torch.quantile(x, torch.tensor([0.0, 0.1, 0.9])),
    "quantiles of an axis": lambda x: torch.quantile(x, torch.tensor([0.25, 0.5]), dim=1),
    "quantiles by data": lambda x: x.quantile(x[0, 0].sigmoid(), dim=2, keepdim=True),
    **{
        f"{kind} quantiles": lambda x, kind=kind: torch.quantile(x, torch.tensor([0.3, 0.6]), 1, interpolation=kind)
        for kind in INTERPOLATIONS
    },
}


@pytest.mark.parametrize("name", LOWERINGS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_lowering(name: str, dynamic: bool) -> None:
    assert_lowering_matches(
        LOWERINGS[name],
        torch.randn(2, 5, 4),
        dynamic={0: {0: "N", 1: "T"}} if dynamic else None,
        also=(torch.randn(5, 4, 4),) if dynamic else None,
    )


@pytest.mark.parametrize("opset", [13, 18, 23])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.int32, torch.uint8])
def test_dtypes(dtype: torch.dtype, opset: int) -> None:
    x = torch.arange(12).reshape(3, 4).flip(1).to(dtype)
    assert_lowering_matches(lambda x: (x.median(), *x.median(1)), x, opset=opset)
    if dtype == torch.float64:
        assert_lowering_matches(lambda x: x.quantile(0.3), x, opset=opset)


def test_what_is_no_number_makes_the_result_none() -> None:
    x = torch.tensor([[1.0, torch.nan, 2.0], [3.0, 1.0, 2.0]])
    assert_lowering_matches(lambda x: (x.median(), x.median(1).values, x.quantile(0.3, dim=0)), x)


def test_0d() -> None:
    x = torch.tensor(1.5)
    assert_lowering_matches(lambda x: (x.median(), *x.median(0), x.quantile(0.3), x.quantile(0.3, 0, True)), x)


def test_refusals() -> None:
    with pytest.raises(ShapeError, match=r"a quantile lies between 0 and 1, found 1\.5"):
        propagated(lambda x: x.quantile(1.5), torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8])
def test_the_median_of_nothing(dtype: torch.dtype) -> None:
    assert_lowering_matches(lambda x: x[:0].median(), torch.zeros(3, dtype=dtype))
