"""Sampling at grids against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from passes.errors import ShapeError, TracerError, UnsupportedOpError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

sizes = st.integers(1, 4)
MODES = ["bilinear", "nearest", "bicubic"]
PADDING_MODES = ["zeros", "border", "reflection"]


def assert_as_torch(function: Any, *tensors: torch.Tensor) -> None:
    """The rule gives torch's shape, and refuses what torch refuses on real tensors (on meta it lets more through)."""
    try:
        function(*tensors)
    except (RuntimeError, ValueError, IndexError):
        with pytest.raises(TracerError):
            propagated(function, *tensors)
    else:
        assert_shape_matches(function, *tensors)


@given(
    shape=st.lists(sizes, min_size=3, max_size=6),
    grid=st.lists(sizes, min_size=3, max_size=6),
    same_batch=st.booleans(),
    fitting_point=st.booleans(),
    mode=st.sampled_from([*MODES, "area"]),
    padding_mode=st.sampled_from([*PADDING_MODES, "wrap"]),
)
def test_grid_sample_shape(
    shape: list[int], grid: list[int], same_batch: bool, fitting_point: bool, mode: str, padding_mode: str
) -> None:
    points = [shape[0] if same_batch else grid[0], *grid[1:-1], len(shape) - 2 if fitting_point else grid[-1]]
    assert_as_torch(
        lambda x, g: F.grid_sample(x, g, mode, padding_mode, align_corners=False),
        torch.zeros(shape),
        torch.zeros(points),
    )


@given(
    batch=st.tuples(sizes, sizes), spatial=st.lists(sizes, min_size=1, max_size=4), rank=st.integers(1, 4),
)  # fmt: skip
def test_affine_grid_shape(batch: tuple[int, int], spatial: list[int], rank: int) -> None:
    assert_as_torch(
        lambda theta: F.affine_grid(theta, [batch[1], 3, *spatial], align_corners=False),
        torch.zeros(batch[0], rank, rank + 1),
    )


@given(batch=sizes, spatial=st.lists(sizes, min_size=2, max_size=3))
def test_fitting_affine_grid_shape(batch: int, spatial: list[int]) -> None:
    rank = len(spatial)
    assert_as_torch(
        lambda theta: F.affine_grid(theta, [batch, 3, *spatial], align_corners=False),
        torch.zeros(batch, rank, rank + 1),
    )


@pytest.mark.parametrize("opset", [16, 20, 23])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("align_corners", [False, True])
def test_grid_sample(mode: str, padding_mode: str, align_corners: bool, opset: int) -> None:
    x, grid = torch.randn(2, 3, 5, 6), torch.rand(2, 4, 7, 2) * 2.6 - 1.3
    assert_lowering_matches(lambda x, g: F.grid_sample(x, g, mode, padding_mode, align_corners), x, grid, opset=opset)


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("align_corners", [False, True])
def test_grid_sample_of_volumes(mode: str, padding_mode: str, align_corners: bool) -> None:
    x, grid = torch.randn(2, 3, 4, 5, 6), torch.rand(2, 3, 4, 5, 3) * 2.6 - 1.3
    assert_lowering_matches(lambda x, g: F.grid_sample(x, g, mode, padding_mode, align_corners), x, grid)
    with pytest.raises(UnsupportedOpError, match="of 5 axes needs opset 20"):
        assert_lowering_matches(lambda x, g: F.grid_sample(x, g, mode, padding_mode, align_corners), x, grid, opset=19)


@pytest.mark.parametrize("opset", [13, 19, 20, 23])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("spatial", [(4, 5), (3, 4, 5), (2, 7)])
def test_affine_grid(spatial: tuple[int, ...], align_corners: bool, opset: int) -> None:
    rank = len(spatial)
    assert_lowering_matches(
        lambda theta: F.affine_grid(theta, [2, 3, *spatial], align_corners=align_corners),
        torch.randn(2, rank, rank + 1),
        opset=opset,
    )


def test_a_spatial_transformer_with_dynamic_axes() -> None:
    def warped(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        return F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)

    assert_lowering_matches(
        warped,
        torch.randn(2, 3, 5, 6),
        torch.randn(2, 2, 3) * 0.4,
        dynamic={0: {0: "N", 2: "H", 3: "W"}, 1: {0: "N"}},
        also=(torch.randn(3, 3, 8, 4), torch.randn(3, 2, 3) * 0.4),
    )


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ShapeError, match="the input's batch is 2, but the grid's is 1"):
        propagated(
            lambda x, g: F.grid_sample(x, g, align_corners=False), torch.empty(2, 3, 4, 4), torch.empty(1, 4, 4, 2)
        )
    with pytest.raises(ShapeError, match="maps of 2 x 3 for 2 spatial axes"):
        propagated(lambda t: F.affine_grid(t, [2, 3, 4, 4], align_corners=False), torch.empty(2, 3, 3))
