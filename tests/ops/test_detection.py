"""Suppression of boxes and features along regions, beside Python kernels of torchvision's operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tracer
from tests.detection_kernels import register_kernels
from tests.reading import run

register_kernels()


def boxes(count: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    corners = torch.rand(count, 2) * 20
    return torch.cat([corners, corners + 1 + torch.rand(count, 2) * 8], 1)


class Suppressing(nn.Module):
    def forward(self, dets: torch.Tensor, scores: torch.Tensor) -> Any:
        kept = torch.ops.torchvision.nms(dets, scores, 0.3)
        return kept, dets[kept], scores[kept].sum()


class Cutting(nn.Module):
    def __init__(self, *options: Any):
        super().__init__()
        self.options, self.head = options, nn.LazyLinear(3)

    def forward(self, x: torch.Tensor, rois: torch.Tensor) -> Any:
        cut = torch.ops.torchvision.roi_align(x, rois, *self.options)
        return cut, self.head(cut.flatten(1))


@pytest.mark.parametrize("opset", [13, 18, 23])
def test_suppression(opset: int, tmp_path: Path) -> None:
    specs = tracer.spec("N", 4), tracer.spec("N")
    report = tracer.convert(Suppressing(), specs, tmp_path / "net.onnx", opset_version=opset, route="direct").report
    assert report.outputs == ["int64[u0]", "float32[u0, 4]", "float32[]"]
    assert report.from_data[0].startswith("u0 is the number of boxes that are kept")
    for count in (0, 1, 2, 60):
        dets, scores = boxes(count), torch.rand(count)
        found = run(tmp_path / "net.onnx", dets=dets, scores=scores)
        for ours, theirs in zip(found.values(), Suppressing()(dets, scores), strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs)


@pytest.mark.parametrize("options", [(0.5, 3, 2, 2, False), (0.25, 2, 2, -1, False), (1.0, 7, 7, 0, True)])
def test_regions(options: Any, tmp_path: Path) -> None:
    specs = tracer.spec(2, 5, 16, 20), tracer.spec("K", 5)
    model = Cutting(*options).eval()
    eager = tracer.resolve(model, specs, seed=0)
    tracer.convert(model, specs, tmp_path / "net.onnx", opset_version=18, route="direct", seed=0, verify=False)
    for count in (0, 1, 7):
        x = torch.randn(2, 5, 16, 20)
        rois = torch.cat([torch.randint(0, 2, (count, 1)).float(), boxes(count) * 1.5 - 4], 1)
        found = run(tmp_path / "net.onnx", x=x, rois=rois)
        for ours, theirs in zip(found.values(), eager(x, rois), strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-4)


def test_refusals() -> None:
    with pytest.raises(tracer.TracerError, match=r"boxes of shape \[N, 4\]"):
        tracer.inspect(Suppressing(), (tracer.spec("N", 5), tracer.spec("N")))
    with pytest.raises(tracer.TracerError, match=r"regions of shape \[K, 5\]"):
        tracer.inspect(Cutting(1.0, 2, 2, 0, True), (tracer.spec(1, 2, 8, 8), tracer.spec("K", 4)))
