"""Positions, lengths and counts that only the data say, along axes, against torch in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from passes.errors import ShapeError
from tests.ops.oracle import assert_lowering_matches, propagated

X = torch.arange(12.0).reshape(6, 2)
Function = Callable[..., Any]


def agrees(function: Function, numbers: Iterable[Any], opset: int = 20, free: bool = False) -> None:
    """The file agrees at each number, or list of numbers, that is given as a tensor; at fewer rows too."""
    data = [(X, torch.tensor(number)) for number in numbers]
    shorter = [(X[:4], number) for _, number in data] if free else []
    dynamic = {0: {0: "N"}} if free else None
    assert_lowering_matches(function, *data[0], cases=[*data[1:], *shorter], opset=opset, dynamic=dynamic)


ANY = (3, 0, 1, 6, 9, -1, -3, -6, -9)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("opset", [13, 20])
def test_slices_are_clamped_as_those_of_python(opset: int, free: bool) -> None:
    agrees(
        lambda x, n: (
            x[:n], x[n:], x[-n:], x[:-n], x[n : n + 2], x[n - 1 : n], x[n:-1], x[1:n], x[n::2], x[:n:3], x[:n, 1],
            x[: n.item()], x[int(n) + 1 :], x[None, :n], x[:, n:], x[n:4][:1], x[:n].sum(0),
            torch.cat([x[:n], x[n:]]) + x,
            x.T[..., n:], x[:n] * x[:n], x[2:][:n], x[: (n.item() + 1) // 2], x[: n.item() % 3], x[: min(n.item(), 2)],
        ),
        ANY, opset, free,
    )  # fmt: skip


@pytest.mark.parametrize("opset", [13, 20])
def test_slices_are_written(opset: int) -> None:
    def written(x: torch.Tensor, n: torch.Tensor) -> list[torch.Tensor]:
        found = [x.clone() for _ in range(7)]
        found[0][:n] = 7
        found[1][n:] = -found[1][n:]
        found[2][n : n + 2, 1] = x[0, 0] + 3
        found[3][-n:] += 1
        found[4][3:n] = x[3:n] * 2
        found[5][n::2] = 5
        found[6].narrow(0, 1, 3)[:n].mul_(2)
        return found

    agrees(written, ANY, opset)


@pytest.mark.parametrize("opset", [13, 20])
def test_elements(opset: int) -> None:
    def element(x: torch.Tensor, n: torch.Tensor) -> list[torch.Tensor]:
        written, added = x.clone(), x.clone()
        written[n] = 7
        written[n.item(), 1] = 8
        added[n.item()] += x[n]
        return [x[n], x[n.item()], x[n, 0], x[n.item() :, n % 2], x.select(0, n), x[n.item()][None], written, added]

    agrees(element, (3, 0, 5, -1, -6), opset)


def test_parts_of_given_lengths() -> None:
    agrees(lambda x, n: (x.narrow(0, n, 1), torch.narrow(x, 0, n.item(), 2) * 2), (3, 0, 4, -2, -6))
    agrees(
        lambda x, n: (x.narrow(0, 1, n), x.narrow(0, 6 - n.item(), n), x.split([n.item(), 6 - n.item()])), (3, 0, 1, 5)
    )
    agrees(lambda x, n: (x.narrow(0, n, 6 - n), x.roll(n.item(), 0), x.roll(-n.item()), x.tril(n.item())), (3, 0, 1, 6))
    agrees(lambda x, n: x.roll(n.item(), 0), (3, -2, 7, 13, -12))


@pytest.mark.parametrize("opset", [13, 20])
def test_pieces_at_indices(opset: int) -> None:
    lists = ([1, 4], [0, 0], [5, 2], [-2, 9], [-9, -1], [6, 6])
    agrees(
        lambda x, at: (x.tensor_split(at), torch.tensor_split(x, at.tolist()), x.T.tensor_split(at[:1], 1)),
        lists,
        opset,
    )
    agrees(lambda x, at: torch.stack([piece.sum() for piece in x.tensor_split(at)]), lists, opset)
    table = torch.tensor([2, 5])
    agrees(lambda x, at: (x.tensor_split(table), x.tensor_split(table[:0])), lists[:1], opset)


COUNTS = (3, 0, 1, 5)


@pytest.mark.parametrize("opset", [13, 20])
def test_tensors_of_as_many_elements(opset: int) -> None:
    agrees(
        lambda x, n: (
            torch.arange(n), torch.arange(n.item()) * 2.5, torch.arange(1, n + 1), torch.arange(n, n + 3),
            torch.arange(0, 10, n + 1), torch.arange(n.item(), -1, -1), torch.zeros(n, 2), torch.ones((n.item(), 1)),
            torch.full((n,), 1.5), torch.full((2, n), n.item()), x.new_zeros(n), torch.empty(n, 2).fill_(1),
            torch.eye(n),
            torch.linspace(-1, 2, n), x[0].expand(n, -1), x[:1].expand(n.item(), 2), x.repeat(n, 1), x.tile((n, 2)),
            x.repeat_interleave(n, 0), x.repeat_interleave(n.item()), torch.arange(0, n.item() + 1, 0.5),
        ),
        COUNTS, opset,
    )  # fmt: skip


def test_shapes_with_numbers() -> None:
    agrees(lambda x, n: (x.view(n, -1), x.reshape(-1, n, 1), x.reshape(n, 12 // max(n.item(), 1))), (3, 1, 12))
    agrees(lambda x, n: (x.topk(n, 0), x.topk(min(2, n.item()), 0)[0], x[:n].topk(min(2, x[:n].shape[0]), 0)), COUNTS)


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_elements_are_repeated_as_often_as_a_tensor_says(dtype: torch.dtype, opset: int) -> None:
    agrees(
        lambda x, n: (
            torch.repeat_interleave(n.to(dtype)), x.repeat_interleave(n.to(dtype), 0),
            torch.repeat_interleave(x.T, n.to(dtype), dim=-1), x[:, 0].repeat_interleave(n.to(dtype)).cumsum(0),
            x[:3].repeat_interleave(repeats=n.to(dtype)), x.repeat_interleave(n[:1].to(dtype), 0),
            x[0].repeat_interleave(n[1].to(dtype)), torch.repeat_interleave(n) * torch.repeat_interleave(n),
        ),
        ([2, 0, 3, 1, 4, 2], [0] * 6, [1] * 6, [0, 5, 0, 2, 0, 2]),
        opset,
    )  # fmt: skip
    agrees(
        lambda x, n: x.repeat_interleave(n, 0, output_size=7) * torch.ones(7, 1),
        ([2, 0, 1, 1, 1, 2], [0, 0, 7, 0, 0, 0]),
    )


@pytest.mark.parametrize("opset", [13, 20])
def test_a_fixed_number_of_places(opset: int) -> None:
    agrees(
        lambda x, n: (
            n.nonzero_static(size=3), torch.nonzero_static(n.view(2, 3), size=5, fill_value=9),
            n[0].nonzero_static(size=2),
            n.nonzero_static(size=n.sum().item()), x.put(n, n * 2.5),
        ),
        ([2, 0, 3, 1, 4, 5], [0, 1, 2, 3, 4, 5], [8, 7, 6, 5, 4, 3]),
        opset,
    )  # fmt: skip
    agrees(lambda x, n: x.put(n, n * 2.5, accumulate=True), ([2, 0, 3, 3, 3, 5], [0] * 6))


def test_what_torch_refuses_is_required_of_the_data() -> None:
    def required(function: Function) -> list[str]:
        log = propagated(function, X, torch.tensor(3)).log
        assert not log.guards
        return [guard.condition for guard in log.required]

    assert required(lambda x, n: x[:n]) == []
    assert required(lambda x, n: x[n.item()]) == ["u0 >= -6", "u0 <= 5"]
    assert required(lambda x, n: torch.zeros(n, 2)) == ["u0 >= 0"]
    assert required(lambda x, n: torch.arange(1, n)) == ["u0 >= 1"]
    assert required(lambda x, n: x.narrow(0, 1, n)) == ["u0 >= 0", "u0 <= 5"]
    assert required(lambda x, n: x.topk(n, 0)) == ["u0 >= 0", "u0 <= 6"]
    assert required(lambda x, n: x.split([n.item(), 2])) == ["u0 >= 0", "u0 == 4"]
    assert required(lambda x, n: x.view(n, 4)) == ["u0 >= 0", "u0 == 3"]
    assert required(lambda x, n: x[: n.item()] + x[:3]) == []
    assert required(lambda x, n: torch.cat([x[: n.item()].T, x[:3].T]))[-1].endswith("== 3")
    with pytest.raises(ShapeError, match="start 7 is out of range"):
        propagated(lambda x, n: x.narrow(0, 7, n), X, torch.tensor(0))
