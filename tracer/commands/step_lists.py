"""inspect, draw, resolve, convert: each a list of steps, from the model and its sample to what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from passes.errors import InputError
from passes.isolation.torch_state import undisturbed
from passes.stages.loading_code import loading_code
from tracer.edge.boundary import public
from tracer.edge.collection_pause import without_collection
from tracer.inputs.dynamic_shapes import without_dynamic_axes
from tracer.inputs.input_files import checked_target
from tracer.inputs.request import Request
from tracer.inputs.weights import Weights, read_weights
from tracer.reports.report import Report
from tracer.steps.resolving import load_without_following, put_into, resolve_lazies, run_passes_on_resolved
from tracer.steps.work import CallersPasses, follow_sample, report_program, run_callers_passes

if TYPE_CHECKING:
    from tracer.drawings.drawing import Drawing
    from tracer.steps.conversion import Conversion


@without_dynamic_axes
@public
@undisturbed
@without_collection
def inspect(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    dims: Mapping[str, int] | None = None,
    passes: CallersPasses = (),
    strict: bool = False,
    state: str | None = None,
) -> Report:
    """What is known of `model` from a sample: every layer's shapes, parameters and multiply-adds.

    `passes` run on the graph with its shapes, before the report is made of it. `state` is that of `convert`.
    Allocates no weight, runs nothing and changes nothing. Raises TracerError.
    """
    work = follow_sample(model, Request(args, kwargs, dynamic_shapes, dims, strict, state=state))
    run_callers_passes(work, passes)
    report_program(work)
    return work.report


@without_dynamic_axes
@public
@undisturbed
@without_collection
def draw(
    model: nn.Module,
    args: Any,
    f: str | Path | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    format: str | None = None,
    dynamic_shapes: Any = None,
    dims: Mapping[str, int] | None = None,
    strict: bool = False,
) -> Drawing:
    """The graph of `model` with its shapes and what is inferred; writes the file where `f` is given.

    `format` is "html" (one page that needs nothing but itself), "svg", "dot", "mermaid" or "json"; by default the
    one that the suffix of `f` names. Runs nothing and changes nothing. Raises TracerError.
    """
    from tracer.drawings.drawing import chosen_format, draw_program

    target = None if f is None else checked_target(f, model)
    chosen = chosen_format(format, target)
    work = follow_sample(model, Request(args, kwargs, dynamic_shapes, dims, strict))
    drawing = draw_program(work.shaped, type(model).__name__, chosen)
    if target is not None:
        drawing.save(target)
    return drawing


@without_dynamic_axes
@public
@undisturbed
@without_collection
def resolve(
    model: nn.Module,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    dims: Mapping[str, int] | None = None,
    inplace: bool = False,
    seed: int | None = None,
    weights: Weights | None = None,
    device: str | torch.device | None = None,
    passes: CallersPasses = (),
    strict: bool = False,
) -> nn.Module:
    """The same model with every lazy layer that the sample reaches made eager.

    The weights are those that a dry run in eval mode gives under the same seed; or those of `weights`, a
    state_dict, `.safetensors` or `.pt` file, and then the sample may be left out. With `seed` torch's random
    state is left as it was; without, weights are drawn from it. `device` is where lazy layers have all their tensors,
    in place of where they were declared; on "meta" nothing is allocated.

    The result is a new model that shares the weights that were initialised before, or `model` itself with
    `inplace`, whose parameters keep their identity. `passes` run on the eager graph, and may look at it or refuse it.
    Raises TracerError, and then nothing is changed.
    """
    given = read_weights(weights) if weights is not None else None
    if args is None and kwargs is None and given is not None:
        if passes:
            raise InputError("passes run on a graph, for which a sample is needed", remedy="give a sample")
        resolved, unreached = load_without_following(model, given, device), []
    else:
        work = follow_sample(model, Request(() if args is None else args, kwargs, dynamic_shapes, dims, strict))
        resolve_lazies(work, seed, given, device)
        run_passes_on_resolved(work, passes, given)
        resolved, unreached = work.resolved, work.shaped.unreached
    if not inplace:
        return resolved
    put_into(model, resolved, given, unreached)
    return model


@without_dynamic_axes
@public
@undisturbed
@without_collection
def convert(
    model: nn.Module,
    args: Any,
    f: str | Path | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset_version: int = 20,
    dynamic_shapes: Any = None,
    dims: Mapping[str, int] | None = None,
    route: str = "auto",
    fold_batchnorm: bool = True,
    verify: bool = True,
    seed: int | None = None,
    weights: Weights | None = None,
    metadata: Mapping[str, str] | None = None,
    passes: CallersPasses = (),
    strict: bool = False,
    guards: str = "metadata",
    state: str | None = None,
) -> Conversion:
    """Resolves `model`, exports it to ONNX and compares the two; writes the file where `f` is given.

    The vocabulary is that of `torch.onnx.export`. `guards` says where the sizes for which the file holds are kept: in
    its properties alone ("metadata"), or also in the graph ("checked"), which then fails at any other with the guard
    in the runtime's message. `state` says what becomes of the tensors that the forward writes in the model, its buffers
    and others: None leaves them out, and the report names them; "explicit" makes each an input and an output of the
    file, after the caller's own, to be fed back by who runs it (`Conversion.state` is what to begin with). Raises
    TracerError, and then writes and changes nothing.
    """
    from tracer.steps.delivery import (
        deliver,
        deliver_streamed,
        export_outline,
        follow_for_export,
        follow_loaded,
        is_streamed,
    )
    from tracer.steps.exporting import ExportOptions, export

    entries = {str(key): str(value) for key, value in (metadata or {}).items()}
    options = ExportOptions(opset_version, route, entries, input_names, output_names, fold_batchnorm, passes, guards)
    target = None if f is None else checked_target(f, model, weights)
    given = read_weights(weights) if weights is not None else None

    work = follow_for_export(model, Request(args, kwargs, dynamic_shapes, dims, strict, input_names, state))
    if given is not None and loading_code(model):
        work, given = follow_loaded(work, seed, given), None
    if target is not None and is_streamed(work, options, needs_weights=verify or bool(given)):
        if export_outline(work, options):
            return deliver_streamed(work, options, seed, target)
        work = follow_for_export(work.model, work.request)
    resolve_lazies(work, seed, given)
    export(work, options)
    return deliver(work, target, verify)


__all__ = ["convert", "draw", "inspect", "resolve"]
