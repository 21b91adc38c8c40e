"""Where an exported file and the eager module begin to differ.

The values that the program's nodes became are made outputs of the file. Beside them, the module runs with hooks that
note what each submodule gives, and the program is replayed on that: only what lies between submodules is computed, so
each value is the module's own up to there. The first pair that differs, in the order of execution, is the origin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx, nn

from passes.modules.explicit_state import held_at
from passes.onnx.lowered_model import LoweredModel
from passes.ops.op import map_leaves
from passes.program.notes import CALL, ORDINAL, location_of
from passes.program.program import operation_of
from passes.program.stages import Eager
from passes.sizes.guards import Location
from passes.values.nested import leaves, map_structure
from tracer.checking.agreement import as_float64, cloned, differences, fault_of, flat_tensors, tolerances
from tracer.checking.session import Session
from tracer.checking.verification import Locate, Origin

# What these hold is not defined, and zeros in the file.
_UNDEFINED = ("empty", "empty_like", "new_empty")


def locator(lowered: LoweredModel, program: Eager) -> Locate:
    """What finds the origin of a disagreement between the model and the module that `program` came from."""
    if not lowered.results:
        return lambda *_: Origin("where it begins cannot be told on the torch route")
    return partial(locate, lowered, program)


def locate(
    lowered: LoweredModel, program: Eager, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Origin:
    """The first value that differs when both run on these arguments; `module` is the eager one, and is run."""
    inputs = [*flat_tensors((args, kwargs)), *(held_at(module, path).detach().clone() for path in program.kept)]
    revealed = _revealing(lowered)
    session = Session(revealed)
    names = [output.name for output in revealed.proto.graph.output]
    found = dict(zip(names, session.run(inputs), strict=True))
    calls = _Calls(module, program)
    calls.note(cloned(args), cloned(kwargs))
    allowed = tolerances(program, session.in_float32)
    for node, value in _replayed(program, calls, inputs):
        result = lowered.results.get(node.name)
        if result is None:
            continue
        for name, expected in _paired(result.values, value):
            if name in found and fault_of(found[name], expected, allowed[node]) is not None:
                place = _place(node, result.name, program, calls)
                return Origin(f"it begins here, {_compared(found[name], expected)}", *place)
    return Origin("no value on the way to it differs when the file gives them all")


def _revealing(lowered: LoweredModel) -> LoweredModel:
    """The model with every value of `results` as an output that one of its nodes computes and another one uses.

    What nobody uses may rightly differ, such as which of several equal elements is the greatest.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(lowered.proto)
    computed = {name for node in proto.graph.node for name in node.output}
    wanted = {name for result in lowered.results.values() for name in leaves(result.values)}
    for name in sorted(wanted & computed & set(_used(proto.graph)) - {output.name for output in proto.graph.output}):
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    return replace(lowered, proto=proto)


def _used(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _used(attribute.g)


def _paired(names: Any, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """ONNX names with the tensors that stand in the same places."""
    if isinstance(names, str) and isinstance(value, torch.Tensor):
        yield names, value
    elif isinstance(names, tuple):
        items: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for name, item in zip(names, items, strict=True):
            yield from _paired(name, item)


class _Calls:
    """What the submodules that the program calls give, call by call, as hooks note it."""

    def __init__(self, module: nn.Module, program: Eager):
        self._module = module
        self._program = program
        self._modules = dict(module.named_modules(remove_duplicate=False))
        paths = {self.path(node) for node in program.graph.nodes if node.op == "call_module"}
        self._results: dict[nn.Module, list[Any]] = {self._modules[path]: [] for path in paths & set(self._modules)}

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
        module = self._modules.get(self.path(node)) if node.op == "call_module" else None
        return self._results[module] if module is not None else []


def _replayed(program: Eager, calls: _Calls, inputs: Iterable[torch.Tensor]) -> Iterator[tuple[fx.Node, Any]]:
    """Each node with its value.

    Operations get clones: the graph says itself what a write in place leaves behind. They are contiguous, as the graph
    has no `contiguous` any more.
    """
    values: dict[fx.Node, Any] = {}
    given = iter(inputs)
    for node in program.graph.nodes:
        noted, ordinal = calls.of(node), ORDINAL.get(node)
        if node.op == "output":
            return
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = program.tensor(str(node.target))
        elif ordinal is not None and ordinal < len(noted):
            values[node] = noted[ordinal]
        else:
            args, kwargs = _contiguous(map_leaves((node.args, dict(node.kwargs)), values.__getitem__))
            values[node] = _function(node, program)(*args, **kwargs)
            if CALL.on(node) and CALL.of(node).op.name in _UNDEFINED:
                values[node].zero_()
        yield node, values[node]


def _contiguous(value: Any) -> Any:
    """A nested value with contiguous clones of its tensors."""

    def clone(leaf: Any) -> Any:
        return leaf.clone(memory_format=torch.contiguous_format) if isinstance(leaf, torch.Tensor) else leaf

    return map_structure(value, clone)


def _function(node: fx.Node, program: Eager) -> Callable[..., Any]:
    if node.op == "call_module":
        return program.module(str(node.target))
    target: Any = node.target
    function: Callable[..., Any] = getattr(torch.Tensor, target) if node.op == "call_method" else target
    return function


def _place(node: fx.Node, name: str, program: Eager, calls: _Calls) -> tuple[Location, str]:
    """A node's module, or its name in the ONNX graph where it is no module's call, and what it does."""
    operation, ordinal, count = operation_of(node, program), ORDINAL.get(node), len(calls.of(node))
    if str(node.target) in program.folds:
        operation = f"folded into {program.folds[str(node.target)].layer}"
    if ordinal is not None and count > 1:
        operation += f", call {ordinal + 1} of {count}"
    path = calls.path(node) if node.op == "call_module" else name
    return Location(path, location_of(node).source), operation


def _compared(found: Any, expected: torch.Tensor) -> str:
    exact = as_float64(expected)
    ranges = f"where the file has {_range(found.astype(np.float64))} and the module {_range(exact)}"
    if found.shape != exact.shape:
        return f"{ranges}, of shapes {list(found.shape)} and {list(exact.shape)}"
    apart = differences(found, exact)
    place = [int(index) for index in np.unravel_index(np.argmax(apart), apart.shape)]
    return f"{ranges}, {apart.max():.3g} apart at {place}"


def _range(array: Any) -> str:
    finite = array[np.isfinite(array)]
    odd = f"{array.size - finite.size} infinities or NaNs"
    if not finite.size:
        return odd
    text = f"{finite.min():.3g} to {finite.max():.3g}"
    return text if finite.size == array.size else f"{text} and {odd}"


__all__ = ["locate", "locator"]
