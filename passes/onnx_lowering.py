"""From the eager graph to an ONNX graph: walks the nodes and calls each op's lowering. Knows no op itself."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from onnx import helper
from torch import fx

from passes.errors import Blocker, ExportError, TracerError, UnsupportedOpError
from passes.nested import leaves, map_structure
from passes.onnx_emitter import Emitter, Value, onnx_type, value_info
from passes.onnx_precision import cast_unsupported
from passes.ops.op import BoundCall, Owned, map_leaves, tensor_at
from passes.pipeline import Stage
from passes.program import CALL, SPEC, Program, location_of, operation_of, tensor_specs
from passes.spec import TensorSpec, describe

PRODUCER = "lazytracer"

# Functions of tuples of tensors: nothing to compute at run time. Where an operand is a tensor an op covers them.
_ON_CONTAINERS = (operator.getitem, operator.add)


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What a node of the program became: its name in the ONNX graph, and those of its values, nested as they are."""

    name: str
    values: Any


@dataclass(slots=True)
class LoweredModel:
    """An ONNX model whose weights are still torch tensors.

    `proto` is complete but for the initializers in `weights`, which are in the order of their first use.
    `results` tells, by the program's node, where a value is found; it is empty on the torch route.
    """

    proto: onnx.ModelProto
    weights: dict[str, torch.Tensor]
    input_names: list[str]
    output_names: list[str]
    results: dict[str, NodeResult] = field(default_factory=dict)


@dataclass(slots=True)
class OnnxLowering:
    """The pass; its result is in `lowered`. The number of changes is the number of ONNX nodes.

    Raises UnsupportedOpError with every operation that has no lowering, after looking at all of them.
    """

    opset: int
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    name: str = "lowering"
    requires: Stage = Stage.EAGER
    ensures: Stage = Stage.LOWERED
    lowered: LoweredModel | None = None
    _values: dict[fx.Node, Any] = field(default_factory=dict)
    _names: dict[fx.Node, str] = field(default_factory=dict)
    _blockers: list[Blocker] = field(default_factory=list)

    def run(self, program: Program) -> int:
        emit = Emitter(self.opset)
        self._declare_inputs(program, emit)
        for node in program.graph.nodes:
            if node.op not in ("placeholder", "get_attr", "output") and _has_tensor(node.meta[SPEC]):
                self._lower(node, program, emit)
        for name, spec in zip(output_names(program), tensor_specs(program.output().meta[SPEC]), strict=True):
            self._is_typed(f"output {name}", spec)
        if self._blockers:
            raise unsupported(self._blockers)
        names, renamed = self._declare_outputs(program, emit)
        cast_unsupported(emit.graph, emit.opset, emit.weights)
        self.lowered = LoweredModel(
            self._model(emit, program), emit.weights, self._input_names(program), names, self._results(renamed)
        )
        check_model(self.lowered)
        return len(emit.graph.node)

    def _input_names(self, program: Program) -> list[str]:
        own = [str(node.target) for node in program.inputs()]
        return _given_names(self.input_names, own, "input")

    def _declare_inputs(self, program: Program, emit: Emitter) -> None:
        for node, name in zip(program.inputs(), self._input_names(program), strict=True):
            spec = node.meta[SPEC]
            self._values[node] = emit.input(name, spec) if self._is_typed(f"input {name}", spec) else Value(name, spec)

    def _is_typed(self, what: str, spec: TensorSpec) -> bool:
        """Whether ONNX has the dtype of an input or output; where it has not, that is a blocker."""
        try:
            onnx_type(spec.dtype)
        except UnsupportedOpError as error:
            self._blockers.append(Blocker(what, error.message))
            return False
        return True

    def _lower(self, node: fx.Node, program: Program, emit: Emitter) -> None:
        call: BoundCall | None = node.meta.get(CALL)
        if call is None and node.target in _ON_CONTAINERS:
            assert callable(node.target)
            self._values[node] = node.target(*map_leaves(node.args, lambda leaf: self._value(leaf, program, emit)))
            return
        result = node.meta[SPEC]
        self._values[node] = _placeholder_values(node.name, result)
        if call is None or call.op.lowering is None:
            self._block(node, program, "there is no direct lowering for it")
            return
        self._names[node] = emit.begin(_base_name(node, program), result)
        try:
            arguments = {
                name: map_leaves(value, lambda leaf: self._leaf(leaf, call, program, emit))
                for name, value in call.arguments.items()
            }
            outputs = call.op.call(call.op.lowering, emit, arguments=arguments)
        except UnsupportedOpError as error:
            self._block(node, program, error.message)
            return
        except TracerError as error:
            raise error.placed(location_of(node), operation_of(node, program)) from error
        self._values[node] = emit.finish(outputs)

    def _block(self, node: fx.Node, program: Program, reason: str) -> None:
        location = location_of(node)
        for rung in program.rungs:
            if node.target in (rung.path, program.whole):
                reason, location = rung.reason, rung.location
        self._blockers.append(Blocker(operation_of(node, program), reason, location))

    def _leaf(self, leaf: fx.Node | Owned, call: BoundCall, program: Program, emit: Emitter) -> Any:
        if isinstance(leaf, fx.Node):
            return self._value(leaf, program, emit)
        assert call.module is not None
        tensor = tensor_at(call.module, leaf.name)
        assert tensor is not None
        return emit.weight(f"{call.path}.{leaf.name}" if call.path else leaf.name, tensor)

    def _value(self, node: Any, program: Program, emit: Emitter) -> Any:
        """What a lowering sees of a node: its ONNX value(s), or the number itself where it is no tensor."""
        known = node.meta[SPEC]
        if not _has_tensor(known):
            return known
        if node.op == "get_attr":
            return emit.weight(str(node.target), program.tensor(str(node.target)))
        return self._values[node]

    def _results(self, renamed: dict[str, str]) -> dict[str, NodeResult]:
        def final_name(value: Any) -> Any:
            return renamed.get(value.name, value.name) if isinstance(value, Value) else value

        return {
            node.name: NodeResult(name, map_structure(self._values[node], final_name))
            for node, name in self._names.items()
        }

    def _declare_outputs(self, program: Program, emit: Emitter) -> tuple[list[str], dict[str, str]]:
        """The outputs' names, and the new names of values that became outputs."""
        own = output_names(program)
        output = program.output()
        values = _leaves(map_leaves(output.args[0], lambda leaf: self._value(leaf, program, emit)))
        specs = list(tensor_specs(output.meta[SPEC]))
        names = _given_names(self.output_names, _unique(own, emit), "output")
        return names, emit.outputs(list(zip(names, values, specs, strict=True)))

    def _model(self, emit: Emitter, program: Program) -> onnx.ModelProto:
        emit.graph.name = type(program.root).__name__
        opset = helper.make_opsetid("", emit.opset)
        model = onnx.ModelProto(
            ir_version=helper.find_min_ir_version_for([opset]), producer_name=PRODUCER, graph=emit.graph
        )
        model.opset_import.append(opset)
        helper.set_model_props(model, self.metadata)
        return model


def unsupported(blockers: list[Blocker]) -> UnsupportedOpError:
    """One error for every operation that keeps the model from the direct route."""
    listed = "\n".join(f"  - {blocker}" for blocker in blockers)
    return UnsupportedOpError(
        f"{len(blockers)} operation{'s' if len(blockers) > 1 else ''} cannot be lowered to ONNX directly:\n{listed}",
        remedy="use --route auto or --route torch, which export through torch.onnx",
        blockers=blockers,
    )


def check_model(lowered: LoweredModel) -> None:
    """onnx's checker with full shape inference, the weights declared by type alone.

    Raises ExportError: the graph is not valid ONNX, which is a bug of a lowering.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(lowered.proto)
    for name, tensor in lowered.weights.items():
        proto.graph.input.append(value_info(name, TensorSpec.of(tensor)))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        too_early = "bfloat16" in str(error) and lowered.proto.opset_import[0].version < 22
        raise ExportError(
            f"the lowered graph is not valid ONNX: {error}",
            remedy="use --opset 22 or later, where more operations take bfloat16"
            if too_early
            else "report this with the model; --route torch may do",
        ) from error


def _has_tensor(value: Any) -> bool:
    return next(tensor_specs(value), None) is not None


def _base_name(node: fx.Node, program: Program) -> str:
    """A module call's module path, else the operation's name within the module: `layer1.0/add`.

    A layer with a batch norm folded into it keeps its own path.
    """
    if node.op == "call_module":
        return program.folds.get(str(node.target), (str(node.target),))[0]
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


def output_names(program: Program) -> list[str]:
    """Readable names of the forward's outputs, one per tensor: `output`, a dict's keys, `output_0`, `boxes_1`.

    Raises ExportError where the forward returns no tensor, or something that is none.
    """
    names = _named("output", program.output().meta[SPEC])
    if not names:
        raise ExportError("the model returns no tensor", remedy="return at least one tensor from the forward")
    return names


def _named(name: str, value: Any) -> list[str]:
    if isinstance(value, TensorSpec):
        return [name]
    if hasattr(value, "_fields"):  # a named tuple
        value = value._asdict()
    if isinstance(value, dict):
        keys = {key: str(key) if name == "output" else f"{name}_{key}" for key in value}
        return [leaf for key, item in value.items() for leaf in _named(keys[key], item)]
    if isinstance(value, (tuple, list)):
        return [leaf for index, item in enumerate(value) for leaf in _named(f"{name}_{index}", item)]
    if value is None:
        return []
    raise ExportError(f"the model returns {describe(value)}, which is no tensor", remedy="return tensors only")


def _leaves(value: Any) -> list[Value]:
    """The ONNX values in a nested output, in the order of its tensors."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, Value)]


def _given_names(given: Sequence[str] | None, own: list[str], kind: str) -> list[str]:
    if given is None:
        return own
    if len(given) != len(own) or len(set(given)) != len(own):
        raise ExportError(
            f"{kind}_names has {list(given)}, but the model has {len(own)} {kind}s: {', '.join(own)}",
            remedy=f"give {len(own)} different names",
        )
    return list(given)


def _unique(names: list[str], emit: Emitter) -> list[str]:
    taken = {value.name for value in emit.graph.input} | set(emit.weights)
    unique: list[str] = []
    for name in names:
        fresh = name
        while fresh in taken:
            fresh += "_out"
        taken.add(fresh)
        unique.append(fresh)
    return unique
