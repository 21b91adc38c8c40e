"""Bilinear layers against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import ShapeError
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

sizes = st.integers(1, 4)
leads = st.lists(st.integers(0, 3), max_size=3)


@given(
    lead=leads, other=st.none() | leads, found=sizes, expected=sizes, second=sizes, out=sizes, bias=st.integers(0, 4)
)
def test_shape(
    lead: list[int], other: list[int] | None, found: int, expected: int, second: int, out: int, bias: int
) -> None:
    tensors = [torch.empty(*lead, found), torch.empty(*(lead if other is None else other), second)]
    tensors.append(torch.empty(out, expected, second))
    assert_shape_matches(F.bilinear, *tensors, *([torch.empty(bias)] if bias else []))
    assert_shape_matches(nn.Bilinear(expected, second, out, bias=bool(bias)), *tensors[:2])


@pytest.mark.parametrize(
    ("first", "second", "weight"),
    [((), (2,), (3, 1, 2)), ((2,), (), (3, 2, 1)), ((2,), (2,), (2, 2)), ((2,), (2,), (1, 3, 2, 2))],
)
def test_other_ranks_are_refused(first: tuple[int, ...], second: tuple[int, ...], weight: tuple[int, ...]) -> None:
    assert_shape_matches(F.bilinear, torch.empty(first), torch.empty(second), torch.empty(weight))


def test_unlike_dtypes_are_refused() -> None:
    tensors = torch.empty(2, 3), torch.empty(2, 4), torch.empty(5, 3, 4), torch.empty(5)
    for number in range(4):
        assert_shape_matches(F.bilinear, *(t.double() if i == number else t for i, t in enumerate(tensors)))


@pytest.mark.parametrize("opset", [13, 14, 20, 22, 23])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_lowering(lead: tuple[int, ...], bias: bool, opset: int) -> None:
    layer, tensors = nn.Bilinear(3, 4, 5, bias=bias), [torch.randn(*lead, 3), torch.randn(*lead, 4)]
    assert_lowering_matches(layer, *tensors, opset=opset)
    assert_lowering_matches(layer.double(), *(t.double() for t in tensors), opset=opset, rtol=1e-9, atol=1e-10)
    assert_lowering_matches(layer.half(), *(t.half() for t in tensors), opset=opset, rtol=1e-2, atol=1e-2)


def test_function_with_a_computed_weight() -> None:
    tensors = [torch.randn(2, 3), torch.randn(2, 4), torch.randn(5, 3, 4), torch.randn(5)]
    assert_lowering_matches(lambda x, y, w, b: F.bilinear(x, y, w * 2, b), *tensors)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        assert_lowering_matches(F.bilinear, *((t * 3).to(dtype) for t in tensors))


def test_dynamic_leading_axes() -> None:
    dynamic = {0: {0: "N", 1: "T"}, 1: {0: "N", 1: "T"}}
    also = torch.randn(5, 1, 3), torch.randn(5, 1, 4)
    tensors = torch.randn(2, 3, 3), torch.randn(2, 3, 4)
    assert_lowering_matches(nn.Bilinear(3, 4, 2), *tensors, dynamic=dynamic, also=also)


class Beside(nn.Module):
    """A lazy layer on what a bilinear one gives."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Bilinear(3, 4, 6)
        self.out = nn.LazyLinear(2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.out(self.both(x, y))


def test_in_a_model() -> None:
    conversion = tracer.convert(Beside(), (tracer.spec("N", 3), tracer.spec("N", 4)), route="direct")
    assert conversion.report.resolved == {"out": {"in_features": 6}}
    assert conversion.report.layers[0].macs == f"{6 * (3 * 4 + 4)}*N"


def test_messages_have_the_numbers() -> None:
    layer = nn.Bilinear(3, 4, 5)
    with pytest.raises(ShapeError, match="in2_features is 4, but input2 has 3"):
        propagated(layer, torch.empty(2, 3), torch.empty(2, 3))
    with pytest.raises(ShapeError, match=r"the leading axes of the inputs are \[2\] and \[1\]"):
        propagated(layer, torch.empty(2, 3), torch.empty(1, 4))
