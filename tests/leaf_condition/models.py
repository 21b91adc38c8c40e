"""Models that are built twice: run in PyTorch, and exported without verification, to give the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

import tracer

SEED = 3
FLAT, IMAGE = (2, 4), (2, 4, 7, 7)


def agrees(build: Callable[[], nn.Module], folder: Path, *inputs: Any) -> tracer.Conversion:
    """Asserts that the exported file gives what the first call in PyTorch gives; returns the conversion."""
    torch.manual_seed(SEED)
    with torch.no_grad():
        expected = build().eval()(*(value.clone() for value in inputs))
    torch.manual_seed(SEED)
    conversion = tracer.convert(build().eval(), inputs, verify=False)
    session = onnxruntime.InferenceSession(
        str(conversion.save(folder / "model.onnx")), providers=["CPUExecutionProvider"]
    )
    names = [entry.name for entry in session.get_inputs()]
    found = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    wanted = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == tuple(theirs.shape)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
    return conversion


def data(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Forward(nn.Module):
    """Layers, and a function of the model and its input for a forward."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module):
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        return self._forward(self, x)


def rows(layer: nn.Module) -> nn.Module:
    return Forward(lambda self, x: self.layer(x), layer=layer)


def after(layer: nn.Module) -> None:
    layer.register_forward_hook(lambda module, args, output: output * 2)
