"""The torch route: what the direct one lacks, with the interface of the direct one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import tracer
from tests.reading import names, properties, run, sizes
from tracer import ExportError, UnsupportedOpError

REPOSITORY = Path(__file__).parent.parent


class Fourier(nn.Module):
    """A batch norm, tied weights, a layer that is not reached, and operations without a direct lowering."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.LazyLinear(8), nn.LazyBatchNorm1d()
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)
        self.right.weight = self.left.weight
        self.register_buffer("window", torch.hann_window(8), persistent=False)
        self.spare = nn.LazyLinear(2)

    def forward(self, signal: torch.Tensor, gains: dict[str, torch.Tensor]) -> dict[str, Any]:
        x = self.right(self.left(self.norm(self.fc(signal)))) * self.window
        spectrum = torch.fft.rfft(x).abs() * gains["low"]
        return {"spectrum": spectrum, "phase": None, "parts": (x, signal)}


SAMPLE = (tracer.spec("N", 5), {"low": tracer.spec("N", 1)})


@pytest.fixture
def model() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tracer.TracerWarning)
        resolved = tracer.resolve(Fourier(), SAMPLE, seed=0).eval()
    resolved.spare = nn.Linear(8, 2)
    nn.init.uniform_(resolved.norm.running_var, 0.5, 2)
    return resolved


def test_it_has_the_interface_of_the_direct_route(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    conversion = tracer.convert(model, SAMPLE, path, metadata={"owner": "audio"})
    assert conversion.route == "torch"
    assert "fft_rfft" in conversion.route_reason
    graph = onnx.load(path).graph
    assert graph.name == "Fourier"
    assert names(graph.input) == ["signal", "gains_low"]
    assert names(graph.output) == ["spectrum", "parts_0", "parts_1"]
    assert [sizes(value) for value in (*graph.input, *graph.output)] == [
        ["N", 5], ["N", 1], ["N", 5], ["N", 8], ["N", 5],
    ]  # fmt: skip
    for batch in (1, 3):
        signal, low = torch.randn(batch, 5), torch.rand(batch, 1)
        with torch.no_grad():
            expected = model(signal, {"low": low})
        found = run(path, signal=signal, gains_low=low)
        np.testing.assert_allclose(found["spectrum"], expected["spectrum"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["parts_0"], expected["parts"][0], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found["parts_1"], signal)


def test_every_weight_that_is_used_is_itself(model: nn.Module) -> None:
    """Torch's optimizer would fold the batch norm, merge equal weights and compute with others, under their keys."""
    conversion = tracer.convert(model, SAMPLE)
    state = model.state_dict(keep_vars=True)
    unused = {"norm.num_batches_tracked", "spare.weight", "spare.bias"}
    weights = conversion.lowered.weights
    assert set(weights) == {*state, "window"} - unused - {"right.weight"}
    assert all(tensor is state[key] for key, tensor in weights.items() if key != "window")
    found = properties(conversion.onnx_model)
    assert found["lazytracer.route"] == "torch"
    assert found["lazytracer.initializers"]["right.weight"] == "left.weight"
    assert {key for key, spec in found["lazytracer.state_dict"].items() if spec is None} == unused
    assert found["lazytracer.folds"] == {}


def test_the_file_is_the_same_every_time_and_knows_no_place(tmp_path: Path) -> None:
    def convert(name: str) -> bytes:
        model = nn.Sequential(nn.LazyLinear(4), Spectrum(), nn.LazyLinear(3))
        state = torch.get_rng_state()
        conversion = tracer.convert(model, tracer.spec("N", 5), tmp_path / name, seed=0)
        assert torch.equal(torch.get_rng_state(), state)
        assert conversion.route == "torch"
        return (tmp_path / name).read_bytes()

    content = convert("one.onnx")
    assert content == convert("two.onnx")
    for trace in (tmp_path, REPOSITORY, Path.home(), Path(torch.__file__).parent, "/tests/", ".partial"):
        assert str(trace).encode() not in content
    assert b".py" not in content.replace(b"test_torch_route.py:", b"")  # the sources of guards, by name alone
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["one.onnx", "two.onnx"]


class Spectrum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft(x).abs()


@pytest.mark.parametrize("opset", range(18, 24))
def test_an_opset_is_honoured(opset: int, tmp_path: Path) -> None:
    model, path = nn.Sequential(nn.Linear(5, 4), Spectrum(), nn.LayerNorm(3), nn.GELU()), tmp_path / "model.onnx"
    tracer.convert(model, tracer.spec("N", 5), path, opset_version=opset, route="torch")
    assert [(entry.domain, entry.version) for entry in onnx.load(path).opset_import] == [("", opset)]
    x = torch.randn(3, 5)
    np.testing.assert_allclose(run(path, input=x)["output"], model(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [13, 17])
def test_an_opset_that_torch_has_not_is_refused(opset: int) -> None:
    fault = rf"torch\.onnx\.export has opsets 18 to 23, not {opset}(?s:.*)use --opset 18 or later"
    with pytest.raises(ExportError, match=fault):
        tracer.convert(nn.Linear(5, 4), tracer.spec("N", 5), opset_version=opset, route="torch")
    with pytest.raises(UnsupportedOpError, match=rf"(?s:fft_rfft.*){fault}"):
        tracer.convert(Spectrum(), tracer.spec("N", 4), opset_version=opset)


class Inner(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(4), Inner())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(x).relu()
        return torch.fft.rfft(x)


def test_the_direct_route_names_everything_that_it_lacks() -> None:
    with pytest.raises(UnsupportedOpError) as info:
        tracer.convert(Odd(), tracer.spec("N", 5), route="direct")
    first = Inner.forward.__code__.co_firstlineno + 1
    second = Odd.forward.__code__.co_firstlineno + 2
    found = {blocker.operation: (blocker.location.path, blocker.location.source) for blocker in info.value.blockers}
    assert found["special_bessel_j0"] == ("layers.1", f"test_torch_route.py:{first}")
    assert found["fft_rfft"] == ("", f"test_torch_route.py:{second}")
    for part in ("special_bessel_j0 at layers.1 (test_torch_route.py:", "fft_rfft at the model's forward", "--route"):
        assert part in str(info.value)


def test_no_trace_is_left_within_branches(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda a: a.sin(), lambda a: a.cos(), (x,))

    path = tmp_path / "branches.onnx"
    assert tracer.convert(Branches(), tracer.spec(2, 5), path, route="torch").route == "torch"
    assert b".py" not in path.read_bytes().replace(b"test_torch_route.py:", b"")


def test_parts_and_magnitude_of_complex_numbers_are_real() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.LazyLinear(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            spectrum = torch.fft.rfft(x)
            return self.fc(torch.cat([spectrum.real, spectrum.imag, spectrum.abs(), abs(spectrum)], -1))

    assert tracer.inspect(Parts(), tracer.spec("N", 8)).resolved == {"fc": {"in_features": 20}}
    assert tracer.convert(Parts(), tracer.spec("N", 8)).route == "torch"
