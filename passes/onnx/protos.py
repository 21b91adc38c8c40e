"""Values, nodes and tensors in ONNX's own messages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from passes.errors import LoadError, UnsupportedOpError
from passes.onnx.types import onnx_type
from passes.sizes.dimension import Dim, is_static
from passes.values.spec import TensorSpec


def value_info(name: str, spec: TensorSpec) -> onnx.ValueInfoProto:
    """The typed declaration of a value; a dynamic dimension carries its name or formula."""
    return helper.make_tensor_value_info(
        name, onnx_type(spec.dtype), [str(size) if isinstance(size, Dim) else size for size in spec.shape]
    )


def raw_bytes(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The tensor's bytes in ONNX's (little-endian, row-major) order, without a copy where it is contiguous.

    Raises LoadError for one on the meta device.
    """
    if tensor.is_meta:
        raise LoadError("a tensor of the model is on the meta device and has no data", remedy="move it to the CPU")
    return (
        tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8).numpy()
        if tensor.numel()
        else np.empty(0, np.uint8)
    )


def rename(node: NodeProto, renamed: Mapping[str, str]) -> None:
    """Gives the node's values other names, also in the graphs inside of it."""
    for names in (node.input, node.output):
        for index, name in enumerate(names):
            if name in renamed:
                names[index] = renamed[name]
    for attribute in node.attribute:
        for inner in attribute.g.node:
            rename(inner, renamed)


def add_attribute(node: NodeProto, name: str, value: Any) -> None:
    attribute = node.attribute.add()
    attribute.name = name
    if isinstance(value, (bool, int)):
        attribute.type, attribute.i = AttributeProto.INT, int(value)
    elif isinstance(value, float):
        attribute.type, attribute.f = AttributeProto.FLOAT, value
    elif isinstance(value, str):
        attribute.type, attribute.s = AttributeProto.STRING, value.encode()
    elif isinstance(value, (list, tuple)) and all(isinstance(item, int) for item in value):
        attribute.type = AttributeProto.INTS
        attribute.ints.extend(value)
    elif isinstance(value, (list, tuple)) and all(isinstance(item, (int, float)) for item in value):
        attribute.type = AttributeProto.FLOATS
        attribute.floats.extend(map(float, value))
    elif isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        attribute.type = AttributeProto.STRINGS
        attribute.strings.extend(item.encode() for item in value)
    elif isinstance(value, TensorProto):
        attribute.type = AttributeProto.TENSOR
        attribute.t.CopyFrom(value)
    elif isinstance(value, GraphProto):
        attribute.type = AttributeProto.GRAPH
        attribute.g.CopyFrom(value)
    elif not is_static(value if isinstance(value, (list, tuple)) else [value]):
        raise UnsupportedOpError(
            f"{name} of ONNX's {node.op_type} is a fixed number, but here it is {_value_text(value)}, which is dynamic",
            remedy="give a number there, or make the dimension fixed",
        )
    else:
        raise TypeError(f"{node.op_type}.{name} cannot be {value!r}")
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{node.op_type}.{name} is not a number")


def _value_text(value: Any) -> str:
    """A number, a dynamic size or a list of them, for a message."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, (list, tuple)) else str(value)


__all__ = ["add_attribute", "raw_bytes", "rename", "value_info"]
