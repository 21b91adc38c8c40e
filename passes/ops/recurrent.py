"""Recurrent networks: layers of RNN, GRU or LSTM cells over a sequence, in one direction or both.

The input is [time, batch, features], or [batch, time, features] with `batch_first`, or [time, features]; the
output has as many axes, with one block of features per direction. States are [layers * directions, batch, size]
whatever `batch_first` says, without the batch where the input has none. Each layer reads the output of the one
below. With `proj_size`, an LSTM's hidden state is multiplied by a matrix before it is passed on; its cell state is not.

Of a packed sequence (`packed_sequences.py`) each row is as long as it is: its last states are those at its own end,
where the backward direction begins. The result is packed alike, and states are in the order of the rows before packing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from passes.errors import check
from passes.ops.layout import transposed
from passes.ops.op import Op, Owned
from passes.ops.packed_sequences import PackedValue, in_steps, of_rows, packed_value
from passes.ops.record import Record, T
from passes.ops.recurrent_cell import (
    GRU,
    LSTM,
    RNN_RELU,
    RNN_TANH,
    WIDE,
    Kind,
    Weights,
    check_states,
    check_weights,
    from_state,
    rnn_kind,
    state_sizes,
    states_of,
)
from passes.sizes.dimension import Size, is_of_data, product
from passes.values.spec import PackedSpec, TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class Recurrent(Record[T]):
    """`input` is a tensor, or the parts of a packed sequence."""

    kind: Kind
    input: Any
    hx: Any
    params: Sequence[T]
    has_biases: bool
    num_layers: int
    dropout: float
    train: bool
    bidirectional: bool
    batch_first: bool
    as_module: bool = False


recurrent = Op("recurrent", Recurrent)


def bind_module(kind: Kind, module: nn.RNNBase, input: Any, hx: Any = None) -> Mapping[str, Any]:
    return {
        "kind": kind,
        "input": input,
        "hx": hx,
        "params": tuple(Owned(name) for name in module._flat_weights_names),
        "has_biases": module.bias,
        "num_layers": module.num_layers,
        "dropout": module.dropout,
        "train": False,
        "bidirectional": module.bidirectional,
        "batch_first": module.batch_first,
        "as_module": True,
    }


def bind_function(
    kind: Kind, input: Any, hx: Any, params: Any, has_biases: Any, num_layers: Any, dropout: Any, train: Any,
    bidirectional: Any, batch_first: Any = False,
) -> Mapping[str, Any]:  # fmt: skip
    """`torch.lstm` and its like. For a packed sequence they take its batch sizes second, and no `batch_first`."""
    if not isinstance(has_biases, bool):
        input = (input, hx, None, None)
        hx, params, has_biases, num_layers = params, has_biases, num_layers, dropout
        dropout, train, bidirectional, batch_first = train, bidirectional, batch_first, False
    return {
        "kind": kind, "input": input, "hx": hx, "params": params, "has_biases": has_biases, "num_layers": num_layers,
        "dropout": dropout, "train": train, "bidirectional": bidirectional, "batch_first": batch_first,
    }  # fmt: skip


recurrent.module(nn.LSTM)(partial(bind_module, LSTM))
recurrent.module(nn.GRU)(partial(bind_module, GRU))
recurrent.function(torch.lstm)(partial(bind_function, LSTM))
recurrent.function(torch.gru)(partial(bind_function, GRU))
recurrent.function(torch.rnn_tanh)(partial(bind_function, RNN_TANH))
recurrent.function(torch.rnn_relu)(partial(bind_function, RNN_RELU))


@recurrent.module(nn.RNN)
def bind_rnn(module: nn.RNN, input: Any, hx: Any = None) -> Mapping[str, Any]:
    return bind_module(rnn_kind(module.nonlinearity), module, input, hx)


def _layers(params: Sequence[Any], has_biases: bool, num_layers: int, directions: int) -> list[list[Weights]]:
    """The flat weights as torch orders them, by layer and direction. One more than expected is a projection."""
    count, rest = divmod(len(params), num_layers * directions)
    own = 4 if has_biases else 2
    check(
        rest == 0 and count in (own, own + 1),
        "{} weights do not make {} layers in {} directions", len(params), num_layers, directions,
    )  # fmt: skip
    cells = []
    for start in range(0, len(params), count):
        weights = Weights(*params[start : start + own])
        cells.append(weights._replace(weight_hr=params[start + own]) if count > own else weights)
    return [cells[start : start + directions] for start in range(0, len(cells), directions)]


# Shapes -------------------------------------------------------------------------------------------


@recurrent.shape
def recurrent_shape(call: Recurrent[TensorSpec]) -> Any:
    """(output, h), and for an LSTM (output, (h, c)); its function gives (output, h, c), and takes batches only."""
    kind, input = call.kind, _elements(call)
    directions = 2 if call.bidirectional else 1
    lead = _leading_sizes(call, input)
    features = input.shape[-1]
    for layer in _layers(call.params, call.has_biases, call.num_layers, directions):
        for weights in layer:
            check_weights(kind, weights, features, input.dtype)
            sizes = state_sizes(kind, weights)
        features = directions * sizes[0]
    states = tuple(input.with_shape(call.num_layers * directions, *lead, size) for size in sizes[: kind.states])
    check_states(kind, call.hx, [state.shape for state in states], input.dtype)
    output: Any = input.with_shape(*input.shape[:-1], features)
    if call.as_module and isinstance(call.input, tuple):
        output = of_rows(output, lead[0], call.input[1:])
    return (output, states) if call.as_module and kind.states > 1 else (output, *states)


def _elements(call: Recurrent[T]) -> T:
    """The tensor that has the sequences' elements, packed or not."""
    found: T = call.input[0] if isinstance(call.input, tuple) else call.input
    return found


def _leading_sizes(call: Recurrent[TensorSpec], input: TensorSpec) -> list[Size]:
    """The batch, as a list of one; nothing where the input has none."""
    if isinstance(call.input, tuple):
        check(input.ndim == 2, "a recurrent layer takes packed sequences of 1 axis of features, found {}", input)
        return [_rows(call)]
    ranks = (2, 3) if call.as_module else (3,)
    check(
        input.ndim in ranks,
        "a recurrent layer takes an input of {} axes, found {}", " or ".join(map(str, ranks)), input,
        remedy="give it [batch, steps, features] with batch_first=True, [steps, batch, features] without",
    )  # fmt: skip
    steps = input.shape[1 if input.ndim == 3 and call.batch_first else 0]
    check(steps >= 1, "a sequence needs at least 1 step, found {}", steps)
    return [input.shape[0 if call.batch_first else 1]] if input.ndim == 3 else []


def _rows(call: Recurrent[Any]) -> Size:
    """How many rows are packed. torch's functions are given no packed sequence as such: their states say it."""
    if isinstance(call.input[0], PackedSpec):
        return call.input[0].rows
    states = states_of(call.kind, call.hx) or ()
    check(all(state.ndim == 3 for state in states), "packed sequences need initial states of 3 axes")
    rows: Size = states[0].shape[1]
    return rows


@recurrent.cost
def recurrent_cost(result: Any, call: Recurrent[TensorSpec]) -> Size:
    """At every step, the products with all matrices."""
    return product(_elements(call).shape[:-1]) * sum((weight.numel() for weight in call.params if weight.ndim == 2), 0)


# Lowering -----------------------------------------------------------------------------------------


@recurrent.lower
def lower_recurrent(emit: Emitter, call: Recurrent[Value]) -> Any:
    """ONNX's operator for each layer; a Scan over the cell where there is a projection, which ONNX does not know, or
    float64, which onnxruntime does not compute there. Low precision is computed in float32 in a Scan."""
    input = _elements(call)
    if call.train and call.dropout > 0 and call.num_layers > 1:
        emit.unsupported("dropout between the layers is random in training")
    directions = 2 if call.bidirectional else 1
    layers = _layers(call.params, call.has_biases, call.num_layers, directions)
    is_scan = input.dtype == torch.float64 or layers[0][0].weight_hr is not None
    dtype = torch.float32 if is_scan and input.dtype == torch.float16 else WIDE.dtype(input.dtype, emit.opset)
    run = _scanned_layer if is_scan else _operator_layer

    packed = _packed(emit, call)
    sequence = _time_first(emit, input, call.batch_first) if packed is None else packed.steps
    sequence, batch = _widened(emit, sequence, dtype), sequence.shape[1]
    extent = Extent(batch) if packed is None else Extent(batch, packed.mask, packed.lengths)
    initials = _initial(emit, call, dtype, directions)
    may_be_empty = not is_scan and not (isinstance(batch, int) and batch > 0)
    if may_be_empty:
        missing = _missing_rows(emit, batch)
        sequence, extent = _with_rows(emit, sequence, missing), extent.with_rows(emit, missing)
        initials = [tuple(_with_rows(emit, state, missing) for state in initial) for initial in initials]
    if not is_scan and packed is None and is_of_data(sequence.shape[0]):
        sequence = _with_steps(emit, sequence)
    finals = []
    for layer, initial in zip(layers, initials, strict=True):
        weights = [each.cast(emit, dtype) for each in layer]
        sequence, *final = run(emit, call.kind, weights, sequence, initial, extent)
        finals.append(final)
    states = [_joined(emit, parts, 0) for parts in zip(*finals, strict=True)]
    if may_be_empty:
        sequence, *states = (emit.slice(value, 1, 0, batch) for value in (sequence, *states))

    if input.ndim == 2 and packed is None:
        sequence, *states = (emit.squeeze(value, 1) for value in (sequence, *states))
    elif call.batch_first and packed is None:
        sequence = emit.node("Transpose", sequence, perm=[1, 0, 2])
    if dtype != input.dtype:
        sequence, *states = (emit.cast(value, input.dtype) for value in (sequence, *states))
    output: Any = sequence
    if packed is not None:
        output, states = _packed_again(emit, call, packed, sequence, states)
    return (output, tuple(states)) if call.as_module and call.kind.states > 1 else (output, *states)


def _widened(emit: Emitter, sequence: Value, dtype: torch.dtype) -> Value:
    """The sequence in another dtype; by way of float64 from float16, as onnxruntime crashes where it fuses a product
    with a transposition behind which there is one cast."""
    return emit.cast(emit.cast(sequence, torch.float64) if sequence.dtype == torch.float16 else sequence, dtype)


@dataclass(frozen=True, slots=True)
class Extent:
    """How many rows there are; where they are packed, also which of them reach which step, and their lengths."""

    batch: Size
    mask: Value | None = None
    lengths: Value | None = None

    def with_rows(self, emit: Emitter, missing: Value) -> Extent:
        """With what an empty batch is missing: a row of one step."""
        if self.lengths is None:
            return self
        more = emit.node("Expand", emit.ints(1), missing)
        return replace(self, lengths=emit.node("Concat", self.lengths, more, axis=0))


def _packed(emit: Emitter, call: Recurrent[Value]) -> PackedValue | None:
    if not isinstance(call.input, tuple):
        return None
    data, batch_sizes, *_ = call.input
    return data if isinstance(data, PackedValue) else in_steps(emit, data, batch_sizes, _rows(call))


def _packed_again(
    emit: Emitter, call: Recurrent[Value], packed: PackedValue, sequence: Value, states: list[Value]
) -> tuple[Any, list[Value]]:
    """The output packed as the input is, and the states in the order of the rows before packing."""
    data, batch_sizes, order, back = call.input
    features = (emit.result[0][0] if call.as_module else emit.result[0]).shape[-1]
    steps = replace(sequence, spec=data.known.with_shape(*packed.steps.shape[:2], features))
    output = packed_value(emit, steps, packed.mask, packed.lengths, zeroed=True)
    if back is not None:
        states = [emit.node("Gather", state, back, axis=1) for state in states]
    return ((output, batch_sizes, order, back) if call.as_module else output), states


def _time_first(emit: Emitter, input: Value, batch_first: bool) -> Value:
    """The input as [time, batch, features]."""
    if input.ndim == 2:
        return emit.unsqueeze(input, 1)
    return transposed(emit, input, (1, 0, 2)) if batch_first else input


def _missing_rows(emit: Emitter, batch: Size) -> Value:
    """How many rows an empty batch is given: one, as onnxruntime's operators abort the process without."""
    return emit.node("Max", emit.node("Sub", emit.ints(1), emit.size(batch)), emit.ints(0))


def _with_rows(emit: Emitter, value: Value, missing: Value) -> Value:
    none = emit.ints(0)
    pads = emit.node("Concat", none, none, none, none, missing, none, axis=0)
    return replace(emit.node("Pad", value, pads), spec=value.spec)


def _with_steps(emit: Emitter, sequence: Value) -> Value:
    """The sequence as it is. Without steps the Reshape fails, as torch does; the operators would abort the process."""
    features = sequence.shape[2]
    assert isinstance(features, int)
    return replace(emit.node("Reshape", sequence, emit.ints(0, -1, features)), spec=sequence.spec)


def _initial(emit: Emitter, call: Recurrent[Value], dtype: torch.dtype, directions: int) -> list[tuple[Value, ...]]:
    """Each layer's initial states, [directions, batch, size]; none where none are given."""
    states = [emit.cast(state, dtype) for state in states_of(call.kind, call.hx) or ()]
    states = [emit.unsqueeze(state, 1) if state.ndim == 2 else state for state in states]
    order = call.input[2] if isinstance(call.input, tuple) else None
    if order is not None:
        states = [replace(emit.node("Gather", state, order, axis=1), spec=state.spec) for state in states]
    if not states or call.num_layers == 1:
        return [tuple(states)] * call.num_layers
    return list(zip(*(emit.split(state, [directions] * call.num_layers, 0) for state in states), strict=True))


def _joined(emit: Emitter, values: Sequence[Value], axis: int) -> Value:
    return values[0] if len(values) == 1 else emit.node("Concat", *values, axis=axis)


def _operator_layer(
    emit: Emitter, kind: Kind, layer: Sequence[Weights], sequence: Value, initial: Sequence[Value], extent: Extent
) -> tuple[Value, ...]:
    """One layer as ONNX's own operator: its output [time, batch, directions * hidden], then its final states.

    ONNX orders the gates in its own way and stacks the directions. The weights keep torch's order and are gathered
    in the graph, which a runtime does once when it loads the model.
    """
    hidden = layer[0].weight_hh.shape[1]
    blocks = torch.arange(len(kind.onnx_order) * hidden).reshape(-1, hidden)
    rows = emit.constant(blocks[list(kind.onnx_order)].reshape(1, -1)) if len(kind.onnx_order) > 1 else None

    def stacked(*weights: Value) -> Value:
        ordered = [emit.node("Gather", w, rows, axis=0) if rows else emit.unsqueeze(w, 0) for w in weights]
        return _joined(emit, ordered, 0)

    weight_ih, weight_hh, bias_ih, bias_hh, _ = zip(*layer, strict=True)
    biases = _joined(emit, [stacked(*bias_ih), stacked(*bias_hh)], 1) if bias_ih[0] else None
    lengths = None if extent.lengths is None else emit.cast(extent.lengths, torch.int32)
    output, *states = emit.nodes(
        kind.name,
        *(sequence, stacked(*weight_ih), stacked(*weight_hh), biases, lengths, *initial),
        outputs=1 + kind.states,
        hidden_size=hidden,
        direction="bidirectional" if len(layer) == 2 else None,
        activations=[kind.activation] * len(layer) if kind.activation else None,
        linear_before_reset=kind.linear_before_reset,
    )
    if len(layer) == 1:
        return emit.squeeze(output, 1), *states
    beside = emit.node("Transpose", output, perm=[0, 2, 1, 3])
    return emit.node("Reshape", beside, emit.ints(0, 0, len(layer) * hidden)), *states


def _scanned_layer(
    emit: Emitter, kind: Kind, layer: Sequence[Weights], sequence: Value, initial: Sequence[Value], extent: Extent
) -> tuple[Value, ...]:
    """One layer as a Scan over the cell for each direction; results as of `_operator_layer`."""
    runs = []
    masks = [] if extent.mask is None else [emit.unsqueeze(extent.mask, 2)]
    for direction, weights in enumerate(layer):
        product_ih = emit.node("MatMul", sequence, emit.node("Transpose", weights.weight_ih, perm=[1, 0]))
        a = emit.node("Add", product_ih, weights.bias_ih) if weights.bias_ih else product_ih
        own = [emit.node("Gather", state, emit.scalar(direction, torch.int64), axis=0) for state in initial]
        start = own or _zeros(emit, kind, weights, extent.batch)
        runs.append(emit.scan(partial(_step, emit, kind, weights), start, [a, *masks], backwards=direction == 1))
    *states, outputs = zip(*runs, strict=True)
    finals = (_joined(emit, [emit.unsqueeze(state, 0) for state in both], 0) for both in states)
    return _joined(emit, outputs, 2), *finals


def _zeros(emit: Emitter, kind: Kind, weights: Weights, batch: Size) -> list[Value]:
    zero, sizes = emit.scalar(0, weights.weight_hh), state_sizes(kind, weights)[: kind.states]
    return [emit.node("Expand", zero, emit.sizes([batch, size])) for size in sizes]


def _step(emit: Emitter, kind: Kind, weights: Weights, *values: Value) -> tuple[Value, ...]:
    """The body of a Scan: the next states, then the hidden state again as this step's output.

    Behind the states and what comes from the input there may be a mask: where it does not hold, a row has ended, or has
    not begun. Its states stay as they are, and its output is zero.
    """
    states, (a, *mask) = values[: kind.states], values[kind.states :]
    h, *rest = kind.step(emit, state_sizes(kind, weights)[1], a, from_state(emit, states[0], weights), states)
    if weights.weight_hr:
        h = emit.node("Gemm", h, weights.weight_hr, transB=1)
    if not mask:
        return h, *rest, emit.node("Identity", h)
    nothing = emit.scalar(0, weights.weight_hh)
    moved = [emit.node("Where", *mask, new, old) for new, old in zip((h, *rest), states, strict=True)]
    return *moved, emit.node("Where", *mask, h, nothing)
