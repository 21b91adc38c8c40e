"""The model and the samples that a command is about, loaded from what was typed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from passes.errors import InputError
from tracer.cli.invocation import Invocation

if TYPE_CHECKING:
    from torch import nn


@dataclass(slots=True)
class Subject:
    """A loaded model and its samples, as `tracer`'s functions take them; `args` and `kwargs` are those of the first."""

    model: nn.Module
    samples: list[tuple[tuple[Any, ...], dict[str, Any]]]
    dims: dict[str, int]
    strict: bool

    @property
    def args(self) -> tuple[Any, ...]:
        return self.samples[0][0]

    @property
    def kwargs(self) -> dict[str, Any]:
        return self.samples[0][1]

    @property
    def options(self) -> dict[str, Any]:
        return {"kwargs": self.kwargs, "dims": self.dims, "strict": self.strict}


@contextmanager
def loaded_subject(
    invocation: Invocation,
    model_name: str,
    inputs: Sequence[str],
    kwargs: Sequence[str],
    dims: Sequence[str],
    seed: int,
    strict: bool,
    constraints: Sequence[str],
    compare: bool = False,
) -> Iterator[Subject]:
    """The model, built under the seed; inside the block torch's random state goes on from there, so that a
    model gets the weights that it has in a script which sets the seed, builds it and runs it once. To `compare`, the
    inputs are those of several samples."""
    import torch

    from tracer.cli import loading

    samples = loading.load_samples(inputs) if compare else [loading.load_inputs(inputs)]
    samples = loading.with_constraints(samples, constraints)
    known = [name for args, named in samples for name in loading.dimension_names(args, named)]
    sizes = loading.parse_sizes(dims, "--dim", list(dict.fromkeys(known)))
    factory_arguments = loading.parse_literals(kwargs, "--kwarg")
    if not -(2**63) <= seed < 2**64:
        raise InputError(f"--seed {seed} does not fit into 64 bits", remedy="choose a smaller one")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        invocation.progress.says(f"loading {model_name}")
        model = loading.load_model(model_name, factory_arguments)
        invocation.check_outputs(loading.source_files(model_name))
        yield Subject(model, samples, sizes, strict)
