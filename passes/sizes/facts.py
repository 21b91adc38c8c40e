"""What is known of named sizes, and what follows from it: yes, no, or unknown.

Known are a least value of each name and the facts that were assumed. An answer that these do not decide is UNKNOWN, and
stays so: it is for whoever asks to refuse, or to assume it and say so.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from passes.sizes.formula import FloorDiv, Formula, Mod, Monomial, Symbol, Whole, whole

# A dimension has at least so many elements, where nothing else is said of it.
LEAST_SIZE = 1


class Answer(enum.Enum):
    """What is known of a statement."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    def __bool__(self) -> bool:
        raise TypeError("an answer is compared with YES, NO or UNKNOWN; unknown is neither true nor false")


class Origin(enum.Enum):
    """Where a fact comes from."""

    DEFAULT = "default"  # every name is at least LEAST_SIZE, where nothing else is said of it
    GIVEN = "given"  # the caller promised it
    GUARD = "guard"  # a decision at the sampled sizes assumed it


class Evaluated(Protocol):
    """What a fact is about: something that has a value at given sizes. A `Formula` is one."""

    def at(self, sizes: Mapping[str, int], /) -> int: ...

    def symbols(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Fact:
    """That a formula has a relation (`==`, `!=`, `>=`) to zero; `condition` says it in the words of a guard."""

    formula: Evaluated
    relation: str
    condition: str
    origin: Origin = Origin.GUARD

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether it is so at these sizes; not where it divides by a size of 0."""
        return holds(self.formula, self.relation, sizes)


_RELATIONS = {"==": int.__eq__, "!=": int.__ne__, ">=": int.__ge__}


def holds(formula: Evaluated, relation: str, sizes: Mapping[str, int]) -> bool:
    """Whether a formula has that relation to zero at these sizes; not where it divides by a size of 0."""
    try:
        return bool(_RELATIONS[relation](formula.at(sizes), 0))
    except ZeroDivisionError:
        return False


@dataclass(slots=True)
class Facts:
    """The facts that were assumed, in their order, and the answers that follow.

    `given` are those that the caller promised: they hold from the start, and no guard says them again.
    """

    assumed: list[Fact] = field(default_factory=list)
    given: tuple[Fact, ...] = ()

    # Answers ------------------------------------------------------------------------------------

    def is_zero(self, formula: Whole) -> Answer:
        """Whether a formula is 0 at all sizes (YES), at none (NO), or neither is known."""
        if isinstance(formula, int):
            return Answer.NO if formula else Answer.YES
        if lower_bound(formula) > 0 or lower_bound(-formula) > 0:
            return Answer.NO
        shared = math.gcd(*(coefficient for monomial, coefficient in formula.terms.items() if monomial))
        if formula.constant % shared:
            return Answer.NO
        for fact in self.known():
            if fact.relation != ">=" and fact.formula in (formula, -formula):
                return Answer.YES if fact.relation == "==" else Answer.NO
        return Answer.UNKNOWN

    def is_at_least_zero(self, formula: Whole) -> Answer:
        """Whether a formula is 0 or more at all sizes (YES), below 0 at all (NO), or neither is known."""
        if isinstance(formula, int):
            return Answer.YES if formula >= 0 else Answer.NO
        below = -formula - 1
        if lower_bound(formula) >= 0:
            return Answer.YES
        if lower_bound(below) >= 0:
            return Answer.NO
        if self.implies(solved(formula)):
            return Answer.YES
        return Answer.NO if isinstance(below, Formula) and self.implies(solved(below)) else Answer.UNKNOWN

    def implies(self, formula: Formula) -> bool:
        """Whether an assumed bound shows that a formula is 0 or more."""
        return any(lower_bound(formula - known) >= 0 for known in self._bounds())

    def _bounds(self) -> list[Formula]:
        return [fact.formula for fact in self.known() if fact.relation == ">=" and isinstance(fact.formula, Formula)]

    def known(self) -> Iterator[Fact]:
        """What was promised, then what was assumed."""
        yield from self.given
        yield from self.assumed

    # Assumptions --------------------------------------------------------------------------------

    def assume(self, fact: Fact) -> list[Fact]:
        """Takes a fact for granted; returns the facts that it implies, which are dropped."""
        implied: list[Fact] = []
        if fact.relation == ">=" and isinstance(fact.formula, Formula):
            implied = [
                known
                for known in self.assumed
                if known.relation == ">="
                and isinstance(known.formula, Formula)
                and lower_bound(known.formula - fact.formula) >= 0
            ]
        self.assumed = [known for known in self.assumed if known not in implied]
        self.assumed.append(fact)
        return implied

    def hold(self, sizes: Mapping[str, int]) -> bool:
        """Whether every fact holds at the given sizes."""
        return all(fact.holds(sizes) for fact in self.known())

    def fixed(self) -> set[str]:
        """The dimensions that the facts leave only one size: `T == 64`, `T == U` with such a U."""
        equalities = [
            set(fact.formula.symbols())
            for fact in self.known()
            if fact.relation == "=="
            and isinstance(fact.formula, Formula)
            and all(len(atoms) <= 1 and isinstance(atom, Symbol) for atoms in fact.formula.terms for atom in atoms)
        ]
        fixed: set[str] = set()
        while more := {name for names in equalities if len(names - fixed) == 1 for name in names - fixed}:
            fixed |= more
        return fixed


# Bounds ---------------------------------------------------------------------------------------------


def lower_bound(formula: Whole) -> float:
    """A number that a formula never goes below, from every name being at least LEAST_SIZE; may be -inf."""
    if isinstance(formula, int):
        return formula
    return sum(
        (coefficient * _monomial_bound(monomial) if coefficient > 0 else -math.inf) if monomial else coefficient
        for monomial, coefficient in formula.terms.items()
    )


def _monomial_bound(monomial: Monomial) -> float:
    bounds = [_atom_bound(atom) for atom in monomial]
    return math.prod(bounds) if min(bounds) >= 0 else -math.inf


def _atom_bound(atom: Symbol | FloorDiv | Mod) -> float:
    if isinstance(atom, Symbol):
        return LEAST_SIZE
    if isinstance(atom, Mod):  # by what is positive
        return 0
    below = lower_bound(atom.numerator)
    if below < 0:
        return -math.inf
    return below // atom.denominator if isinstance(atom.denominator, int) else 0


def solved(slack: Formula) -> Formula:
    """An equivalent of `slack >= 0` without its outer division: `2*(H//8) - 1 >= 0` is `H - 8 >= 0`."""
    while True:
        symbolic = {monomial: coefficient for monomial, coefficient in slack.terms.items() if monomial}
        ((monomial, coefficient),) = symbolic.items() if len(symbolic) == 1 else (((), 0),)
        if len(monomial) != 1 or coefficient <= 0:
            return slack
        least = -(slack.constant // coefficient)
        atom = monomial[0]
        if isinstance(atom, FloorDiv) and isinstance(atom.denominator, int):
            without = atom.numerator - least * atom.denominator
        elif coefficient > 1:
            without = whole({monomial: 1, (): -least})
        else:
            return slack
        if not isinstance(without, Formula):
            return slack
        slack = without


__all__ = ["LEAST_SIZE", "Answer", "Fact", "Facts", "Origin", "holds", "lower_bound", "solved"]
