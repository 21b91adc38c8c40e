"""The exported file run beside the eager module."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from passes.dimension import holds_at
from passes.errors import ExportError, VerificationError
from passes.guards import GuardLog, Location
from passes.nested import leaves
from passes.onnx_emitter import onnx_type, raw_bytes
from passes.plain_attention import plain_attention
from passes.torch_state import TORCH_STATE
from tracer.sample import Sample
from tracer.source_lines import is_user_code, source_line

# Largest difference allowed, relative to the output's range (at least 1), by the coarsest dtype that takes part.
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

    Raises VerificationError where an output differs by more than its dtype's tolerance, or the model does not run;
    ExportError where the module itself does not.
    """
    session = _Session(model)
    result = Verification(session.runtime)
    names = sample.dimensions()
    weights = [*module.parameters(), *module.buffers()]
    with TORCH_STATE, torch.random.fork_rng(devices=[]), torch.no_grad(), plain_attention():
        torch.manual_seed(0)
        for sizes in _settings(names, log):
            state = torch.get_rng_state()
            args, kwargs = sample.data(sizes)
            shown = {name: sizes[name] for name in names}
            inputs = flat_tensors((args, kwargs))
            coarsest = max([session.tolerance, *(TOLERANCES.get(t.dtype, 0.0) for t in (*inputs, *weights))])
            found = session.run(inputs)
            expected = _eager(module, args, kwargs, shown)
            try:
                for name, ours, theirs in zip(output_names, found, expected, strict=True):
                    result.comparisons.append(_compare(name, shown, ours, theirs, coarsest))
            except VerificationError as error:
                torch.set_rng_state(state)
                args, kwargs = sample.data(sizes)
                torch.manual_seed(1)
                if _equal(_eager(module, args, kwargs, shown), expected):
                    raise
                raise VerificationError(
                    "the module gives another result each time, as it draws random numbers, so it cannot be compared",
                    remedy="make the random numbers an input of the model, or convert with verify=False (--no-verify)",
                ) from error
    return result


def _eager(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], sizes: dict[str, int]) -> Any:
    """The tensors that the module itself gives."""
    try:
        return flat_tensors(module(*args, **kwargs))
    except Exception as error:  # the caller's own code may raise anything
        inside = [place for place in traceback.walk_tb(error.__traceback__) if is_user_code(place[0].f_code)]
        raise ExportError(
            f"the module itself does not run{_at(sizes)}: {type(error).__name__}: {_first_line(error)}",
            remedy="make it run on this sample, or convert with verify=False (--no-verify)",
        ).placed(Location("", source_line(*inside[-1]) if inside else None)) from error


def _equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(left, right, strict=True))


def _at(sizes: Mapping[str, int]) -> str:
    return f" at {', '.join(f'{name}={size}' for name, size in sizes.items())}" if sizes else ""


def _settings(names: list[str], log: GuardLog) -> list[dict[str, int]]:
    """The sampled sizes, and other ones near them for which the guards hold, where there are any."""
    settings = [dict(log.sampled)]
    for step in (1, -1, 2, -2, 4, 8, 16, 32):
        moved = {**log.sampled, **{name: log.sampled[name] + step for name in names}}
        if names and min(moved.values()) >= 1 and holds_at(log, moved):
            return [*settings, moved]
    return settings


class _Session:
    """An ONNX model ready to run: in onnxruntime; in onnx's reference evaluator where that is not installed, or has no
    kernel for one of the model's types.

    `tolerance` is what the runtime's own precision asks for, whatever the model's."""

    tolerance = 0.0

    def __init__(self, model: Path | onnx.ModelProto):
        source: Any = str(model) if isinstance(model, Path) else model
        self._evaluator: Any = _onnxruntime(source)
        if self._evaluator is not None:
            self.runtime = "onnxruntime"
            self._names = [entry.name for entry in self._evaluator.get_inputs()]
            return
        from onnx.reference import ReferenceEvaluator

        self.runtime = "onnx.reference"
        self.tolerance = TOLERANCES[torch.float32]  # it computes some functions in float32 always, such as Erf
        self._evaluator = ReferenceEvaluator(source)
        self._names = list(self._evaluator.input_names)

    def run(self, inputs: list[torch.Tensor]) -> list[Any]:
        feed = {name: _array(tensor) for name, tensor in zip(self._names, inputs, strict=True)}
        try:
            results: list[Any] = self._evaluator.run(None, feed)
        except Exception as error:  # the runtimes share no narrower class
            raise VerificationError(
                f"{self.runtime} cannot run the exported model: {_first_line(error)}", remedy=_ANOTHER_WAY
            ) from error
        return results


_ANOTHER_WAY = "try another --opset, or convert with verify=False (--no-verify)"


def _onnxruntime(source: Any) -> Any:
    """A session of onnxruntime, or None where it cannot run the model's types."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    serialized = source.SerializeToString() if isinstance(source, onnx.ModelProto) else source
    try:
        session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes derive from nothing narrower
        if type(error).__name__ == "NotImplemented":
            return None
        raise VerificationError(
            f"onnxruntime does not load the exported model: {_first_line(error)}", remedy=_ANOTHER_WAY
        ) from error
    types = {entry.type for entry in (*session.get_inputs(), *session.get_outputs())}
    return None if any("bfloat16" in kind or "float8" in kind for kind in types) else session


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The tensor as a numpy array, in a type of ml_dtypes where numpy has none."""
    return raw_bytes(tensor).view(_numpy_dtype(tensor.dtype)).reshape(tuple(tensor.shape))


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    return onnx.helper.tensor_dtype_to_np_dtype(onnx_type(dtype))


def _compare(name: str, sizes: dict[str, int], found: Any, expected: torch.Tensor, coarsest: float) -> Comparison:
    ours = np.asarray(found)
    theirs = expected.detach().cpu()
    place = f"output {name}{_at(sizes)}"
    if tuple(ours.shape) != tuple(theirs.shape):
        raise VerificationError(f"{place} has the shape {list(ours.shape)}, but the module gives {list(theirs.shape)}")
    if ours.dtype != _numpy_dtype(theirs.dtype):
        raise VerificationError(f"{place} is {ours.dtype}, but the module gives {theirs.dtype}")
    exact = theirs.double().numpy()
    approximate = ours.astype(np.float64)
    finite = np.isfinite(exact)
    if not np.array_equal(exact[~finite], approximate[~finite], equal_nan=True):
        raise VerificationError(f"{place} has other infinities or NaNs than the module's")
    difference = float(np.abs(exact[finite] - approximate[finite]).max(initial=0.0))
    scale = float(np.abs(exact[finite]).max(initial=0.0))
    comparison = Comparison(name, sizes, difference, scale)
    tolerance = max(TOLERANCES[theirs.dtype], coarsest) if theirs.dtype in TOLERANCES else 0.0
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
