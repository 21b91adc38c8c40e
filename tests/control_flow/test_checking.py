"""A file with branches and loops beside its module: every way is compared, a difference is found where it begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

import tracer
from tests.control_flow.oracle import Model
from tests.sabotage import spoil
from tracer import VerificationError

UP, DOWN = torch.rand(2, 4) + 0.1, -torch.rand(2, 4) - 0.1
ZERO = torch.tensor(0)


class Sides(nn.Module):
    """A layer on each side, of which one is called behind them, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().mean()
        y = torch.cond(x.sum() > 0, lambda x: torch.tanh(self.a(x) * scale), lambda x: self.b(x).relu(), (x,))
        return y + self.b(x)


class Folded(nn.Module):
    """A convolution with its norm on one side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3)
        self.norm.running_mean = torch.randn(3)

    def forward(self, x: Tensor) -> Tensor:
        other = x[:, :1, 2:].expand(-1, 3, -1)
        return torch.cond(x.sum() > 0, lambda x: self.norm(self.conv(x)).tanh(), lambda x: other * 2, (x,))


def loops(model: Any, x: Tensor) -> Any:
    return torch.while_loop(
        lambda i, h: i < 3, lambda i, h: (i + 1, torch.where(h > 0.3, torch.tanh(model.fc(h)) + x, h)), (ZERO, x)
    )


def steps(model: Any, x: Tensor) -> Any:
    return scan(lambda c, r: (torch.tanh(c * 0.5 + r), (c + 1, torch.exp(r))), torch.zeros(2), x, dim=1, reverse=True)


def both(model: Any, x: Tensor) -> Any:
    factor = x.sum() * 0 + 2

    def body(i: Tensor, h: Tensor) -> Any:
        return i + 1, torch.cond(i == 1, lambda h: torch.tanh(model.fc(h)) * factor, lambda h: h * factor, (h,))

    return torch.while_loop(lambda i, h: i < 4, body, (ZERO, x))


def disagreement(model: nn.Module, x: Tensor, **options: Any) -> tuple[str, str, str]:
    """Where a difference begins, in what, and the message."""
    with pytest.raises(VerificationError) as caught:
        tracer.convert(model, x, seed=0, **options)
    assert caught.value.location is not None, caught.value
    return caught.value.location.path, caught.value.operation, caught.value.message


@pytest.mark.parametrize("sample", [UP, DOWN])
@pytest.mark.parametrize(
    ("spelling", "call", "path", "operation"),
    [
        (nn.Linear, 1, "a", "Linear"),
        (nn.Linear, 2, "b", "Linear"),
        (nn.Linear, 3, "b", "Linear"),
        (torch.tanh, 1, "tanh", "tanh"),
    ],
)
def test_either_side_is_compared_whatever_the_sample(
    sample: Tensor, spelling: Any, call: int, path: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, spelling, call)
    found_path, found_operation, message = disagreement(Sides(), sample)
    assert (found_path, found_operation) == (path, operation)
    other = (call == 2) if sample is UP else (call == 1)
    line = Sides.forward.__code__.co_firstlineno + 2
    assert (
        f"on data that lead to the branch <lambda> (test_checking.py:{line}) of torch.cond differs" in message
    ) == other


@pytest.mark.parametrize(
    ("forward", "spelling", "expected", "step"),
    [
        (loops, nn.Linear, ("fc", "Linear"), "step 1 of while_loop"),
        (loops, torch.where, ("where", "where"), "step 1 of while_loop"),
        (loops, torch.add, ("add", "add"), "step 1 of while_loop"),
        (steps, torch.tanh, ("tanh", "tanh"), "step 1 of scan"),
        (steps, torch.exp, ("exp", "exp"), "step 1 of scan"),
        (both, torch.tanh, ("tanh", "tanh"), "step 2 of while_loop"),
        (both, nn.Linear, ("fc", "Linear"), "step 2 of while_loop"),
    ],
)
def test_the_step_of_a_loop_is_told(
    forward: Callable[..., Any],
    spelling: Any,
    expected: tuple[str, str],
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(monkeypatch, spelling)
    path, operation, message = disagreement(Model(forward, fc=nn.Linear(4, 4)), UP)
    assert (path, operation) == expected
    assert message.endswith(f" in {step}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, torch.tanh)
    assert disagreement(Model(both, fc=nn.Linear(4, 4)).to(dtype), UP.to(dtype))[:2] == ("tanh", "tanh")


def test_a_folded_layer_within_a_side(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, nn.Conv1d)
    assert disagreement(Folded(), torch.rand(1, 2, 8))[:2] == ("norm", "folded into conv")


def test_sizes_are_varied_until_each_side_is_compared() -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        return torch.cond(x.shape[0] > 9, lambda x: x + 1, lambda x: x, (x,))

    conversion = tracer.convert(Model(forward), tracer.spec("N", 4))
    assert conversion.verification.notes == []
    assert max(comparison.sizes["N"] for comparison in conversion.verification.comparisons) > 9


def test_what_no_data_lead_to_is_said() -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        return torch.cond(x.sum() == 12345, lambda x: x + 1, lambda x: x, (x,))

    def endless(model: Any, x: Tensor) -> Any:
        return torch.while_loop(lambda h: h.sum() == 12345, lambda h: (h + 1,), (x,))

    for function, what in (
        (forward, "branch <lambda> {} of torch.cond"),
        (endless, "loop <lambda> {} of torch.while_loop"),
    ):
        place = f"(test_checking.py:{function.__code__.co_firstlineno + 1})"
        notes = tracer.convert(Model(function), UP).verification.notes
        assert notes == [f"the {what.format(place)} is not compared: no data that were tried lead to it"]


def test_data_for_which_a_loop_does_not_end_are_none() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        y = torch.cond(x.sum() > 0, lambda x: x, lambda x: x * 1, (x,))
        return torch.while_loop(lambda h: h.sum() < 100, lambda h: (h * 2,), (y,))

    conversion = tracer.convert(Model(forward), UP)
    assert len(conversion.verification.notes) == 1  # with a negative sum it goes on for ever
