"""Random forwards that write in place agree with eager PyTorch, or are refused with their reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from passes.errors import TracerError
from passes.guards import GuardLog
from passes.program import Program
from passes.shape_propagation import ShapePropagation
from tests.random_programs import RandomProgram, eager, flat, random_program
from tracer.capture import capture
from tracer.sample import bind_sample

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


def captured(model: RandomProgram) -> Program:
    log = GuardLog()
    program = capture(model, bind_sample(model, (X,), None, None, None, log), log)
    ShapePropagation().run(program)
    return program


def agrees(seed: int) -> bool:
    """Whether the program is followed, and then as eager PyTorch has it; False where it is refused."""
    lines, names = random_program(seed, X)
    model = RandomProgram(lines, names).eval()
    own = {**model.state_dict(), "plain": model.plain, "table": model.table}
    before = {name: tensor.clone() for name, tensor in own.items()}
    text = "\n".join([f"seed {seed}", *lines, f"return {names}"])
    try:
        with torch.no_grad():
            found = flat(Values(captured(model).graph_module()).run(X.clone()))
    except TracerError:
        return False
    finally:
        for name, tensor in own.items():
            assert torch.equal(tensor, before[name]), f"the caller's {name} was written to:\n{text}"
    expected = eager(RandomProgram(lines, names), X)
    assert expected is not None, text
    assert len(found) == len(expected), text
    for name, ours, theirs in zip(range(len(found)), found, expected, strict=True):
        assert ours.dtype == theirs.dtype, f"result {name} is {ours.dtype}, not {theirs.dtype}:\n{text}"
        assert ours.shape == theirs.shape, f"result {name} is {ours.shape}, not {theirs.shape}:\n{text}"
        close = torch.allclose(ours.double(), theirs.double(), rtol=1e-4, atol=1e-5, equal_nan=True)
        assert close, f"result {name} is {ours}, not {theirs}:\n{text}"
    return True


@pytest.mark.parametrize("start", range(0, 120, 20))
def test_random_programs(start: int) -> None:
    assert sum(map(agrees, range(start, start + 20))) >= 16, "too many are refused"


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 1000, 50))
def test_thousand_random_programs(start: int) -> None:
    assert sum(map(agrees, range(1000 + start, 1050 + start))) >= 42, "too many are refused"
