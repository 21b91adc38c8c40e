"""A copy of a model that shares its weights: what is traced, and what a resolved model grows from."""

from __future__ import annotations

import copy
import enum
import weakref
from collections import OrderedDict
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from passes.lazy_modules import is_uninitialized

_SHARED_TYPES = frozenset({int, float, bool, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size})
_CONTAINERS = frozenset({dict, list, set, OrderedDict})


class Sharing(enum.Enum):
    """Which initialised tensors a copy has in common with its original."""

    ALL = "all"  # to be traced, or resolved
    PARAMETERS = "parameters"  # to be run in eval mode, which may write into buffers
    NONE = "none"  # to be run by code that may do anything


def copy_model(
    model: nn.Module,
    device: torch.device | None = None,
    *,
    sharing: Sharing = Sharing.ALL,
    memo: dict[int, Any] | None = None,
) -> nn.Module:
    """A model of the same classes, with the same tensors and its own everything else.

    With `device`, tensors are not shared but stand on that device, the uninitialised ones still so; `sharing`
    says which are copied otherwise.

    Uninitialised tensors are replaced by new ones of the same kind (`copy.deepcopy` refuses lazy buffers). Every other
    attribute is copied, so that nothing done to the copy reaches the original, hooks and what they close over too; what
    cannot be copied (a lock, an open file) is shared. Aliases stay aliases. `memo` gets what became of each original,
    by its id.
    """
    memo = {} if memo is None else memo
    modules = list(model.modules())
    with torch._C.DisableTorchFunctionSubclass():  # lazy tensors answer every question about them through Python
        for module in modules:
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None and id(tensor) not in memo:
                    memo[id(tensor)] = _stand_in(tensor, device, sharing)
            memo[id(module)] = object.__new__(type(module))  # a class's own __new__ may do anything
            for name, value in module.__dict__.items():
                if type(value) is OrderedDict and value and "_hooks" in name:
                    memo[id(value)] = OrderedDict()  # handles, wherever they are kept, lead to it
    for module in modules:
        _copy_attributes(module, memo[id(module)], memo)
    result = memo[id(model)]
    assert isinstance(result, nn.Module)
    return result


def in_eval_mode(model: nn.Module) -> nn.Module:
    """`model.eval()`, at once where no module has a way of its own to change its mode."""
    modules = list(model.modules())
    if any(type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval for module in modules):
        return model.eval()
    for module in modules:
        module.__dict__["training"] = False
    return model


def _stand_in(tensor: torch.Tensor, device: torch.device | None, sharing: Sharing) -> torch.Tensor:
    """What the copy has in place of a parameter or buffer."""
    if is_uninitialized(tensor):
        kind: Any = type(tensor)
        fresh: torch.Tensor = kind(
            requires_grad=tensor.requires_grad, device=device or tensor.device, dtype=tensor.dtype
        )
        fresh.__dict__.update(tensor.__dict__)
        return fresh
    is_parameter = isinstance(tensor, nn.Parameter)
    if device is None and (sharing is Sharing.ALL or (sharing is Sharing.PARAMETERS and is_parameter)):
        return tensor
    moved = tensor.detach().clone() if device is None else tensor.detach().to(device)
    return nn.Parameter(moved, tensor.requires_grad) if is_parameter else moved


def _copy_attributes(source: nn.Module, target: nn.Module, memo: dict[int, Any]) -> None:
    attributes = target.__dict__
    for name, value in source.__dict__.items():
        kind = type(value)
        if kind in _SHARED_TYPES:
            attributes[name] = value
        elif name in ("_parameters", "_buffers", "_modules"):
            attributes[name] = kind({key: memo.get(id(item), item) for key, item in value.items()})
        elif kind is OrderedDict and value and "_hooks" in name:
            attributes[name] = memo[id(value)]
            attributes[name].update((key, copy_hook(hook, memo)) for key, hook in value.items())
        elif id(value) in memo:
            attributes[name] = memo[id(value)]
        elif kind in _CONTAINERS and not value:  # most of a module's attributes are empty: not worth a deepcopy
            attributes[name] = memo[id(value)] = kind()
        elif kind is tuple and all(type(item) in _SHARED_TYPES for item in value):
            attributes[name] = value
        elif kind in (FunctionType, MethodType, partial):
            attributes[name] = copy_hook(value, memo)
        elif kind is RemovableHandle:
            attributes[name] = memo[id(value)] = _rebound_handle(value, memo)
        else:
            attributes[name] = _copy_value(value, memo)


def copy_hook(hook: Any, memo: dict[int, Any]) -> Any:
    """A hook that acts on a copy: whatever it holds of a model is that of the copy, and what it keeps is its own.

    A function holds what it closes over and its default arguments, a method its object, a partial its arguments, a
    callable object its attributes. What functions find in their module's globals stays the caller's.
    """
    if id(hook) in memo:
        return memo[id(hook)]
    kind = type(hook)
    if kind is MethodType:
        owner = memo.get(id(hook.__self__), hook.__self__)
        if owner is hook.__self__ and not isinstance(owner, type):
            owner = _copy_value(owner, memo)
        return MethodType(copy_hook(hook.__func__, memo), owner)
    if kind is partial:
        args = [_copy_held(value, memo) for value in hook.args]
        keywords = {name: _copy_held(value, memo) for name, value in hook.keywords.items()}
        return partial(copy_hook(hook.func, memo), *args, **keywords)
    return _copy_function(hook, memo) if kind is FunctionType else _copy_value(hook, memo)


def _copy_function(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    if not (function.__closure__ or function.__defaults__ or function.__kwdefaults__):
        return function
    cells = function.__closure__ or ()
    for cell in cells:
        memo.setdefault(id(cell), CellType())
    copied = FunctionType(
        function.__code__, function.__globals__, function.__name__, None, tuple(memo[id(cell)] for cell in cells)
    )
    memo[id(function)] = copied
    copied.__dict__.update(function.__dict__)
    copied.__defaults__ = function.__defaults__ and tuple(_copy_held(value, memo) for value in function.__defaults__)
    copied.__kwdefaults__ = function.__kwdefaults__ and {
        name: _copy_held(value, memo) for name, value in function.__kwdefaults__.items()
    }
    for cell in cells:
        copy_cell = memo[id(cell)]
        if not _is_filled(copy_cell) and _is_filled(cell):
            copy_cell.cell_contents = _copy_held(cell.cell_contents, memo)
    return copied


def _is_filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _copy_held(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of something that a hook holds."""
    if id(value) in memo:
        return memo[id(value)]
    if type(value) is RemovableHandle:
        memo[id(value)] = _rebound_handle(value, memo)
        return memo[id(value)]
    return copy_hook(value, memo) if type(value) in (MethodType, FunctionType, partial) else _copy_value(value, memo)


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


def _copy_value(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, torch.Tensor) and id(value) not in memo:
        memo[id(value)] = value.detach().clone()
        return memo[id(value)]
    try:
        return copy.deepcopy(value, memo)
    except (TypeError, RuntimeError, AttributeError, ValueError, NotImplementedError):
        return value
