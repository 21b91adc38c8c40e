"""A module becomes what another one is: its resolved copy, whose tensors it takes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from passes.modules.lazy import is_uninitialized, own_tensors
from passes.modules.watching import stated_sizes
from passes.torch_private import tensor_of_class, without_classes


def become(module: nn.Module, resolved: nn.Module) -> None:
    """Makes a module what `resolved`, a resolved copy of it, is; its parameters keep their identity."""
    for own, theirs in ((module._parameters, resolved._parameters), (module._buffers, resolved._buffers)):
        for name, tensor in own.items():
            found = theirs[name]
            if tensor is not None and found is not None and not is_uninitialized(found):
                _take(tensor, found)
        made: Any = {name: found for name, found in theirs.items() if found is not None and own.get(name) is None}
        own.update(made)
    for hooks in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_load_state_dict_pre_hooks"):
        own_hooks, kept = getattr(module, hooks), getattr(resolved, hooks)
        for key in [key for key in own_hooks if key not in kept]:
            del own_hooks[key]
    for name in [name for name in module.__dict__ if name not in resolved.__dict__]:
        del module.__dict__[name]
    module.__dict__.update(stated_sizes(resolved))
    module.__class__ = type(resolved)


def become_all(model: nn.Module, resolved: nn.Module) -> None:
    """Makes a model what `resolved`, a resolved copy of it, is, or leaves it as it was where that fails half-way."""
    modules = dict(model.named_modules())
    before = [(module, _Before(module)) for module in modules.values()]
    try:
        for path, module in modules.items():
            become(module, resolved.get_submodule(path))
    except BaseException:
        for module, state in before:
            state.restore(module)
        raise


def _take(tensor: torch.Tensor, found: torch.Tensor) -> None:
    """Makes a tensor what `found` is, and leaves it the same object; no memory is taken for it."""
    if tensor is found:
        return
    with without_classes():
        if tensor.device.type == found.device.type:
            tensor.data = found.data
            if is_uninitialized(tensor):
                tensor.__class__ = tensor.cls_to_become  # type: ignore[attr-defined]
        else:
            twin = (
                found.detach() if not isinstance(found, nn.Parameter) else nn.Parameter(found.data, found.requires_grad)
            )
            torch.utils.swap_tensors(tensor, twin)  # type: ignore[no-untyped-call]


class _Before:
    """What a module was before it became another one."""

    def __init__(self, module: nn.Module):
        self._class = type(module)
        self._attributes = dict(module.__dict__)
        self._hooks = [(value, dict(value)) for value in module.__dict__.values() if isinstance(value, OrderedDict)]
        with without_classes():
            self._tensors = [(tensor, tensor.data, type(tensor)) for _, tensor in own_tensors(module)]

    def restore(self, module: nn.Module) -> None:
        module.__class__ = self._class
        module.__dict__.clear()
        module.__dict__.update(self._attributes)
        for hooks, entries in self._hooks:
            hooks.clear()
            hooks.update(entries)
        with without_classes():
            for tensor, data, kind in self._tensors:
                if tensor.device.type == data.device.type:
                    tensor.data = data
                    tensor.__class__ = kind
                else:
                    before: torch.Tensor = tensor_of_class(kind, data, tensor.requires_grad)
                    torch.utils.swap_tensors(tensor, before)  # type: ignore[no-untyped-call]


__all__ = ["become", "become_all"]
