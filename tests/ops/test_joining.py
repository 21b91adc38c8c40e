"""Joining and splitting against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.program.notes import VALUE
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated
from tracer import spec

sizes = st.integers(0, 3)
shapes = st.lists(sizes, max_size=3)
axes = st.integers(-4, 3)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool])
Function = Callable[..., Any]


@given(shape=shapes, other=shapes, dim=axes, dtype=dtypes)
def test_joining_unrelated_shapes(shape: list[int], other: list[int], dim: int, dtype: torch.dtype) -> None:
    x, y = torch.empty(shape), torch.empty(other, dtype=dtype)
    for function in (
        lambda x, y: torch.cat((x, y), dim),
        lambda x, y: torch.stack([x, y], dim),
        lambda x, y: torch.hstack((x, y)),
        lambda x, y: torch.vstack((x, y)),
        lambda x, y: torch.dstack((x, y)),
        lambda x, y: torch.column_stack((x, y)),
    ):
        assert_shape_matches(function, x, y)


@given(shape=shapes, dim=axes, length=sizes, dtype=dtypes)
def test_joining_shapes_that_fit(shape: list[int], dim: int, length: int, dtype: torch.dtype) -> None:
    other = list(shape)
    if shape:
        other[dim % len(shape)] = length
    x, y = torch.empty(shape), torch.empty(other, dtype=dtype)
    assert_shape_matches(lambda x, y: torch.concat([x, y, x], dim=dim), x, y)
    assert_shape_matches(lambda x, y: torch.concatenate((x, y), axis=dim), x, y)
    assert_shape_matches(lambda x, y: torch.stack((x, x.to(y.dtype)), dim), x, y)


@given(lengths=st.lists(sizes, min_size=1, max_size=3), indexing=st.sampled_from(["ij", "xy"]))
def test_meshgrid_shape(lengths: list[int], indexing: str) -> None:
    assert_shape_matches(lambda *t: torch.meshgrid(*t, indexing=indexing), *map(torch.empty, lengths))


@given(shape=st.lists(st.integers(0, 7), max_size=3), count=st.integers(-1, 8), dim=axes)
def test_equal_pieces_shape(shape: list[int], count: int, dim: int) -> None:
    x = torch.empty(shape)
    for function in (
        lambda x: x.split(count, dim),
        lambda x: torch.split(x, count, dim=dim),
        lambda x: x.chunk(count, dim),
        lambda x: torch.chunk(x, count, dim=dim),
        lambda x: x.tensor_split(count, dim),
        lambda x: x.hsplit(count),
        lambda x: torch.vsplit(x, count),
        lambda x: torch.dsplit(x, count),
        lambda x: x.unbind(dim),
        lambda x: torch.unbind(x, dim),
    ):
        assert_shape_matches(function, x)


@given(size=st.integers(0, 7), pieces=st.lists(st.integers(-1, 4), min_size=1, max_size=3))
def test_listed_pieces_shape(size: int, pieces: list[int]) -> None:
    x = torch.empty(2, size)
    assert_shape_matches(lambda x: x.split(pieces, 1), x)
    assert_shape_matches(lambda x: x.split([*pieces, size - sum(pieces)], -1), x)
    assert_shape_matches(lambda x: x.tensor_split(pieces, 1), x)
    assert_shape_matches(lambda x: torch.hsplit(x, pieces), x)


JOININGS: dict[str, Function] = {
    "cat": lambda x: torch.cat([x, x * 2, x], dim=1),
    "cat from the back": lambda x: torch.cat((x, x), -1),
    "cat one": lambda x: torch.cat((x,)),
    "cat dtypes": lambda x: torch.cat((x, x.to(torch.int64)), 1),
    "cat unlike lengths": lambda x: torch.cat((x, x.repeat(1, 2, 1)), 1),
    "stack": lambda x: torch.stack((x, x + 1), dim=-1),
    "stack first": lambda x: torch.stack([x, x]),
    "hstack": lambda x: torch.hstack((x, x)),
    "hstack vectors": lambda x: torch.hstack((x.flatten(), x.flatten())),
    "vstack": lambda x: torch.vstack((x.flatten(), x.flatten())),
    "dstack": lambda x: torch.dstack((x.flatten(1), x.flatten(1))),
    "dstack vectors": lambda x: torch.dstack((x.flatten(), x.flatten())),
    "column_stack": lambda x: torch.column_stack((x.flatten(), x.flatten())),
    "meshgrid": lambda x: torch.meshgrid(x.flatten(), x[0, 0], indexing="ij"),
    "meshgrid xy": lambda x: torch.meshgrid(x.flatten(), x[0, 0], indexing="xy"),
    "chunk": lambda x: x.chunk(2, dim=2),
    "chunk uneven": lambda x: x.repeat(1, 1, 2).chunk(3, -1),
    "split": lambda x: torch.split(x, 3, 2),
    "split whole": lambda x: x.split(4, 2),
    "split in two": lambda x: x.split((1, 3), dim=2),
    "split the batch": lambda x: x.split([1, x.shape[0] - 1]),
    "tensor_split": lambda x: x.tensor_split(3, 2),
    "tensor_split at": lambda x: x.tensor_split((1, -1), 2),
    "tensor_split backwards": lambda x: x.tensor_split((3, 1), 2),
    "hsplit": lambda x: x.transpose(1, 2).hsplit(2),
    "unbind": lambda x: x.unbind(-1),
    "unbind one": lambda x: x[..., :1].unbind(2),
    "gate": lambda x: (lambda a, b: a * b)(*x.chunk(2, -1)),
}


@pytest.mark.parametrize("name", JOININGS)
def test_lowering(name: str) -> None:
    assert_lowering_matches(JOININGS[name], torch.randn(2, 3, 4))


@pytest.mark.parametrize("name", JOININGS)
def test_lowering_with_dynamic_axes(name: str) -> None:
    x, other = torch.randn(2, 3, 4), torch.randn(6, 7, 4)
    assert_lowering_matches(JOININGS[name], x, dynamic={0: {0: "N", 1: "T"}}, also=(other,))


@pytest.mark.parametrize("opset", [13, 18, 23])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.int32, torch.bool, torch.uint8])
def test_lowering_keeps_the_dtype(dtype: torch.dtype, opset: int) -> None:
    x = (torch.rand(2, 3, 4) * 5).to(dtype)

    def regroup(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, 2)
        return torch.stack([torch.cat((b, a), 1), torch.cat((*a.split((1, 2), 1), b), 1)])

    assert_lowering_matches(regroup, x, dynamic={0: {0: "N"}}, opset=opset)


def test_a_dynamic_axis_in_halves() -> None:
    halves = VALUE.of(propagated(lambda x: x.transpose(0, 1).chunk(2, 0), spec("N", 6)).output())
    assert [str(half.shape) for half in halves] == ["(3, Dim(N))", "(3, Dim(N))"]
    x = torch.randn(8, 4)
    assert_lowering_matches(lambda x: x.chunk(2), x, dynamic={0: {0: "N"}}, also=(torch.randn(7, 4),))


def test_tuples_of_pieces_are_joined_by_plus() -> None:
    assert_lowering_matches(lambda x: torch.cat(x.split(1) + x.split(1)[::-1], 1), torch.randn(2, 3))
