"""A model in ONNX before it is written: the graph, and beside it the weights as torch tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx
import torch


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What a node of the program became: its name in the ONNX graph, and those of its values, nested as they are."""

    name: str
    values: Any


@dataclass(slots=True)
class LoweredModel:
    """An ONNX model whose weights are still torch tensors.

    `proto` is complete but for the initializers in `weights`, which are in the order of their first use.
    `results` tells, by the program's node, where a value is found; it is empty on the torch route. `changed` are the
    state_dict entries that are in the graph in another form than their own.
    """

    proto: onnx.ModelProto
    weights: dict[str, torch.Tensor]
    input_names: list[str]
    output_names: list[str]
    results: dict[str, NodeResult] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
