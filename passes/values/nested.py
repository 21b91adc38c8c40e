"""Nested arguments and results: tuples, named tuples, lists, dicts, slices, and containers of the callers' classes.

Everything that walks such a structure does it here, so that all agree on what is a container, in which order its leaves
come, and what its parts are called. Which classes are containers is in `container_classes.py`. A subclass of dict that
is none of them comes back as a dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx

from passes.values.container_classes import Opened, opened

_type = type  # Python's own, also while a forward is traced
# The types of most leaves, to be told from containers at once.
ATOMS = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, fx.Node})


def map_structure(value: Any, leaf: Callable[[Any], Any], keep_classes: bool = False) -> Any:
    """The structure with `leaf(it)` in place of each leaf; a tuple stays a tuple and a list a list.

    A container of a class of the caller's becomes its parts by name (`Opened`), or, if classes are to be kept, one of
    that class with other parts; so does one that was opened before.
    """
    kind = _type(value)
    if kind in ATOMS:
        return leaf(value)
    if isinstance(value, tuple):
        items = [map_structure(item, leaf, keep_classes) for item in value]
        return kind(*items) if hasattr(value, "_fields") else tuple(items)
    found = opened(value)
    if found is not None:
        parts = [map_structure(part, leaf, keep_classes) for part in found.values()]
        return found.closed(parts) if keep_classes else found.with_parts(parts)
    if isinstance(value, list):
        return [map_structure(item, leaf, keep_classes) for item in value]
    if isinstance(value, dict):
        return {key: map_structure(item, leaf, keep_classes) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(map_structure(bound, leaf, keep_classes) for bound in (value.start, value.stop, value.step)))
    return leaf(value)


def leaves(value: Any) -> Iterator[Any]:
    """Every leaf of the structure, in order."""
    items: Iterable[Any]
    if isinstance(value, tuple):
        items = value
    elif (found := opened(value)) is not None:
        items = found.values()
    elif isinstance(value, list):
        items = value
    elif isinstance(value, dict):
        items = value.values()
    elif isinstance(value, slice):
        items = (value.start, value.stop, value.step)
    else:
        yield value
        return
    for item in items:
        yield from leaves(item)


def holds_the_same(before: list[Any], now: list[Any]) -> bool:
    """Whether a structure whose leaves were those before holds these very objects, or numbers that are equal."""
    return len(before) == len(now) and all(
        old is new or (_type(old) in ATOMS and _type(old) is _type(new) and old == new)
        for old, new in zip(before, now, strict=True)
    )


__all__ = ["ATOMS", "Opened", "holds_the_same", "leaves", "map_structure", "opened"]
