"""Recurrent networks: layers of RNN, GRU or LSTM cells over a sequence, in one direction or both.

The input is [time, batch, features], or [batch, time, features] with `batch_first`, or [time, features]; the
output has as many axes, with one block of features per direction. States are [layers * directions, batch, size]
whatever `batch_first` says, without the batch where the input has none. Each layer reads the output of the one
below. With `proj_size`, an LSTM's hidden state is multiplied by a matrix before it is passed on; its cell state is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from passes.errors import NeedsDataError, check
from passes.ops.layout import transposed
from passes.ops.op import Op, Owned
from passes.ops.record import Record, T, star
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
from passes.torch_private import packings
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class Recurrent(Record[T]):
    kind: Kind
    input: T
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


@dataclass(frozen=True, slots=True)
class Packing(Record[T]):
    arguments: tuple[Any, ...] = star()


packing = Op("packing", Packing, functions=packings)


def packed_error() -> NeedsDataError:
    return NeedsDataError(
        "packed sequences are not supported: their sizes are the lengths of the sequences, which are data",
        remedy="call the layer with the padded tensor, and mask its output",
    )


@packing.shape
def packing_shape(call: Packing[TensorSpec]) -> Any:
    raise packed_error()


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
    kind: Kind, input: Any, hx: Any, params: Any, has_biases: Any, num_layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool = False,
) -> Mapping[str, Any]:  # fmt: skip
    """`torch.lstm` and its like. Called with a packed sequence, they take its batch sizes second."""
    if not isinstance(has_biases, bool):
        raise packed_error()
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
    kind, input = call.kind, call.input
    ranks = (2, 3) if call.as_module else (3,)
    check(
        input.ndim in ranks,
        "a recurrent layer takes an input of {} axes, found {}", " or ".join(map(str, ranks)), input,
        remedy="give it [batch, steps, features] with batch_first=True, [steps, batch, features] without",
    )  # fmt: skip
    is_batched, directions = input.ndim == 3, 2 if call.bidirectional else 1
    steps = input.shape[1 if is_batched and call.batch_first else 0]
    check(steps >= 1, "a sequence needs at least 1 step, found {}", steps)
    features = input.shape[-1]
    for layer in _layers(call.params, call.has_biases, call.num_layers, directions):
        for weights in layer:
            check_weights(kind, weights, features, input.dtype)
            sizes = state_sizes(kind, weights)
        features = directions * sizes[0]
    lead = (call.num_layers * directions, *([input.shape[0 if call.batch_first else 1]] if is_batched else []))
    states = tuple(input.with_shape(*lead, size) for size in sizes[: kind.states])
    check_states(kind, call.hx, [state.shape for state in states], input.dtype)
    output = input.with_shape(*input.shape[:-1], features)
    return (output, states) if call.as_module and kind.states > 1 else (output, *states)


@recurrent.cost
def recurrent_cost(result: Any, call: Recurrent[TensorSpec]) -> Size:
    """At every step, the products with all matrices."""
    return product(call.input.shape[:-1]) * sum((weight.numel() for weight in call.params if weight.ndim == 2), 0)


# Lowering -----------------------------------------------------------------------------------------


@recurrent.lower
def lower_recurrent(emit: Emitter, call: Recurrent[Value]) -> Any:
    """ONNX's operator for each layer; a Scan over the cell where there is a projection, which ONNX does not know, or
    float64, which onnxruntime does not compute there. Low precision is computed in float32 in a Scan."""
    input = call.input
    if call.train and call.dropout > 0 and call.num_layers > 1:
        emit.unsupported("dropout between the layers is random in training")
    directions = 2 if call.bidirectional else 1
    layers = _layers(call.params, call.has_biases, call.num_layers, directions)
    is_scan = input.dtype == torch.float64 or layers[0][0].weight_hr is not None
    dtype = torch.float32 if is_scan and input.dtype == torch.float16 else WIDE.dtype(input.dtype, emit.opset)
    run = _scanned_layer if is_scan else _operator_layer

    sequence = _time_first(emit, emit.cast(input, dtype), call.batch_first)
    batch = sequence.shape[1]
    initials = _initial(emit, call.kind, call.hx, dtype, call.num_layers, directions)
    may_be_empty = not is_scan and not (isinstance(batch, int) and batch > 0)
    if may_be_empty:
        rows = _missing_rows(emit, batch)
        sequence = _with_rows(emit, sequence, rows)
        initials = [tuple(_with_rows(emit, state, rows) for state in initial) for initial in initials]
    if not is_scan and is_of_data(sequence.shape[0]):
        sequence = _with_steps(emit, sequence)
    finals = []
    for layer, initial in zip(layers, initials, strict=True):
        weights = [each.cast(emit, dtype) for each in layer]
        sequence, *final = run(emit, call.kind, weights, sequence, initial, batch)
        finals.append(final)
    states = [_joined(emit, parts, 0) for parts in zip(*finals, strict=True)]
    if may_be_empty:
        sequence, *states = (emit.slice(value, 1, 0, batch) for value in (sequence, *states))

    if input.ndim == 2:
        sequence, *states = (emit.squeeze(value, 1) for value in (sequence, *states))
    elif call.batch_first:
        sequence = emit.node("Transpose", sequence, perm=[1, 0, 2])
    if dtype != input.dtype:
        sequence, *states = (emit.cast(value, input.dtype) for value in (sequence, *states))
    return (sequence, tuple(states)) if call.as_module and call.kind.states > 1 else (sequence, *states)


def _time_first(emit: Emitter, input: Value, batch_first: bool) -> Value:
    """The input as [time, batch, features]."""
    if input.ndim == 2:
        return emit.unsqueeze(input, 1)
    return transposed(emit, input, (1, 0, 2)) if batch_first else input


def _missing_rows(emit: Emitter, batch: Size) -> Value:
    """The amounts of a Pad that gives an empty batch one row: onnxruntime's operators abort the process without."""
    none = emit.ints(0)
    missing = emit.node("Max", emit.node("Sub", emit.ints(1), emit.size(batch)), none)
    return emit.node("Concat", none, none, none, none, missing, none, axis=0)


def _with_rows(emit: Emitter, value: Value, rows: Value) -> Value:
    return replace(emit.node("Pad", value, rows), spec=value.spec)


def _with_steps(emit: Emitter, sequence: Value) -> Value:
    """The sequence as it is. Without steps the Reshape fails, as torch does; the operators would abort the process."""
    features = sequence.shape[2]
    assert isinstance(features, int)
    return replace(emit.node("Reshape", sequence, emit.ints(0, -1, features)), spec=sequence.spec)


def _initial(
    emit: Emitter, kind: Kind, hx: Any, dtype: torch.dtype, num_layers: int, directions: int
) -> list[tuple[Value, ...]]:
    """Each layer's initial states, [directions, batch, size]; none where none are given."""
    states = [emit.cast(state, dtype) for state in states_of(kind, hx) or ()]
    states = [emit.unsqueeze(state, 1) if state.ndim == 2 else state for state in states]
    if not states or num_layers == 1:
        return [tuple(states)] * num_layers
    return list(zip(*(emit.split(state, [directions] * num_layers, 0) for state in states), strict=True))


def _joined(emit: Emitter, values: Sequence[Value], axis: int) -> Value:
    return values[0] if len(values) == 1 else emit.node("Concat", *values, axis=axis)


def _operator_layer(
    emit: Emitter, kind: Kind, layer: Sequence[Weights], sequence: Value, initial: Sequence[Value], batch: Size
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
    output, *states = emit.nodes(
        kind.name,
        *(sequence, stacked(*weight_ih), stacked(*weight_hh), biases, None, *initial),
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
    emit: Emitter, kind: Kind, layer: Sequence[Weights], sequence: Value, initial: Sequence[Value], batch: Size
) -> tuple[Value, ...]:
    """One layer as a Scan over the cell for each direction; results as of `_operator_layer`."""
    runs = []
    for direction, weights in enumerate(layer):
        product_ih = emit.node("MatMul", sequence, emit.node("Transpose", weights.weight_ih, perm=[1, 0]))
        a = emit.node("Add", product_ih, weights.bias_ih) if weights.bias_ih else product_ih
        own = [emit.node("Gather", state, emit.scalar(direction, torch.int64), axis=0) for state in initial]
        start = own or _zeros(emit, kind, weights, batch)
        runs.append(emit.scan(partial(_step, emit, kind, weights), start, a, backwards=direction == 1))
    *states, outputs = zip(*runs, strict=True)
    finals = (_joined(emit, [emit.unsqueeze(state, 0) for state in both], 0) for both in states)
    return _joined(emit, outputs, 2), *finals


def _zeros(emit: Emitter, kind: Kind, weights: Weights, batch: Size) -> list[Value]:
    zero, sizes = emit.scalar(0, weights.weight_hh), state_sizes(kind, weights)[: kind.states]
    return [emit.node("Expand", zero, emit.sizes([batch, size])) for size in sizes]


def _step(emit: Emitter, kind: Kind, weights: Weights, *values: Value) -> tuple[Value, ...]:
    """The body of a Scan: the next states, then the hidden state again as this step's output."""
    *states, a = values
    h, *rest = kind.step(emit, state_sizes(kind, weights)[1], a, from_state(emit, states[0], weights), states)
    if weights.weight_hr:
        h = emit.node("Gemm", h, weights.weight_hr, transB=1)
    return h, *rest, emit.node("Identity", h)
