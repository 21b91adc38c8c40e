"""Nested arguments and results: tuples, named tuples, lists, dicts, dataclasses and slices of anything.

Everything that walks such a structure does it here, so that all agree on what is a container and in which order its
leaves come. A subclass of dict comes back as a dict, and so does a dataclass that is not to be kept, by its fields.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import fx

# The types of most leaves, to be told from containers at once.
_type = type  # Python's own, also while a forward is traced
ATOMS = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, fx.Node})


def map_structure(value: Any, leaf: Callable[[Any], Any], keep_dataclasses: bool = False) -> Any:
    """The structure with `leaf(it)` in place of each leaf; a tuple stays a tuple and a list a list.

    A dataclass becomes a dict of its fields, or, if dataclasses are to be kept, a copy with other fields.
    """
    if _type(value) in ATOMS:
        return leaf(value)
    if isinstance(value, tuple):
        items = [map_structure(item, leaf, keep_dataclasses) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [map_structure(item, leaf, keep_dataclasses) for item in value]
    if isinstance(value, dict):
        return {key: map_structure(item, leaf, keep_dataclasses) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(map_structure(bound, leaf, keep_dataclasses) for bound in (value.start, value.stop, value.step)))
    if is_dataclass_value(value):
        fields = map_structure(fields_of(value), leaf, keep_dataclasses)
        return with_fields(value, fields) if keep_dataclasses else fields
    return leaf(value)


def leaves(value: Any) -> Iterator[Any]:
    """Every leaf of the structure, in order."""
    items: Iterable[Any]
    if isinstance(value, (tuple, list)):
        items = value
    elif isinstance(value, dict):
        items = value.values()
    elif isinstance(value, slice):
        items = (value.start, value.stop, value.step)
    elif is_dataclass_value(value):
        items = fields_of(value).values()
    else:
        yield value
        return
    for item in items:
        yield from leaves(item)


def is_dataclass_value(value: Any) -> bool:
    """Whether the value is an instance of a caller's dataclass; our own are leaves."""
    kind = type(value)
    return hasattr(kind, "__dataclass_fields__") and kind.__module__.partition(".")[0] not in ("passes", "tracer")


def fields_of(value: Any) -> dict[str, Any]:
    """A dataclass instance's fields by name."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def with_fields(value: Any, fields: Mapping[str, Any]) -> Any:
    """A copy of a dataclass instance with these fields; nothing of its own code is run."""
    changed = copy.copy(value)
    for name, item in fields.items():
        object.__setattr__(changed, name, item)
    return changed
