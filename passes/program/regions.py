"""The regions of a graph: which nodes lie in one, and what runs it (see `passes/ops/regions.py`)."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from passes.ops.regions import enter, leave


@dataclass(slots=True)
class Region:
    """A part of a graph between the node that begins it and the one that ends it; `nodes` are all that lie between,
    those of regions within among them. `around` is the region that it lies in, if it does."""

    begin: fx.Node
    end: fx.Node
    around: Region | None = None
    nodes: list[fx.Node] = field(default_factory=list)

    @property
    def owner(self) -> fx.Node | None:
        """The operation that runs the region; None where nothing does."""
        return next(iter(self.end.users), None)


def begins_region(node: fx.Node) -> bool:
    """Whether a region begins at the node."""
    return node.target is enter


def ends_region(node: fx.Node) -> bool:
    """Whether a region ends at the node."""
    return node.target is leave


def runs_region(node: fx.Node) -> bool:
    """Whether a node runs a region."""
    return any(map(ends_region, node.all_input_nodes))


def is_of_regions(node: fx.Node) -> bool:
    """Whether a node begins or ends a region, or runs one: none of them is computed by calling its function."""
    return begins_region(node) or ends_region(node) or runs_region(node)


def regions(graph: fx.Graph) -> dict[fx.Node, Region]:
    """The regions of a graph by the nodes that end them, in the order of their ends; one without end is left out."""
    found: dict[fx.Node, Region] = {}
    open_regions: list[Region] = []
    for node in graph.nodes:
        if ends_region(node) and open_regions:
            region = open_regions.pop()
            region.end = node
            found[node] = region
        for around in open_regions:
            around.nodes.append(node)
        if begins_region(node):
            open_regions.append(Region(node, node, open_regions[-1] if open_regions else None))
    return found


def sources(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes that a node has its value from, where the borders of regions hide none: of what a region is given, that
    which is given first; of what runs a region, what the region gives."""
    for operand in node.all_input_nodes:
        if begins_region(operand):
            given: Any = tuple(part for parts in operand.args[:2] for part in parts)  # type: ignore[union-attr]
            found = [given[node.args[1]]] if node.target is operator.getitem else []
        elif ends_region(operand):
            found = list(operand.args[1])  # type: ignore[arg-type]
        else:
            found = [operand]
        yield from (source for source in found if isinstance(source, fx.Node))


def given_to_region(node: fx.Node) -> str | None:
    """What a node is that gives what a region is given, carried or a slice; None for any other."""
    begin = node.args[0] if node.target is operator.getitem else None
    if not isinstance(begin, fx.Node) or not begins_region(begin):
        return None
    carried: Any = begin.args[0]
    return "carried" if node.args[1] < len(carried) else "slice"  # type: ignore[operator]


def called_within(graph: fx.Graph) -> set[str]:
    """The targets of the modules that are called in a region: how often, is for data to say."""
    return {str(node.target) for region in regions(graph).values() for node in region.nodes if node.op == "call_module"}


def outermost(nodes: Iterable[fx.Node]) -> Iterator[fx.Node]:
    """The nodes of a stretch of a graph that lie in no region within it; those that begin and end one lie in it."""
    depth = 0
    for node in nodes:
        depth += begins_region(node)
        if not depth:
            yield node
        depth -= ends_region(node)


def misplaced(graph: fx.Graph) -> str | None:
    """What is wrong with the regions of a graph, or None: they lie within each other or apart, each is run by one
    operation behind it, and nothing outside uses what is computed inside."""
    homes: dict[fx.Node, tuple[fx.Node, ...]] = {}
    open_regions: tuple[fx.Node, ...] = ()
    for node in graph.nodes:
        if ends_region(node):
            if not open_regions or node.args[0] is not open_regions[-1]:
                return f"{node.name} ends a region that is not the last to begin"
            if len(node.users) > 1:
                return f"the region that {node.name} ends is run by {len(node.users)} operations"
        for operand in node.all_input_nodes:
            home = homes.get(operand, ())
            if operand.op != "get_attr" and open_regions[: len(home)] != home:
                return f"{node.name} uses {operand.name}, which is inside of a region that it is not in"
        if ends_region(node):
            open_regions = open_regions[:-1]
        if open_regions:
            homes[node] = open_regions
        if begins_region(node):
            open_regions = (*open_regions, node)
    if open_regions:
        return f"the region that {open_regions[-1].name} begins has no end"
    return None


__all__ = [
    "Region",
    "begins_region",
    "called_within",
    "ends_region",
    "given_to_region",
    "is_of_regions",
    "misplaced",
    "outermost",
    "regions",
    "runs_region",
    "sources",
]
