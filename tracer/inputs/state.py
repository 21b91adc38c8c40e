"""Explicit state: the tensors of a model that its forward writes, as inputs beside those of the caller's sample."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from passes.errors import SideEffectError
from passes.isolation.tensor_copy import shares_memory, storage_key
from passes.modules.explicit_state import held_at, paths
from passes.modules.held_apart import places
from passes.modules.lazy import is_uninitialized, own_tensors
from passes.sizes.guards import Location
from passes.values.spec import TensorSpec
from tracer.edge.source_lines import definition
from tracer.inputs.sample import Leaf, Sample


def with_state(model: nn.Module, sample: Sample, left_behind: Sequence[str]) -> Sample:
    """The sample with what the forward leaves behind, by path, as further inputs; the same where that is known already.

    Raises SideEffectError for what can be no input: what is no tensor, or has no memory of its own.
    """
    state = dict(sample.state)
    known = {id(held_at(model, path)) for path in state}
    taken = {leaf.name for leaf in (*sample.leaves(), *state.values())}
    for path in left_behind:
        tensor = held_at(model, path)
        if id(tensor) in known:
            continue
        _check_is_tensor(model, path, tensor)
        known.add(id(tensor))
        name = re.sub(r"\W", "_", path)
        while name in taken:
            name += "_state"
        taken.add(name)
        state[path] = Leaf(name, TensorSpec.of(tensor))
    if len(state) == len(sample.state):
        return sample
    _check_memory(model, state)
    in_order = {path: state[path] for path in paths(model) if path in state}
    return replace(sample, state=in_order)


def _check_is_tensor(model: nn.Module, path: str, held: Any) -> None:
    name = path.rpartition(".")[2]
    if not isinstance(held, torch.Tensor):
        number = isinstance(held, (bool, int, float))
        raise _refusal(
            model,
            path,
            f"the forward writes {path}, which is {_described(held)} before it, no tensor that can be an input",
            f'keep it as one, self.register_buffer("{name}", torch.tensor({held})), and change it in place'
            if number
            else "give it a tensor of its size to begin with, return it, or leave it as it is",
        )
    if is_uninitialized(held):
        raise _refusal(
            model, path, f"the forward writes {path}, which has no size before it", "declare it with its sizes"
        )
    if not shares_memory(held):
        raise _refusal(model, path, f"the forward writes {path}, which is no plain tensor", "keep it as a dense tensor")


def _described(held: Any) -> str:
    return repr(held) if held is None or isinstance(held, (bool, int, float, str)) else f"a {type(held).__name__}"


def _check_memory(model: nn.Module, state: Mapping[str, Leaf]) -> None:
    """Raises SideEffectError where a write into one of these tensors reaches another tensor of the model."""
    modules = dict(model.named_modules())
    held = {
        f"{path}.{name}" if path else name: own for path, part in modules.items() for name, own in own_tensors(part)
    }
    apart = {place: found for place, found in places(modules).values() if isinstance(found, torch.Tensor)}
    own = {path: held_at(model, path) for path in state}
    memory = {storage_key(tensor): (path, tensor) for path, tensor in reversed(own.items())}
    for place, tensor in {**held, **apart}.items():
        if is_uninitialized(tensor) or not shares_memory(tensor):
            continue
        path, written = memory.get(storage_key(tensor), (place, tensor))
        if tensor is not written:
            raise _refusal(
                model,
                path,
                f"the forward writes {path}, which shares memory with {place}: as an input it would be another tensor",
                "give each its own memory, by .clone()",
            )


def _refusal(model: nn.Module, path: str, message: str, remedy: str) -> SideEffectError:
    owner = path.rpartition(".")[0]
    module = dict(model.named_modules(remove_duplicate=False)).get(owner, model)
    error = SideEffectError(message, remedy=remedy)
    error.placed(Location(owner, definition(type(module).forward)))
    return error


__all__ = ["with_state"]
