"""`torch.cond` as ONNX's If."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.control_flow.oracle import OPSETS, assert_file_agrees, operators

UP, DOWN = torch.rand(2, 4) + 0.1, -torch.rand(2, 4) - 0.1


class Sides(nn.Module):
    """Two sides with a layer each, which use what the forward has computed."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().mean()

        def left(x: torch.Tensor) -> torch.Tensor:
            return self.left(x) * scale

        return torch.cond(x.sum() > 0, left, lambda x: self.right(x).relu(), (x,)) + 1


@pytest.mark.parametrize("opset", OPSETS)
def test_either_side_runs_as_the_data_say(opset: int) -> None:
    conversion = assert_file_agrees(Sides(), (UP,), (UP,), (DOWN,), opset=opset)
    graph = conversion.onnx_model.graph
    assert operators(graph).count("Gemm") == 2
    (node,) = [node for node in graph.node if node.op_type == "If"]
    assert [attribute.name for attribute in node.attribute] == ["then_branch", "else_branch"]
    assert {tensor.name for tensor in graph.initializer} >= {"left.weight", "right.bias"}
