"""inspect, resolve, convert: which passes run, which route is taken and why."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from passes import ops  # noqa: F401  registers every op
from passes.caller_pass import CallerPass
from passes.eager_rewrite import EagerRewrite
from passes.errors import ExportError, InputError, LazyResolutionError, TracerError, TracerWarning, UnsupportedOpError
from passes.guards import GuardLog
from passes.lazy_modules import become, is_lazy, stand_on
from passes.lazy_resolution import LazyOutline, LazyResolution
from passes.model_copy import Sharing, copy_model
from passes.nested import leaves
from passes.pipeline import Pass, PassResult, Pipeline, Stage
from passes.program import Program
from passes.simplification import Simplification
from passes.torch_state import TORCH_STATE, undisturbed
from passes.weight_loading import WeightLoading, load_without_sample
from tracer import __version__
from tracer.collection_pause import without_collection
from tracer.ladder import follow
from tracer.report import Report, build_report
from tracer.sample import Sample, bind_sample
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
    def onnx_model(self) -> onnx.ModelProto:
        """The model as an onnx.ModelProto, weights included; one above 2 GB refers to the file's external data."""
        from passes.onnx_writer import model_proto

        self._keep_weights()
        return model_proto(self.lowered, self.path)

    def save(self, path: str | Path) -> Path:
        """Writes the ONNX file, whole or not at all. Raises ExportError where it cannot be written."""
        from passes.onnx_writer import write_model

        self._keep_weights()
        write_model(self.lowered, Path(path))
        self.path = Path(path)
        return self.path

    def _repr_html_(self) -> str:
        from tracer.html_table import conversion_html

        return conversion_html(self)

    def _deliver(self, work: _Work, target: Path | None, verify: bool) -> None:
        """Writes the file where there is a target, verified before it takes the target's place."""
        from passes.onnx_writer import write_model

        def check(file: Path | None) -> None:
            from tracer.localisation import locator
            from tracer.verification import verify as compare

            with work.timed("verification"):
                eager = copy_model(self.module, sharing=Sharing.PARAMETERS).eval()
                locate = locator(self.lowered, self.program)
                self.verification = compare(self.lowered, self.program, eager, work.sample, file, locate)

        if target is not None:
            with work.timed("writing"):
                write_model(self.lowered, target, check if verify else None)
            work.timings["writing"] -= work.timings.get("verification", 0.0)
        elif verify:
            check(None)


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
    from passes.onnx_writer import check_target
    from tracer.drawing import chosen_format, draw_view
    from tracer.graph_view import build_graph_view

    target = Path(f) if f is not None else None
    chosen = chosen_format(format, target)
    if target is not None:
        check_target(target)
    work = _Work(model, args, kwargs, dynamic_shapes, dims, strict)
    drawing = draw_view(build_graph_view(work.program, type(model).__name__), chosen)
    if target is not None:
        drawing.save(target)
    return drawing


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
    state is left as it was; without, weights are drawn from it. `device` is where lazy layers get their weights,
    in place of where they were declared; on "meta" nothing is allocated.

    The result is a new model that shares the weights that were initialised before, or `model` itself with
    `inplace`, whose parameters keep their identity. `passes` run on the eager graph, and may look at it or refuse it.
    Raises TracerError, and then nothing is changed.
    """
    resolved = copy_model(model)
    if device is not None:
        for module in resolved.modules():
            stand_on(module, torch.device(device))
    given = read_weights(weights) if weights is not None else None
    if args is None and kwargs is None and given is not None:
        if passes:
            raise InputError("passes run on a graph, for which a sample is needed", remedy="give a sample")
        load_without_sample(resolved, given)
        met = [path for path, module in model.named_modules() if is_lazy(module)]
    else:
        work = _Work(model, args if args is not None else (), kwargs, dynamic_shapes, dims, strict)
        work.resolve(resolved, seed, given)
        if passes:
            work.run([EagerRewrite(resolved), *_of_caller(passes, Stage.EAGER)], Stage.SHAPED)
        met = list(work.program.lazies)
    if not inplace:
        return resolved
    for path in met if given is None else [path for path, _ in model.named_modules()]:
        become(model.get_submodule(path), resolved.get_submodule(path))
    return model


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
    from passes.onnx_writer import check_target, write_model
    from passes.weight_streaming import lazy_bytes, streamed

    _check_options(opset_version, route)
    entries = {str(key): str(value) for key, value in (metadata or {}).items()}
    check_metadata(entries)
    target = Path(f) if f is not None else None
    if target is not None:
        check_target(target)
    given = read_weights(weights) if weights is not None else None
    export = _Export(opset_version, input_names, output_names, fold_batchnorm)

    def started() -> tuple[_Work, Report]:
        work = _Work(model, args, kwargs, dynamic_shapes, dims, strict)
        return work, build_report(work.program, type(model).__name__)

    def lower(work: _Work, report: Report, resolved: nn.Module, route: str) -> Conversion:
        lowered, taken, reason = export.run(work, resolved, passes, route)
        annotate(lowered, work.program, metadata=entries, version=__version__, route=taken)
        report.guards = work.log.guards
        return Conversion(work.program, taken, reason, report, lowered, timings=work.timings, path=target)

    def in_memory(work: _Work, report: Report, seed: int | None) -> Conversion:
        resolved = work.resolve(copy_model(model), seed, given)
        conversion = lower(work, report, resolved, route)
        conversion._module = resolved
        return conversion

    work, report = started()
    plain = not (verify or passes or given or work.program.dry_run or route == "torch")
    if target is not None and plain and lazy_bytes(work.program) >= STREAMED_FROM:
        try:
            outline = work.outline(copy_model(model))
            conversion = lower(work, report, outline, "direct")
        except UnsupportedOpError:
            work, report = started()  # the torch route, or the error, is that of the whole model
        else:
            state = torch.get_rng_state()
            conversion._again = lambda: _from_state(
                state if seed is None else None, lambda: in_memory(*started(), seed)
            )
            conversion.route_reason = "asked for" if route == "direct" else DIRECT_REASON
            with work.timed("writing"), TORCH_STATE, _seeded(seed):
                tensors = streamed(work.program, conversion.lowered, copy_model(model))
                write_model(conversion.lowered, target, tensors=tensors)
            return conversion
    conversion = in_memory(work, report, seed)
    conversion._deliver(work, target, verify)
    return conversion


def _from_state(state: torch.Tensor | None, work: Callable[[], Conversion]) -> Conversion:
    """The work done from a random state of torch's, where one is given; the present one is left as it is."""
    if state is None:
        return work()
    with TORCH_STATE, torch.random.fork_rng(devices=[]):
        torch.set_rng_state(state)
        return work()


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
        from passes.torch_exporter import export_through_torch

        with work.timed("lowering"), _seeded(0):
            return export_through_torch(
                copy_model(resolved, sharing=Sharing.PARAMETERS).eval(),
                [leaf for leaf in leaves(work.sample.data(work.log.sampled)) if isinstance(leaf, torch.Tensor)],
                work.sample.filled,
                state=work.program.state(),
                dynamic_axes=work.sample.dynamic_axes(),
                opset=self.opset,
                names=names,
            )


def _of_caller(steps: CallersPasses, stage: Stage) -> list[Pass]:
    """The caller's passes, of which those that are mere functions run at a stage and keep it."""
    return [step if isinstance(step, Pass) else CallerPass(step, stage, stage) for step in steps]


def _check_options(opset: int, route: str) -> None:
    from passes.onnx_emitter import SUPPORTED_OPSETS

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
    ):
        if not isinstance(model, nn.Module):
            raise InputError(
                f"the model is a {type(model).__name__}, not a torch.nn.Module",
                remedy="pass an instance of your model class",
            )
        started = time.perf_counter()
        self.log = GuardLog()
        self.sample: Sample = bind_sample(model, args, kwargs, dynamic_shapes, dims, self.log)
        self.timings: dict[str, float] = {}
        with TORCH_STATE, _report_of_failure(type(model).__name__):
            self.program, results = follow(model, self.sample, self.log)
        self._note(results)
        self.timings["capture"] = time.perf_counter() - started - sum(self.timings.values())
        if self.program.unreached:
            listed = ", ".join(self.program.unreached)
            message = f"the sample never reaches the lazy layers {listed}"
            if strict:
                raise LazyResolutionError(message, remedy="give a sample that reaches them, or remove them")
            warnings.warn(f"{message}; they stay lazy and are left out of an export", TracerWarning, stacklevel=4)

    def run(self, passes: Sequence[Pass], start: Stage = Stage.CAPTURED) -> list[PassResult]:
        results = Pipeline(passes, start).run(self.program)
        self._note(results)
        return results

    def _note(self, results: Sequence[PassResult]) -> None:
        for result in results:
            self.timings[result.name] = self.timings.get(result.name, 0.0) + result.seconds

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings[step] = self.timings.get(step, 0.0) + time.perf_counter() - started

    def outline(self, target: nn.Module) -> nn.Module:
        """Gives the lazy modules of `target`, a copy of the model, their sizes alone, on the meta device."""
        for module in target.modules():
            stand_on(module, torch.device("meta"))
        self.run([LazyOutline(target)], Stage.SHAPED)
        return target

    def resolve(self, target: nn.Module, seed: int | None, weights: Mapping[str, torch.Tensor] | None) -> nn.Module:
        """Gives the lazy modules of `target`, a copy of the model, their weights: drawn, or from a checkpoint."""
        step = LazyResolution(target) if weights is None else WeightLoading(target, weights)
        with TORCH_STATE, _seeded(seed):
            self.run([step], Stage.SHAPED)
        return target


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


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """With a seed, torch's random state is that seed's inside the block and what it was after it."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        torch.manual_seed(seed)
        yield


__all__ = ["Conversion", "convert", "draw", "inspect", "resolve"]
