"""`torch.cond` as ONNX's If."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.experimental import control_flow
from torch import Tensor, nn

import tracer
from passes.program.notes import CALL
from tests.control_flow.oracle import OPSETS, Model, assert_file_agrees, operators
from tests.reading import run

UP, DOWN = torch.rand(2, 4) + 0.1, -torch.rand(2, 4) - 0.1
BOTH = ((UP,), (DOWN,))


class Sides(nn.Module):
    """Two sides with a layer each, which use what the forward has computed."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().mean()

        def left(x: Tensor) -> Tensor:
            return self.left(x) * scale

        return torch.cond(x.sum() > 0, left, lambda x: self.right(x).relu(), (x,)) + 1


@pytest.mark.parametrize("opset", OPSETS)
def test_either_side_runs_as_the_data_say(opset: int) -> None:
    conversion = assert_file_agrees(Sides(), (UP,), *BOTH, opset=opset)
    graph = conversion.onnx_model.graph
    assert operators(graph).count("Gemm") == 2
    (node,) = [node for node in graph.node if node.op_type == "If"]
    assert [attribute.name for attribute in node.attribute] == ["then_branch", "else_branch"]
    assert {tensor.name for tensor in graph.initializer} >= {"left.weight", "right.bias"}


# What the sides are, and give --------------------------------------------------------------------


def method(model: Any, x: Tensor) -> Tensor:
    return model.a(x) - 1


def with_outer_numbers(model: Any, x: Tensor) -> Tensor:
    count = x.shape[0] * 2
    y = torch.cond(x.sum() > 0, lambda x: x * count, lambda x: x - count, (x,))
    return y.reshape(-1)[:count] + TABLE[0]


def with_outer_constants(model: Any, x: Tensor) -> Tensor:
    written = torch.zeros(6)
    written[:4] = x[0]
    part = written[1:5]
    y = torch.cond(x.sum() > 0, lambda x: x + part + TABLE, lambda x: x - written[:4], (x,))
    return y + TABLE + written[2:]


def with_states(model: Any, x: Tensor) -> Tensor:
    _, states = model.lstm(x[:, None])
    y = torch.cond(x.sum() > 0, lambda x, s: x * s[0][0], lambda x, s: x - s[1][0], (x, states))
    return y + states[1][0]


def writing_to_its_own(model: Any, x: Tensor) -> Tensor:
    def written(x: Tensor) -> Tensor:
        y = x.clone()
        y[0] = 3.0
        y[:, 1:].mul_(2)
        return y

    return torch.cond(x.sum() > 0, written, lambda x: x * 1, (x,))


TABLE = torch.randn(4)

FORWARDS: dict[str, Callable[[Any, Tensor], Any]] = {
    "modules": lambda m, x: torch.cond(x.sum() > 0, m.chain, m.a, (x,)),
    "methods": lambda m, x: torch.cond(x.sum() > 0, m.method, lambda x: x * 2, (x,)),
    "by another name": lambda m, x: control_flow.cond(x.sum() > 0, m.a, m.chain, (x,)),
    "no operands": lambda m, x: torch.cond(x.sum() > 0, lambda: m.a(x), lambda: x),
    "nested operands": lambda m, x: torch.cond(
        x.sum() > 0, lambda d, t: d["x"] + t[0][1], lambda d, t: d["x"] - t[0][0], ({"x": x}, ([x, x * 2],))
    ),
    "nested results": lambda m, x: torch.cond(
        x.sum() > 0, lambda x: {"a": x + 1, "b": (x, None)}, lambda x: {"a": x, "b": [x - 1, None]}, (x,)
    ),
    "one value twice": lambda m, x: torch.cond(x.sum() > 0, lambda x: (x, x), lambda x: (m.a(x), x * 2), (x,)),
    "nothing of the operands": lambda m, x: torch.cond(x.sum() > 0, lambda x: m.weight, lambda x: TABLE * 1, (x,)),
    "numbers": lambda m, x: (lambda r: r[0] * r[1] + r[2])(
        torch.cond(x.sum() > 0, lambda x: (x * 1, 1, 5), lambda x: (x * 1, 2, 5), (x,))
    ),
    "a side within a side": lambda m, x: torch.cond(
        x.sum() > 0, lambda x: torch.cond(x.max() > 0.5, m.a, m.chain, (x,)) + 1, lambda x: x, (x,)
    ),
    "one element": lambda m, x: torch.cond(x.sum((0, 1), keepdim=True) > 0, lambda x: x + 1, lambda x: x, (x,)),
    "any number": lambda m, x: torch.cond((x.sum() > 0).float(), lambda x: x + 1, lambda x: x, (x,)),
    "outer numbers": with_outer_numbers,
    "outer constants": with_outer_constants,
    "states": with_states,
    "writing": writing_to_its_own,
}


class Parts(nn.Module):
    """The modules that the forwards name."""

    def __init__(self, forward: Callable[..., Any]):
        super().__init__()
        self.a, self.chain = nn.LazyLinear(4), nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyLinear(4))
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.weight = nn.Parameter(torch.randn(4))
        self.run = forward

    def method(self, x: Tensor) -> Tensor:
        return self.a(x) - 1

    def forward(self, *args: Tensor) -> Any:
        return self.run(self, *args)


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.filterwarnings("ignore:the sample never reaches")
def test_what_the_sides_may_be(name: str) -> None:
    conversion = assert_file_agrees(Parts(FORWARDS[name]), (UP,), *BOTH, (torch.rand(2, 4) * 0.3,))
    assert "If" in operators(conversion.onnx_model.graph)
    assert conversion.verification.notes == []


# Conditions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "condition",
    ["n > 4", "n >= 4", "n < 4", "4 >= n", "n == 5", "2 * n != 10", "n % 2 == 0", "n // 2 > 1"],
)
def test_a_comparison_of_sizes_is_computed_by_the_file(condition: str) -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        return torch.cond(eval(condition, {"n": x.shape[0]}), lambda x: x + 1, lambda x: -x, (x,))

    runs = [(torch.randn(size, 4),) for size in (1, 2, 4, 5, 9)]
    conversion = assert_file_agrees(Model(forward), runs[1], *runs, dynamic_shapes=[{0: "N"}])
    assert conversion.report.guards == []
    assert conversion.report.statement == "valid for N >= 1"
    assert conversion.verification.notes == []


@pytest.mark.parametrize("condition", ["n > 0", "n > -1", "n + 1 > n", "x.shape[1] == 4", "len(x.shape) == 2", "True"])
def test_what_is_known_is_no_branch(condition: str) -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        return torch.cond(eval(condition, {"n": x.shape[0], "x": x}), lambda x: x + 1, lambda x: -x, (x,))

    conversion = assert_file_agrees(Model(forward), (UP,), (UP,), dynamic_shapes=[{0: "N"}])
    assert operators(conversion.onnx_model.graph) == ["Add"]


def test_a_comparison_of_sizes_that_nobody_asks_for_is_no_guard() -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        large = x.shape[0] > 4
        model.unused = [large]
        return x + 1

    report = tracer.inspect(Model(forward), tracer.spec("N", 4))
    assert report.guards == []


def test_one_that_decides_is_a_guard_where_it_was_made() -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        large = x.shape[0] > 4
        return x + 1 if large else x

    (guard,) = tracer.inspect(Model(forward), tracer.spec("N", 4)).guards
    line = forward.__code__.co_firstlineno + 1
    assert str(guard) == f"N <= 4  at the model's forward (test_branches.py:{line})"


def test_a_condition_of_the_models_own_may_be_refreshed(tmp_path: Any) -> None:
    class Flagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("flag", torch.tensor(True))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(self.flag, lambda x: x + 1, lambda x: -x, (x,))

    path = tmp_path / "flagged.onnx"
    conversion = assert_file_agrees(Flagged(), (UP,), (UP,))
    assert conversion.verification.notes == [
        f"the branch <lambda> (test_branches.py:{Flagged.forward.__code__.co_firstlineno + 1}) of torch.cond is not "
        "compared: no data that were tried lead to it"
    ]
    conversion.save(path)
    tracer.refresh(path, {"flag": torch.tensor(False)})
    assert run(path, x=UP)["output"].tolist() == (-UP).tolist()


# Lazy layers -------------------------------------------------------------------------------------


class LazySides(nn.Module):
    """A lazy layer on each side, and one on both."""

    def __init__(self, repeats: int):
        super().__init__()
        self.left, self.right, self.both = nn.LazyLinear(6), nn.LazyLinear(6), nn.LazyLinear(5)
        self.repeats = repeats

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(
            x.sum() > 0,
            lambda x: self.both(self.left(x)),
            lambda x: self.both(self.right(x.repeat(1, 2)).repeat(1, self.repeats)),
            (x,),
        )


@pytest.mark.parametrize("opset", OPSETS)
def test_lazy_layers_of_either_side_get_their_sizes(opset: int) -> None:
    conversion = assert_file_agrees(LazySides(1), (UP,), *BOTH, opset=opset)
    assert conversion.report.resolved == {
        "left": {"in_features": 4},
        "both": {"in_features": 6},
        "right": {"in_features": 8},
    }
    assert conversion.verification.notes == []


def test_one_lazy_layer_on_both_sides_needs_one_size() -> None:
    with pytest.raises(tracer.LazyResolutionError) as caught:
        tracer.inspect(LazySides(2), UP)
    line = LazySides.forward.__code__.co_firstlineno + 3
    error = caught.value
    assert str(error.location) == f"both (test_branches.py:{line + 1})"
    assert error.message == (
        f"both.in_features = 6 from its call at test_branches.py:{line}, but both.in_features = 12 from this one"
    )


def test_a_batch_norm_is_folded_within_a_side() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3)
            self.norm.running_mean = torch.randn(3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(
                x.sum() > 0, lambda x: self.norm(self.conv(x)), lambda x: x[:, :1, 2:] * self.norm.weight[:, None], (x,)
            )

    x = torch.rand(1, 2, 8)
    conversion = assert_file_agrees(Normed(), (x,), (x,), (-x,))
    assert [fold.layer for fold in conversion.program.folds.values()] == ["conv"]
    assert all(CALL.of(node).op.name != "batch_norm" for node in conversion.program.graph.nodes if CALL.on(node))
