"""The last steps of a conversion: the file, its weights from memory or drawn as they are written, and its check."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from passes.errors import SideEffectError, UnsupportedOpError
from passes.files.streaming import lazy_bytes, streamed
from passes.files.writer import write_model
from passes.isolation.copy_on_write import CopyOnWrite
from passes.isolation.model_copy import ModelCopy
from passes.isolation.own_randomness import own_randomness
from passes.isolation.torch_state import TORCH_STATE
from tracer.capture.ladder import check_repeatable
from tracer.inputs.request import Request
from tracer.steps.conversion import Conversion, check_weights_are_there
from tracer.steps.exporting import ExportOptions, export, export_directly
from tracer.steps.resolving import Entries, drawing_weights, outline_lazies, resolve_lazies
from tracer.steps.work import EXPLICIT, Work, follow_sample, report_program

# From how many bytes on the weights of lazy layers go straight into the file, one layer at a time, where nothing else
# needs them: no verification, no pass of the caller's.
STREAMED_FROM = 2**28


def follow_for_export(model: nn.Module, request: Request) -> Work:
    """The first step of a conversion: the model's program, which must be that of every call, and its report."""
    work = follow_sample(model, request)
    with TORCH_STATE:
        check_repeatable(work.shaped, model, work.sample, work.log)
    report_program(work)
    return work


def follow_loaded(work: Work, seed: int | None, weights: Entries) -> Work:
    """The first step once more, of the model after its own code has loaded the weights: what that does to the model
    was in no graph before."""
    resolve_lazies(work, seed, weights)
    again = follow_for_export(work.resolved, work.request)
    again.report.note_inferred(work.report)
    return again


# The weights in memory --------------------------------------------------------------------------


def deliver(work: Work, target: Path | None, is_verified: bool) -> Conversion:
    """Writes the file where there is a target, verified before it takes the target's place."""
    if target is not None or is_verified:
        check_weights_are_there(work.lowered.model)
    if target is not None:
        with work.timed("writing"):
            write_model(work.lowered.model, target, partial(verify_file, work) if is_verified else None)
        work.timings["writing"] -= work.timings.get("verification", 0.0)
    elif is_verified:
        verify_file(work, None)
    return Conversion(
        work.lowered, work.route, work.route_reason, work.report, work.lowered.model, work.verification, work.timings,
        target, work.resolved,
    )  # fmt: skip


def verify_file(work: Work, file: Path | None) -> None:
    """Leaves how far the ONNX model, or the file that it was written to, agrees with the resolved model."""
    # Here, as much of what this needs is needed by nothing else.
    from tracer.checking.localisation import locator
    from tracer.checking.verification import verify

    with work.timed("verification"):
        locate = locator(work.lowered.model, work.lowered)
        work.verification = verify(work.lowered.model, work.lowered, work.resolved, work.sample, file, locate)
        left = work.verification.left_behind
        if left and work.request.state == EXPLICIT:
            raise SideEffectError(
                f"the module leaves something behind in {', '.join(left)}, too, which is no input of the file",
                remedy="write it by torch's operations on an attribute of its module, or return it",
            )
        known = work.report.left_behind
        known += [path for path in work.verification.left_behind if path not in known]


# The weights straight into the file -------------------------------------------------------------


def is_streamed(work: Work, options: ExportOptions, needs_weights: bool) -> bool:
    """Whether the lazy layers' weights are drawn as they are written: they are large, and needed for nothing else."""
    others = needs_weights or options.passes or options.route == "torch" or work.shaped.dry_run
    return not others and lazy_bytes(work.shaped) >= STREAMED_FROM


def export_outline(work: Work, options: ExportOptions) -> bool:
    """Leaves the ONNX graph of a model whose lazy layers hold nothing; False where there is none by the direct route.

    The work cannot go on then: the torch route, or the error, is that of the whole model.
    """
    try:
        if not outline_lazies(work):
            return False
        export_directly(work, options)
    except UnsupportedOpError:
        return False
    return True


def deliver_streamed(work: Work, options: ExportOptions, seed: int | None, target: Path) -> Conversion:
    """Writes the file, each layer's weights drawn as the file comes to them."""
    again = Redrawing(work.model, work.request, options, seed, torch.get_rng_state())
    copy = ModelCopy(work.model)
    with work.timed("writing"), TORCH_STATE, drawing_weights(seed), CopyOnWrite(copy.pairs):
        write_model(work.lowered.model, target, tensors=streamed(work.shaped.draws, work.lowered, copy.module))
    return Conversion(
        work.lowered, work.route, work.route_reason, work.report, work.lowered.model, None, work.timings, target,
        _again=again,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Redrawing:
    """A conversion whose weights went straight into the file, once more with the same weights in memory.

    They are those of the model as it is when this is called. Without a seed they are drawn from the random state that
    torch had then, and the present one is left as it is.
    """

    model: nn.Module
    request: Request
    options: ExportOptions
    seed: int | None
    state: torch.Tensor

    def __call__(self) -> Work:
        if self.seed is not None:
            return self._work()
        with TORCH_STATE, own_randomness():
            torch.set_rng_state(self.state)  # of our own
            return self._work()

    def _work(self) -> Work:
        work = follow_for_export(self.model, self.request)
        resolve_lazies(work, self.seed, None)
        export(work, self.options)
        return work


__all__ = [
    "STREAMED_FROM", "deliver", "deliver_streamed", "export_outline", "follow_for_export", "follow_loaded",
    "is_streamed",
]  # fmt: skip
