"""Searching among sorted numbers and among others against torch: shapes on meta, values in onnxruntime."""

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
sides = st.sampled_from([None, "left", "right", "middle"])
DTYPES = (torch.float32, torch.float64, torch.int64, torch.int32)


@given(bounds=shapes, shape=shapes, right=st.booleans(), side=sides, narrow=st.booleans(), fits=st.booleans())
def test_searchsorted_shape(bounds: Any, shape: Any, right: bool, side: Any, narrow: bool, fits: bool) -> None:
    if fits and len(bounds) == len(shape):
        shape = [*bounds[:-1], *shape[-1:]]

    def search(bounds: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(bounds, x, out_int32=narrow, right=right, side=side)

    sorted_sequence, x = torch.zeros(bounds), torch.zeros(shape)
    try:
        search(sorted_sequence, x)
    except RuntimeError:  # meta tensors take bounds without an axis
        with pytest.raises(ShapeError):
            propagated(search, sorted_sequence, x)
    else:
        assert_shape_matches(search, sorted_sequence, x)


@given(shape=shapes, others=shapes, dtypes=st.lists(st.sampled_from([*DTYPES, torch.bool]), min_size=2, max_size=2))
def test_isin_shape(shape: list[int], others: list[int], dtypes: list[torch.dtype]) -> None:
    x, y = torch.zeros(shape, dtype=dtypes[0]), torch.zeros(others, dtype=dtypes[1])
    if x.ndim and y.ndim:  # torch promotes 0-d tensors like others here
        assert_shape_matches(lambda x, y: torch.isin(x, y), x, y)
    if dtypes[0] != torch.bool:
        assert_shape_matches(lambda x: (torch.isin(x, 2), torch.isin(2, x, invert=True)), x)


BOUNDS = torch.tensor([-1.0, 0.0, 0.0, 1.5])
LOWERINGS: dict[str, Callable[[torch.Tensor], Any]] = {
    "searchsorted": lambda x: torch.searchsorted(BOUNDS, x),
    "searchsorted on the right": lambda x: torch.searchsorted(BOUNDS, x.round(), right=True),
    "searchsorted on a side": lambda x: torch.searchsorted(BOUNDS, x.round(), side="right", out_int32=True),
    "searchsorted by rows": lambda x: torch.searchsorted(x.sort(-1)[0], x[:, :, :2].contiguous()),
    "searchsorted in an order": lambda x: torch.searchsorted(x, x.neg(), sorter=x.argsort(-1)),
    "searchsorted of a number": lambda x: torch.searchsorted(x[0, 0].sort()[0], 0.1),
    "searchsorted of integers": lambda x: torch.searchsorted(torch.tensor([0, 1, 3]), x.long()),
    "bucketize": lambda x: torch.bucketize(x, BOUNDS),
    "bucketize on the right": lambda x: torch.bucketize(x.round(), BOUNDS, right=True, out_int32=True),
    "isin": lambda x: torch.isin(x.long(), torch.tensor([[0, 2], [-1, 5]])),
    "isin inverted": lambda x: torch.isin(x.round(), x[0].round(), invert=True),
    "isin a number": lambda x: torch.isin(x.long(), 1),
    "a number isin": lambda x: torch.isin(1, x.long()),
    "isin nothing": lambda x: torch.isin(x, x[:, :, :0]),
}


@pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning")
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
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
def test_dtypes(dtype: torch.dtype, opset: int) -> None:
    x, bounds = torch.arange(6).reshape(2, 3).to(dtype), torch.tensor([1, 3, 3]).to(dtype)
    assert_lowering_matches(
        lambda x, b: (torch.searchsorted(b, x), torch.bucketize(x, b, right=True), torch.isin(x, b)),
        x, bounds, opset=opset,
    )  # fmt: skip


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ShapeError, match="the axes before the last differ"):
        propagated(lambda x: torch.searchsorted(x, x[:1]), torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="side is 'left', but right is True"):
        propagated(lambda x: torch.searchsorted(x, x, side="left", right=True), torch.zeros(3))
