"""A program replayed beside the eager module: the module's own value of every node.

The module runs once with hooks that note what each submodule gives, and the program is replayed on that: only what lies
between submodules is computed, so each value is the module's own up to there. How often a submodule is called in a
region is for data to say, so that of a submodule which is called in one the calls are made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from passes.ops.op import map_leaves
from passes.program.notes import CALL, ORDINAL, VALUE
from passes.program.regions import Region, outermost, regions
from passes.program.stages import Eager
from passes.values.nested import map_structure
from passes.values.spec import TensorSpec
from tracer.checking.agreement import cloned

# What these hold is not defined, and zeros in the file.
_UNDEFINED = ("empty", "empty_like", "new_empty")

Values = dict[fx.Node, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a region: what it was given, and at which step of its loop, where it is one of a loop."""

    region: Region
    given: tuple[Any, ...]
    step: int | None = None


class Calls:
    """What the submodules that the program calls give, call by call, as hooks note it."""

    def __init__(self, module: nn.Module, program: Eager):
        self._module = module
        self._program = program
        self.modules = dict(module.named_modules(remove_duplicate=False))
        paths = {self.path(node) for node in program.graph.nodes if node.op == "call_module"}
        self._results: dict[nn.Module, list[Any]] = {self.modules[path]: [] for path in paths & set(self.modules)}

    def path(self, node: fx.Node) -> str:
        """The submodule that gives the value of a call: the batch norm, where one is folded into a layer."""
        folded = self._program.folds.get(str(node.target))
        return folded.norm if folded is not None else self._program.path(node)

    def note(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        hooks = [module.register_forward_hook(self._note) for module in self._results]
        try:
            self._module(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    def _note(self, module: nn.Module, _: Any, result: Any) -> None:
        self._results[module].append(cloned(result))

    def of(self, node: fx.Node) -> list[Any]:
        """What all calls of the node's submodule gave; nothing where the module itself makes none."""
        module = self.modules.get(self.path(node)) if node.op == "call_module" else None
        return self._results[module] if module is not None else []

    def anew(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """What the node's submodule gives, called now."""
        folded = self._program.folds.get(str(node.target))
        if folded is not None:
            return self.modules[folded.norm](self.modules[folded.layer](*args, **kwargs))
        module = self.modules.get(self._program.path(node)) or self._program.module(str(node.target))
        return module(*args, **kwargs)


class Replay:
    """The values of a program's nodes.

    Operations get clones: the graph says itself what a write in place leaves behind. They are contiguous, as the graph
    has no `contiguous` any more.
    """

    def __init__(self, program: Eager, calls: Calls):
        self.program = program
        self.calls = calls
        self.regions = regions(program.graph)
        self.runs: dict[fx.Node, list[Run]] = {}

    def each(self, nodes: Iterable[fx.Node], values: Values) -> Iterator[tuple[fx.Node, Any]]:
        """Some of the nodes with their values, which are added to those that are known; those in a region of theirs are
        left out."""
        for node in outermost(nodes):
            if node.op == "output":
                return
            if node not in values:
                values[node] = self._value(node, values)
            yield node, values[node]

    def of_run(self, run: Run, values: Values) -> Iterator[tuple[fx.Node, Any]]:
        """The nodes of one run of a region with their values."""
        for node in run.region.nodes:
            values.pop(node, None)
        values[run.region.begin] = run.given
        yield from self.each(run.region.nodes, values)

    def _value(self, node: fx.Node, values: Values) -> Any:
        noted, ordinal = self.calls.of(node), ORDINAL.get(node)
        if node.op == "get_attr":
            return self.program.tensor(str(node.target))
        if ordinal is not None and ordinal < len(noted):
            return noted[ordinal]
        if any(operand in self.regions for operand in node.all_input_nodes):
            return self._controlled(node, values)
        args, kwargs = _contiguous(map_leaves((node.args, dict(node.kwargs)), values.__getitem__))
        if node.op == "call_module":
            return self.calls.anew(node, args, kwargs)
        target: Any = node.target
        found = (getattr(torch.Tensor, target) if node.op == "call_method" else target)(*args, **kwargs)
        if CALL.on(node) and CALL.of(node).op.name in _UNDEFINED:
            found.zero_()
        return found

    # Regions ------------------------------------------------------------------------------------

    def _controlled(self, node: fx.Node, values: Values) -> tuple[Any, ...]:
        """What an operation gives that runs regions; the runs are noted."""
        self.runs[node] = []
        call = CALL.of(node)
        given = call.record.map(lambda leaf: self.regions.get(leaf) or values[leaf])
        found = _CONTROLLED[call.op.name](self, node, given, values)
        return tuple(map(_as_known, found, VALUE.of(node)))

    def run(self, node: fx.Node, run: Run, values: Values) -> tuple[Any, ...]:
        self.runs[node].append(run)
        for _ in self.of_run(run, values):
            pass
        found: tuple[Any, ...] = map_leaves(run.region.end.args[1], values.__getitem__)
        return found


def _branch(replay: Replay, node: fx.Node, call: Any, values: Values) -> Sequence[Any]:
    return replay.run(node, Run(call.then if call.predicate else call.otherwise, ()), values)


def _loop(replay: Replay, node: fx.Node, call: Any, values: Values) -> Sequence[Any]:
    state, step = tuple(map(torch.as_tensor, call.carried)), 0
    while replay.run(node, Run(call.condition, state, step), values)[0]:
        state = tuple(map(torch.as_tensor, replay.run(node, Run(call.body, state, step), values)))
        step += 1
    return state


def _scan(replay: Replay, node: fx.Node, call: Any, values: Values) -> Sequence[Any]:
    state = tuple(map(torch.as_tensor, call.carried))
    places = range(call.sliced[0].shape[call.dim])
    rows: list[Sequence[Any]] = []
    for step, place in enumerate(reversed(places) if call.reverse else places):
        slices = (tensor.select(call.dim, place) for tensor in call.sliced)
        found = tuple(map(torch.as_tensor, replay.run(node, Run(call.step, (*state, *slices), step), values)))
        state = found[: len(state)]
        rows.append(found[len(state) :])
    stacked = [
        torch.stack(column[::-1] if call.reverse else column, call.dim if call.dim <= column[0].ndim else 0)
        for column in zip(*rows, strict=True)
    ]
    return (*state, *stacked)


_CONTROLLED = {"cond": _branch, "while_loop": _loop, "scan": _scan}


def _as_known(found: Any, known: Any) -> Any:
    """A result of a region as the tensor that propagation knows it as."""
    return torch.as_tensor(found, dtype=known.dtype) if isinstance(known, TensorSpec) else found


def _contiguous(value: Any) -> Any:
    """A nested value with contiguous clones of its tensors."""

    def clone(leaf: Any) -> Any:
        return leaf.clone(memory_format=torch.contiguous_format) if isinstance(leaf, torch.Tensor) else leaf

    return map_structure(value, clone)


__all__ = ["Calls", "Replay", "Run", "Values"]
