"""The torch route keeps what was asked for: dynamic sizes stay dynamic, and what narrows them is a guard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from tests.reading import properties, run
from tests.reading import sizes as declared
from tracer import UnsupportedOpError, spec

SLOW = pytest.mark.slow  # the exporter takes seconds for each


class Opaque(nn.Module):
    """A module that cannot be traced, which runs a function."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        if isinstance(x, torch.fx.Proxy):
            raise RuntimeError("only real tensors")
        return self.function(x)


class Within(nn.Module):
    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.inner = Opaque(function)

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


def looped(x: torch.Tensor) -> torch.Tensor:
    return sum(x[:, step] * step for step in range(x.shape[1]))  # type: ignore[return-value]


FIXING: dict[str, Callable[..., Any]] = {
    "a loop": looped,
    "a list": lambda x: x * float(len([0] * x.shape[1])),
    "a table": lambda x: x * {6: 2.0, 3: 1.0}.get(int(x.shape[1]), 5.0),
}


@pytest.mark.parametrize("kind", ["a loop", *(pytest.param(kind, marks=SLOW) for kind in FIXING if kind != "a loop")])
def test_a_size_that_torch_fixes_is_an_error_that_names_it(kind: str) -> None:
    function = FIXING[kind]
    with pytest.raises(UnsupportedOpError, match=r"torch\.onnx\.export fixes T, axis 1 of x, at 6,") as info:
        tracer.convert(Within(function), spec("N", "T", 4), dims={"T": 6}, verify=False)
    line = function.__code__.co_firstlineno + (1 if kind == "a loop" else 0)
    assert f"as test_torch_route_guards.py:{line} needs one size of it" in str(info.value)


def test_a_fixed_size_in_the_request_is_none() -> None:
    conversion = tracer.convert(Within(looped), spec("N", 5, 4))
    assert conversion.route == "torch"
    assert declared(conversion.lowered.proto.graph.input[0]) == ["N", 5, 4]


GUARDED: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "a bound": (lambda x: x.sin() if x.shape[1] > 10 else x.cos(), ["T >= 11"]),
    "two bounds": (lambda x: x.sin() if 10 < x.shape[1] < 70 else x.cos(), ["T >= 11", "T < 70"]),
    "evenness": (lambda x: x.sin() if x.shape[1] % 2 == 0 else x.cos(), ["T % 2 == 0"]),
    "an area": (lambda x: x.sin() if x.shape[0] * x.shape[1] > 100 else x.cos(), ["N*T > 100"]),
    "an inequality": (lambda x: x.sin() if x.shape[1] != 7 else x.cos(), ["T != 7"]),
    "two sizes": (lambda x: x.sin() if x.shape[0] < x.shape[1] else x.cos(), ["N < T"]),
    "the larger": (lambda x: x.sin() if max(x.shape[1], 7) == x.shape[1] else x.cos(), ["Eq(Max(7, T), T)"]),
    "nothing": (lambda x: x.sin(), []),
}
MORE = [kind for kind in GUARDED if kind not in ("a bound", "evenness")]


@pytest.mark.parametrize("kind", ["a bound", "evenness", *(pytest.param(kind, marks=SLOW) for kind in MORE)])
def test_what_torch_decides_about_sizes_is_a_guard(kind: str, tmp_path: Path) -> None:
    function, conditions = GUARDED[kind]
    path = tmp_path / "model.onnx"
    model = Within(function)
    conversion = tracer.convert(model, spec("N", "T", 4), path)
    assert conversion.route == "torch"
    assert declared(conversion.lowered.proto.graph.input[0]) == ["N", "T", 4]
    guards = [guard for guard in conversion.report.guards if guard.dynamic]
    assert [guard.condition for guard in guards] == conditions
    line = f"test_torch_route_guards.py:{function.__code__.co_firstlineno}"
    assert all(guard.location.source == line for guard in guards)
    assert [guard["condition"] for guard in properties(conversion.onnx_model)["lazytracer.guards"]] == conditions
    assert conversion.verification is not None
    for sizes in {tuple(c.sizes.values()) for c in conversion.verification.comparisons}:
        x = torch.randn(*sizes, 4)
        np.testing.assert_allclose(run(path, x=x)["output"], model(x), rtol=1e-4, atol=1e-5)


def test_a_report_says_that_it_does_not_know_what_an_opaque_module_asks() -> None:
    report = tracer.inspect(Within(GUARDED["a bound"][0]), spec("N", "T", 4))
    assert report.guards_unknown == ["inner"]
    assert report.to_dict()["guards_unknown"] == ["inner"]
    assert tracer.inspect(Within(GUARDED["a bound"][0]), spec(2, 64, 4)).guards_unknown == []
    assert tracer.convert(Within(GUARDED["a bound"][0]), spec("N", "T", 4)).report.guards_unknown == []


GUESSED: dict[str, Callable[..., Any]] = {
    "the even part": lambda x: x[:, : x.shape[1] - x.shape[1] % 2],
    "a branch below": lambda x: x if x.shape[1] > 40 else x[:, :2],
    "a branch above": lambda x: x if x.shape[1] < 100 else x[:, :2],
    "rounding up to eights": lambda x: torch.nn.functional.pad(x, (0, 0, 0, -x.shape[1] % 8)),
    "a half": lambda x: x[:, ::2],
    "another dtype": lambda x: x if x.shape[1] > 40 else x.double(),
    "another rank": lambda x: x if x.shape[1] % 2 == 0 else x.sum(0),
    "another structure": lambda x: (x, x) if x.shape[1] > 40 else x,
}


@pytest.mark.parametrize("kind", GUESSED)
def test_a_shape_that_is_no_formula_of_the_sizes_is_not_claimed(kind: str) -> None:
    with pytest.raises(UnsupportedOpError, match="no simple formula"):
        tracer.inspect(Within(GUESSED[kind]), spec("N", "T", 4))
    assert tracer.inspect(Within(GUESSED[kind]), spec("N", 64, 4)).outputs  # but fixed sizes do


@pytest.mark.parametrize(
    ("function", "output"),
    [
        (lambda x: torch.cat([x, x, x[:, :1]], 1), "float32[N, 2*T + 1, 4]"),
        (lambda x: x.flatten(0, 1)[:0], "float32[0, 4]"),
        (lambda x: x.sum(1), "float32[N, 4]"),
        (lambda x: x.flatten(0, 1), "float32[N*T, 4]"),
        (lambda x: torch.cat([x.flatten(0, 1), x[0], x[:, 0]]), "float32[N + N*T + T, 4]"),
        (lambda x: x.mT.flatten(), "float32[4*N*T]"),
    ],
)
def test_a_formula_that_is_confirmed_is_claimed(function: Callable[..., Any], output: str) -> None:
    assert tracer.inspect(Within(function), spec("N", "T", 4)).outputs == [output]


def test_the_exporter_runs_without_gradients() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                raise RuntimeError("with gradients")
            return torch.fft.rfft(self.fc(x)).abs()

    conversion = tracer.convert(Writes(), spec("N", 4), route="torch")
    assert conversion.route == "torch"


def test_what_our_rules_alone_refuse_goes_down_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    from passes.errors import ShapeError
    from passes.ops.op import FUNCTIONS

    def refuses(*_: Any, **__: Any) -> Any:
        raise ShapeError("not for us")

    monkeypatch.setattr(FUNCTIONS[torch.outer][0], "shape_rule", refuses)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.LazyLinear(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.outer(self.fc(x)[0], x[0])

    conversion = tracer.convert(Outer(), spec("N", 3), seed=0)
    assert (conversion.route, conversion.report.rungs[0].reason) == ("torch", "not for us")
    assert conversion.report.resolved == {"fc": {"in_features": 3}}

    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.outer(x, x)

    with pytest.raises(ShapeError, match="not for us"):  # torch refuses it as well
        tracer.convert(Wrong(), spec("N", 3))


def test_meshgrid_without_an_order() -> None:
    class Grid(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows, columns = torch.meshgrid(x, x, indexing=None)
            return rows - 2 * columns

    assert tracer.convert(Grid(), spec("N")).route == "direct"
