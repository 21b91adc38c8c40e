"""Sizes at which facts hold: those nearest to some that are wanted.

A small search, not a proof: names that facts tie together are chosen one after the other, each from the nearest size
outwards. Where a fact is linear in the last name that it leaves open, it bounds what is tried.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from passes.sizes.facts import Fact
from passes.sizes.formulas.formula import Formula, Symbol

Sizes = dict[str, int]

_REACH = 4096  # how many sizes of one name are tried
_BUDGET = 60_000  # how many sizes are tried in all, of names that depend on each other
_ORDERS = 3  # with so many names, every order in which they may be chosen is tried


def nearest_sizes(
    wanted: Mapping[str, int], facts: Sequence[Fact], least: Mapping[str, int], fixed: Collection[str] = ()
) -> Sizes | None:
    """The sizes nearest to those wanted at which all facts hold, none below its least; None where none were found.

    Those of `fixed` names stay as they are. Names that no fact is about are as wanted.
    """
    found = dict(wanted)
    for names, about in _groups(list(wanted), facts):
        sizes = _Group(wanted, about, least).nearest(names, fixed)
        if sizes is None:
            return None
        found.update(sizes)
    return found


def _groups(names: Sequence[str], facts: Sequence[Fact]) -> Iterator[tuple[list[str], list[Fact]]]:
    """The names that facts tie together, with these facts."""
    groups: list[set[str]] = []
    for fact in facts:
        tied = set(fact.formula.symbols())
        for group in [group for group in groups if group & tied]:
            groups.remove(group)
            tied |= group
        groups.append(tied)
    for group in groups:
        about = [fact for fact in facts if group.issuperset(fact.formula.symbols())]
        yield [name for name in names if name in group], about


@dataclass(slots=True)
class _Group:
    """Names that depend on each other; how many more sizes may be tried is counted down."""

    wanted: Mapping[str, int]
    facts: Sequence[Fact]
    least: Mapping[str, int]
    budget: int = field(default=_BUDGET)

    def nearest(self, names: Sequence[str], fixed: Collection[str]) -> Sizes | None:
        kept = {name: self.wanted[name] for name in names if name in fixed}
        if not all(fact.holds(kept) for fact in self.facts if kept.keys() >= set(fact.formula.symbols())):
            return None
        free = [name for name in names if name not in kept]
        orders = list(permutations(free)) if len(free) <= _ORDERS else [tuple(free), tuple(reversed(free))]
        found: list[Sizes] = []
        for order in orders:
            self.budget = _BUDGET
            sizes = next(self._completed(order, kept), None)
            if sizes is not None:
                found.append(sizes)
        return min(found, key=self._distance, default=None)

    def _distance(self, sizes: Mapping[str, int]) -> float:
        return sum(abs(math.log((size + 1) / (self.wanted[name] + 1))) for name, size in sizes.items())

    def _completed(self, order: Sequence[str], chosen: Sizes) -> Iterator[Sizes]:
        """The chosen sizes with those of the other names, the nearest first."""
        if not order:
            yield chosen
            return
        name, rest = order[0], order[1:]
        known = {*chosen, name}
        ready = [fact for fact in self.facts if name in (of := fact.formula.symbols()) and known.issuperset(of)]
        for size in self._candidates(name, ready, chosen):
            self.budget -= 1
            if self.budget < 0:
                return
            sizes = {**chosen, name: size}
            if all(fact.holds(sizes) for fact in ready):
                yield from self._completed(rest, sizes)

    def _candidates(self, name: str, facts: Sequence[Fact], chosen: Mapping[str, int]) -> Iterator[int]:
        """Sizes of a name, the nearest first, within the bounds of the facts that are linear in it."""
        low, high = self.least[name], math.inf
        for fact in facts:
            at_least, at_most = _linear_bounds(fact, name, chosen)
            low, high = max(low, at_least), min(high, at_most)
        if low > high:
            return
        start = int(min(max(self.wanted[name], low), high))
        yield start
        for distance in range(1, _REACH):
            if start - distance >= low:
                yield start - distance
            if start + distance <= high:
                yield start + distance


def _linear_bounds(fact: Fact, name: str, chosen: Mapping[str, int]) -> tuple[int, float]:
    """The least and the largest size of a name that a fact allows, at the chosen sizes of all others; 0 and no limit
    where it is not linear in it."""
    formula = fact.formula
    if fact.relation == "!=" or not isinstance(formula, Formula) or not _is_linear(formula, name):
        return 0, math.inf
    constant = formula.at({**chosen, name: 0})
    slope = formula.at({**chosen, name: 1}) - constant
    if slope == 0:
        return 0, math.inf
    low, high = (-(constant // slope), math.inf) if slope > 0 else (0, constant // -slope)
    if fact.relation == "==":
        low, high = -(constant // slope), -constant // slope  # the same where it divides, else none between
    return max(low, 0), high


def _is_linear(formula: Formula, name: str) -> bool:
    """Whether a name occurs in a formula at most once in each term, and by itself."""
    return all(
        [atom.name for atom in monomial if isinstance(atom, Symbol)].count(name) <= 1
        and all(isinstance(atom, Symbol) for atom in monomial)
        for monomial in formula.terms
    )


__all__ = ["Sizes", "nearest_sizes"]
