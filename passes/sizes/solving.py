"""All sizes of one name at which facts hold, exactly.

A formula over one name, with divisions and remainders by numbers, repeats itself: where the name is `P*k + r`, for a
period P that all its denominators divide and a fixed remainder r, it is a polynomial in k, or several ones where it has
a maximum or minimum. A polynomial has its signs on a few stretches of k, which are found by halving between the turns
of its differences. So the sizes are, for each remainder, some stretches; "and" and "not" lead to such sets again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product

from passes.sizes.formulas.formula import Formula, Max, Min, Mod, Rounded, Symbol, Whole, parts_of, terms_of
from passes.sizes.formulas.replacement import rewritten

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

    @property
    def modulus(self) -> int:
        """The least number by which the sizes are told from those between them by their remainders alone; the period
        where there is none."""
        return next(
            modulus
            for modulus in range(1, self.period + 1)
            if self.period % modulus == 0 and (modulus == self.period or not self or self.missing(modulus, 1) == [])
        )

    def residues(self, modulus: int) -> frozenset[int]:
        """The remainders by a divisor of the period that the sizes leave."""
        return frozenset(rest % modulus for rest, found in enumerate(self.classes) if found)

    def sizes(self) -> Iterator[int]:
        """The sizes, from the smallest on; there may be no end to them."""
        size = self.least
        while size is not None:
            yield size
            size = self._first_from(size + 1)

    def outwards(self, start: int) -> Iterator[int]:
        """The sizes, the nearest to one first, of two as near the smaller one; there may be no end to them."""
        below, above = self._last_to(start), self._first_from(start + 1)
        while below is not None or above is not None:
            if above is None or (below is not None and start - below <= above - start):
                assert below is not None
                yield below
                below = self._last_to(below - 1)
            else:
                yield above
                above = self._first_from(above + 1)

    def _first_from(self, size: int) -> int | None:
        """The smallest size from one on."""
        found = (
            max(first, -((rest - size) // self.period)) * self.period + rest
            for rest, stretches in enumerate(self.classes)
            for first, last in stretches
            if last >= -((rest - size) // self.period)
        )
        return min(found, default=None)

    def _last_to(self, size: int) -> int | None:
        """The largest size up to one."""
        found = (
            int(min(last, (size - rest) // self.period)) * self.period + rest
            for rest, stretches in enumerate(self.classes)
            for first, last in stretches
            if first <= (size - rest) // self.period
        )
        return max(found, default=None)

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


def joint_period(sets: Iterable[SizeSet]) -> int:
    """After how many sizes several sets repeat themselves together."""
    return math.lcm(*(found.period for found in sets))


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
    classes: list[Stretches] = []
    if not _has_extremes(formula):
        degree = _degree(formula)
        for rest in range(period):
            values = [formula.at({names[0]: period * times + rest}) for times in range(degree + 1)]
            classes.append(_related(values, relation))
        return SizeSet(tuple(classes))
    name, times = Symbol(names[0]), Formula.symbol("k")
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
    if isinstance(size, int):
        return _related([size], relation)
    names = {atom for monomial in size.terms for atom in monomial}
    if len(names) != 1 or not isinstance(name := next(iter(names)), Symbol):
        return None
    return _related([size.at({name.name: times}) for times in range(_degree(size) + 1)], relation)


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


def _has_extremes(size: Whole) -> bool:
    return any(
        isinstance(atom, (Max, Min)) or (not isinstance(atom, Symbol) and any(map(_has_extremes, parts_of(atom))))
        for monomial in terms_of(size)
        for atom in monomial
    )


def _degree(size: Whole) -> int:
    """The degree of the polynomials that a formula without extremes is."""
    return max(
        sum(1 if isinstance(atom, Symbol) else _degree(parts_of(atom)[0]) for atom in monomial)
        for monomial in terms_of(size)
    )


# Polynomials are given by their values at 0, 1, 2, ..., as many as their degree needs, and kept as the first of these,
# of their differences, of the differences of these, and so on (Newton's forward differences).


def _related(values: list[int], relation: str) -> Stretches:
    """Where the polynomial with these values has the relation to zero, among 0, 1, 2, ..."""
    numbers: list[int] = []
    while values:
        numbers.append(values[0])
        values = [after - before for before, after in pairwise(values)]
    above = _nonnegative(numbers)
    if relation == ">=":
        return above
    zero = _both(above, _nonnegative([-number for number in numbers]))
    return zero if relation == "==" else _outside(zero)


def _nonnegative(numbers: list[int]) -> Stretches:
    """Where a polynomial is 0 or more among 0, 1, 2, ..."""
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers = numbers[:-1]
    if len(numbers) == 1:
        return _EVERYWHERE if numbers[0] >= 0 else ()
    if len(numbers) == 2:
        constant, slope = numbers
        if slope > 0:
            return ((max(-(constant // slope), 0), math.inf),)
        return ((0, constant // -slope),) if constant >= 0 else ()
    rising = _nonnegative(numbers[1:])
    found: list[Stretch] = []
    for grows, stretches in ((True, rising), (False, _outside(rising))):
        for first, last in stretches:
            part = _monotone(numbers, first, last + 1, grows)  # the step from the last number leads one further
            if part is not None:
                found.append(part)
    return tuple(_merged(sorted(found)))


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
    return sum(number * math.comb(at, order) for order, number in enumerate(numbers))


__all__ = ["EVERY_SIZE", "LARGEST_PERIOD", "SizeSet", "at_least", "joint_period", "solutions"]
