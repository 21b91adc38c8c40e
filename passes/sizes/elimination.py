"""Equalities between sizes, solved for one of their parts, which then is replaced wherever it occurs.

`N == M` replaces N by M; `H % 4 == 1` replaces H by `4*k + 1` for a size k of its own, so that every division by 2 or 4
is done; `H//4 == 7*(H//28)` replaces H//4. What cannot be solved so is left out: the fact itself still stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from passes.sizes.bounds import Ranges, Used
from passes.sizes.fact import Fact
from passes.sizes.formulas.extremes import maximum, minimum
from passes.sizes.formulas.formula import (
    Atom,
    FloorDiv,
    Formula,
    Max,
    Min,
    Rounded,
    Symbol,
    Whole,
    divided,
    parts_of,
    rounded,
    terms_of,
)

# By how much a name may be divided for its remainder to be looked for.
_LARGEST_PERIOD = 512


def rewritten(size: Whole, value_of: Callable[[Atom], Whole | None]) -> Whole:
    """The formula with `value_of(atom)` for every atom, computed anew; None leaves an atom as it is."""
    if isinstance(size, int):
        return size
    total: Whole = 0
    for monomial, coefficient in size.terms.items():
        term: Whole = coefficient
        for atom in monomial:
            term = term * _rewritten_atom(atom, value_of)
        total = total + term
    return total


def _rewritten_atom(atom: Atom, value_of: Callable[[Atom], Whole | None]) -> Whole:
    value = value_of(atom)
    if value is not None:
        return value
    if isinstance(atom, Symbol):
        return Formula({(atom,): 1})
    if isinstance(atom, Rounded):
        return rounded(atom.how, atom.real.rewritten(lambda size: rewritten(size, value_of)))
    parts = [rewritten(part, value_of) for part in parts_of(atom)]
    if isinstance(atom, (Max, Min)):
        return maximum(*parts) if isinstance(atom, Max) else minimum(*parts)
    if isinstance(parts[1], int) and parts[1] <= 0:  # there are no such sizes
        return Formula({(atom,): 1})
    return divided(parts[0], parts[1])[not isinstance(atom, FloorDiv)]


@dataclass(slots=True)
class Eliminated:
    """What equalities replace, in the order in which they were met; `ranges` gets those of the sizes they bring."""

    ranges: Ranges
    values: list[tuple[Atom, Whole, Fact]] = field(default_factory=list)

    def applied(self, formula: Whole, used: Used) -> Whole:
        """The formula with everything replaced; `used` gets the facts that this rests on."""
        for atom, value, fact in self.values:
            if isinstance(formula, int):
                break
            if _contains(formula, atom):
                formula = rewritten(formula, lambda found, atom=atom, value=value: value if found == atom else None)  # type: ignore[misc]
                used.append(fact)
        return formula

    def add(self, fact: Fact) -> None:
        """Takes an equality, as far as it can be solved."""
        assert isinstance(fact.formula, Formula)
        used: Used = []
        formula = self.applied(fact.formula, used)
        if isinstance(formula, int):
            return
        found = self._unit(formula) or self._remainder(formula, [fact, *used])
        if found is not None:
            self.values.append((*found, fact))

    def limits(self) -> Iterator[tuple[Formula, Used]]:
        """What the ranges of replaced names say of what they are replaced by."""
        for atom, value, fact in self.values:
            if isinstance(atom, Symbol):
                used: Used = [fact]
                least = self.ranges.low(Formula({(atom,): 1}), used)
                largest = self.ranges.high(Formula({(atom,): 1}), used)
                reduced = self.applied(value, used)
                for slack in (reduced - int(least), *([int(largest) - reduced] if math.isfinite(largest) else [])):
                    if isinstance(slack, Formula):
                        yield slack, used

    def _unit(self, formula: Formula) -> tuple[Atom, Whole] | None:
        """An atom that stands alone, once, and what it equals; a name before any other."""
        candidates = [
            (not isinstance(monomial[0], Symbol), monomial[0], coefficient)
            for monomial, coefficient in formula.terms.items()
            if len(monomial) == 1 and coefficient in (1, -1)
        ]
        for _, atom, coefficient in sorted(candidates, key=lambda found: (found[0], str(found[1]))):
            value = -coefficient * (formula - coefficient * Formula({(atom,): 1}))
            if not _contains(value, atom) and not (isinstance(atom, FloorDiv) and _grows(value, atom)):
                return atom, value
        return None

    def _remainder(self, formula: Formula, facts: Used) -> tuple[Atom, Whole] | None:
        """A name that leaves one remainder by a number, and what it is then."""
        symbolic = {monomial: coefficient for monomial, coefficient in formula.terms.items() if monomial}
        names = [monomial[0] for monomial in symbolic if len(monomial) == 1 and isinstance(monomial[0], Symbol)]
        floors = [monomial[0] for monomial in symbolic if len(monomial) == 1 and isinstance(monomial[0], FloorDiv)]
        if len(symbolic) != 2 or len(names) != 1 or len(floors) != 1:
            return None
        name, floor = names[0], floors[0]
        period = floor.denominator
        slope = floor.numerator.terms.get((name,), 0)
        if not isinstance(period, int) or period > _LARGEST_PERIOD or not floor.numerator.terms.keys() <= {(name,), ()}:
            return None
        outside, inside = symbolic[(name,)], symbolic[(floor,)]
        if outside * period + inside * slope:
            return None
        remainders = [
            rest
            for rest in range(period)
            if outside * rest + inside * ((slope * rest + floor.numerator.constant) // period) + formula.constant == 0
        ]
        if len(remainders) != 1:
            return None
        part = Symbol(f"{name}/{period}")
        least, largest = self.ranges.of(name.name)
        low: Used = []
        self.ranges.low(Formula.symbol(name.name), low)
        top = (largest - remainders[0]) // period if math.isfinite(largest) else largest
        high: Used = []
        self.ranges.high(Formula.symbol(name.name), high)
        self.ranges.least[part.name] = -((remainders[0] - least) // period), (*low, *facts)
        if math.isfinite(top):
            self.ranges.largest[part.name] = top, (*high, *facts)
        return name, period * Formula({(part,): 1}) + remainders[0]


def _contains(size: Whole, atom: Atom) -> bool:
    return any(
        found == atom or (not isinstance(found, Symbol) and any(_contains(part, atom) for part in parts_of(found)))
        for monomial in terms_of(size)
        for found in monomial
    )


def _grows(value: Whole, floor: FloorDiv) -> bool:
    """Whether a value is no simpler than the division that it would replace."""
    return any(
        isinstance(atom, FloorDiv) and not _is_coarser(atom, floor) for terms in terms_of(value) for atom in terms
    )


def _is_coarser(atom: FloorDiv, floor: FloorDiv) -> bool:
    above, below = atom.denominator, floor.denominator
    return isinstance(above, int) and isinstance(below, int) and above > below


__all__ = ["Eliminated", "rewritten"]
