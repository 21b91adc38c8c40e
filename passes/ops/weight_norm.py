"""Weight normalisation: `v * g / |v|`, a weight's direction and its length as two parameters (arXiv 1602.07868)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.errors import check
from passes.ops.op import Op
from passes.ops.promotion import broadcast_shapes
from passes.ops.record import Record, T
from passes.torch_private import normed_weight
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class WeightNorm(Record[T]):
    v: T
    g: T
    dim: int = 0


weight_norm = Op("weight_norm", WeightNorm, functions=(normed_weight,))


@weight_norm.shape
def weight_norm_shape(call: WeightNorm[TensorSpec]) -> TensorSpec:
    """`dim` is the axis along which lengths are kept apart; -1 for one length of the whole weight."""
    v = call.v
    check(-1 <= call.dim < v.ndim, "dim is {}, but the weight has {} axes", call.dim, v.ndim)
    return v.with_shape(*broadcast_shapes(v.shape, call.g.shape))


@weight_norm.lower
def lower_weight_norm(emit: Emitter, call: WeightNorm[Value]) -> Value:
    v = call.v
    others = [axis for axis in range(v.ndim) if axis != call.dim]
    length = emit.reduce("ReduceL2", v, others, keepdim=True) if others else emit.node("Abs", v)
    return emit.node("Mul", v, emit.node("Div", call.g, length))
