"""What the caller's code calls a tensor that no module holds: `TABLE`, of a global or of an attribute of a class."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import CodeType, FrameType, ModuleType
from typing import Any

import torch
from torch import nn

from passes.modules.held_apart import within
from tracer.edge.source_lines import is_user_code

# As deep as classes and Python modules within each other are looked into, and what is looked into.
_DEEP = 2
_HOLDING = (torch.Tensor, nn.Module, list, tuple, dict)


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
    yield from _held_by(frame.f_globals, names, _DEEP)
    for owner in classes:
        yield from _held_by(vars(owner), names, 0)


def _held_by(space: Mapping[str, Any], names: Collection[str], depth: int) -> Iterator[tuple[str, Any]]:
    """The tensors in what has these names in a namespace, and in those of classes and Python modules among it."""
    for name in names:
        value = space.get(name)
        if isinstance(value, _HOLDING):
            yield from within(value, name)
        elif depth and isinstance(value, (type, ModuleType)):
            yield from _held_by(vars(value), names, depth - 1)


__all__ = ["name_in_code"]
