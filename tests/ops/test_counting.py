"""Counts of numbers, and flags of their classes, against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from passes.errors import NeedsDataError, ShapeError
from passes.program.program import Program
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

shapes = st.lists(st.integers(0, 3), max_size=3)
INDICES = st.sampled_from([torch.int64, torch.int32, torch.int16, torch.float32])
NUMBERS = torch.tensor([2, 0, 3, 0, 5, 2])
MASKS = [torch.tensor([flag == "1" for flag in text]) for text in ("101100", "000100", "111111", "011001")]
NOTHING = torch.zeros(6, dtype=torch.bool)


def required(program: Program) -> list[str]:
    return [guard.condition for guard in program.log.required]


@given(shape=shapes, classes=st.integers(1, 4), dtype=INDICES)
def test_one_hot_shape(shape: list[int], classes: int, dtype: torch.dtype) -> None:
    assert_shape_matches(lambda x: F.one_hot(x, classes), torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("opset", [13, 23])
def test_one_hot(opset: int) -> None:
    x, other = torch.tensor([[0, 2], [1, 1]]), torch.randint(3, (4, 5))
    assert_lowering_matches(lambda x: F.one_hot(x, 3), x, dynamic={0: {0: "N", 1: "T"}}, opset=opset, also=(other,))
    assert_lowering_matches(
        lambda x: F.one_hot(x[0] * 0, x.shape[1]),
        x,
        dynamic={0: {1: "T"}},
        opset=opset,
        also=(torch.ones(2, 5).long(),),
    )


@pytest.mark.parametrize("opset", [13, 20, 23])
def test_as_many_classes_as_the_largest_says(opset: int) -> None:
    x = torch.tensor([[0, 2], [1, 1]])
    assert_lowering_matches(
        lambda x: (F.one_hot(x), F.one_hot(x[0, 0]), F.one_hot(x, x.max().item() + 2), F.one_hot(x).sum(0) * 2),
        x,
        dynamic={0: {0: "N"}},
        cases=[(x * 0,), (x + 7,), (torch.ones(1, 2).long(),)],
        opset=opset,
    )


def test_of_what_is_found_there_must_be_some() -> None:
    (first, *others) = ((NUMBERS, mask) for mask in MASKS)
    assert_lowering_matches(lambda x, mask: F.one_hot(x[mask]), *first, cases=others)
    assert required(propagated(lambda x, mask: F.one_hot(x[mask]), *first)) == ["u0 >= 1"]


@pytest.mark.parametrize("opset", [13, 17, 20, 23])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
def test_bincount(dtype: torch.dtype, opset: int) -> None:
    (first, *others) = ((NUMBERS.to(dtype), mask) for mask in (*MASKS, NOTHING))
    assert_lowering_matches(
        lambda x, mask: (
            x.bincount(), torch.bincount(x[mask]), x[mask].bincount(minlength=4), x[:0].bincount(minlength=2),
            x[mask].bincount(minlength=mask.sum().item()), x[:0].bincount(),
        ),
        *first,
        cases=others,
        opset=opset,
    )  # fmt: skip


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.float16])
def test_bincount_with_weights(dtype: torch.dtype, opset: int) -> None:
    weights = torch.tensor([0.5, 1, 2, -1, 3, 8]).to(dtype)
    assert_lowering_matches(
        lambda x, weights: (torch.bincount(x, weights), x.bincount(weights, minlength=9)),
        NUMBERS,
        weights,
        dynamic={0: {0: "N"}, 1: {0: "N"}},
        cases=[(NUMBERS[:2] * 0, weights[:2])],
        opset=opset,
    )


def test_refusals() -> None:
    with pytest.raises(ShapeError, match="bincount takes a vector of integers"):
        propagated(lambda x: x.bincount(), torch.zeros(2))
    with pytest.raises(ShapeError, match="are not one for each of"):
        propagated(lambda x: x.bincount(torch.ones(3)), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(NeedsDataError, match="int64 where there is nothing to count"):
        propagated(lambda x, mask: x[mask].bincount(x[mask] * 0.5), NUMBERS, NOTHING)
    with pytest.raises(ShapeError, match=r"one_hot of int64\[0\] has no largest class"):
        propagated(lambda x: F.one_hot(x[:0]), NUMBERS)
