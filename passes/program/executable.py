"""A program's graph as torch.fx runs it: a region becomes a graph of its own, run by torch's operator for it.

A region of a program sees what is computed around it; a graph of torch's own is given that as more arguments. Numbers
that come from shapes are computed within it once more.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from passes.ops.op import map_leaves
from passes.program.notes import CALL, VALUE
from passes.program.regions import Region, outermost, regions
from passes.values.nested import leaves
from passes.values.spec import TensorSpec

Known = dict[fx.Node, Any]


def graph_module(graph: fx.Graph, parts: Mapping[str, Any], name: str) -> fx.GraphModule:
    """The graph of a program as a torch.fx module; `parts` are the modules and tensors that it names."""
    found = regions(graph)
    if not found:
        return fx.GraphModule(dict(parts), graph, name)
    return _Nested(found, parts).module(graph.nodes, name)


class _Nested:
    """A graph with graphs within, as it is made; `known` are the nodes of the program that are in it already."""

    def __init__(self, found: dict[fx.Node, Region], parts: Mapping[str, Any]):
        self._regions = found
        self._of_the_root = parts
        self.parts = dict(parts)
        self.known: Known = {}
        self.graph = fx.Graph()

    def module(self, nodes: Iterable[fx.Node], name: str) -> fx.GraphModule:
        """The module of these nodes."""
        self.add(nodes)
        return fx.GraphModule(self.parts, self.graph, name)

    def add(self, nodes: Iterable[fx.Node]) -> None:
        """Adds nodes, and graphs for the regions among them."""
        for node in outermost(nodes):
            if node not in self.known:
                self.known[node] = self._run(node) if self._inside(node) else self._copied(node)

    def seen(self, value: Any) -> Any:
        """Arguments in this graph; a node that is not in it yet is copied: a weight, or a number that it computes."""
        return map_leaves(value, self._seen)

    def _seen(self, node: fx.Node) -> Any:
        if node not in self.known:
            self.known[node] = self._copied(node)
        return self.known[node]

    def call(self, function: Any, *args: Any) -> fx.Node:
        return self.graph.call_function(function, args)

    def _copied(self, node: fx.Node) -> Any:
        args, kwargs = self.seen((node.args, dict(node.kwargs)))
        made = self.graph.create_node(node.op, node.target, args, kwargs, node.name)
        made.meta = dict(node.meta)
        return made

    def _inside(self, node: fx.Node) -> list[Region]:
        return [self._regions[operand] for operand in node.all_input_nodes if operand in self._regions]

    def _run(self, node: fx.Node) -> Any:
        """What torch's operator gives that runs the regions of a node."""
        inside = self._inside(node)
        around = list(dict.fromkeys(outer for region in inside for outer in _around(region)))
        more = tuple(member for outer in around for member in self._members(self.seen(outer), VALUE.of(outer)))
        modules = []
        for region in inside:
            path = f"{region.begin.name}_graph"
            self.parts[path] = self._of_region(region, around)
            modules.append(self.graph.get_attr(path))
        call: Any = CALL.of(node).record.map(lambda leaf: leaf if leaf in self._regions else self.seen(leaf))
        higher: Any = torch.ops.higher_order
        if CALL.of(node).op.name == "cond":
            return self.call(higher.cond, call.predicate, *modules, more)
        carried = tuple(self._tensor(value) for value in call.carried)
        if CALL.of(node).op.name == "while_loop":
            return self.call(higher.while_loop, *modules, carried, more)
        sliced = [self._turned(tensor, call.dim, 0, call.reverse) for tensor in call.sliced]
        if carried:
            found = self.call(higher.scan, *modules, list(carried), sliced, more)
        else:
            found = self.call(higher.map_impl, *modules, sliced, more)
        return tuple(
            self._turned(self.call(operator.getitem, found, place), 0, min(call.dim, spec.ndim - 1), call.reverse)
            if place >= len(carried)
            else self.call(operator.getitem, found, place)
            for place, spec in enumerate(VALUE.of(node))
        )

    def _turned(self, tensor: Any, axis: int, to: int, reverse: bool) -> Any:
        """A tensor with its axis moved to another place, gone over in the other direction."""
        turned = self.call(torch.flip, tensor, (axis,)) if reverse else tensor
        return self.call(torch.movedim, turned, axis, to) if axis != to else turned

    def _tensor(self, value: Any) -> Any:
        """A value as a tensor, which a number is made."""
        is_number = isinstance(value, (bool, int, float)) or (VALUE.on(value) and not _has_tensor(VALUE.of(value)))
        return self.call(torch.as_tensor, value) if is_number else value

    def _members(self, value: Any, known: Any) -> Iterator[Any]:
        """The tensors in a value, each by itself."""
        if isinstance(known, TensorSpec):
            yield value
            return
        items = (
            known.items() if isinstance(known, dict) else enumerate(known) if isinstance(known, (tuple, list)) else ()
        )
        for place, item in items:
            if _has_tensor(item):
                member = value[place] if isinstance(value, tuple) else self.call(operator.getitem, value, place)
                yield from self._members(member, item)

    def _of_region(self, region: Region, around: Sequence[fx.Node]) -> fx.GraphModule:
        """A region as a module of what it is given and what it sees around it."""
        within = _Nested(self._regions, self._of_the_root)
        within.known[region.begin] = tuple(
            within.graph.placeholder(f"given_{place}") for place in range(len(VALUE.of(region.begin)))
        )
        for outer in around:
            within.known[outer] = within._placeholders(VALUE.of(outer))
        within.add(region.nodes)
        results = tuple(map(within._tensor, within.seen(region.end.args[1])))
        owner = region.owner
        is_condition = owner is not None and getattr(CALL.of(owner).record, "condition", None) is region.end
        within.graph.output(results[0] if is_condition else results)
        return fx.GraphModule(within.parts, within.graph, region.begin.name)

    def _placeholders(self, known: Any) -> Any:
        """What stands for a value in this graph."""
        if isinstance(known, TensorSpec):
            return self.graph.placeholder(f"argument_{len(self.graph.nodes)}")
        if isinstance(known, dict):
            return {key: self._placeholders(item) for key, item in known.items()}
        return tuple(map(self._placeholders, known)) if isinstance(known, (tuple, list)) else known


def _around(region: Region) -> Iterator[fx.Node]:
    """What a region uses of what has tensors and is computed around it, by itself or for numbers of theirs."""
    inside = {region.begin, *region.nodes}
    waiting = [operand for node in (*region.nodes, region.end) for operand in node.all_input_nodes]
    seen: set[fx.Node] = set()
    while waiting:
        node = waiting.pop(0)
        if node in seen or node in inside or node.op == "get_attr":
            continue
        seen.add(node)
        if _has_tensor(VALUE.of(node)):
            yield node
        else:
            waiting += node.all_input_nodes


def _has_tensor(known: Any) -> bool:
    return any(isinstance(leaf, TensorSpec) for leaf in leaves(known))


__all__ = ["graph_module"]
