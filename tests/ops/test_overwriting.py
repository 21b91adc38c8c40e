"""Tensors written over, as a whole or in part, by methods and functions: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.errors import ShapeError, UnsupportedOpError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

shapes = st.lists(st.integers(0, 3), max_size=3)
axes = st.integers(-4, 3)
small = st.integers(-3, 4)
DTYPES = (torch.float32, torch.float64, torch.int64, torch.bool)


@given(shape=shapes, source=shapes, dtype=st.sampled_from(DTYPES))
def test_copy_and_fill_shape(shape: list[int], source: list[int], dtype: torch.dtype) -> None:
    x, y = torch.zeros(shape), torch.zeros(source, dtype=dtype)
    assert_shape_matches(lambda x, y: x.clone().copy_(y), x, y)
    assert_shape_matches(lambda x, y: x.clone().fill_(y), x, y)
    assert_shape_matches(lambda x, y: y.clone().copy_(x), x, y)
    assert_shape_matches(lambda x, y: (y.clone().zero_(), torch.fill(x, 2)), x, y)


@given(shape=st.lists(st.integers(1, 3), max_size=3), wrap=st.booleans())
def test_fill_diagonal_shape(shape: list[int], wrap: bool) -> None:
    assert_shape_matches(lambda x: x.clone().fill_diagonal_(1, wrap), torch.zeros(shape))


@given(shape=shapes, mask=shapes, source=shapes, dtype=st.sampled_from(DTYPES))
def test_masked_scatter_shape(shape: list[int], mask: list[int], source: list[int], dtype: torch.dtype) -> None:
    x, m, y = torch.zeros(shape), torch.zeros(mask, dtype=torch.bool), torch.zeros(source, dtype=dtype)
    assert_shape_matches(lambda x, m, y: torch.masked_scatter(x, m, y), x, m, y)


@given(shape=shapes, index=shapes, dtype=st.sampled_from([torch.int64, torch.int32]))
def test_take_shape(shape: list[int], index: list[int], dtype: torch.dtype) -> None:
    assert_shape_matches(lambda x, i: x.take(i), torch.zeros(shape), torch.zeros(index, dtype=dtype))


@given(dim=st.integers(-3, 2), index=st.integers(-3, 2), start=small, end=small, step=st.integers(1, 3))
def test_scattered_parts_shape(dim: int, index: int, start: int, end: int, step: int) -> None:
    x = torch.zeros(3, 3, 3)
    assert_shape_matches(lambda x: torch.select_scatter(x, x.select(dim, index).double(), dim, index), x)

    def write(x: torch.Tensor) -> torch.Tensor:
        part = x.movedim(dim, 0)[start:end:step].movedim(0, dim)
        return x.slice_scatter(part, dim, start, end, step)

    assert_shape_matches(write, x)


@given(i=shapes, j=shapes, values=shapes, accumulate=st.booleans())
def test_index_put_shape(i: list[int], j: list[int], values: list[int], accumulate: bool) -> None:
    first, second = torch.zeros(i, dtype=torch.int64), torch.zeros(j, dtype=torch.int64)
    x, y = torch.zeros(3, 3, 2), torch.zeros(values)
    try:
        x.index_put((first, second), y)
    except (RuntimeError, IndexError):  # meta tensors take values of any shape
        with pytest.raises(ShapeError):
            propagated(lambda x, i, j, y: x.index_put((i, j), y, accumulate), x, first, second, y)
    else:
        assert_shape_matches(lambda x, i, j, y: x.index_put((i, j), y, accumulate), x, first, second, y)


def _masked(mask: Callable[[torch.Tensor], torch.Tensor], values: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    def assign(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[mask(x)] = values(x)
        return y

    return assign


def two_of_four(x: torch.Tensor) -> torch.Tensor:
    """A mask that lets two of a row's four elements through."""
    return x.argsort(-1) < 2


def assign_columns(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1:, two_of_four(x[0, 0])] = x[:, 1:, :2] * 10
    return y


LOWERINGS: dict[str, Callable[[torch.Tensor], Any]] = {
    "copy_": lambda x: torch.zeros_like(x).copy_(x[:, :1]),
    "copy_ to integers": lambda x: torch.zeros_like(x, dtype=torch.int64).copy_(x * 5),
    "copy_ of a number": lambda x: x.clone().copy_(2),
    "fill_": lambda x: x.clone().fill_(2.5),
    "fill_ by data": lambda x: x.clone().fill_(x[0, 0, 0]),
    "fill_ of integers": lambda x: x.long().fill_(3),
    "fill": lambda x: torch.fill(x, -1),
    "zero_": lambda x: x.clone().zero_() + torch.zero_(x.exp()),
    "fill_diagonal_": lambda x: x[:, :, 0].clone().fill_diagonal_(7),
    "fill_diagonal_ tall": lambda x: x[0].t().clone().fill_diagonal_(7),
    "fill_diagonal_ wrapped": lambda x: x[0, :2].t().clone().fill_diagonal_(7, wrap=True),
    "fill_diagonal_ of flags": lambda x: torch.ones(x.shape[0], x.shape[1]).bool().fill_diagonal_(False),
    "fill_diagonal_ of a cube": lambda x: x[:2, :2, :2].clone().fill_diagonal_(x.shape[1]),
    "index_put": lambda x: x.index_put((torch.tensor([0, 1]), torch.tensor([2, 1])), x[:1, 0]),
    "index_put number": lambda x: torch.index_put(x, [torch.tensor([[1], [0]])], torch.tensor(3.0)),
    "index_put mask": lambda x: x.index_put((x > 0,), torch.tensor(-9.0)),
    "index_put twice": lambda x: x.index_put((torch.tensor([1, 1, 0]),), x[:1, :1], accumulate=True),
    "index_put_": lambda x: torch.zeros_like(x).index_put_((torch.tensor([1]),), x[:1], True),
    "select_scatter": lambda x: x.select_scatter(x[:, 0], 1, -1),
    "slice_scatter": lambda x: torch.slice_scatter(x, x[:, :, :2], 2, 1, 3),
    "slice_scatter in steps": lambda x: x.slice_scatter(x[:, :, :2], dim=-1, start=-4, step=2),
    "slice_scatter up to a size": lambda x: x.slice_scatter(x[:, 1:], 1, 0, x.shape[1] - 1),
    "masked_scatter": lambda x: x.masked_scatter(x > 0, x.flip(1) * 10),
    "masked_scatter rows": lambda x: x.masked_scatter(x[:, :, :1] > 0, torch.arange(1000.0)),
    "masked_scatter spread": lambda x: x[0, 0].masked_scatter(x > 0, x.neg()),
    "assigned one by one": _masked(two_of_four, lambda x: x.flip(1)[..., :2].reshape(-1)),
    "assigned rows": _masked(lambda x: x[:, :, 0].argsort(1) < 1, lambda x: x[:, -1] * 10),
    "assigned columns": assign_columns,
    "take": lambda x: x.take(torch.tensor([[0, 5], [-1, 3]])),
}


@pytest.mark.parametrize("name", LOWERINGS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_lowering(name: str, dynamic: bool) -> None:
    assert_lowering_matches(
        LOWERINGS[name],
        torch.randn(2, 3, 4),
        dynamic={0: {0: "N", 1: "T"}} if dynamic else None,
        also=(torch.randn(6, 7, 4),) if dynamic else None,
    )


@pytest.mark.parametrize("opset", [13, 18, 23])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.int32, torch.bool, torch.uint8])
def test_dtypes(dtype: torch.dtype, opset: int) -> None:
    x = (torch.rand(3, 3) * 5).to(dtype)

    def write(x: torch.Tensor) -> Any:
        mask = x.bool()
        return x.clone().fill_diagonal_(1), torch.zeros_like(x).copy_(x[0]), x.masked_scatter(mask, x), x.take(x.long())

    assert_lowering_matches(write, x, opset=opset)


def test_what_onnx_cannot_add() -> None:
    with pytest.raises(UnsupportedOpError, match="since opset 16"):
        assert_lowering_matches(LOWERINGS["index_put twice"], torch.randn(2, 3, 4), opset=15)
    assert_lowering_matches(lambda x: x.index_put((x > 0,), torch.tensor(1.0), True), torch.randn(2))


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ShapeError, match=r"float32\[2\] takes the place of a part of shape \[3\]"):
        propagated(lambda x: x.select_scatter(x[:, 0], 0, 0), torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="the dtypes differ"):
        propagated(lambda x: x.index_put((torch.tensor([0]),), x.double()), torch.zeros(2))
