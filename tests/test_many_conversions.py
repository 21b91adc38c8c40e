"""Many conversions in one process, and the collector that is paused meanwhile."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tracer
from tracer.edge.collection_pause import without_collection


class Net(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv, self.norm, self.fc = nn.LazyConv2d(width, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x)).relu()
        return self.fc(torch.cat([x, torch.zeros_like(x)], 1).mean((2, 3)))


def test_the_collector_is_as_it_was() -> None:
    seen: list[bool] = []
    run = without_collection(lambda: seen.append(gc.isenabled()))
    run()
    gc.disable()
    try:
        run()
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(ZeroDivisionError):
        without_collection(lambda: 1 / 0)()
    assert gc.isenabled()
    assert seen == [False, False]


def growth(conversions: int) -> int:
    """By how many bytes the process grows over a number of conversions, after as many to warm up."""
    model, sample = Net(8), tracer.spec("N", 3, 8, 8)
    sizes = []
    for _ in range(2):
        for _ in range(conversions):
            tracer.convert(model, sample, verify=False)
        gc.collect()
        sizes.append(resident_bytes())
    return sizes[1] - sizes[0]


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("conversions", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_a_loop_does_not_grow(conversions: int) -> None:
    assert growth(conversions) < 2_000_000 + conversions * 1_000
