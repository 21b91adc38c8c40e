"""Between which numbers a formula lies, from the range of every name, and which facts that rests on.

Bounds are those of interval arithmetic: each monomial by itself, from below and from above. What they lose where terms
depend on each other (`H - H//2`), `passes.sizes.proof` wins back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from passes.sizes.fact import Fact, Origin
from passes.sizes.formulas.formula import (
    Atom,
    FloorDiv,
    Formula,
    Max,
    Min,
    Mod,
    Monomial,
    Rounded,
    Symbol,
    Whole,
    rounded,
)

# A dimension has at least so many elements, where nothing else is said of it.
LEAST_SIZE = 1

Used = list[Fact]  # what an answer rests on, as it is found


@dataclass(slots=True)
class Ranges:
    """The least and the largest size of names, with the facts that say so; LEAST_SIZE and no limit for all others."""

    least: dict[str, tuple[float, tuple[Fact, ...]]] = field(default_factory=dict)
    largest: dict[str, tuple[float, tuple[Fact, ...]]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[float, float]:
        """The least and the largest size of a name."""
        return self.least_of(name)[0], self.largest_of(name)[0]

    def narrow(self, name: str, least: float, largest: float, facts: Iterable[Fact]) -> None:
        """Says that a name lies between these, where that is new; the caller and the data may say less than any."""
        facts = tuple(facts)
        known, held = self.least_of(name)
        stated = held[0].origin is Origin.DEFAULT and facts[0].origin in (Origin.GIVEN, Origin.DATA)
        if least > known or (stated and least > -math.inf):
            self.least[name] = least if facts[0].origin is Origin.DATA else max(least, 0), facts
        if largest < self.largest_of(name)[0]:
            self.largest[name] = largest, facts

    # Bounds -------------------------------------------------------------------------------------

    def low(self, formula: Whole, used: Used) -> float:
        """A number that the formula never goes below; may be -inf."""
        if isinstance(formula, int):
            return formula
        total: float = 0
        for monomial, coefficient in formula.terms.items():
            if not monomial:
                total += coefficient
            elif coefficient > 0:
                total += coefficient * self._monomial(monomial, used, above=False)
            else:
                total += coefficient * self._monomial(monomial, used, above=True)
            if total == -math.inf:
                return total
        return total

    def high(self, formula: Whole, used: Used) -> float:
        """A number that the formula never goes above; may be inf."""
        return -self.low(-formula, used)

    def _monomial(self, monomial: Monomial, used: Used, *, above: bool) -> float:
        if len(monomial) == 1:
            return self._above(monomial[0], used) if above else self._below(monomial[0], used)
        lows = [self._below(atom, used) for atom in monomial]
        if min(lows) >= 0:
            if not above:
                return math.prod(lows)
            return _product([self._above(atom, used) for atom in monomial])
        low, high = lows[0], self._above(monomial[0], used)
        for atom, least in zip(monomial[1:], lows[1:], strict=True):
            largest = self._above(atom, used)
            corners = [_product((a, b)) for a in (low, high) for b in (least, largest)]
            low, high = min(corners), max(corners)
        return high if above else low

    def _below(self, atom: Atom, used: Used) -> float:
        kind = type(atom)
        if kind is Symbol:
            number, facts = self.least_of(atom.name)  # type: ignore[union-attr]
            used += facts
            return number
        if isinstance(atom, Max):
            return self._best(atom.parts, used, above=False)
        if isinstance(atom, Min):
            return min(self.low(part, used) for part in atom.parts)
        if isinstance(atom, Mod):
            return 0
        if isinstance(atom, Rounded):
            return self._rounded(atom, used)[0]
        assert isinstance(atom, FloorDiv)
        low = self.low(atom.numerator, used)
        if isinstance(atom.denominator, int):
            return low // atom.denominator if math.isfinite(low) else low
        if low < 0:
            by = max(self.low(atom.denominator, used), 1)
            return -math.inf if math.isinf(low) else low // by
        by = self.high(atom.denominator, used)
        return low // by if math.isfinite(by) and math.isfinite(low) else 0

    def _above(self, atom: Atom, used: Used) -> float:
        if isinstance(atom, Symbol):
            number, facts = self.largest_of(atom.name)
            used += facts
            return number
        if isinstance(atom, Max):
            return max(self.high(part, used) for part in atom.parts)
        if isinstance(atom, Min):
            return self._best(atom.parts, used, above=True)
        if isinstance(atom, Rounded):
            return self._rounded(atom, used)[1]
        if isinstance(atom, Mod):
            own: Used = []
            number = self.high(atom.numerator, own) if self.low(atom.numerator, own) >= 0 else math.inf
            limit = self.high(atom.denominator, used) - 1
            used += own if number < limit else []
            return min(number, limit)
        high = self.high(atom.numerator, used)
        if isinstance(atom.denominator, int):
            return high // atom.denominator if math.isfinite(high) else high
        by = max(self.low(atom.denominator, used), 1) if high >= 0 else self.high(atom.denominator, used)
        if math.isinf(high):
            return high
        return high // by if math.isfinite(by) else -1

    def _rounded(self, atom: Rounded, used: Used) -> tuple[float, float]:
        """The least and the largest that a rounded float is: rounding keeps the order."""
        bounds = atom.real.range(lambda size: (self.low(size, used), self.high(size, used)))  # type: ignore[arg-type]
        low, high = (bound if math.isinf(bound) else float(cast("int", rounded(atom.how, bound))) for bound in bounds)
        return low, high

    def _best(self, parts: tuple[Whole, ...], used: Used, *, above: bool) -> float:
        """The bound of an extreme that its best part alone gives."""
        found: list[tuple[float, Used]] = []
        for part in parts:
            own: Used = []
            found.append((-self.high(part, own) if above else self.low(part, own), own))
        number, facts = max(found, key=lambda bound: (bound[0], -len(bound[1])))
        used += facts
        return -number if above else number

    def least_of(self, name: str) -> tuple[float, tuple[Fact, ...]]:
        """The least size of a name, and the facts that say so."""
        known = self.least.get(name)
        if known is None:
            known = self.least[name] = LEAST_SIZE, (default_fact(name),)
        return known

    def largest_of(self, name: str) -> tuple[float, tuple[Fact, ...]]:
        """The largest size of a name, and the facts that say so; none where it may be any."""
        return self.largest.get(name, (math.inf, ()))


def default_fact(name: str) -> Fact:
    """That a name has at least LEAST_SIZE elements."""
    symbol = Formula.symbol(name)
    slack = symbol - LEAST_SIZE
    assert isinstance(slack, Formula)
    return Fact(slack, ">=", f"{name} >= {LEAST_SIZE}", Origin.DEFAULT)


def _product(factors: Iterable[float]) -> float:
    """The product, where nothing of infinitely many is nothing."""
    result: float = 1
    for factor in factors:
        result = 0 if factor == 0 or result == 0 else result * factor
    return result


__all__ = ["LEAST_SIZE", "Ranges", "Used", "default_fact"]
