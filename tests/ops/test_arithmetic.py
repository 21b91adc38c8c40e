"""Arithmetic against torch: shapes and dtypes on meta, values in onnxruntime."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tracer
from passes.errors import ShapeError, UnsupportedOpError
from tests.ops.oracle import Call, assert_lowering_matches, assert_shape_matches, propagated

BINARY: list[Callable[..., Any]] = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.pow,
    torch.add,
    torch.subtract,
    torch.rsub,
    torch.multiply,
    torch.true_divide,
    torch.floor_divide,
    torch.fmod,
    lambda x, y: x.remainder(y),
    lambda x, y: x.pow(y),
    lambda x, y: x.add(y),
    lambda x, y: x.div(y, rounding_mode="trunc"),
    lambda x, y: torch.div(x, y, rounding_mode="floor"),
]
POWERS = (operator.pow, BINARY[14])
SUBTRACTIONS = (operator.sub, torch.subtract, torch.rsub)
DTYPES = (torch.uint8, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64)
shapes = st.lists(st.integers(0, 3), max_size=3)


@given(
    st.sampled_from(BINARY),
    shapes,
    shapes,
    st.sampled_from((torch.bool, *DTYPES)),
    st.sampled_from((torch.bool, *DTYPES)),
)
def test_shape_of_tensors(
    function: Callable[..., Any], left: list[int], right: list[int], left_dtype: torch.dtype, right_dtype: torch.dtype
) -> None:
    if torch.bool in (left_dtype, right_dtype) and function in SUBTRACTIONS:
        return  # meta tensors allow differences that every kernel refuses: see test_bool_is_not_subtracted
    assert_shape_matches(function, torch.empty(left, dtype=left_dtype), torch.empty(right, dtype=right_dtype))


@given(st.sampled_from(BINARY), shapes, st.sampled_from(DTYPES), st.sampled_from([2, 0, 2.5]), st.booleans())
def test_shape_with_a_number(
    function: Callable[..., Any], shape: list[int], dtype: torch.dtype, number: float, first: bool
) -> None:
    x = torch.empty(shape, dtype=dtype)
    reflected = function in BINARY[:7] and first
    assert_shape_matches((lambda x: function(number, x)) if reflected else (lambda x: function(x, number)), x)


@pytest.mark.parametrize(
    "call",
    [
        lambda b, i: b - b,
        lambda b, i: b - i,
        lambda b, i: i - b,
        lambda b, i: b - 1,
        lambda b, i: 1 - b,
        lambda b, i: i - True,
        lambda b, i: torch.add(i, i, alpha=1.5),
        lambda b, i: torch.add(i, i, alpha=True),
        lambda b, i: i**-1,
        lambda b, i: torch.div(i, i, rounding_mode="up"),
        lambda b, i: torch.addcdiv(i, i, i),
        lambda b, i: torch.lerp(i.float(), i.double(), 0.5),
        lambda b, i: i.add_(1.5),
        lambda b, i: i.div_(2),
        lambda b, i: i.add_(torch.ones(3, 2)),
        lambda b, i: i + "1",
    ],
)
def test_refusals(call: Callable[..., Any]) -> None:
    b, i = torch.tensor([True, False]), torch.tensor([1, 2])
    with pytest.raises((RuntimeError, TypeError)):
        call(b.clone(), i.clone())
    with pytest.raises(ShapeError):
        propagated(call, b, i)


# Values: signs differ, quotients are inexact, and 1.0 // 0.1 is 9.
LEFT = torch.tensor([[7.0, -7.0, 1.0], [-0.3, 6.0, 5.5]])
RIGHT = torch.tensor([[2.0, 2.0, 0.1], [0.1, -3.0, -1.5]])


@pytest.mark.parametrize("function", BINARY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.int32, torch.int8])
def test_lowering_of_tensors(function: Callable[..., Any], dtype: torch.dtype) -> None:
    left, right = LEFT, RIGHT
    if not dtype.is_floating_point:
        left, right = torch.tensor([[7, -7, 9], [-1, 6, 0]]), torch.tensor([[2, 2, 4], [2, 3, 5]])
    if function in POWERS:
        left = left.abs()
    assert_lowering_matches(function, left.to(dtype), right.to(dtype))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8])
@pytest.mark.parametrize(
    "function",
    [operator.floordiv, operator.mod, torch.fmod, lambda x, y: torch.div(x, y, rounding_mode="trunc")],
)
def test_division_of_negative_integers(function: Callable[..., Any], dtype: torch.dtype) -> None:
    left = torch.tensor([7, -7, 7, -7, 6, -6], dtype=dtype)
    assert_lowering_matches(function, left, torch.tensor([2, 2, -2, -2, -3, 3], dtype=dtype))


@pytest.mark.parametrize("number", [2, -3, 0.5, -1.0, 0.1])
@pytest.mark.parametrize(
    "function",
    [
        lambda x, n: x + n,
        lambda x, n: n - x,
        lambda x, n: x * n,
        lambda x, n: n / x,
        lambda x, n: x // n,
        lambda x, n: n // x,
        lambda x, n: x % n,
        lambda x, n: n % x,
        lambda x, n: torch.fmod(x, n),
        lambda x, n: x.abs() ** n,
        lambda x, n: torch.rsub(x, n, alpha=2),
        lambda x, n: x.sub(n, alpha=3).add_(n),
    ],
)
@pytest.mark.parametrize("opset", [13, 23])
def test_lowering_with_a_number(function: Callable[..., Any], number: float, opset: int) -> None:
    assert_lowering_matches(lambda x: function(x, number), LEFT, opset=opset)


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
@pytest.mark.parametrize("function", [operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod])
def test_small_integers_wrap(function: Callable[..., Any], dtype: torch.dtype, opset: int) -> None:
    left = torch.tensor([100, 3, 255 if dtype == torch.uint8 else -100], dtype=dtype)
    assert_lowering_matches(function, left, torch.tensor([100, 7, 9], dtype=dtype), opset=opset)
    assert_lowering_matches(lambda x: x + 300, left, opset=opset)


def test_bool() -> None:
    left, right = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    for function in (operator.add, operator.mul, lambda x, y: x / (y + 1)):
        assert_lowering_matches(function, left, right)
    with pytest.raises(UnsupportedOpError, match="torch itself"):
        called = Call(lambda x, y: torch.remainder(x, y).float())
        tracer.convert(called, (left, right), route="direct", verify=False)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 0.5, -1, -0.5, 1.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
def test_powers(exponent: float, dtype: torch.dtype) -> None:
    if exponent == -1 and not dtype.is_floating_point:
        exponent = 4
    assert_lowering_matches(lambda x: x**exponent, torch.tensor([1, 2, 3]).to(dtype))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y, z: torch.add(x, y, alpha=2.5),
        lambda x, y, z: x.sub_(y, alpha=2),
        lambda x, y, z: torch.addcmul(x, y, z, value=0.5),
        lambda x, y, z: x.addcdiv_(y, z, value=-2),
        lambda x, y, z: torch.lerp(x, y, 0.3),
        lambda x, y, z: torch.lerp(x, y, z),
        lambda x, y, z: torch.hypot(x, y),
        lambda x, y, z: torch.logaddexp(x, y),
        lambda x, y, z: torch.logaddexp2(x, y),
        lambda x, y, z: x.logaddexp2(y[0]),
        lambda x, y, z: x.__add__(y).__rsub__(z),
        lambda x, y, z: x.mul_(y).div_(z),
        lambda x, y, z: x.floor_divide_(z),
        lambda x, y, z: torch.special.xlogy(x, z),
        lambda x, y, z: torch.xlogy(x * 0, z),
        lambda x, y, z: torch.pow(z, y),
        lambda x, y, z: torch.remainder(x, z),
        lambda x, y, z: torch.float_power(z, x),
        lambda x, y, z: sum([x, y, z]),
    ],
)
def test_lowering_of_several(function: Callable[..., Any]) -> None:
    x, y, z = torch.randn(2, 3), torch.randn(2, 3), torch.rand(2, 3) + 0.5
    assert_shape_matches(function, x, y, z)
    assert_lowering_matches(function, x, y, z)


@pytest.mark.parametrize("function", [torch.logaddexp, torch.logaddexp2])
def test_sums_of_powers_at_their_ends(function: Callable[..., Any]) -> None:
    ends = torch.tensor([-torch.inf, -1e30, 0.0, 1e30, torch.inf])
    assert_lowering_matches(function, ends[:, None], ends)


@pytest.mark.parametrize("left", DTYPES)
@pytest.mark.parametrize("right", DTYPES)
def test_promotion_in_onnx(left: torch.dtype, right: torch.dtype) -> None:
    x, y = torch.tensor([[1, 2], [3, 4]]).to(left), torch.tensor([2, 5]).to(right)
    assert_lowering_matches(lambda x, y: x * y, x, y)


def test_in_place_keeps_shape_and_dtype() -> None:
    x, y = torch.randn(2, 3), torch.randn(3, dtype=torch.float64)
    assert_shape_matches(lambda x, y: x.add_(y), x, y)
    assert_lowering_matches(lambda x, y: x.add_(y).mul_(2.5), x, y)


def test_dynamic_sizes() -> None:
    """A size takes part as a number, and a dynamic axis broadcasts."""
    x, longer = torch.randn(2, 3), torch.randn(5, 3)
    dynamic = {0: {0: "N"}}
    assert_lowering_matches(lambda x: x / x.shape[0] + x.size(0) * 2, x, dynamic=dynamic, also=(longer,))
    assert_lowering_matches(lambda x: x.shape[0] - x % x.shape[1], x, dynamic=dynamic, also=(longer,))
    assert_lowering_matches(lambda x: (x + x[:1]) * x[:, :1], x, dynamic=dynamic, also=(longer,))
    assert_lowering_matches(lambda x: (x // x.shape[0]) ** x.shape[0], x, dynamic=dynamic, also=(longer,))


def test_what_changes_nothing_is_removed() -> None:
    model = assert_lowering_matches(lambda x: (((x + 0) * 1) / 1 - 0) ** 1 * 2, torch.randn(3))
    assert [node.op_type for node in model.graph.node] == ["Mul"]


def test_fewest_nodes() -> None:
    def nodes(function: Callable[..., Any]) -> list[str]:
        return [node.op_type for node in assert_lowering_matches(function, torch.rand(3) + 1).graph.node]

    assert nodes(lambda x: x**0.5) == ["Sqrt"]
    assert nodes(lambda x: x**2) == ["Mul"]
    assert nodes(lambda x: x**3) == ["Pow"]
    assert nodes(lambda x: x // 2) == ["Div", "Floor", "Sub", "Add"]
    assert nodes(lambda x: 2 - x) == ["Sub"]
