"""Resampling against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import ShapeError, UnsupportedOpError
from tests.ops.oracle import Call, as_module, assert_lowering_matches, assert_shape_matches, propagated

MODES = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "area": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
}
CASES = [(mode, rank) for mode, ranks in MODES.items() for rank in ranks]
ALIGNED = [(mode, rank, corners) for mode, rank in CASES[9:] for corners in (False, True)]
sizes = st.integers(1, 7)


def ops_of(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


@given(
    shape=st.lists(sizes, min_size=2, max_size=6),
    size=st.none() | st.integers(1, 9) | st.lists(sizes, min_size=1, max_size=3),
    factor=st.none() | st.floats(0.1, 3.5) | st.lists(st.floats(0.1, 3.5), min_size=1, max_size=3),
    mode=st.sampled_from([*MODES, "lanczos", "sinc"]),
    align_corners=st.sampled_from([None, False, True]),
    recompute=st.sampled_from([None, False, True]),
    antialias=st.booleans(),
)
def test_shape(
    shape: list[int], size: Any, factor: Any, mode: str, align_corners: Any, recompute: Any, antialias: bool
) -> None:
    # For a size of 0, torch's refusal on meta is a ZeroDivisionError.
    least = min(factor) if isinstance(factor, list) else factor or 1
    assume(all(int(old * least) for old in shape[2:]))
    assert_shape_matches(
        lambda x: F.interpolate(x, size, factor, mode, align_corners, recompute, antialias), torch.empty(shape)
    )


@given(
    case=st.sampled_from(CASES),
    spatial=st.lists(sizes, min_size=3, max_size=3),
    size=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    factor=st.none() | st.lists(st.floats(0.1, 3.5), min_size=3, max_size=3),
    recompute=st.booleans(),
)
def test_shape_of_every_mode(
    case: tuple[str, int], spatial: list[int], size: list[int], factor: Any, recompute: bool
) -> None:
    mode, rank = case
    target: dict[str, Any] = {"size": size[:rank]}
    if factor is not None:
        # For a size of 0, torch's refusal on meta is a ZeroDivisionError.
        assume(all(int(old * by) for old, by in zip(spatial, factor, strict=True)))
        target = {"scale_factor": factor[:rank], "recompute_scale_factor": recompute}
    assert_shape_matches(lambda x: F.interpolate(x, mode=mode, **target), torch.empty(2, 3, *spatial[:rank]))


@pytest.mark.parametrize("opset", [13, 18, 23])
@pytest.mark.parametrize(("mode", "rank"), CASES)
@pytest.mark.parametrize(
    "target",
    [
        {"size": (9, 3, 7)},
        {"scale_factor": (2.0, 0.5, 3.0)},
        {"scale_factor": (1.7, 2.3, 0.6)},
        {"scale_factor": (1.7, 2.3, 0.6), "recompute_scale_factor": True},
    ],
)
def test_lowering(mode: str, rank: int, target: dict[str, Any], opset: int) -> None:
    given = {key: value[:rank] if isinstance(value, tuple) else value for key, value in target.items()}
    x = torch.randn(2, 3, *(5, 6, 4)[:rank])
    assert_lowering_matches(lambda x: F.interpolate(x, mode=mode, **given), x, opset=opset)


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize(("mode", "rank", "corners"), ALIGNED)
@pytest.mark.parametrize("size", [(9, 3, 7), (1, 1, 1), (4, 12, 8)])
def test_align_corners(mode: str, rank: int, corners: bool, size: tuple[int, ...], opset: int) -> None:
    x = torch.randn(2, 3, *(5, 6, 4)[:rank])
    assert_lowering_matches(lambda x: F.interpolate(x, size[:rank], mode=mode, align_corners=corners), x, opset=opset)


@pytest.mark.parametrize(("mode", "rank", "corners"), ALIGNED)
def test_align_corners_by_factor(mode: str, rank: int, corners: bool) -> None:
    x = torch.randn(2, 3, *(5, 6, 4)[:rank])
    factor = (2.5, 0.7, 1.6)[:rank]
    assert_lowering_matches(lambda x: F.interpolate(x, scale_factor=factor, mode=mode, align_corners=corners), x)


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area"])
def test_no_size(mode: str, size: int) -> None:
    assert_shape_matches(lambda x: F.interpolate(x, size, mode=mode), torch.empty(2, 3, 4, 5))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_a_factor_that_leaves_the_size_still_moves_elements(mode: str) -> None:
    assert_lowering_matches(lambda x: F.interpolate(x, scale_factor=(1.25, 1.0), mode=mode), torch.randn(1, 2, 3, 4))
    assert_lowering_matches(lambda x: F.interpolate(x, scale_factor=1.125, mode=mode), torch.randn(1, 2, 5, 7))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("first", range(1, 50, 7))
def test_nearest_picks_the_same_element_at_every_size(mode: str, first: int) -> None:
    """Also where float32 rounds torch's and ONNX's coordinates to different sides: 14 to 2, 8 to 41."""
    for before in range(first, first + 7):
        x = torch.arange(before, dtype=torch.float32).reshape(1, 1, before)
        assert_lowering_matches(
            lambda x: tuple(F.interpolate(x, size, mode=mode) for size in range(1, 66)), x, atol=0, rtol=0
        )


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("factor", [0.6, 1.2, 2.2, 2.9])
@pytest.mark.parametrize("shape", [(1, 2, 3, 4), (1, 1, 2, 2), (1, 5, 40, 70), (1, 1, 4, 3, 2), (1, 3, 4, 3, 2)])
def test_nearest_as_each_of_the_kernels_of_torch(mode: str, factor: float, shape: tuple[int, ...]) -> None:
    assert_lowering_matches(
        lambda x: F.interpolate(x, scale_factor=factor, mode=mode), torch.randn(shape), atol=0, rtol=0
    )


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beside", [(), (3,), (60,), (100,), (2, 2)], ids=str)
def test_nearest_of_a_dynamic_size_as_each_of_the_kernels_of_torch(
    mode: str, dtype: torch.dtype, beside: tuple[int, ...]
) -> None:
    """Where the products are next to whole numbers; torch's kernel depends on the axes, the dtype and the sizes."""
    after = (33, 41, 44, 47, 49, 55, 333)

    def resized(x: torch.Tensor) -> list[torch.Tensor]:
        return [F.interpolate(x, (*beside, size), mode=mode) for size in after]

    def of(before: int) -> torch.Tensor:
        return torch.arange(before, dtype=dtype).expand(1, 2, *beside, before).contiguous()

    axes = {2 + len(beside): "L"}
    conversion = tracer.convert(Call(resized), (of(5),), dynamic_shapes=[axes], verify=False, route="direct")
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString())
    for before in (2, 4, 6, 14, 18, 24, 45, 54, 108):
        for found, expected in zip(
            session.run(None, {"tensors_0": of(before).numpy()}), resized(of(before)), strict=True
        ):
            assert np.array_equal(found, expected.numpy()), before


ALONG = [*range(1, 12), 20, 31, 49, 50, 98, 99, 333]
OPEN = {
    1: [(size,) for size in ALONG],
    # torch picks by one kernel for results of height and width up to 128 together, by another one beyond
    2: [(h, w) for h in (1, 2, 3, 4, 7, 10, 49, 50, 98) for w in (1, 2, 3, 5, 49, 50, 99)],
    3: [(size, 3, 2) for size in (1, 2, 3, 4, 10, 40)],
}
FACTORS = [
    (1, 1.3),
    (2, 1.3),
    (3, 1.3),
    (2, 1.01),
    (2, 2.2),
    (2, (0.7, 4 / 3)),
    (2, "a third more"),
    (1, "a third more"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize(("rank", "factor"), FACTORS)
def test_nearest_picks_the_same_element_at_every_open_size(
    rank: int, factor: Any, mode: str, dtype: torch.dtype
) -> None:
    def resized(x: Any) -> Any:
        by: dict[str, Any] = {"scale_factor": factor}
        if isinstance(factor, str):
            by = {"size": [size * 4 // 3 + 1 for size in x.shape[2:]]}
        return F.interpolate(x, mode=mode, **by)

    model = as_module(resized)
    sample = tracer.spec("N", 2, *"HWD"[:rank], dtype=dtype)
    conversion = tracer.convert(model, sample, route="direct", verify=False)
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString())
    tried = 0
    for sizes in OPEN[rank]:
        x = torch.randn(1, 2, *sizes, dtype=dtype)
        try:
            wanted = resized(x)
        except RuntimeError:  # nothing is left of it
            continue
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert found.shape == tuple(wanted.shape), sizes
        assert torch.equal(torch.from_numpy(found), wanted), sizes
        tried += 1
    assert tried > 5


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("factor", [0.3, 0.5, 0.7, 1.1, 1.3, 2.0, 2.9, 3.0, 7.0])
def test_nearest_picks_the_same_element_at_every_factor(mode: str, factor: float) -> None:
    for before in (3, 7, 8, 27, 31, 34, 37, 49, 128):
        if int(before * factor):
            assert_lowering_matches(
                lambda x: F.interpolate(x, scale_factor=factor, mode=mode),
                torch.arange(before, dtype=torch.float32).reshape(1, 1, before),
                atol=0,
                rtol=0,
            )


def test_a_factor_that_float32_would_round_below_the_size() -> None:
    for before in range(1, 60):
        for factor in (0.1, 0.2, 0.29, 0.55, 0.58, 1.1, 1.15):
            if int(before * factor):
                layer = nn.Upsample(scale_factor=factor, mode="linear")
                assert_lowering_matches(layer, torch.linspace(0, 1, before).reshape(1, 1, before))


@pytest.mark.parametrize("opset", [13, 18, 20])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("target", [{"size": (4, 9)}, {"size": (1, 20)}, {"scale_factor": (0.4, 1.7)}])
def test_antialias(mode: str, corners: bool, target: dict[str, Any], opset: int) -> None:
    x = torch.randn(2, 3, 11, 8)
    model = assert_lowering_matches(
        lambda x: F.interpolate(x, mode=mode, align_corners=corners, antialias=True, **target), x, opset=opset
    )
    assert ("Resize" in ops_of(model)) == (opset >= 18 and not corners)


def test_lanczos() -> None:
    assert_lowering_matches(
        lambda x: F.interpolate(x, (4, 9), mode="lanczos", antialias=True), torch.randn(2, 3, 11, 8)
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.Upsample(scale_factor=2),
        nn.Upsample(size=(9, 5), mode="bilinear", align_corners=True),
        nn.Upsample(scale_factor=(1.5, 2), mode="bicubic"),
        nn.Upsample(scale_factor=1.3, mode="bilinear", recompute_scale_factor=True),
        nn.UpsamplingNearest2d(scale_factor=3),
        nn.UpsamplingBilinear2d(size=7),
    ],
)
def test_modules(layer: nn.Module) -> None:
    assert_shape_matches(layer, torch.empty(2, 3, 4, 5))
    assert "Resize" in ops_of(assert_lowering_matches(layer, torch.randn(2, 3, 4, 5)))


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [2, 0.5, 1.75, 3])
def test_dynamic_axes_by_factor(mode: str, factor: float, opset: int) -> None:
    assert_lowering_matches(
        lambda x: F.interpolate(x, scale_factor=factor, mode=mode),
        torch.randn(2, 3, 6, 7),
        dynamic={0: {0: "N", 2: "H", 3: "W"}},
        opset=opset,
        also=(torch.randn(1, 3, 11, 14),),
    )


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_to_the_size_of_another_tensor(mode: str, opset: int) -> None:
    assert_lowering_matches(
        lambda x, y: F.interpolate(x, size=y.shape[2:], mode=mode),
        torch.randn(2, 3, 4, 5),
        torch.randn(2, 1, 9, 7),
        dynamic={0: {0: "N", 2: "h", 3: "w"}, 1: {0: "N", 2: "H", 3: "W"}},
        opset=opset,
        also=(torch.randn(1, 3, 14, 20), torch.randn(1, 1, 8, 12)),
    )


def test_a_dynamic_batch_needs_no_shape() -> None:
    model = assert_lowering_matches(
        lambda x: F.interpolate(x, (9, 9), mode="bilinear"),
        torch.randn(2, 3, 4, 5),
        dynamic={0: {0: "N"}},
        also=(torch.randn(5, 3, 4, 5),),
    )
    assert ops_of(model) == ["Resize"]


def test_area_is_one_pooling_where_the_windows_are_even() -> None:
    for target in ({"size": (2, 3)}, {"scale_factor": 0.5}):
        model = assert_lowering_matches(lambda x: F.interpolate(x, mode="area", **target), torch.randn(1, 2, 6, 6))  # noqa: B023
        assert ops_of(model) == ["AveragePool"]


@pytest.mark.parametrize("target", [{"size": (6, 11)}, {"scale_factor": 2}, {"scale_factor": (0.5, 1.5)}])
def test_area_of_a_dynamic_size(target: dict[str, Any]) -> None:
    x, other = torch.randn(2, 3, 8, 10), torch.randn(1, 3, 13, 7)
    axes = {0: {0: "N", 2: "H", 3: "W"}}
    assert_lowering_matches(lambda x: F.interpolate(x, mode="area", **target), x, dynamic=axes, also=(other,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_valid_onnx_in_other_types(dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 5, 6, dtype=dtype)
    for mode in ("nearest", "bilinear", "area"):
        tracer.convert(Call(lambda x: F.interpolate(x, (7, 4), mode=mode)), (x,), verify=False, route="direct")  # noqa: B023


def test_bytes_are_picked_but_not_averaged() -> None:
    x = torch.arange(24, dtype=torch.uint8).reshape(1, 1, 4, 6)
    assert_lowering_matches(lambda x: F.interpolate(x, (7, 4)), x)
    with pytest.raises(UnsupportedOpError, match=r"bilinear resampling of torch\.uint8"):
        assert_lowering_matches(lambda x: F.interpolate(x, (7, 4), mode="bilinear"), x)


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ShapeError, match="size has 2 numbers, but the input 1 spatial axes"):
        propagated(lambda x: F.interpolate(x, (4, 4)), torch.empty(1, 2, 3))
    with pytest.raises(ShapeError, match="bilinear takes an input of 4 axes"):
        propagated(lambda x: F.interpolate(x, 4, mode="bilinear"), torch.empty(1, 2, 3))
