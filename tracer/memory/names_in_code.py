"""What the caller's code calls a tensor that no module holds: `TABLE`, of a global or of an attribute of a class."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from types import CodeType, FrameType, ModuleType
from typing import Any

import torch

from passes.modules.held_apart import within
from tracer.edge.source_lines import is_user_code

# As deep as classes and Python modules within each other are looked into.
_DEEP = 4


def name_in_code(
    tensor: torch.Tensor, frame: FrameType | None, boundary: CodeType, classes: Collection[type]
) -> str | None:
    """What the caller's code at work calls a tensor that no module holds, the innermost first; None for one that has no
    name there. It may be an attribute of one of the classes. Nothing is looked for beyond the call of `boundary`."""
    while frame is not None and frame.f_code is not boundary:
        if is_user_code(frame.f_code):
            for place, held in _named_in(frame, classes):
                if held is tensor:
                    return place
        frame = frame.f_back
    return None


def _named_in(frame: FrameType, classes: Collection[type]) -> Iterator[tuple[str, Any]]:
    """The tensors that a function finds by names which are not its own, with where each is.

    Its own are left alone: whoever reads `f_locals` keeps them alive for as long as the frame is.
    """
    names = frame.f_code.co_names
    found = {name: frame.f_globals[name] for name in names if name in frame.f_globals}
    for name, value in found.items():
        if isinstance(value, (torch.Tensor, list, tuple, dict)):
            yield from within(value, name)
    for owner in (*found.values(), *classes):
        if isinstance(owner, (type, ModuleType)):
            yield from _attributes(owner, names, _DEEP)


def _attributes(owner: type | ModuleType, names: Collection[str], depth: int) -> Iterator[tuple[str, Any]]:
    """The tensors in attributes of these names, of a class or Python module and of those within it."""
    for name in names:
        value = vars(owner).get(name)
        if isinstance(value, (type, ModuleType)):
            if depth:
                yield from _attributes(value, names, depth - 1)
        else:
            yield from within(value, name)


__all__ = ["name_in_code"]
