"""A copy of a model that shares its weights: what is traced, and what a resolved model grows from."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import MethodType
from typing import Any

import torch
from torch import nn

from passes.lazy_modules import is_uninitialized

_SHARED_TYPES = (int, float, bool, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size)


def copy_model(model: nn.Module, device: torch.device | None = None, *, share: bool = True) -> nn.Module:
    """A model of the same classes, with the same tensors and its own everything else.

    With `device`, tensors are not shared but stand on that device, the uninitialised ones still so; without
    `share` they are copied.

    Initialised parameters and buffers are shared, not copied. Uninitialised ones are replaced by new ones
    of the same kind (`copy.deepcopy` refuses lazy buffers). Every other attribute is copied, so that
    nothing done to the copy reaches the original; what cannot be copied (a lock, an open file) is
    shared. Aliases stay aliases.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = _stand_in(tensor, device, share)
        memo[id(module)] = type(module).__new__(type(module))
    for module in list(model.modules()):
        _copy_attributes(module, memo[id(module)], memo)
    result = memo[id(model)]
    assert isinstance(result, nn.Module)
    return result


def _stand_in(tensor: torch.Tensor, device: torch.device | None, share: bool) -> torch.Tensor:
    """What the copy has in place of a parameter or buffer."""
    if is_uninitialized(tensor):
        kind: Any = type(tensor)
        fresh: torch.Tensor = kind(
            requires_grad=tensor.requires_grad, device=device or tensor.device, dtype=tensor.dtype
        )
        fresh.__dict__.update(tensor.__dict__)
        return fresh
    if device is None and share:
        return tensor
    moved = tensor.detach().clone() if device is None else tensor.detach().to(device)
    return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved


def _copy_attributes(source: nn.Module, target: nn.Module, memo: dict[int, Any]) -> None:
    attributes = target.__dict__
    for name, value in source.__dict__.items():
        kind = type(value)
        if kind in _SHARED_TYPES:
            attributes[name] = value
        elif name in ("_parameters", "_buffers", "_modules"):
            attributes[name] = kind({key: memo.get(id(item), item) for key, item in value.items()})
        elif kind is OrderedDict and "_hooks" in name:
            attributes[name] = memo[id(value)] = OrderedDict((key, _rebound(hook, memo)) for key, hook in value.items())
        elif kind.__module__ in ("builtins", "collections") and not value:
            attributes[name] = copy.copy(value)
            memo[id(value)] = attributes[name]
        else:
            attributes[name] = _copy_value(value, memo)


def _rebound(hook: Any, memo: dict[int, Any]) -> Any:
    """A hook that is a method of a copied module, as that method of the copy; any other as it is."""
    owner = memo.get(id(getattr(hook, "__self__", None)))
    return hook if owner is None else MethodType(hook.__func__, owner)


def _copy_value(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, torch.Tensor) and id(value) not in memo:
        memo[id(value)] = value.detach().clone()
        return memo[id(value)]
    try:
        return copy.deepcopy(value, memo)
    except (TypeError, RuntimeError, AttributeError, ValueError, NotImplementedError):
        return value
