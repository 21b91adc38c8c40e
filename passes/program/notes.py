"""What the stages note on the nodes of a graph, each under a key that knows its type.

A note lies in `node.meta`, where fx carries it along when a node is copied; notes are values, which copies may share.
Nothing else looks there.
Which nodes have which notes at a stage is said where the stages are (`passes/program/stages.py`).
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

from torch import fx

from passes.errors import TracerError
from passes.ops.op import BoundCall
from passes.sizes.guards import Location

T = TypeVar("T")


class Note(Generic[T]):
    """One kind of note, called `name`."""

    __slots__ = ("_key",)

    def __init__(self, name: str):
        self._key = f"lazytracer.{name}"  # fx wants texts

    def __repr__(self) -> str:
        return f"Note({self._key})"

    def of(self, node: fx.Node) -> T:
        """The note on a node that has one. Raises KeyError."""
        found: T = node.meta[self._key]
        return found

    def get(self, node: fx.Node) -> T | None:
        """The note on a node, or None where there is none."""
        found: T | None = node.meta.get(self._key)
        return found

    def on(self, node: fx.Node) -> bool:
        """Whether the node has such a note."""
        return self._key in node.meta

    def put(self, node: fx.Node, value: T) -> None:
        """Notes it on the node, in place of what was noted before."""
        node.meta[self._key] = value

    def drop(self, node: fx.Node) -> None:
        """Takes the note off the node, where there is one."""
        node.meta.pop(self._key, None)


# What propagation knows of a node's result: a TensorSpec, a number, or a nest of them.
VALUE: Final[Note[Any]] = Note("value")

# The op that a node calls, with its arguments bound; not on nodes that call none (inputs, containers).
CALL: Final[Note[BoundCall]] = Note("call")

# The node's place in the caller's model.
PLACE: Final[Note[Location]] = Note("place")

# Which call of its module a node is, from 0; not on those of a module that is called in a region.
ORDINAL: Final[Note[int]] = Note("ordinal")

# The names of the sizes that a node finds in its data, in the order in which its value has them.
UNKNOWN: Final[Note[tuple[str, ...]]] = Note("unknown")

# Why a node has no value. A node with neither depends on one with a fault.
FAULT: Final[Note[TracerError]] = Note("fault")


def location_of(node: fx.Node) -> Location:
    """The node's place in the caller's model; nowhere in particular where a pass of the caller's made it."""
    return PLACE.get(node) or Location()


__all__ = ["CALL", "FAULT", "ORDINAL", "PLACE", "UNKNOWN", "VALUE", "Note", "location_of"]
