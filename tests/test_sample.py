"""Samples: what the caller gives, and what is refused before anything is done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

import tracer
from tracer import InputError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, *, scale: float = 1.0) -> torch.Tensor:
        return self.fc(x) * scale if mask is None else self.fc(x) * mask * scale


X = torch.randn(2, 5)


@pytest.mark.parametrize("args", [X, (X,), [X], tracer.spec(2, 5), (tracer.spec(2, 5), None)])
def test_one_tensor_stands_for_a_tuple_of_it(args: Any) -> None:
    assert tracer.inspect(Net(), args).outputs == ["float32[2, 4]"]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"x": {0: "N"}}, "float32[N, 5]"),
        ([{0: Dim("batch")}], "float32[batch, 5]"),
        (({-2: "N"},), "float32[N, 5]"),
        ((("N", None),), "float32[N, 5]"),
        (({0: Dim.DYNAMIC},), "float32[x_dim_0, 5]"),
        (({0: Dim.AUTO, 1: Dim.STATIC},), "float32[x_dim_0, 5]"),
        (({0: 2},), "float32[2, 5]"),
        (None, "float32[2, 5]"),
    ],
)
def test_dynamic_shapes_are_those_of_torch_export(shapes: Any, expected: str) -> None:
    assert tracer.inspect(Net(), (X,), dynamic_shapes=shapes).inputs == {"x": expected}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"args": X.numpy()}, "x is a numpy array, no tensor"),
        ({"args": ({"x": [np.ones(3)]},)}, "x_x_0 is a numpy array"),
        ({"args": (X, X, X)}, "too many positional arguments"),
        (
            {"args": (X, torch.ones(3, 1)), "dynamic_shapes": ({0: "N"}, {0: "N"})},
            "N is 2 in one place .*, 3 in another",
        ),
        ({"args": X, "dynamic_shapes": ({7: "N"},)}, "axis 7 of 'x', which has 2 axes"),
        ({"args": X, "dynamic_shapes": {"y": {0: "N"}}}, "names 'y', but the inputs are x"),
        ({"args": tracer.spec("N", 5), "dims": {"M": 4}}, "dims gives a size for M, but the dynamic dimensions are N"),
        ({"args": X, "dims": {"M": 4}}, "dims gives a size for M, but none is dynamic"),
        ({"args": tracer.spec("N", 5), "dims": {"N": 1}}, "N is sampled at 1"),
    ],
)
def test_what_does_not_fit_is_an_input_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tracer.inspect(Net(), **options)


@pytest.mark.parametrize("shape", [(-1, 2), ("a b",), (2.0,), ((2, 3),), (True,)])
def test_a_spec_that_is_none(shape: Any) -> None:
    with pytest.raises(InputError, match=r"a size is a whole number|a dynamic dimension is named by a word"):
        tracer.spec(*shape)
    with pytest.raises(InputError, match=r"a torch\.dtype, not 'float32'"):
        tracer.spec(2, dtype="float32")  # type: ignore[arg-type]


def test_what_is_no_tensor_at_all_is_told() -> None:
    with pytest.raises(tracer.ShapeError, match="LazyLinear takes a tensor, but is given a str: 2x5"):
        tracer.inspect(Net(), "2x5")


def test_a_compiled_module_is_refused() -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        scripted = torch.jit.trace(nn.Linear(5, 3), X)
    with pytest.raises(InputError, match="is no Python function, so it cannot be traced"):
        tracer.inspect(scripted, X)


def test_a_graph_module_is_a_model_like_any_other() -> None:
    model = torch.fx.symbolic_trace(nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2)))
    conversion = tracer.convert(model, tracer.spec("N", 5))
    assert conversion.route == "direct"
    assert tracer.resolve(model, tracer.spec("N", 5))(X).shape == (2, 2)
    assert isinstance(model.get_submodule("0"), nn.LazyLinear)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"input_names": ["x"], "output_names": ["x"]}, "an input and an output are both named 'x'"),
        ({"input_names": "x"}, "input_names is 'x'"),
        ({"input_names": [""]}, r"input_names is \[''\]"),
    ],
)
def test_names_that_onnx_would_refuse(names: Any, message: str) -> None:
    with pytest.raises((tracer.ExportError, tracer.InputError), match=message):
        tracer.convert(Net(), X, route="direct", **names)


def test_metadata_is_text() -> None:
    model = tracer.convert(Net(), X, metadata={"version": 3}).onnx_model
    assert ("version", "3") in {(entry.key, entry.value) for entry in model.metadata_props}
