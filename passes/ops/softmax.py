"""Softmax and its relatives, along one axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class Softmax(Record[T]):
    input: T
    dim: int | None = None
    dtype: torch.dtype | None = None
    _stacklevel: int = 3


softmax = Op("softmax", Softmax, functions=(F.softmax, torch.softmax, torch.special.softmax), methods=("softmax",))
log_softmax = Op(
    "log_softmax",
    Softmax,
    functions=(F.log_softmax, torch.log_softmax, torch.special.log_softmax),
    methods=("log_softmax",),
)


softmin = Op("softmin", Softmax, functions=(F.softmin,))


@dataclass(frozen=True, slots=True)
class Softmax2d(Record[T]):
    input: T


softmax2d = Op("softmax2d", Softmax2d)


@softmax.module(nn.Softmax)
@log_softmax.module(nn.LogSoftmax)
@softmin.module(nn.Softmin)
def bind_softmax(module: Any, input: Any) -> Mapping[str, Any]:
    return {"input": input, "dim": module.dim}


@softmax.shape
@log_softmax.shape
def softmax_shape(call: Softmax[TensorSpec]) -> TensorSpec:
    input = call.input
    rank = max(input.ndim, 1)
    check(
        call.dim is None or -rank <= call.dim < rank,
        "dim is {}, but the input has {} axes",
        call.dim,
        input.ndim,
        remedy="use dim=-1 for the last axis",
    )
    result = input.with_dtype(call.dtype or input.dtype)
    check(
        result.dtype.is_floating_point,
        "softmax needs a floating-point input, found {}",
        result.dtype,
        remedy="convert the input, or give a floating-point dtype",
    )
    return result


@softmin.shape
def softmin_shape(call: Softmax[TensorSpec]) -> TensorSpec:
    check(call.input.dtype != torch.bool, "softmin negates its input, which is bool")
    return softmax_shape(call)


@softmax.lower
def lower_softmax(emit: Emitter, call: Softmax[Value]) -> Value:
    return _along(emit, "Softmax", emit.cast(call.input, emit.result.dtype), call.dim)


@log_softmax.lower
def lower_log_softmax(emit: Emitter, call: Softmax[Value]) -> Value:
    value = emit.cast(call.input, emit.result.dtype)
    if emit.result.dtype == torch.float64 and emit.result.ndim:
        return _log_softmax_of_double(emit, value, _axis(emit.result.ndim, call.dim))
    return _along(emit, "LogSoftmax", value, call.dim)


def _log_softmax_of_double(emit: Emitter, value: Value, axis: int) -> Value:
    """`y - log(sum(exp(y)))` for y = x - max(x). Runtimes' own in float64 loses what is not a number."""
    moved = emit.node("Sub", value, emit.reduce("ReduceMax", value, [axis], True))
    total = emit.reduce("ReduceSum", emit.node("Exp", moved), [axis], True)
    return emit.node("Sub", moved, emit.node("Log", total))


@softmin.lower
def lower_softmin(emit: Emitter, call: Softmax[Value]) -> Value:
    """softmax(-x); the negation comes before the cast, as in torch, where unsigned integers wrap around."""
    if call.input.dtype == torch.uint8:
        emit.unsupported("softmin of uint8: ONNX does not negate unsigned integers")
    return _along(emit, "Softmax", emit.cast(emit.node("Neg", call.input), emit.result.dtype), call.dim)


def _along(emit: Emitter, op_type: str, input: Value, dim: int | None) -> Value:
    """The op along an axis. Where none is given, torch still takes the axis that it took before dim existed."""
    rank = emit.result.ndim
    if rank == 0:
        return emit.squeeze(emit.node(op_type, emit.unsqueeze(input, 0), axis=0), 0)
    return emit.node(op_type, input, axis=_axis(rank, dim))


def _axis(rank: int, dim: int | None) -> int:
    if dim is None:
        dim = 0 if rank in (1, 3) else 1
    return dim % rank


@softmax2d.module(nn.Softmax2d)
def bind_softmax2d(module: nn.Softmax2d, input: Any) -> Mapping[str, Any]:
    return {"input": input}


@softmax2d.shape
def softmax2d_shape(call: Softmax2d[TensorSpec]) -> TensorSpec:
    check(call.input.ndim in (3, 4), "Softmax2d needs an input of 3 or 4 axes, found {}", call.input.ndim)
    return softmax_shape(Softmax(call.input, -3))


@softmax2d.lower
def lower_softmax2d(emit: Emitter, call: Softmax2d[Value]) -> Value:
    """Over the channels at each position."""
    return _along(emit, "Softmax", call.input, -3)
