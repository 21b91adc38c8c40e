"""What torch's exporter decides about sizes while it follows a module, as guards of ours.

The exporter follows a module with symbols for dynamic sizes. Where a branch asks something of one, it answers from the
sample, as we do, and narrows the sizes for which its model holds; which it did is nowhere in the model it gives. So its
decisions are noted as it takes them, each with the line of the caller's that asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from passes.isolation.torch_state import Loan
from passes.sizes.dimension import Dim, Size
from passes.sizes.facts import Fact
from passes.sizes.formulas.formula import Formula
from passes.sizes.guards import GuardLog, Location
from passes.torch_private import decision_log, interpreted_frames

_NOT_THE_CALLERS = (str(Path(torch.__file__).parent) + os.sep, str(Path(__file__).parents[1]) + os.sep, "<")

# How the exporter spells where a symbol comes from: the size of one axis of one of a flat list of tensors.
_SIZE_OF_INPUT = re.compile(r"\[(\d+)\]\.size\(\)\[(\d+)\]$")


@dataclass(frozen=True, slots=True)
class Decision:
    """A condition that the exporter took for true; `axes` says, by symbol, which axis of which tensor it is."""

    condition: Any  # sympy's
    axes: Mapping[Any, tuple[int, int]]
    source: str | None

    def sizes(self, dynamic_axes: Sequence[Mapping[int, Formula]]) -> dict[Any, Formula] | None:
        """What the condition's symbols are of named sizes, or None where one is no dynamic size of an input."""
        found: dict[Any, Formula] = {}
        for symbol in self.condition.free_symbols:
            tensor, axis = self.axes.get(symbol, (-1, -1))
            if not 0 <= tensor < len(dynamic_axes) or axis not in dynamic_axes[tensor]:
                return None
            found[symbol] = dynamic_axes[tensor][axis]
        return found


@contextmanager
def noted_decisions(current_source: Callable[[], str | None]) -> Iterator[list[Decision]]:
    """The decisions that torch's exporter takes inside the block; `current_source` gives the caller's line."""
    place = decision_log()
    note = getattr(*place)
    decisions: list[Decision] = []

    def noting(self: Any, prefix: str, condition: Any, *args: Any, **kwargs: Any) -> None:
        if "suppressed" not in prefix:
            decisions.append(Decision(condition, _axes(self), current_source() or _followed_source()))
        note(self, prefix, condition, *args, **kwargs)

    with Loan([place]):
        setattr(*place, noting)
        yield decisions


def _followed_source() -> str | None:
    """The caller's line that torch's bytecode interpreter is at, which is no frame on the stack."""
    frames = [frame for frame in interpreted_frames() if not frame.filename.startswith(_NOT_THE_CALLERS)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None


def _axes(shape_env: Any) -> dict[Any, tuple[int, int]]:
    found: dict[Any, tuple[int, int]] = {}
    for symbol, sources in shape_env.var_to_sources.items():
        matches = [match for source in sources if (match := _SIZE_OF_INPUT.search(source.name))]
        if matches:
            found[symbol] = (int(matches[0][1]), int(matches[0][2]))
    return found


def record(decisions: Sequence[Decision], dynamic_axes: Sequence[Mapping[int, Formula]], log: GuardLog) -> None:
    """Makes the decisions about named sizes guards of the log.

    What formulas decide by themselves is none. A decision about sizes of the model's own making (of what `nonzero`
    gives) constrains no input.
    """
    for decision in decisions:
        sizes = decision.sizes(dynamic_axes)
        if not sizes:
            continue
        log.location = Location("", decision.source)
        for condition in _conjuncts(decision.condition):
            if not _holds(condition, {symbol: Dim(size, log) for symbol, size in sizes.items()}):
                _record_as_text(condition, sizes, log)


def _conjuncts(condition: Any) -> Sequence[Any]:
    import sympy  # type: ignore[import-untyped]

    return condition.args if isinstance(condition, sympy.And) else (condition,)


def _holds(condition: Any, dims: Mapping[Any, Dim]) -> bool:
    """Whether the condition holds by our own arithmetic, which records what is left open; False too where it has no
    such form."""
    relation = _RELATIONS.get(type(condition).__name__)
    if relation is None:
        return False
    sides = [_formula(side, dims) for side in condition.args]
    return all(side is not None for side in sides) and relation(*sides)


_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "Equality": lambda left, right: bool(left == right),
    "Unequality": lambda left, right: bool(left != right),
    "GreaterThan": lambda left, right: bool(left >= right),
    "StrictGreaterThan": lambda left, right: bool(left > right),
    "LessThan": lambda left, right: bool(left <= right),
    "StrictLessThan": lambda left, right: bool(left < right),
}


def _formula(expression: Any, dims: Mapping[Any, Dim]) -> Size | None:
    """sympy's formula as ours, or None where it is no polynomial with floor divisions and remainders."""
    if expression in dims:
        return dims[expression]
    if expression.is_Integer:
        return int(expression)
    parts = [_formula(part, dims) for part in expression.args]
    combine = _OPERATIONS.get(type(expression).__name__)
    if combine is None or any(part is None for part in parts):
        return None
    found: Size = combine(parts)
    return found


def _product(parts: Sequence[Any]) -> Any:
    result: Any = 1
    for part in parts:
        result = result * part
    return result


_OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "Add": sum,
    "Mul": _product,
    "FloorDiv": lambda parts: parts[0] // parts[1],
    "CleanDiv": lambda parts: parts[0] // parts[1],
    "Mod": lambda parts: parts[0] % parts[1],
    "PythonMod": lambda parts: parts[0] % parts[1],
}


@dataclass(frozen=True)
class _Condition:
    """A condition that has no form among ours, as a formula that is 1 where it holds and 0 elsewhere."""

    condition: Any
    sizes: Mapping[Any, Formula]

    def at(self, sizes: Mapping[str, int]) -> int:
        return int(bool(self.condition.subs({symbol: size.at(sizes) for symbol, size in self.sizes.items()})))

    def symbols(self) -> list[str]:
        return sorted({name for size in self.sizes.values() for name in size.symbols()})


def _record_as_text(condition: Any, sizes: Mapping[Any, Formula], log: GuardLog) -> None:
    import sympy

    known = {name: sympy.Symbol(name) for size in sizes.values() for name in size.symbols()}
    text = str(condition.subs({symbol: size.at(known) for symbol, size in sizes.items()}))
    log.facts.assume(Fact(_Condition(condition, sizes), "!=", text))
    log.record(text, dynamic=True)


def line_that_fixes(
    decisions: Sequence[Decision], dynamic_axes: Sequence[Mapping[int, Formula]], names: Sequence[str]
) -> str | None:
    """The caller's line at which the exporter fixed the size of these names, as far as it can be told."""
    import sympy

    for decision in decisions:
        sizes = decision.sizes(dynamic_axes) or {}
        about = {name for size in sizes.values() for name in size.symbols()}
        if isinstance(decision.condition, sympy.Equality) and about == set(names):
            return decision.source
    return None
