"""Packed sequences: the elements of sequences of unlike lengths, step after step, without what pads them.

torch packs rows whose lengths fall into one tensor, `data`, and notes how many rows there are at each step:

    rows  a b c    data         a d e  b f  c
          d f -    batch_sizes  3      2    1
          e - -    lengths      3 2 1

Both have sizes that the lengths decide. A graph takes them for what they are, so that anything may be done with them.
But where a file packs what is padded, it keeps the padded form beside it (`PackedValue`): a recurrent layer computes
with that and with the lengths, as ONNX's operators do, so that a file which packs only for a recurrent layer packs
nothing.
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
from passes.sizes.unknown import DataSize
from passes.torch_private import pack_padded, pad_packed
from passes.values.spec import PackedSpec, TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter


# What the graph calls -------------------------------------------------------------------------------


def packed_data(
    input: torch.Tensor, lengths: torch.Tensor, batch_first: bool, total: int | None = None
) -> torch.Tensor:
    """The data of padded rows, packed. `total` is the sum of the lengths, where it is known."""
    data: torch.Tensor = pack_padded(input, lengths, batch_first)[0]
    return data


def step_counts(lengths: torch.Tensor, steps: int, longest: int | None = None) -> torch.Tensor:
    """The batch sizes: how many of these lengths reach each of the steps, up to the `longest` of them, if that is
    known."""
    return (torch.arange(int(lengths.max())).unsqueeze(1) < lengths).sum(1)


def padded_rows(
    data: torch.Tensor, batch_sizes: torch.Tensor, batch_first: bool, padding_value: float, total_length: int, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of a packed sequence, padded to `total_length`, and their lengths; `rows` is how many there are."""
    padded: tuple[torch.Tensor, torch.Tensor] = pad_packed(data, batch_sizes, batch_first, padding_value, total_length)
    return padded


def packed_sequence(
    data: torch.Tensor, batch_sizes: torch.Tensor, sorted_indices: Any, unsorted_indices: Any, rows: int
) -> PackedSequence:
    """A packed sequence of its parts, of so many rows."""
    return PackedSequence(data, batch_sizes, sorted_indices, unsorted_indices)


# Values ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedValue(Value):
    """Packed data whose padded form is known too: `steps` [steps, rows, ...], of which `mask` [steps, rows] says what
    is no padding, and the `lengths` of the rows. `zeroed` says that the padding is zeros."""

    steps: Value
    mask: Value
    lengths: Value
    zeroed: bool


def packed_value(emit: Emitter, steps: Value, mask: Value, lengths: Value, zeroed: bool = False) -> PackedValue:
    """Padded rows packed. What is not used of it, the packed form say, is left out of the file in the end."""
    flat = emit.reshape(steps, [product(steps.shape[:2]), *steps.shape[2:]])
    data = emit.node("Compress", flat, emit.node("Reshape", mask, emit.ints(-1)), axis=0)
    return PackedValue(data.name, None, steps=steps, mask=mask, lengths=lengths, zeroed=zeroed)


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
    steps = replace(steps, spec=spec)
    return PackedValue(data.name, data.spec, steps=steps, mask=mask, lengths=lengths, zeroed=False)


def reaches(emit: Emitter, lengths: Value, steps: Value) -> Value:
    """Which rows of these lengths reach each of the steps 0, 1, …: [steps, rows]."""
    return emit.node("Less", emit.unsqueeze(steps, 1), emit.unsqueeze(lengths, 0))


# Packing --------------------------------------------------------------------------------------------


def _size(what: str, known: Size | None, least: Size, most: Size, lengths: TensorSpec) -> Any:
    """A size that lengths decide, where it is not known beforehand: it comes from data."""
    return DataSize(what, least, most, lengths) if known is None else known


@dataclass(frozen=True, slots=True)
class PackedData(Record[T]):
    input: T
    lengths: T
    batch_first: bool
    total: Size | None = None


data = Op("packed_data", PackedData, functions=(packed_data,))


@data.shape
def data_shape(call: PackedData[TensorSpec]) -> TensorSpec:
    input, total, (rows,) = call.input, call.total, call.lengths.shape
    most = input.shape[0] * input.shape[1]
    return input.with_shape(_size("number of packed elements", total, rows, most, call.lengths), *input.shape[2:])


@data.lower
def lower_data(emit: Emitter, call: PackedData[Value]) -> Value:
    order = [1, 0, *range(2, call.input.ndim)] if call.batch_first else range(call.input.ndim)
    steps = transposed(emit, call.input, order)
    return packed_value(emit, steps, reaches(emit, call.lengths, counted(emit, 0, steps.shape[0])), call.lengths)


@dataclass(frozen=True, slots=True)
class StepCounts(Record[T]):
    lengths: T
    steps: Size
    longest: Size | None = None


counts = Op("step_counts", StepCounts, functions=(step_counts,))


@counts.shape
def counts_shape(call: StepCounts[TensorSpec]) -> TensorSpec:
    longest = _size("length of the longest sequence", call.longest, 1, call.steps, call.lengths)
    return TensorSpec((longest,), torch.int64)


@counts.lower
def lower_counts(emit: Emitter, call: StepCounts[Value]) -> Value:
    zero, one = emit.scalar(0, torch.int64), emit.scalar(1, torch.int64)
    steps = emit.node("Range", zero, emit.node("ReduceMax", call.lengths, keepdims=0), one)
    return emit.reduce("ReduceSum", emit.cast(reaches(emit, call.lengths, steps), torch.int64), (1,), False)


@dataclass(frozen=True, slots=True)
class Parts(Record[T]):
    data: T
    batch_sizes: T
    sorted_indices: T | None
    unsorted_indices: T | None
    rows: Size


whole = Op("packed_sequence", Parts, functions=(packed_sequence,), container=True)


@whole.shape
def whole_shape(call: Parts[TensorSpec]) -> Any:
    return of_rows(call.data, call.rows, (call.batch_sizes, call.sorted_indices, call.unsorted_indices))


def of_rows(data: TensorSpec, rows: Size, others: Any) -> Any:
    """The value of a packed sequence: its data, and its other parts."""
    packed: Any = PackedSpec(data.shape, data.dtype, data.device, rows=rows)
    return PackedSequence(packed, *others)


@whole.lower
def lower_whole(emit: Emitter, call: Parts[Value]) -> Any:
    data = in_steps(emit, call.data, call.batch_sizes, call.rows)
    return data, call.batch_sizes, call.sorted_indices, call.unsorted_indices


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
    "PackedValue", "in_steps", "of_rows", "packed_data", "packed_sequence", "packed_value", "padded_rows",
    "step_counts",
]  # fmt: skip
