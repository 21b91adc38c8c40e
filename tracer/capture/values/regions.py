"""The regions of a graph while it grows: which nodes lie in which, and what may be used where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx

from passes.errors import CaptureError
from passes.ops.regions import leave
from passes.program.notes import location_of
from passes.program.regions import given_to_region
from passes.values.spec import describe
from tracer.memory.recorder import Recorder


class Regions:
    """Keeps what a branch or a loop computes where it is computed (see the module's docstring)."""

    def __init__(self, tracer: Recorder):
        self._tracer = tracer
        self._open: list[fx.Node] = []
        self._homes: dict[fx.Node, fx.Node] = {}
        self._erased: set[fx.Node] = set()

    @contextmanager
    def inside(self, begin: fx.Node) -> Iterator[None]:
        """Inside the block nodes belong to the region that `begin` begins."""
        self._open.append(begin)
        outer = len(self._open)
        try:
            yield
        finally:
            del self._open[outer - 1 :]

    def end(self, results: Any) -> fx.Node:
        """The node that ends the innermost region, with what the region gives; it belongs to what is around it."""
        begin = self._open[-1]
        node = self._tracer.create_node("call_function", leave, (begin, results), {}, f"{begin.name}_end")
        if len(self._open) > 1:
            self._homes[node] = self._open[-2]
        else:
            del self._homes[node]
        self._forget()
        return node

    def note(self, node: fx.Node) -> None:
        """Notes a new node. Raises CaptureError where it uses what was computed in a region that it is not in."""
        if self._open:
            self._homes[node] = self._open[-1]
        if self._homes:
            for operand in node.all_input_nodes:
                if not self.sees(operand):
                    raise self._escaped(operand)

    def erase(self, nodes: Iterable[fx.Node]) -> None:
        """Notes nodes that are no longer in the graph."""
        self._erased.update(nodes)

    def sees(self, node: fx.Node) -> bool:
        """Whether a node may be used now: a tensor of the model everywhere, what is computed in a region only there."""
        if node in self._erased:
            return False
        home = self._homes.get(node)
        return home is None or home in self._open or node.op == "get_attr"

    def is_within(self, node: fx.Node, begin: fx.Node) -> bool:
        """Whether a node lies in a region, or in one within it."""
        home = self._homes.get(node)
        while home is not None and home is not begin:
            home = self._homes.get(home)
        return home is begin and node.op != "get_attr"

    def is_outside(self, node: fx.Node) -> bool:
        """Whether a node lies outside of the innermost region, where there is one, or gives what that is given."""
        if not self._open:
            return False
        outside = node.op == "get_attr" or self._homes.get(node) is not self._open[-1]
        return outside or given_to_region(node) is not None

    def _forget(self) -> None:
        """Lets go of what stands on nodes of the region, which ends."""
        begin = self._open[-1]
        self._tracer.real.forget(node for node, home in self._homes.items() if home is begin and node.op != "get_attr")

    def _escaped(self, operand: fx.Node) -> CaptureError:
        place = location_of(operand).source
        return CaptureError(
            f"{operand.name} {describe(self._tracer.value(operand))} is computed in a branch or a loop"
            f"{f' at {place}' if place else ''}, and used outside of it",
            remedy="return it from the function that torch.cond or the loop is given",
        )


__all__ = ["Regions"]
