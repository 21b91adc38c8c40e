"""Shuffles and sliding blocks against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from passes.errors import ShapeError, TracerError, UnsupportedOpError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

sizes = st.integers(1, 8)
pairs = st.integers(0, 3) | st.lists(st.integers(0, 3), min_size=1, max_size=3)


def assert_as_torch(function: Any, x: torch.Tensor) -> None:
    """The rule gives torch's shape, and refuses what torch refuses on real tensors (on meta in other words)."""
    try:
        function(x)
    except (RuntimeError, ValueError, IndexError):
        with pytest.raises(TracerError):
            propagated(function, x)
    else:
        assert_shape_matches(function, x)


@given(shape=st.lists(sizes, min_size=1, max_size=5), factor=st.integers(0, 3))
def test_shuffle_shapes(shape: list[int], factor: int) -> None:
    for function in (F.pixel_shuffle, F.pixel_unshuffle, F.channel_shuffle):
        assert_as_torch(lambda x: function(x, factor), torch.empty(shape))  # noqa: B023


@given(lead=st.lists(sizes, max_size=2), tail=st.lists(st.integers(1, 3), min_size=3, max_size=3), r=st.integers(1, 3))
def test_fitting_shuffle_shapes(lead: list[int], tail: list[int], r: int) -> None:
    channels, height, width = tail
    assert_shape_matches(lambda x: F.pixel_shuffle(x, r), torch.empty(*lead, channels * r * r, height, width))
    assert_shape_matches(lambda x: F.pixel_unshuffle(x, r), torch.empty(*lead, channels, height * r, width * r))
    assert_shape_matches(lambda x: F.channel_shuffle(x, r), torch.empty(2, channels * r, *lead, height))


@given(
    shape=st.lists(sizes, min_size=2, max_size=5), kernel=pairs, dilation=pairs, padding=pairs, stride=pairs,
)  # fmt: skip
def test_unfold_shape(shape: list[int], kernel: Any, dilation: Any, padding: Any, stride: Any) -> None:
    assert_as_torch(lambda x: F.unfold(x, kernel, dilation, padding, stride), torch.zeros(shape))


@given(
    lead=st.lists(st.integers(1, 3), max_size=2),
    size=st.lists(sizes, min_size=2, max_size=2),
    blocks=st.none() | sizes,
    columns=st.none() | sizes,
    kernel=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
    stride=st.integers(1, 3),
)
def test_fold_shape(
    lead: list[int], size: list[int], blocks: Any, columns: Any, kernel: int, dilation: int, padding: int, stride: int
) -> None:
    fitting = 1
    for length in size:
        fitting *= max((length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1, 1)
    x = torch.zeros(*lead, columns or 2 * kernel * kernel, blocks or fitting)
    assert_as_torch(lambda x: F.fold(x, size, kernel, dilation, padding, stride), x)


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_pixel_shuffles(lead: tuple[int, ...], opset: int) -> None:
    model = assert_lowering_matches(lambda x: F.pixel_shuffle(x, 2), torch.randn(*lead, 8, 3, 2), opset=opset)
    assert "DepthToSpace" in [node.op_type for node in model.graph.node]
    assert_lowering_matches(lambda x: F.pixel_unshuffle(x, 2), torch.randn(*lead, 3, 4, 6), opset=opset)


@pytest.mark.parametrize("shape", [(2, 6, 3), (2, 6, 3, 2), (1, 6, 2, 3, 2)])
def test_channel_shuffle(shape: tuple[int, ...]) -> None:
    assert_lowering_matches(lambda x: F.channel_shuffle(x, 3), torch.randn(shape))
    assert_lowering_matches(lambda x: torch.native_channel_shuffle(x, 2), torch.randn(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool])
def test_shuffles_of_other_types(dtype: torch.dtype) -> None:
    x = torch.arange(32).reshape(1, 8, 2, 2).to(dtype)
    assert_lowering_matches(lambda x: F.pixel_unshuffle(x, 2), x)
    assert_lowering_matches(lambda x: F.channel_shuffle(x, 4), x)
    assert_lowering_matches(lambda x: F.pixel_shuffle(x, 2), x)


@pytest.mark.parametrize(
    "layer", [nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2), nn.Unfold(3, 1, 1, 2)]
)
@pytest.mark.parametrize("opset", [13, 20])
def test_modules_with_dynamic_axes(layer: nn.Module, opset: int) -> None:
    x, other = torch.randn(2, 4, 6, 8), torch.randn(1, 4, 8, 6)
    assert_shape_matches(layer, x)
    assert_lowering_matches(layer, x, dynamic={0: {0: "N", 2: "H", 3: "W"}}, opset=opset, also=(other,))


GEOMETRIES = [
    {"kernel_size": 2},
    {"kernel_size": (2, 3), "stride": 2, "padding": 1},
    {"kernel_size": 3, "dilation": 2, "padding": (2, 1), "stride": (1, 2)},
    {"kernel_size": 2, "stride": 2},
]


@pytest.mark.parametrize("opset", [13, 18, 23])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("lead", [(), (2,)])
def test_unfold_and_fold(geometry: dict[str, Any], lead: tuple[int, ...], opset: int) -> None:
    x = torch.randn(*lead, 3, 6, 7)
    assert_lowering_matches(lambda x: F.unfold(x, **geometry), x, opset=opset)
    blocks = F.unfold(x, **geometry)
    assert_lowering_matches(lambda x: F.fold(x, (6, 7), **geometry), blocks, opset=opset)
    layer = nn.Fold((6, 7), **geometry)
    assert_shape_matches(layer, blocks)
    assert_lowering_matches(layer, blocks, opset=opset)


@pytest.mark.parametrize("opset", [13, 18])
def test_unfold_and_fold_of_a_dynamic_size(opset: int) -> None:
    def smoothed(x: torch.Tensor) -> torch.Tensor:
        return F.fold(F.unfold(x, 3, padding=1), (x.shape[2], x.shape[3]), 3, padding=1)

    assert_lowering_matches(
        smoothed,
        torch.randn(2, 3, 5, 6),
        dynamic={0: {0: "N", 2: "H", 3: "W"}},
        opset=opset,
        also=(torch.randn(1, 3, 7, 4),),
    )


def test_what_the_first_opsets_cannot_fold() -> None:
    blocks = torch.randn(1, 18, 4)
    assert_lowering_matches(lambda x: F.fold(x.reshape(1, -1, 4), (5, 5), 3, stride=2), blocks, opset=13)

    def halved(x: torch.Tensor) -> torch.Tensor:
        return F.fold(F.unfold(x, 2, stride=2), (x.shape[2], x.shape[3]), 2, stride=2)

    x, dynamic = torch.randn(1, 2, 5, 6), {0: {2: "H", 3: "W"}}
    assert_lowering_matches(halved, x, dynamic=dynamic, opset=18, also=(torch.randn(1, 2, 4, 7),))
    with pytest.raises(UnsupportedOpError, match="needs Col2Im of opset 18"):
        assert_lowering_matches(halved, x, dynamic=dynamic, opset=17)


def test_native_spellings() -> None:
    x = torch.randn(1, 2, 4, 5)
    assert_lowering_matches(lambda x: torch._C._nn.im2col(x, (2, 2), (1, 1), (1, 1), (2, 1)), x)
    blocks = F.unfold(x, 2)
    assert_lowering_matches(lambda x: torch._C._nn.col2im(x, (4, 5), (2, 2), (1, 1), (0, 0), (1, 1)), blocks)


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ShapeError, match=r"5 channels do not divide by 2 \* 2"):
        propagated(nn.PixelShuffle(2), torch.empty(1, 5, 2, 2))
    with pytest.raises(ShapeError, match="the width 3 does not divide by 2"):
        propagated(nn.PixelUnshuffle(2), torch.empty(1, 5, 2, 3))
    with pytest.raises(ShapeError, match="an image of 4 x 5 has 12 blocks, but the input has 11"):
        propagated(nn.Fold((4, 5), 2), torch.empty(1, 4, 11))
