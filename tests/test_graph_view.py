"""The data that is drawn: nodes, edges and groups of a model, and from where each shape comes."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from examples.inception import GoogLeNet
from examples.resnet50 import ResNet50
from tests.test_ladder import Parent
from tracer.drawings.graph_view import GraphView, Group, Node, shape_text


def view_of(model: nn.Module, *args: Any, **options: Any) -> GraphView:
    return tracer.draw(model, args, format="json", **options).view


def node(view: GraphView, id: str) -> Node:
    return next(member for member in view.nodes if member.id == id)


def groups(view: GraphView) -> dict[str, Group]:
    return {group.path: group for group in view.groups}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(8, 3, padding=1)
        self.norm = nn.LazyBatchNorm2d()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    """Nested modules, a container, a parameter and a buffer of its own, and numbers from shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.register_buffer("shift", torch.zeros(8, 1, 1))
        self.fc = nn.LazyLinear(4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for block in self.blocks:
            x = block(x)
        left, right = (x * self.scale + self.shift).chunk(2, 1)
        batch, channels, height, width = left.shape
        rows = left.reshape(batch, channels, height * width)
        return self.fc(rows.mean(2)), right + torch.arange(width)


@pytest.fixture(scope="module")
def net() -> GraphView:
    return view_of(Net(), tracer.spec("N", 3, "H", 6))


class TestNodes:
    def test_kinds_in_the_order_of_the_forward(self, net: GraphView) -> None:
        assert [(member.kind, member.path, member.type) for member in net.nodes] == [
            ("input", "x", "input"),
            ("layer", "blocks.0.conv", "LazyConv2d"),
            ("layer", "blocks.0.norm", "LazyBatchNorm2d"),
            ("operation", "blocks.0", "relu"),
            ("layer", "blocks.1.conv", "LazyConv2d"),
            ("layer", "blocks.1.norm", "LazyBatchNorm2d"),
            ("operation", "blocks.1", "relu"),
            ("tensor", "scale", "tensor"),
            ("operation", "", "mul"),
            ("tensor", "shift", "tensor"),
            ("operation", "", "add"),
            ("operation", "", "chunk"),
            ("operation", "", "getitem"),
            ("operation", "", "getitem"),
            ("operation", "", "reshape"),
            ("operation", "", "mean"),
            ("layer", "fc", "LazyLinear"),
            ("operation", "", "arange"),
            ("operation", "", "add"),
            ("output", "", "output"),
        ]

    def test_facts_of_a_layer(self, net: GraphView) -> None:
        conv = node(net, "blocks_1_conv")
        assert (conv.input_shapes, conv.output_shape) == ([["N", 8, "H", 6]], ["N", 8, "H", 6])
        assert (conv.params, conv.macs, conv.macs_sampled) == (8 * 8 * 9 + 8, "3456*H*N", 3456 * 64 * 2)
        assert conv.resolved == {"in_channels": 8}
        assert conv.dtype == "float32"
        assert conv.source is not None
        assert conv.source.startswith("test_graph_view.py:")

    def test_tensors_count_as_parameters_where_they_are(self, net: GraphView) -> None:
        assert (node(net, "scale").params, node(net, "shift").params) == (8, 0)

    def test_several_shapes(self, net: GraphView) -> None:
        assert node(net, "chunk").output_shape == [["N", 4, "H", 6], ["N", 4, "H", 6]]
        assert node(net, "output").output_shape == [["N", 4], ["N", 4, "H", 6]]

    def test_numbers_are_no_nodes(self, net: GraphView) -> None:
        ids = {member.id for member in net.nodes}
        assert all(member.dtype for member in net.nodes)
        assert {end for edge in net.edges for end in (edge.source, edge.target)} <= ids

    def test_as_the_report_says(self, net: GraphView) -> None:
        layers = {layer.path: layer for layer in net.report.layers}
        for member in net.nodes:
            if member.kind == "layer":
                layer = layers[member.path]
                for name in ("type", "input_shapes", "output_shape", "params", "macs", "resolved", "source"):
                    assert getattr(member, name) == getattr(layer, name)


class TestEdges:
    def test_shapes(self, net: GraphView) -> None:
        found = {(edge.source, edge.target): edge.shape for edge in net.edges}
        assert found["x", "blocks_0_conv"] == "N×3×H×6"
        assert found["scale", "mul"] == "8×1×1"
        assert found["reshape", "mean"] == "N×4×6*H"
        assert found["chunk", "getitem"] == "N×4×H×6, N×4×H×6"

    @pytest.mark.parametrize(
        ("shape", "text"),
        [
            ([], "scalar"),
            ([1], "1"),
            (["N", 64, "H//2", "H - 1"], "N×64×H//2×(H - 1)"),
            (["H % 2", 3], "(H % 2)×3"),
        ],
    )
    def test_text(self, shape: list[int | str], text: str) -> None:
        assert shape_text(shape) == text

    def test_many_shapes_are_counted(self) -> None:
        class Split(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.cat(x.unbind(0)[::2])

        view = view_of(Split(), tracer.spec(6, 2))
        assert {edge.shape for edge in view.edges if edge.source == "unbind"} == {"2, 2, 2, … 6 in all"}


class TestGroups:
    def test_nested_without_mere_containers(self, net: GraphView) -> None:
        assert [(group.path, group.parent, group.type) for group in net.groups] == [
            ("", None, "Net"),
            ("blocks.0", "", "Block"),
            ("blocks.1", "", "Block"),
        ]
        assert node(net, "blocks_0_conv").group == "blocks.0"
        assert node(net, "fc").group == ""

    def test_sums(self, net: GraphView) -> None:
        first = groups(net)["blocks.0"]
        assert first.params == (3 * 8 * 9 + 8) + 16
        assert first.macs == node(net, "blocks_0_conv").macs
        root = groups(net)[""]
        assert (root.params, root.macs) == (net.report.params, net.report.macs)

    def test_a_group_comes_before_the_groups_inside_it(self) -> None:
        view = view_of(GoogLeNet(), tracer.spec("N", 3, 96, 96))
        seen: set[str | None] = {None}
        for group in view.groups:
            assert group.parent in seen
            seen.add(group.path)
        assert {member.group for member in view.nodes} <= seen


class TestLazies:
    def test_every_inferred_size_is_on_its_node(self) -> None:
        view = view_of(ResNet50(), tracer.spec("N", 3, 64, 64))
        found = {member.path: member.resolved for member in view.nodes if member.resolved}
        assert found == view.report.resolved
        assert view.to_dict()["lazy_layers"] == 107

    def test_traced_through(self) -> None:
        class Own(nn.modules.lazy.LazyModuleMixin, nn.Module):
            cls_to_become = None

            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.UninitializedParameter()

            def initialize_parameters(self, x: torch.Tensor) -> None:
                self.weight.materialize((x.shape[-1],))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * self.weight

        class Uses(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.own = Own()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.own(x) + 1

        view = view_of(Uses(), tracer.spec("N", 5))
        assert groups(view)["own"].type == "Own"
        assert groups(view)["own"].resolved == view.report.resolved.get("own", {})
        assert groups(view)["own"].params == 5

    def test_inside_what_could_not_be_traced(self) -> None:
        view = view_of(Parent(), tracer.spec("N", 8))
        assert [rung.path for rung in view.report.rungs] == ["picky"]
        assert node(view, "picky").resolved == {"first.in_features": 5, "second.in_features": 4}
        assert node(view, "picky").caption() == ["picky: Picky", "first.in_features = 5", "second.in_features = 4"]
        assert view.to_dict()["lazy_layers"] == 4

    def test_called_twice(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.LazyLinear(4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.fc(self.fc(x))

        view = view_of(Twice(), tracer.spec("N", 4))
        assert [member.resolved for member in view.nodes if member.path == "fc"] == [{"in_features": 4}] * 2

    def test_the_model_itself(self) -> None:
        view = view_of(nn.LazyLinear(3), tracer.spec("N", 5))
        layer = next(member for member in view.nodes if member.kind == "layer")
        assert (layer.path, layer.resolved, layer.caption()) == (
            "",
            {"in_features": 5},
            ["LazyLinear", "in_features = 5"],
        )


class TestChain:
    def test_from_the_input_to_the_layer(self, net: GraphView) -> None:
        assert [member.id for member in net.chain(node(net, "fc"))] == [
            "x",
            "blocks_0_conv",
            "blocks_0_norm",
            "relu",
            "blocks_1_conv",
            "blocks_1_norm",
            "relu_1",
            "mul",
            "add",
            "chunk",
            "getitem",
            "reshape",
            "mean",
            "fc",
        ]

    def test_a_number_leads_on_to_the_tensor_it_was_read_from(self) -> None:
        class Positions(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.arange(F.relu(x).shape[1] * 2)

        view = view_of(Positions(), tracer.spec(2, "T"))
        assert [member.id for member in view.chain(view.nodes[-1])] == ["x", "relu", "arange", "output"]

    def test_along_the_operand_of_the_same_shape(self) -> None:
        class Gate(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.LazyLinear(4)
                self.out = nn.LazyLinear(2)

            def forward(self, gate: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
                return self.out(gate * self.fc(x))

        view = view_of(Gate(), tracer.spec(1), tracer.spec("N", 3))
        assert [member.id for member in view.chain(node(view, "out"))] == ["x", "fc", "mul", "out"]

    def test_each_step_is_an_edge(self) -> None:
        view = view_of(GoogLeNet(), tracer.spec("N", 3, 96, 96))
        edges = {(edge.source, edge.target) for edge in view.edges}
        for member in view.nodes:
            chain = view.chain(member)
            assert chain[0].kind == "input"
            assert all((upper.id, lower.id) in edges for upper, lower in pairwise(chain))


class TestData:
    def test_plain(self, net: GraphView) -> None:
        facts = json.loads(json.dumps(net.to_dict()))
        assert facts == net.to_dict()
        assert "layers" not in facts
        assert facts["inputs"] == {"x": "float32[N, 3, H, 6]"}
        assert facts["groups"][0]["path"] == ""

    def test_grows_with_the_model(self) -> None:
        """No part of the data holds a list as long as the model for each node."""

        def size(depth: int) -> int:
            layers = [nn.LazyLinear(4) for _ in range(depth)]
            return len(json.dumps(view_of(nn.Sequential(*layers), tracer.spec("N", 4)).to_dict()))

        assert size(400) < 4.5 * size(100)

    def test_draws_no_guard(self) -> None:
        model, sample = Net(), (tracer.spec("N", 3, "H", 6),)
        drawn = tracer.draw(model, sample, format="json").report.guards
        assert drawn == tracer.inspect(model, sample).guards
