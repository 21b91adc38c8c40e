"""Max unpooling against torch: shapes on meta, values in onnxruntime."""

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

POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
UNPOOL = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}
LAYERS = {
    1: (nn.MaxPool1d, nn.MaxUnpool1d),
    2: (nn.MaxPool2d, nn.MaxUnpool2d),
    3: (nn.MaxPool3d, nn.MaxUnpool3d),
}


class Autoencoder(nn.Module):
    """A pool whose places of maxima an unpool uses, at the sizes that went into the pool or at its own."""

    def __init__(self, rank: int, restore: bool, **options: Any):
        super().__init__()
        pool, unpool = LAYERS[rank]
        self.pool = pool(**options, return_indices=True)
        options = {name: value for name, value in options.items() if name in ("kernel_size", "stride", "padding")}
        self.unpool = unpool(**options)
        self.restore = restore

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled, indices = self.pool(x)
        return self.unpool(pooled, indices, output_size=x.size()) if self.restore else self.unpool(pooled, indices)


@given(
    rank=st.integers(1, 3),
    lead=st.lists(st.integers(0, 3), max_size=3),
    sizes=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    kernel=st.integers(1, 3) | st.lists(st.integers(1, 3), min_size=3, max_size=3),
    stride=st.none() | st.integers(1, 3),
    padding=st.integers(0, 2),
    more=st.none() | st.lists(st.integers(-2, 2), min_size=3, max_size=3),
)
def test_shape(rank: int, lead: Any, sizes: Any, kernel: Any, stride: Any, padding: int, more: Any) -> None:
    spatial, kernel = sizes[:rank], kernel if isinstance(kernel, int) else kernel[:rank]
    output_size = None
    if more is not None:
        output_size = [size * 2 + extra for size, extra in zip(spatial, more, strict=False)]
    x = torch.zeros(*lead, *spatial)
    assert_shape_matches(
        lambda x, places: UNPOOL[rank](x, places, kernel, stride, padding, output_size), x, x.to(torch.int64)
    )


# Each with a size that the pool does not cut short. Windows that overlap find one maximum more than once.
OPTIONS: list[tuple[int, dict[str, Any]]] = [
    (6, {"kernel_size": 2}),
    (9, {"kernel_size": 3, "stride": 2, "padding": 1}),
    (8, {"kernel_size": 2, "stride": 3}),
    (9, {"kernel_size": 3, "stride": 2}),
]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("size", "options"), OPTIONS)
@pytest.mark.parametrize("lead", [(3,), (2, 3)])
def test_lowering(rank: int, size: int, options: dict[str, Any], lead: tuple[int, ...]) -> None:
    x = torch.randn(*lead, *[size] * rank)
    assert_lowering_matches(Autoencoder(rank, False, **options), x)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("opset", [13, 18, 23])
def test_lowering_at_the_size_before_the_pool(rank: int, opset: int) -> None:
    """Sizes as decoders give them: those of the whole tensor, batch and channels among them."""
    x = torch.randn(2, 3, *(7, 9, 8)[:rank])
    assert_lowering_matches(Autoencoder(rank, True, kernel_size=2), x, opset=opset)


def test_dynamic_sizes() -> None:
    x, other = torch.randn(2, 3, 8, 6), torch.randn(5, 3, 4, 12)
    axes = {0: {0: "N", 2: "H", 3: "W"}}
    assert_lowering_matches(Autoencoder(2, True, kernel_size=2), x, dynamic=axes, also=(other,))
    assert_lowering_matches(Autoencoder(2, False, kernel_size=2), x, dynamic=axes, also=(torch.randn(1, 3, 6, 10),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 6, 6).to(dtype)
    assert_lowering_matches(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), x)


def test_refusals_name_the_numbers() -> None:
    x, places = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4, dtype=torch.int64)
    with pytest.raises(ShapeError, match="output_size of spatial axis 1 is 12, but must be between 6 and 10"):
        propagated(lambda x, i: F.max_unpool2d(x, i, 2, output_size=(8, 12)), x, places)
    with pytest.raises(ShapeError, match=r"one index per element of float32\[1, 2, 4, 4\], found indices of shape"):
        propagated(lambda x, i: F.max_unpool2d(x, i[:, :1], 2), x, places)
