"""Reductions against torch: shapes and dtypes on meta, values in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.errors import CaptureError, ShapeError, UnsupportedOpError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

ANY_AXES = ("sum", "nansum", "mean", "amax", "amin", "all", "any", "var", "std", "logsumexp", "norm")
ONE_AXIS = ("prod", "max", "min", "argmax", "argmin", "aminmax")
RUNNING = ("cumsum", "cumprod")
NO_AXIS = tuple(name for name in ANY_AXES + ONE_AXIS if name != "logsumexp")
FLOATS = (torch.float16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
DTYPES = (torch.bool, *INTEGERS, *FLOATS)
shapes = st.lists(st.integers(1, 3), max_size=3)
axes = st.integers(-4, 3)


def fits(name: str, dtype: torch.dtype) -> bool:
    """Spreads of integers are refused by every kernel, but not by meta tensors."""
    return dtype.is_floating_point or name not in ("var", "std")


@given(st.sampled_from(NO_AXIS), shapes, st.sampled_from(DTYPES))
def test_shape_over_all(name: str, shape: list[int], dtype: torch.dtype) -> None:
    if fits(name, dtype):
        assert_shape_matches(getattr(torch, name), torch.empty(shape, dtype=dtype))


@given(st.sampled_from(ANY_AXES + ONE_AXIS + RUNNING), shapes, axes, st.booleans(), st.sampled_from(DTYPES))
def test_shape_over_an_axis(name: str, shape: list[int], dim: int, keepdim: bool, dtype: torch.dtype) -> None:
    if not fits(name, dtype):
        return
    options: dict[str, Any] = {"dim": dim} if name in RUNNING else {"dim": dim, "keepdim": keepdim}
    assert_shape_matches(lambda x: getattr(torch, name)(x, **options), torch.empty(shape, dtype=dtype))


@given(st.sampled_from(ANY_AXES), shapes, st.lists(axes, max_size=3), st.booleans())
def test_shape_over_several_axes(name: str, shape: list[int], dim: list[int], keepdim: bool) -> None:
    if not dim and name in ("nansum", "logsumexp"):
        return  # kernels and meta tensors disagree
    if name == "norm" and len({axis % max(len(shape), 1) for axis in dim}) < len(dim):
        return  # kernels refuse an axis named twice, as the rule does; meta tensors let it pass
    assert_shape_matches(lambda x: getattr(torch, name)(x, dim=dim, keepdim=keepdim), torch.empty(shape))


@pytest.mark.parametrize("name", ["sum", "nansum", "mean", "amax", "all", "any", "var"])
def test_no_axes(name: str) -> None:
    """They stand for every axis, but for truth, which is then reduced over none."""
    x = torch.randn(2, 3)
    for dim in ([], ()):
        assert_lowering_matches(lambda x, dim=dim: getattr(torch, name)(x > 0 if name in "allany" else x, dim=dim), x)


@given(st.sampled_from(ANY_AXES + ONE_AXIS), st.lists(st.integers(0, 2), max_size=3), st.none() | axes)
def test_shape_with_nothing_to_reduce(name: str, shape: list[int], dim: int | None) -> None:
    if name == "norm" or (dim is None and name not in NO_AXIS):
        return
    if name in ("max", "min") and 0 in shape:
        return  # kernels refuse to reduce nothing, as the rule does; meta tensors let it pass
    assert_shape_matches(
        lambda x: getattr(torch, name)(x) if dim is None else getattr(torch, name)(x, dim=dim), torch.empty(shape)
    )


@pytest.mark.parametrize("dtype", [None, torch.float64, torch.int32])
@pytest.mark.parametrize("name", ["sum", "prod", "mean", "nansum", "cumsum", "cumprod"])
def test_dtype_argument(name: str, dtype: torch.dtype | None) -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    if name == "mean" and dtype == torch.int32:
        with pytest.raises(ShapeError, match="floating-point"):
            propagated(lambda x: x.mean(dtype=dtype), x)
        return
    arguments = (0,) if name in RUNNING else ()
    assert_shape_matches(lambda x: getattr(x, name)(*arguments, dtype=dtype), x)
    assert_lowering_matches(lambda x: getattr(x, name)(*arguments, dtype=dtype), x)


FORMS: list[dict[str, Any]] = [
    {},
    {"dim": 1},
    {"dim": -3, "keepdim": True},
    {"dim": (0, -1)},
    {"dim": [2, 0], "keepdim": True},
]


@pytest.mark.parametrize("opset", [13, 18, 20])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ANY_AXES)
def test_lowering_over_any_axes(name: str, form: dict[str, Any], opset: int) -> None:
    x = torch.randn(2, 3, 4)
    if name == "logsumexp" and not form:
        form = {"dim": (0, 1, 2)}
    if name in ("all", "any"):
        x = x > 0.3
    if name == "nansum":
        x[0, 0, 0] = math.nan
    assert_lowering_matches(lambda x: getattr(x, name)(**form), x, opset=opset)


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("form", FORMS[:3])
@pytest.mark.parametrize("name", ONE_AXIS)
def test_lowering_over_one_axis(name: str, form: dict[str, Any], opset: int) -> None:
    assert_lowering_matches(lambda x: getattr(torch, name)(x, **form), torch.randn(2, 3, 4), opset=opset)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*ANY_AXES, *ONE_AXIS, "count_nonzero", "cumsum", "cumprod"])
def test_lowering_of_dtypes(name: str, dtype: torch.dtype) -> None:
    """Whole numbers, so that half precision is exact where it can be."""
    if not dtype.is_floating_point and name in ("mean", "var", "std", "norm"):
        return  # refused: see test_refusals
    if dtype == torch.bool and name in ("argmax", "argmin"):
        return  # torch has no kernel
    x = torch.tensor([[1, 0, 2], [3, 3, 1]]).to(dtype)
    arguments = {"dim": 1} if name not in ("all", "any", "count_nonzero") else {}
    exact = dtype != torch.float16
    for opset in (13, 20):
        assert_lowering_matches(
            lambda x: getattr(torch, name)(x, **arguments), x, opset=opset, rtol=1e-4 if exact else 2e-3
        )


@pytest.mark.parametrize("name", [*ANY_AXES, *ONE_AXIS, "count_nonzero", "cumsum", "cumprod"])
def test_lowering_of_a_0d_tensor(name: str) -> None:
    if name in ("var", "std"):
        return  # one element has no spread: torch warns
    arguments = {"dim": -1} if name != "count_nonzero" else {}
    x = torch.tensor(2.5)
    assert_shape_matches(lambda x: getattr(torch, name)(x, **arguments), x)
    assert_lowering_matches(lambda x: getattr(torch, name)(x, **arguments), x)


@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("name", ["var", "std", "var_mean", "std_mean"])
def test_spread(name: str, keepdim: bool) -> None:
    x = torch.randn(3, 4) + 5
    function = getattr(torch, name)
    calls: list[Callable[..., Any]] = [
        lambda x: function(x),
        lambda x: function(x, False),
        lambda x: function(x, 1, False, keepdim),
        lambda x: function(x, dim=(0, 1), unbiased=True, keepdim=keepdim),
        lambda x: function(x, dim=0, correction=0, keepdim=keepdim),
        lambda x: function(x, correction=2, axis=1, keepdims=keepdim),
        lambda x: function(x.double(), 1),
    ]
    for call in calls:
        assert_shape_matches(call, x)
        assert_lowering_matches(call, x)


@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        lambda x, k: x.norm(),
        lambda x, k: torch.norm(x, dim=1, keepdim=k),
        lambda x, k: x.norm(1, -1, k),
        lambda x, k: torch.norm(x, p=math.inf, dim=(0, 1), keepdim=k),
        lambda x, k: torch.norm(x, p=3, dim=0, keepdim=k),
        lambda x, k: torch.linalg.norm(x, dim=-1, keepdim=k),
        lambda x, k: torch.linalg.norm(x, "fro", keepdim=k),
        lambda x, k: torch.linalg.norm(x, 1, keepdim=k),
        lambda x, k: torch.linalg.norm(x, 1, dim=0, keepdim=k),
        lambda x, k: torch.linalg.norm(x, -math.inf, dim=(1, 0), keepdim=k),
        lambda x, k: torch.linalg.norm(x.flatten(), 0.5),
        lambda x, k: torch.linalg.vector_norm(x, 0, dim=1, keepdim=k),
        lambda x, k: torch.linalg.vector_norm(x, -math.inf, keepdim=k, dtype=torch.float64),
        lambda x, k: torch.linalg.vector_norm(x, ord=2, dim=(0, 1), keepdim=k),
        lambda x, k: torch.linalg.matrix_norm(x, keepdim=k),
        lambda x, k: torch.linalg.matrix_norm(x, math.inf, keepdim=k),
        lambda x, k: torch.linalg.matrix_norm(x, -1, dim=(1, 0), keepdim=k),
    ],
)
def test_norm(call: Callable[..., Any], keepdim: bool) -> None:
    x = torch.randn(3, 4)
    assert_shape_matches(lambda x: call(x, keepdim), x)
    for opset in (13, 20):
        assert_lowering_matches(lambda x: call(x, keepdim), x, opset=opset)


@pytest.mark.parametrize("order", ["nuc", 2, -2])
def test_singular_values_are_left_to_torch(order: Any) -> None:
    x = torch.randn(3, 4)
    with pytest.raises(UnsupportedOpError, match="singular values"):
        assert_lowering_matches(lambda x: torch.linalg.matrix_norm(x, order), x)


def test_extremes_with_positions() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 0.0]])
    assert_lowering_matches(lambda x: x.max(1), x)
    assert_lowering_matches(lambda x: x.max(dim=1, keepdim=True).values, x)
    assert_lowering_matches(lambda x: torch.min(x, 0).indices, x)
    assert_lowering_matches(lambda x: x.min(-1, True)[0], x)
    assert_lowering_matches(lambda x: torch.max(x, x.mean()), x)
    assert_lowering_matches(lambda x: torch.min(x.long(), other=x[0]), x)
    assert_shape_matches(lambda x: x.argmax(keepdim=True), x)
    assert_lowering_matches(lambda x: x.argmax(keepdim=True), x)


def test_bytes_stay_bytes_in_truth() -> None:
    x = torch.tensor([[1, 0], [2, 3]], dtype=torch.uint8)
    for name in ("all", "any"):
        assert_shape_matches(lambda x, name=name: getattr(x, name)(1), x)
        assert_lowering_matches(lambda x, name=name: getattr(x, name)(1), x)


def test_logsumexp_is_stable() -> None:
    assert_lowering_matches(lambda x: x.logsumexp(-1), torch.tensor([[1e4, 1e4], [-1e4, 0.0], [-math.inf, 1.0]]))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_running(dim: int) -> None:
    x, longer = torch.randn(2, 3, 2), torch.randn(4, 3, 2)
    for name in RUNNING:
        assert_lowering_matches(
            lambda x, name=name: getattr(x, name)(dim), x, dynamic={0: {0: "N"}}, also=(longer,), opset=13
        )


@pytest.mark.parametrize("name", [*ANY_AXES, "prod", "max", "argmin", "count_nonzero"])
def test_dynamic_axes(name: str) -> None:
    x, longer = torch.randn(2, 3), torch.randn(5, 3)
    function = getattr(torch, name)
    for dim in (0, -1):
        second = {"p": 2, "dim": dim} if name == "norm" else {"dim": dim}
        assert_lowering_matches(lambda x, kw=second: function(x, **kw), x, dynamic={0: {0: "N"}}, also=(longer,))


@pytest.mark.parametrize(
    "call",
    [
        lambda f, i: i.mean(),
        lambda f, i: i.std(),
        lambda f, i: i.norm(),
        lambda f, i: f.sum(2),
        lambda f, i: f.sum((0, 0)),
        lambda f, i: f.sum((0, -2)),
        lambda f, i: f.prod((0, 1)),
        lambda f, i: f.max((0, 1)),
        lambda f, i: f.argmax((0, 1)),
        lambda f, i: f[:0].amax(0),
        lambda f, i: f[:0].max(),
        lambda f, i: f[:0].argmin(0),
        lambda f, i: f.cumsum(5),
        lambda f, i: torch.linalg.norm(f[None], 2),
        lambda f, i: torch.linalg.matrix_norm(f[0]),
        lambda f, i: torch.linalg.matrix_norm(f, 3),
    ],
)
def test_refusals(call: Callable[..., Any]) -> None:
    f, i = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int64)
    with pytest.raises((RuntimeError, TypeError, IndexError)):
        call(f, i)
    with pytest.raises((ShapeError, CaptureError)):
        propagated(call, f, i)


@given(shapes, st.none() | axes, st.booleans(), st.sampled_from([*FLOATS, torch.int64]))
def test_nanmean_shape(shape: list[int], dim: int | None, keepdim: bool, dtype: torch.dtype) -> None:
    assert_shape_matches(lambda x: torch.nanmean(x, dim, keepdim), torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nanmean(dtype: torch.dtype, opset: int) -> None:
    x = torch.tensor([[1.0, math.nan, 2.5], [math.nan, math.nan, math.nan]]).to(dtype)
    assert_lowering_matches(
        lambda x: (x.nanmean(), x.nanmean(1, keepdim=True), torch.nanmean(x, (0,), dtype=torch.float32)),
        x, opset=opset, dynamic={0: {0: "N"}}, also=(torch.randn(4, 3).to(dtype),), rtol=1e-3, atol=1e-3,
    )  # fmt: skip
