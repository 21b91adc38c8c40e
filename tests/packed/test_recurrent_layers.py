"""Recurrent layers on packed sequences: each row as long as it is, in both directions, layer over layer."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import tracer
from passes.ops import recurrent
from passes.program.notes import VALUE
from passes.sizes.guards import GuardLog
from passes.text.parsing import parse_program
from passes.text.printing import print_program
from tests.packed.files import Of, Packs, assert_agrees, assert_packs
from tracer.capture.ladder import follow
from tracer.checking import verification
from tracer.inputs.sample import bind_sample

# Torch's notice that it computes a projection in another way.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")

SIZES = [(1, 1), (2, 5), (4, 3)]
NETS: dict[str, Callable[..., nn.RNNBase]] = {
    "LSTM": lambda **options: nn.LSTM(3, 4, **options),
    "GRU": lambda **options: nn.GRU(3, 4, **options),
    "RNN": lambda **options: nn.RNN(3, 4, **options),
    "relu": lambda **options: nn.RNN(3, 4, nonlinearity="relu", **options),
    "projection": lambda **options: nn.LSTM(3, 5, proj_size=2, **options),
}
LENGTHS = tracer.spec("N", dtype=torch.int64)


AT = {13: torch.float64, 17: torch.float32, 20: torch.float64, 23: torch.float32}
TURNS = [*(("LSTM", opset) for opset in AT), ("GRU", 13), ("GRU", 17), ("RNN", 20), ("relu", 23), ("projection", 13)]


@pytest.mark.parametrize(("name", "opset"), TURNS)
def test_each_kind_at_an_opset(name: str, opset: int) -> None:
    """In both directions, over two layers, with states."""
    net = NETS[name](num_layers=2, bidirectional=True, batch_first=opset % 2 == 0).to(AT[opset])
    assert_packs(Packs(net, sorts=opset != 17), "N", "T", SIZES, True, opset)


@pytest.mark.parametrize("name", NETS)
def test_without_states_biases_and_names(name: str) -> None:
    net = NETS[name](bias=False, batch_first=True)
    assert_packs(Packs(net, padding_value=-1.5, more=2), 3, 5, [(3, 5)], False, 20)


def combinations() -> Iterator[tuple[Any, ...]]:
    flags = (False, True)
    return itertools.product(NETS, (1, 3), flags, flags, flags, flags)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_every_combination(name: str) -> None:
    """Of layers, directions, axes, sorting and states; opset, dtype, biases, padding and names are drawn."""
    drawn = random.Random(name)
    for _, layers, bidirectional, batch_first, sorts, with_states in (c for c in combinations() if c[0] == name):
        options = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first}
        net = NETS[name](bias=drawn.random() < 0.8, **options).to(drawn.choice((torch.float32, torch.float64)))
        rows, steps = drawn.choice((("N", "T"), (3, 5), ("N", 5), (3, "T")))
        sizes = [
            (rows if isinstance(rows, int) else drawn.choice((1, 2, 9)), steps if isinstance(steps, int) else count)
            for count in (1, 2, 7)
        ]
        model = Packs(net, sorts, drawn.choice((0.0, -1.5)), drawn.choice((0, 2)))
        assert_packs(model, rows, steps, sizes, with_states, drawn.choice((13, 17, 20, 23)))


@pytest.mark.parametrize("options", [{"proj_size": 2}, {}])
def test_half_precision(options: dict[str, Any]) -> None:
    assert_packs(Packs(nn.LSTM(3, 4, batch_first=True, **options).half()), "N", "T", SIZES, True, 20)


def test_a_transposed_half_precision_sequence_is_no_crash_of_the_runtime() -> None:
    net = nn.LSTM(3, 4, proj_size=2).half()
    model = Of(lambda m, x: m.net(x.transpose(0, 1)), net=net)
    assert_agrees(model, tracer.spec("N", "T", 3, dtype=torch.float16), [(torch.randn(2, 5, 3).half(),)])


def test_bfloat16() -> None:
    def forward(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x.bfloat16(), lengths, True, enforce_sorted=False)
        return pad_packed_sequence(m.net(packed)[0], True, total_length=x.shape[1])[0].half()

    model = Of(forward, net=nn.GRU(3, 4, batch_first=True).bfloat16())
    lengths = torch.tensor([2, 5])
    x = torch.randn(2, 5, 3)
    conversion = tracer.convert(model, (x, lengths), route="direct")
    assert conversion.verification is not None


# How layers are used --------------------------------------------------------------------------------


def encoded(m: Any, x: Tensor, lengths: Tensor) -> tuple[Tensor, Any]:
    packed = pack_padded_sequence(x, lengths.cpu(), True, enforce_sorted=False)
    packed, states = m.net(packed)
    return pad_packed_sequence(packed, True, total_length=x.size(1))[0], states


RUNS = [(torch.randn(4, 6, 3), torch.tensor([2, 6, 1, 6])), (torch.randn(1, 2, 3), torch.tensor([1]))]
SAMPLE = (tracer.spec("N", "T", 3), LENGTHS)


def test_one_layer_over_another_and_states_passed_on() -> None:
    def forward(m: Any, x: Tensor, lengths: Tensor) -> Any:
        packed = pack_padded_sequence(x, lengths.to("cpu"), True, enforce_sorted=False)
        packed, states = m.first(input=packed)
        packed, states = m.second(packed, hx=states)
        rows, _ = pad_packed_sequence(packed, True, total_length=x.size(1))
        again, _ = m.second(rows, states)
        return rows, states, again

    parts = {"first": nn.LSTM(3, 4, 2, batch_first=True), "second": nn.LSTM(4, 4, 2, batch_first=True)}
    assert_agrees(Of(forward, **parts), SAMPLE, RUNS)


def test_lazy_layers_before_and_behind() -> None:
    def forward(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
        rows, (h, _) = encoded(m, m.before(x), lengths)
        return m.behind(rows) + m.last(h[-1]).unsqueeze(1)

    parts = {"net": nn.LSTM(3, 4, batch_first=True, bidirectional=True)}
    parts |= {"before": nn.LazyLinear(3), "behind": nn.LazyLinear(2), "last": nn.LazyLinear(2)}
    sample = (tracer.spec("N", "T", 7), LENGTHS)
    conversion = assert_agrees(Of(forward, **parts), sample, [(torch.randn(2, 5, 7), torch.tensor([3, 5]))])
    assert conversion.report.resolved == {
        "before": {"in_features": 7}, "behind": {"in_features": 8}, "last": {"in_features": 4}
    }  # fmt: skip


def test_lengths_of_a_mask() -> None:
    def forward(m: Any, x: Tensor, mask: Tensor) -> Any:
        return encoded(m, x, mask.sum(1))

    masks = [torch.arange(steps) < torch.randint(1, steps + 1, (rows, 1)) for rows, steps in ((4, 6), (1, 2))]
    sample = (tracer.spec("N", "T", 3), tracer.spec("N", "T", dtype=torch.bool))
    model = Of(forward, net=nn.GRU(3, 4, batch_first=True))
    assert_agrees(model, sample, [(x, mask) for (x, _), mask in zip(RUNS, masks, strict=True)])


def test_lengths_of_another_type() -> None:
    sample = (SAMPLE[0], tracer.spec("N", dtype=torch.int32))
    runs = [(x, lengths.int()) for x, lengths in RUNS]
    assert_agrees(Of(encoded, net=nn.RNN(3, 4, batch_first=True)), sample, runs)


class Overrides(nn.GRU):
    def forward(self, x: Any, h: Any = None) -> Any:  # type: ignore[override]
        return super().forward(x, h)


def test_a_layer_that_is_traced_through() -> None:
    """Torch's own forward of a layer with hooks, or with a forward of its own, does what the layer's node does."""
    hooked = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)
    hooked.register_forward_hook(lambda module, args, result: result)
    for net in (hooked, Overrides(3, 4, batch_first=True)):
        assert_agrees(Of(encoded, net=net), SAMPLE, RUNS)


def test_it_is_one_operator_with_lengths_and_packs_nothing() -> None:
    model = tracer.convert(Of(encoded, net=nn.LSTM(3, 4, batch_first=True)), SAMPLE, route="direct").onnx_model
    (lstm,) = (node for node in model.graph.node if node.op_type == "LSTM")
    assert len(lstm.input) == 5
    assert lstm.input[4]
    assert not {"Compress", "CumSum", "ReduceMax", "Less"} & {node.op_type for node in model.graph.node}


# What is said of it ---------------------------------------------------------------------------------


def test_its_program_is_read_back_from_its_text() -> None:
    model = Of(lambda m, x: m.net(pack_padded_sequence(x, [5, 3], True)), net=nn.LSTM(3, 4, 2, batch_first=True))
    log = GuardLog()
    program, _ = follow(model, bind_sample(model, tracer.spec(2, "T", 3), None, None, None, log), log)
    text = print_program(program)
    assert "data=float32[8, 4] of rows 2" in text
    read = parse_program(text, model, program.constants)
    assert print_program(read) == text
    assert [VALUE.of(node) for node in read.graph.nodes] == [VALUE.of(node) for node in program.graph.nodes]


def test_a_wrong_layer_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = recurrent._operator_layer

    def without_lengths(emit: Any, kind: Any, weights: Any, sequence: Any, initial: Any, extent: Any) -> Any:
        return layer(emit, kind, weights, sequence, initial, replace(extent, lengths=None))

    monkeypatch.setattr(recurrent, "_operator_layer", without_lengths)
    with pytest.raises(tracer.VerificationError, match=r"^net \(.*LSTM\).*it begins here"):
        tracer.convert(Of(encoded, net=nn.LSTM(3, 4, batch_first=True)), SAMPLE, route="direct")


def test_the_report_has_the_layer() -> None:
    report = tracer.inspect(Of(encoded, net=nn.LSTM(3, 4, 2, batch_first=True)), SAMPLE)
    (layer,) = report.layers
    assert (layer.path, layer.type, layer.params) == ("net", "LSTM", 304)
    assert layer.output_shape[-2:] == [[2, "N", 4], [2, "N", 4]]
    assert report.outputs == ["float32[N, T, 4]", "float32[2, N, 4]", "float32[2, N, 4]"]
    assert report.statement == "valid for N >= 1, T >= 1"
    assert (report.blockers, report.left_behind, report.rungs) == ([], [], [])


def test_why_a_layer_behind_it_has_its_sizes() -> None:
    def forward(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
        return m.out(encoded(m, x, lengths)[0])

    model = Of(forward, net=nn.GRU(3, 4, batch_first=True, bidirectional=True), out=nn.LazyLinear(2))
    found = tracer.why(model, RUNS[0], "out")
    assert [str(size) for size in found.sizes] == ["out.in_features = 8"]
    assert next(step.shape for step in found.steps if step.name == "net")[-1] == [2, 4, 4]


def test_it_is_verified_with_lengths_that_may_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[int]] = []
    attempts = verification.attempts

    def noted(make: Callable[[], Any]) -> Any:
        args, kwargs = make()
        tried.append(args[1].tolist())
        return args, kwargs

    def noting(*arguments: Any) -> Iterator[Any]:
        for make in attempts(*arguments):
            yield partial(noted, make)

    monkeypatch.setattr(verification, "attempts", noting)
    for sorts in (True, False):
        model = Packs(nn.GRU(3, 4, batch_first=True), sorts)
        result = tracer.convert(model, SAMPLE, route="direct").verification
        assert result is not None
        assert {(2, 64), (1, 1), (1, 64), (2, 1)} <= {(c.sizes["N"], c.sizes["T"]) for c in result.comparisons}
    half = len(tried) // 2
    assert all(min(lengths) >= 1 for lengths in tried)
    assert all(lengths == sorted(lengths, reverse=True) for lengths in tried[half:])
    assert any(lengths != sorted(lengths, reverse=True) for lengths in tried[:half])


def test_lengths_of_the_callers_are_cut_to_the_steps_that_there_are() -> None:
    sample = (torch.randn(2, 7, 3), torch.tensor([7, 4]))
    names = {"x": {0: "N", 1: "T"}, "lengths": {0: "N"}}
    model = Packs(nn.GRU(3, 4, batch_first=True), sorts=False)
    result = tracer.convert(model, sample, dynamic_shapes=names, dims={"T": 6}, route="direct").verification
    assert result is not None
    assert {c.sizes["T"] for c in result.comparisons} >= {6, 7}
    assert not result.notes


def test_new_weights_in_a_written_file(tmp_path: Path) -> None:
    model = Packs(nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True))
    tracer.convert(model, SAMPLE, tmp_path / "old.onnx", verify=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1)
    tracer.refresh(tmp_path / "old.onnx", model.state_dict(), tmp_path / "new.onnx")
    tracer.convert(model, SAMPLE, tmp_path / "again.onnx", verify=False)
    assert (tmp_path / "new.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


def test_a_file_that_checks_its_sizes(tmp_path: Path) -> None:
    model = Packs(nn.GRU(3, 4, batch_first=True))
    conversion = tracer.convert(model, SAMPLE, tmp_path / "net.onnx", guards="checked", route="direct")
    assert conversion.verification is not None
    checked = onnx.load(tmp_path / "net.onnx")
    assert "lengths.shape[0] == N" in {node.name for node in checked.graph.node}
