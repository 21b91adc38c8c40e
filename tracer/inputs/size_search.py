"""Sizes at which facts hold: those nearest to some that are wanted.

A small search, not a proof: names that facts tie together are chosen one after the other, each from the nearest size
outwards. Where a fact leaves one name open, it is solved for it, if it can be; what is known of a name is known of one
that equals it, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, permutations

from passes.sizes.facts import Fact
from passes.sizes.formulas.formula import Formula, Symbol
from passes.sizes.formulas.replacement import rewritten
from passes.sizes.solving import LARGEST_PERIOD, at_least, joint_period
from passes.sizes.statement import solved_at

Sizes = dict[str, int]

_REACH = 8192  # how many sizes of one name are tried
_TRIES = 60_000  # how many sizes are tried in all, of names that depend on each other
_TRIES_OF_SOLVING = 64  # how many could be tried in the time that it takes to solve facts for one name
_ORDERS = 3  # with so many names, every order in which they may be chosen is tried


def nearest_sizes(
    wanted: Mapping[str, int],
    facts: Sequence[Fact],
    least: Mapping[str, int],
    fixed: Collection[str] = (),
    first: str | None = None,
    tries: int = _TRIES,
) -> Sizes | None:
    """The sizes nearest to those wanted at which all facts hold, none below its least; None where none were found.

    Those of `fixed` names stay as they are. Names that no fact is about are as wanted. That of the name `first` is as
    near as it can be, and the others follow it, as far as they must. `tries` is how long it is looked for.
    """
    found = dict(wanted)
    for names, about in _groups(list(wanted), [*facts, *_carried_over(facts)]):
        sizes = _Group(wanted, about, least, tries).nearest(names, fixed, first)
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


def _carried_over(facts: Sequence[Fact]) -> list[Fact]:
    """What equalities make of facts about one name: by `H == W`, `H % 300 == 0` is `W % 300 == 0`."""
    given = [(fact.formula, fact.relation) for fact in facts if isinstance(fact.formula, Formula)]
    values = [value for formula, relation in given if relation == "==" for value in _solved_for_a_name(formula)]
    known = dict.fromkeys(given)
    for _ in values:  # each equality leads on to one more name
        for name, value in values:
            about = [(formula, relation) for formula, relation in known if formula.symbols() == [name.name]]
            for formula, relation in about:
                carried = rewritten(formula, lambda atom, name=name, value=value: value if atom == name else None)  # type: ignore[misc]
                if isinstance(carried, Formula):
                    known.setdefault((carried, relation))
    return [Fact(formula, relation, "") for formula, relation in list(known)[len(dict.fromkeys(given)) :]]


def _solved_for_a_name(formula: Formula) -> Iterator[tuple[Symbol, Formula]]:
    """Each name that an equality of two names to zero gives, as a formula of the other one."""
    for monomial, times in formula.terms.items():
        if len(formula.symbols()) == 2 and len(monomial) == 1 and times in (1, -1):
            (atom,) = monomial
            value = -times * (formula - times * Formula({monomial: 1}))
            if isinstance(atom, Symbol) and isinstance(value, Formula) and atom.name not in value.symbols():
                yield atom, value


@dataclass(slots=True)
class _Group:
    """Names that depend on each other; how many more sizes may be tried is counted down, for each order anew."""

    wanted: Mapping[str, int]
    facts: Sequence[Fact]
    least: Mapping[str, int]
    tries: int
    _left: int = field(init=False, default=0)

    def nearest(self, names: Sequence[str], fixed: Collection[str], first: str | None) -> Sizes | None:
        kept = {name: self.wanted[name] for name in names if name in fixed}
        if not all(fact.holds(kept) for fact in self.facts if kept.keys() >= set(fact.formula.symbols())):
            return None
        free = [name for name in names if name not in kept]
        ahead = (first,) if first is not None and first in free else ()
        rest = [name for name in free if name not in ahead]
        orders = list(permutations(rest)) if len(rest) <= _ORDERS else [tuple(rest), tuple(reversed(rest))]
        found: list[Sizes] = []
        for order in orders:
            self._left = self.tries
            sizes = next(self._completed((*ahead, *order), kept), None)
            if sizes is not None:
                found.append(sizes)
        return min(
            found,
            key=lambda sizes: (*(abs(sizes[n] - self.wanted[n]) for n in ahead), self._distance(sizes)),
            default=None,
        )

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
            self._left -= 1
            if self._left < 0:
                return
            sizes = {**chosen, name: size}
            if all(fact.holds(sizes) for fact in ready):
                yield from self._completed(rest, sizes)

    def _candidates(self, name: str, facts: Sequence[Fact], chosen: Mapping[str, int]) -> Iterator[int]:
        """Sizes of a name, the nearest first: those at which the facts hold, as far as these can be solved for it."""
        self._left -= _TRIES_OF_SOLVING
        sizes = at_least(self.least[name])
        for fact in facts:
            found = solved_at(fact, name, chosen)
            if found is not None and joint_period((sizes, found)) <= LARGEST_PERIOD:
                sizes &= found
        yield from islice(sizes.outwards(self.wanted[name]), _REACH)


__all__ = ["Sizes", "nearest_sizes"]
