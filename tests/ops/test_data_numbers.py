"""Numbers that are in tensors, `item()` and its like, where operations take numbers, against torch in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import tracer
from passes.errors import NeedsDataError, ShapeError
from tests.ops.oracle import as_module, assert_lowering_matches, propagated

X = torch.tensor([[1.5, -2.0, 0.5], [-1.0, 0.0, 3.0], [2.0, 0.25, -4.0], [0.0, 1.0, -0.5]])
WHOLE, BYTES = torch.arange(-2, 3, dtype=torch.int32), torch.tensor([0, 3, 7], dtype=torch.uint8)
# An integer and a float each, of both signs and none.
NUMBERS = [(3, 1.75), (0, -0.5), (1, 0.0), (-2, 2.0), (5, 100.25)]
DATA = [(X, torch.tensor(n), torch.tensor(f)) for n, f in NUMBERS]

Function = Callable[..., Any]


def agrees(function: Function, opset: int = 20, data: Any = DATA) -> None:
    assert_lowering_matches(function, *data[0], cases=data[1:], opset=opset)


@pytest.mark.parametrize("opset", [13, 20])
def test_they_promote_as_numbers_of_python(opset: int) -> None:
    """An integer tensor and a float give the default float, whatever dtype the float lay in."""
    agrees(
        lambda x, n, f: (
            WHOLE + f.item(), WHOLE * f.double().item(), WHOLE + n.item(), BYTES + abs(n.item()), (x > 0) * n.item(),
            (x > 0) + f.item(), x.half() * f.item(), x.double() - f.item(),
            torch.tensor(2, dtype=torch.int32) * n.item(),
            torch.tensor(2.0, dtype=torch.float64) * f.item(), WHOLE.gt(f.item()), n.item() - x,
            f.item() / (x.abs() + 1),
        ),
        opset,
    )  # fmt: skip


def test_the_tensor_itself_promotes_as_one() -> None:
    agrees(lambda x, n, f: (WHOLE + f.double(), WHOLE + n, x.half() * f.double()))


def test_python_computes_with_them_in_double_precision() -> None:
    agrees(
        lambda x, n, f: (
            x * (2 * n.item() + 1) - f.item() / 3, x * abs(f.item()), x * -n.item(), x + math.exp(-abs(n.item())),
            x + math.sqrt(abs(f.item())), x * max(n.item(), 2), x * min(f.item(), 0.75), x + (n.item() + 7) // 2,
            x + n.item() % 3, x + round(n.item() / 3), x + int(f.item() * 3), x + math.floor(f.item()),
            x + sum([n.item(), n.item()]), torch.tensor([n.item(), 2]), torch.tensor([f.item(), n.item()]),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("opset", [13, 20])
def test_operations_take_them_as_numbers(opset: int) -> None:
    agrees(
        lambda x, n, f: (
            x.clamp(max=n.item()), x.clamp(min=f.item()), torch.add(x, x, alpha=f.item()), x ** f.item(),
            torch.full((2,), f.item()), torch.full((2,), n.item()), F.pad(x, (1, 1), value=f.item()),
            F.pad(x, (1, 0), value=n.item()), x.masked_fill(x > 0, f.item()), torch.where(x > 0, n.item(), x),
            torch.where(x > 0, f.item(), x), x > f.item(), torch.lerp(x, x + 1, f.item()), F.leaky_relu(x, f.item()),
            F.threshold(x, f.item(), 0.0), F.elu(x, f.item()), torch.addcmul(x, x, x, value=f.item()),
            torch.addmm(x[:3], x[:3], x[:3], alpha=f.item(), beta=n.item()),
            x.index_fill(0, WHOLE.long()[2:], f.item()),
            torch.baddbmm(x[None, :3], x[None, :3], x[None, :3], alpha=n.item(), beta=f.item()),
            x.scatter(0, WHOLE.long()[2:, None], f.item()), torch.nan_to_num(x / 0, nan=f.item()),
            x // (n.item() ** 2 + 1),
            F.scaled_dot_product_attention(x[None], x[None], x[None], scale=f.item()), x.new_full((2,), n.item()),
        ),
        opset,
    )  # fmt: skip


def test_a_factor_of_nothing_leaves_out_what_is_no_number() -> None:
    x = torch.full((2, 2), torch.nan)
    function = lambda x, n: torch.addmm(x, torch.ones(2, 2), torch.ones(2, 2), beta=n.item())  # noqa: E731
    assert_lowering_matches(function, x, torch.tensor(0.0), cases=[(x, torch.tensor(1.0))])


def test_integers_are_raised_to_what_is_not_negative() -> None:
    data = [(torch.tensor([-3, 0, 5]), torch.tensor(n)) for n in (2, 0, 1, 41)]
    agrees(lambda x, n: x ** n.item(), data=data)
    program = propagated(lambda x, n: x ** n.item(), *data[0])
    assert [guard.condition for guard in program.log.required] == ["u0 >= 0"]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32, torch.float64, torch.bool])
def test_int_and_float_of_a_tensor(dtype: torch.dtype) -> None:
    data = [(X, torch.tensor(number).to(dtype)) for number in (3, 0, 1)]
    agrees(lambda x, n: (WHOLE + int(n), WHOLE * float(n), x[: int(n)], int(n[None]) + x), data=data)


def test_lists_of_numbers() -> None:
    data = [(torch.arange(12), torch.tensor(sizes)) for sizes in ([3, 4, 5], [0, 12, 0], [12, 0, 0])]
    agrees(
        lambda x, sizes: (
            *x.split(sizes.tolist()), *torch.split_with_sizes(x, sizes.tolist()), torch.zeros(sizes.tolist()[1:]),
            sum(sizes.tolist()) * x, torch.tensor(sizes[None].tolist()) * 2, torch.tensor((sizes / 2).tolist()),
        ),
        data=data,
    )  # fmt: skip


def test_a_flag_stays_a_tensor() -> None:
    data = [(X, torch.tensor(flag)) for flag in (True, False)]
    agrees(lambda x, flag: (x * flag.item(), (x > 0) & flag.item(), x * int(flag), WHOLE + flag.item()), data=data)


def test_what_python_must_know_is_refused() -> None:
    def refused(function: Function, match: str) -> None:
        with pytest.raises(NeedsDataError, match=match):
            propagated(function, *DATA[0])

    refused(
        lambda x, n, f: x if n.item() > 2 else -x, "whether u0 >= 3 depends on the data: u0 is the number that item"
    )
    refused(lambda x, n, f: x if f.item() > 2 else -x, r"float\(u0\).* depends on the data: u0 is the number that item")
    refused(lambda x, n, f: x if f.item() < math.inf else -x, r"which number float\(u0\) is depends on the data")
    refused(lambda x, n, f: [x] * n.item(), r"the forward needs \w+\.item\(\) as a fixed number.* depends on the data")
    refused(lambda x, n, f: x * len(f"{n.item()}"), "as a fixed number")
    refused(lambda x, n, f: x * {1: 2}.get(n.item(), 3), "as a fixed number")
    refused(lambda x, n, f: x.sum(n), "which number u0 is depends on the data")
    refused(lambda x, n, f: x.chunk(n.item()), "which number u0 is depends on the data")
    with pytest.raises(ShapeError, match="a tensor of one element is a number"):
        propagated(lambda x, n, f: x * x.item(), *DATA[0])


def test_numbers_are_told_of() -> None:
    report = tracer.inspect(as_module(lambda x, n, f: x[: n.item()] * f.item()), DATA[0])
    numbers = [line.partition(" at ")[0] for line in report.from_data]
    assert numbers == ["u0 is the number that item() gives,", "u1 is the number that item() gives,"]
