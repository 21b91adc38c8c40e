"""Peak activation memory, against counts by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tracer

KB = 4 * 256  # 256 floats


class Calls(nn.Module):
    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def kept_for_later(x: Tensor) -> Tensor:
    y = x.exp()
    z = y.exp().exp().exp()  # three alive: y, and two of these
    return y + z


def cast_twice(x: Tensor) -> Tensor:
    return x.to(torch.float32).to(torch.float64).sum()


def both_halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    return torch.cat([second, first], dim=1)


BY_HAND: dict[str, tuple[Callable[..., Any], float, str]] = {
    "an input alone": (lambda x: x, 1, "input inputs_0"),
    "one operation": (lambda x: x.exp(), 2, "exp"),
    "a chain holds two at a time": (lambda x: x.exp().sin().cos().tanh(), 2, "exp"),
    "kept for later": (kept_for_later, 3, "exp"),
    "a view takes nothing": (lambda x: x.reshape(256).view(2, 128).unsqueeze(0).transpose(1, 2), 1, "input inputs_0"),
    "a view keeps its operand": (lambda x: x.exp().reshape(256).exp(), 2, "exp"),
    "a slice is a view": (lambda x: x[:, :8] * x[:, 8:], 1.5, "mul"),
    "indexing by a list copies": (lambda x: x[[0, 1, 2, 3]], 1.25, "getitem"),
    "a clone copies": (lambda x: x.clone(), 2, "clone"),
    "another dtype copies": (cast_twice, 3, "to"),
    "in place takes nothing": (lambda x: x.exp().relu_().mul_(2), 2, "exp"),
    "pieces share memory": (both_halves, 2, "cat"),
    "expanding takes nothing": (lambda x: x[:1].expand(16, 16).sum(), 1 + 4 / KB, "sum"),
    "several outputs": (lambda x: (x.exp(), x.sin(), x.cos()), 4, "cos"),
    "unused results are freed": (lambda x: [x.exp(), x.sin()][1], 2, "exp"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_peak(name: str) -> None:
    function, expected, at = BY_HAND[name]
    report = tracer.inspect(Calls(function), tracer.spec(16, 16))
    assert report.peak_bytes == expected * KB
    assert report.peak_at.startswith(at)


def test_at_the_sampled_sizes_and_by_layer() -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(inplace=True), nn.Linear(64, 4))
    report = tracer.inspect(model, tracer.spec("N", 8), dims={"N": 10})
    assert (report.peak_bytes, report.peak_at) == (4 * 10 * (8 + 64), "0")
    assert tracer.inspect(model, tracer.spec("N", 8), dims={"N": 20}).peak_bytes == 2 * report.peak_bytes


def test_out_of_place_activations_count() -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    report = tracer.inspect(model, tracer.spec(10, 8))
    assert (report.peak_bytes, report.peak_at) == (4 * 10 * 128, "1")


def test_several_results_count_together() -> None:
    report = tracer.inspect(nn.LSTM(3, 4), tracer.spec(5, 2, 3))
    assert report.peak_bytes == 4 * (5 * 2 * 3 + 5 * 2 * 4 + 2 * 2 * 4)


def test_weights_count_apart() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3, bias=False), nn.LazyBatchNorm2d()).half()
    report = tracer.inspect(model, tracer.spec(1, 3, 8, 8, dtype=torch.float16))
    assert report.weight_bytes == 2 * (4 * 3 * 9 + 4 * 4) + 8
    resolved = tracer.resolve(model, tracer.spec(1, 3, 8, 8, dtype=torch.float16))
    assert report.weight_bytes == sum(tensor.nbytes for tensor in resolved.state_dict().values())


def test_a_packed_sequence_is_its_parts() -> None:
    """Putting them together takes no memory: at the layer there are 8 packed elements, and what the layer gives, which
    has its 5 batch sizes, too."""

    class Packs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.GRU(3, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            last: torch.Tensor = self.net(nn.utils.rnn.pack_padded_sequence(x, [5, 3], True))[1]
            return last

    report = tracer.inspect(Packs(), tracer.spec(2, 5, 3))
    assert (report.peak_at, report.peak_bytes) == ("net", 8 * 3 * 4 + (8 * 4 + 2 * 4) * 4 + 5 * 8)
