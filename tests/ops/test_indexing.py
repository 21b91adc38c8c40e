"""Subscripts and positions against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tracer
from passes.errors import ShapeError
from tests.ops.oracle import as_module, assert_lowering_matches, assert_shape_matches, propagated

bounds = st.none() | st.integers(-5, 5)
slices = st.builds(slice, bounds, bounds, st.none() | st.integers(1, 3))
basic = st.integers(-3, 2) | slices | st.none() | st.just(...)
picks = st.lists(st.integers(0, 1), min_size=1, max_size=2)
shapes = st.lists(st.integers(0, 4), max_size=4)
axes = st.integers(-4, 3)
small = st.integers(-2, 4)
Function = Callable[..., Any]


def with_one_ellipsis(index: list[Any]) -> bool:
    """numpy refuses a second ellipsis, torch reads it in a way of its own."""
    return index.count(...) <= 1


ALL = slice(None)


@given(shape=shapes, index=st.lists(basic, max_size=5).filter(with_one_ellipsis))
def test_basic_subscript_shape(shape: list[int], index: list[Any]) -> None:
    assert_shape_matches(lambda x: x[tuple(index)], torch.empty(shape))


@given(index=st.lists(basic | picks, max_size=4).filter(with_one_ellipsis), data=st.data())
def test_subscript_with_lists_shape(index: list[Any], data: st.DataObject) -> None:
    assert_shape_matches(lambda x: x[tuple(index)], torch.empty(3, 4, 3, 4))


@given(
    index=st.lists(st.sampled_from([ALL, None, 0, "a", "b"]), max_size=4),
    a=st.lists(st.integers(0, 2), max_size=3),
    b=st.lists(st.integers(0, 2), max_size=3),
    dtype=st.sampled_from([torch.int64, torch.int32, torch.float32]),
)
def test_subscript_with_tensors_shape(index: list[Any], a: list[int], b: list[int], dtype: torch.dtype) -> None:
    def pick(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        named = {"a": a, "b": b}
        return x[tuple(named[entry] if isinstance(entry, str) else entry for entry in index)]

    tensors = [torch.zeros(shape or [1], dtype=dtype) for shape in (a, b)]
    assert_shape_matches(pick, torch.empty(3, 4, 2), *tensors)


@given(index=st.lists(basic, max_size=4).filter(with_one_ellipsis), value=st.lists(st.integers(1, 4), max_size=4))
def test_assignment_shape(index: list[Any], value: list[int]) -> None:
    def assign(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[tuple(index)] = value
        return x

    assert_shape_matches(assign, torch.empty(2, 3, 4), torch.empty(value))


@given(index=st.lists(basic | picks, max_size=3).filter(with_one_ellipsis))
def test_assignment_to_lists_shape(index: list[Any]) -> None:
    """On the meta device torch itself does not look at what is assigned to index tensors."""

    def assign(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[tuple(index)] = x[tuple(index)][None]
        return x

    assert_shape_matches(assign, torch.empty(2, 3, 4))


@given(shape=shapes, dim=axes, start=small, length=small, step=small)
def test_part_of_an_axis_shape(shape: list[int], dim: int, start: int, length: int, step: int) -> None:
    x = torch.empty(shape)
    assert_shape_matches(lambda x: x.narrow(dim, start, length), x)
    assert_shape_matches(lambda x: torch.select(x, dim, start), x)
    assert_shape_matches(lambda x: x.unfold(dim, length, step), x)
    assert_shape_matches(lambda x: torch.diagonal(x, start, dim, length), x)
    assert_shape_matches(lambda x: x.tril(start), x)
    assert_shape_matches(lambda x: torch.triu(x, diagonal=start), x)


@given(shape=shapes, index=shapes, dim=axes, dtype=st.sampled_from([torch.int64, torch.int32, torch.float32]))
def test_gather_shape(shape: list[int], index: list[int], dim: int, dtype: torch.dtype) -> None:
    x, i = torch.empty(shape), torch.zeros(index, dtype=dtype)
    assert_shape_matches(lambda x, i: x.gather(dim, i), x, i)
    if shape and len(index) < 2 and dtype != torch.float32:
        assert_shape_matches(lambda x, i: torch.index_select(x, dim, i), x, i)
    assert_shape_matches(lambda x, i: torch.take_along_dim(x, i, dim), x, i)


@given(data=st.data(), ndim=st.integers(0, 3), dim=axes, dtype=st.sampled_from([torch.float32, torch.int64]))
def test_scatter_shape(data: st.DataObject, ndim: int, dim: int, dtype: torch.dtype) -> None:
    near = st.lists(st.integers(1, 4), min_size=ndim, max_size=ndim)
    shape, index, source = data.draw(near), data.draw(near), data.draw(near)
    x, i, y = torch.empty(shape), torch.zeros(index, dtype=torch.int64), torch.empty(source, dtype=dtype)
    for function in (
        lambda x, i, y: x.scatter(dim, i, y),
        lambda x, i, y: torch.scatter(x, dim, i, 1.0),
        lambda x, i, y: x.scatter(dim, i, y, reduce="add"),
        lambda x, i, y: x.scatter_add(dim, i, y),
        lambda x, i, y: x.scatter_reduce(dim, i, y, "amax"),
    ):
        assert_shape_matches(function, x, i, y)


SUBSCRIPTS: dict[str, Any] = {
    "number": 0,
    "last": (ALL, -1),
    "numbers": (0, 1, -2),
    "slices": (slice(1, None), slice(None, None, 2), None, slice(1, -1)),
    "ellipsis": (..., 0),
    "new axes": (None, ..., None),
    "from the back": (ALL, slice(-2, None)),
    "beyond the end": (ALL, slice(1, 2**40), slice(-9, 9)),
    "list": (ALL, [2, 0, -1]),
    "pairs": ([0, 1], [1, 2]),
    "pairs apart": ([0, 1], ALL, [1, 2]),
    "pairs inside": (ALL, [[0], [1]], [1, 2, 3]),
    "number and list": (0, ALL, [1, 2]),
    "new axis and grid": (ALL, None, [[0, 1], [1, 0]], 2),
}


@pytest.mark.parametrize("name", SUBSCRIPTS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_subscript_lowering(name: str, dynamic: bool) -> None:
    assert_lowering_matches(
        lambda x: x[SUBSCRIPTS[name]],
        torch.randn(2, 3, 4),
        dynamic={0: {0: "N", 1: "T"}} if dynamic else None,
        also=(torch.randn(6, 7, 4),) if dynamic else None,
    )


@pytest.mark.parametrize("name", SUBSCRIPTS)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("broadcast", [False, True])
def test_assignment_lowering(name: str, dynamic: bool, broadcast: bool) -> None:
    def assign(x: torch.Tensor) -> torch.Tensor:
        y = x.flip(0)
        y[SUBSCRIPTS[name]] = 7 if broadcast else x[SUBSCRIPTS[name]]
        return y

    assert_lowering_matches(
        assign,
        torch.randn(2, 3, 4),
        dynamic={0: {0: "N", 1: "T"}} if dynamic else None,
        also=(torch.randn(6, 7, 4),) if dynamic else None,
    )


def _assign(index: Callable[[torch.Tensor], Any], value: Callable[[torch.Tensor], Any]) -> Function:
    def assign(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[index(x)] = value(x)
        return y

    return assign


LOWERINGS: dict[str, Function] = {
    "half of the sizes": lambda x: x[:, : x.shape[1] // 2],
    "last by size": lambda x: x[x.shape[0] - 1],
    "flags": lambda x: x[:, :, [True, False, True, False]],
    "assigned row": _assign(lambda x: (ALL, 0), lambda x: x[:, 1]),
    "assigned broadcast": _assign(lambda x: (ALL, slice(0, 2)), lambda x: x[:1, 1:2]),
    "assigned steps": _assign(lambda x: (ALL, slice(1, None, 2)), lambda x: x[:, :1]),
    "assigned new axis": _assign(lambda x: (ALL, None, slice(0, 1)), lambda x: 4.0),
    "masked": _assign(lambda x: x.bool(), lambda x: 0.0),
    "masked rows": _assign(lambda x: x[:, :, 0].round().bool(), lambda x: x[0, 0]),
    "masked after a point": _assign(lambda x: (0, x[0].bool()), lambda x: 2),
    "select": lambda x: x.select(1, -1),
    "narrow": lambda x: x.narrow(-1, 1, 2),
    "narrow from the back": lambda x: torch.narrow(x, 1, -2, 2),
    "unfold": lambda x: x.unfold(2, 2, 1),
    "unfold dynamic": lambda x: x.unfold(1, 2, 1),
    "tril": lambda x: x.tril(),
    "triu": lambda x: torch.triu(x, diagonal=1),
    "diagonal": lambda x: x[:2, :2].diagonal(dim1=1, dim2=2),
    "diagonal off": lambda x: x.diagonal(-1, 2, 0)[..., :1],
    "diag": lambda x: torch.diag(x[0, :2], 1),
    "index_fill": lambda x: x.index_fill(2, torch.tensor([0, 2]), -1.0),
    "index_select": lambda x: x.index_select(-1, torch.tensor([3, 0, 0])),
    "index_copy": lambda x: x.index_copy(2, torch.tensor([3, 1]), x[:, :, :2]),
    "index_add": lambda x: x.index_add(2, torch.tensor([1, 1]), x[:, :, :2], alpha=2),
    "gather": lambda x: x.gather(2, x[:, :, :2].abs().long() % 4),
    "take_along_dim": lambda x: torch.take_along_dim(x, x[:1].abs().long() % 4, dim=2),
    "scatter": lambda x: x.scatter(2, torch.zeros_like(x[..., :1]).long(), x[..., 1:3]),
    "scatter number": lambda x: torch.scatter(x, -1, torch.zeros_like(x[..., :1]).long(), 3.5),
    "scatter_add": lambda x: x.scatter_add(2, torch.zeros_like(x).long(), x),
    "scatter multiply": lambda x: x.scatter(2, torch.zeros_like(x[..., :2]).long(), 2.0, reduce="multiply"),
    "scatter_reduce": lambda x: x.scatter_reduce(2, torch.zeros_like(x).long(), x, "amax", include_self=False),
}


@pytest.mark.parametrize("name", LOWERINGS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_lowering(name: str, dynamic: bool) -> None:
    assert_lowering_matches(
        LOWERINGS[name],
        torch.randn(2, 3, 4),
        dynamic={0: {0: "N", 1: "T"}} if dynamic else None,
        also=(torch.randn(6, 7, 4),) if dynamic else None,
    )


@pytest.mark.parametrize("name", ["index_add", "scatter_add", "scatter multiply", "scatter_reduce"])
def test_reductions_of_two_byte_numbers(name: str) -> None:
    x = torch.randn(2, 3, 4)
    assert_lowering_matches(LOWERINGS[name], x.half(), rtol=2e-3, atol=2e-3)
    assert tracer.convert(as_module(LOWERINGS[name]), x.bfloat16(), route="direct").verification is not None


@pytest.mark.parametrize("opset", [13, 17, 18, 23])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.int32, torch.bool, torch.uint8])
def test_lowering_keeps_the_dtype(dtype: torch.dtype, opset: int) -> None:
    def mix(x: torch.Tensor) -> torch.Tensor:
        y = x[:, 1:, ::2].clone()
        y[:, 0] = x[:, 0, [0, 1]]
        return y.tril(1)

    assert_lowering_matches(mix, (torch.rand(2, 3, 4) * 5).to(dtype), dynamic={0: {0: "N", 1: "T"}}, opset=opset)


def test_tensors_as_indices() -> None:
    x, i, j = torch.randn(3, 4, 5), torch.tensor([0, 2]), torch.tensor([[1], [3]])
    point = torch.tensor(1)
    assert_lowering_matches(lambda x, i, j: x[i, :, j], x, i, j, dynamic={1: {0: "K"}})
    assert_lowering_matches(lambda x, i, j: x[:, i, j.int()], x, i, j)
    assert_lowering_matches(lambda x, p: x[:, p], x, point)

    def put(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[p] = 0
        y[:, p, 1:3] = x[:, p, :2]
        return y

    assert_lowering_matches(put, x, point)


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ShapeError, match="index 3 is out of range for axis 1 of size 3"):
        propagated(lambda x: x[:, 3], torch.empty(2, 3))
    with pytest.raises(ShapeError, match=r"a mask \[3\] does not fit the axes \[2\]"):
        propagated(lambda x, mask: x[mask], torch.empty(2, 3), torch.ones(3, dtype=torch.bool))
