"""Whether a formula is never below zero, shown from ranges and from facts.

Three steps are tried, each of which leaves a simpler formula that is never larger (up to a positive factor; what a
factor leaves below one does not matter, as sizes are whole):

    a // d      lies between (a - d + 1)/d and a/d, so that `H - 2*(H//2)` is at least `H - H`
    max, min    are one of their parts: any one, or each in turn; and lie on their side of the mean
    floor(x)    of a float lies between linear bounds of it: `floor(H*0.7)` is at most `717*H/1024`
    a fact      that is at least zero may be subtracted, as often as cancels one term

The number of steps is limited: what they do not show is unknown. (The same idea, with linear programs for the search,
is described for torch's and JAX's symbolic shapes; here questions have two or three terms, and plain search does.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from passes.sizes.bounds import Ranges, Used
from passes.sizes.formulas.formula import FloorDiv, Formula, Max, Min, Rounded, Whole
from passes.sizes.formulas.real import Real

# How many steps one question may take in all, and how many one after the other.
_STEPS = 40
_DEPTH = 4

# Rounding that does not go beyond the float on the side from which it is bounded: down from above, up from below.
_EXACT = frozenset({("floor", True), ("ceil", False)})
_FINE = 1024  # by how much linear bounds of floats are divided

Bound = tuple[Formula, Used]  # a formula that is at least zero, and what says so


class Proof:
    """The search for one answer."""

    def __init__(self, ranges: Ranges, bounds: Sequence[Bound]):
        self._ranges = ranges
        self._bounds = bounds
        self._left = _STEPS

    def shown(self, formula: Whole, used: Used, depth: int = _DEPTH) -> bool:
        """Whether the formula is at least zero; `used` gets what that rests on."""
        for bound, facts in self._bounds if depth == _DEPTH else ():
            beyond = formula - bound
            if isinstance(beyond, int) and beyond >= 0:
                used += facts
                return True
        own: Used = []
        if self._ranges.low(formula, own) >= 0:
            used += own
            return True
        if depth == 0 or isinstance(formula, int):
            return False
        for cases in self._simpler(formula):
            if self._left <= 0:
                return False
            self._left -= 1
            own = []
            if all(self.shown(case, own, depth - 1) for case in cases[0]):
                used += [*own, *cases[1]]
                return True
        return False

    def _simpler(self, formula: Formula) -> Iterator[tuple[list[Whole], Used]]:
        """Formulas that show this one, all of a list together, and what that rests on besides."""
        for monomial, coefficient in formula.terms.items():
            for index, atom in enumerate(monomial):
                if not isinstance(atom, (FloorDiv, Max, Min, Rounded)):
                    continue
                others = Formula({monomial[:index] + monomial[index + 1 :]: 1}) if len(monomial) > 1 else 1
                own: Used = []
                if self._ranges.low(others, own) < 0:
                    continue
                rest = formula - Formula({monomial: coefficient})
                if isinstance(atom, Rounded):
                    linear = self._linear(atom.real, own, above=coefficient < 0)
                    if linear is not None:
                        top, by = linear
                        off = 0 if (atom.how, coefficient < 0) in _EXACT else by if coefficient < 0 else -by
                        yield [by * rest + coefficient * others * (top + off) + (by - 1)], own
                    continue
                if isinstance(atom, FloorDiv):
                    if isinstance(atom.denominator, int):
                        yield [_relaxed(rest, coefficient, others, atom, atom.denominator)], own
                    continue
                parts = [rest + coefficient * others * part for part in atom.parts]
                if isinstance(atom, Max) == (coefficient > 0):
                    for part in parts:
                        yield [part], own
                    count = len(parts)  # the largest is no smaller than the mean
                    yield [sum(parts, start=count - 1)], own
                else:
                    yield parts, own
        for bound, facts in self._bounds:
            tried: set[tuple[int, int]] = set()
            for monomial, coefficient in bound.terms.items():
                mine = formula.terms.get(monomial, 0)
                if monomial and mine * coefficient > 0:
                    shared = math.gcd(mine, coefficient)
                    factors = abs(coefficient) // shared, abs(mine) // shared
                    if factors not in tried:
                        tried.add(factors)
                        yield [factors[0] * formula - factors[1] * bound + (factors[0] - 1)], facts

    def _linear(self, real: Real, used: Used, *, above: bool) -> tuple[Whole, int] | None:
        """A fraction of a formula that a float never goes above, or never below, where one is known."""
        operands: list[Any] = [
            operand.operands[0] if isinstance(operand, Real) and operand.function == "float" else operand
            for operand in real.operands
        ]
        if real.function == "sqrt":  # which is at most the number itself from 1 on
            (inside,) = operands
            bounded = above and isinstance(inside, Formula) and self._ranges.low(inside, used) >= 1
            return (inside, 1) if bounded else None
        if isinstance(operands[-1], Formula):
            operands.reverse()
        if real.function == "*" and isinstance(operands[0], Formula) and isinstance(operands[1], (int, float)):
            factor = float(operands[1])
            if 0 < factor < _FINE and self._ranges.low(operands[0], used) >= 0:
                times = math.ceil(factor * _FINE) if above else math.floor(factor * _FINE * (1 - 1 / _FINE**2))
                return times * operands[0], _FINE
        return None


def _relaxed(rest: Whole, coefficient: int, others: Whole, floor: FloorDiv, by: int) -> Whole:
    """A formula that is nowhere larger, without the division, times what its denominator needs."""
    factor = by // math.gcd(by, coefficient)
    top: Whole = floor.numerator if coefficient < 0 else floor.numerator - (by - 1)
    return factor * rest + (coefficient * factor // by) * others * top + (factor - 1)


def equality_bounds(equal: Sequence[Bound]) -> Iterator[Bound]:
    """What equalities to zero say from both sides."""
    for formula, used in equal:
        yield formula, used
        yield -formula, used


__all__ = ["Bound", "Proof", "equality_bounds"]
