"""All sizes of one name at which facts hold, exactly.

A formula over one name, with divisions and remainders by numbers, repeats itself: where the name is `P*k + r`, for a
period P that all its denominators divide and a fixed remainder r, it is a polynomial in k, or several ones where it has
a maximum or minimum. A polynomial has its signs on a few stretches of k, which are found by halving between the turns
of its differences. So the sizes are, for each remainder, some stretches; "and" and "not" lead to such sets again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from passes.sizes.bounds import LEAST_SIZE, default_fact
from passes.sizes.elimination import rewritten
from passes.sizes.fact import Answer, Fact, Origin
from passes.sizes.facts import Facts
from passes.sizes.formula import Formula, Max, Min, Mod, Rounded, Symbol, Whole, parts_of, terms_of

# A set that repeats itself later than this is not looked for.
LARGEST_PERIOD = 1024

Stretch = tuple[int, float]  # the first and the last number; the last may be infinite
Stretches = tuple[Stretch, ...]  # in order, with gaps between

_EVERYWHERE: Stretches = ((0, math.inf),)


# Sets -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SizeSet:
    """Sizes from 0 on: those `k*period + r` with k on the stretches of the remainder r."""

    classes: tuple[Stretches, ...]

    @property
    def period(self) -> int:
        return len(self.classes)

    def __contains__(self, size: int) -> bool:
        times, rest = divmod(size, self.period)
        return size >= 0 and any(first <= times <= last for first, last in self.classes[rest])

    def __and__(self, other: SizeSet) -> SizeSet:
        left, right = self, other
        if left.period != right.period:
            period = math.lcm(left.period, right.period)
            left, right = left.repeated(period), right.repeated(period)
        return SizeSet(tuple(map(_both, left.classes, right.classes)))

    def __invert__(self) -> SizeSet:
        return SizeSet(tuple(map(_outside, self.classes)))

    def __bool__(self) -> bool:
        return any(self.classes)

    def __le__(self, other: SizeSet) -> bool:
        """Whether all these sizes are in the other set."""
        return not self & ~other

    def repeated(self, period: int) -> SizeSet:
        """The same set by a multiple of its period."""
        times = period // self.period
        return SizeSet(
            tuple(
                tuple(
                    (low, high)
                    for first, last in self.classes[rest % self.period]
                    if (low := max(-((rest // self.period - first) // times), 0))
                    <= (high := last if math.isinf(last) else (int(last) - rest // self.period) // times)
                )
                for rest in range(period)
            )
        )

    @property
    def least(self) -> int | None:
        """The smallest size; None where there is none."""
        firsts = [found[0][0] * self.period + rest for rest, found in enumerate(self.classes) if found]
        return min(firsts, default=None)

    @property
    def largest(self) -> int | None:
        """The largest size; None where there is none."""
        lasts = [found[-1][1] * self.period + rest for rest, found in enumerate(self.classes) if found]
        largest = max(lasts, default=math.inf)
        return None if math.isinf(largest) else int(largest)

    def residues(self, modulus: int) -> frozenset[int]:
        """The remainders by a divisor of the period that the sizes leave."""
        return frozenset(rest % modulus for rest, found in enumerate(self.classes) if found)

    def sizes(self) -> Iterator[int]:
        """The sizes, from the smallest on; there may be no end to them."""
        size, largest = self.least, self.largest
        while size is not None and (largest is None or size <= largest):
            if size in self:
                yield size
            size += 1

    def missing(self, modulus: int, at_most: int) -> list[int] | None:
        """The sizes that are left out of all those between the smallest and the largest with the same remainders by a
        divisor of the period; None for more than so many."""
        least, largest = self.least, self.largest
        residues = self.residues(modulus)
        found: list[int] = []
        for rest, here in enumerate(self.classes):
            if rest % modulus not in residues:
                continue
            assert least is not None
            first = max(-((rest - least) // self.period), 0)
            last = math.inf if largest is None else (largest - rest) // self.period
            for low, high in _both(_outside(here), ((first, last),)) if first <= last else ():
                if high - low >= at_most - len(found):
                    return None
                found += [times * self.period + rest for times in range(low, int(high) + 1)]
        return sorted(found)


EVERY_SIZE = SizeSet((_EVERYWHERE,))


def at_least(size: int) -> SizeSet:
    """The sizes from one on."""
    return SizeSet((((max(size, 0), math.inf),),))


def _both(left: Stretches, right: Stretches) -> Stretches:
    found = ((max(a, c), min(b, d)) for (a, b), (c, d) in product(left, right))
    return tuple(sorted((low, high) for low, high in found if low <= high))


def _outside(stretches: Stretches) -> Stretches:
    found: list[Stretch] = []
    start: float = 0
    for first, last in stretches:
        if start < first:
            found.append((int(start), first - 1))
        start = last + 1
    return (*found, (int(start), math.inf)) if math.isfinite(start) else tuple(found)


# Facts, solved --------------------------------------------------------------------------------------


@lru_cache(maxsize=2048)
def solutions(formula: Formula, relation: str) -> SizeSet | None:
    """The sizes of a formula's only name at which it has the relation to zero; None where they are not found."""
    names = formula.symbols()
    period = _period(formula)
    if len(names) != 1 or period is None:
        return None
    name, times = Symbol(names[0]), Formula.symbol("k")
    classes: list[Stretches] = []
    for rest in range(period):
        value = period * times + rest
        inserted = rewritten(formula, lambda atom, value=value: value if atom == name else None)  # type: ignore[misc]
        found = _holding(inserted, relation)
        if found is None:
            return None
        classes.append(found)
    return SizeSet(tuple(classes))


def _period(size: Whole) -> int | None:
    """After how many sizes a formula's divisions repeat themselves; None beyond LARGEST_PERIOD, or without such."""
    period = 1
    for monomial in terms_of(size):
        for atom in monomial:
            if isinstance(atom, Symbol):
                continue
            inner: int | None = 1
            if isinstance(atom, (Max, Min)):
                for part in parts_of(atom):
                    found = _period(part)
                    inner = None if found is None or inner is None else math.lcm(inner, found)
            elif isinstance(atom, (Mod, Rounded)) or not isinstance(atom.denominator, int):
                return None
            else:
                inner = _period(atom.numerator)
                inner = None if inner is None else inner * atom.denominator
            period = LARGEST_PERIOD + 1 if inner is None else math.lcm(period, inner)
            if period > LARGEST_PERIOD:
                return None
    return period


def _holding(size: Whole, relation: str) -> Stretches | None:
    """Where a formula over one name, of whole powers and extremes of such, has the relation to zero."""
    extreme = _first_extreme(size)
    if extreme is not None:
        return _holding_by_parts(size, relation, extreme)
    numbers = _coefficients(size)
    if numbers is None:
        return None
    above = _nonnegative(numbers)
    if relation == ">=":
        return above
    zero = _both(above, _nonnegative([-number for number in numbers]))
    return zero if relation == "==" else _outside(zero)


def _holding_by_parts(size: Whole, relation: str, extreme: Max | Min) -> Stretches | None:
    """Case by case: where a part is the extreme one, and the formula with it has the relation."""
    found: Stretches = ()
    for part in extreme.parts:
        here = _holding(rewritten(size, lambda atom, part=part: part if atom == extreme else None), relation)  # type: ignore[misc]
        for other in extreme.parts:
            slack = part - other if isinstance(extreme, Max) else other - part
            there = _holding(slack, ">=")
            if here is None or there is None:
                return None
            here = _both(here, there)
        assert here is not None
        found = _outside(_both(_outside(found), _outside(here)))
    return found


def _first_extreme(size: Whole) -> Max | Min | None:
    return next((atom for terms in terms_of(size) for atom in terms if isinstance(atom, (Max, Min))), None)


def _coefficients(size: Whole) -> list[int] | None:
    """The coefficients of a polynomial in one name, from the constant up; None where it is none."""
    terms = terms_of(size)
    if any(not isinstance(atom, Symbol) for monomial in terms for atom in monomial):
        return None
    numbers = [0] * (max(map(len, terms), default=0) + 1)
    for monomial, coefficient in terms.items():
        numbers[len(monomial)] += coefficient
    return numbers


def _nonnegative(numbers: list[int]) -> Stretches:
    """Where a polynomial, by its coefficients, is 0 or more among 0, 1, 2, ..."""
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers = numbers[:-1]
    if len(numbers) == 1:
        return _EVERYWHERE if numbers[0] >= 0 else ()
    if len(numbers) == 2:
        constant, slope = numbers
        if slope > 0:
            return ((max(-(constant // slope), 0), math.inf),)
        return ((0, constant // -slope),) if constant >= 0 else ()
    steps = [
        sum(math.comb(power, below) * numbers[power] for power in range(below + 1, len(numbers)))
        for below in range(len(numbers) - 1)
    ]
    rising = _nonnegative(steps)
    found: list[Stretch] = []
    for grows, stretches in ((True, rising), (False, _outside(rising))):
        for first, last in stretches:
            part = _monotone(numbers, first, last + 1, grows)  # the step from the last number leads one further
            if part is not None:
                found.append(part)
    return _outside(_outside(tuple(_merged(sorted(found)))))


def _monotone(numbers: list[int], first: int, last: float, grows: bool) -> Stretch | None:
    """Where a polynomial that only grows, or only falls, between two numbers is 0 or more."""
    if math.isinf(last):
        stop = first + 2
        while (_value(numbers, stop) >= 0) != (numbers[-1] > 0):  # the sign that it has in the end
            stop = first + 2 * (stop - first)
    else:
        stop = int(last)
    signs = _value(numbers, first) >= 0, _value(numbers, stop) >= 0
    if signs[0] == signs[1]:
        return (first, last) if signs[0] else None
    low, high = first, stop
    while high - low > 1:
        middle = (low + high) // 2
        if (_value(numbers, middle) >= 0) == signs[0]:
            low = middle
        else:
            high = middle
    return (high, last) if grows else (first, low)


def _merged(stretches: Iterable[Stretch]) -> Iterator[Stretch]:
    """Stretches that touch or overlap as one."""
    current: Stretch | None = None
    for first, last in stretches:
        if current is not None and first <= current[1] + 1:
            current = current[0], max(current[1], last)
        else:
            if current is not None:
                yield current
            current = first, last
    if current is not None:
        yield current


def _value(numbers: list[int], at: int) -> int:
    return sum(number * at**power for power, number in enumerate(numbers))


# What facts admit -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admissible:
    """The sizes that one name may have: all of `sizes`, which lie between `lower` and `upper` (None: no limit) and
    leave the `residues` by `modulus`. `lower_by` and `upper_by` are the facts that end them there; `open` are the facts
    about the name that are not among those solved, as they are of other names too.
    """

    name: str
    sizes: SizeSet
    lower: int | None
    upper: int | None
    modulus: int
    residues: tuple[int, ...]
    lower_by: Fact | None
    upper_by: Fact | None
    open: tuple[Fact, ...]


def admissible(facts: Facts, name: str, at: Mapping[str, int] | None = None) -> Admissible:
    """The sizes that a name may have, by the facts about it alone, or with the other names at the sizes of `at`."""
    solved: list[tuple[Fact, SizeSet]] = []
    left: list[Fact] = []
    for fact in (*own_facts(facts, name), *(fact for fact in facts.known() if name in fact.formula.symbols())):
        found = _solved_at(fact, name, at or {})
        if found is None or _joint_period(found, solved) > 2 * LARGEST_PERIOD:
            left.append(fact)
        else:
            solved.append((fact, found))
    sizes = EVERY_SIZE
    for _, found in solved:
        sizes = sizes & found
    lower, upper = sizes.least, sizes.largest
    modulus = next(
        modulus
        for modulus in range(1, sizes.period + 1)
        if sizes.period % modulus == 0 and (modulus == sizes.period or not sizes or sizes.missing(modulus, 1) == [])
    )
    return Admissible(
        name,
        sizes,
        lower,
        upper,
        modulus,
        tuple(sorted(sizes.residues(modulus))),
        None if lower is None else _ended_by(solved, lower, -1, sizes.residues(modulus), modulus),
        None if upper is None else _ended_by(solved, upper, 1, sizes.residues(modulus), modulus),
        tuple(left),
    )


def _joint_period(sizes: SizeSet, others: Iterable[tuple[Fact, SizeSet]]) -> int:
    return math.lcm(sizes.period, *(other.period for _, other in others))


def own_facts(facts: Facts, name: str) -> list[Fact]:
    """The default least size of a name, unless the caller gave another."""
    promised = Facts(given=facts.given).least_by(name)
    return [default_fact(name)] if not promised or promised[0].origin is Origin.DEFAULT else []


def _solved_at(fact: Fact, name: str, at: Mapping[str, int]) -> SizeSet | None:
    if not isinstance(fact.formula, Formula):
        return None
    formula: Whole = fact.formula
    if fact.formula.symbols() != [name]:
        others = {Symbol(other): at[other] for other in fact.formula.symbols() if other != name and other in at}
        formula = rewritten(fact.formula, lambda atom: others.get(atom) if isinstance(atom, Symbol) else None)
    if isinstance(formula, int):
        holds = formula >= 0 if fact.relation == ">=" else (formula == 0) == (fact.relation == "==")
        return EVERY_SIZE if holds else ~EVERY_SIZE
    return solutions(formula, fact.relation) if formula.symbols() == [name] else None


def _ended_by(
    solved: list[tuple[Fact, SizeSet]], border: int, step: int, residues: frozenset[int], modulus: int
) -> Fact | None:
    """The fact that excludes the next size beyond a border with a remainder of those inside; of several, a guard."""
    beyond = border + step
    while beyond % modulus not in residues:
        beyond += step
    if beyond < 0:
        return None
    ending = [fact for fact, found in solved if beyond not in found]
    return next((fact for fact in ending if fact.origin is Origin.GUARD), ending[0] if ending else None)


def contradiction(given: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """Facts among those given that no sizes fulfil together, as far as that can be told; none where it cannot."""
    for count in range(1, len(given) + 1):
        facts, last = Facts(given=given[: count - 1]), given[count - 1]
        if not isinstance(last.formula, Formula):
            continue
        names = last.formula.symbols()
        if len(names) > 1:
            decision = facts.decide(last.formula, last.relation)
            if decision.answer is Answer.NO:
                return (*(fact for fact in decision.used if fact.origin is Origin.GIVEN), last)
        for name in names:
            if not admissible(Facts(given=given[:count]), name).sizes:
                return tuple(fact for fact in given[:count] if fact.formula.symbols() == [name])
    return ()


__all__ = [
    "EVERY_SIZE",
    "LEAST_SIZE",
    "Admissible",
    "SizeSet",
    "admissible",
    "at_least",
    "contradiction",
    "own_facts",
    "solutions",
]
