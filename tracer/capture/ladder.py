"""How a model is followed: symbolically, else on meta tensors, else on data.

Each rung asks more of the model than the one above. The program's `rungs` say what could not be traced, and
why; a program whose own forward could not be traced is one opaque node.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from passes.errors import CaptureError, InputError, NeedsDataError, ShapeError, TracerError, UnsupportedOpError
from passes.isolation.control_flow import plain_control_flow
from passes.isolation.copy_on_write import running_copy
from passes.isolation.model_copy import copy_model
from passes.isolation.own_randomness import moved_on, own_randomness, python_random_state, python_randomness_kept
from passes.modules.explicit_state import held_at
from passes.modules.lazy import LazyLayer
from passes.modules.leftovers import changes, state_of
from passes.modules.watching import as_specs, watch_lazies
from passes.program.notes import PLACE, VALUE
from passes.program.pipeline import PassResult, run_pass
from passes.program.program import Program, Rung
from passes.program.stages import Captured, Shaped
from passes.sizes.guards import GuardLog, Location
from passes.stages.meta_execution import MetaRunError, run_module
from passes.stages.shape_propagation import ShapePropagation
from passes.values.spec import TensorSpec
from tracer.capture.tracing import capture
from tracer.edge.source_lines import definition
from tracer.inputs.sample import Sample


def follow(model: nn.Module, sample: Sample, log: GuardLog) -> tuple[Shaped, list[PassResult]]:
    """The model's program with a value on every node, from the first rung that holds; the model is not touched.

    Raises the tracing error where no rung holds. Shapes that do not fit are the model's fault only where torch says so
    too: what our rules alone refuse is followed on meta tensors, once a run on data has shown that torch takes it (on
    meta tensors it takes more than on data).
    """
    try:
        return trace(model, sample, log)
    except (CaptureError, ShapeError) as error:
        if error.caught:  # and would be again, by torch's exporter too
            raise
        fault = error
    with own_randomness(), python_randomness_kept():
        if isinstance(fault, CaptureError):
            return _untraced(model, sample, log, fault), []
        try:
            program = None if fault.wants_fixed_size else _on_meta(model, sample, log, fault)
        except UnsupportedOpError:  # how its sizes depend on the sample's is no simple formula: our rule says more
            program = None
        if program is None or not _runs(model, sample, log):
            raise fault
        return program, []


def trace(model: nn.Module, sample: Sample, log: GuardLog) -> tuple[Shaped, list[PassResult]]:
    """The first rung: the model's program, traced symbolically. Raises TracerError where it cannot be."""
    with own_randomness(), python_randomness_kept():
        before = python_random_state()
        captured = capture(model, sample, log)
        captured.draws_in_python = moved_on(before)
        program, result = run_pass(ShapePropagation(), captured)
    return program, [result]


# How often a forward that draws in Python is traced again: a branch on one bit differs in all but one of 32 models.
_REPEATS = 5


def check_repeatable(program: Shaped, model: nn.Module, sample: Sample, log: GuardLog) -> None:
    """Raises CaptureError where the program depends on what its forward has drawn from Python's or numpy's random
    state: its numbers would be those of one call. `program` is as it was traced."""
    with own_randomness(), python_randomness_kept():
        for seed in range(_REPEATS if program.draws_in_python else 0):
            random.seed(seed)
            np.random.seed(seed)
            if not _same(program, capture(model, sample, replace(log))):
                raise CaptureError(
                    "the forward computes with random numbers of Python's or numpy's, which differ in each call",
                    remedy="draw them only in training mode, or outside of the forward",
                ).placed(Location("", definition(type(model).forward)))


def _same(one: Program, other: Program) -> bool:
    """Whether two programs that were traced from one model compute the same."""
    steps = [
        [(node.op, node.target, node.args, node.kwargs) for node in program.graph.nodes] for program in (one, other)
    ]
    return (
        str(steps[0]) == str(steps[1])
        and one.constants.keys() == other.constants.keys()
        and all(_equal(tensor, other.constants[name]) for name, tensor in one.constants.items())
    )


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.double(), other.double(), 0, 0, equal_nan=True)


def _untraced(model: nn.Module, sample: Sample, log: GuardLog, fault: CaptureError) -> Shaped:
    location = fault.location or Location()
    if not isinstance(fault, NeedsDataError):
        followed = _on_meta(model, sample, log, fault)
        if followed is not None:
            return followed
    try:
        data = _data(sample, log)
        value, lazies, left_behind = _run_on_data(model, data, location, list(sample.state))
    except (Exception, SystemExit) as error:  # the forward fails on data too: what tracing saw is the user's own error
        refused_alike = isinstance(error, CaptureError) and error.message == fault.message
        # Of the model it says nothing that there are no data, nor that it fails on integers that were made up.
        if isinstance(error, InputError) or refused_alike or _makes_up_integers(sample):
            raise fault from error
        raise _fails_on_data(fault, error) from error
    program = _opaque(model, sample, log, value, lazies, Rung("", "real", fault.message, location, fault.remedy))
    program.left_behind = left_behind
    program.dry_run = lambda scratch: _dry_run(scratch, data)
    return Shaped.of_captured(program)


def _on_meta(model: nn.Module, sample: Sample, log: GuardLog, fault: TracerError) -> Shaped | None:
    """The second rung: the model's own forward on meta tensors; None where it does not run on them."""
    location = fault.location or Location()
    args, kwargs = sample.replace_leaves(lambda _, spec: spec, keep_classes=False)
    try:
        result = run_module(model, "", args, kwargs, log, location, list(sample.state))
    except MetaRunError:
        return None
    rung = Rung("", "meta", fault.message, location, fault.remedy)
    program = _opaque(model, sample, log, result.value, result.lazies, rung)
    program.left_behind = result.left_behind
    return Shaped.of_captured(program)


def _fails_on_data(fault: CaptureError, error: BaseException) -> CaptureError:
    """What tracing found, where a run on data fails too, and with what."""
    said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    failure = CaptureError(
        f"{fault.message}; run on data, it fails too" + ("" if said in fault.message else f", with {said}"),
        remedy="make that line run: the model fails on data of this shape, without any tracing",
    )
    failure.program, failure.decisions = fault.program, fault.decisions
    return failure.placed(fault.location or Location(), fault.operation, fault.inputs, fault.chain)  # type: ignore[return-value]


Data = tuple[tuple[Any, ...], dict[str, Any]]


def _data(sample: Sample, log: GuardLog) -> Data:
    """The sample's arguments as tensors."""
    with own_randomness():
        return sample.data(log.sampled)


def _makes_up_integers(sample: Sample) -> bool:
    """Whether the sample's data hold integers of nobody's choice, which may be lengths or indices out of range."""
    return any(leaf.tensor is None and not leaf.spec.dtype.is_floating_point for leaf in sample.leaves())


def _dry_run(scratch: nn.Module, data: Data) -> Any:
    """A forward without gradients on copies of the data."""
    args, kwargs = copy.deepcopy(data)
    with torch.no_grad(), plain_control_flow():
        return scratch(*args, **kwargs)


def _run_on_data(
    model: nn.Module, data: Data, location: Location, kept: Sequence[str] = ()
) -> tuple[Any, list[LazyLayer], list[str]]:
    """A dry run on a copy in eval mode, thrown away: its value, the lazy layers met, and what it left behind.

    Of a program with tensors that are `kept`, the value is its output's.
    """
    lazies: list[LazyLayer] = []
    with running_copy(model) as scratch:
        watch_lazies(scratch.eval(), "", lazies, location)
        before = state_of(scratch)
        value = as_specs(_dry_run(scratch, data))
        value = (value, as_specs({path: held_at(scratch, path) for path in kept})) if kept else value
        return value, lazies, changes(before, state_of(scratch), {layer.path for layer in lazies})


def _runs(model: nn.Module, sample: Sample, log: GuardLog) -> bool:
    """Whether the model runs on data of the sample's sizes."""
    try:
        _run_on_data(model, _data(sample, log), Location())
    except (Exception, SystemExit):  # the caller's own code and torch's may raise anything
        return False
    return True


def _opaque(
    model: nn.Module, sample: Sample, log: GuardLog, value: Any, lazies: list[LazyLayer], rung: Rung
) -> Captured:
    """A program of one node that stands for the whole model."""
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def placeholder(name: str, spec: TensorSpec) -> fx.Node:
        node = graph.placeholder(name)
        VALUE.put(node, spec)
        PLACE.put(node, Location())
        nodes.append(node)
        return node

    args, kwargs = sample.replace_leaves(placeholder, keep_classes=False)
    name = "model"
    while hasattr(model, name):
        name += "_"
    state = [placeholder(leaf.name, leaf.spec) for leaf in sample.state.values()]
    call = graph.call_module(name, (*args, *state), kwargs)
    output = graph.output(call)
    for node in (call, output):
        VALUE.put(node, value)
        PLACE.put(node, rung.location)
    program = Captured(graph, copy_model(model), log, whole=name, kept=list(sample.state))
    program.rungs.append(rung)
    for layer in lazies:
        program.meet_lazy(layer)
    return program
