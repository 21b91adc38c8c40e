"""Packed sequences: the elements of sequences of unlike lengths, step after step, without what pads them.

torch packs rows whose lengths fall into one tensor, `data`, and notes how many rows there are at each step:

    rows  a b c    data         a d e  b f  c
          d f -    batch_sizes  3      2    1
          e - -    lengths      3 2 1

Both have sizes that the lengths decide. A graph takes them for what they are, so that anything may be done with them.
But where a file packs what is padded, it keeps the padded form beside it (`PackedValue`): a recurrent layer computes
with that and with the lengths, as ONNX's operators do, and so a file that packs only for a recurrent layer packs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import PackedSequence

from passes.errors import check
from passes.onnx.value import Value
from passes.ops.assignment import chosen, counted
from passes.ops.layout import transposed
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.sizes.dimension import Size, product, same_size
from passes.torch_private import pack_padded, pad_packed
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter


# What the graph calls -------------------------------------------------------------------------------


def packed_data(input: torch.Tensor, lengths: torch.Tensor, batch_first: bool, total: int) -> torch.Tensor:
    """The data of padded rows, packed. `total` is how many elements that are, or may be at most."""
    return pack_padded(input, lengths, batch_first)[0]


def step_counts(lengths: torch.Tensor, longest: int) -> torch.Tensor:
    """The batch sizes: how many of these lengths reach each step. `longest` is how many steps there are, or may be at
    most."""
    return (torch.arange(int(lengths.max())).unsqueeze(1) < lengths).sum(1)


def padded_rows(
    data: torch.Tensor, batch_sizes: torch.Tensor, batch_first: bool, padding_value: float, total_length: int, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of a packed sequence, padded to `total_length`, and their lengths; `rows` is how many there are."""
    return pad_packed(data, batch_sizes, batch_first, padding_value, total_length)


def packed_sequence(
    data: torch.Tensor, batch_sizes: torch.Tensor, sorted_indices: Any, unsorted_indices: Any
) -> PackedSequence:
    """A packed sequence of its parts."""
    return PackedSequence(data, batch_sizes, sorted_indices, unsorted_indices)


# Values ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PackedValue(Value):
    """Packed data whose padded form is known too: `steps` [steps, rows, ...], of which `mask` [steps, rows] says what is
    no padding, and the `lengths` of the rows. `zeroed` says that the padding is zeros."""

    steps: Value = Value("")
    mask: Value = Value("")
    lengths: Value = Value("")
    zeroed: bool = False


def packed_value(emit: Emitter, steps: Value, mask: Value, lengths: Value, zeroed: bool = False) -> PackedValue:
    """Padded rows packed. What is not used of it, the packed form say, is left out of the file in the end."""
    flat = emit.reshape(steps, [product(steps.shape[:2]), *steps.shape[2:]])
    data = emit.node("Compress", flat, emit.node("Reshape", mask, emit.ints(-1)), axis=0)
    return PackedValue(data.name, None, steps, mask, lengths, zeroed)


def in_steps(emit: Emitter, data: Value, batch_sizes: Value, rows: Size) -> PackedValue:
    """Packed data in its padded form; it is taken apart where only its packed form is known."""
    if isinstance(data, PackedValue):
        return data
    counts = emit.unsqueeze(batch_sizes, 1)
    mask = emit.node("Less", emit.unsqueeze(counted(emit, 0, rows), 0), counts)
    lengths = emit.reduce("ReduceSum", emit.cast(mask, torch.int64), (0,), False)
    before = emit.node("CumSum", counts, emit.scalar(0, torch.int64), exclusive=1)
    places = emit.node("Add", before, emit.unsqueeze(counted(emit, 0, rows), 0))
    steps = emit.node("Gather", data, emit.node("Where", mask, places, emit.scalar(0, torch.int64)), axis=0)
    spec = data.known.with_shape(batch_sizes.shape[0], rows, *data.shape[1:])
    return PackedValue(data.name, data.spec, replace(steps, spec=spec), mask, lengths)


def reaches(emit: Emitter, lengths: Value, steps: Value) -> Value:
    """Which rows of these lengths reach each of the steps 0, 1, …: [steps, rows]."""
    return emit.node("Less", emit.unsqueeze(steps, 1), emit.unsqueeze(lengths, 0))


# Packing --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PackedData(Record[T]):
    input: T
    lengths: T
    batch_first: bool
    total: Size


data = Op("packed_data", PackedData, functions=(packed_data,))


@data.shape
def data_shape(call: PackedData[TensorSpec]) -> TensorSpec:
    return call.input.with_shape(call.total, *call.input.shape[2:])


@data.lower
def lower_data(emit: Emitter, call: PackedData[Value]) -> Value:
    order = [1, 0, *range(2, call.input.ndim)] if call.batch_first else range(call.input.ndim)
    steps = transposed(emit, call.input, order)
    return packed_value(emit, steps, reaches(emit, call.lengths, counted(emit, 0, steps.shape[0])), call.lengths)


@dataclass(frozen=True, slots=True)
class StepCounts(Record[T]):
    lengths: T
    longest: Size


counts = Op("step_counts", StepCounts, functions=(step_counts,))


@counts.shape
def counts_shape(call: StepCounts[TensorSpec]) -> TensorSpec:
    return TensorSpec((call.longest,), torch.int64)


@counts.lower
def lower_counts(emit: Emitter, call: StepCounts[Value]) -> Value:
    zero, one = emit.scalar(0, torch.int64), emit.scalar(1, torch.int64)
    steps = emit.node("Range", zero, emit.node("ReduceMax", call.lengths, keepdims=0), one)
    return emit.reduce("ReduceSum", emit.cast(reaches(emit, call.lengths, steps), torch.int64), (1,), False)


@dataclass(frozen=True, slots=True)
class Parts(Record[T]):
    data: T
    batch_sizes: T
    sorted_indices: T | None = None
    unsorted_indices: T | None = None


whole = Op("packed_sequence", Parts, functions=(packed_sequence,), container=True)


@whole.shape
def whole_shape(call: Parts[TensorSpec]) -> Any:
    return packed_sequence(call.data, call.batch_sizes, call.sorted_indices, call.unsorted_indices)  # type: ignore[arg-type]  # specs


@whole.lower
def lower_whole(emit: Emitter, call: Parts[Value]) -> Any:
    return call.data, call.batch_sizes, call.sorted_indices, call.unsorted_indices


# Padding --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PaddedRows(Record[T]):
    data: T
    batch_sizes: T
    batch_first: bool
    padding_value: float
    total_length: Size
    rows: Size


padding = Op("padded_rows", PaddedRows, functions=(padded_rows,))


@padding.shape
def padding_shape(call: PaddedRows[TensorSpec]) -> tuple[TensorSpec, TensorSpec]:
    check(call.data.ndim >= 1, "the data of a packed sequence has at least 1 axis, found {}", call.data)
    lead = (call.rows, call.total_length) if call.batch_first else (call.total_length, call.rows)
    return call.data.with_shape(*lead, *call.data.shape[1:]), TensorSpec((call.rows,), torch.int64)


@padding.lower
def lower_padding(emit: Emitter, call: PaddedRows[Value]) -> tuple[Value, Value]:
    """Steps beyond those that there are, are the last one again, under the padding that is put over them."""
    found = in_steps(emit, call.data, call.batch_sizes, call.rows)
    steps, mask, length = found.steps, found.mask, call.total_length
    as_it_is = isinstance(call.data, PackedValue) and same_size(steps.shape[0], length)
    if not as_it_is:
        numbers = counted(emit, 0, length)
        last = emit.node("Sub", emit.axis_size(steps, 0), emit.ints(1))
        taken = emit.node("Gather", steps, emit.node("Min", numbers, last), axis=0)
        steps = replace(taken, spec=steps.known.with_shape(length, *steps.shape[1:]))
        mask = reaches(emit, found.lengths, numbers)
    if not (as_it_is and found.zeroed and call.padding_value == 0):
        features = range(2, steps.ndim)
        over = emit.unsqueeze(mask, *features) if features else mask
        value = emit.scalar(call.padding_value, steps.dtype)
        steps = replace(chosen(emit, over, steps, value), spec=steps.spec)
    order = [1, 0, *range(2, steps.ndim)] if call.batch_first else range(steps.ndim)
    return transposed(emit, steps, order), found.lengths


__all__ = [
    "PackedValue", "in_steps", "packed_data", "packed_sequence", "packed_value", "padded_rows", "step_counts",
]  # fmt: skip
