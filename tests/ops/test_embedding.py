"""Embeddings and bags of them against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from passes.errors import ShapeError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

shapes = st.lists(st.integers(0, 3), max_size=3)
INDICES = st.sampled_from([torch.int64, torch.int32, torch.int16, torch.float32])
MODES = ("sum", "mean", "max")


@given(shape=shapes, weight=st.lists(st.integers(1, 4), min_size=1, max_size=3), dtype=INDICES, data=st.data())
def test_embedding_shape(shape: list[int], weight: list[int], dtype: torch.dtype, data: st.DataObject) -> None:
    x, rows = torch.zeros(shape, dtype=dtype), torch.zeros(weight)
    if len(weight) == 2:  # of a padding index out of range, and of other weights, torch says so with an assertion
        padding = data.draw(st.none() | st.integers(-weight[0], weight[0] - 1))
        assert_shape_matches(lambda x, rows: F.embedding(x, rows, padding), x, rows)
        assert_shape_matches(lambda x, rows: torch.embedding(rows, x), x, rows)
    else:
        with pytest.raises(ShapeError):
            propagated(lambda x, rows: F.embedding(x, rows), x, rows)


@given(
    shape=st.lists(st.integers(1, 3), max_size=3),
    offsets=st.none() | st.lists(st.integers(0, 3), max_size=2),
    mode=st.sampled_from([*MODES, "min"]),
    last=st.booleans(),
    weighted=st.booleans(),
    padding=st.none() | st.integers(-6, 5),
)
def test_embedding_bag_shape(shape: Any, offsets: Any, mode: str, last: bool, weighted: bool, padding: Any) -> None:
    x, rows = torch.zeros(shape, dtype=torch.int64), torch.zeros(5, 4)
    starts = torch.zeros(offsets or [], dtype=torch.int64)
    options: dict[str, Any] = {"mode": mode, "include_last_offset": last, "padding_idx": padding}

    def bag(x: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        weights = torch.ones_like(x, dtype=torch.float32) if weighted else None
        return F.embedding_bag(x, rows, None if offsets is None else starts, per_sample_weights=weights, **options)

    assert_shape_matches(bag, x, rows, starts)


@pytest.mark.parametrize("opset", [13, 23])
@pytest.mark.parametrize("layer", [nn.Embedding(5, 4), nn.Embedding(5, 4, padding_idx=1)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_embedding(layer: nn.Module, dtype: torch.dtype, opset: int) -> None:
    x, other = torch.randint(5, (2, 3)).to(dtype), torch.randint(5, (4, 6)).to(dtype)
    assert_lowering_matches(layer, x, dynamic={0: {0: "N", 1: "T"}}, opset=opset, also=(other,))


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0, float("inf")])
def test_rows_of_a_limited_norm(norm: float) -> None:
    """torch scales the rows in the weight itself, so each file is compared with a weight of its own."""
    x = torch.tensor([[0, 4], [4, 1]])
    assert_lowering_matches(nn.Embedding(5, 4, max_norm=0.7, norm_type=norm), x)
    assert_lowering_matches(nn.EmbeddingBag(5, 4, max_norm=0.7, norm_type=norm), x)


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [None, 1])
def test_bags(mode: str, padding: int | None, opset: int) -> None:
    layer = nn.EmbeddingBag(5, 4, mode=mode, padding_idx=padding)
    x, other = torch.tensor([[0, 1, 4], [1, 1, 1]]), torch.randint(5, (4, 6))
    assert_lowering_matches(layer, x, dynamic={0: {0: "N", 1: "T"}}, opset=opset, also=(other,))
    x, offsets = torch.tensor([3, 1, 0, 4, 1]), torch.tensor([0, 2, 2, 4])
    assert_lowering_matches(
        layer, x, offsets, dynamic={0: {0: "T"}, 1: {0: "N"}}, opset=opset,
        also=(torch.randint(5, (9,)), torch.tensor([0, 8])),
    )  # fmt: skip


def test_bags_with_an_end_and_with_weights() -> None:
    x, offsets = torch.tensor([3, 1, 0, 4, 1]), torch.tensor([0, 2, 5])
    for mode in MODES:
        assert_lowering_matches(nn.EmbeddingBag(5, 4, mode=mode, include_last_offset=True), x, offsets)
    layer, weights = nn.EmbeddingBag(5, 4, mode="sum"), torch.randn(5)
    assert_lowering_matches(lambda x, o, rows, w: F.embedding_bag(x, rows, o, per_sample_weights=w, mode="sum"),
                            x, offsets, layer.weight.detach(), weights)  # fmt: skip


def test_refusals() -> None:
    x = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ShapeError, match="padding_idx is 5, but there are 3 rows"):
        propagated(lambda x: F.embedding(x, torch.ones(3, 2), padding_idx=5), x)
