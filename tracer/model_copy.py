"""A copy of a model that shares its weights: what is traced, and what a resolved model grows from."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from passes.program import is_uninitialized

_SHARED_TYPES = (int, float, bool, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size)


def copy_model(model: nn.Module) -> nn.Module:
    """A model of the same classes, with the same tensors and its own everything else.

    Initialised parameters and buffers are shared, not copied. Uninitialised ones are replaced by new ones
    of the same kind (`copy.deepcopy` refuses lazy buffers). Every other attribute is copied, so that
    nothing done to the copy reaches the original; what cannot be copied (a lock, an open file) is
    shared. Aliases stay aliases.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = _fresh_uninitialized(tensor) if is_uninitialized(tensor) else tensor
        memo[id(module)] = type(module).__new__(type(module))
    for module in list(model.modules()):
        _copy_attributes(module, memo[id(module)], memo)
    result = memo[id(model)]
    assert isinstance(result, nn.Module)
    return result


def _fresh_uninitialized(tensor: torch.Tensor) -> torch.Tensor:
    """An uninitialised tensor of the same class, dtype and device."""
    kind: Any = type(tensor)
    fresh: torch.Tensor = kind(requires_grad=tensor.requires_grad, device=tensor.device, dtype=tensor.dtype)
    fresh.__dict__.update(tensor.__dict__)
    return fresh


def _copy_attributes(source: nn.Module, target: nn.Module, memo: dict[int, Any]) -> None:
    attributes = target.__dict__
    for name, value in source.__dict__.items():
        kind = type(value)
        if kind in _SHARED_TYPES:
            attributes[name] = value
        elif name in ("_parameters", "_buffers", "_modules"):
            attributes[name] = kind({key: memo.get(id(item), item) for key, item in value.items()})
        elif not value and kind.__module__ in ("builtins", "collections"):
            attributes[name] = copy.copy(value)
            memo[id(value)] = attributes[name]
        else:
            attributes[name] = _copy_value(value, memo)


def _copy_value(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, torch.Tensor) and id(value) not in memo:
        memo[id(value)] = value.detach().clone()
        return memo[id(value)]
    try:
        return copy.deepcopy(value, memo)
    except (TypeError, RuntimeError, AttributeError, ValueError, NotImplementedError):
        return value
