"""Weights that go straight into the file: the same bytes, the same random state, and little in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tracer
from passes.modules.lazy import is_uninitialized
from tests.benchmarks.measuring import peak_bytes
from tests.test_dry_run_identity import assert_same


class Folded(nn.Module):
    """Batch norms folded into lazy and eager layers, a tie, a layer without use, and random numbers in between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()
        self.known, self.known_norm = nn.Conv2d(4, 6, 1), nn.LazyBatchNorm2d()
        self.late, self.late_norm = nn.LazyConv2d(5, 1, bias=False), nn.BatchNorm2d(5)
        self.unused = nn.LazyLinear(3)
        self.first, self.tied = nn.LazyLinear(8, bias=False), nn.LazyLinear(8, bias=False)
        self.tied.weight = self.first.weight
        self.head = nn.LazyLinear(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.known_norm(self.known(self.norm(self.conv(x))))
        x = self.late_norm(self.late(x)).mean((2, 3))
        self.unused(x + torch.rand(1))
        x = torch.cat([x, x[:, :3]], 1)
        return self.head(self.tied(self.first(x)))


MODELS: list[tuple[Any, tuple[Any, ...]]] = [
    (Folded, ("N", 3, 6, 6)),
    (lambda: nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3)), (2, 5)),
    (lambda: nn.Sequential(nn.LazyConvTranspose2d(4, 2, groups=2), nn.LazyBatchNorm2d(), nn.Flatten()), ("N", 2, 3, 3)),
]


@pytest.mark.filterwarnings("ignore::tracer.TracerWarning")
@pytest.mark.parametrize("limit", [None, 10])
@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize(("build", "shape"), MODELS)
def test_the_file_is_that_of_a_conversion_in_memory(
    build: Any, shape: Any, seed: int | None, limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        monkeypatch.setattr("passes.files.writer.write_model.__defaults__", (None, limit, None))
    model, sample = build(), tracer.spec(*shape)
    files, states, conversions = [], [], []
    for threshold in (0, 2**40):
        monkeypatch.setattr("tracer.steps.delivery.STREAMED_FROM", threshold)
        folder = tmp_path / str(threshold)
        folder.mkdir()
        torch.manual_seed(1)
        conversions.append(tracer.convert(model, sample, folder / "model.onnx", seed=seed, verify=False))
        states.append(torch.get_rng_state())
        files.append({file.name: file.read_bytes() for file in folder.iterdir()})
    streamed, kept = conversions
    assert streamed._module is None
    assert kept._module is not None
    assert files[0] == files[1]
    assert torch.equal(states[0], states[1])
    assert any(is_uninitialized(tensor) for tensor in model.parameters())
    assert (streamed.route, streamed.route_reason) == (kept.route, kept.route_reason)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert_same(streamed.module, kept.module)
    assert torch.equal(torch.get_rng_state(), state)
    assert streamed.onnx_model == kept.onnx_model
    x = torch.randn([2 if size == "N" else size for size in shape])
    torch.testing.assert_close(streamed.graph_module(x), kept.graph_module(x), equal_nan=True)


def test_what_cannot_be_lowered_takes_the_torch_route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Determinant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.LazyLinear(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft(self.fc(x)).real

    monkeypatch.setattr("tracer.steps.delivery.STREAMED_FROM", 0)
    conversion = tracer.convert(Determinant(), tracer.spec(2, 3), tmp_path / "model.onnx", seed=0, verify=False)
    assert conversion.route == "torch"
    with pytest.raises(tracer.UnsupportedOpError, match="fft"):
        tracer.convert(Determinant(), tracer.spec(2, 3), tmp_path / "other.onnx", route="direct", verify=False)
    assert not (tmp_path / "other.onnx").exists()


def test_one_layer_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """Half a gigabyte of weights in ten layers."""
    work = f"tracer.convert(model, tracer.spec(1, 3600), {str(tmp_path / 'm.onnx')!r}, seed=0, verify=False)"
    peak = peak_bytes("model = torch.nn.Sequential(*(torch.nn.LazyLinear(3600) for _ in range(10)))", work)
    assert (tmp_path / "m.onnx").stat().st_size > 500e6
    assert peak < 200e6
