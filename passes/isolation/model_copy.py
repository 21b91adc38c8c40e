"""A copy of a model on the same memory: what is traced and run, and what a resolved model grows from."""

from __future__ import annotations

import copy
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from passes.isolation.object_copy import ObjectCopier
from passes.isolation.tensor_copy import TensorCopies, fresh, shares_memory, storage_key
from passes.modules.lazy import is_uninitialized
from passes.torch_private import without_classes

_SHARED_TYPES = frozenset({int, float, bool, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size})
_CONTAINERS = frozenset({dict, list, set, OrderedDict})
_TABLES = frozenset({"_parameters", "_buffers", "_modules"})


class ModelCopy:
    """A model of the same classes with its own everything, `module`; only the memory of its tensors is the original's.

    Every attribute is copied, so that nothing done to the copy reaches the original, hooks and what they close over too
    (`passes/isolation/object_copy.py`). Aliases stay aliases, and tensors that share memory go on sharing it.
    Uninitialised tensors are replaced by new ones of the same kind. With `device`, tensors stand on that device, the
    uninitialised ones still so. `pairs` has the initialised tensors of the original, with the copy's.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | None = None,
        tensors: TensorCopies | None = None,
        restores: bool = False,
    ):
        self._tensors = tensors or TensorCopies(device)
        self._memo: dict[int, Any] = {}
        self._copier = ObjectCopier(self._memo, self._tensors.copy, self._copied, self._where, restores)
        self._model = model
        self._at: tuple[nn.Module, str] = (model, "")
        self.module: nn.Module = self._copied(model)
        self._memo.clear()  # it would keep alive what the copy lets go of

    @property
    def pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self._tensors.pairs

    @property
    def made(self) -> list[Any]:
        """The copies of the objects that the model and its hooks have, tensors and modules apart."""
        return self._copier.made

    def hooks(self, hooks: dict[int, Any]) -> dict[int, Any]:
        """Hooks that act on the copy: what they hold of the model is that of the copy, and what they keep their own."""
        return self._copier.hooks(hooks)

    def _copied(self, model: nn.Module) -> nn.Module:
        """The copy of a module with all its submodules, some of which may have been copied before."""
        memo = self._memo
        modules = [module for module in model.modules() if id(module) not in memo]
        made = []
        for module in modules:
            if isinstance(module, torch.jit.ScriptModule):
                memo[id(module)] = self._scripted(module)
                continue
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None and (key := id(tensor)) not in memo:
                    memo[key] = self._tensors.copy(tensor)
            own = memo[id(module)] = object.__new__(type(module))  # a class's own __new__ may do anything
            made.append((module, own))
        for module, own in made:
            self._copy_attributes(module, own)
        copied: nn.Module = memo[id(model)]
        return copied

    def _scripted(self, module: nn.Module) -> nn.Module:
        copied: nn.Module = copy.deepcopy(module)
        return copied if self._tensors.device is None else copied.to(self._tensors.device)

    def _copy_attributes(self, source: nn.Module, target: nn.Module) -> None:
        attributes, memo = target.__dict__, self._memo
        for name, value in source.__dict__.items():
            kind = type(value)
            if kind in _SHARED_TYPES:
                attributes[name] = value
            elif kind in _CONTAINERS and not value and (key := id(value)) not in memo:  # as most attributes are
                attributes[name] = memo[key] = kind()
            elif name in _TABLES:
                attributes[name] = kind(
                    {key: memo[item_key] if (item_key := id(item)) in memo else item for key, item in value.items()}
                )
            elif id(value) in memo:
                attributes[name] = memo[id(value)]
            elif kind is tuple and _SHARED_TYPES.issuperset(map(type, value)):
                attributes[name] = value
            elif kind is OrderedDict and "_hooks" in name:
                attributes[name] = self.hooks(value)
            elif kind is RemovableHandle:
                attributes[name] = memo[id(value)] = _rebound_handle(value, memo)
            else:
                outer, self._at = self._at, (source, name)
                attributes[name] = self._copier.copy(value)
                self._at = outer

    def _where(self) -> str:
        """The attribute that is being copied."""
        module, name = self._at
        path = next((path for path, found in self._model.named_modules() if found is module), type(module).__name__)
        return f"{path}.{name}" if path else name

    def settled(self) -> nn.Module:
        """The copy as a model to go on with: where a parameter or buffer is still what it was, it is the original's.

        The memory of other tensors is copied, unless a parameter or buffer has it too.
        """
        registered = list(registered_tensors(self.module))
        kept = {id(tensor): tensor for tensor in registered}
        kept.update({id(own): original for original, own in self.pairs if id(own) in kept and is_same(original, own)})
        return ModelCopy(self.module, tensors=TensorCopies(None, kept, _storages(registered)), restores=True).module


def registered_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """The parameters and buffers of the model and its modules."""
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                yield tensor


def is_same(original: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether a copy's tensor is still what it was made: the same elements of the same memory."""
    with without_classes():
        return (
            own.dtype is original.dtype
            and own.size() == original.size()
            and own.stride() == original.stride()
            and own.storage_offset() == original.storage_offset()
            and own.requires_grad == original.requires_grad
            and type(own) is type(original)
            and (not shares_memory(own) or storage_key(own) == storage_key(original))
        )


def moved(original: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether a copy's tensor now has other memory than the original's, or is of another type."""
    return shares_memory(original) and (own.data_ptr() != original.data_ptr() or own.dtype is not original.dtype)


def _storages(tensors: Iterable[torch.Tensor]) -> set[int]:
    return {storage_key(tensor) for tensor in tensors if not is_uninitialized(tensor) and shares_memory(tensor)}


def copy_model(model: nn.Module, device: torch.device | None = None) -> nn.Module:
    """A copy of the model (see `ModelCopy`); what may write into its tensors runs under
    `passes.isolation.copy_on_write`."""
    return ModelCopy(model, device).module


def sharing_copy(model: nn.Module) -> nn.Module:
    """A copy of the model that has the very same parameters and buffers; for what runs no code of the model's."""
    registered = list(registered_tensors(model))
    kept = {id(tensor): tensor if not is_uninitialized(tensor) else fresh(tensor) for tensor in registered}
    return ModelCopy(model, tensors=TensorCopies(None, kept, _storages(registered)), restores=True).module


def sets_mode_itself(model: nn.Module) -> bool:
    """Whether a module has a way of its own to change its mode, which may do anything."""
    kinds: set[type[nn.Module]] = set(map(type, model.modules()))
    return any(kind.train is not nn.Module.train or kind.eval is not nn.Module.eval for kind in kinds)


def in_eval_mode(model: nn.Module) -> nn.Module:
    """`model.eval()`, at once where that does nothing else."""
    if sets_mode_itself(model):
        return model.eval()
    set_eval_mode(model.modules())
    return model


def set_eval_mode(modules: Iterable[nn.Module]) -> None:
    """Sets modules to eval mode that have no way of their own to do that."""
    for module in modules:
        module.__dict__["training"] = False


def _rebound_handle(handle: RemovableHandle, memo: dict[int, Any]) -> RemovableHandle:
    """The handle of a hook, to remove it from the copy."""
    rebound = RemovableHandle.__new__(RemovableHandle)
    rebound.id = handle.id
    rebound.hooks_dict_ref = _rebound_reference(handle.hooks_dict_ref, memo)
    rebound.extra_dict_ref = tuple(_rebound_reference(reference, memo) for reference in handle.extra_dict_ref)
    return rebound


def _rebound_reference(reference: Any, memo: dict[int, Any]) -> Any:
    hooks = reference()
    copied = memo.get(id(hooks))
    return reference if copied is None else weakref.ref(copied)
