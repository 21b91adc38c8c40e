"""Named sizes that guards leave no choice: what they are, and that a file says so."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from passes.program.notes import VALUE
from passes.program.program import Program, tensor_specs
from passes.sizes.dimension import Dim
from passes.sizes.formulas.formula import Atom, Symbol
from passes.sizes.formulas.replacement import rewritten
from passes.sizes.guards import GuardLog
from passes.sizes.statement import admissible

if TYPE_CHECKING:
    from passes.onnx.lowered_model import LoweredModel

# How many sizes of one name are tried; a name that may have more is not pinned.
_MOST = 4096


def pinned_sizes(log: GuardLog) -> dict[str, int]:
    """The named sizes for which guards and constraints hold at one size only: `T == 64`, `T >= 64` with `T <= 64`,
    `T//64 == 1` with `T % 64 == 0` and `T < 128`."""
    if not log.facts.given and not log.facts.assumed:
        return {}
    return {name: size for name, size in log.sampled.items() if _is_pinned(name, log)}


def _is_pinned(name: str, log: GuardLog) -> bool:
    found = admissible(log.facts, name)
    if found.lower is None or found.upper is None or found.upper - found.lower >= _MOST:
        return False
    others = [fact for fact in found.open if fact.formula.symbols() == [name]]
    left = (size for size in found.sizes.sizes() if all(fact.holds({name: size}) for fact in others))
    return next(left, None) == log.sampled[name] and next(left, None) is None


def write_as_fixed(lowered: LoweredModel, program: Program, pinned: Mapping[str, int]) -> None:
    """Gives the file's inputs and outputs the sizes that are pinned, in place of their names."""
    graph = lowered.proto.graph
    for value in (*graph.input, *graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in pinned:
                axis.dim_value = pinned[axis.dim_param]
    specs = [*(VALUE.of(node) for node in program.inputs()), *tensor_specs(VALUE.of(program.output()))]
    for value, spec in zip((*graph.input, *graph.output), specs, strict=True):
        for axis, size in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
            if isinstance(size, Dim) and not axis.HasField("dim_value"):
                fixed = rewritten(size.formula, partial(_pinned, pinned))
                if isinstance(fixed, int):
                    axis.dim_value = fixed
                elif axis.dim_param == str(size):
                    axis.dim_param = str(fixed)


def _pinned(pinned: Mapping[str, int], atom: Atom) -> int | None:
    return pinned.get(atom.name) if isinstance(atom, Symbol) else None
