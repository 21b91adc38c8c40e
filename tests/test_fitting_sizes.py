"""Sizes of our choice that a forward does not take: it is followed at others, and the report says where it holds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tracer
from tracer import ShapeError, TracerError, TracerWarning, spec
from tracer.capture import fitting_sizes

Forward = Callable[[Any, Any], Any]


class Net(nn.Module):
    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function
        self.table = torch.randn(1, 50, 8)
        self.positions = nn.Parameter(torch.randn(1, 50, 8))
        self.rows = nn.Embedding(50, 8)
        self.register_buffer("mask", torch.tril(torch.ones(50, 50)))
        self.wave = nn.ModuleList(nn.Conv1d(8, 8, kernel, stride) for kernel, stride in ((10, 5), (8, 4), (4, 2)))
        self.calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.function(self, x)


def causal(m: Any, x: Any) -> Any:
    length = x.shape[1]
    scores = (x @ x.transpose(1, 2)).masked_fill(m.mask[:length, :length] == 0, -1e9)
    return scores.softmax(-1) @ x


def three(m: Any, x: Any) -> Any:
    first, second, third = x
    return first * second + third


def image(m: Any, x: Any) -> Any:
    if x.shape[1] != 224:
        message = f"wants 224, found {x.shape[1]}"
        raise ValueError(message)
    return x[:, :200] * 2


def refused(m: Any, x: Any) -> Any:
    if x.shape[1] > 40:
        raise ValueError(f"at most 40, found {x.shape[1]}")
    return x * 2


def waves(m: Any, x: Any) -> Any:
    y = x.transpose(1, 2)
    for layer in m.wave:
        y = layer(y)
    return y - y.mean(2, keepdim=True)


# By name: the forward, for which sizes it holds, and those to run it at, of N and T.
CASES: dict[str, tuple[Forward, str, list[tuple[int, int]]]] = {
    "a table": (lambda m, x: x + m.table[:, : x.shape[1]], "1 <= T <= 50", [(1, 1), (2, 50), (3, 49), (1, 7)]),
    "a parameter": (lambda m, x: x * m.positions[:, : x.shape[1]], "1 <= T <= 50", [(1, 1), (2, 50)]),
    "positions": (lambda m, x: x + m.rows(torch.arange(x.shape[1])), "1 <= T <= 50", [(1, 1), (2, 50)]),
    "positions of each": (
        lambda m, x: x + m.rows(torch.arange(0, x.shape[1])[None].expand(x.shape[0], -1).long()),
        "1 <= T <= 50", [(1, 1), (2, 50)],
    ),
    "positions selected": (
        lambda m, x: x + m.positions[0].index_select(0, torch.arange(x.shape[1])),
        "1 <= T <= 50", [(1, 1), (2, 50)],
    ),
    "a part of the positions": (
        lambda m, x: x[:, :9] + m.rows(torch.arange(x.shape[1])[:9]), "T >= 9", [(1, 9), (2, 60)],
    ),
    "a mask": (causal, "1 <= T <= 50", [(1, 1), (2, 50), (3, 20)]),
    "a table of one length": (lambda m, x: x + m.table, "T == 50", [(1, 50), (3, 50)]),
    "an error of the forward's": (refused, "1 <= T <= 40", [(1, 1), (2, 40)]),
    "an assertion": (image, "T == 224", [(1, 224), (2, 224)]),
    "three rows": (three, "N == 3, T >= 1", [(3, 1), (3, 9)]),
    "kernels": (waves, "T >= 105", [(1, 105), (2, 144), (1, 145), (2, 400)]),
    "a whole number of windows": (
        lambda m, x: x.view(x.shape[0], -1, 7, 8).mean(2), "T >= 7, T % 7 == 0", [(1, 7), (2, 70), (3, 21)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_followed_at_sizes_that_it_takes(name: str) -> None:
    function, statement, sizes = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        conversion = tracer.convert(Net(function), spec("N", "T", 8), route="direct", verify=False)
    assert conversion.report.statement == f"valid for {'' if 'N' in statement else 'N >= 1, '}{statement}"
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString())
    for n, length in sizes:
        x = torch.randn(n, length, 8)
        wanted = conversion.module(x)
        (found,) = session.run(None, {"x": x.numpy()})
        assert found.shape == tuple(wanted.shape)
        np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_places_behind_the_end_of_a_table_are_told() -> None:
    with pytest.raises(ShapeError, match="the places go up to 59, but there are 50 of them"):
        tracer.inspect(Net(CASES["positions"][0]), spec(2, 60, 8))


def test_verification_runs_at_sizes_that_the_model_takes() -> None:
    assert tracer.convert(Net(CASES["a table"][0]), spec("N", "T", 8)).verification is not None


def test_what_has_no_size_that_fits_is_told_as_it_was_first() -> None:
    def odd(m: Any, x: Any) -> Any:
        return x + m.table + torch.ones(60, 8)

    with pytest.raises(ShapeError, match=r"axis -2 has the sizes T and 50") as caught:
        tracer.inspect(Net(odd), spec("N", "T", 8))
    assert caught.value.report is not None


def test_what_depends_on_no_size_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    followed = []
    follow = fitting_sizes.follow
    monkeypatch.setattr(fitting_sizes, "follow", lambda *given: (followed.append(given), follow(*given))[1])
    with pytest.raises(TracerError):
        tracer.inspect(Net(lambda m, x: F.linear(x, torch.ones(3, 7))), spec("N", "T", 8))
    assert len(followed) == 1


def test_how_many_sizes_are_tried_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    followed = []
    follow = fitting_sizes.follow
    monkeypatch.setattr(fitting_sizes, "follow", lambda *given: (followed.append(given), follow(*given))[1])

    def never(m: Any, x: Any) -> Any:
        known = str(x.shape[1]) in m.state_dict()
        raise ValueError(f"no such size, {known}")

    with pytest.raises(TracerError, match="no such size"):
        tracer.inspect(Net(never), spec("N", "T", 8))
    assert 2 <= len(followed) <= 1 + fitting_sizes._TRIES


def test_the_callers_own_sizes_stand() -> None:
    model = Net(CASES["a table"][0])
    with pytest.raises(ShapeError, match="do not broadcast"):
        tracer.inspect(model, spec("N", "T", 8), dims={"T": 64})
    with pytest.raises(ShapeError, match="do not broadcast"):
        tracer.inspect(model, torch.randn(2, 64, 8), dynamic_shapes={"x": {1: "T"}})


def test_promises_hold_for_the_sizes_that_are_tried() -> None:
    report = tracer.inspect(Net(CASES["a table"][0]), spec("N", "T", 8, "T<=45", "T%5==0"))
    assert report.statement == "valid for N >= 1, 5 <= T <= 45, T % 5 == 0"
    with pytest.raises(tracer.InputError, match="needs T <= 50, but the constraint T <= 100 promises more"):
        tracer.inspect(Net(CASES["a table"][0]), spec("N", "T", 8, "T<=100"))


def test_sizes_and_why_follow_there_too() -> None:
    limits = tracer.sizes(Net(CASES["a table"][0]), spec("N", "T", 8))
    assert (limits["T"].upper is not None, 50 in limits["T"], 51 in limits["T"]) == (True, True, False)

    class Resolved(Net):
        def __init__(self, function: Forward) -> None:
            super().__init__(function)
            self.layer = nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Any:
            return self.layer(super().forward(x))

    assert str(tracer.why(Resolved(CASES["a table"][0]), spec("N", "T", 8), "layer").sizes[0]).endswith("8")
