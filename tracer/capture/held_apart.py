"""What a model holds beside its registered modules and tensors: in lists, dicts, partials, and hidden attributes.

torch does not know of it: no state_dict has it, `eval()` and `to()` do not reach it. A forward may use it all the
same, and a message or a name in the file says where it is: `layers[0].weight`. A tensor that no module holds has the
name that code at work knows it by: `TABLE`, of a global or of an attribute of a class.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from types import CodeType, FrameType, ModuleType
from typing import Any

import torch
from torch import nn

from tracer.edge.source_lines import is_user_code

# Deeper, or in a larger container, nothing is looked for; what code names is looked into less deep.
_DEEP, _MANY = 4, 1000
_DEEP_IN_CODE = 2
_HOLDING = (torch.Tensor, nn.Module, list, tuple, dict)


def places(modules: Mapping[str, nn.Module]) -> dict[int, tuple[str, Any]]:
    """The modules and tensors held apart by these modules, with the first place of each, by id."""
    registered = {id(module) for module in modules.values()}
    found: dict[int, tuple[str, Any]] = {}
    for path, module in modules.items():
        prefix = f"{path}." if path else ""
        for name, value in vars(module).items():
            if name not in _OF_EVERY_MODULE:
                for place, held in _within(value, prefix + name, _DEEP):
                    if id(held) not in registered:
                        found.setdefault(id(held), (place, held))
    return found


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _within(value: Any, place: str, depth: int) -> Iterator[tuple[str, Any]]:
    """The modules and tensors in a value, with where each is."""
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
    if depth:
        for inner, item in items:
            yield from _within(item, inner, depth - 1)


def name_in_code(
    tensors: Collection[torch.Tensor], frame: FrameType | None, boundary: CodeType, classes: Collection[type]
) -> str | None:
    """What the caller's code at work calls one of some tensors that no module holds, the innermost first; None where it
    has no name there. It may be an attribute of one of the classes. Nothing is looked for beyond the call of
    `boundary`."""
    wanted = {id(tensor) for tensor in tensors}
    while frame is not None and frame.f_code is not boundary:
        if is_user_code(frame.f_code):
            for place, held in _named_in(frame, classes):
                if id(held) in wanted:
                    return place
        frame = frame.f_back
    return None


def _named_in(frame: FrameType, classes: Collection[type]) -> Iterator[tuple[str, Any]]:
    """The tensors that a function finds by names which are not its own, with where each is.

    Its own are left alone: whoever reads `f_locals` keeps them alive for as long as the frame is.
    """
    names = frame.f_code.co_names
    yield from _held_by(frame.f_globals, names, _DEEP_IN_CODE)
    for owner in classes:
        yield from _held_by(vars(owner), names, 0)


def _held_by(space: Mapping[str, Any], names: Collection[str], depth: int) -> Iterator[tuple[str, Any]]:
    """The tensors in what has these names in a namespace, and in those of classes and Python modules among it."""
    for name in names:
        value = space.get(name)
        if isinstance(value, _HOLDING):
            yield from _within(value, name, _DEEP_IN_CODE)
        elif depth and isinstance(value, (type, ModuleType)):
            yield from _held_by(vars(value), names, depth - 1)


__all__ = ["name_in_code", "places"]
