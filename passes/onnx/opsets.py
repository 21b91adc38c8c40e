"""What ONNX has at which opset: operators, their attributes and types, and forms that no schema tells.

Operators, attributes and types are read from onnx's own schemas. `Form`s are what an operator learned later without a
new name for it; each is one row here, with the opset that brought it. onnx is imported where it is asked: rules that
only name a form do not need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from onnx.defs import OpSchema

SUPPORTED_OPSETS = range(13, 24)
DEFAULT_OPSET = 20


@dataclass(frozen=True, slots=True)
class Form:
    """A form of an operator that ONNX has since an opset: `text` completes "the operator takes …"."""

    op_type: str
    text: str
    since: int


AXES_AS_INPUT = Form("ReduceMean", "its axes as an input, as every reduction does but ReduceSum (13)", 18)
STATISTICS_OF_ANOTHER_TYPE = Form("BatchNormalization", "scale and statistics of another type than its input's", 15)
SCALE_OF_EACH_CHANNEL = Form("GroupNormalization", "a scale for each channel, rather than for each group", 21)
VOLUMES = Form("GridSample", "an input of 5 axes, and linear and cubic as names of modes", 20)
SCATTERED_SUM = Form("ScatterElements", "the reductions add and mul", 16)
SCATTERED_EXTREME = Form("ScatterElements", "the reductions max and min", 18)

FORMS = (
    AXES_AS_INPUT,
    STATISTICS_OF_ANOTHER_TYPE,
    SCALE_OF_EACH_CHANNEL,
    VOLUMES,
    SCATTERED_SUM,
    SCATTERED_EXTREME,
)


def scattering(reduction: str) -> Form:
    """The form of a scatter that reduces by `add`, `mul`, `max` or `min`."""
    return SCATTERED_EXTREME if reduction in ("max", "min") else SCATTERED_SUM


@cache
def schema(op_type: str, opset: int) -> OpSchema | None:
    """The operator's schema at an opset; None where ONNX does not have it yet."""
    from onnx.defs import SchemaError, get_schema

    try:
        return get_schema(op_type, opset)
    except SchemaError:
        return None


@cache
def since(op_type: str) -> int:
    """The opset that brought an operator."""
    from onnx.defs import get_schema

    first: OpSchema | None = get_schema(op_type)
    found = 1
    while first is not None:
        found = first.since_version
        first = schema(op_type, found - 1) if found > 1 else None
    return found


@cache
def has_attribute(op_type: str, name: str, opset: int) -> bool:
    """Whether the operator has an attribute at an opset."""
    found = schema(op_type, opset)
    return found is not None and name in found.attributes


@cache
def takes(op_type: str, dtype: torch.dtype, opset: int) -> bool:
    """Whether the operator's first input may be of a dtype at an opset, by the specification."""
    from onnx.helper import tensor_dtype_to_string

    from passes.onnx.types import onnx_type

    found = schema(op_type, opset)
    if found is None:
        return False
    written = f"tensor({tensor_dtype_to_string(onnx_type(dtype)).removeprefix('TensorProto.').lower()})"
    return written in found.inputs[0].types


__all__ = [
    "DEFAULT_OPSET",
    "FORMS",
    "SUPPORTED_OPSETS",
    "Form",
    "has_attribute",
    "scattering",
    "schema",
    "since",
    "takes",
]
