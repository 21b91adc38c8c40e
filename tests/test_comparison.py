"""Samples side by side."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

import tracer
from passes.errors import ShapeError
from tracer.cli.loading import load_samples


def convolutional() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))


def test_only_what_changes() -> None:
    comparison = tracer.compare(convolutional(), [tracer.spec(1, 28, 28), tracer.spec(1, 64, 32)])
    assert comparison.samples == ["1x28x28", "1x64x32"]
    assert comparison.faults == []
    found = {difference.name: difference.values for difference in comparison.differences}
    assert found["3.in_features"] == [str(26 * 26), str(62 * 30)]
    assert found["3 params"] == [f"{5 * (26 * 26 + 1):,}", f"{5 * (62 * 30 + 1):,}"]
    assert found["0 output"] == ["4 x 26 x 26", "4 x 62 x 30"]
    assert found["0 mult-adds"] == [f"{4 * 26 * 26 * 9:,}", f"{4 * 62 * 30 * 9:,}"]
    assert {"input input", "params", "mult-adds", "weight bytes", "peak bytes"} <= found.keys()
    assert not {"0.in_channels", "0 params", "3 output", "output"} & found.keys()


def test_what_does_not_work_is_a_column() -> None:
    samples = [tracer.spec(1, 28, 28), tracer.spec(1, 2, 2), tracer.spec(1, 30, 30)]
    comparison = tracer.compare(convolutional(), samples)
    ((sample, fault),) = comparison.faults
    assert sample == "1x2x2"
    assert isinstance(fault, ShapeError)
    assert fault.location is not None
    assert fault.location.path == "0"
    assert "3" in fault.message
    assert "2" in fault.message
    assert all(difference.values[1] is None for difference in comparison.differences)
    assert comparison.differences[0].name == "0 output"
    facts = json.loads(json.dumps(comparison.to_dict()))
    assert facts["samples"][1]["error"]["kind"] == "ShapeError"
    assert facts["samples"][2]["report"]["outputs"] == ["float32[4, 5]"]


def test_nothing_changes() -> None:
    comparison = tracer.compare(nn.LazyLinear(3), [tracer.spec(2, 4), torch.zeros(2, 4)], names=["spec", "tensor"])
    assert comparison.differences == []
    assert comparison.samples == ["spec", "tensor"]


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(2)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.layer(x) * scale


def test_several_inputs_and_keywords() -> None:
    model = TwoInputs()
    pairs = [(tracer.spec(2, 4), tracer.spec(2)), (tracer.spec(2, 8), tracer.spec(2))]
    by_position = tracer.compare(model, pairs)
    keywords = [{"x": x, "scale": scale} for x, scale in pairs]
    by_name = tracer.compare(model, [(), ()], keywords)
    shared = tracer.compare(model, [pair[0] for pair in pairs], {"scale": tracer.spec(2)})
    assert by_position.samples == by_name.samples == ["2x4, 2", "2x8, 2"]
    assert by_position.differences == by_name.differences == shared.differences
    assert by_position.differences[0].to_dict() == {"name": "layer.in_features", "values": ["4", "8"]}


def test_calls_of_one_layer_are_told_apart() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Flatten(0, 1), layer)
    comparison = tracer.compare(model, [tracer.spec(2, 3, 4), tracer.spec(2, 5, 4)])
    names = [difference.name for difference in comparison.differences]
    assert names[:2] == ["0 output", "0 mult-adds"]
    assert "0 (call 2) output" in names


def test_lists_must_be_equally_long() -> None:
    with pytest.raises(tracer.InputError, match="2 samples, but 1 kwargs"):
        tracer.compare(nn.LazyLinear(3), [tracer.spec(2, 4)] * 2, [{}])
    with pytest.raises(tracer.InputError, match="1 samples, but 2 names"):
        tracer.compare(nn.LazyLinear(3), [tracer.spec(2, 4)], names=["a", "b"])
    with pytest.raises(tracer.InputError, match=r"not a torch\.nn\.Module"):
        tracer.compare("model", [tracer.spec(2, 4)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], []),
        (["2x3"], [(1, [])]),
        (["2x3", "4x5"], [(1, []), (1, [])]),
        (["x=2", "y=3", "y=4", "x=5"], [(0, ["x", "y"]), (0, ["y", "x"])]),
        (["2", "mask=3", "4", "mask=5", "6"], [(1, ["mask"]), (1, ["mask"]), (1, [])]),
    ],
)
def test_a_name_that_comes_again_begins_a_sample(texts: list[str], expected: list[tuple[int, list[str]]]) -> None:
    assert [(len(args), list(kwargs)) for args, kwargs in load_samples(texts)] == expected
