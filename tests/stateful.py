"""Models whose forwards write to what they hold, and their files run in a loop, for the tests of state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

import tracer
from tests.reading import names

Run = Callable[..., Any]


class Of(nn.Module):
    """A forward on tensors of its own: registered, but for those whose names begin with `plain`."""

    def __init__(self, run: Run, **held: Any) -> None:
        super().__init__()
        for name, value in held.items():
            if isinstance(value, nn.Module) or not isinstance(value, torch.Tensor) or name.startswith("plain"):
                setattr(self, name, value)
            else:
                self.register_buffer(name, value)
        self.run = run

    def forward(self, *args: Any) -> Any:
        return self.run(self, *args)


def explicit(model: nn.Module, sample: Any, file: Path | None = None, **options: Any) -> tracer.Conversion:
    return tracer.convert(model, sample, file, state="explicit", seed=0, **options)


def stepped(conversion: tracer.Conversion, inputs: Sequence[Sequence[torch.Tensor]]) -> None:
    """Runs the file in a loop as its report says, beside the module, and compares all that they give."""
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString())
    module = copy.deepcopy(conversion.module).eval()
    own = [value.name for value in session.get_inputs()][: len(inputs[0])]
    state = {name: tensor.numpy() for name, tensor in conversion.state.items()}
    for tensors in inputs:
        with torch.no_grad():
            expected = module(*(tensor.clone() for tensor in tensors))
        given = {name: tensor.numpy() for name, tensor in zip(own, tensors, strict=True)}
        outputs = names(session.get_outputs())
        results = dict(zip(outputs, session.run(None, {**given, **state}), strict=True))
        state = {pair.input: results[pair.output] for pair in conversion.report.state}
        if expected is not None:
            np.testing.assert_allclose(results[outputs[0]], expected.numpy(), atol=1e-5)
        for pair in conversion.report.state:
            owner, _, name = pair.path.rpartition(".")
            left = getattr(module.get_submodule(owner), name).detach()
            np.testing.assert_allclose(state[pair.input], left.numpy(), atol=1e-5)


def counted(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.n += x.shape[0]
    return x + self.n
