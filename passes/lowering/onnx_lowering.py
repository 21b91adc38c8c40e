"""From the eager graph to an ONNX graph: walks the nodes and calls each op's lowering. Knows no op itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import onnx
import torch
from onnx import helper
from torch import fx

from passes.errors import Blocker, TracerError, UnsupportedOpError
from passes.lowering.blockers import ON_CONTAINERS, blocker
from passes.lowering.interface_names import InterfaceNames
from passes.onnx.emitter import Emitter, Value
from passes.onnx.lowered_model import LoweredModel, NodeResult
from passes.onnx.precision import cast_unsupported
from passes.onnx.size_checks import refuse_other_sizes
from passes.onnx.types import onnx_type
from passes.onnx.unused import drop_unused
from passes.ops.op import BoundCall, Owned, map_leaves, tensor_at
from passes.program.notes import CALL, UNKNOWN, VALUE, location_of
from passes.program.program import Program, operation_of, tensor_specs
from passes.program.regions import Region, outermost, regions
from passes.program.stages import Eager, Lowered
from passes.sizes.dimension import Dim, known
from passes.sizes.floating import DynamicSizeError, Floating
from passes.sizes.statement import stated
from passes.values.nested import leaves, map_structure
from passes.values.spec import TensorSpec

PRODUCER = "lazytracer"


@dataclass(slots=True)
class OnnxLowering:
    """The pass. The number of changes is the number of ONNX nodes.

    `refuses_other_sizes` makes the graph fail at sizes for which it does not hold (`passes/onnx/size_checks.py`).

    Raises UnsupportedOpError with every operation that has no lowering, after looking at all of them.
    """

    opset: int
    names: InterfaceNames
    refuses_other_sizes: bool = False
    name: str = "lowering"
    takes: type[Eager] = Eager
    _values: dict[fx.Node, Any] = field(default_factory=dict)
    _emitted: dict[fx.Node, str] = field(default_factory=dict)
    _blockers: list[Blocker] = field(default_factory=list)
    _regions: dict[fx.Node, Region] = field(default_factory=dict)

    def run(self, program: Eager) -> tuple[Lowered, int]:
        emit = Emitter(self.opset, program.state(), {*self.names.inputs, *self.names.outputs})
        for node, name in zip(program.inputs(), self.names.inputs, strict=True):
            spec = VALUE.of(node)
            self._values[node] = emit.input(name, spec) if self._is_typed(f"input {name}", spec) else Value(name, spec)
        self._regions = regions(program.graph)
        self._lower_all(program.graph.nodes, program, emit)
        for name, spec in zip(self.names.outputs, tensor_specs(VALUE.of(program.output())), strict=True):
            self._is_typed(f"output {name}", spec)
        if self._blockers:
            raise unsupported(self._blockers)
        renamed = self._declare_outputs(program, emit)
        drop_unused(emit.graph, emit.weights)
        if self.refuses_other_sizes:
            inputs = [self._values[node] for node in program.inputs()]
            refuse_other_sizes(emit, inputs, stated(program.log.facts, program.log.sampled))
        cast_unsupported(emit.graph, emit.opset, emit.weights)
        model = LoweredModel(
            self._model(emit, program), emit.weights, self.names.inputs, self.names.outputs, self._results(renamed)
        )
        return Lowered.of_eager(program, model, emit.specs), len(emit.graph.node)

    def _is_typed(self, what: str, spec: TensorSpec) -> bool:
        """Whether ONNX has the dtype of an input or output; where it has not, that is a blocker."""
        try:
            onnx_type(spec.dtype)
        except UnsupportedOpError as error:
            self._blockers.append(Blocker(what, error.message))
            return False
        return True

    def _lower_all(self, nodes: Iterable[fx.Node], program: Eager, emit: Emitter) -> None:
        """Lowers nodes one by one; those of a region are lowered by the operation that runs it."""
        for node in outermost(nodes):
            computes = _has_tensor(VALUE.of(node)) or UNKNOWN.on(node)
            if computes and node.op not in ("placeholder", "get_attr", "output"):
                self._lower(node, program, emit)

    def _lower_region(self, region: Region, program: Eager, emit: Emitter, given: Sequence[Value]) -> Sequence[Any]:
        """Lowers the nodes of a region where the emitter is now; what the region gives."""
        self._values[region.begin] = tuple(given)
        with emit.aside():
            self._lower_all(region.nodes, program, emit)
            found: Sequence[Any] = map_leaves(region.end.args[1], lambda leaf: self._value(leaf, program, emit))
            return [emit.operand(result, torch.int64) if isinstance(result, Dim) else result for result in found]

    def _lower(self, node: fx.Node, program: Eager, emit: Emitter) -> None:
        call: BoundCall | None = CALL.get(node)
        if call is None and node.target in ON_CONTAINERS:
            assert callable(node.target)
            self._values[node] = node.target(*map_leaves(node.args, lambda leaf: self._value(leaf, program, emit)))
            return
        result = VALUE.of(node)
        self._values[node] = _placeholder_values(node.name, result)
        if call is None or call.op.lowering is None:
            self._blockers.append(blocker(node, program))
            return
        self._emitted[node] = emit.begin(_base_name(node, program), result)
        try:
            outputs = call.op.lowering(emit, call.record.map(lambda leaf: self._leaf(leaf, node, program, emit)))
        except UnsupportedOpError as error:
            self._blockers.append(blocker(node, program, error.message))
            return
        except DynamicSizeError as error:
            self._blockers.append(blocker(node, program, str(error)))
            return
        except TracerError as error:
            raise error.placed(location_of(node), operation_of(node, program)) from error
        if isinstance(result, (Dim, Floating)):  # a number that comes from data: `item()`
            emit.counted(result, outputs)
            return
        self._values[node] = emit.finish(outputs)
        if UNKNOWN.on(node):
            self._note_sizes(node, emit)

    def _note_sizes(self, node: fx.Node, emit: Emitter) -> None:
        """Tells the emitter where the sizes are that this node finds in the data."""
        for value in _leaves(self._values[node]):
            for axis, size in enumerate(value.shape):
                if isinstance(size, Dim) and str(size) in UNKNOWN.of(node):
                    emit.found(value, axis, size)

    def _leaf(self, leaf: fx.Node | Owned, node: fx.Node, program: Eager, emit: Emitter) -> Any:
        if isinstance(leaf, fx.Node):
            return self._value(leaf, program, emit)
        module = program.module(str(node.target))
        tensor = tensor_at(module, leaf.name)
        assert tensor is not None
        path = program.path(node)
        return emit.weight(f"{path}.{leaf.name}" if path else leaf.name, tensor)

    def _value(self, node: Any, program: Eager, emit: Emitter) -> Any:
        """What a lowering sees of a node: its ONNX value(s), the number itself where it is no tensor, or what emits the
        region that ends there."""
        region = self._regions.get(node)
        if region is not None:
            return partial(self._lower_region, region, program, emit)
        value = VALUE.of(node)
        if not _has_tensor(value):
            return known(value)
        if node.op == "get_attr":
            return emit.weight(str(node.target), program.tensor(str(node.target)))
        return self._values[node]

    def _results(self, renamed: dict[str, str]) -> dict[str, NodeResult]:
        def final_name(value: Any) -> Any:
            return renamed.get(value.name, value.name) if isinstance(value, Value) else value

        return {
            node.name: NodeResult(name, map_structure(self._values[node], final_name))
            for node, name in self._emitted.items()
        }

    def _declare_outputs(self, program: Eager, emit: Emitter) -> dict[str, str]:
        """Names the outputs; the new names of values that became outputs."""
        output = program.output()
        values = _leaves(map_leaves(output.args[0], lambda leaf: self._value(leaf, program, emit)))
        specs = list(tensor_specs(VALUE.of(output)))
        return emit.outputs(list(zip(self.names.outputs, values, specs, strict=True)))

    def _model(self, emit: Emitter, program: Program) -> onnx.ModelProto:
        emit.graph.name = type(program.root).__name__
        opset = helper.make_opsetid("", emit.opset)
        model = onnx.ModelProto(
            ir_version=helper.find_min_ir_version_for([opset]), producer_name=PRODUCER, graph=emit.graph
        )
        model.opset_import.append(opset)
        return model


def unsupported(blockers: list[Blocker]) -> UnsupportedOpError:
    """One error for every operation that keeps the model from the direct route."""
    listed = "\n".join(f"  - {blocker}" for blocker in blockers)
    return UnsupportedOpError(
        f"{len(blockers)} operation{'s' if len(blockers) > 1 else ''} cannot be lowered to ONNX directly:\n{listed}",
        remedy="use --route auto or --route torch, which export through torch.onnx",
        blockers=blockers,
    )


def _has_tensor(value: Any) -> bool:
    return next(tensor_specs(value), None) is not None


def _base_name(node: fx.Node, program: Eager) -> str:
    """A module call's module path, else the operation's name within the module: `layer1.0/add`.

    A layer with a batch norm folded into it keeps its own path.
    """
    if node.op == "call_module":
        fold = program.folds.get(str(node.target))
        return fold.layer if fold is not None else str(node.target)
    path = location_of(node).path
    operation = operation_of(node).strip("_")
    return f"{path}/{operation}" if path else operation


def _placeholder_values(name: str, result: Any) -> Any:
    if isinstance(result, TensorSpec):
        return Value(name, result)
    return (
        tuple(_placeholder_values(f"{name}.{index}", item) for index, item in enumerate(result))
        if isinstance(result, (tuple, list))
        else None
    )


def _leaves(value: Any) -> list[Value]:
    """The ONNX values in a nested output, in the order of its tensors."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, Value)]
