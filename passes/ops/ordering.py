"""Sorting along an axis. ONNX's TopK does all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from passes.dimension import Size
from passes.errors import check
from passes.ops.axes import axis_of
from passes.ops.op import Op
from passes.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx_emitter import Emitter, Value

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


topk = Op("topk", functions=(torch.topk,), methods=("topk",))


@topk.shape
def topk_shape(
    input: TensorSpec, k: Size, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[TensorSpec, TensorSpec]:
    axis = axis_of(dim, input.ndim)
    size = input.shape[axis] if input.ndim else 1
    check(k >= 0, "topk of {} elements", k)
    check(k <= size, "topk of {} elements, but axis {} has only {}", k, axis, size, remedy="ask for at most {2}")
    found = input.with_shape(*input.shape[:axis], k, *input.shape[axis + 1 :]) if input.ndim else input
    return found, found.with_dtype(torch.int64)


@topk.lower
def lower_topk(
    emit: Emitter, input: Value, k: Size, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, Value]:
    return top(emit, input, k, dim, largest, sorted)


sort = Op("sort", functions=(torch.sort,), methods=("sort",))
argsort = Op("argsort", functions=(torch.argsort,), methods=("argsort",))
msort = Op("msort", functions=(torch.msort,), methods=("msort",))


@sort.shape
def sort_shape(
    input: TensorSpec, dim: int = -1, descending: bool = False, stable: bool | None = None
) -> tuple[TensorSpec, TensorSpec]:
    axis_of(dim, input.ndim)
    return input, input.with_dtype(torch.int64)


@sort.lower
def lower_sort(
    emit: Emitter, input: Value, dim: int = -1, descending: bool = False, stable: bool | None = None
) -> tuple[Value, Value]:
    return top(emit, input, None, dim, descending)


@argsort.shape
def argsort_shape(input: TensorSpec, dim: int = -1, descending: bool = False, stable: bool | None = None) -> TensorSpec:
    return sort_shape(input, dim, descending)[1]


@argsort.lower
def lower_argsort(
    emit: Emitter, input: Value, dim: int = -1, descending: bool = False, stable: bool | None = None
) -> Value:
    return top(emit, input, None, dim, descending)[1]


@msort.shape
def msort_shape(input: TensorSpec) -> TensorSpec:
    return sort_shape(input, 0)[0]


@msort.lower
def lower_msort(emit: Emitter, input: Value) -> Value:
    return top(emit, input, None, 0, False)[0]


kthvalue = Op("kthvalue", functions=(torch.kthvalue,), methods=("kthvalue",))


@kthvalue.shape
def kthvalue_shape(input: TensorSpec, k: int, dim: int = -1, keepdim: bool = False) -> tuple[TensorSpec, TensorSpec]:
    axis = axis_of(dim, input.ndim)
    size = input.shape[axis] if input.ndim else 1
    check(k >= 1, "the smallest element is number 1, not {}", k)
    check(k <= size, "element number {} is asked for, but axis {} has only {}", k, axis, size)
    shape = [1 if i == axis else size for i, size in enumerate(input.shape) if keepdim or i != axis]
    found = input.with_shape(*shape)
    return found, found.with_dtype(torch.int64)


@kthvalue.lower
def lower_kthvalue(emit: Emitter, input: Value, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Value, Value]:
    """The last of the k smallest."""
    values, positions = top(emit, input, k, dim, False)
    if not input.ndim:
        return values, positions
    axis = axis_of(dim, input.ndim)
    last = emit.ints(-1) if keepdim else emit.constant(torch.tensor(-1))
    return emit.node("Gather", values, last, axis=axis), emit.node("Gather", positions, last, axis=axis)
