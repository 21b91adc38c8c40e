"""What a deployer finds in the ONNX graph: names, inputs and outputs, sizes, opsets, metadata."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import helper
from torch import nn

import tracer
from passes.onnx.lowered_model import LoweredModel
from passes.onnx.unused import drop_unused
from passes.onnx.validity import check_model
from passes.sizes.dimension import Dim
from passes.sizes.guards import GuardLog
from passes.values.spec import TensorSpec
from tests.reading import names, sizes
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


def test_golden_graph() -> None:
    """The whole text of a small graph. `LAZYTRACER_GOLDEN=1` writes it anew."""
    model = tracer.convert(Net(), tracer.spec("N", 2, 6, 6), seed=0).lowered.proto
    del model.metadata_props[:]
    text = onnx.printer.to_text(model)
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


def test_what_no_output_depends_on_is_left_out() -> None:
    """Of an operation with several results, what computes the others; with the constants that only they use."""

    class Least(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.aminmax(x, dim=1)[0]

    model = tracer.convert(Least(), tracer.spec("N", 5), verify=False).onnx_model
    assert [node.op_type for node in model.graph.node] == ["ReduceMin", "ReduceL1", "IsNaN", "Where"]
    assert {tensor.name for tensor in model.graph.initializer} <= {name for n in model.graph.node for name in n.input}


def test_what_a_body_uses_stays() -> None:
    inner = helper.make_node("Add", ["state", "outer"], ["moved"])
    body = helper.make_graph([inner], "body", [helper.make_tensor_value_info("state", 1, None)], [])
    body.output.append(helper.make_tensor_value_info("moved", 1, None))
    outer = helper.make_node("Neg", ["weight"], ["outer"])
    scan = helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=0)
    idle = helper.make_node("Neg", ["idle weight"], ["idle"])
    graph = helper.make_graph([outer, idle, scan], "graph", [], [helper.make_tensor_value_info("y", 1, None)])
    weights = {"weight": torch.ones(1), "idle weight": torch.ones(1)}
    drop_unused(graph, weights)
    assert [node.op_type for node in graph.node] == ["Neg", "Scan"]
    assert list(weights) == ["weight"]


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


def relu_graph(*shape: int | str) -> LoweredModel:
    """A Relu of an input of this shape."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["inner"], "inner"), helper.make_node("Abs", ["inner"], ["y"], "abs")],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return LoweredModel(model, {}, ["x"], ["y"])


@pytest.mark.parametrize(
    ("shape", "dtype", "inferred"),
    [
        ((2, 4), torch.float32, r"FLOAT\[2, 3\]"),
        ((2, 3, 1), torch.float32, r"FLOAT\[2, 3\]"),
        ((2, 3), torch.float64, r"FLOAT\[2, 3\]"),
        (("N", 3), torch.float32, r"FLOAT\[2, 3\]"),
    ],
)
@pytest.mark.parametrize("value", ["inner", "y"])
def test_what_onnx_infers_must_be_what_propagation_found(
    shape: tuple[Any, ...], dtype: torch.dtype, inferred: str, value: str
) -> None:
    """As where a lowering takes a size from the sample, or a shape rule and a lowering mean different things."""
    log = GuardLog()
    spec = TensorSpec(tuple(Dim.symbol(size, 2, log) if isinstance(size, str) else size for size in shape), dtype)
    with pytest.raises(
        ExportError, match=rf"{value} is {re.escape(str(spec))} in the model, but onnx infers {inferred}"
    ):
        check_model(relu_graph(2, 3), {value: spec}, log)
    assert not log.guards


def test_a_dynamic_size_that_guards_fix_may_be_inferred() -> None:
    log = GuardLog()
    n, m = Dim.symbol("N", 2, log), Dim.symbol("M", 2, log)
    assert n == m
    with pytest.raises(ExportError, match="but onnx infers"):
        check_model(relu_graph(2, 3), {"y": TensorSpec((n, 3))}, log)
    assert m == 2
    check_model(relu_graph(2, 3), {"y": TensorSpec((n, 3))}, log)
    check_model(relu_graph("N", 3), {"y": TensorSpec((n, 3))}, log)


def test_a_formula_that_guards_fix_may_be_inferred() -> None:
    log = GuardLog()
    h, w = Dim.symbol("H", 2, log), Dim.symbol("W", 6, log)
    with pytest.raises(ExportError, match="onnx infers"):
        check_model(relu_graph(12, 3), {"y": TensorSpec((h * w, 3))}, log)
    assert h * w == 12
    check_model(relu_graph(12, 3), {"y": TensorSpec((h * w, 3))}, log)
    with pytest.raises(ExportError, match="onnx infers"):
        check_model(relu_graph(6, 3), {"y": TensorSpec((w, 3))}, log)


@pytest.mark.filterwarnings("ignore:.* is fixed at")
def test_sizes_that_guards_fix_convert() -> None:
    conversion = tracer.convert(Joined(), (tracer.spec("N", "T"), tracer.spec("M", 64)))
    assert [guard.condition for guard in conversion.report.guards] == ["T == 64"]
    assert conversion.report.outputs == ["float32[M + N, T]"]


class Joined(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, y])
