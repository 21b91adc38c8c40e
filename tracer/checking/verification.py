"""The exported file run beside the eager module."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import onnx
import torch
from torch import nn

from passes.errors import ExportError, TracerError, VerificationError
from passes.isolation.control_flow import plain_control_flow
from passes.isolation.own_randomness import own_randomness, python_randomness_kept
from passes.isolation.plain_attention import plain_attention
from passes.isolation.torch_state import TORCH_STATE
from passes.onnx.lowered_model import LoweredModel
from passes.onnx.types import onnx_type
from passes.program.costs import Work
from passes.program.packed_lengths import lengths_among_inputs
from passes.program.stages import Eager
from passes.sizes.guards import Location
from tracer.checking.agreement import Array, cloned, distance, fault_of, flat_tensors, tolerances
from tracer.checking.eager_runs import EagerRuns, Tensors, first_line
from tracer.checking.session import Session
from tracer.checking.trial_inputs import Arguments, attempts
from tracer.checking.trial_sizes import Trial, trials
from tracer.checking.unspecified import (
    ALTERNATIVES,
    DISTANCES,
    DISTANCES_FROM,
    DISTANCES_TO,
    POSITIONS,
    Noting,
    between,
)
from tracer.checking.ways import MOST_STEPS, MOST_STEPS_BESIDE, other_counts, variations, ways
from tracer.edge.source_lines import is_user_code, source_line
from tracer.inputs.sample import Sample
from tracer.inputs.size_search import Sizes

# After so many seconds, or so many times what a run at the sampled sizes takes, nothing more is run.
LEAST_TIME, MOST_RUNS = 5.0, 8


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output at one set of sizes: the largest absolute difference, and the output's range.

    `step` counts the runs that follow each other, from 1, where a state is fed back.
    """

    output: str
    sizes: dict[str, int]
    difference: float
    scale: float
    step: int = 1

    @property
    def relative(self) -> float:
        return self.difference / max(self.scale, 1.0)


@dataclass(slots=True)
class Verification:
    """What running the exported model beside the eager module gave; `runtime` says what ran it.

    `comparisons` have the sizes at which it ran, and `skipped` says at which it did not, and why. `left_behind` are the
    buffers and attributes that the forward writes: the file does not keep them. `notes` say what else is to be known:
    where results differ that torch leaves open, which sizes the module itself does not take, what was skipped.
    """

    runtime: str
    comparisons: list[Comparison] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def largest_difference(self) -> float:
        return max((comparison.difference for comparison in self.comparisons), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        return {
            "runtime": self.runtime,
            "largest_difference": self.largest_difference,
            "comparisons": [
                {"output": c.output, "sizes": c.sizes, "step": c.step, "difference": c.difference, "range": c.scale}
                for c in self.comparisons
            ],
            "left_behind": self.left_behind,
            "notes": self.notes,
            "skipped": self.skipped,
        }


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a disagreement begins: a sentence, and the place in the caller's model where it is known."""

    text: str
    location: Location | None = None
    operation: str = ""


# Finds the origin of a disagreement, from the module and the arguments of the run that showed it.
Locate = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], Origin]


def verify(
    lowered: LoweredModel,
    program: Eager,
    module: nn.Module,
    sample: Sample,
    file: Path | None = None,
    locate: Locate | None = None,
) -> Verification:
    """Runs the exported model and the module on the same inputs and compares every output.

    The module runs first, so that the file is not blamed for what the module itself does not take. The inputs are the
    sample's own data where it has some, made up elsewhere; with dynamic dimensions they run again at the edges of the
    sizes for which the result is said to hold (`trial_sizes.trials`), until the time for that is spent: MOST_RUNS times
    what the run at the sampled sizes took, or LEAST_TIME where that is more. Where tensors of the model are inputs and
    outputs, each time is several steps: of the module on one copy, of the file with its own outputs fed back. `program`
    is what the model was lowered from, and `file` what was written. Copies of `module` are run, in eval mode. `locate`
    is asked where a disagreement begins. Random state is restored.

    Raises VerificationError where an output differs by more than its dtype's tolerance, or the model does not run;
    ExportError where the module itself does not.
    """
    check = _Check(lowered, program, EagerRuns(module, program), sample, file, locate)
    plain = plain_attention(), plain_control_flow()
    with TORCH_STATE, own_randomness(0), python_randomness_kept(), torch.no_grad(), plain[0], plain[1]:
        check.run_all(trials(sample.dimensions(), program.log, partial(Work.of, program)))
        check.run_other_ways()
        check.run_other_counts()
    check.result.left_behind = check.eager.left_behind
    return check.result


# How many steps a module with state takes.
_STEPS = 3


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of the module: at which sizes, on what in each of its steps, with which randomness, and what it gave."""

    sizes: Sizes
    steps: list[Arguments]
    randomness: torch.Tensor
    expected: list[Tensors]


class _Check:
    """One verification: what is compared, and what came of it so far."""

    def __init__(
        self,
        lowered: LoweredModel,
        program: Eager,
        eager: EagerRuns,
        sample: Sample,
        file: Path | None,
        locate: Locate | None,
    ):
        self.lowered = lowered
        self.program = program
        self.eager = eager
        self.sample = sample
        self.file = file
        self.locate = locate
        self.names = sample.dimensions()
        self.lengths = lengths_among_inputs(program)
        self.result = Verification("")
        self._untaken = ways(program)
        self._compared: list[Sizes] = []
        self._refused: list[Sizes] = []  # the module does not run there
        self._steps = _STEPS if program.kept else 1
        self._session: Session | None = None
        self._loading = 0.0  # the seconds that loading the file took
        self._end = math.inf  # when nothing more is run

    @property
    def session(self) -> Session:
        """The file, loaded when it is first run: after the module has."""
        if self._session is None:
            start = perf_counter()
            self._session = Session(self.lowered, self.file)
            self.result.runtime = self._session.runtime
            self._loading = perf_counter() - start
        return self._session

    def run_all(self, planned: Iterable[Trial]) -> None:
        """Compares at the sizes of each trial; of those that are not the caller's own, until the time is spent."""
        own, allowed = 0.0, LEAST_TIME
        not_found: list[str] = []
        late: list[str] = []
        for trial in planned:
            start = perf_counter()
            if not trial.names:
                self._run(trial)
                own += perf_counter() - start
                continue
            if self._end == math.inf:
                allowed = max(MOST_RUNS * (own - self._loading), LEAST_TIME)
                self._end = start + allowed
            if self._is_late():
                late.append(trial.about)
            elif not self._run(trial):
                not_found.append(trial.about)
        self._skip(not_found, "no such sizes were found for which the guards hold and a run is not too much")
        self._skip(late, f"the {allowed:.1f} s for further sizes were spent")

    def _is_late(self) -> bool:
        return perf_counter() > self._end

    def _run(self, trial: Trial) -> bool:
        """Compares at the first sizes of the trial at which the module runs; False where the trial has none."""
        there_are_some = False
        for sizes in trial.sizes:
            there_are_some = True
            if sizes in self._compared:
                break
            run = self._eager_run(sizes, trial.names) if sizes not in self._refused else None
            if run is not None:
                self._compare(run, trial.names)
                self._compared.append(sizes)
                break
            self._refused.append(sizes)
        return there_are_some

    def _skip(self, about: Sequence[str], why: str) -> None:
        self.result.skipped += [f"{each}: {why}" for each in about]
        if about:
            self._note(f"not tried: {', '.join(about)}; {why}")

    def run_other_ways(self) -> None:
        """Compares on data that lead to each branch and each loop that no run has come to, as far as such are found."""
        for sizes, arguments in variations(self.sample, self.program.log) if self._untaken else ():
            steps = [arguments] * self._steps
            randomness = torch.get_rng_state()
            try:
                expected, _ = self.eager.first_steps(steps, MOST_STEPS_BESIDE)
            except (Exception, SystemExit):  # it takes not just any data
                continue
            new = [text for way, text in self._untaken.items() if way in self.eager.taken]
            if new:
                run = _Run(sizes, steps[: len(expected)], randomness, expected)
                self._compare(run, (), f" on data that lead to {new[0]}")
            if not self._untaken:
                return
        for text in self._untaken.values():
            self._note(f"{text} is not compared: no data that were tried lead to it")

    def run_other_counts(self) -> None:
        """Compares on data in which other numbers of elements are found, where sizes come from data."""
        for sizes, arguments in other_counts(self.sample, self.program.log) if self.program.log.unknown else ():
            steps = [arguments] * self._steps
            randomness = torch.get_rng_state()
            try:
                expected, _ = self.eager.first_steps(steps, MOST_STEPS)
            except (Exception, SystemExit):  # it takes not just any data
                continue
            self._compare(_Run(sizes, steps[: len(expected)], randomness, expected), (), " on other data")

    def _eager_run(self, sizes: Sizes, moved: Sequence[str]) -> _Run | None:
        """A run of the module on the first data that it takes; None where it takes none at sizes of our choice.

        Raises ExportError at the caller's own sizes.
        """
        failure: BaseException | None = None
        tried = 0
        own = all(leaf.tensor is not None for leaf in self.sample.leaves())
        for make in attempts(self.sample, sizes, self.lengths):
            if failure is not None and self._is_late():
                break
            steps = [make() for _ in range(self._steps)]
            randomness = torch.get_rng_state()
            try:
                expected, ended = self.eager.first_steps(steps, math.inf if own and not tried else MOST_STEPS)
            except (Exception, SystemExit) as error:  # the caller's own code may raise anything
                failure, tried = failure or error, tried + 1
                continue
            if ended:
                self._note(f"the state is followed over {len(expected)} of {_STEPS} steps: the next raises {ended}")
            return _Run(sizes, steps[: len(expected)], randomness, expected)
        assert failure is not None
        fault = _not_running(failure, _at(self._shown(sizes)), tried)
        if not moved:
            raise fault from failure
        place = f"{fault.location}: " if fault.location else ""
        self._note(f"{place}{fault.message}; these sizes are stated as valid, and the file was not compared")
        return None

    def _compare(self, run: _Run, moved: Sequence[str], about: str = "") -> None:
        """Compares each step; the file takes the state that it has given itself."""
        self._untaken = {way: text for way, text in self._untaken.items() if way not in self.eager.taken}
        session, state = self.session, self.eager.state()
        for place, arguments in enumerate(run.steps):
            found = session.run([*flat_tensors(arguments), *state])
            self._compare_step(run, place, found, moved, about)
            state = [torch.from_numpy(array.copy()) for array in found[len(found) - len(state) :]]

    def _compare_step(self, run: _Run, place: int, found: Sequence[Array], moved: Sequence[str], about: str) -> None:
        tolerance = tolerances(self.program, self.session.in_float32)[self.program.output()]
        outputs, expected = self.lowered.proto.graph.output, run.expected[place]
        shown = self._shown(run.sizes)
        where = _at(shown) + about + (f" in step {place + 1}" if place else "")
        faults: dict[int, str] = {}
        for index, (output, ours, theirs) in enumerate(zip(outputs, found, expected, strict=True)):
            if (wrong := _dtype_fault(output, theirs)) is not None:
                raise self._disagreement(run, place, f"output {output.name}{where} {wrong}", moved)
            if (fault := fault_of(ours, theirs, tolerance)) is not None:
                faults[index] = fault
        excused = self._excused(run, place, found, faults, tolerance) if faults else {}
        for index, fault in faults.items():
            if index not in excused:
                raise self._disagreement(run, place, f"output {outputs[index].name}{where} {fault}", moved)
        for index, (output, ours) in enumerate(zip(outputs, found, strict=True)):
            theirs = excused.get(index, expected[index])
            self.result.comparisons.append(Comparison(output.name, shown, *distance(ours, theirs), place + 1))

    def _excused(
        self, run: _Run, place: int, found: Sequence[Array], faults: Mapping[int, str], tolerance: float
    ) -> dict[int, torch.Tensor]:
        """By output, what the module may give as rightly, where that is what the file gives."""
        excused: dict[int, torch.Tensor] = {}

        def excuse(index: int, result: torch.Tensor, about: str) -> None:
            excused[index] = result
            self._note(f"output {self.lowered.proto.graph.output[index].name} differs in {about}")

        for alternative in ALTERNATIVES:
            results = self._again(run, alternative.inside())
            for index in faults.keys() - excused.keys():
                if results is not None and fault_of(found[index], results[place][index], tolerance) is None:
                    excuse(index, results[place][index], alternative.about)
        least, most = (self._again(run, end.inside()) for end in (DISTANCES_FROM, DISTANCES_TO))
        for index in faults.keys() - excused.keys():
            if least is not None and most is not None:
                nearest = between(found[index], [run[place][index] for run in (run.expected, least, most)])
                if nearest is not None and fault_of(found[index], nearest, tolerance) is None:
                    excuse(index, nearest, DISTANCES)
        noting = Noting()
        if faults.keys() - excused.keys() and self._again(run, noting) is not None:
            for index in faults.keys() - excused.keys():
                ours = torch.from_numpy(found[index].copy())
                if noting.equally_good(run.expected[place][index], ours, tolerance):
                    excuse(index, ours, POSITIONS)
        return excused

    def _again(self, run: _Run, inside: AbstractContextManager[Any]) -> list[Tensors] | None:
        """The module's results on the same data and random numbers, inside a block; None where it fails there."""
        torch.set_rng_state(run.randomness)
        try:
            with inside:
                return self.eager(run.steps)
        except (Exception, SystemExit):  # the caller's own code may raise anything
            return None

    def _disagreement(self, run: _Run, place: int, message: str, moved: Sequence[str]) -> TracerError:
        """The error for outputs that differ, which blames what is to blame."""
        once_more = self._again(run, nullcontext())
        if once_more is None or not _equal(once_more, run.expected):
            return VerificationError(
                "the module gives another result each time on the same data, with the same random numbers of torch, "
                "so it cannot be compared",
                remedy="make the forward depend on its inputs alone",
            )
        torch.manual_seed(1)
        otherwise = self.eager(run.steps)
        if not _equal(otherwise, run.expected):
            return VerificationError(
                "the module gives another result each time, as it draws random numbers, so it cannot be compared",
                remedy="make the random numbers an input of the model",
            )
        remedy = "try --no-fold-batchnorm or another --opset, and report the model"
        if moved:
            message += f"; at the sampled sizes {_listed(self._shown(self.program.log.sampled))} it agrees"
            remedy = f"give fixed sizes for {', '.join(moved)}, and report the model"
        torch.set_rng_state(run.randomness)
        if self.locate is None:
            return VerificationError(message, remedy=remedy)
        args, kwargs = run.steps[place]
        with self.eager.fresh() as module:
            for before in run.steps[:place]:
                self.eager.step(module, before)
            origin = self.locate(module, cloned(args), cloned(kwargs))
        error = VerificationError(f"{message}; {origin.text}", remedy=remedy)
        return error if origin.location is None else error.placed(origin.location, origin.operation)

    def _shown(self, sizes: Mapping[str, int]) -> Sizes:
        return {name: sizes[name] for name in self.names}

    def _note(self, text: str) -> None:
        if text not in self.result.notes:
            self.result.notes.append(text)


def _dtype_fault(output: onnx.ValueInfoProto, expected: torch.Tensor) -> str | None:
    found = output.type.tensor_type.elem_type
    if found == onnx_type(expected.dtype):
        return None
    return f"is {onnx.helper.tensor_dtype_to_np_dtype(found)}, but the module gives {expected.dtype}"


def _not_running(error: BaseException, at: str, tried: int) -> TracerError:
    """The error for a module that does not run on any data that was tried."""
    inside = [place for place in traceback.walk_tb(error.__traceback__) if is_user_code(place[0].f_code)]
    return ExportError(
        f"the module itself does not run{at}: {type(error).__name__}: {first_line(error)}"
        + (f" (nor on {tried - 1} other inputs that were made up)" if tried > 1 else ""),
        remedy="make it run on this sample" + (", or give tensors that it runs on as the sample" if tried > 1 else ""),
    ).placed(Location("", source_line(*inside[-1]) if inside else None))


def _equal(left: list[Tensors], right: list[Tensors]) -> bool:
    pairs = zip(
        (tensor for step in left for tensor in step), (tensor for step in right for tensor in step), strict=True
    )
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _at(sizes: Mapping[str, int]) -> str:
    return f" at {_listed(sizes)}" if sizes else ""


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
