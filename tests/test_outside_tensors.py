"""Tensors and modules that a forward uses beside the model's registered ones, at sizes that are left open.

Tables in plain attributes, containers and globals, tensors made in the forward, functions bound to other names, and
modules in lists or made on the spot: each is converted once and run at sizes that the sample does not have.
"""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import arange, as_tensor, eye, full, linspace, nn, ones, tensor, zeros
from torch.nn.functional import interpolate, one_hot, pad

import tests.test_outside_tensors as here
import tracer
from passes.errors import TracerWarning
from passes.sizes.guards import GuardLog
from tracer.capture.tracing import capture
from tracer.inputs.sample import bind_sample

TABLE = torch.randn(1, 200, 8)
TABLES = [torch.randn(1, 200, 8), torch.randn(200, 8)]
NAMED = {"position": torch.randn(200, 8), "deep": (torch.randn(3, 200, 8),)}
GRID = torch.randn(2, 100, 100)
LINEAR, ACTIVATION = nn.Linear(8, 8), nn.ReLU()
RANGE = torch.arange


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.register_buffer("shift", torch.randn(8))

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(x) + self.shift


class Model(nn.Module):
    def __init__(self, run: Callable[[Any, Any], Any]):
        super().__init__()
        self.run = run
        self.lin = nn.Linear(8, 8)
        self.table = torch.randn(1, 200, 8)
        self.scale = torch.tensor([1.5, 2.5])
        self.tables = [torch.randn(200, 8), {"inner": torch.randn(8)}]
        self.acts = {"relu": nn.ReLU(), "own": self.lin}
        self.layers = [nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh(), Hidden())]
        self.partial = functools.partial(F.leaky_relu, negative_slope=0.2)
        self.convs = (nn.Conv1d(8, 8, 3, padding=1),)
        self.norms = [nn.BatchNorm1d(8), nn.BatchNorm1d(8).eval()]
        self.rows = [nn.Embedding(200, 8)]
        object.__setattr__(self, "hidden", Hidden())

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


Run = Callable[[Any, Any], Any]
TOKENS: dict[str, Run] = {
    "an attribute": lambda m, x: x + m.table[:, : x.shape[1]],
    "the last row": lambda m, x: x + m.table[:, x.shape[1] - 1, None],
    "from the end": lambda m, x: x + m.table[:, -x.shape[1] :],
    "between": lambda m, x: x + m.table[:, x.shape[1] : 2 * x.shape[1]],
    "a step": lambda m, x: x + m.table[:, : 2 * x.shape[1] : 2],
    "rows and a slice": lambda m, x: x + m.table[torch.tensor([0]), : x.shape[1]],
    "a global": lambda m, x: x + TABLE[:, : x.shape[1]],
    "globals in a list": lambda m, x: x + TABLES[1][: x.size(1)],
    "globals in a dict": lambda m, x: x + NAMED["position"][: x.shape[1]] + NAMED["deep"][0][2, : x.shape[1]],
    "in a container": lambda m, x: x + m.tables[0][: x.shape[1]] + m.tables[1]["inner"],
    "made in the forward": lambda m, x: x + torch.arange(600.0).view(75, 8)[: x.shape[1]],
    "summed": lambda m, x: x + TABLE[0, : x.shape[1]].sum(),
    "narrow": lambda m, x: x + TABLE.narrow(1, 0, x.shape[1]),
    "select": lambda m, x: x + TABLE.select(1, x.shape[1]),
    "expand": lambda m, x: x + torch.tensor([7.0]).expand(x.shape[0])[:, None, None],
    "expand last": lambda m, x: x + m.scale[:1].view(1, 1).expand(x.shape[0], -1)[..., None],
    "repeat": lambda m, x: x + m.scale.repeat(x.shape[1], 4)[:, :8],
    "repeat first": lambda m, x: x + m.scale[None, None].repeat(x.shape[0], x.shape[1], 4),
    "new_zeros": lambda m, x: x + TABLE.new_zeros(x.shape[1], 8),
    "new_full": lambda m, x: x + TABLE.new_full((x.shape[1], 8), 3.0),
    "tensor": lambda m, x: x * tensor(x.shape[1]),
    "tensor of two": lambda m, x: x * tensor([x.shape[0], x.shape[1]]).sum(),
    "as_tensor": lambda m, x: x * as_tensor([x.shape[0], x.shape[1]])[1],
    "times a size": lambda m, x: x + m.scale[0] * x.shape[1],
    "a size times": lambda m, x: x + x.shape[1] * TABLE[0, 0],
    "over a size": lambda m, x: x + TABLE[0, 0] / x.shape[1],
    "compared": lambda m, x: x * (torch.arange(200) < x.shape[1]).sum(),
    "arange": lambda m, x: x + arange(x.shape[1])[:, None],
    "arange between": lambda m, x: x + RANGE(1, x.shape[1] + 1, dtype=torch.float32)[:, None],
    "zeros": lambda m, x: x + zeros(x.shape[1])[:, None] + zeros(x.shape[1], 8) + zeros((x.shape[0], 1, 1)),
    "ones": lambda m, x: x + ones(x.shape[:2])[..., None] + ones(8, x.shape[1]).t(),
    "full": lambda m, x: x + full((x.shape[1], 1), x.shape[0] * 2.0),
    "linspace": lambda m, x: x + linspace(-1, 1, x.shape[1])[:, None],
    "eye": lambda m, x: eye(x.shape[1]) @ x,
    "torch.Size": lambda m, x: x + zeros(torch.Size([x.shape[1], 8])),
    "pad": lambda m, x: pad(x, (0, 0, 0, x.shape[1])),
    "pad a table": lambda m, x: x + pad(TABLE[:, :1], (0, 0, 0, x.shape[1] - 1)),
    "one_hot": lambda m, x: x + one_hot(arange(x.shape[1]) % 8, 8),
    "embedding": lambda m, x: x + m.rows[0](arange(x.shape[1])),
    "written": lambda m, x: written(TABLE[:, : x.shape[1]], x),
}
IMAGES: dict[str, Run] = {
    "a grid": lambda m, x: x + GRID[..., : x.shape[2], : x.shape[3]].sum(0),
    "two axes": lambda m, x: x + GRID[0, : x.shape[2], : x.shape[3]],
    "interpolate": lambda m, x: interpolate(x, size=(x.shape[3], x.shape[2])),
    "a table resized": lambda m, x: x + interpolate(GRID[None, :1], size=x.shape[2:], mode="nearest"),
}
MODULES: dict[str, Run] = {
    "made": lambda m, x: nn.Softmax(dim=-1)(nn.ReLU()(x)),
    "made with weights": lambda m, x: nn.LayerNorm(8)(x),
    "made in one": lambda m, x: nn.Sequential(nn.GELU(), nn.Flatten(1))(x)[:, :8],
    "in a dict": lambda m, x: m.acts["relu"](x),
    "registered, too": lambda m, x: m.acts["own"](x),
    "in a list": lambda m, x: m.layers[0](x),
    "one in another": lambda m, x: functools.reduce(lambda y, layer: layer(y), m.layers, x),
    "its weight": lambda m, x: x @ m.layers[0].weight + m.layers[0].bias,
    "a partial": lambda m, x: m.partial(x),
    "hidden": lambda m, x: m.hidden(x),
    "globals": lambda m, x: LINEAR(ACTIVATION(x)),
    "in a tuple": lambda m, x: m.convs[0](x.transpose(1, 2)),
    "norm in evaluation": lambda m, x: m.norms[1](x.transpose(1, 2)),
    "norm in training": lambda m, x: m.norms[0](x.transpose(1, 2)),
}
TEXT_SIZES = [(1, 3, 8), (3, 5, 8), (2, 17, 8), (1, 64, 8)]
IMAGE_SIZES = [(1, 3, 16, 16), (2, 3, 33, 20), (1, 3, 8, 40)]
EVERY = [
    *(pytest.param(run, ("N", "T", 8), TEXT_SIZES, id=name) for name, run in (TOKENS | MODULES).items()),
    *(pytest.param(run, ("N", 3, "H", "W"), IMAGE_SIZES, id=name) for name, run in IMAGES.items()),
]


def written(table: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    table = table.clone()
    table[:, 0] = x[0, 0]
    return x + table


def outside() -> list[torch.Tensor]:
    return [TABLE, *TABLES, *NAMED["deep"], GRID, *LINEAR.parameters()]


@pytest.mark.parametrize(("run", "sample", "sizes"), EVERY)
def test_it_is_right_at_any_size(run: Run, sample: tuple[Any, ...], sizes: list[tuple[int, ...]]) -> None:
    model = Model(run).eval()
    attributes, before = list(vars(model)), [tensor.clone() for tensor in outside()]
    with torch.no_grad():
        conversion = tracer.convert(model, tracer.spec(*sample), route="direct")
    assert not conversion.report.rungs
    assert not conversion.report.pinned
    assert conversion.report.left_behind == (["norms"] if run is MODULES["norm in training"] else [])
    assert list(vars(model)) == attributes
    assert all(map(torch.equal, before, outside()))
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString())
    for size in sizes:
        x = torch.randn(size)
        with torch.no_grad():
            expected = model(x)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        assert found.shape == tuple(expected.shape)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


# No more than what eager PyTorch asks for itself.
GUARDS = {
    "an attribute": ["T <= 200"], "a global": ["T <= 200"], "expand": [], "repeat": [], "tensor": [], "as_tensor": [],
    "arange": [], "zeros": [], "full": [], "linspace": [], "times a size": [], "compared": [], "new_zeros": [],
    "in a list": [], "made": [], "globals": [], "hidden": [], "pad": [], "torch.Size": [],
}  # fmt: skip


@pytest.mark.parametrize("name", GUARDS)
def test_it_asks_for_no_more_than_torch(name: str) -> None:
    report = tracer.inspect(Model((TOKENS | MODULES)[name]), tracer.spec("N", "T", 8))
    assert [guard.condition for guard in report.guards if guard.dynamic] == GUARDS[name]


@pytest.mark.parametrize("name", [*TOKENS, *MODULES])
def test_it_is_right_at_fixed_sizes(name: str) -> None:
    run = (TOKENS | MODULES)[name]
    assert not tracer.inspect(Model(run), tracer.spec(3, 5, 8)).rungs


def test_weights_in_containers_are_named_by_their_place() -> None:
    conversion = tracer.convert(Model(MODULES["one in another"]), tracer.spec("N", "T", 8))
    names = {weight.name for weight in conversion.onnx_model.graph.initializer}
    assert {"layers_0_weight", "layers_1_0_bias", "layers_1_2_fc_weight", "layers_1_2_shift"} <= names


class Tables:
    ONE = torch.randn(8)


class OfClass(nn.Module):
    OWN = torch.randn(8)
    TABLE = torch.randn(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return helped(x) + Tables.ONE + self.OWN + self.TABLE + NAMED["deep"][0][0, 0] + here.GRID[0, :8, 0]


def helped(x: torch.Tensor) -> torch.Tensor:
    return x + TABLE[:, : x.shape[1]] + TABLES[1][0] + torch.tensor([1.5, 2, 3, 4, 5, 6, 7, 8]) * x


def test_tensors_outside_of_the_model_have_their_names_in_the_file() -> None:
    names = [
        [weight.name for weight in tracer.convert(OfClass(), tracer.spec("N", "T", 8)).onnx_model.graph.initializer]
        for _ in range(2)
    ]
    assert names[0] == names[1]
    named = {"TABLE", "ONE", "OWN", "TABLE_1", "NAMED_deep_0", "GRID", "TABLES_1"}
    assert {name for name in names[0] if "/" not in name} == named | {"_tensor_constant0"}  # a literal


BOUNDS = st.integers(-8, 8)


@settings(max_examples=40, deadline=None)
@given(BOUNDS, st.integers(1, 2), BOUNDS, st.integers(1, 3), st.integers(1, 3))
def test_a_slice_of_a_table_is_torchs(start: int, times: int, stop: int, step: int, over: int) -> None:
    """Any slice whose bounds are formulas of a size, at many of the sizes for which the guards hold."""

    def run(model: Any, x: Any) -> Any:
        size = x.shape[1]
        return x.sum() + TABLE[0, start + size // over : times * size + stop : step].sum(0)

    model, log = Model(run), GuardLog()
    program = capture(model, bind_sample(model, (tracer.spec(2, "T", 8),), None, None, {"T": 20}, log), log)
    module = program.graph_module()
    for size in (9, 12, 20, 31, 64):
        if all(fact.holds({"T": size}) for fact in log.facts.assumed):
            x = torch.randn(2, size, 8)
            assert torch.equal(module(x), run(model, x))


GOING_OVER: dict[str, Run] = {
    "for": lambda m, x: torch.stack([row * 2 for row in x]),
    "unpacked": lambda m, x: (lambda *rows: rows[0])(*x),
    "list": lambda m, x: list(x)[-1],
    "zip": lambda m, x: torch.stack([a * b for a, b in zip(x, x, strict=True)]),
    "enumerate": lambda m, x: torch.stack([row * index for index, row in enumerate(x)]),
    "reversed": lambda m, x: torch.stack(list(reversed(x))),
}


@pytest.mark.parametrize("name", GOING_OVER)
def test_going_over_an_axis_of_open_size_fixes_it(name: str) -> None:
    with pytest.warns(TracerWarning, match=r"N is fixed at 2: .* N == 2 \(.*test_outside_tensors\.py:\d+"):
        conversion = tracer.convert(Model(GOING_OVER[name]), tracer.spec("N", "T", 8))
    assert (conversion.route, conversion.report.pinned) == ("direct", {"N": 2})


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cache: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.cache is None or self.cache.shape[0] != x.shape[1]:
            self.cache = arange(x.shape[1])
        return x + self.cache[:, None]


def test_a_cache_by_a_size_is_made_anew_in_the_file() -> None:
    model = Cached()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not tracer.inspect(model, tracer.spec("N", "T", 8)).pinned
    assert model.cache is None


def test_a_cache_that_fixes_a_size_warns_with_the_line() -> None:
    model = Cached()
    model(torch.zeros(2, 6, 8))
    kept = model.cache
    with pytest.warns(TracerWarning, match=r"T is fixed at 6: the forward decides by T == 6 .*outside_tensors\.py"):
        report = tracer.inspect(model, tracer.spec("N", "T", 8), dims={"T": 6})
    assert report.pinned == {"T": 6}
    assert model.cache is kept


HIDDEN: dict[str, Callable[[Any], Any]] = {
    "times": lambda size: TABLE[0, 0] * size,
    "expand": lambda size: TABLE[0, :1].expand(size, 8)[0],
    "arange": lambda size: arange(size).sum(),
    "over": lambda size: TABLE[0, 0] * (size / 4),
}


@pytest.mark.parametrize("sample", [(2, 5, 8), ("N", "T", 8)])
@pytest.mark.parametrize("name", HIDDEN)
def test_a_size_that_is_hidden_from_the_tracer_is_never_computed_with(name: str, sample: tuple[Any, ...]) -> None:
    """Where torch's function modes are off, native code would take a symbolic number for something else."""

    def run(model: Any, x: Any) -> Any:
        with torch._C.DisableTorchFunction():
            found = HIDDEN[name](x.shape[1])
        return x + found

    with suppress(tracer.UnsupportedOpError, tracer.ShapeError):  # but no VerificationError
        assert tracer.convert(Model(run), tracer.spec(*sample)).verification is not None


LEGACY: dict[str, Run] = {
    "sizes": lambda m, x: x + torch.Tensor(x.shape[1], 8).fill_(2),
    "a list": lambda m, x: x + torch.Tensor([x.shape[1]]),
    "a long": lambda m, x: x + torch.LongTensor([x.shape[1]]),
    "a float": lambda m, x: x + torch.FloatTensor([x.shape[1] / 4]),
}


@pytest.mark.parametrize("name", LEGACY)
def test_constructors_that_are_no_functions_take_fixed_sizes(name: str) -> None:
    assert tracer.convert(Model(LEGACY[name]), tracer.spec(2, 5, 8), route="direct").verification is not None


def test_nothing_traced_stays_in_what_lies_outside() -> None:
    with torch.no_grad():
        tracer.convert(Model(MODULES["norm in training"]), tracer.spec("N", "T", 8))
        tracer.convert(Model(TOKENS["globals in a dict"]), tracer.spec("N", "T", 8))
    gc.collect()
    assert all(type(table) is torch.Tensor for table in (TABLE, *TABLES, NAMED["position"], *NAMED["deep"]))
    assert all(type(weight) is nn.Parameter for weight in LINEAR.parameters())
