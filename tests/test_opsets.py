"""What the table of opsets says, against onnx's own schemas and its changelog's operators."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from passes.onnx.opsets import FORMS, SCALE_OF_EACH_CHANNEL, SUPPORTED_OPSETS, Form, has_attribute, since, takes


@pytest.mark.parametrize(
    ("op_type", "opset"),
    [
        ("Relu", 1),
        ("Trilu", 14),
        ("HardSwish", 14),
        ("GridSample", 16),
        ("LayerNormalization", 17),
        ("BitwiseNot", 18),
        ("Col2Im", 18),
        ("Mish", 18),
        ("AffineGrid", 20),
        ("Gelu", 20),
        ("Attention", 23),
        ("RMSNormalization", 23),
    ],
)
def test_since(op_type: str, opset: int) -> None:
    assert since(op_type) == opset
    assert opset == 1 or not onnx.defs.has(op_type, opset - 1)


@pytest.mark.parametrize(
    ("op_type", "dtype", "before", "from_on"),
    [
        ("CumSum", torch.float16, 13, 14),
        ("CumSum", torch.bfloat16, 13, 14),
        ("IsInf", torch.float16, 19, 20),
        ("Sin", torch.bfloat16, 21, 22),
        ("InstanceNormalization", torch.bfloat16, 21, 22),
    ],
)
def test_takes(op_type: str, dtype: torch.dtype, before: int, from_on: int) -> None:
    assert not takes(op_type, dtype, before)
    assert takes(op_type, dtype, from_on)
    assert takes(op_type, torch.float32, 13)


def test_what_is_not_there_takes_nothing() -> None:
    assert not takes("Gelu", torch.float32, 19)
    assert not has_attribute("Gelu", "approximate", 19)


@pytest.mark.parametrize(("op_type", "name", "opset"), [("Resize", "antialias", 18), ("Shape", "start", 15)])
def test_has_attribute(op_type: str, name: str, opset: int) -> None:
    assert not has_attribute(op_type, name, opset - 1)
    assert has_attribute(op_type, name, opset)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.op_type} {form.since}")
def test_a_form_came_with_a_version_of_its_operator(form: Form) -> None:
    assert form.since in SUPPORTED_OPSETS
    assert onnx.defs.get_schema(form.op_type, form.since).since_version == form.since


@pytest.mark.parametrize("opset", SUPPORTED_OPSETS)
def test_the_scale_of_a_group_norm(opset: int) -> None:
    """onnx infers shapes through a function body from the opset on at which the scale is that of each channel."""
    if not onnx.defs.has("GroupNormalization", opset):
        assert opset < SCALE_OF_EACH_CHANNEL.since
        return
    schema = onnx.defs.get_schema("GroupNormalization", opset)
    per_channel = "(C)" in next(value.description for value in schema.inputs if value.name == "scale")
    assert per_channel == (opset >= SCALE_OF_EACH_CHANNEL.since)


def test_supported_opsets_are_known_to_onnx() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    for opset in SUPPORTED_OPSETS:
        onnx.checker.check_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))
