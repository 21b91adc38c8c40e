"""Tensors lifted, paired and laid along a diagonal: shapes on meta, values in onnxruntime."""

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
DTYPES = (torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)


@given(first=shapes, second=shapes)
def test_atleast_shape(first: list[int], second: list[int]) -> None:
    x, y = torch.zeros(first), torch.zeros(second)
    for function in (torch.atleast_1d, torch.atleast_2d, torch.atleast_3d):
        assert_shape_matches(lambda x, y: (function(x), function(x, y), function((y, x))), x, y)  # noqa: B023


@given(sizes=st.lists(shapes, min_size=1, max_size=3), dtypes=st.lists(st.sampled_from(DTYPES), min_size=3, max_size=3))
def test_combined_shape(sizes: list[list[int]], dtypes: list[torch.dtype]) -> None:
    tensors = [torch.zeros(shape) for shape in sizes]
    assert_shape_matches(lambda *tensors: torch.cartesian_prod(*tensors), *tensors)
    assert_shape_matches(lambda *tensors: torch.cartesian_prod(*(tensor.ravel() for tensor in tensors)), *tensors)
    mixed = [torch.zeros(shape, dtype=dtype) for shape, dtype in zip(sizes, dtypes, strict=False)]
    assert_shape_matches(lambda *tensors: torch.block_diag(*tensors), *mixed)


LOWERINGS: dict[str, Callable[[torch.Tensor], Any]] = {
    "atleast_1d": lambda x: (torch.atleast_1d(x[0, 0]), torch.atleast_1d(x)),
    "atleast_2d": lambda x: torch.atleast_2d(x[0, 0], x[0], x),
    "atleast_3d": lambda x: torch.atleast_3d((x[0, 0], x[0], x)),
    "cartesian_prod": lambda x: torch.cartesian_prod(x[0], x[:, 0], x[1, :2]),
    "cartesian_prod of one": lambda x: torch.cartesian_prod(x[0] * 2),
    "block_diag": lambda x: torch.block_diag(x, x[0], x[:, :1], x[0, 0]),
    "block_diag of one": lambda x: torch.block_diag(x[0]),
    "block_diag of two dtypes": lambda x: torch.block_diag((x * 9).int(), x),
}


@pytest.mark.parametrize("name", LOWERINGS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_lowering(name: str, dynamic: bool) -> None:
    assert_lowering_matches(
        LOWERINGS[name],
        torch.randn(2, 3),
        dynamic={0: {0: "N", 1: "T"}} if dynamic else None,
        also=(torch.randn(4, 5),) if dynamic else None,
    )


@pytest.mark.parametrize("opset", [13, 23])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: torch.dtype, opset: int) -> None:
    x = torch.tensor([[1, 0, 2]]).to(dtype)
    assert_lowering_matches(
        lambda x: (torch.block_diag(x, x[0]), torch.cartesian_prod(x[0], x[0]), torch.atleast_3d(x)), x, opset=opset
    )


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ShapeError, match="a block has at most 2 axes, found 3"):
        propagated(lambda x: torch.block_diag(x), torch.zeros(1, 2, 3))
    with pytest.raises(ShapeError, match=r"cartesian_prod takes vectors, found float32\[2, 3\]"):
        propagated(lambda x: torch.cartesian_prod(x, x), torch.zeros(2, 3))
