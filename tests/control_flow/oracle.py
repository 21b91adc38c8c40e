"""A file beside its module, on data that takes each way through the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

import tracer
from passes.isolation.control_flow import plain_control_flow
from passes.values.nested import leaves

OPSETS = (13, 17, 20, 23)
Data = Sequence[torch.Tensor]


def expected(module: nn.Module, data: Data) -> list[torch.Tensor]:
    """What the module gives; torch's control flow in plain Python, which it is compared with elsewhere."""
    with torch.no_grad(), plain_control_flow():
        return [leaf for leaf in leaves(module(*(tensor.clone() for tensor in data))) if leaf is not None]


def assert_file_agrees(
    model: nn.Module, sample: Any, *runs: Data, opset: int = 20, tolerance: float = 1e-5, **options: Any
) -> Any:
    """Converts by the direct route, and compares the file with the resolved module on each run's data."""
    conversion = tracer.convert(model, sample, route="direct", opset_version=opset, seed=0, **options)
    with TemporaryDirectory() as folder:
        session = load(conversion.save(Path(folder) / "model.onnx"))
        for data in runs:
            names = [entry.name for entry in session.get_inputs()]
            found = session.run(None, {name: value.numpy() for name, value in zip(names, data, strict=True)})
            wanted = expected(conversion.module.eval(), data)
            assert len(found) == len(wanted)
            for ours, theirs in zip(found, wanted, strict=True):
                theirs = torch.as_tensor(theirs).detach()
                assert tuple(ours.shape) == tuple(theirs.shape)
                assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
                np.testing.assert_allclose(ours, theirs.numpy(), rtol=tolerance, atol=tolerance)
    return conversion


def load(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def operators(graph: Any) -> list[str]:
    """The operators of an ONNX graph, with those of the graphs within it behind each."""
    found: list[str] = []
    for node in graph.node:
        found.append(node.op_type)
        for attribute in node.attribute:
            found += operators(attribute.g)
    return found


class Model(nn.Module):
    """A module with a forward of its own."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module):
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args: torch.Tensor) -> Any:
        return self.run(self, *args)
