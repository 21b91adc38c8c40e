"""What tests read from an exported model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from tracer.checking.verification import Verification


def names(values: Iterable[Any]) -> list[str]:
    return [value.name for value in values]


def sizes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def moved(verification: Verification) -> set[frozenset[str]]:
    """Which names had other sizes than the sampled ones in the runs of a verification."""
    sampled, *others = [comparison.sizes for comparison in verification.comparisons]
    return {frozenset(name for name in run if run[name] != sampled[name]) for run in others}


def properties(model: onnx.ModelProto) -> dict[str, Any]:
    """The model's properties, ours as what their JSON says."""
    found = {entry.key: entry.value for entry in model.metadata_props}
    ours = [key for key in found if key.startswith("lazytracer.") and found[key].startswith(("{", "["))]
    return {**found, **{key: json.loads(found[key]) for key in ours}}


def run(path: Path, **inputs: torch.Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs by name, in onnxruntime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    results = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip(names(session.get_outputs()), results, strict=True))
