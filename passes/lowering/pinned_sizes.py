"""Named sizes that guards leave no choice: what they are, and that a file says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from passes.program.program import SPEC, Program, tensor_specs
from passes.sizes.dimension import Dim, Size, substitute
from passes.sizes.facts import Fact, Facts
from passes.sizes.formula import FloorDiv, Formula, Symbol
from passes.sizes.guards import GuardLog

if TYPE_CHECKING:
    from passes.onnx.lowered_model import LoweredModel

# How many sizes of one name are tried; a name that may have more is not pinned.
_MOST = 4096


def pinned_sizes(log: GuardLog) -> dict[str, int]:
    """The named sizes for which guards and constraints hold at one size only: `T == 64`, `T >= 64` with `T <= 64`,
    `T//64 == 1` with `T % 64 == 0` and `T < 128`."""
    pinned = log.facts.fixed()
    by_name: dict[str, list[Fact]] = {}
    for fact in log.facts.known():
        names = fact.formula.symbols()
        if len(names) == 1:
            by_name.setdefault(names[0], []).append(fact)
    pinned |= {name for name, facts in by_name.items() if _is_pinned(name, facts, log)}
    return {name: log.sampled[name] for name in log.sampled if name in pinned}


def _is_pinned(name: str, facts: list[Fact], log: GuardLog) -> bool:
    largest = min((bound for fact in facts for bound in _largest(name, fact)), default=_MOST)
    if largest >= _MOST:
        return False
    least = int(Facts(given=log.facts.given).low(Formula.symbol(name)))
    holding = (size for size in range(least, largest + 1) if all(fact.holds({name: size}) for fact in facts))
    return next(holding, None) == log.sampled[name] and next(holding, None) is None


def _largest(name: str, fact: Fact) -> Iterator[int]:
    """The largest size up to the limit at which a fact may hold, where the formula only falls or only grows."""
    formula, relation = fact.formula, fact.relation
    if not isinstance(formula, Formula):
        return
    signs = [coefficient > 0 for atoms, coefficient in formula.terms.items() if atoms]
    if relation == "!=" or not signs or any(sign != signs[0] for sign in signs) or not _grows(formula):
        return
    direction = 1 if signs[0] else -1
    if direction == 1 and relation == ">=":  # it holds from some size on
        return
    low, high = 0, _MOST
    while low < high:  # the last size at which the growing formula is not yet above 0
        middle = (low + high + 1) // 2
        if direction * formula.at({name: middle}) <= 0:
            low = middle
        else:
            high = middle - 1
    yield low


def _grows(formula: Formula) -> bool:
    """Whether every atom grows, or stays, with its symbol."""
    return all(
        isinstance(atom, Symbol)
        or (isinstance(atom, FloorDiv) and isinstance(atom.denominator, int) and _rises(atom.numerator))
        for atoms in formula.terms
        for atom in atoms
    )


def _rises(formula: Formula) -> bool:
    return _grows(formula) and all(coefficient > 0 for atoms, coefficient in formula.terms.items() if atoms)


def write_as_fixed(lowered: LoweredModel, program: Program, pinned: Mapping[str, int]) -> None:
    """Gives the file's inputs and outputs the sizes that are pinned, in place of their names."""
    graph = lowered.proto.graph
    for value in (*graph.input, *graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in pinned:
                axis.dim_value = pinned[axis.dim_param]
    specs = [*(node.meta[SPEC] for node in program.inputs()), *tensor_specs(program.output().meta[SPEC])]
    for value, spec in zip((*graph.input, *graph.output), specs, strict=True):
        for axis, size in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
            if isinstance(size, Dim) and not axis.HasField("dim_value"):
                fixed = substitute(size, partial(_size, size, pinned))
                if isinstance(fixed, int):
                    axis.dim_value = fixed
                elif axis.dim_param == str(size):
                    axis.dim_param = str(fixed)


def _size(formula: Dim, pinned: Mapping[str, int], name: str) -> Size:
    return pinned[name] if name in pinned else Dim.symbol(name, formula.log.sampled[name], formula.log)
