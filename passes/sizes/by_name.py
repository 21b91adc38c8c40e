"""What the facts about one name say together: which sizes it may have, and what formulas over it are at these.

Where `H % 28` is one of 25, 26, 27 and 0, `(H + 3)//4` is `7*((H + 3)//28)`; where it is 0, H is 28 times a size of its
own, so that every division by 4 is done; where H lies between 241 and 256, `(H + 31)//32` is 8. A fact about several
names joins in when those of the others leave one: `(H//16)*(W//16) == 196` says of W that it is 224 to 239, once
`H//16` is 14. A product of positive factors that is 1 says so of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import gcd, inf

from passes.sizes.bounds import Ranges, Used
from passes.sizes.fact import Fact
from passes.sizes.formulas.formula import Atom, FloorDiv, Formula, Symbol, Whole, divided, terms_of
from passes.sizes.formulas.replacement import rewritten
from passes.sizes.solving import EVERY_SIZE, LARGEST_PERIOD, SizeSet, at_least, joint_period, solutions

Claim = tuple[Formula, str]  # a formula and its relation to zero


@dataclass(frozen=True, slots=True)
class _Steps:
    """Sizes that come in steps: `first + by*k + rest` for the rests of one step, the first of which is 0."""

    sizes: SizeSet
    by: int
    first: int
    alone: bool

    def counted(self, size: Formula) -> Whole:
        """Which step a size lies on."""
        return divided(size if self.alone else size + (-self.first) % self.by, self.by)[0]


@dataclass(frozen=True, slots=True)
class _Name:
    """One name: all that it may be, and the steps that it comes in, with the facts that say so."""

    sizes: SizeSet
    used: tuple[Fact, ...]
    steps: _Steps | None
    steps_used: tuple[Fact, ...]


class ByName:
    """The facts about single names, and what they make of formulas; `ranges` are narrowed to the sizes they leave."""

    def __init__(self, ranges: Ranges, facts: Sequence[Fact]):
        self._ranges = ranges
        self._claims: dict[str, list[tuple[Claim, Used]]] = {}
        self._names: dict[str, _Name] = {}
        self._values: dict[Atom, tuple[Whole, tuple[Fact, ...]] | None] = {}
        self._counts: dict[Symbol, Whole] = {}
        waiting = [
            fact
            for fact in facts
            if isinstance(fact.formula, Formula) and not self._take(fact.formula, fact.relation, [fact])
        ]
        for name in list(self._claims):
            self._settle(name)
        while self._claims and (taken := [fact for fact in waiting if self._joins(fact)]):
            waiting = [fact for fact in waiting if not any(fact is other for other in taken)]

    def sizes_of(self, name: str) -> tuple[SizeSet, Used] | None:
        """Every size that a name may have, as far as it is known by itself, and the facts that say so; None for one
        that may be negative."""
        if name not in self._names:
            self._settle(name)
        known = self._names.get(name)
        return (known.sizes, list(known.used)) if known is not None else None

    def claims_of(self, name: str) -> Iterator[tuple[Formula, Fact]]:
        """What is said of a name by itself, each with the fact that says it."""
        for (formula, _), used in self._claims.get(name, ()):
            yield formula, used[0]

    def simplified(self, formula: Whole, used: Used) -> Whole:
        """An equal formula with what the names' sizes make of its parts; `used` gets what that rests on."""
        if isinstance(formula, int) or not self._claims:
            return formula
        return rewritten(formula, lambda atom: self._value(atom, used))

    def restored(self, formula: Whole) -> Whole:
        """The formula over the names alone, without sizes that were brought in to count their steps."""
        if isinstance(formula, int) or not self._counts:
            return formula
        return rewritten(formula, lambda atom: self._counts.get(atom) if isinstance(atom, Symbol) else None)

    # Facts --------------------------------------------------------------------------------------

    def _take(self, formula: Whole, relation: str, used: Used) -> bool:
        """Takes what is said of one name by itself; whether it is."""
        if not isinstance(formula, Formula) or not _is_of_one_name(formula):
            return False
        self._claims.setdefault(formula.symbols()[0], []).append(((formula, relation), used))
        return True

    def _joins(self, fact: Fact) -> bool:
        """Whether a fact about several names is one about one of them, by what is known of the others."""
        assert isinstance(fact.formula, Formula)
        used: Used = [fact]
        reduced = self.restored(self.simplified(fact.formula, used))
        parts = self._ones(reduced, used) if fact.relation == "==" else None
        if not all(_is_of_one_name(part) for part in parts or [reduced]):
            return False
        for part in parts or [reduced]:
            assert isinstance(part, Formula)
            self._take(part, fact.relation, used)
            self._settle(part.symbols()[0])
        return True

    def _ones(self, formula: Whole, used: Used) -> list[Whole] | None:
        """That each of some positive factors is 1, where their product is."""
        terms = terms_of(formula)
        product = max(terms, key=len)
        if len(product) < 2 or len(terms) != 2 or terms.get(()) != -terms[product]:
            return None
        own: Used = []
        if any(self._ranges.low(Formula({(atom,): 1}), own) < 1 for atom in product):
            return None
        used += own
        return [Formula({(atom,): 1}) - 1 for atom in dict.fromkeys(product)]

    def _settle(self, name: str) -> None:
        """Finds the sizes of a name, and says so in the ranges."""
        least, held = self._ranges.least_of(name)
        if least < 0:  # sets of sizes begin at 0
            return
        sizes, used = at_least(int(least)), list(held)
        regular, regular_used = EVERY_SIZE, Used()
        for claim, facts in self._claims.get(name, ()):
            found = solutions(*claim)
            if found is None or joint_period((sizes, found)) > LARGEST_PERIOD:
                continue
            sizes, used = sizes & found, [*used, *facts]
            if found.period > 1:
                regular, regular_used = regular & found, [*regular_used, *facts]
        steps = _steps(regular) if regular_used else None
        self._names[name] = _Name(sizes, tuple(used), steps, tuple(regular_used))
        self._values = {atom: value for atom, value in self._values.items() if _only_name(atom) != name}
        if not sizes:
            return
        first, last = sizes.least, inf if sizes.largest is None else sizes.largest
        assert first is not None
        if first > least or last < self._ranges.largest_of(name)[0]:
            self._ranges.narrow(name, first if first > least else -inf, last, used)
        if steps is not None and steps.alone:
            self._count(name, steps, regular_used)

    def _count(self, name: str, steps: _Steps, used: Used) -> None:
        """Brings in a size that counts the steps of a name."""
        count = Symbol(f"{name}/{steps.by}")
        self._counts[count] = steps.counted(Formula.symbol(name))
        least, low = self._ranges.least_of(name)
        largest, high = self._ranges.largest_of(name)
        self._ranges.least[count.name] = -((steps.first - least) // steps.by), (*low, *used)
        if largest < inf:
            self._ranges.largest[count.name] = (largest - steps.first) // steps.by, (*high, *used)

    # Formulas -----------------------------------------------------------------------------------

    def _value(self, atom: Atom, used: Used) -> Whole | None:
        """What an atom over one name is at all its sizes, where that is simpler."""
        if atom not in self._values:
            name = _only_name(atom)
            known = self._names.get(name) if name is not None and name in self._claims else None
            self._values[atom] = None if known is None or not known.sizes else _found(atom, str(name), known)
        found = self._values[atom]
        if found is None:
            return None
        used += found[1]
        return found[0]


def _found(atom: Atom, name: str, known: _Name) -> tuple[Whole, tuple[Fact, ...]] | None:
    formula, steps = Formula({(atom,): 1}), known.steps
    if steps is not None and steps.alone:
        if isinstance(atom, Symbol):
            return steps.by * Formula.symbol(f"{name}/{steps.by}") + steps.first, known.steps_used
    elif steps is not None and isinstance(atom, FloorDiv):
        value = _by_steps(formula, name, steps) or _shifted(atom, name, steps)
        if value is not None:
            return value, known.steps_used
    number = _number(formula, name, known.sizes)
    return (number, known.used) if number is not None else None


def _number(formula: Formula, name: str, sizes: SizeSet) -> int | None:
    """The number that a formula is at all sizes."""
    first, last = sizes.least, sizes.largest
    if first is None or last is None:
        return None
    try:
        value, other = (formula.at({name: size}) for size in (first, last))
    except ArithmeticError:
        return None
    return value if value == other and _agree(formula, value, sizes) else None


def _by_steps(formula: Formula, name: str, steps: _Steps) -> Whole | None:
    """The formula as a multiple of the steps, and a number."""
    counted = steps.counted(Formula.symbol(name))
    if counted == formula or not isinstance(counted, Formula) or steps.sizes.least is None:
        return None
    start = steps.first - (steps.first - steps.sizes.least) // steps.by * steps.by
    try:
        values = [formula.at({name: start + steps.by * step}) for step in range(3)]
    except ArithmeticError:
        return None
    if values[2] - values[1] != values[1] - values[0]:
        return None
    value = (values[1] - values[0]) * (counted - counted.at({name: start})) + values[0]
    return value if _agree(formula, value, steps.sizes) else None


def _shifted(atom: FloorDiv, name: str, steps: _Steps) -> Whole | None:
    """The division with the smallest numerator of those that are the same: at even H, `(H + 2)//4` for `(H + 3)//4`."""
    above, by = atom.numerator, atom.denominator
    if not isinstance(by, int) or above - Formula.symbol(name) != above.constant:
        return None
    shared = gcd(by, steps.by)
    spare = min((above.constant + rest) % shared for rest in steps.sizes.residues(steps.by))
    return divided(above - spare, by)[0] if spare else None


@lru_cache(maxsize=2048)
def _agree(formula: Formula, value: Whole, sizes: SizeSet) -> bool:
    """Whether the two are the same at all sizes."""
    apart = formula - value
    if isinstance(apart, int):
        return apart == 0
    found = solutions(apart, "==")
    return found is not None and joint_period((sizes, found)) <= 2 * LARGEST_PERIOD and sizes <= found


@lru_cache(maxsize=512)
def _steps(sizes: SizeSet) -> _Steps | None:
    """The steps that sizes come in; None where there are none, or as good as none."""
    by = sizes.modulus
    rests = sorted(sizes.residues(by))
    if not rests or len(rests) == by:
        return None
    gaps = [(after - before, after % by) for before, after in pairwise([*rests, rests[0] + by])]
    return _Steps(sizes, by, max(gaps)[1], len(rests) == 1)


def _is_of_one_name(formula: Whole) -> bool:
    return isinstance(formula, Formula) and len(formula.symbols()) == 1


def _only_name(atom: Atom) -> str | None:
    names = Formula({(atom,): 1}).symbols()
    return names[0] if len(names) == 1 else None


__all__ = ["ByName"]
