"""inspect, resolve, convert: which passes run, which route is taken and why."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from passes import ops  # noqa: F401  registers every op
from passes.caller_pass import CallerPass
from passes.copy_on_write import CopyOnWrite, running_copy
from passes.eager_rewrite import EagerRewrite
from passes.errors import (
    ExportError,
    InputError,
    LazyResolutionError,
    LoadError,
    TracerError,
    TracerWarning,
    UnsupportedOpError,
)
from passes.guards import GuardLog
from passes.lazy_modules import become_all, move_lazy, stand_on
from passes.lazy_resolution import LazyOutline, LazyResolution
from passes.loading_code import loading_code
from passes.model_copy import ModelCopy, sharing_copy
from passes.nested import leaves
from passes.own_randomness import OwnRandomness, own_random_state, own_randomness, python_randomness_kept
from passes.pipeline import Pass, PassResult, Pipeline, Stage
from passes.program import Program
from passes.simplification import Simplification
from passes.torch_state import TORCH_STATE, undisturbed
from passes.weight_loading import WeightLoading, load_in_place, load_without_sample
from tracer import __version__
from tracer.boundary import of_result, public
from tracer.collection_pause import without_collection
from tracer.dynamic_shapes import without_dynamic_axes
from tracer.input_files import checked_target
from tracer.ladder import check_repeatable, follow
from tracer.report import Report, build_report
from tracer.sample import Sample, bind_sample, check_sample
from tracer.source_lines import callers_level, current_source
from tracer.weights import Weights, read_weights

if TYPE_CHECKING:
    import onnx
    from torch import fx

    from passes.interface_names import InterfaceNames
    from passes.onnx_lowering import LoweredModel
    from tracer.drawing import Drawing
    from tracer.verification import Verification

# From how many bytes on the weights of lazy layers go straight into the file, one layer at a time, where nothing else
# needs them: no verification, no pass of the caller's.
STREAMED_FROM = 2**28

DIRECT_REASON = "every operation has a direct lowering"

CallersPasses = Sequence[Pass | Callable[[Program], object]]


@dataclass(slots=True)
class Conversion:
    """A converted model.

    `program` is what the passes made of the model;
    `route` is "direct" or "torch" and `route_reason` says why; `verification` is None where it was turned
    off; `timings` holds the seconds of each step.
    """

    program: Program
    route: str
    route_reason: str
    report: Report
    lowered: LoweredModel
    verification: Verification | None = None
    timings: dict[str, float] = field(default_factory=dict)
    path: Path | None = None
    _module: nn.Module | None = None
    _graph_module: fx.GraphModule | None = None
    _again: Callable[[], Conversion] | None = None

    @property
    @of_result
    def module(self) -> nn.Module:
        """The eager model, of the caller's class.

        Where the weights went straight into the file, they are drawn once more, the same ones, when this is first
        asked for; from the model as it then is.
        """
        if self._module is None:
            self._keep_weights()
        assert self._module is not None
        return self._module

    @property
    @of_result
    def graph_module(self) -> fx.GraphModule:
        """The simplified graph for inference, as a torch.fx module; made when it is first asked for."""
        self._keep_weights()
        if self._graph_module is None:
            self._graph_module = self.program.graph_module()
        return self._graph_module

    def _keep_weights(self) -> None:
        """Makes this a conversion whose weights are in memory."""
        if self._again is not None:
            whole = self._again()
            self.program, self.lowered, self._module, self._again = whole.program, whole.lowered, whole._module, None

    @property
    @of_result
    def onnx_model(self) -> onnx.ModelProto:
        """The model as an onnx.ModelProto, weights included; one above 2 GB refers to the file's external data."""
        from passes.onnx_writer import model_proto

        self._keep_weights()
        _check_weights_are_there(self.lowered)
        return model_proto(self.lowered, self.path)

    @of_result
    def save(self, path: str | Path) -> Path:
        """Writes the ONNX file, whole or not at all. Raises ExportError where it cannot be written."""
        from passes.onnx_writer import write_model

        target = checked_target(path, self.program.root)
        self._keep_weights()
        _check_weights_are_there(self.lowered)
        write_model(self.lowered, target)
        self.path = target
        return target

    @of_result
    def _repr_html_(self) -> str:
        from tracer.html_table import conversion_html

        return conversion_html(self)

    def _deliver(self, work: _Work, target: Path | None, verify: bool) -> None:
        """Writes the file where there is a target, verified before it takes the target's place."""
        from passes.onnx_writer import write_model

        if target is not None or verify:
            _check_weights_are_there(self.lowered)

        def check(file: Path | None) -> None:
            from tracer.localisation import locator
            from tracer.verification import verify as compare

            with work.timed("verification"):
                locate = locator(self.lowered, self.program)
                self.verification = compare(self.lowered, self.program, self.module, work.sample, file, locate)
                known = self.report.left_behind
                known += [path for path in self.verification.left_behind if path not in known]

        if target is not None:
            with work.timed("writing"):
                write_model(self.lowered, target, check if verify else None)
            work.timings["writing"] -= work.timings.get("verification", 0.0)
        elif verify:
            check(None)


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
) -> Report:
    """What is known of `model` from a sample: every layer's shapes, parameters and multiply-adds.

    `passes` run on the graph with its shapes, before the report is made of it.
    Allocates no weight, runs nothing and changes nothing. Raises TracerError.
    """
    work = _Work(model, args, kwargs, dynamic_shapes, dims, strict)
    work.run(_of_caller(passes, Stage.SHAPED), Stage.SHAPED)
    return build_report(work.program, type(model).__name__)


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
    from tracer.drawing import chosen_format, draw_view
    from tracer.graph_view import build_graph_view

    target = None if f is None else checked_target(f, model)
    chosen = chosen_format(format, target)
    work = _Work(model, args, kwargs, dynamic_shapes, dims, strict)
    drawing = draw_view(build_graph_view(work.program, type(model).__name__), chosen)
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
    loads_itself = given is not None and bool(loading_code(model))
    unreached: list[str] = []
    if args is None and kwargs is None and given is not None:
        if passes:
            raise InputError("passes run on a graph, for which a sample is needed", remedy="give a sample")
        copy = _moved_to(device, ModelCopy(model))
        with TORCH_STATE, own_randomness(), CopyOnWrite(copy.pairs):
            load_without_sample(copy.module, given)
        resolved = copy.settled()
    else:
        work = _Work(model, args if args is not None else (), kwargs, dynamic_shapes, dims, strict)
        resolved = work.resolve(model, seed, given, device)
        unreached = work.program.unreached
        if passes:
            if loads_itself:  # what its code does to the model is in no graph yet
                work = _Work(resolved, args, kwargs, dynamic_shapes, dims, strict)
            work.run([EagerRewrite(resolved), *_of_caller(passes, Stage.EAGER)], Stage.SHAPED)
    if not inplace:
        return resolved
    become_all(model, resolved)
    if given is not None and loads_itself:
        load_in_place(model, given, unreached)
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
) -> Conversion:
    """Resolves `model`, exports it to ONNX and compares the two; writes the file where `f` is given.

    The vocabulary is that of `torch.onnx.export`. Raises TracerError, and then writes and changes nothing.
    """
    from passes.onnx_metadata import annotate, check_metadata
    from passes.onnx_writer import write_model
    from passes.pinned_sizes import pinned_sizes, write_as_fixed
    from passes.weight_streaming import lazy_bytes, streamed

    _check_options(opset_version, route)
    entries = {str(key): str(value) for key, value in (metadata or {}).items()}
    check_metadata(entries)
    target = None if f is None else checked_target(f, model, weights)
    given = read_weights(weights) if weights is not None else None
    export = _Export(opset_version, input_names, output_names, fold_batchnorm)

    def started() -> tuple[_Work, Report]:
        work = _Work(model, args, kwargs, dynamic_shapes, dims, strict, input_names)
        with TORCH_STATE:
            check_repeatable(work.program, model, work.sample, work.log)
        return work, build_report(work.program, type(model).__name__)

    def lower(work: _Work, report: Report, resolved: nn.Module, route: str) -> Conversion:
        lowered, taken, reason = export.run(work, resolved, passes, route)
        pinned = pinned_sizes(work.log)
        if pinned:
            write_as_fixed(lowered, work.program, pinned)
        annotate(lowered, work.program, metadata=entries, version=__version__, route=taken)
        report.guards, report.pinned = work.log.guards, pinned
        report.guards_unknown = []  # what is opaque to us is none to torch's exporter, or not in the file
        return Conversion(work.program, taken, reason, report, lowered, timings=work.timings, path=target)

    def in_memory(work: _Work, report: Report, seed: int | None) -> Conversion:
        resolved = work.resolve(model, seed, given)
        conversion = lower(work, report, resolved, route)
        conversion._module = resolved
        return conversion

    work, report = started()
    if given is not None and loading_code(model):  # what that does to the model is in no graph yet
        inferred = report
        model, given = work.resolve(model, seed, given), None
        work, report = started()
        report.note_inferred(inferred)
    plain = not (verify or passes or given or work.program.dry_run or route == "torch")
    if target is not None and plain and lazy_bytes(work.program) >= STREAMED_FROM:
        try:
            outline = work.outline(model)
            conversion = lower(work, report, outline, "direct") if outline is not None else None
        except UnsupportedOpError:
            conversion = None
        if conversion is None:
            work, report = started()  # the torch route, or the error, is that of the whole model
        else:
            state = torch.get_rng_state()
            conversion._again = lambda: _from_state(
                state if seed is None else None, lambda: in_memory(*started(), seed)
            )
            conversion.route_reason = "asked for" if route == "direct" else DIRECT_REASON
            copy = ModelCopy(model)
            with work.timed("writing"), TORCH_STATE, _drawing(seed), CopyOnWrite(copy.pairs):
                write_model(conversion.lowered, target, tensors=streamed(work.program, conversion.lowered, copy.module))
            return conversion
    conversion = in_memory(work, report, seed)
    conversion._deliver(work, target, verify)
    return conversion


def _check_weights_are_there(lowered: LoweredModel) -> None:
    """Raises LoadError for weights on the meta device, which have no data to write or to run."""
    without = [name for name, tensor in lowered.weights.items() if tensor.is_meta]
    if without:
        raise LoadError(
            f"{len(without)} weights are on the meta device and have no data: {', '.join(without[:3])}",
            remedy="give weights=, or load the model's weights before it is converted",
        )


def _from_state(state: torch.Tensor | None, work: Callable[[], Conversion]) -> Conversion:
    """The work done from a random state of torch's, where one is given; the present one is left as it is."""
    if state is None:
        return work()
    with TORCH_STATE, own_randomness():
        torch.set_rng_state(state)  # of our own
        return work()


def _drawing(seed: int | None) -> AbstractContextManager[OwnRandomness]:
    """Inside the block weights are drawn: after the seed, or from torch's random state, which moves as in a dry run."""
    return own_randomness(seed, put_back=seed is None)


def _moved_to(device: str | torch.device | None, copy: ModelCopy) -> ModelCopy:
    """The copy, with its lazy modules on that device, where one is given."""
    if device is not None:
        move_lazy(copy.module, torch.device(device))
    return copy


@dataclass(frozen=True, slots=True)
class _Export:
    """How the resolved model becomes ONNX: by our own lowerings, or through torch's exporter."""

    opset: int
    input_names: Sequence[str] | None
    output_names: Sequence[str] | None
    fold_batchnorm: bool

    def run(
        self, work: _Work, resolved: nn.Module, callers: CallersPasses, route: str
    ) -> tuple[LoweredModel, str, str]:
        """The lowered model, the route taken, and why it was taken."""
        from passes.interface_names import interface_names
        from passes.onnx_lowering import OnnxLowering

        steps = [EagerRewrite(resolved), *_of_caller(callers, Stage.EAGER), Simplification(self.fold_batchnorm)]
        work.run(steps, Stage.SHAPED)
        names = interface_names(work.program, self.input_names, self.output_names)
        lowering = OnnxLowering(self.opset, names)
        if route == "torch":
            return self._through_torch(work, resolved, names), "torch", "asked for"
        try:
            work.run([lowering], Stage.EAGER)
        except UnsupportedOpError as error:
            if route == "direct":
                raise
            return self._after(error, work, resolved, names), "torch", "; ".join(map(str, error.blockers))
        assert lowering.lowered is not None
        reason = "asked for" if route == "direct" else DIRECT_REASON
        return lowering.lowered, "direct", reason

    def _after(
        self, blocked: UnsupportedOpError, work: _Work, resolved: nn.Module, names: InterfaceNames
    ) -> LoweredModel:
        """The torch route in place of the direct one; where it fails too, the error names what blocked both."""
        try:
            return self._through_torch(work, resolved, names)
        except ExportError as error:
            message = f"neither route can export the model. {blocked.message}\nAnd {error.message}"
            raise UnsupportedOpError(message, remedy=error.remedy, blockers=blocked.blockers) from error

    def _through_torch(self, work: _Work, resolved: nn.Module, names: InterfaceNames) -> LoweredModel:
        from passes.pinned_sizes import pinned_sizes
        from passes.torch_exporter import export_through_torch

        pinned = pinned_sizes(work.log)
        with own_randomness(0):
            data = work.sample.data(work.log.sampled)
        with work.timed("lowering"), TORCH_STATE, _torchs_export(resolved) as module:
            return export_through_torch(
                module.eval(),
                [leaf for leaf in leaves(data) if isinstance(leaf, torch.Tensor)],
                work.sample.filled,
                state=work.program.state(),
                dynamic_axes=[
                    {axis: name for axis, name in axes.items() if name not in pinned}
                    for axes in work.sample.dynamic_axes()
                ],
                opset=self.opset,
                names=names,
                log=work.log,
                current_source=partial(current_source, export_through_torch.__code__),
            )


@contextmanager
def _torchs_export(resolved: nn.Module) -> Iterator[nn.Module]:
    """A copy of the model that torch's exporter may follow inside the block."""
    with own_random_state(), python_randomness_kept(), running_copy(resolved) as module:
        yield module


def _of_caller(steps: CallersPasses, stage: Stage) -> list[Pass]:
    """The caller's passes, of which those that are mere functions run at a stage and keep it."""
    return [step if isinstance(step, Pass) else CallerPass(step, stage, stage) for step in steps]


def _check_options(opset: int, route: str) -> None:
    from passes.onnx_opsets import SUPPORTED_OPSETS

    if opset not in SUPPORTED_OPSETS:
        first, last = SUPPORTED_OPSETS.start, SUPPORTED_OPSETS.stop - 1
        raise InputError(f"opset {opset!r} is not supported", remedy=f"use one of {first} to {last}; 20 is the default")
    if route not in ("auto", "direct", "torch"):
        raise InputError(f"there is no route {route!r}", remedy="use auto, direct or torch")


class _Work:
    """One model on its way: its sample, its program, and the time each step took."""

    def __init__(
        self,
        model: nn.Module,
        args: Any,
        kwargs: Mapping[str, Any] | None,
        dynamic_shapes: Any,
        dims: Mapping[str, int] | None,
        strict: bool,
        file_names: Sequence[str] | None = None,
    ):
        if not isinstance(model, nn.Module):
            raise InputError(
                f"the model is a {type(model).__name__}, not a torch.nn.Module",
                remedy="pass an instance of your model class",
            )
        started = time.perf_counter()
        self.log = GuardLog()
        self.sample: Sample = bind_sample(model, args, kwargs, dynamic_shapes, dims, self.log, file_names)
        self.timings: dict[str, float] = {}
        with TORCH_STATE, _report_of_failure(type(model).__name__):
            self.program, results = follow(model, self.sample, self.log)
            check_sample(self.log)
        self._note(results)
        self.timings["capture"] = time.perf_counter() - started - sum(self.timings.values())
        if self.program.unreached:
            listed = ", ".join(self.program.unreached)
            message = f"the sample never reaches the lazy layers {listed}"
            if strict:
                raise LazyResolutionError(message, remedy="give a sample that reaches them, or remove them")
            warnings.warn(
                f"{message}; they stay lazy and are left out of an export", TracerWarning, stacklevel=callers_level()
            )

    def run(self, passes: Sequence[Pass], start: Stage = Stage.CAPTURED) -> list[PassResult]:
        results = Pipeline(passes, start).run(self.program)
        self._note(results)
        check_sample(self.log)
        return results

    def _note(self, results: Sequence[PassResult]) -> None:
        for result in results:
            self.timings[result.name] = self.timings.get(result.name, 0.0) + result.seconds

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings[step] = self.timings.get(step, 0.0) + time.perf_counter() - started

    def outline(self, model: nn.Module) -> nn.Module | None:
        """A copy of the model whose lazy modules have their sizes alone, on the meta device.

        None where their own code draws some of their tensors all the same: a lazy module's bias may be there already.
        """
        copy = ModelCopy(model)
        for module in copy.module.modules():
            stand_on(module, torch.device("meta"))
        with TORCH_STATE, own_randomness() as randomness, python_randomness_kept(), CopyOnWrite(copy.pairs):
            self.run([LazyOutline(copy.module)], Stage.SHAPED)
        return None if randomness.moved() else copy.module

    def resolve(
        self,
        model: nn.Module,
        seed: int | None,
        weights: Mapping[str, Any] | None,
        device: str | torch.device | None = None,
    ) -> nn.Module:
        """A copy of the model whose lazy modules have their weights: drawn, or from a checkpoint."""
        program = self.program
        if not (program.draws or program.dry_run or weights is not None or device is not None):
            return sharing_copy(model)  # nothing of the model's is run
        copy = _moved_to(device, ModelCopy(model))
        step = LazyResolution(copy.module) if weights is None else WeightLoading(copy.module, weights)
        with TORCH_STATE, _drawing(seed), CopyOnWrite(copy.pairs):
            self.run([step], Stage.SHAPED)
        return copy.settled()


@contextmanager
def _report_of_failure(model_name: str) -> Iterator[None]:
    """An error of the block gets the report of what was known before it."""
    try:
        yield
    except TracerError as error:
        if error.program is not None:
            error.program.keep_known()
            error.report, error.program = build_report(error.program, model_name), None
        raise


__all__ = ["Conversion", "convert", "draw", "inspect", "resolve"]
