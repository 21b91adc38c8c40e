"""Equalities between sizes, solved for one of their parts, which then is replaced wherever it occurs.

`N == M` replaces N by M; `H//4 == W//2` replaces one of the two; `H*W == 196` replaces the product. What the facts
about one name make of a formula (`passes.sizes.by_name`) comes first. What cannot be solved so is left out: the fact
itself still stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from passes.sizes.bounds import Ranges, Used
from passes.sizes.by_name import ByName
from passes.sizes.fact import Fact
from passes.sizes.formulas.formula import FloorDiv, Formula, Monomial, Symbol, Whole, terms_of, whole
from passes.sizes.formulas.polynomials import content
from passes.sizes.formulas.replacement import contains, replaced


@dataclass(slots=True)
class Eliminated:
    """What equalities replace, in the order in which they were met."""

    ranges: Ranges
    by_name: ByName
    values: list[tuple[Monomial, Whole, tuple[Fact, ...]]] = field(default_factory=list)

    def applied(self, formula: Whole, used: Used) -> Whole:
        """The formula with everything replaced; `used` gets the facts that this rests on."""
        formula = self.by_name.simplified(formula, used)
        for product, value, facts in self.values:
            if contains(formula, product):
                formula = self.by_name.simplified(replaced(formula, product, value), used)
                used += facts
        return formula

    def add(self, fact: Fact) -> None:
        """Takes an equality, as far as it can be solved."""
        assert isinstance(fact.formula, Formula)
        used: Used = [fact]
        formula = self.applied(fact.formula, used)
        if isinstance(formula, int):
            return
        shared = content(formula.terms)
        simple = whole({monomial: coefficient // shared for monomial, coefficient in formula.terms.items()})
        found = _unit(simple) if isinstance(simple, Formula) else None
        if found is not None:
            self.values.append((*found, tuple(used)))

    def limits(self) -> Iterator[tuple[Formula, Used]]:
        """What the ranges of replaced names say of what they are replaced by."""
        for product, value, facts in self.values:
            if len(product) == 1 and isinstance(product[0], Symbol):
                used: Used = list(facts)
                least = self.ranges.low(Formula({product: 1}), used)
                largest = self.ranges.high(Formula({product: 1}), used)
                reduced = self.applied(value, used)
                for slack in (reduced - int(least), *([int(largest) - reduced] if math.isfinite(largest) else [])):
                    if isinstance(slack, Formula):
                        yield slack, used


def _unit(formula: Formula) -> tuple[Monomial, Whole] | None:
    """A part that stands alone, once, and what it equals: a name before any other atom, and these before products."""
    candidates = [
        (len(monomial), not isinstance(monomial[0], Symbol), monomial, coefficient)
        for monomial, coefficient in formula.terms.items()
        if monomial and coefficient in (1, -1)
    ]
    for length, _, monomial, coefficient in sorted(candidates, key=lambda found: (found[0], found[1], str(found[2]))):
        value = -coefficient * (formula - coefficient * Formula({monomial: 1}))
        if contains(value, monomial) or (length > 1 and max(map(len, terms_of(value))) >= length):
            continue
        atom = monomial[0]
        if length > 1 or not isinstance(atom, FloorDiv) or not _grows(value, atom):
            return monomial, value
    return None


def _grows(value: Whole, floor: FloorDiv) -> bool:
    """Whether a value is no simpler than the division that it would replace."""
    return any(
        isinstance(atom, FloorDiv) and not _is_coarser(atom, floor) for terms in terms_of(value) for atom in terms
    )


def _is_coarser(atom: FloorDiv, floor: FloorDiv) -> bool:
    above, below = atom.denominator, floor.denominator
    return isinstance(above, int) and isinstance(below, int) and above > below


__all__ = ["Eliminated"]
