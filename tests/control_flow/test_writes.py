"""Writes in place around branches and loops, and to what these compute themselves: followed, or refused where data say
what shares memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

import tracer
from tests.control_flow.oracle import Model, assert_file_agrees

UP, DOWN = torch.rand(2, 4) + 0.1, -torch.rand(2, 4) - 0.1
ZERO = torch.tensor(0)


def side(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x * 2, (x,))


def to_a_copy(model: Any, x: Tensor) -> Any:
    y = side(x)
    z = y.clone()
    z.add_(1)
    return z, y


def through_a_view(model: Any, x: Tensor) -> Any:
    y = side(x)
    row = y.view(-1)[4:]
    y[1] = 3.0
    row.mul_(2)
    return row + 0, y


def to_one_of_two(model: Any, x: Tensor) -> Any:
    a, b = torch.cond(x.sum() > 0, lambda x: (x + 1, x + 2), lambda x: (x * 2, x * 3), (x,))
    a.neg_()
    return a, b


def to_what_a_loop_gives(model: Any, x: Tensor) -> Any:
    _, h = torch.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, h + 1), (ZERO, x))
    h[0].zero_()
    return h, x


def before(model: Any, x: Tensor) -> Any:
    y = x.clone()
    row = y[0]
    y.mul_(2)
    return torch.cond(x.sum() > 0, lambda: y + row, lambda: row - y)


def between(model: Any, x: Tensor) -> Any:
    y = x * 1
    a = torch.cond(x.sum() > 0, lambda: y + 1, lambda: y * 2)
    y.add_(5)
    return a + torch.cond(x.sum() > 0, lambda: y * 3, lambda: y - 1)


def to_a_copy_of_what_is_carried(model: Any, x: Tensor) -> Any:
    def body(i: Tensor, table: Tensor) -> Any:
        table = table.clone()
        row = table[i % 2]
        row.add_(i)
        table[:, 0] = row.sum()
        return i + 1, table

    return torch.while_loop(lambda i, t: i < 5, body, (ZERO, x))


def to_a_copy_of_a_slice(model: Any, x: Tensor) -> Any:
    def step(total: Tensor, row: Tensor) -> Any:
        row = row.clone()
        row[1:] += total[1:]
        return total + row, row

    return scan(step, torch.zeros(4), x)


FOLLOWED = [
    to_a_copy, through_a_view, to_one_of_two, to_what_a_loop_gives, before, between, to_a_copy_of_what_is_carried,
    to_a_copy_of_a_slice,
]  # fmt: skip


@pytest.mark.parametrize("forward", FOLLOWED)
def test_a_write_that_is_followed(forward: Callable[..., Any]) -> None:
    assert_file_agrees(Model(forward), (UP,), (UP,), (DOWN,))


def to_what_may_be_an_input(model: Any, x: Tensor) -> Any:
    y = torch.cond(x.sum() > 0, lambda x: x, lambda x: x * 2, (x,))
    y.add_(1)
    return y + x


def to_one_that_may_be_the_other(model: Any, x: Tensor) -> Any:
    def both(x: Tensor) -> Any:
        y = x + 1
        return y, y

    a, b = torch.cond(x.sum() > 0, both, lambda x: (x * 2, x * 3), (x,))
    a.neg_()
    return a + b


REFUSED = [to_what_may_be_an_input, to_one_that_may_be_the_other]


@pytest.mark.parametrize("forward", REFUSED)
def test_a_write_that_data_decide_about_is_refused(forward: Callable[..., Any]) -> None:
    with pytest.raises(tracer.UnsupportedOpError, match="depends on how they lie in memory, which is not known"):
        tracer.convert(Model(forward), UP, route="direct")
