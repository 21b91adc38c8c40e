"""A value on every node: specs for tensors, sizes for numbers. No data, no FLOPs.

`Propagator` computes values on demand, each node once and in graph order, so capture can ask it questions
while the graph is still growing; the pass then completes the rest.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from passes.dimension import Dim, DynamicSizeError
from passes.errors import CaptureError, LazyResolutionError, ShapeError, TracerError
from passes.meta_execution import run_on_meta
from passes.ops.op import BoundCall, Inference, Owned, bind_node, map_leaves
from passes.pipeline import Stage
from passes.program import CALL, SPEC, LazyLayer, Program, is_lazy, is_uninitialized, location_of, operation_of
from passes.spec import TensorSpec, describe


@dataclass(slots=True)
class ShapePropagation:
    """The pass: a value on every node. The number of changes is the number of nodes visited."""

    name: str = "shape propagation"
    requires: Stage = Stage.CAPTURED
    ensures: Stage = Stage.SHAPED

    def run(self, program: Program) -> int:
        return Propagator(program).complete()


class Propagator:
    """Gives nodes their values, resuming where it stopped (see the module's docstring).

    Placeholders must carry their value already.
    """

    def __init__(self, program: Program):
        self.program = program
        self._last: fx.Node | None = None

    def value(self, node: fx.Node) -> Any:
        """The node's value, computing it and everything before it that has none yet.

        Raises TracerError, placed at the node that does not fit.
        """
        if SPEC not in node.meta:
            self._advance(node)
        return node.meta[SPEC]

    def complete(self) -> int:
        """Gives every remaining node its value; the number of nodes visited."""
        return self._advance(None)

    def _advance(self, until: fx.Node | None) -> int:
        visited = 0
        graph = self.program.graph
        node = self._last.next if self._last is not None else next(iter(graph.nodes))
        while node.op != "root":
            if SPEC not in node.meta:
                self._visit(node)
                visited += 1
            self._last = node
            if node is until:
                break
            node = node.next
        return visited

    def _visit(self, node: fx.Node) -> None:
        log = self.program.log
        log.location = location_of(node)
        try:
            node.meta[SPEC] = self._evaluate(node)
        except DynamicSizeError as error:
            raise self._placed(ShapeError(str(error), remedy="give a fixed size for that dimension"), node) from error
        except TracerError as error:
            raise self._placed(error, node) from error

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op == "output":
            return map_leaves(node.args[0], _value_of)
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        if node.op == "placeholder":
            raise CaptureError(f"the input {node.target!r} has no sample")
        module = self.program.module(str(node.target)) if node.op == "call_module" else None
        call = bind_node(node, module)
        if call is None:
            return self._without_rule(node, module)
        node.meta[CALL] = call
        if module is not None and is_lazy(module):
            self._infer(node, call, module)
        arguments = {
            name: map_leaves(value, lambda leaf: self._leaf(leaf, call)) for name, value in call.arguments.items()
        }
        assert call.op.shape_rule is not None, f"{call.op} has no shape rule"
        return call.op.call(call.op.shape_rule, arguments=arguments)

    def _without_rule(self, node: fx.Node, module: nn.Module | None) -> Any:
        if node.op == "call_function" and node.target is operator.getitem:
            container = _value_of(node.args[0])
            return container[node.args[1]]
        args = map_leaves(node.args, _value_of)
        kwargs = map_leaves(dict(node.kwargs), _value_of)
        return run_on_meta(node, module, args, kwargs)

    def _leaf(self, leaf: fx.Node | Owned, call: BoundCall) -> Any:
        if isinstance(leaf, fx.Node):
            return _value_of(leaf)
        return self.program.owned_spec(call, leaf.name)

    def _attribute(self, path: str) -> TensorSpec:
        tensor = self.program.tensor(path)
        if not is_uninitialized(tensor):
            return TensorSpec.of(tensor)
        owner, _, name = path.rpartition(".")
        if owner not in self.program.lazies:
            raise LazyResolutionError(
                f"{path} is read before its layer is called, so it has no shape yet",
                remedy="call the lazy layer first, or declare it with its sizes",
            )
        return TensorSpec(self.program.lazies[owner].inference.shapes[name], tensor.dtype, tensor.device)

    def _infer(self, node: fx.Node, call: BoundCall, module: nn.Module) -> None:
        rule = call.op.inference_rules.get(type(module))
        if rule is None:
            raise LazyResolutionError(f"{type(module).__name__} is a lazy module of an unknown kind")
        arguments = {
            name: map_leaves(value, _value_of) for name, value in call.arguments.items() if not isinstance(value, Owned)
        }
        inference = rule(module, **arguments)
        self._check_static(call.path, inference)
        known = self.program.lazies.get(call.path)
        if known is None:
            args = map_leaves(node.args, _value_of)
            kwargs = map_leaves(dict(node.kwargs), _value_of)
            self.program.lazies[call.path] = LazyLayer(call.path, module, args, kwargs, inference, location_of(node))
        elif known.inference.shapes != inference.shapes:
            raise LazyResolutionError(
                f"{_sizes_text(call.path, known.inference.attributes)} from its call at {known.location.source}, "
                f"but {_sizes_text(call.path, inference.attributes)} from this one",
                remedy="give each call the same size, or use two layers",
            )

    def _check_static(self, path: str, inference: Inference) -> None:
        for name, size in inference.attributes.items():
            if isinstance(size, Dim):
                symbols = ", ".join(size.symbols())
                raise LazyResolutionError(
                    f"{path}.{name} = {size} depends on {symbols}, but a layer's size must be fixed",
                    remedy=f"give a fixed size for {symbols}, or pool to a fixed size before this layer",
                )

    def _placed(self, error: TracerError, node: fx.Node) -> TracerError:
        if error.location is not None:
            return error
        from passes.dataflow import shape_chain

        inputs = [f"{operand.name} {describe(_value_of(operand))}" for operand in node.all_input_nodes]
        return error.placed(
            location_of(node), operation_of(node, self.program), inputs, shape_chain(node, self.program)
        )


def _value_of(leaf: Any) -> Any:
    return leaf.meta[SPEC]


def _sizes_text(path: str, attributes: Mapping[str, Any]) -> str:
    return ", ".join(f"{path}.{name} = {value}" for name, value in attributes.items())
