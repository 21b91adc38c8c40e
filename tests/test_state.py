"""The state that a forward keeps in its model, as inputs and outputs of the file."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from passes.text.parsing import parse_program
from passes.text.printing import print_program
from tests.decoder import Decoder, StaticDecoder, tokens_of
from tests.reading import names, properties
from tests.stateful import Of, counted, explicit, stepped
from tracer import spec
from tracer.cli import main

# What a forward writes ------------------------------------------------------------------------------


def static_cache(self: Any, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    self.k[:, position] = x
    self.v.index_copy_(1, position, x * 2)
    return (self.k + self.v).sum(1)


def streaming(self: Any, x: torch.Tensor) -> torch.Tensor:
    window = torch.cat([self.window, x], -1)
    self.window.copy_(window[..., -2:])
    return F.conv1d(window, self.weight)


def replaced(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.window = torch.cat([self.window, x], 0)[-3:]
    return self.window.mean(0)


def running_mean(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.n += 1
    self.mean += (x.mean(0) - self.mean) / self.n
    return x - self.mean


def plain(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.plain.mul_(0.5)[0] += x.sum(0)
    return self.plain * 1


def parameter(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.fc.weight.data.mul_(0.9)
    return self.fc(x)


def statistics(self: Any, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, self.mean, self.n, training=True)


def in_a_part(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.part(x) + self.weight


def nothing_else(self: Any, x: torch.Tensor) -> None:
    self.n += x.shape[0]


def given_back(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.n.add_(x.sum(0))


POSITIONS = [(torch.randn(1, 2, 2), torch.tensor(at)) for at in ([0, 2], [5, 1], [2, 3], [0, 1])]
ROWS = [(torch.randn(rows, 2),) for rows in (2, 1, 5, 3)]
MEAN = {"n": torch.tensor(0), "mean": torch.zeros(2)}

# The model, the sample, what comes one after the other, and what of the model is written.
FORWARDS: dict[str, tuple[Callable[[], nn.Module], Any, list[tuple[torch.Tensor, ...]], list[str]]] = {
    "a static cache": (
        lambda: Of(static_cache, k=torch.zeros(1, 6, 2), v=torch.zeros(1, 6, 2)), POSITIONS[0], POSITIONS, ["k", "v"]
    ),
    "a stream": (
        lambda: Of(streaming, window=torch.zeros(1, 2, 2), weight=torch.randn(3, 2, 3)),
        spec(1, 2, "T"), [(torch.randn(1, 2, steps),) for steps in (4, 1, 2, 1)], ["window"],
    ),
    "other memory": (lambda: Of(replaced, window=torch.randn(3, 2)), spec("T", 2), ROWS, ["window"]),
    "a mean": (lambda: Of(running_mean, **MEAN), spec("T", 2), ROWS, ["n", "mean"]),
    "a count": (lambda: Of(counted, n=torch.tensor(0)), spec("T", 2), ROWS, ["n"]),
    "a plain attribute": (lambda: Of(plain, plain=torch.ones(2, 2)), spec("T", 2), ROWS, ["plain"]),
    "a parameter": (lambda: Of(parameter, fc=nn.Linear(2, 3)), spec("T", 2), ROWS, ["fc.weight"]),
    "statistics": (
        lambda: Of(statistics, mean=torch.zeros(2), n=torch.ones(2)), spec(2, 2), ROWS[:1] * 3, ["mean", "n"]
    ),
    "of a part": (
        lambda: Of(in_a_part, part=Of(running_mean, **MEAN), weight=torch.ones(2)),
        spec("T", 2), ROWS, ["part.n", "part.mean"],
    ),
    "given back": (lambda: Of(given_back, n=torch.zeros(2)), spec("T", 2), ROWS, ["n"]),
    "and nothing else": (lambda: Of(nothing_else, n=torch.tensor(3)), spec("T", 2), ROWS, ["n"]),
    "nothing": (lambda: Of(lambda self, x: x + self.n, n=torch.tensor(3)), spec("T", 2), ROWS, []),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARDS)
def test_what_a_forward_writes_is_an_input_and_an_output(name: str) -> None:
    make, sample, steps, paths = FORWARDS[name]
    torch.manual_seed(0)
    model = make()
    before = {key: (id(tensor), tensor._version, tensor.tolist()) for key, tensor in tensors_of(model)}
    conversion = explicit(model, sample, dims={"T": 4} if steps is not POSITIONS and "T" in str(sample) else None)
    graph = conversion.onnx_model.graph
    assert conversion.route == "direct"
    assert [pair.path for pair in conversion.report.state] == paths
    assert names(graph.input)[len(names(graph.input)) - len(paths) :] == paths
    assert names(graph.output)[len(names(graph.output)) - len(paths) :] == [f"{path}_out" for path in paths]
    assert not {*names(graph.initializer)} & {*paths}
    assert conversion.report.left_behind == []
    assert conversion.verification is not None
    assert {comparison.step for comparison in conversion.verification.comparisons} == ({1, 2, 3} if paths else {1})
    assert {key: (id(tensor), tensor._version, tensor.tolist()) for key, tensor in tensors_of(model)} == before
    stepped(conversion, steps)


def tensors_of(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    apart = [(name, value) for name, value in vars(model).items() if isinstance(value, torch.Tensor)]
    return [*model.state_dict(keep_vars=True).items(), *apart]


def test_what_is_only_read_stays_an_initializer() -> None:
    conversion = explicit(FORWARDS["a stream"][0](), spec(1, 2, "T"))
    assert names(conversion.onnx_model.graph.initializer).count("weight") == 1


def test_without_the_option_the_file_keeps_nothing_and_the_report_says_what_to_do() -> None:
    conversion = tracer.convert(FORWARDS["a stream"][0](), spec(1, 2, "T"))
    assert conversion.lowered.input_names == ["args_0"]
    assert (conversion.report.left_behind, conversion.report.state, conversion.state) == (["window"], [], {})
    assert "state=explicit (--state explicit) makes it an input and an output" in conversion._repr_html_()


def test_a_plain_attribute_that_is_written_in_place_is_known_without_data() -> None:
    assert tracer.inspect(FORWARDS["a plain attribute"][0](), spec("T", 2)).left_behind == ["plain"]


def test_one_tensor_in_several_places_is_one_input() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Module(), nn.Module()
            self.left.register_buffer("t", torch.zeros(2))
            self.right.register_buffer("u", self.left.t)
            self.again = self.left

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.right.u += x.sum(0)
            return x + self.left.t + self.again.t

    conversion = explicit(Tied(), spec("T", 2))
    assert [pair.path for pair in conversion.report.state] == ["left.t"]
    stepped(conversion, ROWS)


# What the file says ---------------------------------------------------------------------------------


def test_the_file_says_what_goes_with_what_and_how_to_begin(tmp_path: Path) -> None:
    start = torch.tensor([[1.5, -2.0], [0.0, 3.0]])
    held = {"halved": torch.full((2,), 0.5).half(), "flag": torch.tensor(True), "big": torch.randn(300_000)}

    def run(self: Any, x: torch.Tensor) -> torch.Tensor:
        for name in ("start", "halved", "big"):
            getattr(self, name).mul_(1)
        self.flag.logical_or_(self.flag)
        return x + self.start

    conversion = explicit(Of(run, start=start, **held), spec(1, 2), tmp_path / "m.onnx")
    entries = {entry["path"]: entry for entry in properties(onnx.load(tmp_path / "m.onnx"))["lazytracer.state"]}
    assert entries["start"] == {
        "path": "start", "input": "start", "output": "start_out",
        "start": base64.b64encode(start.numpy().tobytes()).decode(),
    }  # fmt: skip
    assert [entries[name]["start"] for name in held] == [0.5, 1, None]
    assert all(map(torch.equal, conversion.state.values(), (start, *held.values())))
    assert all(tensor.data_ptr() != start.data_ptr() for tensor in conversion.state.values())


def test_names_that_are_taken() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(2))

        def forward(self, n: torch.Tensor) -> Any:
            self.n += n
            return {"n": self.n * 2, "other": n}

    assert explicit(Net(), spec(2)).lowered.input_names == ["n", "n_in"]
    assert explicit(Net(), spec(2)).lowered.output_names == ["n_out", "other", "n_out_out"]
    given = explicit(Net(), spec(2), input_names=["x"], output_names=["y", "z"])
    assert [(pair.path, pair.input, pair.output) for pair in given.report.state] == [("n", "n_in", "n_out_out")]
    given = explicit(Net(), spec(2), input_names=["x", "before"], output_names=["y", "z", "after"])
    assert (given.lowered.input_names, given.lowered.output_names) == (["x", "before"], ["y", "z", "after"])
    assert [*given.state] == ["before"]


def test_lazy_layers_and_weights(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.LazyLinear(3), nn.LazyLinear(2)
            self.register_buffer("sum", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.sum += self.before(x).sum(0)
            return self.after(x + self.sum.mean())

    report = tracer.inspect(Net(), spec("N", 4), state="explicit")
    assert report.resolved == {"before": {"in_features": 4}, "after": {"in_features": 4}}
    assert [pair.to_dict() for pair in report.state] == [
        {"path": "sum", "spec": "float32[3]", "input": "sum", "output": "sum_out"}
    ]
    assert (report.inputs, report.outputs) == ({"x": "float32[N, 4]"}, ["float32[N, 2]"])
    weights = {**tracer.resolve(Net(), spec("N", 4), seed=3).state_dict(), "sum": torch.arange(3.0)}
    conversion = tracer.convert(Net(), spec("N", 4), weights=weights, state="explicit")
    assert conversion.state["sum"].tolist() == [0, 1, 2]
    stepped(conversion, [(torch.randn(rows, 4),) for rows in (2, 1, 3)])


# Other ways -----------------------------------------------------------------------------------------


def test_a_program_with_state_has_a_text() -> None:
    program = explicit(Of(running_mean, **MEAN), spec("T", 2), verify=False).program
    text = print_program(program)
    assert "kept\n  n\n  mean\n" in text
    assert print_program(parse_program(text, program.root)) == text


class Sliced(nn.Module):
    """Its write has no form in the graph: the place is a tensor's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("b", torch.zeros(1, 4))
        self.register_buffer("n", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.b[:, self.n : self.n + 1] = x
        self.n += 1
        return self.b * 1


@pytest.mark.slow
def test_a_model_that_cannot_be_traced_goes_through_torchs_exporter() -> None:
    conversion = explicit(Sliced(), spec(1, 1))
    assert (conversion.route, [rung.path for rung in conversion.report.rungs]) == ("torch", [""])
    assert [pair.path for pair in conversion.report.state] == ["b", "n"]
    stepped(conversion, [(torch.randn(1, 1),) for _ in range(4)])


@pytest.mark.slow
def test_by_the_torch_route_it_is_the_same() -> None:
    make, sample, steps, paths = FORWARDS["of a part"]
    conversion = explicit(make(), sample, route="torch")
    assert [pair.path for pair in conversion.report.state] == paths
    assert not {*names(conversion.onnx_model.graph.initializer)} & {*paths}
    stepped(conversion, steps)


def test_large_weights_go_straight_into_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.steps.delivery.STREAMED_FROM", 0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.LazyLinear(2)
            self.register_buffer("n", torch.full((2,), 7.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n += 1
            return self.fc(x) + self.n

    conversion = explicit(Net(), spec("N", 3), tmp_path / "m.onnx", verify=False)
    assert conversion._again is not None
    assert properties(onnx.load(tmp_path / "m.onnx"))["lazytracer.state"][0]["start"] == 7.0
    stepped(conversion, [(torch.randn(rows, 3),) for rows in (1, 2)])


def test_new_weights_leave_the_state_as_it_is(tmp_path: Path) -> None:
    def run(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.n += 1
        return self.fc(x) + self.n

    torch.manual_seed(0)
    one, other = (Of(run, fc=nn.Linear(2, 2), n=torch.zeros(2)) for _ in range(2))
    for model, name in ((one, "one"), (other, "other")):
        explicit(model, spec("T", 2), tmp_path / f"{name}.onnx")
    tracer.refresh(tmp_path / "one.onnx", other.state_dict(), tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()
    other.n += 1
    with pytest.raises(tracer.LoadError, match="the value of n is built into the file"):
        tracer.refresh(tmp_path / "one.onnx", other.state_dict(), tmp_path / "new.onnx")


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(2)
        self.register_buffer("sum", torch.zeros(2))

    def forward(self, x):
        self.sum += self.fc(x).sum(0)
        return x.sum() + self.sum
"""


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, file, facts = tmp_path / "net.py", tmp_path / "net.onnx", tmp_path / "facts.json"
    net.write_text(NET)
    subject = [f"{net}:Net", "-i", "Nx3"]
    assert main(["inspect", *subject]) == 0
    assert "the forward writes sum: the file does not keep that" in capsys.readouterr().out
    assert main(["inspect", *subject, "--state", "explicit"]) == 0
    assert "state      sum float32[2], afterwards sum_out" in capsys.readouterr().out
    assert main(["convert", *subject, "-o", str(file), "--state", "explicit", "--json", str(facts)]) == 0
    assert "state    sum float32[2], afterwards sum_out" in capsys.readouterr().out
    told = json.loads(facts.read_text())
    assert told["state"] == [{"path": "sum", "spec": "float32[2]", "input": "sum", "output": "sum_out"}]
    assert told["output_names"] == ["output", "sum_out"]
    assert {comparison["step"] for comparison in told["verification"]["comparisons"]} == {1, 2, 3}
    assert names(onnx.load(file).graph.input) == ["x", "sum"]
    assert main(["inspect", *subject, "-i", "4x3", "--compare", "--state", "explicit"]) == 2
    assert "--state is of one sample" in capsys.readouterr().err


# A decoder ------------------------------------------------------------------------------------------


def test_a_decoder_with_a_static_cache_begins_and_goes_on_by_one_file(tmp_path: Path) -> None:
    torch.manual_seed(6)
    model = StaticDecoder(Decoder(), 64).eval()
    file = tmp_path / "decoder.onnx"
    conversion = explicit(model, spec(1, "T", dtype=torch.int64), file, dims={"T": 3}, route="direct")
    assert conversion.report.statement == "valid for T >= 1"
    assert conversion.lowered.input_names == ["tokens", "seen", "cache.0.k", "cache.0.v", "cache.1.k", "cache.1.v"]
    session = onnxruntime.InferenceSession(file)
    (pairs,) = (properties(onnx.load(file))[key] for key in ("lazytracer.state",))
    shapes = {value.name: value.shape for value in session.get_inputs()}
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    start = {
        pair["input"]: np.full(shapes[pair["input"]], pair["start"], types[value.type])
        for pair in pairs
        for value in session.get_inputs()
        if value.name == pair["input"]
    }

    def step(tokens: torch.Tensor, state: Any) -> tuple[Any, Any]:
        outputs = [value.name for value in session.get_outputs()]
        found = dict(zip(outputs, session.run(None, {"tokens": tokens.numpy(), **state}), strict=True))
        return found["output"], {pair["input"]: found[pair["output"]] for pair in pairs}

    def eager(tokens: torch.Tensor, past: None) -> tuple[Any, Any]:
        return model(tokens), None

    with torch.no_grad():
        expected = tokens_of(eager, None)
    assert len(set(expected)) > 10
    assert tokens_of(step, start) == expected
