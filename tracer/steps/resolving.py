"""The steps that make lazy layers eager: on a copy of the model, or in the model itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from passes.isolation.copy_on_write import CopyOnWrite
from passes.isolation.model_copy import ModelCopy, sharing_copy
from passes.isolation.own_randomness import OwnRandomness, own_randomness, python_randomness_kept
from passes.isolation.torch_state import TORCH_STATE
from passes.modules.becoming import become_all
from passes.modules.initialisation import move_lazy, stand_on
from passes.stages.eager_rewrite import EagerRewrite
from passes.stages.lazy_resolution import LazyOutline, LazyResolution
from passes.stages.loading_code import loading_code
from passes.stages.weight_loading import WeightLoading, load_in_place, load_without_sample
from tracer.steps.work import CallersPasses, Work, follow_sample

Entries = Mapping[str, Any]
Device = str | torch.device


def resolve_lazies(work: Work, seed: int | None, weights: Entries | None, device: Device | None = None) -> None:
    """Leaves a copy of the model whose lazy modules have their weights: drawn, or from a checkpoint."""
    program = work.shaped
    if not (program.draws or program.dry_run or weights is not None or device is not None):
        work.resolved = sharing_copy(work.model)  # nothing of the model's is run
        return
    copy = _copy_on(device, work.model)
    step = LazyResolution(copy.module) if weights is None else WeightLoading(copy.module, weights)
    with TORCH_STATE, drawing_weights(seed), CopyOnWrite(copy.pairs):
        work.shaped = work.run(step, program)
    work.resolved = copy.settled()


def outline_lazies(work: Work) -> bool:
    """Leaves a copy of the model whose lazy modules have their sizes alone, on the meta device, and says whether it is
    one: their own code may draw some of their tensors all the same, as a lazy module's bias may be there already."""
    copy = ModelCopy(work.model)
    for module in copy.module.modules():
        stand_on(module, torch.device("meta"))
    with TORCH_STATE, own_randomness() as randomness, python_randomness_kept(), CopyOnWrite(copy.pairs):
        work.shaped = work.run(LazyOutline(copy.module), work.shaped)
    work.resolved = copy.module
    return not randomness.moved()


def load_without_following(model: nn.Module, weights: Entries, device: Device | None) -> nn.Module:
    """A copy of the model with the weights of a checkpoint, whose shapes are all that lazy layers are resolved from."""
    copy = _copy_on(device, model)
    with TORCH_STATE, own_randomness(), CopyOnWrite(copy.pairs):
        load_without_sample(copy.module, weights)
    return copy.settled()


def run_passes_on_resolved(work: Work, passes: CallersPasses, weights: Entries | None) -> None:
    """Runs the caller's passes on the graph of the resolved model, where there are any."""
    if not passes:
        return
    if weights is not None and loading_code(work.model):  # what its code does to the model is in no graph yet
        resolved = work.resolved
        work = follow_sample(resolved, work.request)
        work.resolved = resolved
    work.run_callers(passes, work.run(EagerRewrite(work.resolved), work.shaped))


def put_into(model: nn.Module, resolved: nn.Module, weights: Entries | None, unreached: Sequence[str]) -> None:
    """Makes the caller's own model what the resolved copy is; code of its own that loads weights runs on it again."""
    loads_itself = weights is not None and bool(loading_code(model))
    become_all(model, resolved)
    if weights is not None and loads_itself:
        load_in_place(model, weights, list(unreached))


def drawing_weights(seed: int | None) -> AbstractContextManager[OwnRandomness]:
    """Inside the block weights are drawn: after the seed, or from torch's random state, which moves as in a dry run."""
    return own_randomness(seed, put_back=seed is None)


def _copy_on(device: Device | None, model: nn.Module) -> ModelCopy:
    """A copy of the model, with its lazy modules on that device where one is given."""
    copy = ModelCopy(model)
    if device is not None:
        move_lazy(copy.module, torch.device(device))
    return copy


__all__ = [
    "drawing_weights", "load_without_following", "outline_lazies", "put_into", "resolve_lazies",
    "run_passes_on_resolved",
]  # fmt: skip
