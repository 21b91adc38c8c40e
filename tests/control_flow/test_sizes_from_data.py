"""Sizes that only the data say, within branches and loops and as what these give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._higher_order_ops.map import map as over_rows

import tracer
from tests.control_flow.oracle import OPSETS, Model, assert_file_agrees, expected

UP, DOWN = torch.rand(2, 4) + 0.1, -torch.rand(2, 4) - 0.1
MIXED = torch.tensor([[0.5, -1.0, 0.2, 2.0], [-0.1, 0.4, 1.5, -2.0]])
ZERO = torch.tensor(0)


def either(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x[:1] + 1, lambda x: x * 2, (x,))


def computed_with(model: Any, x: Tensor) -> Any:
    y = either(x)
    count = y.shape[0]
    return y.reshape(count * 4), torch.zeros(count, 3) + y.sum(), torch.cat([y, x]), y * torch.arange(count)[:, None]


def one_mask_everywhere(model: Any, x: Tensor) -> Any:
    mask = x > 0.3
    y = torch.cond(
        x.sum() > 0,
        lambda: torch.ones(x[mask].shape[0], 2) * x[mask][:, None],
        lambda: torch.zeros(x[mask].shape[0], 2) + x[mask].sum(),
    )
    return y, x[mask] * 2, y + x[mask][:, None]


def a_mask_on_one_side(model: Any, x: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda x: x[x > 0.5] * 2, lambda x: x.reshape(-1)[:3] * 2, (x,))


def a_number_of_one_side(model: Any, x: Tensor) -> Any:
    y, count = torch.cond(x.sum() > 0, lambda x: (x * 1, x[x > 0.3].shape[0]), lambda x: (x * 2, 7), (x,))
    return y * count


def sides_of_sides(model: Any, x: Tensor) -> Any:
    return torch.cond(x.max() > 0.5, lambda y: y[:1], lambda y: torch.cat([y, y]), (either(x),))


def carried(model: Any, x: Tensor) -> Any:
    return torch.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, h * 2 + h.shape[0]), (ZERO, either(x)))[1]


def another_in_each_step(model: Any, x: Tensor) -> Any:
    def goes_on(i: Tensor, h: Tensor) -> Tensor:
        return torch.ones(h[h > 0.1].shape[0] * 2).sum() + 3 > i * 2

    def step(i: Tensor, h: Tensor) -> Any:
        return i + 1, h * 0.7 + torch.zeros(h[h > 0.2].shape[0] * 3).numel()

    return torch.while_loop(goes_on, step, (ZERO, x))


def of_each_row(model: Any, x: Tensor) -> Any:
    y = over_rows(lambda row: row[row > row.median()], x)
    return y.reshape(y.shape[0] * y.shape[1]), torch.zeros(y.shape[1]) + y.sum()


def found_outside(model: Any, x: Tensor) -> Any:
    return over_rows(lambda row: torch.outer(row, x[x > 0.1]), x).sum(1)


FORWARDS = [
    computed_with, one_mask_everywhere, a_mask_on_one_side, a_number_of_one_side, sides_of_sides, carried,
    another_in_each_step, of_each_row, found_outside,
]  # fmt: skip


@pytest.mark.parametrize("forward", FORWARDS)
def test_a_size_that_the_data_say(forward: Callable[..., Any]) -> None:
    assert_file_agrees(Model(forward), (UP,), (UP,), (DOWN,), (MIXED,))


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset(opset: int) -> None:
    assert_file_agrees(Model(computed_with), (UP,), (UP,), (DOWN,), opset=opset)


def test_a_named_size_or_a_fixed_one() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda x: x, lambda x: x.sum(0).repeat(4, 1), (x,)).sum(0)

    runs = [(UP,), (DOWN,), (torch.rand(5, 4),), (-torch.rand(3, 4),)]
    conversion = assert_file_agrees(Model(forward), (UP,), *runs, dynamic_shapes=[{0: "N"}])
    assert conversion.report.guards == []


def test_what_it_is_is_told() -> None:
    report = tracer.inspect(Model(lambda model, x: either(x)), tracer.spec("N", 4))
    assert report.outputs == ["float32[u0, 4]"]


def test_the_graph_runs_in_torch() -> None:
    conversion = tracer.convert(Model(computed_with), UP)
    for x in (UP, DOWN):
        with torch.no_grad():
            found = conversion.graph_module(x)
        for ours, theirs in zip(found, expected(conversion.module, (x,)), strict=True):
            torch.testing.assert_close(ours, theirs)
