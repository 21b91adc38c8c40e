"""Promotion and broadcasting against torch's own answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.errors import ShapeError
from passes.ops.promotion import broadcast_shapes, float_dtype, result_dtype
from passes.sizes.dimension import Dim
from passes.sizes.guards import GuardLog
from passes.values.spec import TensorSpec

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
)
specs = st.builds(TensorSpec, st.sampled_from([(), (2,), (2, 3)]), st.sampled_from(DTYPES))
numbers = st.sampled_from([True, 3, 2.5])


def tensor(operand: Any) -> Any:
    return operand.meta_tensor() if isinstance(operand, TensorSpec) else operand


@given(specs | numbers, specs | numbers)
def test_result_dtype_of_two(left: Any, right: Any) -> None:
    assert result_dtype(left, right) == torch.result_type(tensor(left), tensor(right))


@pytest.mark.parametrize("dtype", DTYPES)
def test_float_dtype(dtype: torch.dtype) -> None:
    assert float_dtype(dtype) == torch.true_divide(torch.ones(2, dtype=dtype), torch.ones(2, dtype=dtype)).dtype


@given(specs, numbers)
def test_default_dtype_counts_for_python_floats(left: TensorSpec, number: Any) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert result_dtype(left, number) == torch.result_type(tensor(left), number)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_dynamic_size_counts_as_an_integer() -> None:
    n = Dim.symbol("N", 4, GuardLog())
    assert result_dtype(TensorSpec((2,), torch.bool), n) == torch.int64
    assert result_dtype(TensorSpec((2,), torch.float16), n) == torch.float16


shapes = st.lists(st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=4), min_size=1, max_size=3)


@given(shapes)
def test_broadcast_shapes(given_shapes: list[list[int]]) -> None:
    try:
        expected = torch.broadcast_shapes(*given_shapes)
    except RuntimeError:
        with pytest.raises(ShapeError):
            broadcast_shapes(*given_shapes)
    else:
        assert broadcast_shapes(*given_shapes) == tuple(expected)


def test_equal_formulas_ask_nothing() -> None:
    log = GuardLog()
    n = Dim.symbol("N", 4, log)
    assert broadcast_shapes((n, 3), (1, 3), (n + 1 - 1, 1)) == (n, 3)
    assert not log.guards


def test_a_formula_against_a_number_is_guarded() -> None:
    log = GuardLog()
    n = Dim.symbol("N", 4, log)
    assert broadcast_shapes((n,), (4,)) == (4,)
    assert [guard.condition for guard in log.guards] == ["N == 4"]


def test_a_formula_that_is_one_is_guarded_once() -> None:
    log = GuardLog()
    n = Dim.symbol("N", 3, log)
    assert broadcast_shapes((n // 2,), (5,)) == (5,)
    assert len(log.guards) == 1


def test_message_names_both_shapes_and_the_axis() -> None:
    with pytest.raises(ShapeError, match=r"\[2, 3\] and \[4\] .* axis -1 .* 3 and 4"):
        broadcast_shapes((2, 3), (4,))
