"""Adaptive pools against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from passes.errors import UnsupportedOpError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches

AVG = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
MAX = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}
SIZES = (6, 8, 7)


@given(rank=st.integers(1, 3), batched=st.booleans(), data=st.data(), maximum=st.booleans(), indices=st.booleans())
def test_shape(rank: int, batched: bool, data: Any, maximum: bool, indices: bool) -> None:
    sizes = data.draw(st.tuples(*[st.integers(1, 9)] * rank))
    one = st.integers(1, 5) | (st.none() if rank > 1 else st.nothing())
    output = data.draw(st.integers(1, 5) | st.tuples(*[one] * rank))
    module = MAX[rank](output, return_indices=indices) if maximum else AVG[rank](output)
    assert_shape_matches(module, torch.empty(*((2,) if batched else ()), 3, *sizes))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("output", [1, 2, 5])
@pytest.mark.parametrize("lead", [(2, 3), (3,)])
def test_values(rank: int, output: int, lead: tuple[int, ...]) -> None:
    x = torch.randn(*lead, *SIZES[:rank])
    assert_lowering_matches(AVG[rank](output), x)
    assert_lowering_matches(MAX[rank](output), x)


@pytest.mark.parametrize("output", [(3, 4), (None, 3), (6, None), (6, 8)])
def test_one_size_per_axis(output: Any) -> None:
    x = torch.randn(2, 3, 6, 8)
    assert_lowering_matches(AVG[2](output), x)
    assert_lowering_matches(MAX[2](output), x)


@pytest.mark.parametrize("output", [1, 2, (3, 4), (4, 5), 7])
@pytest.mark.parametrize("lead", [(2, 3), (3,)])
def test_places_of_maxima(output: Any, lead: tuple[int, ...]) -> None:
    """Of equal maxima the first counts."""
    x = torch.randn(*lead, 6, 8)
    assert_lowering_matches(nn.AdaptiveMaxPool2d(output, return_indices=True), x)
    assert_lowering_matches(nn.AdaptiveMaxPool2d(output, return_indices=True), x.round())


@pytest.mark.parametrize(("rank", "output"), [(1, 4), (3, (2, 5, 3))])
def test_places_of_maxima_in_other_ranks(rank: int, output: Any) -> None:
    assert_lowering_matches(MAX[rank](output, return_indices=True), torch.randn(2, 3, *SIZES[:rank]))


def test_places_of_maxima_of_a_whole_plane_and_opsets() -> None:
    x = torch.randn(2, 3, 6, 8)
    for opset in (13, 18, 23):
        assert_lowering_matches(AVG[2]((4, 3)), x, opset=opset)
        assert_lowering_matches(MAX[2]((4, 3)), x, opset=opset)


def test_dynamic_sizes() -> None:
    x, other = torch.randn(2, 3, 9, 8), torch.randn(5, 3, 12, 7)
    axes = {0: {0: "N", 2: "H", 3: "W"}}
    assert_lowering_matches(AVG[2](1), x, dynamic=axes, also=(other,))
    assert_lowering_matches(MAX[2](1), x, dynamic=axes, also=(other,))
    assert_lowering_matches(AVG[2]((4, 3)), x, dynamic={0: {0: "N"}}, also=(torch.randn(5, 3, 9, 8),))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("output", [2, 5])
def test_windows_over_dynamic_sizes(rank: int, output: int) -> None:
    x, other = torch.randn(2, 3, *SIZES[:rank]), torch.randn(4, 3, *(13, 9, 10)[:rank])
    axes = {0: dict(enumerate("NCDHW"[: rank + 2])) | {1: "C"}}
    for module in (AVG[rank](output), MAX[rank](output)):
        assert_lowering_matches(module, x, dynamic=axes, also=(other,))


def test_to_a_size_that_is_dynamic() -> None:
    """As pyramids do: one map pooled to the size of another, or to its own on one axis."""
    x, y, axes = torch.randn(1, 2, 9, 8), torch.randn(1, 2, 4, 5), {0: {2: "H"}, 1: {2: "h", 3: "w"}}
    for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d):
        assert_lowering_matches(
            lambda x, y: pool(x, y.shape[2:]) + y,  # noqa: B023
            x, y, dynamic=axes, also=(torch.randn(1, 2, 11, 8), torch.randn(1, 2, 3, 7)),
        )  # fmt: skip
        assert_lowering_matches(
            lambda x: pool(x, (None, 3)),  # noqa: B023
            x, dynamic={0: {2: "H"}}, also=(torch.randn(1, 2, 12, 8),),
        )  # fmt: skip


def test_places_over_dynamic_sizes_are_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="places of maxima in windows over a dynamic size"):
        assert_lowering_matches(MAX[2](3, return_indices=True), torch.randn(1, 2, 9, 8), dynamic={0: {2: "H"}})


@pytest.mark.parametrize("output", [(None, 1), (1, None), (None, None), (None, 4), (4, None), (1, 3)])
def test_an_axis_that_keeps_or_loses_its_size_may_be_dynamic(output: Any) -> None:
    x, other = torch.randn(2, 3, 9, 8), torch.randn(5, 3, 9, 8)
    axes = {0: "N", **{axis: name for axis, name, size in zip((2, 3), "HW", output, strict=True) if size in (None, 1)}}
    if 2 in axes:
        other = torch.randn(5, 3, 12, 8)
    for kinds in (AVG, MAX):
        assert_lowering_matches(kinds[2](output), x, dynamic={0: axes}, also=(other,))
