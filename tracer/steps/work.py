"""The state that the steps of a command share: one model on its way, and what each step has left of it.

A command (`tracer/commands/step_lists.py`) is a list of steps. The first is `follow_sample`; those after it are in
`resolving.py`, `exporting.py` and `delivery.py`. Each takes the `Work`, and leaves there what the next ones need.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from passes import ops  # noqa: F401  registers every op
from passes.errors import InputError, LazyResolutionError, SideEffectError, TracerError, TracerWarning
from passes.isolation.torch_state import TORCH_STATE
from passes.lowering.pinned_sizes import pinned_sizes
from passes.program.notes import location_of
from passes.program.pipeline import After, Before, Pass, PassResult, run_pass
from passes.program.stages import Eager, Lowered, Shaped
from passes.sizes.facts import Facts
from passes.sizes.guards import GuardLog
from passes.stages.caller_pass import CallerPass
from passes.values.spec import TensorSpec, describe
from tracer.capture.fitting_sizes import Followed, follow_where_it_fits
from tracer.capture.ladder import follow
from tracer.edge.source_lines import callers_level
from tracer.inputs.request import Request
from tracer.inputs.sample import Sample, check_sample
from tracer.inputs.state import with_state
from tracer.reports.report import Report, build_report

if TYPE_CHECKING:
    from tracer.checking.verification import Verification

# Of a request: the state that a forward leaves is an input and an output.
EXPLICIT = "explicit"

CallersPasses = Sequence[Pass[Any, Any] | Callable[[Any], object]]


@dataclass(slots=True, eq=False, repr=False)
class Work:
    """One model on its way.

    The first fields are there once the model is followed. Each of the others is what a step leaves, and is not there
    before: the report, the model whose lazy layers are resolved, the program of each later stage, the route that gave
    the last, and how far file and model agree. `timings` holds the seconds of each step.
    """

    model: nn.Module
    request: Request
    sample: Sample
    log: GuardLog
    shaped: Shaped
    timings: dict[str, float]
    report: Report = field(init=False)
    resolved: nn.Module = field(init=False)
    eager: Eager = field(init=False)
    lowered: Lowered = field(init=False)
    route: str = field(init=False)
    route_reason: str = field(init=False)
    verification: Verification | None = None

    def run(self, step: Pass[Before, After], program: Before) -> After:
        """What a pass makes of a program; the sample must still meet every guard."""
        given, result = run_pass(step, program)
        self.note([result])
        check_sample(self.log)
        return given

    def run_callers(self, passes: CallersPasses, program: Before) -> Before:
        """The program after the caller's passes. One that is a mere function runs on programs of any stage."""
        for step in passes:
            program = self.run(step if isinstance(step, Pass) else CallerPass(step, type(program)), program)
        return program

    def note(self, results: Sequence[PassResult]) -> None:
        """Adds the time of each pass to the timings."""
        for result in results:
            self.timings[result.name] = self.timings.get(result.name, 0.0) + result.seconds

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Adds the time of the block to that of the step."""
        started = time.perf_counter()
        yield
        self.timings[step] = self.timings.get(step, 0.0) + time.perf_counter() - started


def follow_sample(model: nn.Module, request: Request) -> Work:
    """The first step: the model's program with a value on every node.

    Raises TracerError; LazyResolutionError where the sample misses a lazy layer, if that is refused.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the model is a {type(model).__name__}, not a torch.nn.Module",
            remedy="pass an instance of your model class",
        )
    started = time.perf_counter()
    with TORCH_STATE, _report_of_failure(type(model).__name__):
        found = follow_where_it_fits(model, request)
        if request.state == EXPLICIT:
            found = _followed_with_state(model, found)
        log, program = found.log, found.program
        check_sample(log)
    work = Work(model, found.request, found.sample, log, program, {})
    work.note(found.passes)
    work.timings["capture"] = time.perf_counter() - started - sum(work.timings.values())
    promised = pinned_sizes(GuardLog(sampled=log.sampled, facts=Facts(given=log.facts.given)))
    for name, size in pinned_sizes(log).items():
        if name in promised:
            continue
        warnings.warn(_pinned(name, size, log), TracerWarning, stacklevel=callers_level())
    if program.unreached:
        listed = ", ".join(program.unreached)
        message = f"the sample never reaches the lazy layers {listed}"
        if request.strict:
            raise LazyResolutionError(message, remedy="give a sample that reaches them, or remove them")
        warnings.warn(
            f"{message}; they stay lazy and are left out of an export", TracerWarning, stacklevel=callers_level()
        )
    return work


def _followed_with_state(model: nn.Module, found: Followed) -> Followed:
    """The model followed again from its sample, with all that the forward leaves behind as further inputs.

    Raises SideEffectError where something of it can be none, or does not stay what it is.
    """
    while (sample := with_state(model, found.sample, found.program.left_behind)) is not found.sample:
        found.log.forget()
        program, passes = follow(model, sample, found.log)
        found = replace(found, sample=sample, program=program, passes=passes)
    program = found.program
    program.left_behind = []
    for path, (before, after) in program.state_values().items():
        if not _alike(before, after):
            node = program.output()
            raise SideEffectError(
                f"the forward leaves {describe(after)} in {path}, which is {describe(before)} before it, but an input "
                "and the output that is fed back to it are alike",
                remedy="write into the tensor, which keeps its size, or take it as an argument and return it",
            ).placed(location_of(_source(node, path)))
    return found


def _alike(before: TensorSpec, after: Any) -> bool:
    """Whether what is left is what was there but for its values; a size that is not fixed is no size of a tensor's."""
    return (
        isinstance(after, TensorSpec)
        and after.dtype == before.dtype
        and all(type(size) is int for size in after.shape)
        and after.shape == before.shape
    )


def _source(output: fx.Node, path: str) -> fx.Node:
    """The node that gives what is left at a path; the output itself where that is not known."""
    given = output.args[0]
    found = given[1].get(path) if isinstance(given, tuple) and isinstance(given[1], Mapping) else None
    return found if isinstance(found, fx.Node) else output


def _pinned(name: str, size: int, log: GuardLog) -> str:
    """That a size which the caller named has one value only, and which lines of the caller's see to that."""
    about = [guard for guard in log.guards if guard.dynamic and re.search(rf"\b{re.escape(name)}\b", guard.condition)]
    because = ", ".join(f"{guard.condition} ({guard.location})" for guard in about)
    return f"{name} is fixed at {size}: the forward decides by {because}"


def run_callers_passes(work: Work, passes: CallersPasses) -> None:
    """Runs the caller's passes on the program before its lazy layers are resolved."""
    work.shaped = work.run_callers(passes, work.shaped)


def report_program(work: Work) -> None:
    """Leaves the report of the program as it is now."""
    work.report = build_report(work.shaped, type(work.model).__name__)


@contextmanager
def _report_of_failure(model_name: str) -> Iterator[None]:
    """An error of the block gets the report of what was known before it."""
    try:
        yield
    except TracerError as error:
        if error.program is not None:
            error.report, error.program = build_report(error.program.known_part(), model_name), None
        raise


__all__ = ["EXPLICIT", "CallersPasses", "Work", "follow_sample", "report_program", "run_callers_passes"]
