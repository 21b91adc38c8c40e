"""What a deployer holds an exported file by: the names of its inputs and outputs, and what it says about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import tracer
from tests.reading import names, properties, run, sizes
from tracer import ExportError, InputError


class Of(nn.Module):
    """A module with the forward it is given."""

    def __init__(self, forward: Callable[..., Any]):
        super().__init__()
        self.fc = nn.LazyLinear(3)
        self.call = forward

    def forward(self, x: Any, y: Any = None) -> Any:
        return self.call(self, x, y)


def convert(forward: Callable[..., Any], *args: Any, **options: Any) -> onnx.ModelProto:
    return tracer.convert(Of(forward), args or (tracer.spec("N", 5),), **options).onnx_model


def interface(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    return names(model.graph.input), names(model.graph.output)


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True)
class Batch:
    image: Any
    state: tuple[Any, ...]
    scale: float = 2.0


NESTED_INPUTS = [
    ((tracer.spec("N", 5), tracer.spec(3)), lambda x: x[0], ["x_0", "x_1"]),
    ([tracer.spec("N", 5), [tracer.spec(3)]], lambda x: x[0], ["x_0", "x_1_0"]),
    ({"a": tracer.spec("N", 5), "b": {"c": tracer.spec(3)}}, lambda x: x["a"], ["x_a", "x_b_c"]),
    (Pair(tracer.spec(3), tracer.spec("N", 5)), lambda x: x.right, ["x_left", "x_right"]),
    (Batch(tracer.spec("N", 5), (tracer.spec(3),)), lambda x: x.image * x.scale, ["x_image", "x_state_0"]),
    ({"a": {"b": tracer.spec("N", 5)}, "a_b": tracer.spec(3)}, lambda x: x["a"]["b"], ["x_a_b", "x_a_b_1"]),
    ({"a b": tracer.spec("N", 5)}, lambda x: x["a b"], ["x_a_b"]),
]


@pytest.mark.parametrize(("x", "take", "expected"), NESTED_INPUTS)
def test_nested_inputs(x: Any, take: Callable[[Any], torch.Tensor], expected: list[str]) -> None:
    assert interface(convert(lambda m, x, y: m.fc(take(x)), x)) == (expected, ["output"])


NESTED_OUTPUTS = [
    (lambda y: (y, [y + 1, y + 2]), ["output_0", "output_1_0", "output_1_1"]),
    (lambda y: {"left": y, "right": (y + 1, None)}, ["left", "right_0"]),
    (lambda y: Pair(y, {"mask": y + 1}), ["left", "right_mask"]),
    (lambda y: Batch(y, (None, y + 1), y + 2), ["image", "state_1", "scale"]),
    (lambda y: {"output": {"a": y}, "a": y + 1}, ["output_a", "a"]),
    (lambda y: {"a": (y,), "a_0": y + 1}, ["a_0", "a_0_out"]),
]


@pytest.mark.parametrize(("build", "expected"), NESTED_OUTPUTS)
def test_nested_outputs(build: Callable[[torch.Tensor], Any], expected: list[str]) -> None:
    assert interface(convert(lambda m, x, y: build(m.fc(x)))) == (["x"], expected)


def test_the_caller_names_them() -> None:
    model = convert(lambda m, x, y: (m.fc(x), m.fc(x)), input_names=["a"], output_names=["b", "c"])
    assert interface(model) == (["a"], ["b", "c"])


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"input_names": ["a", "b"]}, "the model has 1 inputs: x"),
        ({"output_names": ["a"]}, "the model has 2 outputs: output_0, output_1"),
        ({"output_names": ["a", "a"]}, "is .*'a', 'a'"),
        ({"output_names": ["a", ""]}, "is .*'a', ''"),
        ({"output_names": ["a", "x"]}, "an input and an output are both named 'x'"),
    ],
)
@pytest.mark.parametrize("route", ["direct", "torch"])
def test_names_that_do_not_fit(given: dict[str, Any], fault: str, route: str) -> None:
    with pytest.raises(ExportError, match=fault):
        convert(lambda m, x, y: (m.fc(x), x), route=route, **given)


def test_an_unused_input_stays() -> None:
    graph = convert(lambda m, x, y: m.fc(x), tracer.spec("N", 5), tracer.spec("N", "T")).graph
    assert [sizes(value) for value in graph.input] == [["N", 5], ["N", "T"]]


def test_no_tensor_is_an_error() -> None:
    with pytest.raises(ExportError, match="the model returns no tensor"):
        convert(lambda m, x, y: (m.fc(x), None)[1:])


class Crowded(nn.Module):
    """Where the names of inputs, outputs, weights and operations meet."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.randn(5))
        self.relu = nn.Parameter(torch.randn(5))
        self.weight = nn.Parameter(torch.randn(5))
        self.register_buffer("result", torch.randn(5), persistent=False)

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> dict[str, Any]:
        y = torch.relu(x + self.x) * self.relu
        return {"x": x, "output": y, "again": y, "weight": self.weight, "result": y + self.result, "none": None}


@pytest.mark.parametrize("route", ["direct", "torch"])
def test_no_two_things_share_a_name(route: str, tmp_path: Path) -> None:
    """An input, a weight or a constant that is returned as it is, a tensor returned twice, and names that meet."""
    model = Crowded().eval()
    path = tmp_path / "model.onnx"
    conversion = tracer.convert(model, (tracer.spec("N", 5), tracer.spec(2)), path, route=route)
    assert interface(conversion.onnx_model) == (
        ["x", "output"],
        ["x_out", "output_out", "again", "weight_out", "result"],
    )
    weights = conversion.lowered.weights
    assert weights["x_1"] is model.x
    assert {"relu", "weight"} < set(weights)
    x = torch.randn(3, 5)
    with torch.no_grad():
        expected = [value for value in model(x, x).values() if value is not None]
    for found, wanted in zip(run(path, x=x, output=torch.ones(2)).values(), expected, strict=True):
        np.testing.assert_allclose(found, wanted.detach(), rtol=1e-5, atol=1e-6)


def test_a_name_of_the_callers_may_be_a_weights() -> None:
    conversion = tracer.convert(
        nn.Linear(3, 4), tracer.spec("N", 3), input_names=["weight"], output_names=["bias"], route="direct"
    )
    assert interface(conversion.onnx_model) == (["weight"], ["bias"])
    assert names(conversion.onnx_model.graph.initializer) == ["weight_1", "bias_1"]


def test_a_root_that_is_a_layer_has_its_own_keys() -> None:
    assert set(tracer.convert(nn.LazyLinear(4), tracer.spec("N", 3)).lowered.weights) == {"weight", "bias"}


class Guarded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4)
        self.head = nn.LazyLinear(3)
        self.tied = nn.Linear(4, 3)
        self.tied.bias = nn.Parameter(torch.zeros(3))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        if x.shape[2] > 7:
            x = x + 1
        return self.head(x.mean(2)) + self.tied.bias


def test_a_file_says_what_it_is() -> None:
    found = properties(tracer.convert(Guarded(), tracer.spec("N", 2, "T"), metadata={"owner": "vision"}).onnx_model)
    assert next(iter(found)) == "owner"
    assert {key: found.pop(key) for key in ("owner", "lazytracer.version", "lazytracer.route")} == {
        "owner": "vision",
        "lazytracer.version": tracer.__version__,
        "lazytracer.route": "direct",
    }
    assert found.pop("lazytracer.from_data") == found.pop("lazytracer.required") == []
    guard = found.pop("lazytracer.guards")[0]
    assert guard.pop("source").startswith("test_interface.py:")
    assert guard == {"condition": "T >= 8", "path": "", "dynamic": True}
    state = found.pop("lazytracer.state_dict")
    assert state.pop("conv.weight") == "float32[4, 2, 3]"
    assert state.pop("tied.bias") == "float32[3]"
    assert {key for key, spec in state.items() if spec is None} == {
        "norm.num_batches_tracked",
        "tied.weight",
        "unused.weight",
        "unused.bias",
    }
    assert found == {
        "lazytracer.signature": {
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 2, "T"]}],
            "outputs": [{"name": "output", "dtype": "float32", "shape": ["N", 3]}],
            "sampled": {"N": 2, "T": 64},
        },
        "lazytracer.constraints": [],
        "lazytracer.statement": "valid for N >= 1, T >= 8",
        "lazytracer.initializers": {key: key for key in ("head.weight", "head.bias", "tied.bias")},
        "lazytracer.baked_in": {},
        "lazytracer.folds": {"conv_norm": {"layer": "conv", "norm": "norm", "eps": 1e-5, "groups": None}},
    }


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [({"lazytracer.route": "x"}, "the metadata key lazytracer.route begins with")],
)
def test_metadata_that_cannot_be_written(metadata: Mapping[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        convert(lambda m, x, y: m.fc(x), metadata=metadata)
