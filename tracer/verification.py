"""The exported file run beside the eager module."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from passes.dimension import holds_at
from passes.errors import VerificationError
from passes.guards import GuardLog
from passes.nested import leaves
from passes.plain_attention import plain_attention
from tracer.sample import Sample

# Largest difference allowed, relative to the output's range (at least 1), by the coarsest dtype in an output.
TOLERANCES: dict[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output at one set of sizes: the largest absolute difference, and the output's range."""

    output: str
    sizes: dict[str, int]
    difference: float
    scale: float

    @property
    def relative(self) -> float:
        return self.difference / max(self.scale, 1.0)


@dataclass(slots=True)
class Verification:
    """What running the exported model beside the eager module gave; `runtime` says what ran it."""

    runtime: str
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def largest_difference(self) -> float:
        return max((comparison.difference for comparison in self.comparisons), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        return {
            "runtime": self.runtime,
            "largest_difference": self.largest_difference,
            "comparisons": [
                {"output": c.output, "sizes": c.sizes, "difference": c.difference, "range": c.scale}
                for c in self.comparisons
            ],
        }


def verify(
    model: Path | onnx.ModelProto, module: nn.Module, sample: Sample, output_names: list[str], log: GuardLog
) -> Verification:
    """Runs the model and the module on the same inputs and compares every output.

    The inputs are the sample's own data where it has some, random ones elsewhere; with dynamic dimensions
    they run a second time at other sizes for which the guards hold. `module` runs in the mode it is in: give it in
    eval mode. Random state is restored.

    Raises VerificationError where an output differs by more than its dtype's tolerance, or the model does not run.
    """
    session = _Session(model)
    result = Verification(session.runtime)
    names = sample.dimensions()
    with torch.random.fork_rng(devices=[]), torch.no_grad(), plain_attention():
        torch.manual_seed(0)
        for sizes in _settings(names, log):
            args, kwargs = sample.data(sizes)
            found = session.run(flat_tensors((args, kwargs)))
            expected = flat_tensors(module(*args, **kwargs))
            shown = {name: sizes[name] for name in names}
            for name, ours, theirs in zip(output_names, found, expected, strict=True):
                result.comparisons.append(_compare(name, shown, ours, theirs))
    return result


def _settings(names: list[str], log: GuardLog) -> list[dict[str, int]]:
    """The sampled sizes, and other ones near them for which the guards hold, where there are any."""
    settings = [dict(log.sampled)]
    for step in (1, -1, 2, -2, 4, 8, 16, 32):
        moved = {**log.sampled, **{name: log.sampled[name] + step for name in names}}
        if names and min(moved.values()) >= 1 and holds_at(log, moved):
            return [*settings, moved]
    return settings


class _Session:
    """An ONNX model ready to run: onnxruntime where it is installed, else onnx's reference evaluator."""

    _evaluator: Any

    def __init__(self, model: Path | onnx.ModelProto):
        source: Any = str(model) if isinstance(model, Path) else model
        try:
            import onnxruntime
        except ImportError:
            from onnx.reference import ReferenceEvaluator

            self.runtime = "onnx.reference"
            self._evaluator = ReferenceEvaluator(source)
            self._names = list(self._evaluator.input_names)
            return
        self.runtime = "onnxruntime"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        serialized = source.SerializeToString() if isinstance(source, onnx.ModelProto) else source
        try:
            self._evaluator = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes derive from nothing narrower
            raise VerificationError(f"onnxruntime does not load the exported model: {_first_line(error)}") from error
        self._names = [entry.name for entry in self._evaluator.get_inputs()]

    def run(self, inputs: list[torch.Tensor]) -> list[Any]:
        feed = {name: tensor.detach().numpy() for name, tensor in zip(self._names, inputs, strict=True)}
        try:
            results: list[Any] = self._evaluator.run(None, feed)
        except Exception as error:  # the runtimes share no narrower class
            raise VerificationError(f"{self.runtime} cannot run the exported model: {_first_line(error)}") from error
        return results


def _compare(name: str, sizes: dict[str, int], found: Any, expected: torch.Tensor) -> Comparison:
    ours = np.asarray(found)
    theirs = expected.detach().cpu()
    place = f"output {name}" + (f" at {', '.join(f'{k}={v}' for k, v in sizes.items())}" if sizes else "")
    if tuple(ours.shape) != tuple(theirs.shape):
        raise VerificationError(f"{place} has the shape {list(ours.shape)}, but the module gives {list(theirs.shape)}")
    exact = theirs.double().numpy()
    approximate = ours.astype(np.float64)
    finite = np.isfinite(exact)
    if not np.array_equal(exact[~finite], approximate[~finite], equal_nan=True):
        raise VerificationError(f"{place} has other infinities or NaNs than the module's")
    difference = float(np.abs(exact[finite] - approximate[finite]).max(initial=0.0))
    scale = float(np.abs(exact[finite]).max(initial=0.0))
    comparison = Comparison(name, sizes, difference, scale)
    tolerance = TOLERANCES.get(theirs.dtype, 0.0)
    if comparison.relative > tolerance:
        raise VerificationError(
            f"{place} differs from the module's by {difference:.3g} in a range of {scale:.3g}; "
            f"{tolerance:g} of the range is allowed",
            remedy="try --no-fold-batchnorm or another --opset, and report the model",
        )
    return comparison


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def flat_tensors(value: Any) -> list[torch.Tensor]:
    """The tensors of a nested value, in order."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor)]
