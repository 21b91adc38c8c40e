"""Linear layers: `y = x @ weight.T + bias`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import ShapeError, check
from passes.ops.matmul import WIDER
from passes.ops.op import Inference, Op, Owned
from passes.ops.promotion import broadcast_shapes, check_weight_dtype
from passes.ops.record import Record, T
from passes.sizes.dimension import Size, hint, product
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class Linear(Record[T]):
    input: T
    weight: T
    bias: T | None = None


linear = Op("linear", Linear, functions=(F.linear,))


@linear.module(nn.Linear, nn.LazyLinear)
def bind_linear(module: nn.Linear, input: Any) -> Mapping[str, Any]:
    return {"input": input, "weight": Owned("weight"), "bias": Owned("bias")}


@linear.infer(nn.LazyLinear)
def infer_linear(module: nn.LazyLinear, call: Linear[TensorSpec]) -> Inference:
    check(
        call.input.ndim >= 1,
        "a linear layer needs an input of at least 1 axis, found a 0-d tensor",
        remedy="keep the axis of features, which an operation before it took away",
    )
    in_features = call.input.shape[-1]
    shapes: dict[str, tuple[Size, ...]] = {"weight": (module.out_features, in_features)}
    if module.bias is not None:
        shapes["bias"] = (module.out_features,)
    return Inference({"in_features": in_features}, shapes)


@linear.shape
def linear_shape(call: Linear[TensorSpec]) -> TensorSpec:
    input, weight, bias = call.input, call.weight, call.bias
    check(
        input.ndim >= 1,
        "a linear layer needs an input of at least 1 axis, found a 0-d tensor",
        remedy="keep the axis of features, which an operation before it took away",
    )
    check(weight.ndim in (1, 2), "a linear layer needs a weight of 1 or 2 axes, found {}", weight)
    _check_features(input, weight.shape[-1])
    check_weight_dtype(input, weight)
    result = input.with_shape(*input.shape[:-1], *weight.shape[:-1])
    if bias is not None:
        check(weight.ndim == 2, "a weight of 1 axis takes no bias")
        check(bias.dtype == weight.dtype, "the bias is {}, but the weight is {}", bias.dtype, weight.dtype)
        check(
            broadcast_shapes(result.shape, bias.shape) == result.shape,
            "the bias {} does not fit the result {}",
            bias,
            result,
        )
    return result


def _check_features(input: TensorSpec, expected: Size) -> None:
    found = input.shape[-1]
    if found == expected:
        return
    remedy = f"make in_features {found}, or declare the layer as nn.LazyLinear"
    for axis in range(1, input.ndim - 1):
        if hint(product(input.shape[axis:])) == hint(expected):
            remedy = f"flatten the input before it: x.flatten({axis})"
        elif hint(input.shape[axis]) == hint(expected):
            remedy = f"bring the axis of {expected} to the end before it: x.transpose({axis}, -1)"
    raise ShapeError(f"in_features is {expected}, but the input's last axis is {found}", remedy=remedy)


@linear.lower
def lower_linear(emit: Emitter, call: Linear[Value]) -> Value:
    """Gemm where the input is a matrix of floats; otherwise MatMul over the leading axes, then Add."""
    input, weight, bias = call.input, call.weight, call.bias
    if input.dtype == torch.bool:
        emit.unsupported("torch itself multiplies no matrices of bool")
    if input.ndim == 2 and weight.ndim == 2 and input.dtype.is_floating_point:
        return emit.node("Gemm", input, weight, *([bias] if bias else []), transB=1)
    dtype = input.dtype
    working = WIDER.get(dtype, dtype)
    input, weight = emit.cast(input, working), emit.cast(weight, working)
    transposed = emit.node("Transpose", weight, perm=[1, 0]) if weight.ndim == 2 else weight
    product = emit.node("MatMul", input, transposed)
    result = emit.node("Add", product, emit.cast(bias, working)) if bias else product
    return result if working == dtype else emit.cast(result, dtype)


@linear.cost
def linear_cost(result: TensorSpec, call: Linear[TensorSpec]) -> Size:
    return result.numel() * call.input.shape[-1]
