"""Packed sequences while a forward is traced.

`torch.nn.utils.rnn` packs and pads by native functions, which its own Python code calls. That code runs as ever; what
stands in for the native functions is here. How many steps and elements there are, the lengths decide:

  lengths that are known       numbers; the batch sizes are a real tensor, as in eager PyTorch
  lengths that are sizes       formulas over named sizes
  lengths that are an input    data, and so are these
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from passes.errors import NeedsDataError, ShapeError
from passes.ops.packed_sequences import packed_data, packed_sequence, padded_rows, step_counts
from passes.program.packed_lengths import arguments_of, origin_of_lengths
from passes.sizes.dimension import Dim
from passes.torch_private import pack_padded, pad_packed, pad_rows
from tracer.capture.values.number import TracedNumber
from tracer.memory.recorder import Recorder

_type = type  # Python's own, also while a forward is traced


# Packing --------------------------------------------------------------------------------------------


def pack(tracer: Recorder, input: Any, lengths: Any, batch_first: bool) -> tuple[Any, Any]:
    """The data and the batch sizes of rows whose lengths fall, as the native function gives them."""
    input = _traced(tracer, input)
    spec = tracer.value(input.node)
    if spec.ndim < 2:
        raise ShapeError(f"pack_padded_sequence takes a tensor of at least 2 axes, found {spec}")
    rows, steps = input.shape[:2] if batch_first else input.shape[1::-1]
    if len(lengths.shape) != 1 or not lengths.shape[0] == rows:
        raise ShapeError(
            f"pack_padded_sequence takes a length for each row of {spec}, found {_listed(lengths.shape)} lengths",
            remedy="give a length for each row; without batch_first the rows are the second axis",
        )
    known = tracer.known.tensor(lengths.node) if isinstance(lengths, fx.Proxy) else lengths
    if known is not None:
        return _packed_by_numbers(tracer, input, known, steps, batch_first)
    longest, total = _of_sizes(tracer, lengths)
    if longest is not None:
        _check_longest(longest, steps)
    batch_sizes = tracer.create_proxy("call_function", step_counts, (lengths, steps, longest), {})
    data = tracer.create_proxy("call_function", packed_data, (input, lengths, batch_first, total), {})
    return data, batch_sizes


def _packed_by_numbers(
    tracer: Recorder, input: Any, lengths: torch.Tensor, steps: Any, batch_first: bool
) -> tuple[Any, torch.Tensor]:
    """The batch sizes of lengths that are known are known too, and real: a forward may go over them."""
    numbers = lengths.tolist()
    _check_falling(numbers)
    _check_longest(numbers[0], steps)
    with tracer.computing():
        batch_sizes = step_counts(lengths, numbers[0], numbers[0])
    data = tracer.create_proxy("call_function", packed_data, (input, lengths, batch_first, sum(numbers)), {})
    return data, batch_sizes


def _check_falling(lengths: Sequence[Any]) -> None:
    if not all(length >= 1 for length in lengths):
        raise ShapeError(f"packed sequences have lengths of at least 1, found {_listed(lengths)}")
    if not all(longer >= shorter for longer, shorter in pairwise(lengths)):
        raise ShapeError(
            f"the lengths of packed sequences must fall, found {_listed(lengths)}",
            remedy="pack with enforce_sorted=False, which sorts them",
        )


def _check_longest(longest: Any, steps: Any) -> None:
    if not steps >= longest:
        raise ShapeError(f"a sequence of length {_plain(longest)} is packed, but there are only {_plain(steps)} steps")


def _of_sizes(tracer: Recorder, lengths: fx.Proxy) -> tuple[Any, Any]:
    """The greatest and the sum of lengths that are sizes, which fall; None where they are something else."""
    tracer.value(lengths.node)
    node, is_sorted = origin_of_lengths(lengths.node)
    arguments = arguments_of(node, "full") or arguments_of(node, "tensor") or {}
    if "fill_value" in arguments and (length := _number(tracer, arguments["fill_value"])) is not None:
        _check_falling([length])
        return length, length * _rows(tracer, node)
    data = arguments.get("data")
    numbers = [_number(tracer, item) for item in data] if isinstance(data, (list, tuple)) else []
    if not numbers or any(number is None for number in numbers):
        return None, None
    for part in [[number] for number in numbers] if is_sorted else [numbers]:
        _check_falling(part)
    return (max(numbers) if is_sorted else numbers[0]), sum(numbers)


def _number(tracer: Recorder, item: Any) -> Any:
    """An argument of a node as a number that counts; None where it is none."""
    if _type(item) is int:
        return item
    if not isinstance(item, fx.Node) or not isinstance(tracer.value(item), (int, Dim)):
        return None
    return TracedNumber.of(tracer, item)


# Padding --------------------------------------------------------------------------------------------


def pad(
    tracer: Recorder, data: Any, batch_sizes: Any, batch_first: bool, padding_value: float, total_length: Any
) -> Any:
    """The padded rows of a packed sequence and their lengths, as the native function gives them; lengths are real where
    the batch sizes are."""
    rows = rows_of(tracer, batch_sizes)
    arguments = (data, batch_sizes, batch_first, padding_value, total_length, rows)
    padded: Any = tracer.create_proxy("call_function", padded_rows, arguments, {})
    if isinstance(batch_sizes, fx.Proxy):
        return padded
    with tracer.computing():
        return padded[0], (torch.arange(rows) < batch_sizes.unsqueeze(1)).sum(0)


def rows_of(tracer: Recorder, batch_sizes: Any) -> Any:
    """How many rows were packed: the first batch size."""
    if not isinstance(batch_sizes, fx.Proxy):
        return int(batch_sizes[0])
    if batch_sizes.node.target is step_counts:
        return _rows(tracer, batch_sizes.node.args[0])
    known = tracer.known.tensor(batch_sizes.node)
    if known is None:
        raise NeedsDataError(
            f"the forward computes {batch_sizes.node.name}, which is taken for the batch sizes of a packed sequence",
            remedy="pass on the batch_sizes that the packed sequence has",
        )
    return int(known[0])


def _rows(tracer: Recorder, lengths: Any) -> TracedNumber:
    """How many lengths there are."""
    return TracedNumber(tracer, tracer.value(lengths).shape[0], "size", (lengths, 0))


def pad_list(
    tracer: Recorder, sequences: Any, batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Any:
    """Several tensors padded to the longest and stacked, in operations on each."""
    sequences = list(sequences)
    if not sequences or any(sequence.dim() < 1 for sequence in sequences):
        raise ShapeError("pad_sequence takes tensors of at least 1 axis, and at least one of them")
    longest = max(sequence.shape[0] for sequence in sequences)
    padded = []
    for sequence in sequences:
        missing = longest - sequence.shape[0]
        ends = [missing, 0] if padding_side == "left" else [0, missing]
        padded.append(F.pad(sequence, [*[0, 0] * (sequence.dim() - 1), *ends], value=padding_value))
    return torch.stack(padded, 0 if batch_first else 1)


# What is called in place of a native function, with the tracer and the function's arguments.
STAND_INS: dict[Any, Callable[..., Any]] = {
    pack_padded: pack,
    pad_packed: pad,
    pad_rows: pad_list,
}


# Calls of recurrent layers --------------------------------------------------------------------------


def given_packed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> PackedSequence | None:
    """The packed sequence that a recurrent layer is called with, if it is."""
    first = args[0] if args else kwargs.get("input")
    return first if _type(first) is PackedSequence else None


class PackedCall:
    """A call of a recurrent layer on a packed sequence, as one node: its arguments, and what its result is.

    As torch's own forward does it, the result has the batch sizes and the order of the input.
    """

    def __init__(self, tracer: Recorder, packed: PackedSequence, hx: Any = None):
        self._packed = packed
        rows = rows_of(tracer, packed.batch_sizes)
        for state in hx if isinstance(hx, tuple) else [] if hx is None else [hx]:
            if state.dim() == 3 and not state.shape[1] == rows:
                raise ShapeError(
                    f"the initial state is of {_plain(state.shape[1])} rows, but {_plain(rows)} were packed",
                    remedy="give it a state for each row: [layers * directions, rows, size]",
                )
        parts = (*packed, rows)
        self.arguments = (
            tracer.create_proxy("call_function", packed_sequence, parts, {}),
            *([] if hx is None else [hx]),
        )

    def result(self, of_node: Any) -> tuple[PackedSequence, Any]:
        """What the caller gets, from what the node gives."""
        return PackedSequence(of_node[0][0], *self._packed[1:]), of_node[1]


# Words ----------------------------------------------------------------------------------------------


def _traced(tracer: Recorder, tensor: Any) -> Any:
    return tensor if isinstance(tensor, fx.Proxy) else tracer.real.traced(tensor)


def _plain(number: Any) -> Any:
    return number.value if _type(number) is TracedNumber else number


def _listed(numbers: Sequence[Any]) -> str:
    return f"[{', '.join(str(_plain(number)) for number in numbers)}]"


__all__ = ["STAND_INS", "PackedCall", "given_packed", "rows_of"]
