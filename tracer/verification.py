"""The exported file run beside the eager module."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from passes.dimension import holds_at
from passes.errors import ExportError, TracerError, VerificationError
from passes.guards import GuardLog, Location
from passes.onnx_emitter import onnx_type
from passes.onnx_lowering import LoweredModel
from passes.plain_attention import plain_attention
from passes.program import Program
from passes.torch_state import TORCH_STATE
from tracer.agreement import cloned, distance, fault_of, flat_tensors, tolerances
from tracer.onnx_session import Session
from tracer.sample import Sample
from tracer.source_lines import is_user_code, source_line


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
    program: Program,
    module: nn.Module,
    sample: Sample,
    file: Path | None = None,
    locate: Locate | None = None,
) -> Verification:
    """Runs the exported model and the module on the same inputs and compares every output.

    The inputs are the sample's own data where it has some, random ones elsewhere; with dynamic dimensions
    they run a second time at other sizes for which the guards hold. `program` is what the model was lowered from,
    and `file` what was written. `module` runs in the mode it is in: give it in eval mode. `locate` is asked where a
    disagreement begins. Random state is restored.

    Raises VerificationError where an output differs by more than its dtype's tolerance, or the model does not run;
    ExportError where the module itself does not.
    """
    session = Session(lowered, file)
    result = Verification(session.runtime)
    tolerance = tolerances(program, session.in_float32)[program.output()]
    names = sample.dimensions()
    with TORCH_STATE, torch.random.fork_rng(devices=[]), torch.no_grad(), plain_attention():
        torch.manual_seed(0)
        for sizes in _settings(names, program.log):
            state = torch.get_rng_state()
            args, kwargs = sample.data(sizes)
            shown = {name: sizes[name] for name in names}
            found = session.run(flat_tensors((args, kwargs)))
            expected = _eager(module, args, kwargs, shown)
            for output, ours, theirs in zip(lowered.proto.graph.output, found, expected, strict=True):
                fault = _dtype_fault(output, theirs) or fault_of(ours, theirs, tolerance)
                if fault is not None:
                    torch.set_rng_state(state)
                    again = sample.data(sizes)
                    _check_repeatable(module, again, expected, shown)
                    origin = locate(module, *again) if locate is not None else None
                    raise _disagreement(f"output {output.name}{_at(shown)} {fault}", origin)
                result.comparisons.append(Comparison(output.name, shown, *distance(ours, theirs)))
    return result


def _disagreement(message: str, origin: Origin | None) -> TracerError:
    remedy = "try --no-fold-batchnorm or another --opset, and report the model"
    if origin is None:
        return VerificationError(message, remedy=remedy)
    error = VerificationError(f"{message}; {origin.text}", remedy=remedy)
    return error if origin.location is None else error.placed(origin.location, origin.operation)


def _dtype_fault(output: onnx.ValueInfoProto, expected: torch.Tensor) -> str | None:
    found = output.type.tensor_type.elem_type
    if found == onnx_type(expected.dtype):
        return None
    return f"is {onnx.helper.tensor_dtype_to_np_dtype(found)}, but the module gives {expected.dtype}"


def _check_repeatable(module: nn.Module, arguments: Any, expected: list[torch.Tensor], sizes: dict[str, int]) -> None:
    """Raises VerificationError where the module gives another result on the same arguments."""
    args, kwargs = cloned(arguments)
    torch.manual_seed(1)
    if not _equal(_eager(module, args, kwargs, sizes), expected):
        raise VerificationError(
            "the module gives another result each time, as it draws random numbers, so it cannot be compared",
            remedy="make the random numbers an input of the model, or convert with verify=False (--no-verify)",
        )


def _eager(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], sizes: dict[str, int]) -> Any:
    """The tensors that the module itself gives."""
    try:
        return flat_tensors(module(*args, **kwargs))
    except (Exception, SystemExit) as error:  # the caller's own code may raise anything
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


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
