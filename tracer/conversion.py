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
from passes.eager_rewrite import EagerRewrite
from passes.errors import InputError, LazyResolutionError, TracerWarning, UnsupportedOpError
from passes.guards import GuardLog
from passes.lazy_resolution import LazyResolution
from passes.pipeline import CallerPass, Pass, PassResult, Pipeline, Stage, check_stage
from passes.program import Program
from passes.shape_propagation import ShapePropagation
from passes.simplification import Simplification
from tracer.capture import capture
from tracer.model_copy import copy_model
from tracer.report import Report, build_report
from tracer.sample import Sample, bind_sample

if TYPE_CHECKING:
    import onnx
    from torch import fx

    from passes.onnx_lowering import LoweredModel
    from tracer.verification import Verification

CallersPasses = Sequence[Pass | Callable[[Program], object]]


@dataclass(slots=True)
class Conversion:
    """A converted model.

    `module` is the eager model, of the caller's class; `graph_module` its simplified graph for inference;
    `route` is "direct" or "torch" and `route_reason` says why; `verification` is None where it was turned
    off; `timings` holds the seconds of each step.
    """

    module: nn.Module
    graph_module: fx.GraphModule
    route: str
    route_reason: str
    report: Report
    lowered: LoweredModel
    verification: Verification | None = None
    timings: dict[str, float] = field(default_factory=dict)
    path: Path | None = None

    @property
    def onnx_model(self) -> onnx.ModelProto:
        """The model as an onnx.ModelProto, weights included; one above 2 GB refers to the file's external data."""
        from passes.onnx_writer import model_proto

        return model_proto(self.lowered, self.path)

    def save(self, path: str | Path) -> Path:
        """Writes the ONNX file, whole or not at all. Raises ExportError where it cannot be written."""
        from passes.onnx_writer import write_model

        write_model(self.lowered, Path(path))
        self.path = Path(path)
        return self.path


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

    Allocates no weight, runs nothing and changes nothing. Raises TracerError.
    """
    work = _Work(model, args, kwargs, dynamic_shapes, dims, strict)
    work.run([ShapePropagation()])
    return build_report(work.program, type(model).__name__)


def resolve(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    dims: Mapping[str, int] | None = None,
    inplace: bool = False,
    seed: int | None = None,
    passes: CallersPasses = (),
    strict: bool = False,
) -> nn.Module:
    """The same model with every lazy layer that the sample reaches made eager.

    The weights are those that a dry run in eval mode gives under the same seed. With `seed` torch's random
    state is left as it was; without, weights are drawn from it. The result is a new model that shares the
    initialised weights, or `model` itself with `inplace`. Raises TracerError, and then changes nothing.
    """
    work = _Work(model, args, kwargs, dynamic_shapes, dims, strict)
    work.run([ShapePropagation()])
    return work.resolve(model if inplace else copy_model(model), seed)


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
    metadata: Mapping[str, str] | None = None,
    passes: CallersPasses = (),
    strict: bool = False,
) -> Conversion:
    """Resolves `model`, exports it to ONNX and compares the two; writes the file where `f` is given.

    The vocabulary is that of `torch.onnx.export`. Raises TracerError, and then writes and changes nothing.
    """
    from passes.onnx_emitter import SUPPORTED_OPSETS
    from passes.onnx_lowering import OnnxLowering
    from passes.onnx_writer import check_target, write_model

    if opset_version not in SUPPORTED_OPSETS:
        raise InputError(
            f"opset {opset_version} is not supported",
            remedy=f"use one of {SUPPORTED_OPSETS.start} to {SUPPORTED_OPSETS.stop - 1}; 20 is the default",
        )
    target = Path(f) if f is not None else None
    if target is not None:
        check_target(target)
    work = _Work(model, args, kwargs, dynamic_shapes, dims, strict)
    work.run([ShapePropagation()])
    resolved = work.resolve(copy_model(model), seed)
    report = build_report(work.program, type(model).__name__)
    lowering = OnnxLowering(opset_version, input_names, output_names, dict(metadata or {}))
    callers = [step if isinstance(step, Pass) else CallerPass(step) for step in passes]
    work.run([EagerRewrite(resolved), *callers, Simplification(fold_batchnorm), lowering], Stage.SHAPED)
    assert lowering.lowered is not None
    conversion = Conversion(
        resolved,
        work.program.graph_module(),
        "direct",
        "every operation has a direct lowering",
        report,
        lowering.lowered,
        timings=work.timings,
    )

    def run_verification(file: Path | onnx.ModelProto) -> None:
        from tracer.verification import verify as run

        started = time.perf_counter()
        conversion.verification = run(
            file, copy_model(resolved).eval(), work.sample, lowering.lowered.output_names, work.log.sampled
        )  # type: ignore[union-attr]
        work.timings["verification"] = time.perf_counter() - started

    if target is not None:
        started = time.perf_counter()
        write_model(lowering.lowered, target, run_verification if verify else None)
        work.timings["writing"] = time.perf_counter() - started - work.timings.get("verification", 0.0)
        conversion.path = target
    elif verify:
        from passes.onnx_writer import temporary_model

        with temporary_model(lowering.lowered) as file:
            run_verification(file)
    return conversion


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
        self.program = capture(copy_model(model).eval(), self.sample, self.log)
        check_stage(self.program, Stage.CAPTURED, "capture")
        self.timings = {"capture": time.perf_counter() - started}
        if self.program.unreached:
            listed = ", ".join(self.program.unreached)
            message = f"the sample never reaches the lazy layers {listed}"
            if strict:
                raise LazyResolutionError(message, remedy="give a sample that reaches them, or remove them")
            warnings.warn(f"{message}; they stay lazy and are left out of an export", TracerWarning, stacklevel=3)

    def run(self, passes: Sequence[Pass], start: Stage = Stage.CAPTURED) -> list[PassResult]:
        results = Pipeline(passes, start).run(self.program)
        for result in results:
            self.timings[result.name] = self.timings.get(result.name, 0.0) + result.seconds
        return results

    def resolve(self, target: nn.Module, seed: int | None) -> nn.Module:
        with _seeded(seed):
            self.run([LazyResolution(target)], Stage.SHAPED)
        return target


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """With a seed, torch's random state is that seed's inside the block and what it was after it."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        torch.manual_seed(seed)
        yield


__all__ = ["Conversion", "UnsupportedOpError", "convert", "inspect", "resolve"]
