"""Branches and loops of a forward: `torch.cond` and its like, traced as regions of the program.

The functions that such a call is given are the forward's own code, and traced as such: each once, into a region of the
graph (`passes/ops/regions.py`), where it may use all that the forward has computed. What is decided before the forward
runs, by a Python bool, is no branch of the graph.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from passes.errors import CaptureError, ShapeError, check
from passes.isolation.control_flow import Carried, PlainControlFlow
from passes.ops.axes import axis_of
from passes.ops.control_flow import cond, scan, while_loop
from passes.ops.regions import enter
from passes.values.nested import Opened, map_structure
from passes.values.spec import TensorSpec, describe
from tracer.capture.values.number import TracedNumber
from tracer.capture.values.tensor import TracedTensor
from tracer.edge.source_lines import function_name
from tracer.memory.recorder import Recorder

_type = type  # Python's own, also while a forward is traced


class TracedControlFlow(PlainControlFlow):
    """What the functions do while a forward is traced."""

    def __init__(self, tracer: Recorder):
        self._tracer = tracer

    def cond(
        self, pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Sequence[Any]
    ) -> Any:
        pred = _truth(pred) if self._tracer.recording else pred
        if _type(pred) is not TracedTensor:
            return super().cond(pred, true_fn, false_fn, operands)
        names = self._name(true_fn), self._name(false_fn)
        then, structure = self._region("then", (), lambda _: true_fn(*operands))
        otherwise, other_structure = self._region("otherwise", (), lambda _: false_fn(*operands))
        self._check_structure("torch.cond", (structure, then, names[0]), (other_structure, otherwise, names[1]))
        return self._results(structure, cond, pred, then, otherwise, names)

    def while_loop(
        self, cond_fn: Callable[..., Any], body_fn: Callable[..., Any], carried: Carried, more: Sequence[Any] = ()
    ) -> Any:
        if not self._tracer.recording:
            return super().while_loop(cond_fn, body_fn, carried, more)
        names = self._name(cond_fn), self._name(body_fn)
        initial, structure = self._arguments(carried)
        condition, _ = self._region(
            "condition", (initial,), lambda given: _truth(cond_fn(*_put_together(structure, given), *more))
        )
        body, following = self._region(
            "body", (initial,), lambda given: body_fn(*_put_together(structure, given), *more)
        )
        self._check_structure("torch.while_loop", (structure, initial, "carried_inputs"), (following, body, names[1]))
        return self._results(following, while_loop, condition, body, initial, names)

    def scan(self, combine_fn: Callable[..., Any], init: Any, xs: Any, dim: int, reverse: bool) -> Any:
        sliced, structure = self._arguments(xs) if self._tracer.recording else ((), None)
        if not sliced:
            return super().scan(combine_fn, init, xs, dim, reverse)
        axis = self._axis(dim, sliced)
        initial, kept = self._arguments(init)
        name = self._name(combine_fn)

        def step(given: Any) -> Any:
            results = combine_fn(_put_together(kept, given), _put_together(structure, given[len(initial) :]))
            if _type(results) is TracedTensor and not issubclass(results.type_for(), torch.Tensor):
                results = results.unpacked()
            if not isinstance(results, (tuple, list)) or len(results) != 2:
                raise CaptureError(
                    f"scan's {name} gives {describe(self._tracer.specs(results))}, not what is carried on and a result",
                    remedy="return two nests of tensors",
                )
            return tuple(results)

        body, both = self._region("step", (initial, sliced, axis), step)
        self._check_structure("scan", (kept, initial, "init"), (both[0], body, name))
        return self._results(both, scan, body, initial, sliced, axis, reverse, ("scan", name))

    def map(self, f: Callable[..., Any], xs: Any, more: Sequence[Any]) -> Any:
        if not self._tracer.recording:
            return super().map(f, xs, more)
        sliced, structure = self._arguments(xs)
        self._axis(0, sliced)
        body, results = self._region("step", ((), sliced), lambda given: f(_put_together(structure, given), *more))
        return self._results(results, scan, body, (), sliced, 0, False, ("map", self._name(f)))

    def _arguments(self, value: Any) -> tuple[tuple[Any, ...], Any]:
        """The tensors and numbers of a nest as arguments of a node, and the structure that they are in."""
        found: list[Any] = []
        structure = _taken_apart(value, found)
        arguments: Any = self._tracer.create_arg(tuple(found))
        return arguments, structure

    def _axis(self, dim: int, sliced: Sequence[Any]) -> int:
        """The axis that is gone over, counted from the front in the first of the tensors, as torch does it."""
        specs = [self._tracer.value(node) if isinstance(node, fx.Node) else node for node in sliced]
        check(
            all(isinstance(spec, TensorSpec) for spec in specs), "only tensors have slices, found {}", describe(specs)
        )
        axis = axis_of(dim, specs[0].ndim)
        check(all(spec.ndim > axis for spec in specs), "not all of {} have an axis {}", describe(specs), axis)
        return axis

    def _region(
        self, role: str, given: tuple[Any, ...], function: Callable[[Sequence[Any]], Any]
    ) -> tuple[fx.Node, Any]:
        """A function traced into a region of its own: the node that ends it, and the structure of what it gives.

        It is called with what the region is given: `given` are the arguments of `enter`.
        """
        tracer = self._tracer
        begin = tracer.create_node("call_function", enter, given, {}, role)
        names = [name for name, values in zip(("carried", "sliced"), given, strict=False) for _ in values]
        with tracer.regions.inside(begin):
            nodes = [
                tracer.create_node("call_function", operator.getitem, (begin, place), {}, name)
                for place, name in enumerate(names)
            ]
            found: list[Any] = []
            structure = _taken_apart(function(list(map(tracer.proxy, nodes))), found)
            end = tracer.regions.end(tracer.create_arg(tuple(found)))
        return end, structure

    def _check_structure(self, what: str, *sides: tuple[Any, fx.Node | Sequence[Any], str]) -> None:
        """Raises ShapeError where two nests are not of one structure. A side is the structure, what is at its slots,
        and the name of what gives it."""
        if _listed(sides[0][0]) != _listed(sides[1][0]):
            shown = [f"{name} gives {describe(self._filled(structure, values))}" for structure, values, name in sides]
            raise ShapeError(
                f"{what} takes one structure, but {shown[0]}, and {shown[1]}",
                remedy="return tensors in the same tuples, lists and dicts",
            )

    def _filled(self, structure: Any, values: fx.Node | Sequence[Any]) -> Any:
        """A structure with the specs of what is at its slots."""
        if isinstance(values, fx.Node):
            specs = self._tracer.value(values)
        else:
            specs = [self._tracer.value(value) if isinstance(value, fx.Node) else value for value in values]
        return _put_together(structure, specs, keep_classes=False)

    def _results(self, structure: Any, function: Callable[..., Any], *args: Any) -> Any:
        """What an operation that runs regions gives, in the structure in which the caller's function gives it."""
        whole = self._tracer.create_proxy("call_function", function, args, {})
        self._tracer.value(whole.node)  # it must fail here, at the caller's line
        return _put_together(structure, whole)

    def _name(self, function: Any) -> str:
        path = self._tracer.path_of_module(function) if isinstance(function, nn.Module) else None
        return function_name(function, path)


def _truth(answer: Any) -> Any:
    """A condition that compares sizes is computed in the file, where it is not known."""
    return answer.as_tensor() if _type(answer) is TracedNumber and answer.is_open else answer


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
    """A nest of values with a slot in place of each tensor and number, which are put into `found`.

    Containers of the caller's classes are open in it: not all take what is no tensor.
    """

    def leaf(item: Any) -> Any:
        if _type(item) is TracedTensor and not issubclass(item.type_for(), torch.Tensor):
            return _taken_apart(item.unpacked(), found)
        if _type(item) in (TracedTensor, TracedNumber) or isinstance(item, (torch.Tensor, int, float)):
            found.append(item)
            return _Slot(len(found) - 1)
        return item

    return map_structure(value, leaf)


def _listed(structure: Any) -> Any:
    """A structure as one is compared with another: a list is as good as a tuple."""
    if isinstance(structure, (tuple, list)):
        return [_listed(item) for item in structure]
    if _type(structure) is Opened:
        return structure.kind, [*structure], [_listed(item) for item in structure.values()]
    if isinstance(structure, dict):
        return {key: _listed(item) for key, item in structure.items()}
    return structure


def _put_together(structure: Any, whole: Any, keep_classes: bool = True) -> Any:
    """The structure with what `whole` has at its slots."""
    return map_structure(structure, lambda leaf: whole[leaf.place] if _type(leaf) is _Slot else leaf, keep_classes)


__all__ = ["Carried", "TracedControlFlow"]
