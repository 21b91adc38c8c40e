"""`torch.while_loop`, scan and map as ONNX's Loop and Scan."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from functorch.experimental.control_flow import map as over_batch
from torch import nn
from torch._higher_order_ops.scan import scan

from tests.control_flow.oracle import OPSETS, assert_file_agrees, operators

X = torch.randn(2, 4)


class Repeated(nn.Module):
    """A layer as often as an input says, beside a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def body(self, i: torch.Tensor, h: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return i + 1, torch.tanh(self.fc(h)) + x

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        i, h = torch.while_loop(lambda i, h: i < n, lambda i, h: self.body(i, h, x), (torch.tensor(0), x))
        return h, i


@pytest.mark.parametrize("opset", OPSETS)
def test_a_loop_runs_as_often_as_the_data_say(opset: int) -> None:
    runs = [(X, torch.tensor(count)) for count in (0, 1, 2, 30)]
    conversion = assert_file_agrees(Repeated(), runs[1], *runs, opset=opset)
    assert operators(conversion.onnx_model.graph) == ["Less", "Loop", "Add", "Gemm", "Tanh", "Add", "Less"]


class Leaky(nn.Module):
    """A leaky sum along an axis, in either direction: what is carried, and two results of each step."""

    def __init__(self, dim: int, reverse: bool):
        super().__init__()
        self.dim, self.reverse = dim, reverse

    def forward(self, x: torch.Tensor) -> Any:
        def step(total: torch.Tensor, x: torch.Tensor) -> Any:
            total = 0.5 * total + x
            return total, {"total": total.clone(), "least": x.min()}

        return scan(step, torch.zeros_like(x.select(self.dim, 0)), x, dim=self.dim, reverse=self.reverse)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_recurrence_along_an_axis(dim: int, reverse: bool, opset: int) -> None:
    runs = [(torch.randn(3, 4, 5),), (torch.randn(3, 4, 5),)]
    conversion = assert_file_agrees(Leaky(dim, reverse), runs[0], *runs, opset=opset)
    assert operators(conversion.onnx_model.graph).count("Scan") == 1


class Mapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return over_batch(lambda pair, y: (self.fc(pair[0]) + y, {"twice": pair[1] * 2}), (x, x + 1), y)


@pytest.mark.parametrize("opset", OPSETS)
def test_a_map_over_a_batch_of_any_size(opset: int) -> None:
    runs = [(torch.randn(size, 4), torch.randn(3)) for size in (1, 2, 5)]
    options = {"dynamic_shapes": [{0: "N"}, {}]}
    conversion = assert_file_agrees(Mapped(), runs[2], *runs, opset=opset, **options)
    assert (
        operators(conversion.onnx_model.graph).count("Gemm") + operators(conversion.onnx_model.graph).count("MatMul")
        == 1
    )
