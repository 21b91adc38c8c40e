"""What a model holds beside its registered modules and tensors: in lists, dicts, partials, and hidden attributes.

torch does not know of it: no state_dict has it, `eval()` and `to()` do not reach it. A forward may use it all the
same, and a message or a name in the file says where it is: `layers[0].weight`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import nn

# Deeper, or in a larger container, nothing is looked for.
_DEEP, _MANY = 4, 1000


def places(modules: Mapping[str, nn.Module]) -> dict[int, tuple[str, Any]]:
    """The modules and tensors held apart by these modules, with the first place of each, by id."""
    registered = {id(module) for module in modules.values()}
    found: dict[int, tuple[str, Any]] = {}
    for path, module in modules.items():
        prefix = f"{path}." if path else ""
        for name, value in vars(module).items():
            if name not in _OF_EVERY_MODULE:
                for place, held in within(value, prefix + name):
                    if id(held) not in registered:
                        found.setdefault(id(held), (place, held))
    return found


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def tensors_by_attribute(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors held apart by these modules, in objects too, each with the attribute of a module in which it lies."""
    for path, module in modules.items():
        prefix = f"{path}." if path else ""
        for name, value in vars(module).items():
            if name not in _OF_EVERY_MODULE:
                for _, held in within(value, "", in_objects=True):
                    if isinstance(held, torch.Tensor):
                        yield prefix + name, held


def within(value: Any, place: str, *, in_objects: bool = False, depth: int = _DEEP) -> Iterator[tuple[str, Any]]:
    """The modules and tensors in a value that is at a `place`, with where each is; in objects of any class, too, if
    that is asked for. Nothing is looked for deeper than `depth` containers."""
    items: Any = ()
    if isinstance(value, torch.Tensor):
        yield place, value
    elif isinstance(value, nn.Module):
        yield place, value
        parts = {**value._parameters, **value._buffers, **value._modules, **vars(value)}
        items = [(f"{place}.{name}", part) for name, part in parts.items() if name not in _OF_EVERY_MODULE]
    elif isinstance(value, (list, tuple)) and len(value) <= _MANY:
        items = [(f"{place}[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, dict) and len(value) <= _MANY:
        items = [(f"{place}[{key!r}]", item) for key, item in value.items() if isinstance(key, (str, int))]
    elif isinstance(value, partial):
        items = [(f"{place}.func", value.func), (f"{place}.args", value.args), (f"{place}.keywords", value.keywords)]
    elif in_objects and not isinstance(value, (type, FunctionType)):
        items = [(f"{place}.{name}", item) for name, item in getattr(value, "__dict__", {}).items()]
    if depth:
        for inner, item in items:
            yield from within(item, inner, in_objects=in_objects, depth=depth - 1)


__all__ = ["places", "tensors_by_attribute", "within"]
