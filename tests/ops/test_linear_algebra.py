"""Cross and Kronecker products, determinants and inverses against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.errors import ShapeError, UnsupportedOpError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

shapes = st.lists(st.sampled_from([1, 3, 3, 2, 0]), max_size=3)
axes = st.integers(-4, 3)
DTYPES = (torch.float32, torch.float64, torch.int64, torch.bool)


@given(shape=shapes, other=st.none() | shapes, dim=st.none() | axes)
def test_cross_shape(shape: list[int], other: list[int] | None, dim: int | None) -> None:
    x, y = torch.zeros(shape), torch.zeros(shape if other is None else other)
    if dim is None:
        assert_shape_matches(lambda x, y: torch.cross(x, y), x, y)
    else:
        assert_shape_matches(lambda x, y: torch.linalg.cross(x, y, dim=dim), x, y)


@given(shape=shapes, other=shapes, dim=axes, dtypes=st.lists(st.sampled_from(DTYPES), min_size=2, max_size=2))
def test_product_shapes(shape: list[int], other: list[int], dim: int, dtypes: list[torch.dtype]) -> None:
    x, y = torch.zeros(shape, dtype=dtypes[0]), torch.zeros(other, dtype=dtypes[1])
    assert_shape_matches(lambda x, y: torch.kron(x, y), x, y)
    ndim = max(len(shape), len(other), 1)
    if -ndim <= dim < ndim:  # of vectors, torch takes any axis
        assert_shape_matches(lambda x, y: torch.linalg.vecdot(x, y, dim=dim), x, y)


@given(batch=shapes, size=st.lists(st.integers(0, 4), min_size=1, max_size=2), dtype=st.sampled_from(DTYPES))
def test_square_matrix_shapes(batch: list[int], size: list[int], dtype: torch.dtype) -> None:
    x = torch.zeros(*batch, *(size * 2)[:2], dtype=dtype)
    assert_shape_matches(lambda x: torch.linalg.det(x), x)
    try:
        x.new_ones(x.shape).inverse()
    except RuntimeError as error:
        if "singular" not in str(error):
            with pytest.raises(ShapeError):
                propagated(lambda x: x.inverse(), x)
            return
    assert_shape_matches(lambda x: x.inverse(), x)


LOWERINGS: dict[str, Callable[[torch.Tensor], Any]] = {
    "cross": lambda x: torch.cross(x[..., :3], x[..., 1:], dim=-1),
    "cross along the first axis of three": lambda x: torch.cross(x.new_ones(3, 4), x[0, :1].expand(3, 4) * 2),
    "cross of integers": lambda x: (x * 9).long()[..., :3].cross((x * 7).long()[..., 1:], 2),
    "cross broadcast": lambda x: torch.linalg.cross(x[..., :3], x[:1, :1, 1:]),
    "vecdot": lambda x: torch.linalg.vecdot(x, x.flip(0)),
    "vecdot along rows": lambda x: torch.linalg.vecdot(x, x[:1], dim=1),
    "kron": lambda x: torch.kron(x[0], x[:, 0]),
    "kron of unlike ranks": lambda x: torch.kron(x, x[0, 0, :2]) + torch.kron(x[0, 0, :2], x),
    "kron with a number": lambda x: x[0, 0, 0].kron(x[0]),
    "kron of two dtypes": lambda x: torch.kron((x * 5).int(), x[0, :1]),
    "kron of flags": lambda x: torch.kron(x > 0, x[0] < 0),
    "chain_matmul": lambda x: torch.chain_matmul(x[0], x[0].t(), x[1]),
    "det": lambda x: torch.det(x[:, :1, :1]),
    "det of a batch": lambda x: torch.linalg.det(x @ x.mT + 1),
    **{
        f"inverse of {n}": lambda x, n=n: torch.inverse(x[:2, :1, :n].mT @ x[:2, :1, :n] + 2 * torch.eye(n))
        for n in (1, 2, 3, 4)
    },
}


@pytest.mark.filterwarnings(
    "ignore:torch.chain_matmul is deprecated:UserWarning", "ignore:Using torch.cross:UserWarning"
)
@pytest.mark.parametrize("name", LOWERINGS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_lowering(name: str, dynamic: bool) -> None:
    assert_lowering_matches(
        LOWERINGS[name],
        torch.randn(2, 3, 4),
        dynamic={0: {0: "N", 1: "T"}} if dynamic else None,
        also=(torch.randn(5, 4, 4),) if dynamic else None,
        atol=1e-4,
    )


@pytest.mark.parametrize("opset", [13, 23])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.int32, torch.uint8])
def test_dtypes(dtype: torch.dtype, opset: int) -> None:
    x = torch.arange(6).reshape(2, 3).to(dtype)
    assert_lowering_matches(lambda x: (torch.linalg.cross(x, x.flip(0)), x.kron(x)), x, opset=opset)
    if dtype == torch.float64:
        assert_lowering_matches(lambda x: torch.linalg.inv(torch.eye(2) + x[:, :2]), x.float(), opset=opset)


def test_what_is_too_large_to_invert() -> None:
    with pytest.raises(UnsupportedOpError, match="no inverse, and one of 5 rows"):
        assert_lowering_matches(lambda x: x.inverse(), torch.eye(5))


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ShapeError, match=r"axis 1 of float32\[3, 4\] must have 3 elements"):
        propagated(lambda x: torch.cross(x, x, dim=1), torch.zeros(3, 4))
    with pytest.raises(ShapeError, match=r"square matrix is needed, found float32\[2, 3\]"):
        propagated(lambda x: x.det(), torch.zeros(2, 3))
