"""Sorting along an axis. ONNX's TopK does all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from passes.errors import check
from passes.ops.axes import axis_of
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.sizes.dimension import Size
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

# What TopK does not take, and what it is computed in instead; the order stays the same.
SORTED_AS = {torch.bool: torch.uint8, torch.bfloat16: torch.float32}


def top(
    emit: Emitter, input: Value, k: Size | None, dim: int, largest: bool, sorted: bool = True
) -> tuple[Value, Value]:
    """Values and positions of the first k along an axis in falling or rising order; all of them for None.

    Of equal elements the first comes first, so a sort is stable.
    """
    axis = axis_of(dim, input.ndim)
    working = SORTED_AS.get(input.dtype, input.dtype)
    value = emit.cast(input, working)
    if not input.ndim:
        # TopK needs an axis.
        value = emit.node("Reshape", value, emit.ints(1))
    count = 1 if not input.ndim else input.shape[axis] if k is None else k
    values, positions = emit.nodes(
        "TopK", value, emit.sizes([count]), outputs=2, axis=axis, largest=int(largest), sorted=int(sorted)
    )
    if not input.ndim:
        values, positions = emit.squeeze(values, 0), emit.squeeze(positions, 0)
    return (values if working == input.dtype else emit.cast(values, input.dtype)), positions


@dataclass(frozen=True, slots=True)
class Topk(Record[T]):
    input: T
    k: Size
    dim: int = -1
    largest: bool = True
    sorted: bool = True


topk = Op("topk", Topk, functions=(torch.topk,), methods=("topk",))


@topk.shape
def topk_shape(call: Topk[TensorSpec]) -> tuple[TensorSpec, TensorSpec]:
    input, k = call.input, call.k
    axis = axis_of(call.dim, input.ndim)
    size = input.shape[axis] if input.ndim else 1
    check(k >= 0, "topk of {} elements", k)
    check(k <= size, "topk of {} elements, but axis {} has only {}", k, axis, size, remedy="ask for at most {2}")
    found = input.with_shape(*input.shape[:axis], k, *input.shape[axis + 1 :]) if input.ndim else input
    return found, found.with_dtype(torch.int64)


@topk.lower
def lower_topk(emit: Emitter, call: Topk[Value]) -> tuple[Value, Value]:
    return top(emit, call.input, call.k, call.dim, call.largest, call.sorted)


@dataclass(frozen=True, slots=True)
class Sort(Record[T]):
    input: T
    dim: int = -1
    descending: bool = False
    stable: bool | None = None


sort = Op("sort", Sort, functions=(torch.sort,), methods=("sort",))


argsort = Op("argsort", Sort, functions=(torch.argsort,), methods=("argsort",))


@dataclass(frozen=True, slots=True)
class Msort(Record[T]):
    input: T


msort = Op("msort", Msort, functions=(torch.msort,), methods=("msort",))


@sort.shape
def sort_shape(call: Sort[TensorSpec]) -> tuple[TensorSpec, TensorSpec]:
    axis_of(call.dim, call.input.ndim)
    return call.input, call.input.with_dtype(torch.int64)


@sort.lower
def lower_sort(emit: Emitter, call: Sort[Value]) -> tuple[Value, Value]:
    return top(emit, call.input, None, call.dim, call.descending)


@argsort.shape
def argsort_shape(call: Sort[TensorSpec]) -> TensorSpec:
    return sort_shape(call)[1]


@argsort.lower
def lower_argsort(emit: Emitter, call: Sort[Value]) -> Value:
    return top(emit, call.input, None, call.dim, call.descending)[1]


@msort.shape
def msort_shape(call: Msort[TensorSpec]) -> TensorSpec:
    return sort_shape(Sort(call.input, 0))[0]


@msort.lower
def lower_msort(emit: Emitter, call: Msort[Value]) -> Value:
    return top(emit, call.input, None, 0, False)[0]


@dataclass(frozen=True, slots=True)
class Kthvalue(Record[T]):
    input: T
    k: int
    dim: int = -1
    keepdim: bool = False


kthvalue = Op("kthvalue", Kthvalue, functions=(torch.kthvalue,), methods=("kthvalue",))


@kthvalue.shape
def kthvalue_shape(call: Kthvalue[TensorSpec]) -> tuple[TensorSpec, TensorSpec]:
    input, k = call.input, call.k
    axis = axis_of(call.dim, input.ndim)
    size = input.shape[axis] if input.ndim else 1
    check(k >= 1, "the smallest element is number 1, not {}", k)
    check(k <= size, "element number {} is asked for, but axis {} has only {}", k, axis, size)
    shape = [1 if i == axis else size for i, size in enumerate(input.shape) if call.keepdim or i != axis]
    found = input.with_shape(*shape)
    return found, found.with_dtype(torch.int64)


@kthvalue.lower
def lower_kthvalue(emit: Emitter, call: Kthvalue[Value]) -> tuple[Value, Value]:
    """The last of the k smallest."""
    values, positions = top(emit, call.input, call.k, call.dim, False)
    if not call.input.ndim:
        return values, positions
    axis = axis_of(call.dim, call.input.ndim)
    last = emit.ints(-1) if call.keepdim else emit.constant(torch.tensor(-1))
    return emit.node("Gather", values, last, axis=axis), emit.node("Gather", positions, last, axis=axis)
