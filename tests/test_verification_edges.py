"""A file that is wrong at an edge only of what the report states is found, whatever ties the sizes; and where no such
size could be run, that is said."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import tracer
from passes.program.costs import Work
from passes.sizes.dimension import Size, maximum, minimum
from passes.sizes.formulas.formula import Formula
from passes.sizes.guards import GuardLog
from tests.ops.oracle import Call
from tests.sabotage import only_at, spoil
from tracer import VerificationError, spec
from tracer.checking import trial_sizes, verification
from tracer.checking.trial_sizes import trials
from tracer.checking.verification import Verification
from tracer.inputs.sample import bind_sample


@dataclass
class Case:
    """A model with one `tanh`, whose lowering is wrong by `wrong(*its sizes)`; `at` says where that is found first."""

    sample: Any
    wrong: Callable[..., Size]
    at: str
    model: Callable[..., Any] = torch.tanh
    dims: dict[str, int] = field(default_factory=dict)


def paired(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Needs T == 2*U."""
    return (x[: y.shape[0]] + y).tanh() if x.shape[0] == 2 * y.shape[0] else x


def fitting(x: torch.Tensor) -> torch.Tensor:
    """Needs W <= H."""
    return x.tanh() if x.shape[1] >= x.shape[2] else x


def windows(x: torch.Tensor) -> torch.Tensor:
    """Needs T % 4 == 0."""
    return x.reshape(x.shape[0], -1, 4).tanh() if x.shape[1] % 4 == 0 else x


def short(x: torch.Tensor) -> torch.Tensor:
    """Needs T <= 90."""
    return x.tanh() if x.shape[1] <= 90 else x


def after(past: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([past, x], 1).tanh()


CACHE = (spec("N", "P", 3, "P>=0"), spec("N", 1, 3))
EIGHT = tuple("ABCDEFGH")
PAIR, TWICE = (spec("T"), spec("U")), {"T": 64, "U": 32}

CASES: dict[str, Case] = {
    # One name.
    "least": Case(spec("N", 3), lambda n, _: only_at(n, 1), "N=1"),
    "second least": Case(spec("N", 3), lambda n, _: only_at(n, 2), "N=2", dims={"N": 7}),
    "far": Case(spec("N", 3), lambda n, _: maximum(n - 5, 0), r"N=\d"),
    "far, of a wide axis": Case(spec(3, "T"), lambda _, t: maximum(t - 150, 0), r"T=\d\d\d"),
    # Several.
    "all at their least": Case(spec("N", "H", "W"), lambda n, h, w: only_at(n * h * w, 1), "N=1, H=1, W=1"),
    "the last at its least alone": Case(
        spec("N", "H", "W"), lambda n, h, w: only_at(w, 1) * minimum(n - 1, 1), "N=2, H=64, W=1"
    ),
    "the first far alone": Case(spec("N", "T"), lambda n, t: maximum(n - 5, 0) * minimum(t - 1, 1), r"N=\d, T=64"),
    "the eighth of eight": Case(
        spec(*EIGHT), lambda *all: only_at(all[7], 1) * minimum(all[0] - 1, 1), "G=2, H=1", dims=dict.fromkeys(EIGHT, 2)
    ),
    # Tied by guards.
    "least of two that are tied": Case(PAIR, lambda u: only_at(u, 1), "T=2, U=1", paired, TWICE),
    "second least of two that are tied": Case(PAIR, lambda u: only_at(u, 2), "T=4, U=2", paired, TWICE),
    "far of two that are tied": Case(PAIR, lambda u: maximum(u - 60, 0), r"T=\d\d\d, U=\d\d+", paired, TWICE),
    "least that another follows": Case(spec(2, "H", "W"), lambda _, h, w: only_at(h, 1), "H=1, W=1", fitting),
    "least below another": Case(
        spec(2, "H", "W"), lambda _, h, w: only_at(w, 1) * minimum(h - 1, 1), "H=64, W=1", fitting
    ),
    # Promised.
    "none at all": Case(CACHE, lambda n, t, _: only_at(t, 1) * (n + 1), "N=1, P=0", after),
    "none beside others": Case(CACHE, lambda n, t, _: only_at(t, 1) * minimum(n - 1, 1), "N=2, P=0", after),
    "one where none may be": Case(CACHE, lambda n, t, _: only_at(t, 2), "P=1", after),
    "a promised least": Case(spec("N", "T", "T>=33"), lambda n, t: only_at(t, 33), "T=33"),
    "a promised largest": Case(spec("N", "T", "T<=90"), lambda n, t: only_at(t, 90), "T=90"),
    "a promised multiple": Case(spec("N", "T", "T%24==0"), lambda n, t: only_at(t, 24), "T=24"),
    "the second of multiples": Case(
        spec("N", "T", "T%24==0"), lambda n, t: only_at(t, 48), "N=2, T=48", dims={"T": 96}
    ),
    "promised together": Case(spec("N", "T", "N*T<=200"), lambda n, t: maximum(n * t - 192, 0), r"N=\d+, T=\d+"),
    "promised equal": Case(spec(1, "H", "W", "H==W", "H%40==0"), lambda _, h, w: only_at(w, 40), "H=40, W=40"),
    # Guards of one name.
    "a largest": Case(spec("N", "T"), lambda n, t: only_at(t, 90), "N=2, T=90", short),
    "a multiple": Case(spec("N", "T"), lambda n, t, _: only_at(t, 1), "T=4", windows),
    "the second multiple": Case(spec("N", "T"), lambda n, t, _: only_at(t, 2), "N=2, T=8", windows),
}


def model_of(case: Case) -> nn.Module:
    return Call(case.model)


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_is_wrong_at_an_edge_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    spoil(monkeypatch, torch.tanh, by=case.wrong)
    with pytest.raises(VerificationError, match=f"{case.at}(, .*)? differs from .*at the sampled sizes .* it agrees"):
        tracer.convert(model_of(case), case.sample, dims=case.dims, route="direct")


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_is_right_is_not_blamed(name: str) -> None:
    case = CASES[name]
    conversion = tracer.convert(model_of(case), case.sample, dims=case.dims, route="direct")
    assert conversion.verification is not None
    assert conversion.verification.largest_difference < 1e-6
    assert all(conversion.program.log.facts.hold(run.sizes) for run in conversion.verification.comparisons)


OUTSIDE: dict[str, Case] = {
    "below what is promised": Case(spec("N", "T", "T>=33"), lambda n, t: maximum(33 - t, 0), ""),
    "above what is promised": Case(spec("N", "T", "T<=90"), lambda n, t: maximum(t - 90, 0), ""),
    "between multiples": Case(spec("N", "T", "T%24==0"), lambda n, t: minimum(t % 24, 1), ""),
    "above a guard": Case(spec("N", "T"), lambda n, t: maximum(t - 90, 0), "", short),
    "none": Case(spec("N", "T"), lambda n, t: maximum(1 - n * t, 0), ""),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_is_run_outside_of_what_is_stated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = OUTSIDE[name]
    spoil(monkeypatch, torch.tanh, by=case.wrong)
    conversion = tracer.convert(model_of(case), case.sample, dims=case.dims, route="direct")
    assert conversion.verification is not None


def verified(model: nn.Module, *sample: Any, **options: Any) -> Verification:
    result = tracer.convert(model, sample, **options).verification
    assert result is not None
    return result


# How far, and how much ---------------------------------------------------------------------------------


def tried(names: Sequence[str], work: Formula | None = None, **dims: int) -> list[dict[str, int]]:
    """The sizes that are run at where a run is as much work as a formula says, those that are likeliest."""
    log = GuardLog()
    bind_sample(nn.Identity(), spec(*names), None, None, dims, log)
    planned = trials(names, log, lambda: Work(0, {} if work is None else {work: 1}, {}))
    return [found for trial in planned for found in itertools.islice(trial.sizes, 1)]


def symbol(name: str) -> Formula:
    return Formula.symbol(name)


def test_each_edge_of_each_name_is_tried_the_most_telling_first() -> None:
    sampled, together, *alone = tried(["N", "T"])
    assert (sampled, together) == ({"N": 2, "T": 64}, {"N": 1, "T": 1})
    assert alone == [
        {"N": 1, "T": 64}, {"N": 2, "T": 1}, {"N": alone[2]["N"], "T": 64}, {"N": 2, "T": alone[3]["T"]},
        {"N": 2, "T": 64}, {"N": 2, "T": 2},
    ]  # fmt: skip


@pytest.mark.parametrize("size", [2, 3, 7, 64, 500])
def test_a_far_size_is_several_times_the_sampled_one_and_the_same_each_time(size: int) -> None:
    sizes = tried(["N"], N=size)
    assert sizes == tried(["N"], N=size)
    assert 3 * size <= max(found["N"] for found in sizes) <= 5 * size


@pytest.mark.parametrize(
    ("work", "least", "most"),
    [
        (2**20 * symbol("T"), 1.5, 2),
        (2**20 * symbol("T") * symbol("T"), 65 / 64, 65 / 64),
        (2**10 * symbol("T"), 3, 5),  # little in any case
    ],
)
def test_a_far_size_is_nearer_where_a_run_is_much_work(work: Any, least: float, most: float) -> None:
    far = max(found["T"] for found in tried(["T"], work, T=64))
    assert least * 64 <= far <= most * 64


def test_a_run_that_is_too_much_work_is_left_out_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_sizes, "_LITTLE", 0)
    monkeypatch.setattr(trial_sizes, "_MOST_TIMES", 1)
    monkeypatch.setattr(trial_sizes, "_FAR_TIMES", 1)
    result = verified(Call(torch.tanh), spec("T", 4, "T%8==0"))  # the next size is twice the work
    assert [run.sizes for run in result.comparisons] == [{"T": 8}]
    assert result.skipped == [
        f"{about} T: no such sizes were found for which the guards hold and a run is not too much"
        for about in ("a far", "the second least")
    ]


# What could not be run ----------------------------------------------------------------------------------


ABOUT = [
    "the least N and T together",
    "the least N",
    "the least T",
    "a far N",
    "a far T",
    "the second least N",
    "the second least T",
]


def test_without_time_the_callers_own_sizes_are_run_and_the_others_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "LEAST_TIME", 0.0)
    monkeypatch.setattr(verification, "MOST_RUNS", 0)
    result = verified(Call(torch.tanh), torch.ones(6, 5), dynamic_shapes=({0: "N", 1: "T"},), dims={"N": 3})
    assert [run.sizes for run in result.comparisons] == [{"N": 3, "T": 5}, {"N": 6, "T": 5}]
    why = "the 0.0 s for further sizes were spent"
    assert result.skipped == [f"{about}: {why}" for about in ABOUT]
    assert result.notes == [f"not tried: {', '.join(ABOUT)}; {why}"]
    assert result.to_dict()["skipped"] == result.skipped


@pytest.mark.parametrize("runs", [2, 6])
def test_as_many_are_run_as_the_time_allows_that_the_first_run_took(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(verification, "perf_counter", lambda: float(next(seconds)))
    monkeypatch.setattr(verification, "LEAST_TIME", 0.0)
    monkeypatch.setattr(verification, "MOST_RUNS", runs)
    result = verified(Call(torch.tanh), spec("N", "T"), dims={"N": 5})
    tried = len(ABOUT) - len(result.skipped)
    assert 0 < tried < len(ABOUT)
    assert [each.split(":")[0] for each in result.skipped] == ABOUT[tried:]
    assert len(result.comparisons) == 1 + tried


def test_sizes_at_which_the_module_itself_fails_are_told_and_others_tried() -> None:
    rows = nn.Embedding(64, 1)

    def third_to_last(x: torch.Tensor) -> torch.Tensor:
        return x + rows(torch.tensor(0) + x.shape[1] - 3)

    result = verified(Call(third_to_last), spec("N", "T", "T<=66"))
    assert {run.sizes["T"] for run in result.comparisons} == {64, 65, 66}
    assert len(result.notes) == 3
    for note, sizes in zip(result.notes, ("N=1, T=1", "N=2, T=1", "N=2, T=2"), strict=True):
        assert f"the module itself does not run at {sizes}: IndexError" in note
        assert note.endswith("these sizes are stated as valid, and the file was not compared")
    assert result.skipped == []


def test_where_no_sizes_are_found_that_is_said() -> None:
    result = verified(Call(torch.tanh), spec(1, "H", "W", "H*H+W*W==8192"))
    assert {tuple(run.sizes.values()) for run in result.comparisons} == {(64, 64)}
    assert [each.split(":")[0] for each in result.skipped] == [
        "the least H and W together",
        "a far H",
        "a far W",
        "the second least H",
        "the second least W",
    ]


def test_fixed_sizes_are_run_once_and_nothing_is_computed_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Work, "of", lambda program: pytest.fail("the work of a run was asked for"))
    result = verified(Call(torch.tanh), spec(2, 3))
    assert [run.sizes for run in result.comparisons] == [{}]
    assert result.skipped == result.notes == []
