"""Along an axis: running sums, products and extremes, and the differences of neighbours.

ONNX has the running sum. The others are taken over a square: its row i holds the axis's elements up to i.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from passes.errors import check
from passes.ops.arithmetic import SINCE_14
from passes.ops.assignment import counted
from passes.ops.axes import axis_of
from passes.ops.extremes import lower_extreme, position_along
from passes.ops.integer_reduction import running_products
from passes.ops.joining import joined
from passes.ops.matmul import SUMMED_IN
from passes.ops.op import Op
from passes.ops.positions import distance
from passes.ops.record import Record, T
from passes.ops.reduction import sum_dtype
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


# Sums and products ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Running(Record[T]):
    input: T
    dim: int
    dtype: torch.dtype | None = None


def _running(name: str, lowering: Callable[[Emitter, Value, Value, int], Value]) -> None:
    op = Op(name, Running, functions=(getattr(torch, name),), methods=(name,))

    @op.shape
    def shape(call: Running[TensorSpec]) -> TensorSpec:
        axis_of(call.dim, call.input.ndim)
        return call.input.with_dtype(sum_dtype(call.input, call.dtype))

    @op.lower
    def lower(emit: Emitter, call: Running[Value]) -> Value:
        input = call.input
        value = emit.cast(input, emit.result.dtype)
        if not input.ndim:
            return emit.node("Identity", value)
        return lowering(emit, input, value, axis_of(call.dim, input.ndim))


def lower_cumsum(emit: Emitter, input: Value, value: Value, axis: int) -> Value:
    """CumSum; 16-bit floats since opset 14, small integers never: their sums wrap as well afterwards."""
    dtype = emit.result.dtype
    working = torch.float32 if dtype.is_floating_point and not emit.takes("CumSum", dtype) else dtype
    working = SUMMED_IN.get(working, working)
    total = emit.node("CumSum", emit.cast(value, working), emit.constant(torch.tensor(axis)))
    return total if working == dtype else emit.cast(total, dtype)


def lower_cumprod(emit: Emitter, input: Value, value: Value, axis: int) -> Value:
    dtype = emit.result.dtype
    working = SUMMED_IN.get(dtype, dtype)
    value = emit.cast(value, working)
    empty = isinstance(input.shape[axis], int) and input.shape[axis] == 0
    if not dtype.is_floating_point and not empty:
        result = running_products(emit, value, axis)[1]
    else:
        result = emit.reduce("ReduceProd", _prefixes(emit, input, value, axis, 1), [axis + 1], False)
    return result if working == dtype else emit.cast(result, dtype)


_running("cumsum", lower_cumsum)
_running("cumprod", lower_cumprod)


def _prefixes(emit: Emitter, input: Value, value: Value, axis: int, neutral: float) -> Value:
    """The square of a value in the input's shape, with `neutral` behind the diagonal."""
    size, behind = input.shape[axis], [1] * (input.ndim - axis - 1)
    places = counted(emit, 0, size)
    rows, columns = emit.reshape(places, [size, 1, *behind]), emit.reshape(places, [size, *behind])
    taken = emit.node("LessOrEqual", columns, rows)
    return emit.node("Where", taken, emit.unsqueeze(value, axis), emit.scalar(neutral, value))


@dataclass(frozen=True, slots=True)
class Logcumsumexp(Record[T]):
    input: T
    dim: int


logcumsumexp = Op("logcumsumexp", Logcumsumexp, functions=(torch.logcumsumexp,), methods=("logcumsumexp",))


@logcumsumexp.shape
def logcumsumexp_shape(call: Logcumsumexp[TensorSpec]) -> TensorSpec:
    axis_of(call.dim, call.input.ndim)
    return call.input


@logcumsumexp.lower
def lower_logcumsumexp(emit: Emitter, call: Logcumsumexp[Value]) -> Value:
    input = call.input
    if not input.dtype.is_floating_point:
        emit.unsupported(f"torch itself computes no logcumsumexp of {input.dtype}")
    if not input.ndim:
        return input
    axis = axis_of(call.dim, input.ndim)
    return emit.reduce("ReduceLogSumExp", _prefixes(emit, input, input, axis, -torch.inf), [axis + 1], False)


# Extremes -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunningExtreme(Record[T]):
    input: T
    dim: int


def _running_extreme(name: str, word: str) -> None:
    """`cummax` and `cummin`: the extreme so far, and where it was met last."""
    op = Op(name, RunningExtreme, functions=(getattr(torch, name),), methods=(name,))

    @op.shape
    def shape(call: RunningExtreme[TensorSpec]) -> tuple[TensorSpec, TensorSpec]:
        axis_of(call.dim, call.input.ndim)
        return call.input, call.input.with_dtype(torch.int64)

    @op.lower
    def lower(emit: Emitter, call: RunningExtreme[Value]) -> tuple[Value, Value]:
        """Row i of the square goes on with its own element, which changes no extreme; found there, it is at i."""
        input = call.input
        if not input.ndim:
            return input, emit.scalar(0, torch.int64)
        axis = axis_of(call.dim, input.ndim)
        before, size, behind = input.shape[:axis], input.shape[axis], input.shape[axis + 1 :]
        places = counted(emit, 0, size)
        repeated = emit.node("Gather", input, emit.node("Min", emit.unsqueeze(places, 1), places), axis=axis)
        square = replace(repeated, spec=TensorSpec((*before, size, size, *behind), input.dtype))
        extreme = lower_extreme(emit, f"Reduce{word}", square, axis + 1, False)
        last = position_along(emit, f"Arg{word}", square, axis + 1, last=True)
        place = emit.node("Min", last, emit.reshape(places, [size, *(1 for _ in behind)]))
        return extreme, place


_running_extreme("cummax", "Max")
_running_extreme("cummin", "Min")


# Differences ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Diff(Record[T]):
    input: T
    n: int = 1
    dim: int = -1
    prepend: T | None = None
    append: T | None = None


diff = Op("diff", Diff, functions=(torch.diff,), methods=("diff",))


@diff.shape
def diff_shape(call: Diff[TensorSpec]) -> TensorSpec:
    input, n = call.input, call.n
    check(input.ndim >= 1, "diff needs a tensor of 1 axis or more, found a 0-d one")
    check(n >= 0, "differences cannot be taken {} times", n)
    for end in (call.prepend, call.append):
        check(end is None or end.ndim == input.ndim, "{} cannot be joined to {}", end, input)
    parts = [part for part in (call.prepend, input, call.append) if part is not None]
    if n == 0 and len(parts) == 1:
        return input
    axis = axis_of(call.dim, input.ndim)
    whole = joined(parts, axis)
    if n == 0:
        return input
    return whole.with_shape(*whole.shape[:axis], distance(n, whole.shape[axis]), *whole.shape[axis + 1 :])


@diff.lower
def lower_diff(emit: Emitter, call: Diff[Value]) -> Value:
    if call.n == 0:
        return call.input
    dtype = emit.result.dtype
    working = SINCE_14.dtype(dtype, emit.opset) if dtype != torch.bool else dtype
    axis = axis_of(call.dim, call.input.ndim)
    parts = [emit.cast(part, working) for part in (call.prepend, call.input, call.append) if part is not None]
    value = emit.node("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]
    for _ in range(call.n):
        left, right = emit.slice(value, axis, 0, -1), emit.slice(value, axis, 1, 2**63 - 1)
        value = emit.node("Xor", right, left) if dtype == torch.bool else emit.node("Sub", right, left)
    return emit.cast(replace(value, spec=emit.result.with_dtype(working)), dtype)
