"""Threads may convert, and may use torch while another thread converts."""

from __future__ import annotations

import builtins
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import tracer


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.LazyLinear(width) for _ in range(10)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        assert isinstance(y, torch.Tensor)
        return y + torch.zeros(y.shape[0], 1)


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads that switch as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(work: Callable[[int], Any], count: int) -> list[Any]:
    """The results of the work, or what it raised, each in a thread of its own."""
    results: list[Any] = [None] * count

    def run(index: int) -> None:
        try:
            results[index] = work(index)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.usefixtures("impatient")
def test_conversions_in_threads_are_those_of_one_thread() -> None:
    patched = builtins.isinstance, torch.zeros, nn.Module.__call__, nn.Module.__dict__.get("training")

    def convert(index: int) -> dict[str, torch.Tensor]:
        conversion = tracer.convert(Net(4 + index), tracer.spec("N", 5), seed=index)
        return dict(conversion.module.state_dict())

    expected = [convert(index) for index in range(4)]
    for found, one in zip(together(convert, 4), expected, strict=True):
        assert not isinstance(found, Exception), found
        assert all(torch.equal(found[key], one[key]) for key in one)
    assert patched == (builtins.isinstance, torch.zeros, nn.Module.__call__, nn.Module.__dict__.get("training"))


def test_another_thread_uses_torch_while_a_forward_is_traced() -> None:
    other = nn.Sequential(nn.Linear(3, 2), nn.Dropout()).eval()
    seen: list[Any] = []

    class Starts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.extend(together(lambda _: other(torch.zeros(4, 3)), 1))
            return x + 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = tracer.convert(Starts(), tracer.spec("N", 3)).graph_module.graph
    assert [node.op for node in graph.nodes] == ["placeholder", "call_function", "output"]
    assert {type(value) for value in seen} == {torch.Tensor}
