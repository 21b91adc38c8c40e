"""Numbers that Python computes from named sizes: in the file they are computed from the sizes that it is run with."""

from __future__ import annotations

import builtins
import math
import warnings
from collections.abc import Callable
from math import ceil, log2, sqrt
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tracer
from tracer import spec

Forward = Callable[[Any], Any]
SIZES = [(1, 3, 16, 16), (2, 3, 33, 20), (1, 3, 8, 40), (1, 3, 90, 45), (3, 3, 7, 9)]
HERE = globals()


class Net(nn.Module):
    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def converted(function: Forward, sample: Any = None) -> tracer.Conversion:
    return tracer.convert(Net(function), spec("N", 3, "H", "W") if sample is None else sample, route="direct")


def assert_agrees(conversion: tracer.Conversion, function: Forward, shapes: Any = SIZES) -> None:
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString())
    for shape in shapes:
        x = torch.randn(*shape)
        wanted = function(x)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()} if session.get_inputs() else {})
        assert found.shape == tuple(wanted.shape), shape
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)


def size(of: Callable[[Any, Any], Any]) -> Forward:
    """A tensor whose size is the number."""
    return lambda x: x.new_zeros(of(x.shape[2], x.shape[3])) + x.sum()


def factor(of: Callable[[Any, Any], Any]) -> Forward:
    return lambda x: x * of(x.shape[2], x.shape[3])


# What needs no guard: `int`, `float` and `len` of this module are replaced while it is traced.
WITHOUT_A_GUARD: dict[str, Forward] = {
    "int(size)": lambda x: x.reshape(int(x.size(0)), -1),
    "len": lambda x: x.reshape(len(x), -1),
    "map(int)": lambda x: x.reshape(list(map(int, x.shape))),
    "a list of ints": lambda x: x.reshape([int(length) for length in x.shape]),
    "int of a quotient": size(lambda h, w: int(h / 2)),
    "int of a difference": size(lambda h, w: 100 + int((h - w) / 2)),
    "a multiple of 32": lambda x: F.pad(x, (0, int(math.ceil(x.shape[3] / 32) * 32) - x.shape[3])),
    "round to the even": size(lambda h, w: round(h * 0.5) + round(h / 4)),
    "round": size(lambda h, w: round(h * 0.7)),
    "abs": factor(lambda h, w: abs(h - w)),
    "shifts": size(lambda h, w: (h >> 1, w << 1)),
    "masks": size(lambda h, w: (h + 31) & ~31),
    "max": lambda x: F.pad(x, (0, max(x.shape[2], x.shape[3]) - x.shape[3])),
    "min": lambda x: x[:, :, : min(x.shape[2], x.shape[3])],
    "max of a list": size(lambda h, w: max([h, w])),
    "max of a generator": size(lambda h, w: max(length for length in (h, w))),
    "max of three": size(lambda h, w: max(h, w, 16)),
    "min and a number": lambda x: x[:, :, : min(x.shape[2], 16)],
    "at least one": lambda x: x[:, :, : max(1, x.shape[2] - 7)],
    "max of floats": factor(lambda h, w: max(h * 0.3, 2.5)),
    "sqrt": lambda x: x / math.sqrt(x.shape[2]),
    "sqrt by its name": factor(lambda h, w: sqrt(h) + float(w)),
    "sqrt of an int by its name": size(lambda h, w: int(sqrt(h))),
    "float": factor(lambda h, w: float(h)),
    "powers": factor(lambda h, w: h**-0.5 + w**0.5 + 0.5**h + math.pow(h, 0.3)),
    "logarithms": factor(lambda h, w: math.log(h) + math.log2(h) + math.log10(w) + math.log(w, 3)),
    "other functions": factor(lambda h, w: math.exp(-h / 10) + math.sin(h) + math.cos(w) + math.tanh(h / w)),
    "a rounded log2": size(lambda h, w: (int(log2(h)), ceil(log2(w)))),
    "divmod": lambda x: x[:, :, : divmod(x.shape[2], 2)[0]],
    "floor": lambda x: x[:, :, : math.floor(x.shape[2] * 0.75)],
    "floor of a decimal": lambda x: x[:, :, : math.floor(x.shape[2] * 0.7)],
    "a quotient by a decimal": size(lambda h, w: int(h / 0.7)),
    "isqrt": lambda x: x[:, :, : math.isqrt(x.shape[2])],
    "int of a root": size(lambda h, w: int(math.sqrt(h * w))),
    "prod": lambda x: x.reshape(math.prod(x.shape[:2]), -1),
    "sum": size(lambda h, w: sum([h, w])),
    "one and a half": lambda x: F.interpolate(x, size=(int(x.shape[2] * 1.5), int(x.shape[3] * 1.5))),
    "an aspect ratio": size(lambda h, w: (int(h * (32 / w)), 32)),
    "numpy's functions": factor(lambda h, w: np.sqrt(h) + np.ceil(h / 3) + np.log(w)),
    "numpy's rounding": size(lambda h, w: int(np.ceil(h / 3)) + int(np.floor(w / 4) * 2)),
    "numpy's extremes": size(lambda h, w: int(np.maximum(h, w))),
    "torch's numbers": lambda x: x[:, :, : torch.div(x.size(2), 4, rounding_mode="floor")],
    "torch's numbers, truncated": lambda x: x[:, :, : torch.div(x.size(2), 4, rounding_mode="trunc")],
    "torch's sums": size(lambda h, w: torch.add(h, w)),
    "torch's symbolic functions": size(lambda h, w: (torch.sym_max(h, w), torch.sym_int(h / 2))),
    "a range downwards": lambda x: x.sum() * torch.arange(x.shape[2], -x.shape[2], -1.0),
    "a range of floats": lambda x: torch.arange(0, x.shape[3] * 0.3, 0.3),
    "a range from a half": lambda x: torch.arange(0.5, x.shape[3]),
    "a tensor of numbers": lambda x: torch.tensor([x.shape[3] * 0.3, math.sqrt(x.shape[2])]),
    "a scale of attention": lambda x: F.scaled_dot_product_attention(x, x, x, scale=1 / math.sqrt(x.shape[2])),
    "an exponent": lambda x: x.abs() ** (1 / x.shape[2]),
    "integers": lambda x: (x * 10).long() // int(x.shape[2] * 0.3 + 1),
    "where": lambda x: torch.where(x > 0, x, x.shape[2] * 0.1),
    "a check that always holds": lambda x: (torch._check(x.shape[2] > 0, lambda: f"bad {x.shape}"), x * 2)[1],
    "types": lambda x: (
        x * int(x.shape[2])
        if type(x.shape[2]) is int and isinstance(int(x.shape[2]), (int, float)) and {int: 1}[int] == 1
        else x
    ),
    "numpy's types": lambda x: x * int(x.shape[2]) * float(np.arange(3, dtype=int).sum()),
    "other ints": lambda x: x * int(x.shape[2]) * int("11", 2) * int(2.5) * float("0.5") * len([x, x]),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_A_GUARD)
def test_a_number_is_computed_in_the_file(name: str) -> None:
    function = WITHOUT_A_GUARD[name]
    before = dict(HERE)
    conversion = converted(function)
    assert not conversion.report.guards
    assert not conversion.report.rungs
    assert before == HERE
    assert (builtins.max, math.sqrt) == (max, sqrt)
    assert_agrees(conversion, function)


# What Python itself must know, with the guard that says so.
WITH_A_GUARD: dict[str, tuple[Forward, list[str]]] = {
    "a branch": (lambda x: x * (2 if x.shape[2] > 3 else 3), ["H >= 4"]),
    "a bool": (factor(lambda h, w: h > 3), ["H >= 4"]),
    "a branch on a root": (lambda x: x * (2 if math.sqrt(x.shape[2]) >= 3 else 3), ["H >= 9"]),
    "a branch on a share": (lambda x: x * (2 if x.shape[2] * 0.7 > 7 else 3), ["H >= 11"]),
    "the user's own check": (lambda x: (torch._check(x.shape[2] >= 5), x * 2)[1], ["H >= 5"]),
    "a check of a size": (lambda x: (torch._check_is_size(x.shape[2] - 4), x * 2)[1], ["H >= 4"]),
    "a text": (lambda x: x * len(f"{x.shape[2]:5d}"), ["H == 64"]),
    "int or float": (factor(lambda h, w: max(h * 0.3, 2)), ["H >= 7"]),
    "an image that is not empty": (lambda x: F.interpolate(x, scale_factor=(0.6, 2.0), mode="bilinear"), ["H >= 2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_A_GUARD)
def test_what_python_must_know_is_a_guard(name: str) -> None:
    function, conditions = WITH_A_GUARD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tracer.TracerWarning)  # of a size that has only one value then
        report = tracer.inspect(Net(function), spec("N", 3, "H", "W"))
    assert [guard.condition for guard in report.guards] == conditions


def test_a_factor_reaches_torchs_size_at_every_size() -> None:
    function: Forward = lambda x: F.interpolate(x, scale_factor=(0.7, 1.0), mode="bilinear")  # noqa: E731
    conversion = converted(function)
    assert_agrees(conversion, function, [(1, 3, height, 4) for height in range(2, 130)])


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (size(lambda h, w: max(h, w)), "max(H, W)"),
        (size(lambda h, w: int(math.sqrt(h))), "floor(sqrt(H))"),
        (size(lambda h, w: int(h * 0.7)), "floor(H*0.7)"),
        (size(lambda h, w: int(h * 0.25)), "H//4"),
        (size(lambda h, w: math.ceil(h * 0.7)), "ceil(H*0.7)"),
        (size(lambda h, w: round(h / 2)), "((H + 1)//4) + ((H + 2)//4)"),
        (size(lambda h, w: round(h / w)), "round(H/W)"),
    ],
)
def test_a_size_is_shown_as_people_write_it(function: Forward, text: str) -> None:
    def shown(x: Any) -> Any:
        return function(x), x

    report = tracer.inspect(Net(shown), spec("N", 3, "H", "W"))
    assert f"[{text}]" in report.program_text()


def test_fixed_sizes_are_plain_numbers() -> None:
    def function(x: Tensor) -> Tensor:
        return x[:, :, : int(math.sqrt(max(x.shape[2], 9)))] * float(len(x))

    report = tracer.inspect(Net(function), spec(2, 3, 16, 4))
    assert "[2, 3, 4, 4]" in report.program_text()


# Random expressions ---------------------------------------------------------------------------------

WHOLE = st.recursive(
    st.sampled_from(["h", "w", "3", "7", "h", "w"]),
    lambda inner: (
        st.tuples(inner, st.sampled_from("+*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | st.tuples(inner, st.sampled_from(["// 3", "% 5", ">> 1", "<< 1", "- 2", "& 7"])).map(
            lambda t: f"({t[0]} {t[1]})"
        )
        | st.tuples(st.sampled_from(["max", "min"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})")
        | st.tuples(inner, inner).map(lambda t: f"abs({t[0]} - {t[1]})")
        | st.tuples(inner, inner).map(lambda t: f"divmod({t[0]}, abs({t[1]}) + 1)[0]")
        | st.tuples(
            st.sampled_from(["int", "round", "math.ceil", "math.floor"]),
            inner,
            st.sampled_from(["* 0.7", "* 0.3", "/ 2", "/ 7", "* 1.5", "/ 0.9", "* 0.1 + 0.5", "/ 3 * 3", "- 0.5"]),
        ).map(lambda t: f"{t[0]}({t[1]} {t[2]})")
        | st.tuples(st.sampled_from(["int", "math.ceil", "round"]), inner).map(
            lambda t: f"{t[0]}(math.sqrt(abs({t[1]})) * 1.1)"
        )
        | inner.map(lambda text: f"math.isqrt(abs({text}))")
    ),
    max_leaves=5,
)
NUMBER = WHOLE | st.tuples(WHOLE, st.sampled_from(["** 0.5", "* 0.3", "/ 7"])).map(lambda t: f"(abs({t[0]}) {t[1]})")
# In a namespace of its own, as a model's file has one.
SPACE: dict[str, Any] = {"math": math, "torch": torch, "__name__": __name__}


@settings(max_examples=40, deadline=None)
@given(WHOLE, NUMBER)
def test_random_numbers_are_pythons(length: str, number: str) -> None:
    source = f"lambda x, h, w: (x.new_ones(abs({length}) % 50 + 1), x[:, :, :min(abs({length}), h)] * ({number}))"
    of = eval(compile(source, __file__, "eval"), SPACE)

    def function(x: Any) -> Any:
        return of(x, x.shape[2], x.shape[3])

    conversion = converted(function)
    assert not conversion.report.guards
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString())
    for height, width in [(2, 2), (3, 10), (9, 4), (16, 25), (31, 64), (90, 45)]:
        x = torch.randn(1, 3, height, width)
        for found, wanted in zip(
            session.run(None, {session.get_inputs()[0].name: x.numpy()}), function(x), strict=True
        ):
            assert found.shape == tuple(wanted.shape)
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)
