"""What a program must be at each stage, as a table that is checked whenever a pass gives one.

Each row is cheap enough to be always on. A row that does not hold is a bug of a pass, never of the caller's model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from passes.modules.lazy import is_lazy
from passes.program.notes import FAULT, VALUE
from passes.program.program import Program
from passes.program.regions import misplaced
from passes.program.stages import Eager, Lowered, Shaped
from passes.torch_private import ConvNd, NormBase


class ContractError(AssertionError):
    """A pass broke what it promises. Always a bug of the pass."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a program of a stage must be: `broken` says where it is not so, or None."""

    stage: type[Program]
    what: str
    broken: Callable[[Any], str | None]


def _out_of_order(program: Program) -> str | None:
    seen: set[object] = set()
    for node in program.graph.nodes:
        for operand in node.all_input_nodes:
            if operand not in seen:
                return f"{node.name} uses {operand.name} before it is computed"
        seen.add(node)
    return None


def _misplaced(program: Program) -> str | None:
    return misplaced(program.graph)


def _without_target(program: Program) -> str | None:
    for node in program.graph.nodes:
        if node.op == "call_module" and node.target != program.whole:
            try:
                program.module(str(node.target))
            except KeyError:
                return f"{node.name} calls {node.target}, which is no module"
    return None


def _without_value(program: Program) -> str | None:
    for node in program.graph.nodes:
        if not VALUE.on(node):
            return f"{node.name} has no value"
    return None


def _with_fault(program: Program) -> str | None:
    return next((f"{node.name} has a fault" for node in program.graph.nodes if FAULT.on(node)), None)


def _invalid(program: Lowered) -> None:
    """Raises ExportError, which a caller can act on: there may be another route, or another opset."""
    from passes.onnx.validity import check_model  # with it onnx, which only who lowers needs

    check_model(program.model, program.specs, program.log)


def _uninitialised(program: Eager) -> str | None:
    """What is stated of a layer's sizes is ours where it was lazy; of any other the caller's, who may have replaced
    its weights by others (pruning, grown heads): those are then what it is."""
    resolved = {id(program.module(path)) for path in program.lazies}
    checked: set[str] = set()
    for node in program.graph.nodes:
        if node.op != "call_module" or node.target in checked:
            continue
        checked.add(str(node.target))
        module = program.module(str(node.target))
        if is_lazy(module):
            return f"{node.target} is uninitialised"
        fault = _attribute_fault(module) if id(module) in resolved else None
        if fault is not None:
            return f"{node.target}: {fault}"
    return None


# Which axis of which tensor an attribute of a torch.nn class states, where the class is not grouped.
_STATED_SIZES: tuple[tuple[type[nn.Module], str, str, int], ...] = (
    (nn.Linear, "in_features", "weight", 1),
    (nn.Linear, "out_features", "weight", 0),
    (NormBase, "num_features", "weight", 0),
    (NormBase, "num_features", "running_mean", 0),
)


def _attribute_fault(module: nn.Module) -> str | None:
    for cls, attribute, tensor_name, axis in _STATED_SIZES:
        if isinstance(module, cls):
            tensor = getattr(module, tensor_name, None)
            if tensor is not None and tensor.shape[axis] != getattr(module, attribute):
                return f"{attribute} is {getattr(module, attribute)}, but {tensor_name} has {tensor.shape[axis]}"
    if isinstance(module, ConvNd):
        per_group = module.weight.shape[0 if module.transposed else 1]
        stated = module.in_channels if module.transposed else module.in_channels // module.groups
        if per_group != stated:
            return f"in_channels is {module.in_channels}, but the weight is {tuple(module.weight.shape)}"
    return None


LEGAL: tuple[Rule, ...] = (
    Rule(Program, "operands come before what uses them", _out_of_order),
    Rule(Program, "what is computed in a region stays in it, but for what the region gives", _misplaced),
    Rule(Program, "every module that is called is there", _without_target),
    Rule(Shaped, "every node has a value", _without_value),
    Rule(Shaped, "no node has a fault", _with_fault),
    Rule(Eager, "every node has a value", _without_value),
    Rule(Eager, "every module is initialised, and its attributes agree with its weights", _uninitialised),
    Rule(Lowered, "its ONNX graph is valid, and every size that onnx infers is the propagated one", _invalid),
)


def check(program: Program, after: str) -> None:
    """Checks everything that a program of its stage must be. Raises ContractError.

    `after` is the pass that gave it.
    """
    _check(program, after, [rule for rule in LEGAL if isinstance(program, rule.stage)])


def check_graph(program: Program, after: str) -> None:
    """Checks what a program of every stage must be, before its nodes have values again. Raises ContractError."""
    _check(program, after, [rule for rule in LEGAL if rule.stage is Program])


def _check(program: Program, after: str, rules: list[Rule]) -> None:
    for rule in rules:
        fault = rule.broken(program)
        if fault is not None:
            stage = type(program).__name__.lower()
            raise ContractError(f"after {after}, the program is not {stage}: {fault}")


__all__ = ["LEGAL", "ContractError", "Rule", "check", "check_graph"]
