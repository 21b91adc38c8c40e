"""What a deployer finds in the ONNX graph: names, inputs and outputs, sizes, opsets, metadata."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import tracer
from tracer import ExportError, InputError

GOLDEN = Path(__file__).parent / "golden"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(4, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(x)) + x.mean(1, keepdim=True)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.act = nn.ReLU()
        self.head = nn.LazyLinear(3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.act(self.blocks(image))
        return self.act(self.head(x.view(x.size(0), -1)))


class Of(nn.Module):
    """A module with the forward it is given."""

    def __init__(self, forward: Callable[..., Any]):
        super().__init__()
        self.fc = nn.LazyLinear(3)
        self.call = forward

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> Any:
        return self.call(self, x, y)


def convert(forward: Callable[..., Any], *args: Any, **options: Any) -> onnx.ModelProto:
    return tracer.convert(Of(forward), args or (tracer.spec("N", 5),), **options).onnx_model


def names(values: Any) -> list[str]:
    return [value.name for value in values]


def sizes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_golden_graph() -> None:
    """The whole text of a small graph. `LAZYTRACER_GOLDEN=1` writes it anew."""
    conversion = tracer.convert(Net(), tracer.spec("N", 2, 6, 6), seed=0)
    text = onnx.printer.to_text(conversion.lowered.proto)
    golden = GOLDEN / "net.txt"
    if os.environ.get("LAZYTRACER_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_nodes_are_named_by_modules_and_weights_by_keys() -> None:
    conversion = tracer.convert(Net(), tracer.spec("N", 2, 6, 6))
    graph = conversion.onnx_model.graph
    assert {"blocks.0.conv", "blocks.1.act", "blocks.0/add", "act", "head", "act_1"} <= set(names(graph.node))
    assert len(set(names(graph.node))) == len(graph.node)
    keys = set(conversion.module.state_dict())
    assert keys <= set(names(graph.initializer))
    assert {name for name in names(graph.initializer) if "/" not in name} == keys


def test_inputs_and_outputs_carry_names() -> None:
    graph = convert(lambda m, x, y: {"left": m.fc(x), "right": (x, None)}).graph
    assert names(graph.input) == ["x"]
    assert names(graph.output) == ["left", "right_0"]
    graph = convert(lambda m, x, y: (m.fc(x), m.fc(x)), input_names=["a"], output_names=["b", "c"]).graph
    assert (names(graph.input), names(graph.output)) == (["a"], ["b", "c"])


@pytest.mark.parametrize("given", [{"input_names": ["a", "b"]}, {"output_names": ["a", "b"]}])
def test_names_that_do_not_fit(given: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match=r"but the model has 1 (input|output)s?"):
        convert(lambda m, x, y: m.fc(x), **given)


def test_an_input_returned_and_a_tensor_returned_twice() -> None:
    def forward(m: Any, x: torch.Tensor, y: Any) -> Any:
        z = m.fc(x)
        return x, z, z

    assert names(convert(forward).graph.output) == ["output_0", "output_1", "output_2"]


def test_an_unused_input_stays() -> None:
    graph = convert(lambda m, x, y: m.fc(x), tracer.spec("N", 5), tracer.spec("N", "T")).graph
    assert [sizes(value) for value in graph.input] == [["N", 5], ["N", "T"]]


def test_an_input_called_like_an_output() -> None:
    class Clash(nn.Module):
        def forward(self, output: torch.Tensor) -> torch.Tensor:
            return output * 2

    graph = tracer.convert(Clash(), tracer.spec("N", 5)).onnx_model.graph
    assert names(graph.input) != names(graph.output)


def test_tied_weights_are_exported_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 4)
            self.out = nn.Linear(4, 7, bias=False)
            self.out.weight = self.embedding.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.out(self.embedding(tokens))

    graph = tracer.convert(Tied(), tracer.spec("N", 3, dtype=torch.int64)).onnx_model.graph
    assert [name for name in names(graph.initializer) if "/" not in name] == ["embedding.weight"]


def test_no_tensor_is_an_error() -> None:
    with pytest.raises(ExportError, match="the model returns no tensor"):
        convert(lambda m, x, y: (m.fc(x), None)[1:])


def test_sizes_are_named_or_formulas() -> None:
    graph = convert(lambda m, x, y: m.fc(x)[:, ::2].repeat(2, 1)).graph
    assert sizes(graph.output[0]) == ["2*N", 2]


@pytest.mark.parametrize("opset", range(13, 24))
def test_an_opset_is_honoured(opset: int) -> None:
    model = tracer.convert(Net(), tracer.spec("N", 2, 6, 6), opset_version=opset).onnx_model
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]


@pytest.mark.parametrize("opset", [12, 24])
def test_an_unknown_opset_is_refused(opset: int) -> None:
    with pytest.raises(InputError, match="use one of 13 to 23"):
        tracer.convert(Net(), tracer.spec("N", 2, 6, 6), opset_version=opset)


def test_metadata_lands_in_the_file() -> None:
    model = tracer.convert(Net(), tracer.spec("N", 2, 6, 6), metadata={"owner": "vision"}).onnx_model
    assert {entry.key: entry.value for entry in model.metadata_props}["owner"] == "vision"


def test_every_blocker_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.special.bessel_j0(x)
            return torch.special.bessel_j1(x)

    with pytest.raises(
        tracer.UnsupportedOpError, match=r"(?s)2 operations.*bessel_j0.*test_lowering\.py.*bessel_j1"
    ) as info:
        tracer.convert(Odd(), tracer.spec(2, 5), route="direct")
    assert [blocker.operation for blocker in info.value.blockers] == ["special_bessel_j0", "special_bessel_j1"]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
def test_types_that_onnx_lacks_are_blockers(dtype: torch.dtype) -> None:
    class Converts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(5, dtype=dtype), requires_grad=False)

        def forward(self, x: torch.Tensor) -> Any:
            return torch.cat([x.real.float(), self.weight.real.float()]), x

    with pytest.raises(tracer.UnsupportedOpError) as info:
        tracer.convert(Converts(), tracer.spec(5, dtype=dtype), route="direct")
    assert {"input x", "output output_1"} < {blocker.operation for blocker in info.value.blockers}


def test_parts_and_magnitude_of_complex_numbers_are_real() -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.LazyLinear(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            spectrum = torch.fft.rfft(x)
            return self.fc(torch.cat([spectrum.real, spectrum.imag, spectrum.abs(), abs(spectrum)], -1))

    assert tracer.inspect(Spectrum(), tracer.spec("N", 8)).resolved == {"fc": {"in_features": 20}}
    assert tracer.convert(Spectrum(), tracer.spec("N", 8)).route == "torch"


def test_the_torch_route_has_the_same_interface() -> None:
    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.LazyLinear(8)

        def forward(self, signal: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft(self.fc(signal)).abs()

    conversion = tracer.convert(Fourier(), tracer.spec("N", 5), metadata={"owner": "audio"}, opset_version=18)
    assert conversion.route == "torch"
    assert "fft_rfft" in conversion.route_reason
    model = conversion.onnx_model
    assert (names(model.graph.input), names(model.graph.output)) == (["signal"], ["output"])
    assert sizes(model.graph.input[0]) == ["N", 5]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"owner": "audio"}
    assert {"fc.weight", "fc.bias"} <= set(names(model.graph.initializer))
    assert b".py" not in model.SerializeToString()


def test_the_torch_route_says_where_it_cannot_write_an_opset() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LayerNorm(3))
    with pytest.raises(ExportError, match=r"cannot write this model in opset 15; it writes opset 18(?s:.*)--opset 18"):
        tracer.convert(model, tracer.spec("N", 5), route="torch", opset_version=15)


def test_the_torch_route_leaves_no_trace_within_branches(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda a: a.sin(), lambda a: a.cos(), (x,))

    content = tracer.convert(Branches(), tracer.spec(2, 5), tmp_path / "branches.onnx").path.read_bytes()
    assert b"test_lowering" not in content
    assert b".py" not in content
