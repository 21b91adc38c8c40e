"""`torch.while_loop`, scan and map as ONNX's Loop and Scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.experimental.control_flow import map as over_batch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

import tracer
from tests.control_flow.oracle import OPSETS, Model, assert_file_agrees, operators

X = torch.randn(2, 4)
ZERO = torch.tensor(0)


class Repeated(nn.Module):
    """A layer as often as an input says, beside a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(4)

    def body(self, i: Tensor, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return i + 1, torch.tanh(self.fc(h)) + x

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        i, h = torch.while_loop(lambda i, h: i < n, lambda i, h: self.body(i, h, x), (torch.tensor(0), x))
        return h, i


@pytest.mark.parametrize("opset", OPSETS)
def test_a_loop_runs_as_often_as_the_data_say(opset: int) -> None:
    runs = [(X, torch.tensor(count)) for count in (0, 1, 2, 30)]
    conversion = assert_file_agrees(Repeated(), runs[1], *runs, opset=opset)
    assert operators(conversion.onnx_model.graph) == ["Less", "Loop", "Add", "Gemm", "Tanh", "Add", "Less"]
    assert conversion.report.resolved == {"fc": {"in_features": 4}}


LOOPS: dict[str, Callable[[Any, Tensor], Any]] = {
    "a nest is carried": lambda m, x: torch.while_loop(
        lambda d, s: d["i"] < 5, lambda d, s: ({"i": d["i"] + 1}, [s[1], s[0] * 2]), ({"i": ZERO}, [x, x + 1])
    ),
    "a whole number is carried": lambda m, x: torch.while_loop(
        lambda i, h: 2 * i < x.shape[1] + 5, lambda i, h: (i + 1, h * 2 + i), (0, x)
    )[1],
    "a size is carried": lambda m, x: torch.while_loop(
        lambda n, h: n > 0, lambda n, h: (n - 1, h + n), (x.shape[0], x)
    )[1],
    "states of a layer are carried": lambda m, x: torch.while_loop(
        lambda i, s: i < 3, lambda i, s: (i + 1, m.cell(x, s)), (ZERO, m.cell(x))
    ),
    "a branch within": lambda m, x: torch.while_loop(
        lambda i, h: i < 6,
        lambda i, h: (i + 1, torch.cond(i % 2 == 0, m.fc, lambda h: torch.tanh(h) * i, (h,))),
        (ZERO, x),
    ),
    "a loop within": lambda m, x: torch.while_loop(
        lambda i, h: i < 3,
        lambda i, h: (i + 1, torch.while_loop(lambda j, g: j < i, lambda j, g: (j + 1, g + h), (ZERO, h))[1]),
        (ZERO, x),
    ),
    "what is carried is not changed": lambda m, x: torch.while_loop(
        lambda i, h, k: i < 3, lambda i, h, k: (i + 1, h + k, k), (ZERO, x, x * 2)
    ),
    "two are exchanged": lambda m, x: torch.while_loop(
        lambda i, a, b: i < 3, lambda i, a, b: (i + 1, b, a), (ZERO, x, x * 2)
    ),
    "no step": lambda m, x: torch.while_loop(lambda h: h.sum() > 1e9, lambda h: (h + 1,), (x,)),
    "a loop in each step": lambda m, x: scan(
        lambda c, r: (
            lambda v: (v + r, v * 2)
        )(torch.while_loop(lambda v: v.abs().sum() < 9, lambda v: (v * 2 + 1,), (c,))[0]),
        torch.zeros(4),
        x,
    ),
    "a branch in each step": lambda m, x: over_batch(lambda r: torch.cond(r.sum() > 0, m.fc, torch.tanh, (r,)), x),
    "steps in a branch": lambda m, x: torch.cond(
        x.sum() > 0, lambda x: over_batch(m.fc, x), lambda x: scan(lambda c, r: (c + r, c * r), x[0] * 0, x)[1], (x,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.filterwarnings("ignore:the sample never reaches")
def test_what_a_loop_may_be(name: str) -> None:
    model = Model(LOOPS[name], fc=nn.LazyLinear(4), cell=nn.LSTMCell(4, 4))
    assert_file_agrees(model, (X,), (X,), (X.abs(),), (-X.abs(),), tolerance=1e-4)


@pytest.mark.parametrize("name", ["a size is carried", "a branch in each step", "what is carried is not changed"])
@pytest.mark.filterwarnings("ignore:the sample never reaches")
def test_sizes_may_be_named(name: str) -> None:
    model = Model(LOOPS[name], fc=nn.LazyLinear(4))
    runs = [(torch.randn(size, 4),) for size in (1, 2, 5)]
    assert_file_agrees(model, runs[1], *runs, dynamic_shapes=[{0: "N"}], tolerance=1e-4)


class Leaky(nn.Module):
    """A leaky sum along an axis, in either direction: what is carried, and two results of each step."""

    def __init__(self, dim: int, reverse: bool):
        super().__init__()
        self.dim, self.reverse = dim, reverse

    def forward(self, x: Tensor) -> Any:
        def step(total: Tensor, x: Tensor) -> Any:
            total = 0.5 * total + x
            return total, {"total": total.clone(), "least": x.min()}

        return scan(step, torch.zeros_like(x.select(self.dim, 0)), x, dim=self.dim, reverse=self.reverse)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("dim", "reverse"), [(0, False), (1, True), (-1, False), (-1, True)])
def test_a_recurrence_along_an_axis(dim: int, reverse: bool, opset: int) -> None:
    runs = [(torch.randn(3, 4, 5),), (torch.randn(3, 4, 5),)]
    conversion = assert_file_agrees(Leaky(dim, reverse), runs[0], *runs, opset=opset)
    assert operators(conversion.onnx_model.graph).count("Scan") == 1


def test_a_recurrence_of_named_length() -> None:
    runs = [(torch.randn(3, size, 5),) for size in (1, 2, 7)]
    assert_file_agrees(Leaky(1, True), runs[1], *runs, dynamic_shapes=[{1: "T"}])


class Mapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(3)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return over_batch(lambda pair, y: (self.fc(pair[0]) + y, {"twice": pair[1] * 2}), (x, x + 1), y)


@pytest.mark.parametrize("opset", OPSETS)
def test_a_map_over_a_batch_of_any_size(opset: int) -> None:
    runs = [(torch.randn(size, 4), torch.randn(3)) for size in (1, 2, 5)]
    conversion = assert_file_agrees(Mapped(), runs[2], *runs, opset=opset, dynamic_shapes=[{0: "N"}, {}])
    assert operators(conversion.onnx_model.graph).count("Scan") == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    def forward(model: Any, x: Tensor) -> Any:
        y = torch.cond(x.sum() > 0, model.fc, lambda x: x - 1, (x,))
        _, y = torch.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, h / 2 + x), (ZERO, y))
        last, sums = scan(lambda c, r: (c + r, c * 2), torch.zeros(4, dtype=x.dtype), y)
        return over_batch(model.fc, sums), last

    model = Model(forward, fc=nn.Linear(4, 4)).to(dtype)
    conversion = tracer.convert(model, (X.to(dtype),), route="direct")
    assert conversion.verification is not None
    assert conversion.verification.notes == []


def test_weights_of_a_loop_are_drawn_as_ever_and_written_once() -> None:
    names = [tensor.name for tensor in tracer.convert(Repeated(), (X, ZERO), seed=3).onnx_model.graph.initializer]
    assert sorted(name for name in names if name.startswith("fc")) == ["fc.bias", "fc.weight"]
    torch.manual_seed(3)
    drawn = nn.Linear(4, 4)
    assert torch.equal(tracer.resolve(Repeated(), (X, ZERO), seed=3).fc.weight, drawn.weight)
