"""Shapes and orders of axes against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from passes.program.notes import VALUE
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

sizes = st.integers(1, 4)
shapes = st.lists(sizes, max_size=4)
axes = st.integers(-5, 4)
Function = Callable[..., Any]


@given(shape=shapes, target=st.lists(st.integers(-2, 6), max_size=4))
def test_reshape_shape(shape: list[int], target: list[int]) -> None:
    x = torch.empty(shape)
    assert_shape_matches(lambda x: x.reshape(target), x)
    assert_shape_matches(lambda x: x.view(*target) if target else x.view([]), x)


@given(shape=shapes, cut=st.integers(0, 4), data=st.data())
def test_reshape_to_regrouped_sizes(shape: list[int], cut: int, data: st.DataObject) -> None:
    regrouped = [*shape[:cut], -1, *shape[cut + 1 :]]
    assert_shape_matches(lambda x: torch.reshape(x, regrouped), torch.empty(shape))


@given(shape=shapes, start=axes, end=axes)
def test_flatten_shape(shape: list[int], start: int, end: int) -> None:
    x = torch.empty(shape)
    assert_shape_matches(lambda x: x.flatten(start, end), x)
    assert_shape_matches(nn.Flatten(start, end), x)


@given(shape=shapes, dim=axes, target=st.lists(st.integers(-1, 4), max_size=3))
def test_unflatten_shape(shape: list[int], dim: int, target: list[int]) -> None:
    assert_shape_matches(lambda x: x.unflatten(dim, target), torch.empty(shape))


@given(shape=shapes, first=axes, second=axes)
def test_axis_order_shape(shape: list[int], first: int, second: int) -> None:
    x = torch.empty(shape)
    functions: list[Function] = [
        lambda x: x.transpose(first, second),
        lambda x: torch.swapaxes(x, axis0=first, axis1=second),
        lambda x: x.movedim(first, second),
        lambda x: torch.movedim(x, (first, 0), (second, -1)),
        lambda x: x.squeeze(first),
        lambda x: x.squeeze((first, second)),
        lambda x: x.unsqueeze(first),
        lambda x: x.t(),
        lambda x: x.flip(first, second),
        lambda x: x.fliplr(),
        lambda x: torch.flipud(x),
        lambda x: torch.rot90(x, 1, (first, second)),
        lambda x: x.roll(2, first),
        lambda x: x.roll((1, 2), (first, second)),
        lambda x: x.roll((1, 2), first),
        lambda x: x.squeeze(),
        lambda x: x.ravel(),
    ]
    for function in functions:
        assert_shape_matches(function, x)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4)])
def test_attribute_shape(shape: tuple[int, ...]) -> None:
    for function in (lambda x: x.mT, lambda x: x.mH, lambda x: x.H, lambda x: x.adjoint(), lambda x: x.data.real):
        assert_shape_matches(function, torch.empty(shape))


@given(shape=shapes, order=st.lists(axes, max_size=4))
def test_permute_shape(shape: list[int], order: list[int]) -> None:
    assert_shape_matches(lambda x: x.permute(order), torch.empty(shape))


@given(data=st.data(), ndim=st.integers(1, 4))
def test_valid_permutation_shape(data: st.DataObject, ndim: int) -> None:
    order = data.draw(st.permutations(range(ndim)))
    assert_shape_matches(lambda x: torch.permute(x, dims=tuple(order)), torch.empty([2, 3, 4, 5][:ndim]))


@given(shape=shapes, target=st.lists(st.sampled_from([-2, -1, 1, 2, 3, 4]), max_size=4))
def test_expand_and_repeat_shape(shape: list[int], target: list[int]) -> None:
    x = torch.empty(shape)
    for function in (
        lambda x: x.expand(target),
        lambda x: torch.broadcast_to(x, target),
        lambda x: x.repeat(target),
        lambda x: x.tile(target),
        lambda x: torch.tile(x, target),
    ):
        assert_shape_matches(function, x)


@given(shape=shapes, other=shapes)
def test_as_other_shape(shape: list[int], other: list[int]) -> None:
    x, y = torch.empty(shape), torch.empty(other)
    assert_shape_matches(lambda x, y: x.expand_as(y), x, y)
    assert_shape_matches(lambda x, y: x.view_as(y), x, y)
    assert_shape_matches(lambda x, y: x.reshape_as(y), x, y)
    assert_shape_matches(lambda x, y: torch.broadcast_tensors(x, y), x, y)


@given(shape=shapes, repeats=st.integers(-1, 3), dim=st.none() | axes)
def test_repeat_interleave_shape(shape: list[int], repeats: int, dim: int | None) -> None:
    assert_shape_matches(lambda x: x.repeat_interleave(repeats, dim), torch.empty(shape))


@pytest.mark.parametrize("dtype", [torch.int32, torch.float16, torch.float64, torch.uint8])
@pytest.mark.parametrize("shape", [(2, 4), (3,), ()])
def test_view_as_another_dtype_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert_shape_matches(lambda x: x.view(dtype), torch.empty(shape))


LAYOUTS: dict[str, Function] = {
    "view": lambda x: x.view(x.size(0), -1),
    "reshape two sizes": lambda x: x.reshape(x.shape[0] * x.shape[1], -1),
    "reshape heads": lambda x: x.reshape(x.shape[0], x.shape[1], 2, -1),
    "reshape both": lambda x: x.reshape((x.shape[1], x.shape[0] * 2, 2)),
    "flatten": lambda x: x.flatten(1),
    "flatten front": lambda x: torch.flatten(x, 0, 1),
    "flatten all": lambda x: x.flatten(),
    "ravel": lambda x: x.ravel(),
    "unflatten": lambda x: x.unflatten(-1, (2, -1)),
    "view_as": lambda x: x.view_as(x.transpose(0, 1)),
    "permute": lambda x: x.permute(2, 0, 1),
    "transpose": lambda x: x.transpose(-1, 0),
    "swapdims": lambda x: torch.swapdims(x, 0, 1),
    "movedim": lambda x: x.movedim((0, 1), (2, 0)),
    "mT": lambda x: x.mT,
    "T of a matrix": lambda x: x[0].T,
    "t": lambda x: x.flatten(1).t(),
    "unsqueeze": lambda x: x.unsqueeze(1).unsqueeze(-1),
    "squeeze": lambda x: x[:, None].squeeze(1),
    "squeeze in place": lambda x: x.flip(0).unsqueeze(0).squeeze_(0),
    "expand": lambda x: x.unsqueeze(1).expand(-1, 3, -1, -1),
    "expand new axes": lambda x: x.expand(2, 1, *x.shape),
    "expand to sizes": lambda x: x[:1, :1].expand(x.shape[1], x.shape[0], -1),
    "expand_as": lambda x: x[:, :1].expand_as(x),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x[:, :1], x[:1], x[0, 0]),
    "repeat": lambda x: x.repeat(2, 1, 1, 3),
    "repeat sizes": lambda x: x[:1].repeat(x.shape[0], 1, 1),
    "tile": lambda x: torch.tile(x, (2, 1)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=1),
    "repeat_interleave flat": lambda x: torch.repeat_interleave(x, 3),
    "flip": lambda x: x.flip(0, 2),
    "fliplr": lambda x: x.fliplr(),
    "rot90": lambda x: torch.stack([torch.rot90(x[:, :1, :1], k, (0, 2)).flatten() for k in range(-1, 4)]),
    "rot90 quarter": lambda x: torch.rot90(x, 1, (1, 2)),
    "roll": lambda x: x.roll(1, 1),
    "roll back": lambda x: torch.roll(x, (-1, 3), (0, 2)),
    "roll flat": lambda x: x.roll(3),
    "contiguous": lambda x: x.transpose(0, 1).contiguous().clone().detach().data,
    "reshape after transpose": lambda x: x.transpose(1, 2).reshape(x.shape[0], -1, 2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_lowering(name: str) -> None:
    assert_lowering_matches(LAYOUTS[name], torch.randn(2, 3, 4))


@pytest.mark.parametrize("name", LAYOUTS)
def test_lowering_with_dynamic_axes(name: str) -> None:
    x, other = torch.randn(2, 3, 4), torch.randn(6, 7, 4)
    assert_lowering_matches(LAYOUTS[name], x, dynamic={0: {0: "N", 1: "T"}}, also=(other,))


@pytest.mark.parametrize("opset", [13, 17, 23])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.int32, torch.bool, torch.uint8])
def test_lowering_keeps_the_dtype(dtype: torch.dtype, opset: int) -> None:
    x = (torch.rand(2, 3, 4) * 5).to(dtype)
    assert_lowering_matches(
        lambda x: x.flatten(1)[None].transpose(1, 2).repeat(1, 2, 1).flip(1).expand(3, -1, -1).squeeze(),
        x,
        dynamic={0: {0: "N", 1: "T"}},
        opset=opset,
    )


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    assert_lowering_matches(lambda x: x.reshape(3, 0), torch.empty(shape))


def test_sizes_that_stay_need_no_computation() -> None:
    model = assert_lowering_matches(
        lambda x: x.view(x.shape[0], x.shape[1], 2, -1).transpose(1, 2),
        torch.randn(2, 3, 4),
        dynamic={0: {0: "N", 1: "T"}},
    )
    assert [node.op_type for node in model.graph.node] == ["Reshape", "Transpose"]


def test_squeeze_asks_for_a_guard_only_where_the_size_decides() -> None:
    module = nn.Flatten()
    log = propagated(lambda x: x.squeeze(2), torch.randn(2, 3, 1)).log
    assert not log.guards
    program = propagated(module, torch.randn(2, 3, 4))
    assert VALUE.of(program.output()).shape == (2, 12)
