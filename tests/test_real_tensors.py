"""Real tensors of a forward that are written to: by every spelling, through views, beside the caller's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from passes.sizes.guards import GuardLog
from tests.test_random_programs import Values
from tracer.capture.tracing import capture
from tracer.inputs.sample import bind_sample

X = torch.tensor([[0.5, -1.0, 2.0, 3.0], [1.0, 4.0, -2.0, 0.25]])
AT = "torch.tensor([1, 2])"

# What is done to `c`, a real tensor of four elements; `u` is the first row of the input.
WRITES = [
    "c[0] = u[0]", "c[1:3] = u[:2]", "c += u", "c -= u", "c *= u", "c /= u", "c.add_(u)", "c.copy_(u)",
    "c.fill_(u[1])",
    "c.masked_fill_(u > 0, 9)", "c.masked_fill_(c > 2, u[0])", f"c.index_copy_(0, {AT}, u[:2])", "c.clamp_(u)",
    f"c.index_fill_(0, {AT}, u[0])", f"c.index_add_(0, {AT}, u[:2])", f"c.index_put_(({AT},), u[:2])",
    "c.lerp_(u, 0.5)",
    f"c.scatter_(0, {AT}, u[:2])", f"c.scatter_add_(0, {AT}, u[:2])", "c.addcmul_(u, u)",
    "c.view(2, 2).addmm_(x, x.t())",
    "torch.add(u, 1, out=c)", "torch.where(u > 0, u, x[1], out=c)", "c[1:3].mul_(u[:2])", "c[::2].add_(u[:2])",
    "c.view(2, 2).t()[0] = u[:2]", "c.data.add_(u)", "c.detach()[0] = u[1]", "c[-1] += u[0]", "c.data = u + 1",
    "c[u.argmax()] = 7", "c.unsqueeze_(0).add_(u)", "torch.sub(c, u, out=c)", "c[c > 1] = u[0]", "c[0] = x.shape[0]",
]  # fmt: skip
# Where `c` comes from, and what else of the same memory there is.
SOURCES = [
    "c = torch.tensor([1.0, 2.0, 3.0, 4.0]); v = c[1:]",
    "c = torch.tensor([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]])[:, 0]; v = c.view(4, 1)",
    "c = self.plain; v = self.plain[::2]",
    "c = TABLE[1]; v = TABLE",
    "c = torch.from_numpy(ARRAY); v = torch.from_numpy(ARRAY)",
]


class Writing(nn.Module):
    def __init__(self, source: str, write: str):
        super().__init__()
        self.plain = torch.tensor([1.0, 2.0, 3.0, 4.0])
        lines = ["u = x[0]", *source.split("; "), "before = x + c", write, "return before, c + 0, v * 2, x.sum() + c"]
        scope: dict[str, Any] = {"torch": torch, "TABLE": torch.arange(12.0).view(3, 4)}
        scope["ARRAY"] = np.ones(4, dtype=np.float32)
        exec("def forward(self, x):\n    " + "\n    ".join(lines), scope)
        self.run, self.table, self.array = scope["forward"], scope["TABLE"], scope["ARRAY"]

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("write", WRITES)
def test_a_write_to_a_real_tensor_is_kept_in_the_graph_and_from_the_caller(source: str, write: str) -> None:
    model = Writing(source, write)
    log = GuardLog()
    try:
        expected = Writing(source, write)(X.clone())
    except RuntimeError:
        pytest.skip("torch refuses it")
    program = capture(model, bind_sample(model, X, None, None, None, log), log)
    assert torch.equal(model.plain, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert torch.equal(model.table, torch.arange(12.0).view(3, 4))
    assert (model.array == 1).all()
    for ours, theirs in zip(Values(program.graph_module()).run(X.clone()), expected, strict=True):
        assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("write", ["c[0] = u[0]", "c[::2].add_(u[:2])", "c.copy_(u)", "torch.add(u, 1, out=c)"])
def test_exported(write: str) -> None:
    model = Writing(SOURCES[0], write)
    assert tracer.convert(model, X, route="direct").verification is not None
