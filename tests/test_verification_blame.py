"""Verification blames the right side: a wrong file is found, a right one never, and the message names the cause."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import tracer
from passes.lowering.pinned_sizes import pinned_sizes
from passes.program.costs import Work
from passes.sizes.guards import GuardLog
from tests.reading import moved
from tests.reading import sizes as declared
from tests.sabotage import spoil
from tracer import ExportError, VerificationError, spec
from tracer.capture.ladder import follow
from tracer.checking.agreement import fault_of
from tracer.checking.trial_sizes import trials
from tracer.checking.verification import Verification, verify
from tracer.inputs.sample import bind_sample

INDICES = torch.int64


class Calls(nn.Module):
    """A function of the module and its inputs, with what it needs as attributes."""

    def __init__(self, function: Callable[..., Any], **parts: Any):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self, *inputs)


def verified(model: nn.Module, *args: Any, **options: Any) -> Verification:
    result = tracer.convert(model, args, seed=0, **options).verification
    assert result is not None
    return result


def compared(right: nn.Module, other: nn.Module, *args: Any) -> Verification:
    """The file of one model, held against another module."""
    log = GuardLog()
    sample = bind_sample(other, args, None, None, None, log)
    program, _ = follow(other, sample, log)
    return verify(tracer.convert(right, args, verify=False).lowered, program, other, sample)


# Data that was made up -----------------------------------------------------------------------------


TAKES: dict[str, Callable[..., Any]] = {
    "a table of one row": lambda m, i: m.one(i),
    "a table of another range": lambda m, i: m.five(i - 5),
    "a divisor": lambda m, i: 100 // i,
    "a remainder": lambda m, i: 7 % i,
    "divisors and rows": lambda m, i, j: m.five(i) + (9 // j).unsqueeze(-1),
    "a table of constants": lambda m, i: m.five.weight[i - 3],
}


@pytest.mark.parametrize("kind", TAKES)
def test_integers_are_made_up_that_the_module_takes(kind: str) -> None:
    function = TAKES[kind]
    count = function.__code__.co_argcount - 1
    model = Calls(function, one=nn.Embedding(1, 4), five=nn.Embedding(5, 4))
    result = verified(model, *[spec("N", 3, dtype=INDICES)] * count)
    least, sampled, far = sorted({comparison.sizes["N"] for comparison in result.comparisons})
    assert (least, sampled) == (1, 2)
    assert far >= 6


def test_the_callers_own_data_is_tiled_or_cut_to_other_sizes() -> None:
    model = Calls(lambda m, i: m.rows(i - 1000), rows=nn.Embedding(50, 4))
    sample = torch.randint(1000, 1050, (4, 6))
    result = verified(model, sample, dynamic_shapes=[{0: "N", 1: "T"}])
    runs = {tuple(c.sizes.values()) for c in result.comparisons}
    assert {run for run in runs if run <= (4, 6)} == {(4, 6), (1, 1), (1, 6), (4, 1), (2, 6), (4, 2)}
    assert any(n > 4 and t == 6 for n, t in runs)
    assert any(n == 4 and t > 6 for n, t in runs)


def positions(m: Any, x: torch.Tensor) -> torch.Tensor:
    return x + m.rows(torch.arange(x.shape[1])).squeeze(-1)


def test_a_size_that_the_module_does_not_take_is_no_fault_of_the_file() -> None:
    def backwards(m: Any, x: torch.Tensor) -> torch.Tensor:  # up to where they go is known of positions as they are
        return x + m.rows(torch.arange(x.shape[1]).flip(0)).squeeze(-1)

    result = verified(Calls(backwards, rows=nn.Embedding(64, 1)), spec("N", "T"))
    assert {c.sizes["T"] for c in result.comparisons} == {64, 63, 2, 1}
    (far, next_one) = result.notes
    assert re.search(r"the module itself does not run at N=2, T=[1-3]\d\d: IndexError", far)
    assert "the module itself does not run at N=2, T=65: IndexError" in next_one
    assert all(note.endswith("these sizes are stated as valid, and the file was not compared") for note in result.notes)


def test_bounds_of_a_dimension_are_honoured_and_written() -> None:
    shapes = [{0: torch.export.Dim("N"), 1: torch.export.Dim("T", min=4, max=64)}]
    model = Calls(positions, rows=nn.Embedding(64, 1))
    conversion = tracer.convert(model, torch.randn(2, 64), dynamic_shapes=shapes)
    assert conversion.verification is not None
    assert conversion.verification.notes == []
    assert all(4 <= c.sizes["T"] <= 64 for c in conversion.verification.comparisons)
    assert conversion.report.constraints == ["T >= 4", "T <= 64"]
    assert conversion.report.guards == []
    with pytest.raises(tracer.InputError, match="the sample has T = 70, but the constraint T <= 64 excludes that"):
        tracer.convert(model, torch.randn(2, 70), dynamic_shapes=shapes)


def test_a_module_that_runs_on_nothing_is_the_modules_fault_and_no_advice_is_given_to_look_away() -> None:
    def fails(m: Any, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2).view(x.shape[0], -1)

    with pytest.raises(ExportError, match=r"test_verification_blame\.py:\d+\): the module itself does not run") as info:
        tracer.convert(Calls(fails), spec("N", 2, 3))
    assert "no-verify" not in str(info.value)
    with pytest.raises(ExportError, match="the module itself does not run at N=2") as info:
        tracer.convert(
            Calls(lambda m, i: m.one(i), one=nn.Embedding(1, 4)), torch.full((2, 3), 7), dynamic_shapes=[{0: "N"}]
        )
    assert "made up" not in str(info.value)


# Integers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exact", "off"),
    [
        (torch.tensor([2**53, 5]), torch.tensor([2**53 + 1, 5])),
        (torch.tensor([2**62 + 1]), torch.tensor([2**62])),
        (torch.tensor([-(2**63)]), torch.tensor([-(2**63) + 1])),
        (torch.tensor([True, False]), torch.tensor([True, True])),
        (torch.tensor([200], dtype=torch.uint8), torch.tensor([201], dtype=torch.uint8)),
        (torch.tensor(3, dtype=torch.int32), torch.tensor(4, dtype=torch.int32)),
    ],
)
def test_integers_and_booleans_compare_exactly(exact: torch.Tensor, off: torch.Tensor) -> None:
    assert fault_of(exact.numpy(), exact, 0.1) is None
    assert "differs from the module's in 1 of" in str(fault_of(off.numpy(), exact, 0.1))


def test_an_integer_that_is_off_by_one_is_found_in_a_file() -> None:
    right, off = Calls(lambda m, x: x + 2**60), Calls(lambda m, x: x + 2**60 + 1)
    assert compared(right, right, spec("N", dtype=INDICES)).largest_difference == 0
    with pytest.raises(
        VerificationError, match=r"differs from the module's in 2 of 2 elements: \d+ and not \d+ at \[0\]"
    ):
        compared(right, off, spec("N", dtype=INDICES))


# Sizes ----------------------------------------------------------------------------------------------


def test_a_file_that_takes_one_size_for_another_is_found() -> None:
    """Both are sampled alike, and alike at their least."""

    def right(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.sum() * x.shape[0] + y.sum()

    def wrong(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.sum() * y.shape[0] + y.sum()

    with pytest.raises(VerificationError, match=r"at A=1, B=2 .*; at the sampled sizes A=2, B=2 it agrees") as info:
        compared(Calls(wrong), Calls(right), spec("A"), spec("B"))
    assert "give fixed sizes for A, and report" in str(info.value)


@pytest.mark.parametrize("names", [1, 2, 3])
def test_each_size_is_moved_by_itself_and_all_together(names: int) -> None:
    axes = ["A", "B", "C"][:names]
    result = verified(Calls(lambda m, x: x.tanh()), spec(*axes))
    assert moved(result) == {frozenset([name]) for name in axes} | {frozenset(axes)}


PINS: dict[str, tuple[Callable[[int], bool], int]] = {
    "equal": (lambda t: t == 64, 64),
    "two bounds": (lambda t: t >= 64 and t <= 64, 64),
    "strict bounds": (lambda t: t > 63 and t < 65, 64),
    "a quotient and a remainder": (lambda t: t // 2 == 32 and t % 2 == 0, 64),
    "a bounded multiple": (lambda t: t % 64 == 0 and t < 128, 64),
    "a formula": (lambda t: 3 * t + 1 == 193, 64),
    "half": (lambda t: t // 2 == 32, 0),
    "a bound": (lambda t: t <= 64, 0),
    "a multiple": (lambda t: t % 64 == 0, 0),
    "another": (lambda t: t != 7, 0),
}


@pytest.mark.parametrize("kind", PINS)
@pytest.mark.filterwarnings("ignore:.* is fixed at")
def test_a_size_that_guards_pin_is_written_as_fixed(kind: str) -> None:
    condition, size = PINS[kind]
    model = Calls(lambda m, x: (x.sin() if condition(x.shape[1]) else x.cos()).sum(0))
    conversion = tracer.convert(model, spec("N", "T"))
    assert conversion.report.pinned == ({"T": size} if size else {})
    graph = conversion.lowered.proto.graph
    assert [declared(value) for value in (*graph.input, *graph.output)] == [["N", size or "T"], [size or "T"]]
    assert conversion.verification is not None
    assert {c.sizes["N"] for c in conversion.verification.comparisons} >= {2, 1}
    assert conversion.report.to_dict()["pinned"] == conversion.report.pinned


def test_pinned_sizes_are_those_at_which_guards_hold_alone() -> None:
    """Against every size, for pairs of conditions."""
    conditions: list[Callable[[Any], bool]] = [
        lambda t: t // 3 == 4, lambda t: t % 3 == 1, lambda t: t >= 13, lambda t: t <= 13, lambda t: t != 12,
        lambda t: 2 * t <= 27, lambda t: (t + 1) // 2 == 7, lambda t: t > 12,
    ]  # fmt: skip
    for chosen in itertools.combinations(conditions, 2):
        log = GuardLog()
        sample = bind_sample(nn.Identity(), spec("T"), None, None, {"T": 13}, log)
        (dim,) = sample.leaves()[0].spec.shape
        assert all(condition(dim) for condition in chosen)
        alone = [size for size in range(1, 200) if all(condition(size) for condition in chosen)] == [13]
        assert pinned_sizes(log) == ({"T": 13} if alone else {}), [guard.condition for guard in log.guards]


def test_sizes_that_guards_tie_move_as_one() -> None:
    log = GuardLog()
    sample = bind_sample(nn.Identity(), spec("T", "U"), None, None, {"T": 8, "U": 4}, log)
    t, u = sample.leaves()[0].spec.shape
    assert t == 2 * u
    first, *others = [list(trial.sizes) for trial in trials(["T", "U"], log, lambda: Work(1, {}, {}))]
    assert first == [{"T": 8, "U": 4}]
    assert all(others)
    assert all(sizes["T"] == 2 * sizes["U"] for found in others for sizes in found)


# What torch leaves open ----------------------------------------------------------------------------


def halves(x: torch.Tensor) -> torch.Tensor:
    return (x * 2).round() / 2


OPEN: dict[str, Callable[..., Any]] = {
    "topk": lambda m, x: torch.topk(halves(x), 5),
    "topk of zeros": lambda m, x: torch.topk(x.relu(), 20)[1],
    "smallest": lambda m, x: torch.topk(halves(x), 5, largest=False),
    "sort": lambda m, x: torch.sort(halves(x), dim=0),
    "argsort": lambda m, x: torch.argsort(halves(x), descending=True),
    "positions computed with": lambda m, x: torch.topk(halves(x), 5)[1] * 2 + 1,
    "argmax": lambda m, x: halves(x).argmax(),
    "max": lambda m, x: halves(x).max(-1),
    "median": lambda m, x: halves(x).median(-1),
    "kthvalue": lambda m, x: halves(x).kthvalue(3, -1),
    "rounding": lambda m, x: ((x + 1e4) - 1e4).softmax(-1).argsort(-1),
    "cdist": lambda m, x: torch.cdist(x, x),
    "a kernel of distances": lambda m, x: torch.exp(-torch.cdist(10 * x, 10 * x)),
    "neighbours": lambda m, x: torch.cdist(x, x).topk(3, largest=False)[1],
}


@pytest.mark.parametrize("kind", OPEN)
def test_a_right_file_is_not_blamed_for_what_torch_leaves_open(kind: str) -> None:
    result = verified(Calls(OPEN[kind]), spec(40, 32))
    assert result.largest_difference < 1e-3


def test_what_was_left_open_is_said() -> None:
    result = verified(Calls(OPEN["topk"]), spec("N", 64))
    assert result.notes == [
        "output output_1 differs in which position is given of values that are equal within rounding"
    ]
    assert result.to_dict()["notes"] == result.notes


@pytest.mark.parametrize("kind", OPEN)
def test_a_wrong_file_is_blamed_all_the_same(kind: str) -> None:
    """Positions that are off by one, or distances that are, are no matter of rounding."""

    def off(m: Any, x: torch.Tensor) -> Any:
        found = OPEN[kind](m, x)
        return (*found[:-1], found[-1] + 1) if isinstance(found, tuple) else found + 1

    with pytest.raises(VerificationError, match="differs from the module's"):
        compared(Calls(off), Calls(OPEN[kind]), spec(40, 32))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m, x: halves(x).argsort(-1).flip(-1),  # not the order that was asked for
        lambda m, x: halves(x).argsort(-1)[:, :1].expand(-1, 32),  # one position again and again
        lambda m, x: torch.argsort(-halves(x), -1),
    ],
)
def test_positions_must_lead_to_the_same_values_and_be_different(wrong: Callable[..., Any]) -> None:
    with pytest.raises(VerificationError, match="differs from the module's"):
        compared(Calls(wrong), Calls(lambda m, x: halves(x).argsort(-1)), spec(40, 32))


# What a forward leaves behind -----------------------------------------------------------------------


class KeyCache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.LazyLinear(4)
        self.register_buffer("keys", torch.zeros(6, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.keys[2:4] = self.project(x)
        return self.keys * 2


class Sums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x.sum(0)
        return x + self.total


class Rebinds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before, self.last = self.last, x
        return before + x


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.states["x"] = x
        return x * 2


STATES = {KeyCache: "keys", Sums: "total", Rebinds: "last", Counts: "calls", Keeps: "states"}


@pytest.mark.parametrize("kind", STATES)
def test_what_a_forward_leaves_behind_is_named_and_does_not_fail_the_file(kind: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Identity(), kind())
    path = f"1.{STATES[kind]}"
    assert tracer.inspect(model, spec(2, 3)).left_behind == [path]
    conversion = tracer.convert(model, spec(2, 3), seed=0)
    assert conversion.verification is not None
    assert conversion.verification.left_behind == [path]
    assert conversion.report.to_dict()["left_behind"] == [path]


@pytest.mark.parametrize(
    "model",
    [nn.LazyBatchNorm1d(), nn.Sequential(nn.LazyLinear(4), nn.Dropout(), nn.LazyBatchNorm1d()), nn.Linear(3, 4)],
)
def test_a_model_that_leaves_nothing_is_not_accused(model: nn.Module) -> None:
    assert tracer.inspect(model, spec(2, 3)).left_behind == []
    assert verified(model, spec(2, 3)).left_behind == []


# Causes ---------------------------------------------------------------------------------------------


def drawn(m: Any, x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand_like(x)


TICKS = itertools.count()


class Ticks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + next(TICKS)


def test_random_numbers_are_named_only_where_they_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VerificationError, match="as it draws random numbers"):
        tracer.convert(Calls(drawn), spec(2, 3))
    with pytest.raises(VerificationError, match="with the same random numbers of torch") as info:
        tracer.convert(Ticks(), spec(2, 3))
    assert "draws random numbers" not in str(info.value)
    spoil(monkeypatch, torch.tanh)
    with pytest.raises(VerificationError, match="differs from the module's by 1") as info:
        tracer.convert(Calls(lambda m, x: (torch.rand(3), x.tanh())[1]), spec(2, 3))
    assert "random" not in str(info.value)
    assert "verify" not in str(info.value)
