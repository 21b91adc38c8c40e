"""A forward may ask about shapes: every question is answered, and every decision recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tracer import spec

Forward = Callable[..., Any]


class Net(nn.Module):
    """A lazy layer, a buffer and some attributes, with the forward it is given."""

    def __init__(self, forward: Forward):
        super().__init__()
        self.fc = nn.LazyLinear(4)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("positions", torch.randn(1, 100, 8))
        self.table = torch.randn(8)
        self.call = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(self, *args, **kwargs)


def convert(forward: Forward, *args: Any, **options: Any) -> tracer.Conversion:
    """Through the direct route, checked against the module at every size that the guards allow."""
    return tracer.convert(Net(forward), args, route="direct", **options)


def conditions(conversion: tracer.Conversion, dynamic: bool = False) -> list[str]:
    return [guard.condition for guard in conversion.report.guards if guard.dynamic == dynamic]


def branch(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.fc(x if x.shape[1] % 2 == 0 else -x)


def length(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.fc(x) * len(x)


def loop(m: Any, x: torch.Tensor) -> torch.Tensor:
    for step in range(x.shape[1]):
        x = x + step
    return m.fc(x)


def whole_number(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.fc(x)[:, : int(x.shape[-1] * 0.25)]


def over_split(m: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([m.fc(part) for part in x.split(2, dim=1)], 1)


def is_tensor(m: Any, x: torch.Tensor) -> torch.Tensor:
    assert isinstance(x, torch.Tensor)
    assert torch.is_tensor(x)
    assert x.dim() == x.ndim == 2
    assert x.dtype.is_floating_point
    return m.fc(x)


def asserted(m: Any, x: torch.Tensor) -> torch.Tensor:
    torch._assert(x.shape[-1] % 4 == 0, f"the width {x.shape[-1]} must be a multiple of 4")
    torch._assert(x.dim() == 2, "a matrix")
    return m.fc(x)


def square(m: Any, x: torch.Tensor) -> torch.Tensor:
    h, w = x.shape[-2:]
    assert h == w, "not square"
    return m.fc(x.flatten(1))


def creation(m: Any, x: torch.Tensor) -> torch.Tensor:
    zeros = torch.zeros(x.shape[0], 3)
    steps = torch.arange(x.size(1), device=x.device)
    return torch.cat([m.fc(x + steps), zeros, torch.full((x.shape[0], 1), 2.0)], 1)


def mask(m: Any, x: torch.Tensor) -> torch.Tensor:
    rows = torch.zeros(x.shape[1], x.shape[1])
    rows[0] = 1
    rows[1:, 2] += 3
    return m.fc(x @ rows)


def buffers(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.fc(x + m.positions[:, : x.size(1)] * m.scale + m.table)


def in_place(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    alias = y
    y += 1
    y.mul_(2)
    y[:, 0] = 5
    F.relu(y, inplace=True)
    return m.fc(alias)


def arithmetic(m: Any, x: torch.Tensor) -> torch.Tensor:
    n, t, c = x.shape
    heads = x.reshape(n, t, 2, c // 2).transpose(1, 2).reshape(n * 2, t, -1)
    return m.fc(heads).view(n, 2, t, -1).sum(1)


def best(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.fc(x.max(dim=1, keepdim=True).values + x.topk(2, dim=1).indices.float().mean(1, keepdim=True))


def numbers(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Functions that take a number in a tensor's place, which torch's argument parser looks for first."""
    shares = torch.where(x > 0, x, 0.5) + torch.remainder(x, 2) + torch.isin(x.round(), 1)
    return m.fc(torch.clamp(shares, x[0, 0], 3)) + torch.bitwise_and(x.long(), 3).sum(1, keepdim=True)


def numbers_from_shapes(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Native functions, of which torch's argument parser wants numbers, given sizes and numbers of axes."""
    n, c = x.shape
    y = torch.mul(x, n) + torch.where(x > n, torch.div(x, n + 1), c) + torch.clamp(x, -c, n)
    y = torch.add(y, x, alpha=n) + torch.masked_fill(x, x > 0, c) + torch.remainder(x, n).addcmul(x, x, value=n)
    y = torch.softmax(y, x.ndim - 1) + torch.cat([y, y], x.dim() - 1)[:, :c] + torch.special.xlogy(n, x.abs() + 1)
    y = torch.transpose(y, 0, x.ndim - 1).t() + F.one_hot(torch.zeros(c).long(), n).sum(1)
    return m.fc(torch.triu(y, n)) + torch.topk(x, n, dim=0)[0].sum(1, keepdim=True) + torch.sqrt(torch.tensor(n))


STATIC: list[tuple[Forward, Any, list[str]]] = [
    (branch, spec(2, 8), ["x.shape[1] % 2 == 0"]),
    (length, spec(2, 8), ["x.shape[0] == 2"]),
    (loop, spec("N", 8), ["x.shape[1] == 8"]),
    (whole_number, spec("N", 8), ["x.shape[1] * 0.25 == 2.0"]),
    (over_split, spec("N", 6, 8), []),
    (is_tensor, spec("N", 8), []),
    (square, spec("N", 4, 4), ["x.shape[1] == x.shape[2]"]),
    (asserted, spec("N", 8), ["x.shape[1] % 4 == 0"]),
]


@pytest.mark.parametrize(("forward", "sample", "expected"), STATIC)
def test_a_decision_on_a_fixed_size_is_a_guard(forward: Forward, sample: Any, expected: list[str]) -> None:
    conversion = convert(forward, sample)
    found = [text.replace("args_0", "x") for text in conditions(conversion)]
    assert set(expected) <= set(found)
    assert all(guard.location.source is not None for guard in conversion.report.guards)


@pytest.mark.parametrize("forward", [creation, mask, buffers, arithmetic])
@pytest.mark.parametrize("batch", [2, "N"])
def test_sizes_may_be_fixed_or_dynamic(forward: Forward, batch: Any) -> None:
    shape = (batch, 8) if forward is creation else (batch, 7, 8) if forward is not mask else (batch, 4)
    assert convert(forward, spec(*shape)).route == "direct"


@pytest.mark.parametrize("forward", [in_place, best, numbers, numbers_from_shapes])
def test_operations_keep_their_meaning(forward: Forward) -> None:
    assert convert(forward, spec("N", 8)).route == "direct"


def test_a_tensor_of_a_tuple_is_what_the_forward_takes_it_for() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        found = x.max(dim=1, keepdim=True)
        assert isinstance(found, tuple)
        assert not isinstance(found, (torch.Tensor, nn.Parameter))
        assert not isinstance(x, (int, nn.Parameter))
        assert isinstance(x.shape[0], int)
        return m.fc(x + found[0])

    assert convert(forward, spec("N", 8)).route == "direct"
    assert not isinstance(isinstance, type(lambda: None)), "the builtin is back in its place"


def test_dynamic_sequences() -> None:
    assert not conditions(convert(arithmetic, spec("N", "T", 8)), dynamic=True)
    assert conditions(convert(buffers, spec("N", "T", 8)), dynamic=True) == ["T <= 100"]


def test_a_branch_on_a_dynamic_size_is_a_guard_on_it() -> None:
    conversion = tracer.convert(Net(lambda m, x: m.fc(x.mean(1) if x.shape[1] > 4 else x.sum(1))), spec("N", "T", 8))
    assert conditions(conversion, dynamic=True) == ["T >= 5"]
    (guard,) = [guard for guard in conversion.report.guards if guard.dynamic]
    assert guard.location.source is not None
    assert guard.location.source.startswith("test_capture.py:")


def test_the_mode_is_a_guard() -> None:
    conversion = convert(lambda m, x: x if m.training else m.fc(x), spec("N", 8))
    assert conditions(conversion) == ["self.training is False"]


def test_arguments_of_every_kind() -> None:
    def forward(m: Any, first: Any, pair: Any, *rest: Any, scale: Any = None, flag: bool = True, **others: Any) -> Any:
        assert scale is None
        total = first["x"] + pair[0] + pair[1][0] + rest[0] + others["extra"]
        return {"total": m.fc(total) if flag else total, "nested": (total, [total * 2], None)}

    x = spec("N", 8)
    conversion = tracer.convert(Net(forward), ({"x": x}, (x, [x]), x), kwargs={"extra": x}, route="direct")
    graph = conversion.onnx_model.graph
    assert [entry.name for entry in graph.input] == ["args_0_x", "args_1_0", "args_1_1_0", "args_2", "extra"]
    assert [entry.name for entry in graph.output] == ["total", "nested_0", "nested_1_0"]


def test_tensors_and_dynamic_shapes() -> None:
    x = torch.randn(3, 8)
    for shapes in ({"x": {0: "N"}}, [{0: torch.export.Dim("N")}], ({0: "N"},)):
        model = nn.Sequential(nn.LazyLinear(2))
        shapes = {"input": shapes["x"]} if isinstance(shapes, dict) else shapes
        conversion = tracer.convert(model, (x,), dynamic_shapes=shapes)
        assert conversion.report.inputs == {"input": "float32[N, 8]"}


def test_a_lazy_module_outside_the_model_is_named() -> None:
    outside = nn.LazyLinear(4)
    with pytest.raises(tracer.UnsupportedOpError, match="calls a LazyLinear that is not a submodule of the model"):
        convert(lambda m, x: m.fc(outside(x)), spec(2, 8))


def test_an_in_feature_over_a_dynamic_size_shows_the_formula() -> None:
    model = nn.Sequential(
        nn.LazyConv2d(16, 5, padding=2), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(3)
    )
    message = r"4\.in_features = 16\*\(H//4\)\*\(W//4\) depends on H, W"
    with pytest.raises(tracer.LazyResolutionError, match=message):
        tracer.inspect(model, spec("N", 1, "H", "W"))


def test_an_assertion_that_fails_is_told_in_its_own_words() -> None:
    with pytest.raises(tracer.TracerError, match="AssertionError: the width 6 must be a multiple of 4"):
        convert(asserted, spec("N", 6))


def test_guards_say_how_a_tensor_was_asked() -> None:
    def call(net: Net, x: torch.Tensor) -> torch.Tensor:
        if x.dim() == 2 and x.ndim == net.scale.ndim + 1 and x.numel() == 24 and x.size(0) == 3:
            x = x + 1
        return net.fc(x)

    found = [text.replace("args_0", "x") for text in conditions(convert(call, torch.randn(3, 8)))]
    assert found == ["x.ndim == 2", "x.ndim == scale.ndim + 1", "x.numel() == 24", "x.shape[0] == 3"]
