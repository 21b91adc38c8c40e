"""Bilinear layers: `y[o] = x1 @ weight[o] @ x2 + bias[o]`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from passes.errors import check
from passes.ops.layout import transposed
from passes.ops.matmul import in_wider
from passes.ops.op import Op, Owned
from passes.ops.record import Record, T
from passes.sizes.dimension import Size
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class Bilinear(Record[T]):
    input1: T
    input2: T
    weight: T
    bias: T | None = None


bilinear = Op("bilinear", Bilinear, functions=(torch.bilinear,))


@bilinear.module(nn.Bilinear)
def bind_bilinear(module: nn.Bilinear, input1: Any, input2: Any) -> Mapping[str, Any]:
    return {"input1": input1, "input2": input2, "weight": Owned("weight"), "bias": Owned("bias")}


@bilinear.shape
def bilinear_shape(call: Bilinear[TensorSpec]) -> TensorSpec:
    """[..., in1_features] and [..., in2_features] -> [..., out_features], with the same leading axes."""
    input1, input2, weight, bias = call.input1, call.input2, call.weight, call.bias
    for name, tensor in (("input1", input1), ("input2", input2), ("bias", bias)):
        if tensor is not None:
            check(tensor.ndim >= 1, "{} needs at least 1 axis, found a 0-d tensor", name)
            check(tensor.dtype == weight.dtype, "{} is {}, but the weight is {}", name, tensor.dtype, weight.dtype)
    check(weight.ndim == 3, "a bilinear weight is [out, in1, in2], found {}", weight)
    lead = input1.shape[:-1]
    check(
        lead == input2.shape[:-1],
        "the leading axes of the inputs are {} and {}, but must be the same",
        shape_text(lead), shape_text(input2.shape[:-1]),
    )  # fmt: skip
    for number, tensor in enumerate((input1, input2), 1):
        expected, found = weight.shape[number], tensor.shape[-1]
        check(
            expected == found,
            "in{}_features is {}, but input{} has {}",
            number, expected, number, found,
            remedy="make in{0}_features {3}",
        )  # fmt: skip
    out = weight.shape[0]
    check(bias is None or bias.shape == (out,), "the bias needs {} elements, found {}", out, bias)
    return input1.with_shape(*lead, out)


@bilinear.lower
def lower_bilinear(emit: Emitter, call: Bilinear[Value]) -> Value:
    """Two matrix products: the first input with all of the weight's matrices side by side, then with the second."""
    input1 = call.input1
    out, first, second = call.weight.shape
    beside = emit.reshape(transposed(emit, call.weight, (1, 0, 2)), [first, out * second])
    rows = in_wider(emit, "MatMul", input1, beside)
    lead = input1.shape[:-1]
    rows = replace(rows, spec=input1.spec and input1.spec.with_shape(*lead, out * second))
    matrices = emit.reshape(rows, [*lead, out, second])
    column = emit.unsqueeze(call.input2, -1)
    result = emit.squeeze(in_wider(emit, "MatMul", matrices, column), -1)
    if call.bias is None:
        return result
    return in_wider(emit, "Add", replace(result, spec=emit.result), call.bias)


@bilinear.cost
def bilinear_cost(result: TensorSpec, call: Bilinear[TensorSpec]) -> Size:
    _, first, second = call.weight.shape
    return result.numel() * (first * second + second)
