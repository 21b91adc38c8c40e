"""Pools against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import UnsupportedOpError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
LP = {1: nn.LPPool1d, 2: nn.LPPool2d, 3: nn.LPPool3d}


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, tuple[int, ...], dict[str, Any]]:
    """A rank, an input's shape, and a pool's arguments, most of which fit each other."""
    rank = draw(st.integers(1, 3))
    lead = draw(st.sampled_from([(2,), (2, 3)]))
    shape = (*lead, *(draw(st.integers(1, 9)) for _ in range(rank)))
    per_axis = lambda low, high: st.integers(low, high) | st.tuples(*[st.integers(low, high)] * rank)  # noqa: E731
    arguments = {
        "kernel_size": draw(per_axis(1, 4)),
        "stride": draw(st.none() | per_axis(1, 4)),
        "padding": draw(st.just(0) | per_axis(0, 2)),
        "ceil_mode": draw(st.booleans()),
    }
    return rank, shape, arguments


@given(case=windows(), dilation=st.integers(1, 2), indices=st.booleans())
def test_max_pool_shape(case: Any, dilation: int, indices: bool) -> None:
    rank, shape, arguments = case
    arguments |= {"dilation": dilation, "return_indices": indices}
    assert_shape_matches(lambda x: MAX[rank](x, **arguments), torch.empty(shape))


@given(case=windows())
def test_avg_pool_shape(case: Any) -> None:
    rank, shape, arguments = case
    assert_shape_matches(lambda x: AVG[rank](x, **arguments), torch.empty(shape))


@given(case=windows(), norm=st.sampled_from([1.0, 2.0]))
def test_lp_pool_shape(case: Any, norm: float) -> None:
    rank, shape, arguments = case
    del arguments["padding"]
    if rank == 1:  # torch multiplies by the kernel size itself there, so it takes no tuple
        arguments["kernel_size"] = 2
    assert_shape_matches(LP[rank](norm, **arguments), torch.empty(shape))


OPTIONS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("lead", [(2, 3), (3,)])
def test_max_pool(rank: int, options: dict[str, Any], lead: tuple[int, ...]) -> None:
    x = torch.randn(*lead, *(8, 7, 6)[:rank])
    assert_lowering_matches(lambda x: MAX[rank](x, **options), x)
    assert_lowering_matches(lambda x: MAX[rank](x, **options, return_indices=True), x)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("counted", [True, False])
def test_avg_pool(rank: int, options: dict[str, Any], counted: bool) -> None:
    x = torch.randn(2, 3, *(8, 7, 6)[:rank])
    assert_lowering_matches(lambda x: AVG[rank](x, **options, count_include_pad=counted), x)
    if rank > 1:
        assert_lowering_matches(lambda x: AVG[rank](x, **options, count_include_pad=counted, divisor_override=3), x)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0])
def test_lp_pool(rank: int, norm: float) -> None:
    x = torch.randn(2, 3, *(8, 7, 6)[:rank])
    assert_lowering_matches(LP[rank](norm, 3, 2, ceil_mode=rank == 2), x, atol=1e-4)


@given(case=windows(), dilation=st.integers(1, 2))
def test_max_pool_of_any_windows(case: Any, dilation: int) -> None:
    """The places of maxima are torch's, too, where several are equal."""
    rank, shape, arguments = case
    x = torch.randn(shape).round()
    try:
        expected = MAX[rank](x, **arguments, dilation=dilation)
    except RuntimeError:
        return
    if expected.isinf().any():  # a dilated window can hold padding alone, which has no maximum
        return
    try:
        assert_lowering_matches(lambda x: MAX[rank](x, **arguments, dilation=dilation, return_indices=True), x)
    except UnsupportedOpError as error:
        assert arguments["ceil_mode"]
        assert "dilated window" in str(error)  # noqa: PT017


@given(case=windows(), counted=st.booleans(), divisor=st.none() | st.integers(1, 5))
def test_avg_pool_of_any_windows(case: Any, counted: bool, divisor: int | None) -> None:
    rank, shape, arguments = case
    options = {"count_include_pad": counted} | ({} if rank == 1 else {"divisor_override": divisor})
    x = torch.randn(shape)
    try:
        AVG[rank](x, **arguments, **options)
    except RuntimeError:
        return
    assert_lowering_matches(lambda x: AVG[rank](x, **arguments, **options), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("opset", [13, 23])
def test_dtypes(dtype: torch.dtype, opset: int) -> None:
    x = (torch.randn(2, 3, 6, 6) * 10).to(dtype)
    assert_lowering_matches(lambda x: F.max_pool2d(x, 2, return_indices=True), x, opset=opset)
    if dtype == torch.float16:  # onnxruntime averages no float64
        assert_lowering_matches(lambda x: F.avg_pool2d(x, 2), x, opset=opset, rtol=1e-3)


@pytest.mark.parametrize("pool", [F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d])
def test_bfloat16(pool: Any) -> None:
    """ONNX has no pool of it before opset 22, so it is computed in float32."""
    x = torch.randn(2, 3, 6, 6)
    assert_lowering_matches(lambda x: pool(x.bfloat16(), 3).float(), x, rtol=1e-2)


def test_int64_is_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="no MaxPool of int64"):
        assert_lowering_matches(lambda x: F.max_pool2d(x, 2), torch.ones(1, 1, 4, 4, dtype=torch.int64))


@pytest.mark.parametrize("opset", [13, 17, 18, 23])
def test_modules_at_opsets(opset: int) -> None:
    x = torch.randn(2, 3, 9, 8)
    for module in (
        nn.MaxPool2d(3, 2, 1, dilation=2),
        nn.MaxPool2d(3, return_indices=True),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d((2, 3), divisor_override=5),
    ):
        assert_lowering_matches(module, x, opset=opset)
    assert_lowering_matches(nn.AvgPool1d(3, 2), x[0], opset=opset)


def test_dynamic_sizes() -> None:
    axes = {0: {0: "N", 2: "H", 3: "W"}}
    x, other = torch.randn(2, 3, 9, 8), torch.randn(5, 3, 12, 7)
    for module in (nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.LPPool2d(2.0, 2), nn.MaxPool2d(2, return_indices=True)):
        assert_lowering_matches(module, x, dynamic=axes, also=(other,), atol=1e-4)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True, return_indices=True),
        nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=4),
        nn.LPPool2d(2.0, 3, 2, ceil_mode=True),
    ],
)
def test_ceil_mode_over_dynamic_sizes(pool: nn.Module) -> None:
    """One file runs at sizes where the last window is full, and at others; nothing was asked of the sizes."""
    x = torch.randn(2, 3, 9, 8)
    assert not propagated(pool, torch.empty(2, 3, 9, 8)).log.guards
    for other in (torch.randn(1, 3, 12, 7), torch.randn(3, 3, 11, 11)):
        assert_lowering_matches(pool, x, dynamic={0: {0: "N", 2: "H", 3: "W"}}, also=(other,), atol=1e-4)


@pytest.mark.parametrize("size", [11, 12, 13, 14, 15])
@pytest.mark.parametrize("options", OPTIONS[2:])
def test_ceil_mode_over_a_dynamic_size(options: dict[str, Any], size: int) -> None:
    x, other = torch.randn(2, 3, 9, 8), torch.randn(5, 3, size, size + 2)
    for module in (
        nn.MaxPool2d(**options),
        nn.AvgPool2d(**options),
        nn.AvgPool2d(**options, count_include_pad=False),
        nn.AvgPool2d(**options, divisor_override=5),
    ):
        assert_lowering_matches(module, x, dynamic={0: {0: "N", 2: "H", 3: "W"}}, also=(other,))


@pytest.mark.parametrize("padding", [0, 1])
def test_a_dilated_last_window_may_reach_a_whole_kernel_beyond_the_input(padding: int) -> None:
    module = nn.MaxPool1d(2, stride=4, dilation=3, ceil_mode=True, padding=padding)
    assert_lowering_matches(module, torch.randn(2, 3, 9))
    assert_lowering_matches(module, torch.randn(2, 3, 9), dynamic={0: {2: "T"}}, also=(torch.randn(2, 3, 12),))
    integers = nn.MaxPool2d(2, stride=4, dilation=3, ceil_mode=True, padding=padding)
    assert_lowering_matches(integers, torch.randint(-9, 9, (2, 3, 9, 9), dtype=torch.int32))


def test_a_window_too_large_is_named_in_numbers() -> None:
    with pytest.raises(tracer.ShapeError, match="window of 7 elements is larger than spatial axis 0, which has 6"):
        propagated(nn.MaxPool2d(7, padding=1), torch.empty(1, 3, 4, 9))
