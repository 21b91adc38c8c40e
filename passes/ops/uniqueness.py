"""Distinct elements, or distinct slices along an axis: of the whole tensor in order, or of what stands side by side.

How many there are, the data say. Each number that is none is distinct from all others, and comes last in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.ops.axes import axis_of, moved
from passes.ops.layout import transposed
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.ops.repetition import FAR
from passes.sizes.dimension import Dim, Size, is_of_data, product
from passes.sizes.unknown import DataSize
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class Unique(Record[T]):
    input: T
    sorted: bool = True
    return_inverse: bool = False
    return_counts: bool = False
    dim: int | None = None


@dataclass(frozen=True, slots=True)
class UniqueConsecutive(Record[T]):
    input: T
    return_inverse: bool = False
    return_counts: bool = False
    dim: int | None = None


# In no order that is asked for, torch gives them in order too.
unique = Op("unique", Unique, functions=(torch.functional.unique,), methods=("unique",))
unique_consecutive = Op(
    "unique_consecutive",
    UniqueConsecutive,
    functions=(torch.functional.unique_consecutive,),
    methods=("unique_consecutive",),
)


def _distinct(call: Unique[TensorSpec] | UniqueConsecutive[TensorSpec], what: str) -> Any:
    """The elements, and as far as they are asked for which of them each element is, and how often each is there."""
    input = call.input
    count: Any
    check(not input.dtype.is_complex, "distinct elements are looked for among real numbers, found {}", input)
    if call.dim is None:
        count = DataSize(f"number of {what} elements", 0, input.numel(), input)
        found, inverse = input.with_shape(count), input.with_dtype(torch.int64)
    else:
        check(input.ndim >= 1, "a 0-d tensor has no axis {}", call.dim)
        axis = axis_of(call.dim, input.ndim)
        rest = [*input.shape[:axis], *input.shape[axis + 1 :]]
        for size in rest:
            asked = not isinstance(size, Dim) or is_of_data(size)
            check(not asked or size != 0, "the slices along axis {} of {} have no elements", axis, input)
        count = DataSize(f"number of {what} slices along axis {axis}", 0, input.shape[axis], input)
        found = input.with_shape(*rest[:axis], count, *rest[axis:])
        inverse = TensorSpec((input.shape[axis],), torch.int64, input.device)
    counts = TensorSpec((count,), torch.int64, input.device)
    return _asked_for(call, found, inverse, counts)


def _asked_for(call: Unique[Any] | UniqueConsecutive[Any], found: Any, inverse: Any, counts: Any) -> Any:
    results = (found, *([inverse] if call.return_inverse else []), *([counts] if call.return_counts else []))
    return results if len(results) > 1 else found


@unique.shape
def unique_shape(call: Unique[TensorSpec]) -> Any:
    return _distinct(call, "distinct")


@unique_consecutive.shape
def unique_consecutive_shape(call: UniqueConsecutive[TensorSpec]) -> Any:
    return _distinct(call, "consecutively distinct")


# Lowerings ------------------------------------------------------------------------------------------

# What runtimes compare and list in another dtype; the order stays the same. Everything else that is no float is int64.
COMPARED_AS: Mapping[torch.dtype, torch.dtype] = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def _comparable(emit: Emitter, input: Value) -> Value:
    dtype = input.dtype
    return emit.cast(input, COMPARED_AS.get(dtype, dtype) if dtype.is_floating_point else torch.int64)


@unique.lower
def lower_unique(emit: Emitter, call: Unique[Value]) -> Any:
    """Unique. It lists slices of integers; those of floats are told apart by the ranks of their elements."""
    input = call.input
    flat = emit.reshape(_comparable(emit, input), [product(input.shape)])
    if call.dim is None:
        found, inverse, counts = _listed(emit, flat)
        return _asked_for(call, emit.cast(found, input.dtype), emit.reshape(inverse, input.shape), counts)
    axis = axis_of(call.dim, input.ndim)
    ranks = _listed(emit, flat)[1] if input.dtype.is_floating_point else flat
    keys = emit.reshape(ranks, input.shape)
    _, first, inverse, counts = emit.nodes("Unique", keys, outputs=4, axis=axis, sorted=1)
    return _asked_for(call, emit.node("Gather", input, first, axis=axis), inverse, counts)


def _listed(emit: Emitter, row: Value) -> tuple[Value, Value, Value]:
    """The distinct elements of a row, which of them each element is, and how often each is there.

    Runtimes cannot tell where a number that is none belongs. Those are put behind the others.
    """
    if not row.dtype.is_floating_point:
        found, _, inverse, counts = emit.nodes("Unique", row, outputs=4, sorted=1)
        return _of(found, row.dtype), _of(inverse, torch.int64), counts
    is_none = _of(emit.node("IsNaN", row), torch.bool)
    is_number = emit.node("Not", is_none)
    numbers = emit.node("Compress", row, is_number, axis=0)
    nones = emit.node("Compress", row, is_none, axis=0)
    found, _, inverse, counts = emit.nodes("Unique", numbers, outputs=4, sorted=1)
    before = emit.node("CumSum", emit.cast(is_none, torch.int64), emit.scalar(0, torch.int64), exclusive=1)
    behind = emit.node("Add", before, emit.node("Shape", found))
    places = emit.node("Transpose", emit.node("NonZero", is_number), perm=[1, 0])
    once = emit.node("Expand", emit.ints(1), emit.node("Shape", nones))
    return (
        _of(emit.node("Concat", found, nones, axis=0), row.dtype),
        _of(emit.node("ScatterND", behind, places, inverse), torch.int64),
        emit.node("Concat", counts, once, axis=0),
    )


@unique_consecutive.lower
def lower_unique_consecutive(emit: Emitter, call: UniqueConsecutive[Value]) -> Any:
    """The elements, or slices, that differ from the one before them. Which each is, is how many came up to it."""
    input = call.input
    if call.dim is None:
        axis, whole = 0, emit.reshape(input, [product(input.shape)])
        begins = _begins(emit, _comparable(emit, whole), whole.shape[0])
    else:
        axis, whole = axis_of(call.dim, input.ndim), input
        front = transposed(emit, _comparable(emit, input), moved(input.ndim, [axis], [0]))
        rows = emit.reshape(front, [front.shape[0], product(front.shape[1:])])
        begins = _begins(emit, rows, front.shape[0])
    number = emit.node("CumSum", emit.cast(begins, torch.int64), emit.scalar(0, torch.int64))
    inverse = emit.node("Sub", number, emit.ints(1))
    if call.dim is None:
        inverse = emit.reshape(inverse, input.shape)
    starts = emit.squeeze(emit.node("NonZero", begins), 0)
    ends = emit.node("Concat", emit.slice(starts, 0, 1, FAR), emit.node("Shape", begins), axis=0)
    return _asked_for(call, emit.node("Compress", whole, begins, axis=axis), inverse, emit.node("Sub", ends, starts))


def _begins(emit: Emitter, rows: Value, count: Size) -> Value:
    """Whether an element of a vector, or a row of a matrix, is unlike the one before it, as the first one is."""
    same = emit.node("Equal", emit.slice(rows, 0, 1, FAR), emit.slice(rows, 0, 0, -1))
    unlike = _of(emit.node("Not", same), torch.bool)
    if rows.ndim > 1:
        unlike = emit.cast(unlike, torch.int32)
        unlike = emit.cast(_of(emit.reduce("ReduceMax", unlike, [1], False), torch.int32), torch.bool)
    first = emit.node("Expand", emit.constant([True]), emit.node("Min", emit.size(count), emit.ints(1)))
    return _of(emit.node("Concat", first, unlike, axis=0), torch.bool)


def _of(value: Value, dtype: torch.dtype) -> Value:
    """A vector whose length only the runtime knows, with its dtype."""
    length: Any = DataSize("length of a vector")
    return replace(value, spec=TensorSpec((length,), dtype))


__all__ = ["unique", "unique_consecutive"]
