"""Writes in place reach everything that shares memory: random programs of views and writes, against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.sizes.guards import GuardLog
from tracer import CaptureError, spec
from tracer.capture.tracing import capture
from tracer.inputs.sample import bind_sample

Step = Callable[[torch.Tensor], Any]

# Each makes a tensor of another that has 3 axes of sizes 2, 4 and 6 at first; what does not fit is skipped.
VIEWS: list[Step] = [
    lambda x: x[:, 1:3],
    lambda x: x[0],
    lambda x: x[..., ::2],
    lambda x: x[None],
    lambda x: x.select(-1, 1),
    lambda x: x.narrow(0, 1, 1),
    lambda x: x.narrow(-1, -2, 2),
    lambda x: x.transpose(0, -1),
    lambda x: x.mT,
    lambda x: x.permute(*reversed(range(x.ndim))),
    lambda x: x.movedim(0, -1),
    lambda x: x.flatten(),
    lambda x: x.reshape(-1, 2),
    lambda x: x.view(2, -1),
    lambda x: x.unsqueeze(1),
    lambda x: x.squeeze(),
    lambda x: x.unflatten(-1, (2, -1)),
    lambda x: x.chunk(2, -1)[1],
    lambda x: x.split([1, x.shape[0] - 1])[1],
    lambda x: x.unbind(0)[-1],
    lambda x: x.detach(),
    lambda x: x.contiguous(),
    lambda x: x.to(torch.float32),
    lambda x: x.double(),
    lambda x: x.clone(),
    lambda x: x[x.new_zeros(1, dtype=torch.int64)],
    lambda x: x + 1,
]


def subscripted(x: torch.Tensor) -> None:
    x[..., -1] = 3


def masked(x: torch.Tensor) -> None:
    x[x > 0] = 0.5


WRITES: list[Step] = [
    lambda x: x.add_(1),
    lambda x: x.mul_(2),
    lambda x: x.copy_(x * 3),
    lambda x: x.masked_fill_(x > 1, 0),
    lambda x: F.relu(x, inplace=True),
    lambda x: torch.mul(x, 2, out=x),
    subscripted,
    masked,
]

steps = st.lists(
    st.tuples(st.integers(0, 30), st.one_of(st.sampled_from(VIEWS), st.sampled_from(WRITES))), min_size=2, max_size=9
)


class Program(nn.Module):
    """Applies steps to tensors made so far, the last few of which stay in use."""

    def __init__(self, program: list[tuple[int, Step]]):
        super().__init__()
        self.program = program

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        tensors = [x.clone()]
        for index, step in self.program:
            made = step(tensors[index % len(tensors)])
            if made is not None:
                tensors.append(made)
        return [tensor * 1 for tensor in tensors]


def fits(program: list[tuple[int, Step]], x: torch.Tensor) -> bool:
    try:
        Program(program)(x)
    except (RuntimeError, IndexError, ValueError, TypeError):
        return False
    return True


@given(program=steps)
def test_writes_reach_what_shares_memory(program: list[tuple[int, Step]]) -> None:
    x = torch.linspace(-2, 2, 48).view(2, 4, 6)
    kept: list[tuple[int, Step]] = []
    for step in program:
        if fits([*kept, step], x):
            kept.append(step)
    model = Program(kept)
    log = GuardLog()
    captured = capture(model, bind_sample(model, x, None, None, None, log), log)
    found = captured.graph_module()(x)
    for ours, theirs in zip(found, model(x), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


class ByBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        y = x.clone()
        rows, heads = y.transpose(0, 1), y.view(y.shape[0], 2, 2, -1)
        first, second = y.chunk(2, dim=1)
        heads[:, 1] *= 2
        first += 1
        second[:, 0] = 7
        return [y, rows, heads, first, second]


def test_writes_with_a_dynamic_batch() -> None:
    assert tracer.convert(ByBatch(), spec("N", 4, 6), route="direct").verification is not None


def test_a_write_that_cannot_be_followed_back_is_refused() -> None:
    class Diagonal(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.clone()
            y.diagonal().zero_()
            return y

    with pytest.raises(CaptureError, match=r"test_aliasing\.py:\d+.*through a view made by diagonal"):
        model = Diagonal()
        log = GuardLog()
        capture(model, bind_sample(model, spec("N", 3), None, None, None, log), log)


def test_what_cannot_be_followed_matters_only_where_it_is_used() -> None:
    class Unused(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.clone()
            diagonal = y.diagonal()
            diagonal += 1
            return diagonal

    assert tracer.convert(Unused(), spec("N", 3), route="direct").verification is not None
