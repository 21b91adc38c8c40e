"""Recurrent cells: one step of an RNN, a GRU or an LSTM, batched or not.

With a = x W_ih^T + b_ih from the input and b = h W_hh^T + b_hh from the state, both cut into one block per gate:

    RNN    h' = tanh(a + b), or relu
    GRU    r, z = sigmoid(a + b)      n = tanh(a + r b)   h' = (1 - z) n + z h
    LSTM   i, f, o = sigmoid(a + b)   g = tanh(a + b)     c' = f c + i g   h' = o tanh(c')

A network of cells over a sequence is in `recurrent.py`, and takes the kinds of cell and their steps from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from passes.errors import check
from passes.ops.elementwise import NEVER, Native
from passes.ops.op import Op, Owned
from passes.ops.record import Record, T
from passes.sizes.dimension import Size, product
from passes.values.spec import TensorSpec, describe, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

# onnxruntime computes no bfloat16 here.
WIDE = Native(bfloat16=NEVER)

Step = Callable[..., "tuple[Value, ...]"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What makes a recurrent layer an RNN, a GRU or an LSTM.

    `name` is also ONNX's operator. `onnx_order` names torch's blocks of gates in ONNX's order, `states` counts the
    tensors that are carried on. `step(emit, hidden, a, b, states)` emits the next states, named as in the module's
    docstring. `activation` and `linear_before_reset` are attributes of ONNX's operator.
    """

    name: str
    onnx_order: tuple[int, ...]
    states: int
    step: Step
    activation: str | None = None
    linear_before_reset: int | None = None


class Weights(NamedTuple):
    """The weights of one cell, as specs, ONNX values or names; `weight_hr` projects the hidden state."""

    weight_ih: Any
    weight_hh: Any
    bias_ih: Any = None
    bias_hh: Any = None
    weight_hr: Any = None

    def cast(self, emit: Emitter, dtype: torch.dtype) -> Weights:
        return Weights(*(None if weight is None else emit.cast(weight, dtype) for weight in self))


# One step -----------------------------------------------------------------------------------------


def _rnn_step(
    activation: str, emit: Emitter, hidden: int, a: Value, b: Value, states: Sequence[Value]
) -> tuple[Value, ...]:
    return (emit.node(activation, emit.node("Add", a, b)),)


def _gru_step(emit: Emitter, hidden: int, a: Value, b: Value, states: Sequence[Value]) -> tuple[Value, ...]:
    a_r, a_z, a_n = emit.split(a, [hidden] * 3, -1)
    b_r, b_z, b_n = emit.split(b, [hidden] * 3, -1)
    r, z = (emit.node("Sigmoid", emit.node("Add", *pair)) for pair in ((a_r, b_r), (a_z, b_z)))
    n = emit.node("Tanh", emit.node("Add", a_n, emit.node("Mul", r, b_n)))
    return (emit.node("Add", n, emit.node("Mul", z, emit.node("Sub", states[0], n))),)


def _lstm_step(emit: Emitter, hidden: int, a: Value, b: Value, states: Sequence[Value]) -> tuple[Value, ...]:
    i, f, g, o = emit.split(emit.node("Add", a, b), [hidden] * 4, -1)
    kept = emit.node("Mul", emit.node("Sigmoid", f), states[1])
    added = emit.node("Mul", emit.node("Sigmoid", i), emit.node("Tanh", g))
    c = emit.node("Add", kept, added)
    return emit.node("Mul", emit.node("Sigmoid", o), emit.node("Tanh", c)), c


RNN_TANH = Kind("RNN", (0,), 1, partial(_rnn_step, "Tanh"), activation="Tanh")
RNN_RELU = Kind("RNN", (0,), 1, partial(_rnn_step, "Relu"), activation="Relu")
GRU = Kind("GRU", (1, 0, 2), 1, _gru_step, linear_before_reset=1)
LSTM = Kind("LSTM", (0, 3, 1, 2), 2, _lstm_step)


def rnn_kind(nonlinearity: str) -> Kind:
    check(nonlinearity in ("tanh", "relu"), "an RNN's nonlinearity is tanh or relu, found {!r}", nonlinearity)
    return RNN_TANH if nonlinearity == "tanh" else RNN_RELU


# What cells and networks share --------------------------------------------------------------------


def state_sizes(kind: Kind, weights: Weights) -> tuple[Size, Size]:
    """The features of h, and the hidden size, which an LSTM's c keeps where its h is projected."""
    return weights.weight_hh.shape[1], weights.weight_ih.shape[0] // len(kind.onnx_order)


_SIZE = "make input_size {1}, or give the input {0} features"


def check_weights(kind: Kind, weights: Weights, input_size: Size, dtype: torch.dtype) -> None:
    """Checks that a cell's weights fit the input and each other."""
    gates, (rows, expected) = len(kind.onnx_order), weights.weight_ih.shape
    check(expected == input_size, "input_size is {}, but the input has {} features", expected, input_size, remedy=_SIZE)
    check(rows % gates == 0, "the weight has {} rows, which are not {} blocks of gates", rows, gates)
    hidden = rows // gates
    size = weights.weight_hr.shape[0] if weights.weight_hr is not None else hidden
    shapes = Weights((rows, input_size), (rows, size), (rows,), (rows,), (size, hidden))
    for name, weight, shape in zip(Weights._fields, weights, shapes, strict=True):
        if weight is not None:
            check(weight.shape == shape, "{} needs the shape {}, found {}", name, shape_text(shape), weight)
            check(weight.dtype == dtype, "the input is {}, but {} is {}", dtype, name, weight.dtype)


def states_of(kind: Kind, hx: Any) -> tuple[Any, ...] | None:
    """The given states as a tuple, whatever their number; None where none are given."""
    if hx is None:
        return None
    is_tuple = isinstance(hx, (tuple, list))
    if kind.states == 1:
        check(not is_tuple, "{} takes one state, found {}", kind.name, describe(hx))
        return (hx,)
    check(
        is_tuple and len(hx) == kind.states,
        "{} takes {} states as a tuple, found {}", kind.name, kind.states, describe(hx),
    )  # fmt: skip
    return tuple(hx)


def check_states(kind: Kind, hx: Any, shapes: Sequence[tuple[Size, ...]], dtype: torch.dtype) -> None:
    for number, (state, shape) in enumerate(zip(states_of(kind, hx) or (), shapes, strict=False)):
        check(state.shape == shape, "initial state {} needs the shape {}, found {}", number, shape_text(shape), state)
        check(state.dtype == dtype, "the input is {}, but initial state {} is {}", dtype, number, state.dtype)


def from_state(emit: Emitter, state: Value, weights: Weights) -> Value:
    return emit.node("Gemm", state, weights.weight_hh, weights.bias_hh, transB=1)


# Cells --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecurrentCell(Record[T]):
    kind: Kind
    input: T
    hx: Any
    weight_ih: T
    weight_hh: T
    bias_ih: T | None = None
    bias_hh: T | None = None
    unbatched: bool = False


cell = Op("recurrent_cell", RecurrentCell)


def bind_cell(kind: Kind, module: Any, input: Any, hx: Any = None) -> Mapping[str, Any]:
    own = {name: Owned(name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    return {"kind": kind, "input": input, "hx": hx, **own, "unbatched": True}


def bind_cell_function(
    kind: Kind, input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None
) -> Mapping[str, Any]:
    return {
        "kind": kind, "input": input, "hx": hx, "weight_ih": w_ih, "weight_hh": w_hh, "bias_ih": b_ih, "bias_hh": b_hh,
    }  # fmt: skip


cell.module(nn.LSTMCell)(partial(bind_cell, LSTM))
cell.module(nn.GRUCell)(partial(bind_cell, GRU))
cell.function(torch.lstm_cell)(partial(bind_cell_function, LSTM))
cell.function(torch.gru_cell)(partial(bind_cell_function, GRU))
cell.function(torch.rnn_tanh_cell)(partial(bind_cell_function, RNN_TANH))
cell.function(torch.rnn_relu_cell)(partial(bind_cell_function, RNN_RELU))


@cell.module(nn.RNNCell)
def bind_rnn_cell(module: nn.RNNCell, input: Any, hx: Any = None) -> Mapping[str, Any]:
    return bind_cell(rnn_kind(module.nonlinearity), module, input, hx)


@cell.shape
def cell_shape(call: RecurrentCell[TensorSpec]) -> Any:
    """[batch, input_size] or [input_size] -> h, or (h, c) for an LSTM, of hidden_size features.

    A function takes batches only, and states.
    """
    kind, input = call.kind, call.input
    ranks = (1, 2) if call.unbatched else (2,)
    check(input.ndim in ranks, "a cell takes an input of {} axes, found {}", " or ".join(map(str, ranks)), input)
    weights = Weights(call.weight_ih, call.weight_hh, call.bias_ih, call.bias_hh)
    check_weights(kind, weights, input.shape[-1], input.dtype)
    state = input.with_shape(*input.shape[:-1], call.weight_hh.shape[1])
    check_states(kind, call.hx, [state.shape] * kind.states, input.dtype)
    return (state,) * kind.states if kind.states > 1 else state


@cell.lower
def lower_cell(emit: Emitter, call: RecurrentCell[Value]) -> Any:
    """The formulas of the module's docstring, on a batch of one where there is none; no states are one row of zeros."""
    kind, input = call.kind, call.input
    dtype, hidden = WIDE.dtype(input.dtype, emit.opset), call.weight_hh.shape[1]
    weights = Weights(call.weight_ih, call.weight_hh, call.bias_ih, call.bias_hh).cast(emit, dtype)

    def batch(value: Value) -> Value:
        value = emit.cast(value, dtype)
        return value if input.ndim == 2 else emit.unsqueeze(value, 0)

    given = states_of(kind, call.hx)
    states = (
        [batch(s) for s in given] if given else [emit.constant(torch.zeros(1, int(hidden), dtype=dtype))] * kind.states
    )
    a = emit.node("Gemm", batch(input), weights.weight_ih, weights.bias_ih, transB=1)
    results = kind.step(emit, hidden, a, from_state(emit, states[0], weights), states)
    if input.ndim == 1:
        results = tuple(emit.squeeze(result, 0) for result in results)
    if dtype != input.dtype:
        results = tuple(emit.cast(result, input.dtype) for result in results)
    return results if kind.states > 1 else results[0]


@cell.cost
def cell_cost(result: Any, call: RecurrentCell[TensorSpec]) -> Size:
    """The products with both weights."""
    return product(call.input.shape[:-1]) * (call.weight_ih.numel() + call.weight_hh.numel())
