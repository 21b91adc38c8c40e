"""Passes in order, and what must hold between them.

A stage is what a program must be; its check is data here, runs after every pass on the pass's *result*, and
is cheap enough to be always on. A check that fails is a bug of a pass, never of the caller's model.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from passes.modules.lazy import is_lazy
from passes.program.program import SPEC, Program
from passes.torch_private import ConvNd, NormBase


class Stage(enum.IntEnum):
    """How far a program has come; each stage includes those before it."""

    CAPTURED = 1
    SHAPED = 2
    EAGER = 3
    LOWERED = 4


class ContractError(AssertionError):
    """A pass broke what it promises. Always a bug of the pass."""


@runtime_checkable
class Pass(Protocol):
    """One step. `run` works on the program in place and says how many things it changed."""

    @property
    def name(self) -> str: ...

    @property
    def requires(self) -> Stage: ...

    @property
    def ensures(self) -> Stage: ...

    def run(self, program: Program) -> int: ...


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass did: how many changes, and how long it took."""

    name: str
    changes: int
    seconds: float


class Pipeline:
    """Runs passes in order. Raises ContractError when built from passes that do not fit each other."""

    def __init__(self, passes: Sequence[Pass], start: Stage = Stage.CAPTURED):
        reached = start
        for step in passes:
            if step.requires > reached:
                raise ContractError(
                    f"{step.name} needs a program that is {step.requires.name.lower()}, not {reached.name.lower()}"
                )
            reached = step.ensures
        self.passes = list(passes)

    def run(self, program: Program) -> list[PassResult]:
        results = []
        for step in self.passes:
            started = time.perf_counter()
            changes = step.run(program)
            check_stage(program, step.ensures, step.name)
            results.append(PassResult(step.name, changes, time.perf_counter() - started))
        return results


def check_stage(program: Program, stage: Stage, after: str) -> None:
    """Checks everything that a program of this stage must be. Raises ContractError."""
    for required, check in STAGE_CHECKS:
        if required <= stage:
            fault = check(program)
            if fault is not None:
                raise ContractError(f"after {after}, the program is not {required.name.lower()}: {fault}")


def _graph_lints(program: Program) -> str | None:
    seen: set[object] = set()
    for node in program.graph.nodes:
        for operand in node.all_input_nodes:
            if operand not in seen:
                return f"{node.name} uses {operand.name} before it is computed"
        seen.add(node)
    return None


def _has_specs(program: Program) -> str | None:
    for node in program.graph.nodes:
        if SPEC not in node.meta:
            return f"{node.name} has no spec"
    return None


def _is_eager(program: Program) -> str | None:
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


STAGE_CHECKS: tuple[tuple[Stage, Callable[[Program], str | None]], ...] = (
    (Stage.CAPTURED, _graph_lints),
    (Stage.SHAPED, _has_specs),
    (Stage.EAGER, _is_eager),
)
