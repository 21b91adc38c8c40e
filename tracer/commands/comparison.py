"""Two or more samples of a model side by side: what changes between them, and which do not work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from passes.errors import InputError, TracerError
from passes.values.nested import leaves
from passes.values.spec import InputSpec
from tracer.commands.step_lists import inspect
from tracer.edge.boundary import public
from tracer.reports.report import Report
from tracer.reports.text import shape


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that is not the same for every sample: its value for each, None where there is none."""

    name: str
    values: list[str | None]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "values": self.values}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is known of one model from several samples; the error in place of a report where one does not work."""

    model: str
    samples: list[str]
    reports: list[Report | TracerError]

    @property
    def differences(self) -> list[Difference]:
        """The sizes, outputs, parameters and costs that differ between the samples that work, in order of execution,
        those of the whole model last."""
        facts = [dict(_facts(report)) if isinstance(report, Report) else None for report in self.reports]
        names = dict.fromkeys(name for known in facts if known is not None for name in known)
        rows = [Difference(name, [known.get(name) if known else None for known in facts]) for name in names]
        working = [index for index, known in enumerate(facts) if known is not None]
        return [row for row in rows if len({row.values[index] for index in working}) > 1]

    @property
    def faults(self) -> list[tuple[str, TracerError]]:
        """The samples that do not work, each with the reason."""
        pairs = zip(self.samples, self.reports, strict=True)
        return [(sample, report) for sample, report in pairs if isinstance(report, TracerError)]

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "samples": [
                {"sample": sample, "error" if isinstance(report, TracerError) else "report": report.to_dict()}
                for sample, report in zip(self.samples, self.reports, strict=True)
            ],
            "differences": [difference.to_dict() for difference in self.differences],
        }


@public
def compare(
    model: nn.Module,
    samples: Sequence[Any],
    kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
    *,
    names: Sequence[str] | None = None,
    dims: Mapping[str, int] | None = None,
    strict: bool = False,
) -> Comparison:
    """Inspects `model` from each sample, and says what changes between them.

    Each sample is an `args` as `inspect` takes it; `kwargs` go with every one, or are a list with those of each.
    `names` are what the samples are called, their shapes by default. A sample that does not work has its error in
    place of a report. Allocates no weight, runs nothing and changes nothing.

    Raises InputError where the lists are not equally long, or the model is no module.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the model is a {type(model).__name__}, not a torch.nn.Module",
            remedy="pass an instance of your model class",
        )
    named = [kwargs] * len(samples) if kwargs is None or isinstance(kwargs, Mapping) else list(kwargs)
    for what, given in (("kwargs", named), ("names", names)):
        if given is not None and len(given) != len(samples):
            raise InputError(f"there are {len(samples)} samples, but {len(given)} {what}", remedy="give one per sample")
    titles = list(names if names is not None else map(_title, samples, named))
    reports = [_inspected(model, *pair, dims, strict) for pair in zip(samples, named, strict=True)]
    return Comparison(type(model).__name__, titles, reports)


def _inspected(model: nn.Module, args: Any, kwargs: Any, dims: Any, strict: bool) -> Report | TracerError:
    try:
        return inspect(model, args, kwargs, dims=dims, strict=strict)
    except TracerError as error:
        return error


def _title(sample: Any, kwargs: Mapping[str, Any] | None) -> str:
    """The shapes of a sample's tensors: `1x28x28`."""
    lazy = (torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer)  # have no shape; the report says so
    every = leaves((sample, kwargs))
    tensors = [one for one in every if isinstance(one, (torch.Tensor, InputSpec)) and not isinstance(one, lazy)]
    return ", ".join("x".join(map(str, tensor.shape)) or "scalar" for tensor in tensors) or "no tensors"


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    """Everything about a report that may differ from one sample to the next, by name."""
    calls: Counter[str] = Counter()
    for layer in report.steps:
        calls[layer.path] += 1
        name = layer.path if calls[layer.path] == 1 else f"{layer.path} (call {calls[layer.path]})"
        for attribute, size in layer.resolved.items():
            yield f"{name}.{attribute}", str(size)
        yield f"{name} output", shape(layer.output_shape)
        yield f"{name} params", f"{layer.params:,}"
        yield f"{name} mult-adds", f"{layer.macs_sampled:,}"
    for name, spec in report.inputs.items():
        yield f"input {name}", spec
    for index, spec in enumerate(report.outputs):
        yield "output" if len(report.outputs) == 1 else f"output {index}", spec
    yield "params", f"{report.params:,}"
    yield "mult-adds", f"{report.macs_sampled:,}"
    yield "weight bytes", f"{report.weight_bytes:,}"
    yield "peak bytes", f"{report.peak_bytes:,}"
