"""Diagonals against torch: shapes on meta, values in onnxruntime."""

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
offsets = st.integers(-4, 4)


@given(shape=shapes, offset=offsets, first=axes, second=axes)
def test_shape(shape: list[int], offset: int, first: int, second: int) -> None:
    x = torch.zeros(shape)
    assert_shape_matches(lambda x: torch.diagonal(x, offset, first, second), x)
    assert_shape_matches(lambda x: torch.diag_embed(x, offset, first, second), x)
    assert_shape_matches(lambda x: torch.linalg.diagonal(x, offset=offset), x)
    if len(shape) != 2 or -shape[0] <= offset <= shape[1]:  # meta tensors take an offset beyond the corner
        assert_shape_matches(lambda x: x.diag(offset), x)
    assert_shape_matches(lambda x: (torch.diagflat(x, offset), x.diagflat()), x)


@given(shape=shapes, dtype=st.sampled_from([torch.float16, torch.float64, torch.int32, torch.uint8]))
def test_trace_shape(shape: list[int], dtype: torch.dtype) -> None:
    assert_shape_matches(lambda x: x.trace(), torch.zeros(shape, dtype=dtype))


LOWERINGS: dict[str, Callable[[torch.Tensor], Any]] = {
    "diagonal": lambda x: x[:2, :2].diagonal(dim1=1, dim2=2),
    "diagonal of the last axes": lambda x: torch.linalg.diagonal(x, offset=1),
    "trace": lambda x: x[0].trace(),
    "trace of integers": lambda x: (x[:, :, 0] * 9).int().trace(),
    "diag_embed": lambda x: torch.diag_embed(x),
    "diag_embed above": lambda x: x.diag_embed(2),
    "diag_embed below": lambda x: torch.diag_embed(x, -1, 0, 2),
    "diag_embed of integers": lambda x: torch.diag_embed((x * 9).long(), 1, -1, 1),
    "diag of a vector": lambda x: torch.diag(x[0, :, 0], -1),
    "diag of a matrix": lambda x: x[0].diag(1),
    "diagflat": lambda x: torch.diagflat(x[:, :, 0], 1),
}


@pytest.mark.parametrize("name", LOWERINGS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_lowering(name: str, dynamic: bool) -> None:
    assert_lowering_matches(
        LOWERINGS[name],
        torch.randn(2, 3, 4),
        dynamic={0: {0: "N", 1: "T"}} if dynamic else None,
        also=(torch.randn(4, 4, 4),) if dynamic else None,
    )


@pytest.mark.parametrize("opset", [13, 18, 23])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool])
def test_dtypes(dtype: torch.dtype, opset: int) -> None:
    x = torch.arange(6).reshape(2, 3).to(dtype)
    assert_lowering_matches(lambda x: (x.diagonal(), x.diag(1), x[0].diag(), x.diag_embed(-1)), x, opset=opset)
    if dtype != torch.bool:
        assert_lowering_matches(lambda x: x.trace(), x, opset=opset)


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ShapeError, match="runs through two axes, found 1 twice"):
        propagated(lambda x: torch.diag_embed(x, 0, 1, 1), torch.zeros(2, 3))
    with pytest.raises(ShapeError, match=r"a trace is a matrix's, found float32\[2\]"):
        propagated(lambda x: x.trace(), torch.zeros(2))
