"""Sizes that something must know as numbers: loops, keys, texts, code that is not Python's. One guard says so.

What stays a formula beside it, and what is let go of after the trace.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import operator
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import tracer
from tracer import TracerError, TracerWarning, spec

Forward = Callable[[Any], Any]
H = 7
TABLES: dict[Any, Any] = {}


class Net(nn.Module):
    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def converted(function: Forward, *sample: Any) -> tracer.Conversion:
    """Converted with free sizes, H sampled at 7."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        return tracer.convert(
            Net(function), spec(*(sample or ("N", "H", 4))), dims={"H": H}, route="direct", verify=False
        )


def assert_agrees(conversion: tracer.Conversion, function: Forward, shapes: Any) -> None:
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString())
    for shape in shapes:
        x = torch.randn(*shape)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), function(x), rtol=1e-5, atol=1e-5)


def factor(of: Callable[[Any], Any]) -> Forward:
    return lambda x: x * of(x.shape[1])


def stepped(x: Any) -> Any:
    y = x[:, 0]
    for step in range(x.shape[1]):
        y = y * 0.5 + x[:, step]
    return y


def added(rows: Any) -> Any:
    return functools.reduce(operator.add, rows)


def taken_apart(x: Any) -> Any:
    first, second, *rest = x.transpose(0, 1)
    return first * second + rest[-1] * len(rest)


@functools.lru_cache
def table(length: int) -> Tensor:
    return torch.linspace(0, 1, length)[:, None]


def kept(x: Any) -> Any:
    length = x.shape[1]
    if length not in TABLES:
        TABLES[length] = torch.arange(length)[:, None] * 0.5
    return x + TABLES[length]


FIXES_H: dict[str, Forward] = {
    "a loop": stepped,
    "a loop backwards": lambda x: added(x[:, i] * i for i in reversed(range(x.shape[1]))),
    "places": lambda x: x[:, list(range(x.shape[1]))[::-1]],
    "rows": lambda x: torch.stack([row * 2 for row in x.transpose(0, 1)]),
    "rows backwards": lambda x: torch.stack(list(reversed(x.transpose(0, 1)))),
    "numbered rows": lambda x: added(row * i for i, row in enumerate(x.transpose(0, 1))),
    "pairs of rows": lambda x: added(a * b for a, b in zip(x.transpose(0, 1), x.transpose(0, 1), strict=True)),
    "taken apart": taken_apart,
    "unbind": lambda x: added(x.unbind(1)),
    "torch.unbind": lambda x: torch.cat(torch.unbind(x, 1)[::2], 1),
    "split by one": lambda x: added(part.squeeze(1) for part in x.split(1, dim=1)),
    "a list repeated": lambda x: x * torch.tensor([2.0] * x.shape[1])[:, None],
    "a key": factor(lambda h: {h: 1.5}[h]),
    "a key among numbers": factor(lambda h: {8: 1.5, 7: 2.5, 6: 3.5}[h]),
    "a set": factor(lambda h: 2 if h in {5, 7} else 3),
    "an index": factor(lambda h: [0.5 * i for i in range(20)][h]),
    "a slice of a list": factor(lambda h: sum(([1.0, 2.0, 3.0] * 5)[:h])),
    "a slice of a text": factor(lambda h: len("abcdefghijkl"[:h])),
    "%d": factor(lambda h: int("%d" % h)),  # noqa: UP031
    "str": factor(lambda h: int(str(h))),
    "a format": factor(lambda h: int(f"{h:5d}")),
    "gcd": factor(lambda h: math.gcd(h, 14)),
    "comb": factor(lambda h: math.comb(h, 2)),
    "a tangent": factor(lambda h: math.tan(h)),
    "operator.index": factor(operator.index),
    "bits": factor(lambda h: h.bit_length() + len(bin(h))),
    "bit by bit": factor(lambda h: (h | 8) + (h ^ 5) + (h & 5)),
    "a power of two": factor(lambda h: 2**h + (1 << h)),
    "decimals": factor(lambda h: round(h / 3, 2)),
    "a rounded logarithm": factor(lambda h: int(math.log(h, 2))),
    "an exact quotient": factor(lambda h: h // 0.3 + h % 0.3),
    "a complex number": factor(lambda h: (h * 1j).imag + complex(h).real),
    "itertools": factor(lambda h: sum(itertools.islice(itertools.count(), h)) + len(list(itertools.repeat(0, h)))),
    "statistics": factor(lambda h: statistics.mean([h, 2])),
    "numpy.arange": lambda x: x + torch.from_numpy(np.arange(x.shape[1])).float()[:, None],
    "numpy.linspace": lambda x: x + torch.from_numpy(np.linspace(0, x.shape[1], x.shape[1])).float()[:, None],
    "numpy.zeros": lambda x: x + torch.from_numpy(np.zeros((x.shape[1], 4), dtype=np.float32)),
    "numpy's other functions": factor(lambda h: float(np.arctan(h))),
    "a table kept by size": kept,
}  # fmt: skip


@pytest.mark.parametrize("name", FIXES_H)
def test_what_must_know_a_size_fixes_it(name: str) -> None:
    TABLES.clear()
    function = FIXES_H[name]
    conversion = converted(function)
    assert conversion.report.statement == f"valid for N >= 1, H == {H}"
    assert {guard.location.source.partition(":")[0] for guard in conversion.report.guards} == {"test_needed_sizes.py"}
    assert_agrees(conversion, function, [(1, H, 4), (3, H, 4)])


LOGGER = logging.Logger("apart from those whose lines the tests keep")
LOGGER.addHandler(logging.StreamHandler())


def told(x: Any) -> Any:
    print("%d rows" % x.shape[1])  # noqa: UP031
    LOGGER.warning("%d rows, %s", x.shape[1], x.shape[1])
    return x * 2


def cached_by_shape(x: Any) -> Any:
    return x + table(x.shape[1]) + table(4).T


# What asks for less than the number is a guard of just that, and what asks for nothing is a formula.
ASKS_FOR_LESS: dict[str, tuple[Forward, str]] = {
    "a formula's number": (factor(lambda h: sum(range(h // 3))), "valid for N >= 1, 6 <= H <= 8"),
    "a power of two": (
        factor(lambda h: 2 ** int(math.log2(h))), "valid for N >= 1, H >= 1, floor(log2(H)) == 2",
    ),
    "a product": (lambda x: x * ([0.5] * (x.shape[0] * x.shape[1]))[-1], "valid for N >= 1, H >= 1, H*N == 14"),
    "a word": (factor(lambda h: 1 if h == "auto" or h in ("same", None) else 2), "valid for N >= 1, H >= 1"),
    "a cached function": (cached_by_shape, "valid for N >= 1, H >= 1"),
    "what only tells": (told, "valid for N >= 1, H >= 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKS_FOR_LESS)
def test_what_asks_for_less_than_the_number_fixes_less(name: str) -> None:
    function, statement = ASKS_FOR_LESS[name]
    conversion = converted(function)
    assert conversion.report.statement == statement
    shapes = [(n, h, 4) for n, h in [(2, 7), (7, 2), (1, 8), (1, 6), (3, 4), (5, 11)] if holds(statement, n, h)]
    assert len(shapes) >= 2
    assert_agrees(conversion, function, shapes)


def holds(statement: str, n: int, h: int) -> bool:
    names = {"N": n, "H": h, "floor": math.floor, "log2": math.log2}
    return all(eval(part, names) for part in statement.removeprefix("valid for ").split(", "))


def test_the_warning_names_the_line() -> None:
    with pytest.warns(TracerWarning, match=r"H is fixed at 7: .* H == 7 \(.*test_needed_sizes\.py:\d+\)"):
        tracer.inspect(Net(stepped), spec("N", "H", 4), dims={"H": H})


def test_each_size_that_is_a_key_is_fixed() -> None:
    def function(x: Any) -> Any:
        weights = {x.shape[0]: 0.5, x.shape[1]: 2.0}
        return x * weights[x.shape[0]] + weights[x.shape[1]]

    conversion = converted(function)
    assert conversion.report.statement == f"valid for N == 2, H == {H}"
    assert_agrees(conversion, function, [(2, H, 4)])


def test_a_promise_that_this_narrows_is_refused() -> None:
    with pytest.raises(tracer.InputError, match="the model needs H == 7, but the constraint H <= 64 promises more"):
        tracer.inspect(Net(stepped), spec("N", "H", 4, "H<=64"), dims={"H": H})


def test_a_lazy_layer_takes_its_size_from_one_that_is_fixed() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Any:
            assert x.shape[1] == H
            return self.layer(x.flatten(1))

    with pytest.warns(TracerWarning, match="H is fixed"):
        assert tracer.inspect(Checked(), spec("N", "H", 4), dims={"H": H}).layers[0].resolved == {"in_features": 4 * H}
    free = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(tracer.LazyResolutionError, match=r"1\.in_features = 4\*H depends on H"):
        tracer.inspect(free, spec("N", "H", 4), dims={"H": H})


def test_a_table_kept_by_size_is_real_after_the_trace() -> None:
    TABLES.clear()
    converted(kept)
    assert [(type(key), type(value)) for key, value in TABLES.items()] == [(int, Tensor)]
    torch.testing.assert_close(TABLES[H], torch.arange(H)[:, None] * 0.5)


def test_a_check_by_a_number_is_a_guard() -> None:
    """The text of a check only tells; what it checks decides."""

    def checked(x: Any) -> Any:
        torch._assert(math.gcd(x.shape[1], 7) == 7, f"{x.shape[1]} rows")
        return x * 2

    conversion = converted(checked)
    assert conversion.report.statement == f"valid for N >= 1, H == {H}"


def test_more_than_64_bits_are_refused_as_by_torch() -> None:
    function = factor(lambda h: 2 ** (h * 10))
    with pytest.raises(OverflowError):
        function(torch.ones(1, H, 4))
    with pytest.raises(TracerError, match="has more than 64 bits"):
        tracer.inspect(Net(function), spec(2, H, 4))
    large = factor(lambda h: 2 ** (h * 9))
    assert_agrees(converted(large), large, [(1, H, 4)])
