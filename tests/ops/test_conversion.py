"""Dtype conversion and questions about sizes against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.ops.conversion import DTYPE_METHODS
from passes.ops.op import METHODS
from passes.program.notes import VALUE
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated
from tracer import spec

REAL = [dtype for dtype in DTYPE_METHODS.values() if not dtype.is_complex and dtype != torch.bfloat16]
dtypes = st.sampled_from(list(DTYPE_METHODS.values()))
Function = Callable[..., Any]


@given(shape=st.lists(st.integers(0, 3), max_size=3), source=dtypes, target=dtypes)
def test_shape(shape: list[int], source: torch.dtype, target: torch.dtype) -> None:
    x, other = torch.empty(shape, dtype=source), torch.empty(2, dtype=target)
    for function in (
        lambda x, y: x.to(target),
        lambda x, y: x.to(dtype=target, copy=True),
        lambda x, y: x.to("cpu" if x.device.type == "cpu" else "meta", target, non_blocking=True),
        lambda x, y: x.to(y),
        lambda x, y: x.to(tensor=y),
        lambda x, y: x.to(y.dtype),
        lambda x, y: x.type_as(y),
        lambda x, y: x.type(target),
    ):
        assert_shape_matches(function, x, other)


@pytest.mark.parametrize("method", DTYPE_METHODS)
def test_methods_named_by_dtype(method: str) -> None:
    assert_shape_matches(lambda x: getattr(x, method)(), torch.empty(2, 3))
    assert METHODS[method][0].name == "to"


@pytest.mark.parametrize("source", REAL)
@pytest.mark.parametrize("target", REAL)
def test_lowering(source: torch.dtype, target: torch.dtype) -> None:
    x = torch.tensor([0.0, 1.0, 2.75, 100.0]).to(source)
    assert_lowering_matches(lambda x: (x.to(target), x.flip(0).type_as(x)), x)


def test_the_same_dtype_is_no_node() -> None:
    model = assert_lowering_matches(lambda x: x.float().to(x.dtype).cpu().flip(0), torch.randn(3))
    assert [node.op_type for node in model.graph.node] == ["Slice"]


SIZES: dict[str, Function] = {
    "product": lambda x: x.reshape(x.shape[0] * x.shape[1], -1),
    "numel": lambda x: x.reshape(x.numel() // x.size(2), x.size(2)),
    "size of an axis": lambda x: x.view(x.size(0), -1),
    "size from the back": lambda x: x.reshape(-1, x.size(-2), 2),
    "whole size": lambda x: x.flip(0).reshape(x.size()),
    "shape without the last": lambda x: x.reshape(*x.shape[:-1], 2, 2),
    "remainder": lambda x: x[:, : x.shape[1] - x.shape[1] % 2],
    "number of axes": lambda x: x.flatten(x.dim() - 2),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_in_the_forward(name: str) -> None:
    x, other = torch.randn(2, 3, 4), torch.randn(6, 7, 4)
    assert_shape_matches(SIZES[name], x)
    assert_lowering_matches(SIZES[name], x, dynamic={0: {0: "N", 1: "T"}}, also=(other,))


def test_arithmetic_on_sizes_is_no_tensor_arithmetic() -> None:
    program = propagated(lambda x: x.reshape(x.shape[0] * x.shape[1] // 2, -1), spec("N", 6, 4, 2))
    values = [str(VALUE.of(node)) for node in program.graph.nodes if not hasattr(VALUE.of(node), "dtype")]
    assert values[0] == "N"


def test_assertions_on_data_are_dropped() -> None:
    def checked(x: torch.Tensor, flag: torch.Tensor) -> torch.Tensor:
        torch._assert(flag, "the flag is set")
        torch._assert((x < 100).all(), "small numbers")
        torch._assert_async(flag)
        return x.flip(0)

    model = assert_lowering_matches(checked, torch.randn(2), torch.tensor(True))
    assert [node.op_type for node in model.graph.node] == ["Slice"]
