"""What is known of named sizes, and what follows from it: yes, no, or unknown.

Known are a least size of each name, what the caller promised, and the facts that were assumed. An answer that these do
not decide is UNKNOWN, and stays so: it is for whoever asks to refuse, or to assume it and say so. An answer comes with
what it rests on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from passes.sizes.bounds import LEAST_SIZE, Ranges, Used
from passes.sizes.by_name import ByName
from passes.sizes.elimination import Eliminated
from passes.sizes.fact import Answer, Fact, Origin, holds, solved
from passes.sizes.formulas.formula import Atom, FloorDiv, Formula, Monomial, Symbol, Whole, divided
from passes.sizes.formulas.polynomials import common_monomial, content, without
from passes.sizes.proof import Bound, Proof, equality_bounds
from passes.sizes.solving import LARGEST_PERIOD, joint_period, solutions


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer, and the facts that it rests on; none for one that needs none, or that is unknown."""

    answer: Answer
    used: tuple[Fact, ...] = ()


_UNKNOWN = Decision(Answer.UNKNOWN)
_PLAIN = {True: Decision(Answer.YES), False: Decision(Answer.NO)}
_OPPOSITE = {Answer.YES: Answer.NO, Answer.NO: Answer.YES, Answer.UNKNOWN: Answer.UNKNOWN}


@dataclass(slots=True)
class Facts:
    """The facts that were assumed, in their order, and the answers that follow.

    `given` are those that the caller promised: they hold from the start, and no guard says them again. `of_data` are
    about sizes that come from data, which nobody chooses.
    """

    assumed: list[Fact] = field(default_factory=list)
    given: tuple[Fact, ...] = ()
    of_data: tuple[Fact, ...] = ()
    _read: tuple[list[Fact], int, tuple[Fact, ...], tuple[Fact, ...]] | None = field(
        default=None, compare=False, repr=False
    )
    _known: _Known | None = field(default=None, compare=False, repr=False)

    # Answers ------------------------------------------------------------------------------------

    def decide(self, formula: Whole, relation: str) -> Decision:
        """Whether a formula has the relation (`==`, `!=`, `>=`) to zero at all sizes (YES), at none (NO), or neither
        is known; and which facts that rests on."""
        if isinstance(formula, int):
            return _PLAIN[formula >= 0 if relation == ">=" else (formula == 0) == (relation == "==")]
        if relation == "!=":
            equal = self.decide(formula, "==")
            return Decision(_OPPOSITE[equal.answer], equal.used)
        return self._state().decided(formula, relation)

    def divided(self, numerator: Whole, denominator: Whole) -> tuple[Whole, Whole, Used]:
        """`(numerator // denominator, numerator % denominator)` for a denominator that is positive, and what that rests
        on: a division that leaves nothing, by what is known, is done."""
        quotient, rest = divided(numerator, denominator)
        if rest != 0 and isinstance(rest, Formula):
            used: Used = []
            state = self._state()
            above, below = state.reduced(numerator, used), state.reduced(denominator, used)
            if used and (isinstance(below, Formula) or below > 0):
                exact, left = divided(above, below)
                if left == 0:
                    return exact, 0, used
        return quotient, rest, []

    def low(self, formula: Whole) -> float:
        """A number that a formula never goes below; may be -inf."""
        return self._state().ranges.low(formula, [])

    def reduced(self, formula: Formula) -> Whole:
        """The formula with what equalities say of its names: a number, where they say it all."""
        return self._state().reduced(formula, [])

    def least_by(self, name: str) -> tuple[Fact, ...]:
        """The facts that say which size of a name is the least."""
        return self._state().ranges.least_of(name)[1]

    def alone(self, name: str) -> Iterator[tuple[Formula, Fact]]:
        """What the facts say of a name by itself, each with the fact: one about several names, too, where what is known
        of the others leaves this one."""
        return self._state().claims_of(name)

    def known(self) -> Iterator[Fact]:
        """What was promised of sizes that the caller chooses, then what was assumed of them."""
        yield from self.given
        yield from self.assumed

    def _state(self) -> _Known:
        """What is known, made ready for questions; anew where a fact was added."""
        known, read = self._known, self._read
        if (
            known is None
            or read is None
            or read[0] is not self.assumed
            or read[1] != len(self.assumed)
            or read[2] is not self.given
            or read[3] is not self.of_data
        ):
            known = self._known = _Known([*self.known(), *self.of_data])
            self._read = (self.assumed, len(self.assumed), self.given, self.of_data)
        return known

    def parted(self, formula: Formula) -> tuple[list[Formula], Used]:
        """Equalities to zero that say together what the formula's says, and what that rests on: without factors that
        are never zero, and of products whose factors are in order (`A*B == a*b` with `A >= a >= 0`, `B >= b >= 0` and
        A and B positive) factor by factor."""
        used: Used = []
        shared = content(formula.terms)
        factors = tuple(atom for atom in common_monomial(formula.terms) if self._shows(Formula({(atom,): 1}) - 1, used))
        reduced: dict[Monomial, int] = {}
        for monomial, coefficient in formula.terms.items():
            left = without(monomial, factors)
            assert left is not None
            reduced[left] = coefficient // shared
        simple = Formula(reduced) if factors or shared > 1 else formula
        products = sorted(((number, monomial) for monomial, number in simple.terms.items()), key=lambda term: term[0])
        if [len(monomial) for _, monomial in products] != [2, 2] or products[0][0] >= 0:
            return [simple], used
        if products[1][0] != 1:  # the other way round, so that the finer product counts once
            products = [(-number, monomial) for number, monomial in reversed(products)]
        small, large = products
        if large[0] != 1:
            return [simple], used
        for first, second in (large[1], large[1][::-1]):
            parts = [
                Formula({(above,): 1}) - _steps(below, above) * Formula({(below,): 1})
                for above, below in zip((first, second), small[1], strict=True)
            ]
            times = math.prod(_steps(below, above) for above, below in zip((first, second), small[1], strict=True))
            if (
                times == -small[0]
                and all(self._shows(part, used) for part in parts)
                and all(self._shows(Formula({(atom,): 1}) - 1, used) for atom in (first, second))
                and all(self._shows(Formula({(atom,): 1}), used) for atom in small[1])
            ):
                return [part for part in parts if isinstance(part, Formula)], used
        return [simple], used

    def _shows(self, slack: Whole, used: Used) -> bool:
        decision = self.decide(slack, ">=")
        used += decision.used
        return decision.answer is Answer.YES

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
                and _is_weaker(known.formula, fact.formula)
            ]
        self.assumed = [*(known for known in self.assumed if known not in implied), fact]
        return implied

    def hold(self, sizes: Mapping[str, int]) -> bool:
        """Whether every fact holds at the given sizes."""
        return all(fact.holds(sizes) for fact in self.known())


def _steps(coarse: Atom, fine: Atom) -> int:
    """How many steps of a division one of a coarser one is; 1 where they are none."""
    above = coarse.denominator if isinstance(coarse, FloorDiv) else 1
    below = fine.denominator if isinstance(fine, FloorDiv) else 1
    return above // below if isinstance(above, int) and isinstance(below, int) and above % below == 0 else 1


def _is_weaker(known: Formula, fact: Formula) -> bool:
    """Whether a bound follows from another one alone."""
    apart = known - fact
    return apart >= 0 if isinstance(apart, int) else False


class _Known:
    """The facts, made ready for questions: ranges, equalities eliminated, bounds; and the answers so far."""

    def __init__(self, facts: list[Fact]):
        self.ranges = Ranges()
        self._answers: dict[tuple[Formula, str], Decision] = {}
        formulas = [(fact.formula, fact) for fact in facts if isinstance(fact.formula, Formula)]
        for formula, fact in formulas:
            _narrow(self.ranges, formula, fact)
        self._by_name = ByName(self.ranges, facts)
        self._eliminated = Eliminated(self.ranges, self._by_name)
        for _, fact in formulas:
            if fact.relation == "==":
                self._eliminated.add(fact)
        self._bounds: list[Bound] = []
        self._unequal: list[Bound] = []
        equal: list[Bound] = []
        for formula, fact in formulas:
            used: Used = [fact]
            reduced = self._eliminated.applied(formula, used)
            if not isinstance(reduced, Formula):
                continue
            if fact.relation == ">=":
                self._bounds.append((solved(reduced), used))
            elif fact.relation == "==":
                equal.append((reduced, used))
            else:
                self._unequal.append((reduced, used))
        self._bounds += equality_bounds(equal)
        self._bounds += self._eliminated.limits()

    def decided(self, formula: Formula, relation: str) -> Decision:
        question = (formula, relation)
        known = self._answers.get(question)
        if known is None:
            known = self._is_zero(formula) if relation == "==" else self._is_least(formula)
            if known is _UNKNOWN:
                known = self._of_one_name(formula, relation, [])
            if known is _UNKNOWN:
                used: Used = []
                reduced = self.reduced(formula, used)
                if isinstance(reduced, Formula) and reduced != formula:
                    known = self._of_one_name(reduced, relation, used)
            self._answers[question] = known
        return known

    def claims_of(self, name: str) -> Iterator[tuple[Formula, Fact]]:
        return self._by_name.claims_of(name)

    def reduced(self, formula: Whole, used: Used) -> Whole:
        """An equal formula over the names, as simple as the facts make it."""
        return self._by_name.restored(self._eliminated.applied(formula, used))

    def _of_one_name(self, formula: Formula, relation: str, used: Used) -> Decision:
        """The exact answer, from all that is said of a formula's only name by itself, and what the formula rests on."""
        names = formula.symbols()
        sizes = solutions(formula, relation) if len(names) == 1 else None
        known = self._by_name.sizes_of(names[0]) if sizes is not None else None
        if sizes is None or known is None:
            return _UNKNOWN
        there, facts = known
        if joint_period((there, sizes)) > 2 * LARGEST_PERIOD:
            return _UNKNOWN
        if there <= sizes:
            return _decision(Answer.YES, used + facts)
        return _UNKNOWN if there & sizes else _decision(Answer.NO, used + facts)

    def _is_zero(self, formula: Formula) -> Decision:
        used: Used = []
        reduced = self._eliminated.applied(formula, used)
        if isinstance(reduced, int):
            return _decision(Answer.YES if reduced == 0 else Answer.NO, used)
        for side in (reduced, -reduced):
            own: Used = []
            if self.ranges.low(side, own) > 0:
                return _decision(Answer.NO, used + own)
        shared = math.gcd(*(coefficient for monomial, coefficient in reduced.terms.items() if monomial))
        if reduced.constant % shared:
            return _decision(Answer.NO, used)
        if len(reduced.terms) == 1 and len(factors := next(iter(reduced.terms))) > 1:
            found = [self.decided(Formula({(factor,): 1}), "==") for factor in factors]
            if any(decision.answer is Answer.YES for decision in found):
                found = [decision for decision in found if decision.answer is Answer.YES][:1]
            if Answer.UNKNOWN not in (decision.answer for decision in found):
                return _decision(found[0].answer, [*used, *(fact for decision in found for fact in decision.used)])
        for unequal, facts in self._unequal:
            if reduced in (unequal, -unequal):
                return _decision(Answer.NO, used + facts)
        for slack in (reduced - 1, -reduced - 1):
            own = []
            if self._shown(slack, own):
                return _decision(Answer.NO, used + own)
        own = []
        if self._shown(reduced, own) and self._shown(-reduced, own):
            return _decision(Answer.YES, used + own)
        return _UNKNOWN

    def _is_least(self, formula: Formula) -> Decision:
        used: Used = []
        reduced = self._eliminated.applied(formula, used)
        if isinstance(reduced, int):
            return _decision(Answer.YES if reduced >= 0 else Answer.NO, used)
        for side, answer in ((reduced, Answer.YES), (-reduced - 1, Answer.NO)):
            own: Used = []
            if self.ranges.low(side, own) >= 0:
                return _decision(answer, used + own)
        for side, answer in ((reduced, Answer.YES), (-reduced - 1, Answer.NO)):
            own = []
            if self._shown(side, own):
                return _decision(answer, used + own)
        return _UNKNOWN

    def _shown(self, formula: Whole, used: Used) -> bool:
        formula = solved(formula) if isinstance(formula, Formula) else formula
        return Proof(self.ranges, self._bounds).shown(formula, used)


def _narrow(ranges: Ranges, formula: Formula, fact: Fact) -> None:
    """Reads a fact about one name alone as a part of its range."""
    symbolic = [(monomial, coefficient) for monomial, coefficient in formula.terms.items() if monomial]
    if len(symbolic) != 1 or len(symbolic[0][0]) != 1 or fact.relation == "!=":
        return
    ((atom,), coefficient) = symbolic[0]
    if not isinstance(atom, Symbol):
        return
    border, rest = divmod(-formula.constant, coefficient)
    least, largest = -math.inf, math.inf
    if fact.relation == "==" or coefficient > 0:
        least = border + (rest != 0)
    if fact.relation == "==" or coefficient < 0:
        largest = border
    ranges.narrow(atom.name, least, largest, [fact])


def _decision(answer: Answer, used: Used) -> Decision:
    return Decision(answer, tuple({id(fact): fact for fact in used}.values()))


__all__ = ["LEAST_SIZE", "Answer", "Decision", "Fact", "Facts", "Origin", "holds", "solved"]
