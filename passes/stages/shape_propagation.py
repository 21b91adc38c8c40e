"""A value on every node: specs for tensors, sizes for numbers. No data, no FLOPs.

`Propagator` computes values on demand, each node once and in graph order, so capture can ask it questions
while the graph is still growing; the pass then completes the rest. A node that does not fit gets no value, and neither
does what depends on it; all others do, so that independent faults are found together.
"""

from __future__ import annotations

import builtins
import math
import operator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx, nn

from passes.errors import CaptureError, LazyResolutionError, NeedsDataError, ShapeError, TracerError
from passes.modules.lazy import LazyLayer
from passes.ops.op import BoundCall, Owned, bind_node, map_leaves
from passes.program.notes import CALL, FAULT, VALUE, location_of
from passes.program.places import check_places
from passes.program.program import Program, operation_of
from passes.program.stages import Captured, Shaped, Unresolved
from passes.program.unknown_sizes import decided, needs_data, with_names
from passes.sizes.dimension import DynamicSizeError
from passes.sizes.unknown import UnknownSizeError
from passes.stages.meta_execution import MetaRunError, run_module, run_op
from passes.values.numbers import computed
from passes.values.spec import TensorSpec, describe


@dataclass(slots=True)
class ShapePropagation:
    """The pass: a value on every node. The number of changes is the number of nodes visited.

    Raises the first fault in execution order, which names the others.
    """

    name: str = "shape propagation"
    takes: type[Captured] = Captured

    def run(self, program: Captured) -> tuple[Shaped, int]:
        visited = Propagator(program).complete()
        fault = program.fault()
        if fault is not None:
            raise fault
        return Shaped.of_captured(program), visited


class Propagator:
    """Gives nodes their values, resuming where it stopped (see the module's docstring).

    Placeholders must carry their value already.
    """

    def __init__(self, program: Program):
        self.program = program
        self._last: fx.Node | None = None

    def value(self, node: fx.Node) -> Any:
        """The node's value, computing it and everything before it that has none yet.

        Raises the first fault where the node has no value.
        """
        if not VALUE.on(node):
            self.advance(node)
        if not self._has_value(node):
            self.complete()  # this ends the work, so that what else is wrong must come to light now
            fault = self.program.fault()
            assert fault is not None
            raise fault
        return VALUE.of(node)

    def complete(self) -> int:
        """Gives every remaining node its value, where it has one; the number of nodes visited."""
        return self.advance(None)

    def advance(self, until: fx.Node | None) -> int:
        """Gives the nodes up to `until` their values, where they have one; the number of nodes visited.

        Raises CaptureError where a node cannot be followed in this way.
        """
        visited = 0
        graph = self.program.graph
        node = self._last.next if self._last is not None else next(iter(graph.nodes), None)
        while node is not None and node.op != "root":
            if self._awaits_value(node):
                self._visit(node)
                visited += 1
            self._last = node
            if node is until:
                break
            node = node.next
        return visited

    def _awaits_value(self, node: fx.Node) -> bool:
        known = VALUE.on(node) or FAULT.on(node)
        return not known and all(map(self._has_value, node.all_input_nodes))

    def _has_value(self, node: fx.Node) -> bool:
        """Whether a node that is needed now has a value. A lazy layer's tensor, read before the layer is called, may
        have got its shape since; one that has none yet is a fault."""
        if node.op == "get_attr" and not VALUE.on(node) and not FAULT.on(node):
            self._visit(node, needed=True)
        return VALUE.on(node)

    def _visit(self, node: fx.Node, needed: bool = False) -> None:
        log = self.program.log
        log.location = location_of(node)
        try:
            if node.op == "get_attr" and not needed and self._attribute(str(node.target)) is None:
                return
            VALUE.put(node, with_names(self._evaluate(node), node, log))
        except CaptureError as error:
            raise self._placed(error, node) from error
        except _UnknownTensorError:
            return
        except UnknownSizeError as error:
            raise self._placed(needs_data(error), node) from error
        except DynamicSizeError as error:
            fault = ShapeError(str(error), remedy="give a fixed size for that dimension", wants_fixed_size=True)
            FAULT.put(node, self._placed(fault, node))
        except TracerError as error:
            FAULT.put(node, self._placed(error, node))
        except Exception as error:
            refusal = self._refusal(node, error)
            if refusal is None:
                raise  # torch takes what the rule does not: a bug of the rule
            FAULT.put(node, self._placed(refusal, node))

    def _refusal(self, node: fx.Node, failure: Exception) -> ShapeError | None:
        """What is wrong with a call that a rule fails at, or None where torch takes it: rules expect arguments of the
        types that torch documents, and a caller may have given others (`kernel_size="3"`, a tuple for a tensor)."""
        refusal = self._torchs_refusal(node)
        return refusal and (given_no_tensor(operation_of(node, self.program), failure) or refusal)

    def _torchs_refusal(self, node: fx.Node) -> ShapeError | None:
        """What torch says to a call, or None where it takes it."""
        module = self.program.module(str(node.target)) if node.op == "call_module" else None
        try:
            self._without_rule(node, module)
        except ShapeError as error:
            return error
        except NeedsDataError as error:
            cause = error.__cause__ and error.__cause__.__cause__
            return ShapeError(f"torch refuses {operation_of(node, self.program)}: {cause}") if module else None
        except TracerError:
            return None
        return None

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op == "output":
            return map_leaves(node.args[0], _value_of)
        if node.op == "get_attr":
            return self._needed_attribute(str(node.target))
        if node.op == "placeholder":
            raise CaptureError(f"the input {node.target!r} has no sample")
        module = self.program.module(str(node.target)) if node.op == "call_module" else None
        if _is_on_numbers(node):
            return _compute(node)
        call = bind_call(node, self.program)
        if call is None:
            return self._without_rule(node, module)
        CALL.put(node, call)
        program = self.program
        if isinstance(program, Unresolved):
            if module is None and call.op.is_random(call.record):
                program.draw(node)
            if module is not None and (program.awaits(module) or program.has_met(call.path)):
                self._infer(node, call, module, program)
        assert call.op.shape_rule is not None, f"{call.op} has no shape rule"
        record = call.record.map(partial(self._leaf, call))
        if call.op.looks_up is not None:
            check_places(call, record)
        if not program.log.unknown:
            return call.op.shape_rule(record)
        return decided(partial(call.op.shape_rule, record), program.log)

    def _without_rule(self, node: fx.Node, module: nn.Module | None) -> Any:
        args = map_leaves(node.args, _value_of)
        kwargs = map_leaves(dict(node.kwargs), _value_of)
        log = self.program.log
        if module is None:
            return run_op(node, operation_of(node), args, kwargs, log)
        try:
            return run_module(module, str(node.target), args, kwargs, log, location_of(node)).value
        except MetaRunError as error:
            raise NeedsDataError(
                f"{operation_of(node, self.program)} cannot run without data: {error.__cause__}"
            ) from error

    def _leaf(self, call: BoundCall, leaf: fx.Node | Owned) -> Any:
        if type(leaf) is fx.Node:
            return _value_of(leaf)
        assert isinstance(leaf, Owned)
        return self.program.owned_spec(call, leaf.name)

    def _attribute(self, path: str) -> TensorSpec | None:
        return self.program.tensor_spec(self.program.tensor(path))

    def _needed_attribute(self, path: str) -> TensorSpec:
        spec = self._attribute(path)
        if spec is None:
            self._excuse()
            raise LazyResolutionError(
                f"{path} is read before its layer is called, so it has no shape yet",
                remedy="call the lazy layer first, or declare it with its sizes",
            )
        return spec

    def _infer(self, node: fx.Node, call: BoundCall, module: nn.Module, program: Unresolved) -> None:
        kind = program.kind(call.path)
        rule = next((rule for lazy, rule in call.op.inference_rules.items() if lazy.__name__ == kind), None)
        if rule is None:
            self._excuse()
            raise LazyResolutionError(f"{kind} is a lazy module of an unknown kind")
        inference = rule(module, call.record.map(lambda leaf: None if type(leaf) is Owned else _value_of(leaf)))
        if program.log.sampled and not program.log.explains:
            inference = inference.settled()
        args = map_leaves(node.args, _value_of)
        kwargs = map_leaves(dict(node.kwargs), _value_of)
        program.meet_lazy(LazyLayer(call.path, kind, args, kwargs, inference, location_of(node), by_rule=True))

    def _excuse(self) -> None:
        """A tensor without a shape is no fault of its own where a layer before has one: it may be that layer's."""
        if self.program.fault() is not None:
            raise _UnknownTensorError

    def _placed(self, error: TracerError, node: fx.Node) -> TracerError:
        from passes.program.dataflow import shape_chain

        error.decisions = error.decisions or self.program.log.decisions
        inputs = [f"{operand.name} {describe(_value_of(operand))}" for operand in node.all_input_nodes]
        return error.placed(
            location_of(node), operation_of(node, self.program), inputs, shape_chain(node, self.program)
        )


def bind_call(node: fx.Node, program: Program) -> BoundCall | None:
    """The node's op with its arguments bound; None where no rule of ours says what its value is.

    Its operands have values.
    """
    module = program.module(str(node.target)) if node.op == "call_module" else None
    path = program.path(node) if module is not None else ""
    if _is_on_numbers(node) or (module is not None and any(rung.path == path for rung in program.rungs)):
        return None
    call = bind_node(node, module)
    if call is not None:
        call.path = path
    return call


def given_no_tensor(operation: str, failure: Exception) -> ShapeError | None:
    """What is wrong with a call whose rule fails because something is no tensor; None where it fails otherwise."""
    if not isinstance(failure, AttributeError) or failure.name not in TensorSpec.__dict__:
        return None
    remedy = "return a tensor from what comes before"
    if isinstance(failure.obj, (tuple, list)):
        remedy = "take the tensor out of it, as in `output, state = self.lstm(x)`"
    given = type(failure.obj).__name__
    return ShapeError(f"{operation} takes a tensor, but is given a {given}: {describe(failure.obj)}", remedy=remedy)


class _UnknownTensorError(Exception):
    """A tensor's layer has a fault, so the tensor has no shape."""


# Functions that Python itself computes where no operand is a tensor: arithmetic on sizes, access to containers.
_ON_NUMBERS = frozenset(
    function for module in (operator, math, builtins) for function in vars(module).values() if callable(function)
)


def _is_on_numbers(node: fx.Node) -> bool:
    """Whether Python itself computes a node's value."""
    return node.op == "call_function" and node.target in _ON_NUMBERS and not _on_tensor(node)


def _on_tensor(node: fx.Node) -> bool:
    """Whether an operand is itself a tensor. A tuple of tensors is a container, not one."""
    operands = [*node.args, *node.kwargs.values()]
    if node.target is operator.getitem:
        operands = operands[:1]
    return any(isinstance(operand, fx.Node) and isinstance(_value_of(operand), TensorSpec) for operand in operands)


def _compute(node: fx.Node) -> Any:
    assert callable(node.target)
    args = map_leaves(node.args, _value_of)
    try:
        kwargs = map_leaves(dict(node.kwargs), _value_of)
        return node.target(*args, **kwargs) if kwargs else computed(node.target, *args)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ShapeError(f"{operation_of(node)} of {', '.join(map(describe, args))}: {error}") from error


def _value_of(leaf: Any) -> Any:
    return VALUE.of(leaf)
