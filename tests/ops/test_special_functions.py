"""Functions of probability and of signs against torch: shapes and dtypes on meta, values in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.errors import ShapeError, UnsupportedOpError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

UNARY: dict[str, Callable[..., Any]] = {
    "erfinv": torch.erfinv,
    "ndtr": torch.special.ndtr,
    "entr": torch.special.entr,
    "angle": torch.angle,
    "isreal": torch.isreal,
    "conj": torch.conj,
    "conj_physical": torch.conj_physical,
    "resolve_conj": torch.resolve_conj,
    "resolve_neg": torch.resolve_neg,
    "real": torch.real,
}
BINARY: dict[str, Callable[..., Any]] = {"copysign": torch.copysign, "heaviside": torch.heaviside}
SPECIAL = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan]
DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64)
shapes = st.lists(st.integers(0, 3), max_size=3)


@given(name=st.sampled_from([*UNARY]), shape=shapes, dtype=st.sampled_from([*DTYPES, torch.bfloat16]))
def test_shape(name: str, shape: list[int], dtype: torch.dtype) -> None:
    assert_shape_matches(UNARY[name], torch.empty(shape, dtype=dtype))


@given(shape=shapes, other=shapes, dtypes=st.lists(st.sampled_from(DTYPES), min_size=2, max_size=2))
def test_shape_of_two(shape: list[int], other: list[int], dtypes: list[torch.dtype]) -> None:
    x, y = torch.zeros(shape, dtype=dtypes[0]), torch.zeros(other, dtype=dtypes[1])
    assert_shape_matches(torch.copysign, x, y)
    if dtypes[0] == dtypes[1]:
        assert_shape_matches(torch.heaviside, x, y)
    else:  # meta tensors take two dtypes
        with pytest.raises(ShapeError):
            propagated(torch.heaviside, x, y)


@pytest.mark.parametrize("opset", [13, 23])
@pytest.mark.parametrize("name", UNARY)
def test_lowering(name: str, opset: int) -> None:
    x = torch.cat([torch.randn(50), torch.rand(50), torch.tensor(SPECIAL)])
    assert_lowering_matches(lambda x: UNARY[name](x) * 1, x, opset=opset, atol=1e-6)
    assert_lowering_matches(lambda x: (UNARY[name](x), x), x.reshape(1, -1), dynamic={0: {0: "N"}}, opset=opset)


def test_erfinv_of_the_tails() -> None:
    x = 1 - torch.logspace(-7, -1, 50, dtype=torch.float64)
    assert_lowering_matches(torch.erfinv, torch.cat([x, -x]).float(), rtol=1e-6)
    assert_lowering_matches(lambda x: x.erfinv(), (x / 2).half(), rtol=1e-2)
    with pytest.raises(UnsupportedOpError, match="not as exact as float64"):
        assert_lowering_matches(torch.erfinv, x)


@pytest.mark.parametrize("opset", [13, 23])
@pytest.mark.parametrize("name", BINARY)
def test_lowering_of_two(name: str, opset: int) -> None:
    numbers = torch.tensor(SPECIAL[:-1])
    x, y = torch.meshgrid(numbers, numbers, indexing="ij")
    assert_lowering_matches(BINARY[name], x.contiguous(), y.contiguous(), opset=opset)
    assert_lowering_matches(lambda x, y: getattr(x, name)(y[0]), x.contiguous(), y.contiguous(), opset=opset)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.tensor([0, 1, 2]).to(dtype)
    assert_lowering_matches(lambda x: (torch.copysign(x, -1), torch.copysign(2 * x, x.flip(0))), x)
    assert_lowering_matches(lambda x: torch.heaviside(x, x.flip(0)), x)
    assert_lowering_matches(lambda x: (torch.angle(x), torch.isreal(x)), x)
