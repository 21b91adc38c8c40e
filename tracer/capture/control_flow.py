"""Branches and loops of a forward: `torch.cond` and its like, traced as regions of the program.

The functions that such a call is given are the forward's own code, and traced as such: each once, into a region of the
graph (`passes/ops/regions.py`), where it may use all that the forward has computed. What is decided before the forward
runs, by a Python bool, is no branch of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from passes.errors import ShapeError
from passes.isolation.control_flow import Carried, PlainControlFlow
from passes.ops.control_flow import cond
from passes.ops.regions import enter
from passes.printable import printable
from passes.values.nested import map_structure
from passes.values.spec import describe
from tracer.capture.values.number import TracedNumber
from tracer.capture.values.tensor import TracedTensor
from tracer.edge.source_lines import definition
from tracer.memory.recorder import Recorder

_type = type  # Python's own, also while a forward is traced


class TracedControlFlow(PlainControlFlow):
    """What the functions do while a forward is traced."""

    def __init__(self, tracer: Recorder):
        self._tracer = tracer

    def cond(
        self, pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Sequence[Any]
    ) -> Any:
        if not self._tracer.recording or _type(pred) is not TracedTensor:
            return super().cond(pred, true_fn, false_fn, operands)
        names = self._name(true_fn), self._name(false_fn)
        then, structure = self._region(true_fn, operands)
        otherwise, other_structure = self._region(false_fn, operands)
        if structure != other_structure:
            raise ShapeError(
                f"the branches of torch.cond give different structures: {describe(structure)} from {names[0]}, but "
                f"{describe(other_structure)} from {names[1]}",
                remedy="return the same structure from both",
            )
        return self._results(structure, cond, pred, then, otherwise, names)

    def _region(self, function: Callable[..., Any], operands: Sequence[Any]) -> tuple[fx.Node, Any]:
        """A function traced into a region of its own: the node that ends it, and the structure of what it gives."""
        tracer = self._tracer
        begin = tracer.create_node("call_function", enter, (), {})
        with tracer.regions.inside(begin):
            found: list[Any] = []
            structure = _taken_apart(function(*operands), found)
            end = tracer.regions.end(tracer.create_arg(tuple(found)))
        return end, structure

    def _results(self, structure: Any, function: Callable[..., Any], *args: Any) -> Any:
        """What an operation that runs regions gives, in the structure in which the caller's function gives it."""
        whole = self._tracer.create_proxy("call_function", function, args, {})
        self._tracer.value(whole.node)  # it must fail here, at the caller's line
        return _put_together(structure, whole)

    def _name(self, function: Any) -> str:
        """A function of the caller's, for messages: `<lambda> (net.py:12)`, the path of a module."""
        if isinstance(function, nn.Module):
            return printable(f"{self._tracer.path_of_module(function)} ({_type(function).__name__})")
        place = definition(getattr(function, "__func__", function))
        name = getattr(function, "__name__", _type(function).__name__)
        return printable(f"{name} ({place})" if place else name)


class _Slot:
    """Where a result stands in the structure of those of a function."""

    def __init__(self, place: int):
        self.place = place

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Slot) and self.place == other.place

    def __hash__(self) -> int:
        return hash(self.place)

    def __str__(self) -> str:
        return f"#{self.place}"

    __repr__ = __str__


def _taken_apart(value: Any, found: list[Any]) -> Any:
    """A nest of values with a slot in place of each tensor and number, which are put into `found`."""

    def leaf(item: Any) -> Any:
        if _type(item) is TracedTensor and not issubclass(item.type_for(), torch.Tensor):
            return _taken_apart(item.unpacked(), found)
        if _type(item) in (TracedTensor, TracedNumber) or isinstance(item, (torch.Tensor, int, float)):
            found.append(item)
            return _Slot(len(found) - 1)
        return item

    return map_structure(value, leaf, keep_dataclasses=True)


def _put_together(structure: Any, whole: Any) -> Any:
    return map_structure(
        structure, lambda leaf: whole[leaf.place] if _type(leaf) is _Slot else leaf, keep_dataclasses=True
    )


__all__ = ["Carried", "TracedControlFlow"]
