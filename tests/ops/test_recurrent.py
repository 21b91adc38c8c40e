"""Recurrent networks and cells against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

import tracer
from passes.errors import ShapeError, UnsupportedOpError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated
from tests.reading import moved

# Torch's notice that it computes a projection in another way.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")

OPSETS = (13, 14, 20, 22, 23)
NETS = (nn.RNN, nn.GRU, nn.LSTM)
CELLS = (nn.RNNCell, nn.GRUCell, nn.LSTMCell)
TIGHT = {"rtol": 1e-9, "atol": 1e-10}
LOOSE = {"rtol": 2e-2, "atol": 2e-2}
sizes = st.integers(1, 3)


class WithStates(nn.Module):
    """A recurrent module whose initial states are inputs of their own; of an LSTM they are a tuple."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor, *states: torch.Tensor) -> Any:
        if isinstance(self.module, (nn.LSTM, nn.LSTMCell)):
            return self.module(x, states)
        return self.module(x, *states)


def operands(net: nn.RNNBase, time: int, batch: int | None) -> tuple[torch.Tensor, ...]:
    """An input, without a batch for None, and initial states."""
    dtype, layers = net.weight_ih_l0.dtype, net.num_layers * (2 if net.bidirectional else 1)
    lead = [] if batch is None else [batch]
    shape = [time, *lead] if not net.batch_first or batch is None else [*lead, time]
    widths = [net.proj_size or net.hidden_size, *([net.hidden_size] if isinstance(net, nn.LSTM) else [])]
    return (
        torch.randn(*shape, net.input_size, dtype=dtype),
        *(torch.randn(layers, *lead, width, dtype=dtype) for width in widths),
    )


def assert_lowers(net: nn.RNNBase, time: int, batch: int | None, **options: Any) -> None:
    """With initial states and without."""
    x, *states = operands(net, time, batch)
    assert_lowering_matches(net, x, **options)
    assert_lowering_matches(WithStates(net), x, *states, **options)


def op_types(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


# Shapes -------------------------------------------------------------------------------------------


@given(
    cls=st.sampled_from(NETS), shape=st.lists(st.integers(0, 3), min_size=1, max_size=4), found=sizes, expected=sizes,
    layers=sizes, bias=st.booleans(), batch_first=st.booleans(), bidirectional=st.booleans(), proj=st.integers(0, 2),
)  # fmt: skip
def test_any_input_shape(
    cls: Any, shape: list[int], found: int, expected: int, layers: int, bias: bool, batch_first: bool,
    bidirectional: bool, proj: int,
) -> None:  # fmt: skip
    options = {"proj_size": proj} if cls is nn.LSTM else {}
    net = cls(expected, 4, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional, **options)
    assert_shape_matches(net, torch.empty(*shape[:-1], found))


@given(
    cls=st.sampled_from(NETS), time=sizes, batch=st.none() | st.integers(0, 3), layers=sizes, batch_first=st.booleans(),
    bidirectional=st.booleans(), proj=st.integers(0, 2),
    wrong=st.none() | st.tuples(st.integers(0, 1), st.integers(0, 2)),
)  # fmt: skip
def test_states_shape(
    cls: Any, time: int, batch: int | None, layers: int, batch_first: bool, bidirectional: bool, proj: int, wrong: Any
) -> None:
    """States that fit, and states one of whose axes has another size or is missing."""
    options = {"proj_size": proj} if cls is nn.LSTM else {}
    net = cls(2, 3, layers, batch_first=batch_first, bidirectional=bidirectional, **options)
    x, *states = operands(net, time, batch)
    assert_shape_matches(WithStates(net), x, *states)
    if wrong is not None:
        which, axis = wrong[0] % len(states), wrong[1] % states[0].ndim
        repeated = [*states[:which], torch.cat([states[which]] * 2, axis), *states[which + 1 :]]
        assert_shape_matches(WithStates(net), x, *repeated)
        assert_shape_matches(WithStates(net), x, *states[:which], states[which].sum(axis), *states[which + 1 :])
        if batch is not None:  # without a batch, torch overlooks a third state
            assert_shape_matches(WithStates(net), x, *states, states[0])


@given(
    cls=st.sampled_from(CELLS), shape=st.lists(st.integers(0, 3), max_size=3), found=sizes, bias=st.booleans(),
    state=st.none() | st.lists(st.integers(0, 2), max_size=2), number=st.integers(1, 2),
)  # fmt: skip
def test_cell_shape(cls: Any, shape: list[int], found: int, bias: bool, state: list[int] | None, number: int) -> None:
    x, cell = torch.empty(*shape, found), cls(2, 3, bias)
    assert_shape_matches(cell, x)
    assert_shape_matches(WithStates(cell), x, *[torch.empty(*shape, 3)] * (2 if cls is nn.LSTMCell else 1))
    if state is not None:
        assert_shape_matches(WithStates(cell), x, *[torch.empty(*state, 3)] * number)


FUNCTIONS = {
    torch.lstm: (torch.lstm_cell, 4), torch.gru: (torch.gru_cell, 3),
    torch.rnn_tanh: (torch.rnn_tanh_cell, 1), torch.rnn_relu: (torch.rnn_relu_cell, 1),
}  # fmt: skip


@given(
    function=st.sampled_from(list(FUNCTIONS)), time=st.integers(0, 2), batch=st.integers(2, 3), features=sizes,
    state_batch=st.integers(2, 3), state=st.integers(2, 4), bias=st.sampled_from([0, 2, 5]), layers=st.integers(1, 2),
)  # fmt: skip
def test_functions_shape(
    function: Any, time: int, batch: int, features: int, state_batch: int, state: int, bias: int, layers: int
) -> None:
    """On batches of 2 or more; what torch's functions do with other shapes is undocumented, and may be a crash."""
    cell, gates = FUNCTIONS[function]
    of = (lambda h: (h, h)) if gates == 4 else (lambda h: h)
    rows = 3 * gates
    weights = torch.empty(rows, 2), torch.empty(rows, 3), torch.empty(bias or rows), torch.empty(rows)
    x, h = torch.empty(time, batch, features), torch.empty(layers, state_batch, state)
    assert_shape_matches(lambda x, h, *w: cell(x, of(h), *w), x.sum(0), h[0], *weights)
    assert_shape_matches(lambda x, h, *w: function(x, of(h), w, True, 1, 0.0, False, False, False), x, h, *weights)


@pytest.mark.parametrize("cls", [*NETS, *CELLS])
def test_unlike_dtypes_are_refused(cls: Any) -> None:
    """As torch does on real tensors; on the meta device it does not look."""
    module, double = cls(2, 3), {"dtype": torch.float64}
    x, state = torch.ones(2, 2), torch.ones((1, 3) if cls in NETS else (2, 3), **double)
    count = 2 if cls in (nn.LSTM, nn.LSTMCell) else 1
    for target, tensors in ((module, [x.double()]), (WithStates(module), [x, *[state] * count])):
        with pytest.raises((RuntimeError, ValueError)):
            target(*tensors)
        with pytest.raises(ShapeError, match=r"is torch\.float"):
            propagated(target, *tensors)


def test_messages_have_the_numbers() -> None:
    net, x = nn.LSTM(4, 6, 2, bidirectional=True, proj_size=3), torch.empty(5, 2, 4)
    with pytest.raises(ShapeError, match="input_size is 4, but the input has 7 features"):
        propagated(net, torch.empty(5, 2, 7))
    with pytest.raises(ShapeError, match="a sequence needs at least 1 step, found 0"):
        propagated(net, torch.empty(0, 2, 4))
    with pytest.raises(ShapeError, match=r"initial state 1 needs the shape \[4, 2, 6\], found float32\[4, 2, 3\]"):
        propagated(WithStates(net), x, torch.empty(4, 2, 3), torch.empty(4, 2, 3))
    with pytest.raises(ShapeError, match=r"LSTM takes 2 states as a tuple, found \(float32\[4, 2, 3\]\)"):
        propagated(WithStates(net), x, torch.empty(4, 2, 3))


# Networks in onnxruntime --------------------------------------------------------------------------


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("cls", NETS)
def test_opsets(cls: Any, opset: int) -> None:
    assert_lowers(cls(3, 4), 5, 2, opset=opset)
    assert_lowers(cls(3, 4, num_layers=2, bidirectional=True, batch_first=True), 5, 2, opset=opset)
    assert_lowers(cls(3, 4, num_layers=2, bidirectional=True).double(), 5, 2, opset=opset, **TIGHT)


@pytest.mark.parametrize("batch", [2, None])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("options", [{"bias": False}, {"batch_first": True}, {"bidirectional": True}])
@pytest.mark.parametrize("cls", NETS)
def test_options(cls: Any, options: dict[str, Any], layers: int, batch: int | None) -> None:
    assert_lowers(cls(3, 4, num_layers=layers, **options), 5, batch)
    assert_lowers(cls(3, 4, num_layers=layers, **options).double(), 3, batch, **TIGHT)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [2, None])
def test_projection(opset: int, bias: bool, batch: int | None) -> None:
    for layers, bidirectional in ((1, False), (2, True)):
        net = nn.LSTM(3, 5, layers, bias, batch_first=True, bidirectional=bidirectional, proj_size=2)
        assert_lowers(net, 4, batch, opset=opset)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relu(bidirectional: bool) -> None:
    net = nn.RNN(3, 4, 2, nonlinearity="relu", bidirectional=bidirectional)
    assert_lowers(net, 5, 2)
    assert_lowers(net.double(), 5, 2, **TIGHT)


@pytest.mark.parametrize("cls", NETS)
def test_half(cls: Any) -> None:
    assert_lowers(cls(3, 4, 2, bidirectional=True).half(), 5, 2, **LOOSE)


def test_half_projection() -> None:
    assert_lowers(nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2).half(), 5, 2, **LOOSE)


class Bfloat16(nn.Module):
    """A module computed in bfloat16 between a float32 input and float32 outputs."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module.bfloat16()

    def forward(self, x: torch.Tensor) -> Any:
        first, *_ = self.module(x.bfloat16())
        return first.float()


@pytest.mark.parametrize("opset", [13, 23])
@pytest.mark.parametrize("module", [*(cls(3, 4) for cls in (*NETS, *CELLS)), nn.LSTM(3, 4, proj_size=2)])
def test_bfloat16(module: nn.Module, opset: int) -> None:
    x = torch.randn(2, 3) if isinstance(module, nn.RNNCellBase) else torch.randn(5, 2, 3)
    assert_lowering_matches(Bfloat16(module), x, opset=opset, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("cls", NETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
def test_dynamic_batch_and_time(cls: Any, dtype: torch.dtype, options: dict[str, Any]) -> None:
    net = cls(3, 4, **options).to(dtype)
    first, second = (0, 1) if net.batch_first else (1, 0)
    dynamic, tolerance = {0: {first: "N", second: "T"}}, TIGHT if dtype == torch.float64 else {}
    x, *states = operands(net, 5, 2)
    assert_lowering_matches(net, x, dynamic=dynamic, also=operands(net, 1, 7)[:1], **tolerance)
    every = {**dynamic, **{number: {1: "N"} for number in range(1, len(states) + 1)}}
    assert_lowering_matches(WithStates(net), x, *states, dynamic=every, also=operands(net, 9, 3), **tolerance)


def test_dynamic_projection() -> None:
    net = nn.LSTM(3, 5, 2, bidirectional=True, proj_size=2)
    assert_lowering_matches(net, torch.randn(5, 2, 3), dynamic={0: {0: "T", 1: "N"}}, also=(torch.randn(8, 1, 3),))
    assert_lowering_matches(net, torch.randn(5, 3), dynamic={0: {0: "T"}}, also=(torch.randn(1, 3),))


def test_a_layer_is_one_operator_on_the_weights_of_the_state_dict() -> None:
    net = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    model = assert_lowering_matches(net, torch.randn(5, 2, 3))
    assert op_types(model).count("LSTM") == 2
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for key, weight in net.state_dict().items():
        np.testing.assert_array_equal(initializers[key], weight.numpy())


@pytest.mark.parametrize("cls", NETS)
def test_weights_need_no_constant_folding(cls: Any) -> None:
    """onnxruntime computes the same where it does not reorder the weights beforehand."""
    net, x = cls(3, 4, bidirectional=True), torch.randn(5, 2, 3)
    model = tracer.convert(net, (x,), verify=False, route="direct").onnx_model
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = net(x)[0]
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_dropout_is_for_training() -> None:
    for net in (nn.GRU(3, 4, num_layers=2, dropout=0.5), nn.RNN(3, 4, num_layers=2, dropout=0.5)):
        assert_lowering_matches(net, torch.randn(5, 2, 3))
    weights = [weight.detach() for weight in nn.GRU(3, 4, 2).parameters()]
    call = lambda x, h: torch.gru(x, h, weights, True, 2, 0.5, True, False, False)  # noqa: E731
    with pytest.raises(UnsupportedOpError, match="dropout between the layers is random"):
        assert_lowering_matches(call, torch.randn(5, 2, 3), torch.randn(2, 2, 4))


def test_functions_with_computed_weights() -> None:
    x, h = torch.randn(5, 2, 3), torch.randn(2, 2, 4)
    for cls, function in ((nn.LSTM, torch.lstm), (nn.GRU, torch.gru), (nn.RNN, torch.rnn_tanh)):
        weights = [weight.detach() for weight in cls(3, 4, bidirectional=True).parameters()]
        of = (lambda h: (h, h)) if cls is nn.LSTM else (lambda h: h)
        for dtype, tolerance in ((torch.float32, {}), (torch.float64, TIGHT)):
            assert_lowering_matches(
                lambda x, h, *w, of=of, function=function: function(
                    x * 2, of(h), [each * 2 for each in w], True, 1, 0.0, False, True, False
                ),
                *(tensor.to(dtype) for tensor in (x, h, *weights)),
                **tolerance,
            )


def test_a_weight_that_is_also_an_output() -> None:
    """What a Scan's body uses from outside keeps its name there when an output gives it another."""

    def forward(x: torch.Tensor, h: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Any:
        scaled = b * 2
        return scaled, torch.rnn_tanh(x, h, [a, scaled], False, 1, 0.0, False, False, False)

    tensors = torch.randn(5, 2, 3), torch.randn(1, 2, 4), torch.randn(4, 3), torch.randn(4, 4)
    assert_lowering_matches(forward, *(tensor.double() for tensor in tensors), **TIGHT)


class Subclass(nn.GRU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x)[0]


@pytest.mark.parametrize("cls", NETS)
def test_traced_through(cls: Any) -> None:
    """A net with hooks, or whose forward is overridden, is followed into torch's own forward."""
    net = cls(3, 4, num_layers=2, bidirectional=True)
    net.register_forward_hook(lambda module, args, result: (result[0] * 2, result[1]))
    x, *states = operands(net, 5, 2)
    assert_lowering_matches(nn.Sequential(net), x)
    assert_lowering_matches(WithStates(net), x, *states)
    assert_lowering_matches(Subclass(3, 4, batch_first=True), torch.randn(2, 5, 3))


# Cells in onnxruntime -----------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [13, 23])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("cls", CELLS)
def test_cells(cls: Any, dtype: torch.dtype, opset: int) -> None:
    tolerance = {torch.float64: TIGHT, torch.float16: LOOSE}.get(dtype, {})
    for bias in (True, False):
        cell = cls(3, 4, bias).to(dtype)
        for lead in ((2,), ()):
            x, state = torch.randn(*lead, 3).to(dtype), torch.randn(*lead, 4).to(dtype)
            states = (state, state * 2) if cls is nn.LSTMCell else (state,)
            assert_lowering_matches(cell, x, opset=opset, **tolerance)
            assert_lowering_matches(WithStates(cell), x, *states, opset=opset, **tolerance)


def test_relu_cell() -> None:
    assert_lowering_matches(nn.RNNCell(3, 4, nonlinearity="relu"), torch.randn(2, 3))


@pytest.mark.parametrize("cls", CELLS)
def test_dynamic_cells(cls: Any) -> None:
    x, states = torch.randn(2, 3), [torch.randn(2, 4)] * (2 if cls is nn.LSTMCell else 1)
    dynamic = {number: {0: "N"} for number in range(3)}
    assert_lowering_matches(cls(3, 4), x, dynamic=dynamic, also=(torch.randn(5, 3),))
    more = (torch.randn(5, 3), *(torch.randn(5, 4) for _ in states))
    assert_lowering_matches(WithStates(cls(3, 4)), x, *states, dynamic=dynamic, also=more)


def test_cell_functions() -> None:
    x, h = torch.randn(2, 3), torch.randn(2, 4)
    for rows, function in (
        (16, lambda x, h, *w: torch.lstm_cell(x, (h, h), *w)), (12, torch.gru_cell), (4, torch.rnn_tanh_cell),
        (4, lambda x, h, a, b, *_: torch.rnn_relu_cell(x, h, a, b)),
    ):  # fmt: skip
        weights = torch.randn(rows, 3), torch.randn(rows, 4), torch.randn(rows), torch.randn(rows)
        assert_lowering_matches(function, x, h, *weights)


# In a model ---------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """The classic: embed, run both ways, take the last step or the last state, classify."""

    def __init__(self, net: nn.Module, use: Callable[[Any], torch.Tensor]):
        super().__init__()
        self.embedding = nn.Embedding(11, 5)
        self.net = net
        self.classify = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(2))
        self.use = use

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.classify(self.use(self.net(self.embedding(tokens))))


def last_states(result: Any) -> torch.Tensor:
    _, (h, c) = result
    return torch.cat([h[-1], c[0]], dim=-1)


@pytest.mark.parametrize(
    ("net", "use", "features"),
    [
        (nn.LSTM(5, 4, batch_first=True), lambda result: result[0][:, -1], 4),
        (nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True), last_states, 8),
        (nn.LSTM(5, 4, batch_first=True, proj_size=3), last_states, 7),
        (nn.GRU(5, 4, batch_first=True, bidirectional=True), lambda result: result[0].mean(1), 8),
        (nn.RNN(5, 4, batch_first=True), lambda result: result[1].squeeze(0), 4),
    ],
)
def test_lazy_layer_after_a_net(net: nn.Module, use: Callable[[Any], torch.Tensor], features: int) -> None:
    model = Classifier(net, use).eval()
    sample = tracer.spec("N", "T", dtype=torch.int64)
    conversion = tracer.convert(model, (sample,), route="direct", seed=3)
    assert conversion.report.resolved["classify.0"] == {"in_features": features}
    assert conversion.verification is not None
    assert moved(conversion.verification) == {frozenset("N"), frozenset("T"), frozenset("NT")}
    dry = Classifier(net, use).eval()
    dry.load_state_dict(conversion.module.state_dict())
    tokens = torch.randint(11, (3, 7))
    assert torch.equal(dry(tokens), conversion.module(tokens))


class Translator(nn.Module):
    """An encoder whose states start a decoder; the decoder's own layers are cells, unrolled."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(3, 4, num_layers=2, batch_first=True)
        self.decoder = nn.LSTM(3, 4, num_layers=2, batch_first=True)
        self.cell = nn.GRUCell(4, 4)
        self.out = nn.LazyLinear(3)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> Any:
        _, states = self.encoder(source)
        output, (h, c) = self.decoder(target, states)
        state = h[-1]
        steps = []
        for _ in range(3):
            state = self.cell(state + output[:, -1], state)
            steps.append(self.out(state))
        return {"steps": torch.stack(steps, 1), "states": (h, c)}


def test_states_flow_between_nets() -> None:
    samples = tracer.spec("N", "S", 3), tracer.spec("N", "T", 3)
    conversion = tracer.convert(Translator(), samples, route="direct")
    assert conversion.report.resolved == {"out": {"in_features": 4}}
    names = [value.name for value in conversion.onnx_model.graph.output]
    assert names == ["steps", "states_0", "states_1"]


def test_multiply_adds() -> None:
    model = nn.Sequential(nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2))
    (layer,) = tracer.inspect(model, (tracer.spec("T", "N", 3),)).layers
    first, second = 16 * 3 + 16 * 2 + 2 * 4, 16 * 4 + 16 * 2 + 2 * 4
    assert layer.macs == f"{2 * (first + second)}*N*T"
    (cell,) = tracer.inspect(nn.Sequential(nn.GRUCell(3, 4)), (torch.empty(5, 3),)).layers
    assert cell.macs == 5 * 12 * (3 + 4)
