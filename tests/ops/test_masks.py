"""Masks as indices, several of them and beside others, read and written, against torch in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from passes.errors import ShapeError, UnsupportedOpError
from tests.ops.oracle import assert_lowering_matches, propagated

Tensor = torch.Tensor


def flags(text: str) -> Tensor:
    return torch.tensor([flag == "1" for flag in text])


X = torch.arange(24.0).reshape(6, 2, 2) - 4.5
GRID = torch.stack([flags("110010"), flags("011000")], 1)
# A mask of the first axis, one of the second, and one of both: some, none, one and all of each.
DATA = [
    (X, flags("101100"), flags("10"), GRID),
    (X, flags("000000"), flags("10"), GRID & False),
    (X, flags("000100"), flags("11"), GRID),
    (X, flags("110000"), flags("11"), GRID | True),
    (X, flags("011000"), flags("01"), ~GRID),
    (X, flags("000010"), flags("00"), ~GRID),
]
FIRST, SECOND, BOTH = torch.tensor([0]), torch.tensor([1]), torch.tensor([[0], [1]])


def agrees(function: Callable[..., Any], opset: int) -> None:
    assert_lowering_matches(function, *DATA[0], cases=DATA[1:], opset=opset)


@pytest.mark.parametrize("opset", [13, 20])
def test_read(opset: int) -> None:
    agrees(
        lambda x, m, c, g: (
            x[m, 0], x[m, FIRST], x[m, BOTH], x[m, :, SECOND], x[m, c], x[m, :, c], x[g, SECOND], x[g, 0], x[FIRST, c],
            x[:, c], x[..., c], x[m, None], x[None, m], x[m, 1:, FIRST], x[1:, c, FIRST], x[m, m.nonzero()[:, 0] * 0],
            x[m, FIRST] * x[m, 0].sum(), x[m, c] * 2 + x[m, c], x[m][:, c], x[torch.where(g)],
            x[g.nonzero(as_tuple=True)], x[m.any()], x.masked_select(m[:, None, None]), x[m & ~m, 1:], x[m, -1],
            x[[True, False, True, False, True, True]],
        ),
        opset,
    )  # fmt: skip


def test_of_a_free_size() -> None:
    assert_lowering_matches(
        lambda x, m: (x[m], x[m, SECOND], x[:, 0][m].sum(0), x[m, :1] + x[m].shape[0]),
        *DATA[0][:2],
        dynamic={0: {0: "N"}, 1: {0: "N"}},
        cases=[(X[:2], flags("01")), (X[:3], flags("000"))],
    )


def _written() -> dict[str, Callable[..., None]]:
    def plus(x: Tensor, m: Tensor, c: Tensor, g: Tensor) -> None:
        x[m] += 1

    def number(x: Tensor, m: Tensor, c: Tensor, g: Tensor) -> None:
        x[m, 0] = 3

    def beside(x: Tensor, m: Tensor, c: Tensor, g: Tensor) -> None:
        x[m, FIRST] = 3
        x[m, :, SECOND] = 7

    def two(x: Tensor, m: Tensor, c: Tensor, g: Tensor) -> None:
        x[m, c] = 3
        x[m, c] += 2

    def values(x: Tensor, m: Tensor, c: Tensor, g: Tensor) -> None:
        x[g] = x[g] * 2
        x[m, SECOND, FIRST] = x[m, FIRST, FIRST]

    def grid(x: Tensor, m: Tensor, c: Tensor, g: Tensor) -> None:
        x[g, 0] = 5
        x[g, SECOND] = x[g][:, 0]

    def behind(x: Tensor, m: Tensor, c: Tensor, g: Tensor) -> None:
        x[:, c] = x[:, c] + 1
        x[..., c] = 0

    def slices(x: Tensor, m: Tensor, c: Tensor, g: Tensor) -> None:
        x[m, 1:] = x[m, :1]
        x[1:4][m[1:4]] = 2

    def row(x: Tensor, m: Tensor, c: Tensor, g: Tensor) -> None:
        x[m] = torch.tensor([1.0, 2.0])
        x[m] *= x[m]

    return {function.__name__: function for function in (plus, number, beside, two, values, grid, behind, slices, row)}


@pytest.mark.parametrize("opset", [13, 20])
def test_written(opset: int) -> None:
    def every(x: Tensor, *masks: Tensor) -> list[Tensor]:
        results = []
        for write in _written().values():
            results.append(x.clone())
            write(results[-1], *masks)
        return results

    agrees(every, opset)


@pytest.mark.parametrize("opset", [17, 23])
def test_added_to(opset: int) -> None:
    agrees(
        lambda x, m, c, g: (
            x.index_put((m,), torch.tensor(5.0), accumulate=True), x.index_put((m,), x[m], accumulate=True),
            x.index_put((m, FIRST), torch.tensor(2.0), accumulate=True), x.index_put((g,), x[g] + 1, accumulate=True),
            x.index_put((m.nonzero()[:, 0],), x[m], accumulate=True), x.index_put((m, c), torch.tensor(3.0)),
        ),
        opset,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    def every(x: Tensor, m: Tensor, c: Tensor, g: Tensor) -> list[Tensor]:
        x = x.to(dtype)
        written = x.clone()
        written[m, FIRST] = x[m, SECOND]
        return [x[m, c], x[g], written, x.masked_scatter(m[:, None, None], x[m])]

    agrees(every, 20)


def test_bytes_are_a_mask() -> None:
    with pytest.warns(UserWarning, match="uint8"):
        agrees(lambda x, m, c, g: x[m.to(torch.uint8)], 20)


def test_refusals() -> None:
    with pytest.raises(ShapeError, match=r"a mask \[2\] does not fit the axes \[6\]"):
        propagated(lambda x, m, c, g: x[c], *DATA[0])
    with pytest.raises(UnsupportedOpError, match="a mask without axes beside other indices"):
        propagated(lambda x, m, c, g: x[m.any(), FIRST], *DATA[0])
    with pytest.raises(UnsupportedOpError, match="a mask without axes beside other indices"):
        propagated(lambda x, m, c, g: x[FIRST, m.any()], *DATA[0])
