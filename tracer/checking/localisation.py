"""Where an exported file and the eager module begin to differ.

The values that the program's nodes became are made outputs of the file, and compared with the module's own, which
`replay` gives. The first pair that differs, in the order of execution, is the origin. Where that is what a branch or a
loop gives, the graph within is run by itself, step by step, on what the module has for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx, nn

from passes.errors import VerificationError
from passes.modules.explicit_state import held_at
from passes.onnx.lowered_model import LoweredModel
from passes.onnx.protos import value_info
from passes.program.notes import CALL, ORDINAL, location_of
from passes.program.program import operation_of
from passes.program.stages import Eager
from passes.sizes.guards import Location
from passes.values.nested import leaves
from passes.values.spec import TensorSpec
from tracer.checking.agreement import Array, as_float64, cloned, differences, fault_of, flat_tensors, tolerances
from tracer.checking.replay import Calls, Replay, Run, Values
from tracer.checking.session import Session
from tracer.checking.verification import Locate, Origin


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
    found.update(zip(lowered.input_names, map(_array, inputs), strict=True))
    calls = Calls(module, program)
    calls.note(cloned(args), cloned(kwargs))
    search = _Search(lowered, Replay(program, calls), tolerances(program, session.in_float32))
    values: Values = dict(zip(program.inputs(), inputs, strict=True))
    nodes = search.replay.each(program.graph.nodes, values)
    origin = search.first(nodes, values, found, lowered.proto.graph)
    return origin or Origin("no value on the way to it differs when the file gives them all")


class _Search:
    """Looks for the first value that differs, in a graph and then in the graphs within it."""

    def __init__(self, lowered: LoweredModel, replay: Replay, allowed: Mapping[fx.Node, float]):
        self._lowered = lowered
        self.replay = replay
        self._allowed = allowed

    def first(
        self,
        nodes: Iterable[tuple[fx.Node, Any]],
        values: Values,
        found: Mapping[str, Array],
        graph: onnx.GraphProto,
    ) -> Origin | None:
        """The first of some nodes whose value, as the file has `found` it in a graph, is not the module's."""
        for node, value in nodes:
            result = self._lowered.results.get(node.name)
            if result is None:
                continue
            for name, expected in _paired(result.values, value):
                if name in found and fault_of(found[name], expected, self._allowed[node]) is not None:
                    within = self._within(node, name, values, found, graph)
                    here = f"it begins here, {_compared(found[name], expected)}"
                    return within or Origin(here, *_place(node, result.name, self.replay))
        return None

    def _within(
        self, node: fx.Node, name: str, values: Values, found: Mapping[str, Array], graph: onnx.GraphProto
    ) -> Origin | None:
        """Where it begins within a branch or a loop; None where it does not begin there, or no runtime can tell."""
        runner = next((member for member in graph.node if name in member.output), None)
        runs = self.replay.runs.get(node)
        if runner is None or not runs:
            return None
        inner: Mapping[str, Array] = {}
        for run in runs:
            body = _body_of(runner, CALL.of(node).record, run)
            try:
                inner = self._ran(body, run, values, found) if not _is_condition(run, node) else inner
            except VerificationError:
                return None
            origin = self.first(self.replay.of_run(run, values), values, inner, body)
            if origin is not None:
                step = "" if run.step is None else f" in step {run.step + 1} of {operation_of(node)}"
                return replace(origin, text=f"{origin.text}{step}")
        return None

    def _ran(self, body: onnx.GraphProto, run: Run, values: Values, found: Mapping[str, Array]) -> dict[str, Array]:
        """What a graph within the file's gives, run by itself on what the module has for it."""
        dtypes = self._dtypes(values)
        given = [torch.as_tensor(run.step), torch.as_tensor(True)] if len(body.input) > len(run.given) else []
        inputs = dict(zip((value.name for value in body.input), (*given, *run.given), strict=True))
        free = set(_used(body)) - set(inputs) - set(_computed(body))
        inputs.update({name: _as(found[name], dtypes.get(name)) for name in sorted(free & set(found))})
        proto = onnx.ModelProto(ir_version=self._lowered.proto.ir_version, graph=body)
        proto.opset_import.extend(self._lowered.proto.opset_import)
        del proto.graph.input[:]
        proto.graph.input.extend(_declared(name, tensor) for name, tensor in inputs.items())
        proto.graph.initializer.extend(
            tensor for tensor in _constants(self._lowered.proto.graph) if tensor.name in free - set(inputs)
        )
        weights = {name: tensor for name, tensor in self._lowered.weights.items() if name in free}
        names = [output.name for output in proto.graph.output]
        revealed = _revealing(
            replace(self._lowered, proto=proto, weights=weights, input_names=list(inputs), output_names=names)
        )
        results = Session(revealed).run(list(inputs.values()))
        inner = dict(zip((output.name for output in revealed.proto.graph.output), results, strict=True))
        return {**found, **{name: _array(tensor) for name, tensor in inputs.items() if name not in found}, **inner}

    def _dtypes(self, values: Values) -> dict[str, torch.dtype]:
        """The dtypes of the file's values, as the module has them."""
        pairs = (
            pair
            for node, value in values.items()
            if (result := self._lowered.results.get(node.name)) is not None
            for pair in _paired(result.values, value)
        )
        inputs = zip(self._lowered.input_names, (values[node] for node in self.replay.program.inputs()), strict=True)
        return {name: tensor.dtype for name, tensor in (*inputs, *pairs)}


def _body_of(runner: onnx.NodeProto, call: Any, run: Run) -> onnx.GraphProto:
    """The graph that a run of a region is one of."""
    name = "body"
    if runner.op_type == "If":
        name = "then_branch" if run.region.end is call.then else "else_branch"
    found: onnx.GraphProto = next(attribute.g for attribute in runner.attribute if attribute.name == name)
    return found


def _is_condition(run: Run, node: fx.Node) -> bool:
    """Whether a run is of a loop's condition, which is computed at the end of the step before."""
    return getattr(CALL.of(node).record, "condition", None) is run.region.end


def _declared(name: str, tensor: torch.Tensor) -> onnx.ValueInfoProto:
    return value_info(name, TensorSpec.of(tensor))


def _array(tensor: torch.Tensor) -> Array:
    """A tensor's data, as what runs a file gives it."""
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    return array


def _as(array: Array, dtype: torch.dtype | None) -> torch.Tensor:
    """A value of the file as the module has it: what runs the file may have it in another dtype."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if dtype is None else tensor.to(dtype)


def _revealing(lowered: LoweredModel) -> LoweredModel:
    """The model with every value of `results` as an output that one of its nodes computes and another one uses, and
    every value that a graph within it uses.

    What nobody uses may rightly differ, such as which of several equal elements is the greatest.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(lowered.proto)
    computed = {name for node in proto.graph.node for name in node.output}
    wanted = {name for result in lowered.results.values() for name in leaves(result.values)}
    wanted |= {name for node in proto.graph.node for attribute in node.attribute for name in _used(attribute.g)}
    for name in sorted(wanted & computed & set(_used(proto.graph)) - {output.name for output in proto.graph.output}):
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    return replace(lowered, proto=proto)


def _used(graph: onnx.GraphProto) -> Iterator[str]:
    """What the nodes of a graph and of those within it use."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _used(attribute.g)


def _computed(graph: onnx.GraphProto) -> Iterator[str]:
    """What a graph and those within it have of their own."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from node.output
        for attribute in node.attribute:
            yield from _computed(attribute.g)


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The initializers of a graph and of those within it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from _constants(attribute.g)


def _paired(names: Any, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """ONNX names with the tensors that stand in the same places."""
    if isinstance(names, str) and isinstance(value, torch.Tensor):
        yield names, value
    elif isinstance(names, tuple):
        items: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for name, item in zip(names, items, strict=True):
            yield from _paired(name, item)


def _place(node: fx.Node, name: str, replay: Replay) -> tuple[Location, str]:
    """A node's module, or its name in the ONNX graph where it is no module's call, and what it does."""
    program, calls = replay.program, replay.calls
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
