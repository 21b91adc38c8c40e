"""Every lazy module gets its weights from a checkpoint instead of drawing them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from passes.errors import LazyResolutionError, LoadError
from passes.lazy_modules import (
    LazyLayer,
    end_laziness,
    is_lazy,
    is_torch_lazy,
    is_uninitialized,
    meta_inputs,
    own_tensors,
    run_own_initialisation,
    stand_on,
)
from passes.pipeline import Stage
from passes.program import Program
from passes.spec import shape_text


@dataclass(slots=True)
class WeightLoading:
    """The pass: the tensors of `target` become those of `weights`, a state_dict; nothing is drawn.

    The sizes of lazy modules come from the tensors and must be those that the sample gives. `target` has the
    structure of the captured model; its tensors are replaced, never written into, so that a model that shares
    them keeps its own. The number of changes is the number of lazy modules resolved.

    Raises LoadError where keys or shapes do not fit, or a value that the forward reads is another than the model's;
    LazyResolutionError where checkpoint and sample disagree.
    """

    target: nn.Module
    weights: Mapping[str, torch.Tensor]
    name: str = "weight loading"
    requires: Stage = Stage.SHAPED
    ensures: Stage = Stage.SHAPED

    def run(self, program: Program) -> int:
        _check_keys(self.target, self.weights, set(program.unreached))
        for layer in program.lazies.values():
            _check_against_sample(layer, self.weights)
            module = self.target.get_submodule(layer.path)
            stand_on(module, torch.device("meta"))
            run_own_initialisation(module, meta_inputs(layer.args), meta_inputs(layer.kwargs), layer.hook)
            for name, size in layer.inference.attributes.items():
                setattr(module, name, size)
        _replace_tensors(self.target, self.weights)
        _check_decisions(program, self.weights)
        return len(program.lazies)


def load_without_sample(target: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Resolves the lazy modules of `target` from a state_dict alone, and loads all of it.

    Sizes and attributes of torch.nn's lazy classes follow from their tensors; other lazy modules are given their
    tensors through their own `load_state_dict`. Raises LoadError where keys or shapes do not fit.
    """
    _check_keys(target, weights, set())
    lazies = [(path, module) for path, module in target.named_modules() if is_lazy(module)]
    for path, module in sorted(lazies, key=lambda entry: not is_torch_lazy(entry[1])):
        if not is_lazy(module):
            continue  # its tensors are tied to those of a module that came before
        own = {name: weights[_key(path, name)] for name, _ in own_tensors(module) if _key(path, name) in weights}
        if is_torch_lazy(module):
            stand_on(module, torch.device("meta"))
            _materialize(module, own)
        else:
            module.load_state_dict(own, strict=False)
        end_laziness(module)
    _replace_tensors(target, weights)


def _materialize(module: nn.Module, own: Mapping[str, torch.Tensor]) -> None:
    """Gives a lazy module of torch.nn the shapes of its tensors, and the attribute that states its input size."""
    for name, tensor in own_tensors(module):
        if is_uninitialized(tensor):
            lazy: Any = tensor
            lazy.materialize(own[name].shape)
    for attribute, source, size_of in _STATED_BY:
        if hasattr(module, attribute) and source in own:
            setattr(module, attribute, size_of(module, own[source]))
            return


# Which attribute of torch.nn's lazy classes states the input size, and how it follows from which tensor.
_STATED_BY: tuple[tuple[str, str, Any], ...] = (
    ("in_features", "weight", lambda module, weight: weight.shape[1]),
    (
        "in_channels",
        "weight",
        lambda module, weight: weight.shape[0] if module.transposed else weight.shape[1] * module.groups,
    ),
    ("num_features", "weight", lambda module, weight: weight.shape[0]),
    ("num_features", "running_mean", lambda module, mean: mean.shape[0]),
)


def _check_keys(target: nn.Module, weights: Mapping[str, torch.Tensor], unreached: set[str]) -> None:
    expected = set(target.state_dict(keep_vars=True))
    check_keys(weights, expected, {key for key in expected if key.rpartition(".")[0] not in unreached}, "the model")


def check_keys(given: Collection[str], known: Collection[str], needed: Collection[str], whole: str) -> None:
    """Raises LoadError unless all needed keys of a state_dict are given, and only known ones."""
    missing = sorted(set(needed) - set(given))
    unknown = sorted(set(given) - set(known))
    faults = [f"{_listed(missing)} missing from it"] if missing else []
    faults += [f"{_listed(unknown)} not in {whole}"] if unknown else []
    if faults:
        raise LoadError(
            f"the weights do not fit {whole}: {'; '.join(faults)}", remedy="give the model's own state_dict"
        )


def _check_decisions(program: Program, weights: Mapping[str, torch.Tensor]) -> None:
    for key, tensor in program.read.items():
        if key in weights and not torch.equal(weights[key].to(tensor), tensor):
            raise LoadError(
                f"the forward reads the value of {key}, which is another in the weights than in the model",
                remedy="load the weights into the model first, with load_state_dict",
            )


def _check_against_sample(layer: LazyLayer, weights: Mapping[str, torch.Tensor]) -> None:
    for name, shape in layer.inference.shapes.items():
        given = tuple(weights[_key(layer.path, name)].shape)
        if given != shape:
            sizes = ", ".join(f"{attribute} = {size}" for attribute, size in layer.inference.attributes.items())
            raise LazyResolutionError(
                f"the checkpoint's {_key(layer.path, name)} is {shape_text(given)}, "
                f"but the sample makes it {shape_text(shape)} ({sizes})",
                remedy="give the sample that the checkpoint was trained with, or its weights",
            ).placed(layer.location, layer.type)


def _replace_tensors(target: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Puts the checkpoint's tensors in place, keeping dtype, `requires_grad` and ties."""
    replaced: dict[int, torch.Tensor] = {}
    for path, module in target.named_modules(remove_duplicate=False):
        for tensors in (module._parameters, module._buffers):
            for name, tensor in list(tensors.items()):
                key = _key(path, name)
                if tensor is None or key not in weights or is_uninitialized(tensor):
                    continue
                if id(tensor) not in replaced:
                    replaced[id(tensor)] = _loaded(key, tensor, weights[key])
                    replaced[id(replaced[id(tensor)])] = replaced[id(tensor)]
                tensors[name] = replaced[id(tensor)]


def _loaded(key: str, tensor: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    if tuple(given.shape) != tuple(tensor.shape):
        raise LoadError(
            f"the weights' {key} is {list(given.shape)}, but the model's is {list(tensor.shape)}",
            remedy="give the weights of this model",
        )
    device = given.device if tensor.device.type == "meta" else tensor.device
    data = given.detach().to(device=device, dtype=tensor.dtype)
    return nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def _key(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _listed(keys: list[str]) -> str:
    shown = ", ".join(keys[:4])
    return f"{shown} and {len(keys) - 4} more are" if len(keys) > 4 else f"{shown} {'are' if len(keys) > 1 else 'is'}"
