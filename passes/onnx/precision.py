"""Nodes computed in float32 because their own element type is not to be had: between casts, the result rounded.

ONNX gave its operators bfloat16 opset by opset, and some of them never; its own schemas say which take it. A runtime
has kernels for fewer types still. Nothing here knows a single operator.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.defs import OpSchema

from passes.onnx.protos import rename
from passes.onnx.types import onnx_type

if TYPE_CHECKING:
    from passes.onnx.lowered_model import LoweredModel


def cast_unsupported(graph: GraphProto, opset: int, weights: Mapping[str, torch.Tensor]) -> None:
    """Puts casts around the nodes whose operator takes no bfloat16 at this opset.

    `weights` are initializers that the graph does not hold yet.
    """
    _Rewriting(opset, torch.bfloat16, weights, _takes_bfloat16).graph(graph)


def holds(lowered: LoweredModel, dtype: torch.dtype) -> bool:
    """Whether the model has values of a dtype."""
    weights = any(tensor.dtype == dtype for tensor in lowered.weights.values())
    return weights or _occurs(lowered.proto.graph, onnx_type(dtype))


def in_float32(lowered: LoweredModel, dtype: torch.dtype, operators: Collection[str] | None = None) -> LoweredModel:
    """The model with everything of a dtype computed in float32, and float32 as its inputs and outputs in its place.

    Nothing but casts is left in that dtype; results are still rounded to it. With `operators`, these alone compute in
    float32, and inputs and outputs stay what they are.
    """
    proto = ModelProto()
    proto.CopyFrom(lowered.proto)
    opset = next(entry.version for entry in proto.opset_import if not entry.domain)

    def takes(schema: OpSchema, variables: set[str]) -> bool:
        return schema.name == "Cast" or (operators is not None and schema.name not in operators)

    rewriting = _Rewriting(opset, dtype, lowered.weights, takes)
    rewriting.graph(proto.graph)
    if operators is None:
        rewriting.ends(proto.graph)
    return replace(lowered, proto=proto)


class _Rewriting:
    """Goes through a graph's nodes in order, knowing which values are of the dtype.

    `takes(schema, variables)` says whether an operator computes in it, where it stands for these type variables
    (ONNX's `T`).
    """

    def __init__(
        self,
        opset: int,
        dtype: torch.dtype,
        weights: Mapping[str, torch.Tensor],
        takes: Callable[[OpSchema, set[str]], bool],
    ):
        self._opset = opset
        self._element = onnx_type(dtype)
        self._takes = takes
        self._known = {name for name, tensor in weights.items() if tensor.dtype == dtype}
        self._names: set[str] = set()

    def graph(self, graph: GraphProto) -> None:
        if not self._known and not _occurs(graph, self._element):
            return
        self._known |= {value.name for value in graph.input if value.type.tensor_type.elem_type == self._element}
        self._known |= {tensor.name for tensor in graph.initializer if tensor.data_type == self._element}
        self._names |= {name for node in graph.node for name in (node.name, *node.output)}
        casts: dict[str, NodeProto] = {}
        _replace_nodes(graph, [part for node in graph.node for part in self._node(node, casts)])

    def _node(self, node: NodeProto, casts: dict[str, NodeProto]) -> list[NodeProto]:
        """The node, between casts where it needs them. `casts` has those to float32 in its graph, by what they cast."""
        bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        for body in bodies:
            self._body(node, body)
        if bodies or node.domain:
            return [node]
        schema = _schema(node.op_type, self._opset)
        operands, results = _variables(node.input, schema.inputs), _variables(node.output, schema.outputs)
        bound = {variable for name, variable in zip(node.input, operands, strict=True) if name in self._known}
        own = set(bound)
        if _declares(node, self._element):
            own |= set(results) - set(operands)
        places = [index for index, variable in enumerate(results) if variable in own]
        self._known.update(node.output[index] for index in places)
        return [node] if not bound or self._takes(schema, bound) else self._between_casts(node, places, casts)

    def _between_casts(self, node: NodeProto, places: list[int], casts: dict[str, NodeProto]) -> list[NodeProto]:
        """The node in float32; `places` are those of its results that are of the element type."""
        before: list[NodeProto] = []
        for index, name in enumerate(node.input):
            if name not in self._known:
                continue
            if name not in casts:
                casts[name] = self._cast(name, self._fresh(f"{name}/float32"), TensorProto.FLOAT)
                before.append(casts[name])
            node.input[index] = casts[name].output[0]
        after: list[NodeProto] = []
        for index in places:
            name = node.output[index]
            node.output[index] = self._fresh(f"{name}/unrounded")
            after.append(self._cast(node.output[index], name, self._element))
        return [*before, node, *after]

    def _body(self, node: NodeProto, body: GraphProto) -> None:
        """A graph inside of a node (of If, Loop, Scan), which goes on taking and giving the element type."""
        pairs = zip(body.input, node.input, strict=False)
        self._known |= {inner.name for inner, outer in pairs if outer in self._known}
        self.graph(body)
        # A Loop's body gives one value more, its condition, before the others.
        results = zip(reversed(body.output), reversed(node.output), strict=False)
        self._known |= {outer for inner, outer in results if inner.name in self._known}

    def ends(self, graph: GraphProto) -> None:
        """Makes the graph's inputs and outputs float32: its nodes know them by other names."""
        inputs = [value for value in graph.input if value.name in self._known]
        outputs = [value for value in graph.output if value.name in self._known]
        inner = {value.name: self._fresh(f"{value.name}/inner") for value in (*inputs, *outputs)}
        for node in graph.node:
            rename(node, inner)
        for value in (*inputs, *outputs):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        before = [self._cast(value.name, inner[value.name], self._element) for value in inputs]
        after = [self._cast(inner[value.name], value.name, TensorProto.FLOAT) for value in outputs]
        _replace_nodes(graph, [*before, *graph.node, *after])

    def _cast(self, source: str, result: str, to: int) -> NodeProto:
        return helper.make_node("Cast", [source], [result], name=self._fresh(f"{result}/Cast"), to=to)

    def _fresh(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


def _takes_bfloat16(schema: OpSchema, variables: set[str]) -> bool:
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return all("tensor(bfloat16)" in allowed.get(variable, [variable]) for variable in variables)


@cache
def _schema(op_type: str, opset: int) -> OpSchema:
    return onnx.defs.get_schema(op_type, opset)


def _variables(names: Sequence[str], parameters: Sequence[OpSchema.FormalParameter]) -> list[str]:
    """The type variable, or the type, of each operand; a variadic parameter takes all that are left."""
    return [parameters[min(index, len(parameters) - 1)].type_str for index in range(len(names))]


def _occurs(graph: GraphProto, element: int) -> bool:
    return (
        any(value.type.tensor_type.elem_type == element for value in graph.input)
        or any(tensor.data_type == element for tensor in graph.initializer)
        or any(_declares(node, element) for node in graph.node)
    )


def _declares(node: NodeProto, element: int) -> bool:
    """Whether an attribute makes the result the element type: a Cast's, an EyeLike's, a ConstantOfShape's."""
    return any(
        (attribute.name in ("to", "dtype") and attribute.i == element) or attribute.t.data_type == element
        for attribute in node.attribute
    )


def _replace_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    graph.ClearField("node")
    graph.node.extend(nodes)
