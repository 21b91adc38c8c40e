"""Random forwards that write in place agree with eager PyTorch, or are refused with their reason."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import fx

import tracer
from passes.errors import TracerError, TracerWarning
from passes.modules.lazy import is_uninitialized
from passes.program.program import Program
from tests.random_programs import SEED, RandomProgram, Text, eager, flat, random_program

X = torch.linspace(-1.5, 1.5, 8).view(2, 4)


class Values(fx.Interpreter):
    """Runs a graph as what it is: a calculation with values, in which nothing writes to anything."""

    def run_node(self, node: fx.Node) -> Any:
        env = self.env
        self.env = {operand: fx.node.map_aggregate(env[operand], _copied) for operand in node.all_input_nodes}
        try:
            return super().run_node(node)
        finally:
            self.env = env


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def agrees(seed: int) -> bool:
    """Whether the program is followed, and then as eager PyTorch has it; False where it is refused."""
    text = random_program(seed, X)
    model = RandomProgram(text).eval()
    own = own_state(model)
    kept: list[Program] = []

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", TracerWarning)  # of lazy layers that the lines never call
            tracer.resolve(model, X.clone(), seed=SEED, passes=[kept.append])
            if kept[0].rungs:  # which is not lowered, but left to torch
                return False
            found = flat(Values(kept[0].graph_module()).run(X.clone()))
    except TracerError:
        return False
    finally:
        assert_same(own, own_state(model), text)
    expected = eager(text, X)
    assert expected is not None, text
    compare(found, expected, text)
    return True


def own_state(model: RandomProgram) -> dict[str, Any]:
    """What the caller has: bits of tensors, and the names of attributes and hooks."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers()), "plain": model.plain}
    state: dict[str, Any] = {
        name: tensor.detach().clone() for name, tensor in tensors.items() if not is_uninitialized(tensor)
    }
    state["table"] = model.table.clone()
    for path, module in model.named_modules():
        state[f"attributes of {path}"] = sorted(module.__dict__), type(module)
        state[f"hooks of {path}"] = list(module._forward_hooks.values()), list(module._forward_pre_hooks.values())
    return state


def assert_same(before: dict[str, Any], after: dict[str, Any], text: Text) -> None:
    assert before.keys() == after.keys(), text
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
        assert same, f"the caller's {name} is another:\n{text}"


def compare(found: list[torch.Tensor], expected: list[torch.Tensor], text: Text) -> None:
    assert len(found) == len(expected), text
    for place, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.dtype == theirs.dtype, f"result {place} is {ours.dtype}, not {theirs.dtype}:\n{text}"
        assert ours.shape == theirs.shape, f"result {place} is {ours.shape}, not {theirs.shape}:\n{text}"
        close = torch.allclose(ours.double(), theirs.double(), rtol=1e-4, atol=1e-5, equal_nan=True)
        assert close, f"result {place} is {ours}, not {theirs}:\n{text}"


@pytest.mark.parametrize("start", range(0, 120, 20))
def test_random_programs(start: int) -> None:
    assert sum(map(agrees, range(start, start + 20))) >= 14, "too many are refused"


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 1000, 50))
def test_thousand_random_programs(start: int) -> None:
    assert sum(map(agrees, range(1000 + start, 1050 + start))) >= 37, "too many are refused"
