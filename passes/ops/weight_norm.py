"""Weight normalisation: `v * g / |v|`, a weight's direction and its length as two parameters (arXiv 1602.07868)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from passes.errors import check
from passes.ops.op import Op
from passes.ops.promotion import broadcast_shapes
from passes.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx_emitter import Emitter, Value

weight_norm = Op("weight_norm", functions=(torch._weight_norm,))


@weight_norm.shape
def weight_norm_shape(v: TensorSpec, g: TensorSpec, dim: int = 0) -> TensorSpec:
    """`dim` is the axis along which lengths are kept apart; -1 for one length of the whole weight."""
    check(-1 <= dim < v.ndim, "dim is {}, but the weight has {} axes", dim, v.ndim)
    return v.with_shape(*broadcast_shapes(v.shape, g.shape))


@weight_norm.lower
def lower_weight_norm(emit: Emitter, v: Value, g: Value, dim: int = 0) -> Value:
    others = [axis for axis in range(v.ndim) if axis != dim]
    length = emit.reduce("ReduceL2", v, others, keepdim=True) if others else emit.node("Abs", v)
    return emit.node("Mul", v, emit.node("Div", g, length))
