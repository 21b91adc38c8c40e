"""Padding against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from passes.errors import ShapeError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

MODES = ("constant", "reflect", "replicate", "circular")
sizes = st.integers(1, 5)


@given(
    shape=st.lists(sizes, min_size=1, max_size=5),
    pad=st.lists(st.integers(-3, 4), max_size=8),
    mode=st.sampled_from([*MODES, "mirror"]),
    value=st.sampled_from([None, 0.0, 1.5]),
)
def test_shape(shape: list[int], pad: list[int], mode: str, value: float | None) -> None:
    assert_shape_matches(lambda x: F.pad(x, tuple(pad), mode=mode, value=value), torch.empty(shape))


@given(
    mode=st.sampled_from(MODES),
    lead=st.lists(sizes, min_size=1, max_size=2),
    axes=st.lists(st.tuples(sizes, st.integers(-3, 4), st.integers(-3, 4)), min_size=1, max_size=3),
)
def test_shape_of_every_mode(mode: str, lead: list[int], axes: list[tuple[int, int, int]]) -> None:
    # Torch wraps around what is left by cropping more than there is where nothing comes out; the rule refuses it.
    assume(mode != "circular" or all(size + min(before, 0) + min(after, 0) >= 0 for size, before, after in axes))
    pad = [amount for _, before, after in reversed(axes) for amount in (before, after)]
    assert_shape_matches(lambda x: F.pad(x, pad, mode=mode), torch.empty(*lead, *(size for size, _, _ in axes)))


@pytest.mark.parametrize("opset", [13, 18, 20, 23])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pad", [(1, 2), (0, 1, 2, 0), (1, 1, 0, 2, 1, 0), (-1, 2), (2, -1, -2, 0), (-1, -1), (0, 0)])
def test_lowering(mode: str, pad: tuple[int, ...], opset: int) -> None:
    x = torch.randn(2, 3, *(4, 5, 6)[: len(pad) // 2])
    assert_lowering_matches(lambda x: F.pad(x, pad, mode=mode), x, opset=opset)


@pytest.mark.parametrize("value", [2.5, float("-inf")])
def test_constant_of_any_rank(value: float) -> None:
    assert_lowering_matches(lambda x: F.pad(x, (1, 0, 0, 2, 3, 1, 1, 1), value=value), torch.randn(1, 2, 3, 2))
    assert_lowering_matches(lambda x: torch.constant_pad_nd(x, (1, 2), value), torch.randn(3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool])
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.arange(12).reshape(1, 3, 4).to(dtype)
    assert_lowering_matches(lambda x: F.pad(x, (1, 2), value=3), x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("opset", [13, 20])
def test_dynamic_axes(mode: str, opset: int) -> None:
    assert_lowering_matches(
        lambda x: F.pad(x, (2, -1, -1, 3), mode=mode),
        torch.randn(2, 3, 5, 6),
        dynamic={0: {0: "N", 2: "H", 3: "W"}},
        opset=opset,
        also=(torch.randn(4, 3, 9, 4),),
    )


@pytest.mark.parametrize("mode", ["constant", "replicate"])
def test_amounts_that_depend_on_the_size(mode: str) -> None:
    assert_lowering_matches(
        lambda x: F.pad(x, (0, -x.shape[3] % 4, 0, x.shape[2] % 2), mode=mode),
        torch.randn(2, 3, 5, 6),
        dynamic={0: {2: "H", 3: "W"}},
        also=(torch.randn(2, 3, 4, 9),),
    )


def test_to_a_fixed_length_crops_what_is_longer() -> None:
    model = assert_lowering_matches(
        lambda x: F.pad(x, (0, 6 - x.shape[1])), torch.randn(2, 4), dynamic={0: {1: "T"}}, also=(torch.randn(2, 9),)
    )
    assert "Pad" in [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConstantPad1d((1, 2), 3.5), (2, 3, 4)),
        (nn.ConstantPad2d(1, -1.0), (3, 4, 4)),
        (nn.ConstantPad3d((1, 0, 0, 1, -1, 2), 1.0), (2, 3, 4, 4, 4)),
        (nn.ZeroPad1d(2), (2, 3, 4)),
        (nn.ZeroPad2d((1, 0, 2, -1)), (2, 3, 4, 4)),
        (nn.ZeroPad3d(1), (2, 3, 2, 2, 2)),
        (nn.ReflectionPad1d((2, 1)), (3, 4)),
        (nn.ReflectionPad2d(2), (2, 3, 4, 4)),
        (nn.ReflectionPad3d(1), (2, 3, 4, 3, 3)),
        (nn.ReplicationPad1d((2, 5)), (3, 4)),
        (nn.ReplicationPad2d(2), (2, 3, 1, 4)),
        (nn.ReplicationPad3d((1, 2, 0, 1, 1, 1)), (3, 2, 2, 2)),
        (nn.CircularPad1d((2, 1)), (3, 4)),
        (nn.CircularPad2d(2), (2, 3, 4, 4)),
        (nn.CircularPad3d(1), (2, 3, 4, 3, 3)),
    ],
)
def test_modules(layer: nn.Module, shape: tuple[int, ...]) -> None:
    assert_shape_matches(layer, torch.empty(shape))
    assert_lowering_matches(layer, torch.randn(shape))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["reflection", "replication"])
def test_native_spellings(kind: str, rank: int) -> None:
    function = getattr(torch._C._nn, f"{kind}_pad{rank}d")
    assert_lowering_matches(lambda x: function(x, [1] * 2 * rank), torch.randn(2, 2, *[3] * rank))


@pytest.mark.parametrize(
    ("pad", "mode", "words"),
    [
        ((5, 0), "reflect", r"\(5, 0\) of axis 2, which has size 4"),
        ((0, 5), "circular", "wraps around more than once"),
        ((-5, 0), "constant", "crops more"),
        ((1, 1, 1), "constant", "3 numbers"),
        ((1,) * 8, "constant", "4 axes are padded, but the input has only 3"),
    ],
)
def test_refusals_name_the_numbers(pad: Any, mode: str, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        propagated(lambda x: F.pad(x, pad, mode=mode), torch.empty(2, 3, 4))
