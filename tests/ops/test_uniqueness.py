"""Distinct elements and slices against torch in onnxruntime, at no element, one and many."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from passes.errors import ShapeError
from tests.ops.oracle import assert_lowering_matches, propagated

ROWS = torch.tensor([[3, 1], [0, 2], [3, 1], [-2, 9], [0, 2], [3, 0]])
MASKS = [torch.tensor([flag == "1" for flag in text]) for text in ("101100", "000000", "000100", "111111", "011001")]
FORMS: list[dict[str, Any]] = [
    {}, {"return_inverse": True}, {"return_counts": True}, {"return_inverse": True, "return_counts": True},
]  # fmt: skip
DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.bool,
]  # fmt: skip


def at_every_count(function: Any, rows: torch.Tensor, opset: int = 17) -> None:
    (first, *others) = ((rows, mask) for mask in MASKS)
    assert_lowering_matches(function, *first, cases=others, opset=opset)


@pytest.mark.parametrize("opset", [13, 20, 23])
@pytest.mark.parametrize("dtype", DTYPES)
def test_distinct_elements(dtype: torch.dtype, opset: int) -> None:
    rows = (ROWS.abs() if dtype == torch.uint8 else ROWS).to(dtype)
    at_every_count(
        lambda x, mask: [
            (x[mask].unique(**form), torch.unique(x[mask], sorted=False, **form), x[mask].unique_consecutive(**form))
            for form in FORMS
        ],
        rows,
        opset,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool])
def test_distinct_slices(dtype: torch.dtype) -> None:
    rows = (ROWS.abs() if dtype == torch.uint8 else ROWS).to(dtype)
    at_every_count(
        lambda x, mask: [
            (x[mask].unique(dim=0, **form), torch.unique_consecutive(x[mask], dim=0, **form)) for form in FORMS
        ],
        rows,
    )


def test_slices_of_another_axis() -> None:
    """Along axis 1 of [2, 3, 2]: the slices are matrices."""
    x = torch.tensor([[[1, 2], [0, 5], [1, 2]], [[3, 3], [3, 3], [3, 3]]])
    assert_lowering_matches(
        lambda x: (*x.unique(dim=1, return_inverse=True, return_counts=True), x.unique_consecutive(dim=-2)),
        x,
        cases=[(x * 0,), (x.flip(1),)],
    )
    assert_lowering_matches(lambda x: x.unique(dim=1), x, dynamic={0: {1: "N"}}, cases=[(x[:, :2],)])


def test_every_number_that_is_none_is_distinct() -> None:
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([3, nan, 1, -0.0, nan, 0, inf, 3, -inf])
    every = {"return_inverse": True, "return_counts": True}
    assert_lowering_matches(
        lambda x: (x.unique(**every), x.unique_consecutive(**every)),
        x,
        dynamic={0: {0: "N"}},
        cases=[(torch.full((4,), nan),), (torch.zeros(1),), (torch.tensor([2.0, nan, 2.0, 2.0]),)],
    )


def test_of_a_number() -> None:
    assert_lowering_matches(
        lambda x: (*x.unique(return_inverse=True, return_counts=True), *x.unique_consecutive(return_inverse=True)),
        torch.tensor(3.0),
    )


def test_what_is_found_is_one_size() -> None:
    """The elements found twice in one tensor are as many, so that they may be added."""
    at_every_count(lambda x, mask: x[mask].unique() + x[mask].unique(return_counts=True)[1], ROWS)


def test_groups_are_summed_up() -> None:
    def sums(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows = x[mask]
        groups, number = rows[:, 0].unique(return_inverse=True)
        return torch.zeros(groups.shape[0], 2).index_add(0, number, rows.float())

    at_every_count(sums, ROWS)


def test_refusals() -> None:
    with pytest.raises(ShapeError, match="a 0-d tensor has no axis 0"):
        propagated(lambda x: x.unique(dim=0), torch.tensor(1.0))
    with pytest.raises(ShapeError, match=r"the slices along axis 0 of float32\[2, 0\] have no elements"):
        propagated(lambda x: x.unique(dim=0), torch.zeros(2, 0))
    with pytest.raises(ShapeError, match="among real numbers"):
        propagated(lambda x: x.unique(), torch.zeros(2, dtype=torch.complex64))
