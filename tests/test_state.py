"""The state that a forward keeps in its model, as inputs and outputs of the file."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable, Sequence
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
from passes.ops.op import FUNCTIONS
from passes.text.parsing import parse_program
from passes.text.printing import print_program
from tests.decoder import Decoder, StaticDecoder, tokens_of
from tests.reading import names, properties
from tracer import spec

Run = Callable[..., Any]


class Of(nn.Module):
    """A forward on tensors of its own: registered, but for those whose names begin with `plain`."""

    def __init__(self, run: Run, **held: Any) -> None:
        super().__init__()
        for name, value in held.items():
            if isinstance(value, nn.Module) or not isinstance(value, torch.Tensor) or name.startswith("plain"):
                setattr(self, name, value)
            else:
                self.register_buffer(name, value)
        self.run = run

    def forward(self, *args: Any) -> Any:
        return self.run(self, *args)


def explicit(model: nn.Module, sample: Any, file: Path | None = None, **options: Any) -> tracer.Conversion:
    return tracer.convert(model, sample, file, state="explicit", seed=0, **options)


def stepped(conversion: tracer.Conversion, inputs: Sequence[Sequence[torch.Tensor]]) -> None:
    """Runs the file in a loop as its report says, beside the module, and compares all that they give."""
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString())
    module = copy.deepcopy(conversion.module).eval()
    own = [value.name for value in session.get_inputs()][: len(inputs[0])]
    state = {name: tensor.numpy() for name, tensor in conversion.state.items()}
    for tensors in inputs:
        with torch.no_grad():
            expected = module(*(tensor.clone() for tensor in tensors))
        given = {name: tensor.numpy() for name, tensor in zip(own, tensors, strict=True)}
        outputs = names(session.get_outputs())
        results = dict(zip(outputs, session.run(None, {**given, **state}), strict=True))
        state = {pair.input: results[pair.output] for pair in conversion.report.state}
        if expected is not None:
            np.testing.assert_allclose(results[outputs[0]], expected.numpy(), atol=1e-5)
        for pair in conversion.report.state:
            owner, _, name = pair.path.rpartition(".")
            left = getattr(module.get_submodule(owner), name).detach()
            np.testing.assert_allclose(state[pair.input], left.numpy(), atol=1e-5)


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


def counted(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.n += x.shape[0]
    return x + self.n


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


# What can be none -----------------------------------------------------------------------------------


def shared() -> nn.Module:
    model = Of(lambda self, x: (self.a.add_(1), x + self.view)[1], a=torch.zeros(2, 2))
    model.register_buffer("view", model.a[0])
    return model


def in_a_closure() -> nn.Module:
    tensor = torch.zeros(2)
    return Of(lambda self, x: (self.n.add_(1), x + tensor)[1], n=tensor)


def half_replaced() -> nn.Module:
    model = Of(lambda self, x: setattr(self, "a", self.a + 1) or x + self.b, a=torch.zeros(2))
    model.register_buffer("b", model.a)
    return model


def by_a_number(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.n += 1
    return x if self.n > 2 else x * 2


class Late(nn.Module):
    """Its buffer gets its size by the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("u", nn.UninitializedBuffer())
        self.register_forward_pre_hook(Late.initialise)

    @staticmethod
    def initialise(module: Any, args: tuple[torch.Tensor]) -> None:
        if isinstance(module.u, nn.UninitializedBuffer):
            module.u.materialize(args[0].shape[-1:])
            module.u.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.u += x.sum(0)
        return x + self.u


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "another size": (
        lambda: Of(lambda self, x: setattr(self, "b", torch.cat([self.b, x])) or self.b.sum(), b=torch.zeros(1, 2)),
        r"test_state\.py:\d+\).*the forward leaves float32\[T \+ 1, 2\] in b, which is float32\[1, 2\] before it",
    ),
    "another dtype": (
        lambda: Of(lambda self, x: setattr(self, "n", self.n + 0.5) or x + self.n, n=torch.tensor(1)),
        r"the forward leaves float32\[\] in n, which is int64\[\] before it",
    ),
    "a number in its place": (
        lambda: Of(lambda self, x: setattr(self, "plain", 5) or x, plain=torch.ones(1)),
        "leaves 5 in plain, which is",
    ),
    "a number": (
        lambda: Of(lambda self, x: setattr(self, "k", self.k + 1) or x + self.k, k=0),
        r'writes k, which is 0 before it, no tensor.*\n.*register_buffer\("k", torch.tensor\(0\)\)',
    ),
    "nothing before": (lambda: Of(lambda self, x: setattr(self, "c", x) or x * 1, c=None), "writes c, which is None"),
    "a list": (lambda: Of(lambda self, x: self.held.append(x) or x * 1, held=[]), "writes held, which is a list"),
    "in a list": (
        lambda: Of(lambda self, x: self.held[0].add_(1) + x, held=[torch.zeros(2)]),
        "writes held, which is a list",
    ),
    "shared memory": (shared, "writes a, which shares memory with view.*\n.*clone"),
    "one of two places": (half_replaced, "a is one tensor in 2 places of the model, and the forward replaces it in"),
    "used in a closure": (in_a_closure, "uses n, which is to be an input, otherwise than as an attribute"),
    "decides": (lambda: Of(by_a_number, n=torch.tensor(0)), "needs the data of gt bool"),
    "without a size": (Late, "writes u, which has no size before it"),
}


@pytest.mark.filterwarnings("ignore:the sample never reaches")
@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_no_input_is_refused(name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises(tracer.TracerError, match=f"(?s){said}"):
        explicit(make(), spec("T", 2), verify=False, route="direct")


def test_there_is_one_way_to_keep_state() -> None:
    with pytest.raises(tracer.InputError, match="state is 'implicit', not None or \"explicit\""):
        tracer.convert(nn.Linear(2, 2), spec(1, 2), state="implicit")


def test_what_only_a_run_on_data_shows_is_refused_too() -> None:
    """Nothing traced says that an attribute is gone."""

    def run(self: Any, x: torch.Tensor) -> torch.Tensor:
        del self.n
        return x + 1

    with pytest.raises(tracer.SideEffectError, match="leaves something behind in n"):
        explicit(Of(run, n=torch.ones(1)), spec("T", 2))


# Verification ---------------------------------------------------------------------------------------


def forgetting(path: str) -> Callable[[Any], None]:
    """A pass that makes the program begin anew each time: it reads the buffer in place of the input."""

    def forget(program: Any) -> None:
        (node,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.target == path)
        with program.graph.inserting_after(node):
            constant = program.graph.get_attr(path)
        users = [user for user in node.users if user.op != "output"]
        for user in users:
            user.replace_input_with(node, constant)

    return forget


def test_a_file_that_begins_anew_each_time_disagrees_in_the_second_step() -> None:
    with pytest.raises(tracer.VerificationError, match="output output at T=4 in step 2 differs from the module's by"):
        explicit(Of(counted, n=torch.tensor(0)), spec("T", 2), dims={"T": 4}, passes=[forgetting("n")])


def test_a_state_that_is_not_what_the_module_leaves_disagrees() -> None:
    def exchange(program: Any) -> None:
        (output,) = (node for node in program.graph.nodes if node.op == "output")
        result, left = output.args[0]
        output.args = ((result, {"a": left["b"], "b": left["a"]}),)

    def run(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.a += 1
        self.b += 2
        return x * 2

    with pytest.raises(tracer.VerificationError, match=r"output a_out .*1 of 1 elements: 2 and not 1"):
        explicit(Of(run, a=torch.tensor(0), b=torch.tensor(0)), spec("T", 2), passes=[exchange])


def test_where_a_later_step_goes_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.n += 1
        return x * 2 - torch.relu(self.n)

    op = FUNCTIONS[torch.relu][0]
    monkeypatch.setattr(op, "lowering", lambda emit, call: emit.node("Tanh", call.input))  # the same at 0
    with pytest.raises(tracer.VerificationError, match=r"^relu \(test_state\.py:\d+\): output output at T=2 in step 2"):
        explicit(Of(run, n=torch.tensor(-1.0)), spec("T", 2), dims={"T": 2})


def test_a_module_that_takes_few_steps_is_followed_as_far_as_it_goes() -> None:
    def fill(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.k[:, self.n + torch.arange(x.shape[1])] = x
        self.n += x.shape[1]
        return self.k.sum(1)

    conversion = explicit(Of(fill, k=torch.zeros(1, 8), n=torch.tensor(0)), spec(1, 4))
    assert conversion.verification is not None
    assert {comparison.step for comparison in conversion.verification.comparisons} == {1, 2}
    (note,) = conversion.verification.notes
    assert note.startswith("the state is followed over 2 of 3 steps: the next raises IndexError")


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
