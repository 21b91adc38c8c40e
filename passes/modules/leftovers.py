"""What a forward leaves behind in its module: buffers written, attributes set.

An exported file computes outputs from inputs and keeps nothing, so a key-value cache or a streaming state starts anew
at each of its runs. That is for the caller to know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn
from torch.utils.hooks import RemovableHandle

from passes.torch_private import without_classes

# What every module has; `training` is the mode, which whoever runs a module sets.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, bytes, type(None))
_EQUAL_TO_THEMSELVES = frozenset({bool, int, str, bytes, type(None)})
_CONTAINERS = (list, tuple, set, dict)

# A container with more than this is a table, and no state.
_MANY = 1000


def state_of(module: nn.Module, path: str = "") -> dict[str, Any]:
    """What would show that a forward has left something: of each tensor which it is and how often it was written, of
    each other attribute its value, or which object it is and what it holds. `path` is the module's own."""
    prefix = f"{path}." if path else ""
    with without_classes():  # lazy tensors answer every question about them through Python
        return {prefix + name: _mark(value) for name, value in _attributes(module)}


def changes(before: Mapping[str, Any], after: Mapping[str, Any], apart_from: Collection[str] = ()) -> list[str]:
    """The paths of what a forward has left, in the order of the modules; `apart_from` are modules that do not count:
    lazy ones, which were initialised meanwhile."""
    return [
        path
        for path in {**after, **before}
        if before.get(path, _ABSENT) != after.get(path, _ABSENT) and path.rpartition(".")[0] not in apart_from
    ]


def traced_state(modules: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
    """What would show that the trace of a forward has set something: by module, of each attribute what it holds, and
    where that is a traced value. Writes into tensors are in the graph."""
    found: dict[str, dict[str, Any]] = {}
    for path, module in modules.items():
        found[path] = state = {
            name: value if type(value) in _EQUAL_TO_THEMSELVES else _shown(value)
            for name, value in module.__dict__.items()
            if name not in _OF_EVERY_MODULE
        }
        buffers: Mapping[str, Any] = module._buffers
        for name, value in buffers.items():
            if isinstance(value, fx.Proxy):
                state[name] = fx.Proxy
    return found


def traced_changes(
    before: Mapping[str, dict[str, Any]], after: Mapping[str, dict[str, Any]], apart_from: Collection[str] = ()
) -> list[str]:
    """The paths of what differs between two traced states, in the order of the modules (see `changes`)."""
    return [
        f"{path}.{name}" if path else name
        for path, state in after.items()
        if path not in apart_from and state != before[path]
        for name in changes(before[path], state)
    ]


def _shown(value: Any, depth: int = 3) -> Any:
    kind = type(value)
    if kind in _EQUAL_TO_THEMSELVES:
        return value
    if kind in (tuple, list) and len(value) <= _MANY and _EQUAL_TO_THEMSELVES.issuperset(map(type, value)):
        return kind, *value
    if kind is RemovableHandle:
        return kind, value.id
    if isinstance(value, _PLAIN):
        return value if value == value else "nan"
    if isinstance(value, fx.Proxy):
        return fx.Proxy
    if isinstance(value, torch.Tensor) or not depth:
        return type(value)
    if isinstance(value, _CONTAINERS):
        items = value.values() if isinstance(value, dict) else value
        return type(value), len(value), *(_shown(item, depth - 1) for item in items if len(value) <= _MANY)
    return type(value), *(_shown(item, depth - 1) for item in _fields(value))


def _fields(value: Any) -> list[Any]:
    """What an object of the caller's holds."""
    if isinstance(value, (type, FunctionType, nn.Module)):
        return []
    try:  # not as the object itself answers, which may be with code of the caller's
        held = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return []
    return list(held.values())[:_MANY]


_ABSENT = object()


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        for name, value in (*part._parameters.items(), *part._buffers.items()):
            yield prefix + name, value
        for name, value in vars(part).items():
            if name not in _OF_EVERY_MODULE:
                yield prefix + name, value


def _mark(value: Any, depth: int = 3) -> Any:
    if isinstance(value, torch.Tensor):
        return id(value), -1 if value.is_inference() else value._version
    if isinstance(value, _PLAIN):
        return value if value == value else "nan"
    if isinstance(value, _CONTAINERS) and depth:
        if len(value) > _MANY:
            return id(value), len(value)
        items = (*value, *value.values()) if isinstance(value, dict) else value
        return (id(value), *(_mark(item, depth - 1) for item in items))
    return (id(value), *(_mark(item, depth - 1) for item in _fields(value))) if depth else id(value)


__all__ = ["changes", "state_of", "traced_changes", "traced_state"]
