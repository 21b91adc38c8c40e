"""Named dimensions: integer arithmetic on sizes that are not known yet.

A `Dim` is a polynomial with integer coefficients over *atoms*: named symbols, floor divisions and
remainders. It is kept in a normal form, so equal formulas compare equal without a solver, and
anything that turns out constant is a plain `int` again. Two rewrites do most of the work for the size
formulas of networks (d > 0, r and c integers):

    (d*q + r) // d      =  q + r // d          whole multiples leave the division
    (a // b + c) // d   =  (a + b*c) // (b*d)  nested divisions collapse

so a padded convolution followed by two poolings reads `H//4`, not `((H - 2)//2 + 1 - 2)//2 + 1`.

A comparison that the normal form or simple bounds decide is answered at once. Any other is answered
from the sampled sizes (`hint`) and recorded as a guard. Every symbol is at least 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from passes.formula import DynamicSizeError, Formula, hint
from passes.guards import Guard, GuardLog
from passes.ratio import as_fraction, divide, multiply, power


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named dimension of an input."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class FloorDiv:
    """`numerator // denominator`, irreducible."""

    numerator: Dim
    denominator: Dim | int

    def __str__(self) -> str:
        return f"({_operand(self.numerator)}//{_operand(self.denominator)})"


@dataclass(frozen=True, slots=True)
class Mod:
    """`numerator % denominator`, irreducible."""

    numerator: Dim
    denominator: Dim | int

    def __str__(self) -> str:
        return f"({_operand(self.numerator)} % {_operand(self.denominator)})"


Atom: TypeAlias = "Symbol | FloorDiv | Mod"
Monomial: TypeAlias = "tuple[Atom, ...]"
Size: TypeAlias = "int | Dim"


class Dim(Formula):
    """An integer formula over named dimensions (see the module's docstring).

    `terms` maps a monomial (a sorted tuple of atoms) to its coefficient; `hint` is the formula's value
    at the sampled sizes; `log` receives the guards.
    """

    __slots__ = ("_hash", "_text", "hint", "log", "terms")

    def __init__(self, terms: dict[Monomial, int], hint: int, log: GuardLog):
        self.terms = terms
        self.hint = hint
        self.log = log
        self._text: str | None = None
        self._hash: int | None = None

    @staticmethod
    def symbol(name: str, hint: int, log: GuardLog) -> Dim:
        """The dimension called `name`, sampled at the size `hint`."""
        log.sampled[name] = hint
        return Dim({(Symbol(name),): 1}, hint, log)

    # Arithmetic ---------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Any:
        if isinstance(other, float):
            return as_fraction(self) + other
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        terms = dict(self.terms)
        for monomial, coefficient in _terms(other).items():
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return self._of(terms, self.hint + hint(other))

    __radd__ = __add__

    def __neg__(self) -> Size:
        return self._of({m: -c for m, c in self.terms.items()}, -self.hint)

    def __sub__(self, other: Any) -> Any:
        if not isinstance(other, (int, float, Dim)):
            return NotImplemented
        return self + (-other)

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, float):
            return multiply(self, other)
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        terms: dict[Monomial, int] = {}
        for left, a in self.terms.items():
            for right, b in _terms(other).items():
                monomial = tuple(sorted(left + right, key=str)) if left and right else left or right
                terms[monomial] = terms.get(monomial, 0) + a * b
        return self._of(terms, self.hint * hint(other))

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, float):
            return as_fraction(self) // other
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        return self._divmod(self, other)[0]

    def __rfloordiv__(self, other: Any) -> Any:
        return self._divmod(other, self)[0] if isinstance(other, int) else NotImplemented

    def __mod__(self, other: Any) -> Any:
        if isinstance(other, float):
            return as_fraction(self) % other
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        return self._divmod(self, other)[1]

    def __rmod__(self, other: Any) -> Any:
        return self._divmod(other, self)[1] if isinstance(other, int) else NotImplemented

    def __truediv__(self, other: Any) -> Any:
        return divide(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return divide(other, self)

    def __pow__(self, exponent: Any) -> Any:
        """A whole power, which is a fraction where it is negative."""
        return power(self, exponent)

    def __abs__(self) -> Size:
        return self if self >= 0 else -self

    def __floor__(self) -> Size:
        return self

    __ceil__ = __trunc__ = __floor__

    def __round__(self, digits: int | None = None) -> Size:
        if digits is not None and digits < 0:
            raise TypeError(f"{self} is rounded to {digits} decimal digits")
        return self

    def _divmod(self, numerator: Size, denominator: Size) -> tuple[Size, Size]:
        """`(numerator // denominator, numerator % denominator)`; by a formula, once its sign is known."""
        if denominator == 0:
            raise ZeroDivisionError(f"{numerator} is divided by zero")
        if denominator < 0:
            quotient, remainder = self._divmod(-numerator, -denominator)
            return quotient, -remainder
        if isinstance(denominator, Dim):
            return self._divmod_by_formula(numerator, denominator)
        quotient_terms: dict[Monomial, int] = {}
        rest_terms: dict[Monomial, int] = {}
        for monomial, coefficient in _terms(numerator).items():
            quotient_terms[monomial], rest_terms[monomial] = divmod(coefficient, denominator)
        rest = self._of(rest_terms, self._evaluate(rest_terms))
        whole = self._of(quotient_terms, self._evaluate(quotient_terms))
        if isinstance(rest, int):
            return whole, rest
        return whole + self._floor_atom(rest, denominator), self._mod_atom(rest, denominator)

    def _floor_atom(self, rest: Dim, denominator: int) -> Size:
        """`rest // denominator` where every coefficient of `rest` lies in [0, denominator)."""
        constant = rest.terms.get((), 0)
        symbolic = {m: c for m, c in rest.terms.items() if m}
        shared = math.gcd(denominator, *symbolic.values())
        if shared > 1:
            reduced = {m: c // shared for m, c in symbolic.items()}
            reduced[()] = constant // shared
            return self._divmod(self._of(reduced, self._evaluate(reduced)), denominator // shared)[0]
        if len(symbolic) == 1:
            ((monomial, coefficient),) = symbolic.items()
            inner = monomial[0]
            if (
                coefficient == 1
                and len(monomial) == 1
                and isinstance(inner, FloorDiv)
                and isinstance(inner.denominator, int)
            ):
                flattened = inner.numerator + constant * inner.denominator
                return self._divmod(flattened, inner.denominator * denominator)[0]
        return self._of({(FloorDiv(rest, denominator),): 1}, rest.hint // denominator)

    def _mod_atom(self, rest: Dim, denominator: int) -> Size:
        return self._of({(Mod(rest, denominator),): 1}, rest.hint % denominator)

    def _divmod_by_formula(self, numerator: Size, denominator: Dim) -> tuple[Size, Size]:
        quotient = _exact_quotient(numerator, denominator)
        if quotient is not None:
            return self._of(quotient, self._evaluate(quotient)), 0
        top = numerator if isinstance(numerator, Dim) else Dim({(): numerator}, numerator, self.log)
        floor, rest = divmod(top.hint, denominator.hint)
        return (
            self._of({(FloorDiv(top, denominator),): 1}, floor),
            self._of({(Mod(top, denominator),): 1}, rest),
        )

    def _of(self, terms: dict[Monomial, int], value: int) -> Size:
        """The formula with these terms, as a plain int where nothing symbolic is left."""
        kept = {m: c for m, c in terms.items() if c}
        if not kept:
            return 0
        if len(kept) == 1 and () in kept:
            return kept[()]
        return Dim(kept, value, self.log)

    def _evaluate(self, terms: Mapping[Monomial, int]) -> int:
        sampled = self.log.sampled
        return sum(c * math.prod(_atom_value(a, sampled) for a in m) for m, c in terms.items())

    # Comparison ---------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if isinstance(other, float):
            return other.is_integer() and bool(self == int(other))
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        difference: Size = self - other
        if isinstance(difference, int):
            return difference == 0
        if difference.lower_bound() > 0 or (-difference).lower_bound() > 0:  # type: ignore[union-attr]
            if self.log.given:
                self._check_bounds(difference, "!=")
            return False
        constant = difference.terms.get((), 0)
        shared = math.gcd(*(c for m, c in difference.terms.items() if m))
        if constant % shared:
            return False
        equal = difference.hint == 0
        relation = "==" if equal else "!="
        condition = f"{self} {relation} {other}"
        self.log.facts.append((difference, relation, condition))
        self.log.record(condition, dynamic=True)
        return equal

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self.terms.items()))
        return self._hash

    def __ge__(self, other: Size | float) -> bool:
        if isinstance(other, float):
            return self >= math.ceil(other) if math.isfinite(other) else other < 0
        return self._compare(other, self - other, ">=", "<") if isinstance(other, (int, Dim)) else NotImplemented

    def __gt__(self, other: Size | float) -> bool:
        if isinstance(other, float):
            return self > math.floor(other) if math.isfinite(other) else other < 0
        return self._compare(other, self - other - 1, ">", "<=") if isinstance(other, (int, Dim)) else NotImplemented

    def __le__(self, other: Size | float) -> bool:
        if isinstance(other, float):
            return self <= math.floor(other) if math.isfinite(other) else other > 0
        return self._compare(other, other - self, "<=", ">") if isinstance(other, (int, Dim)) else NotImplemented

    def __lt__(self, other: Size | float) -> bool:
        if isinstance(other, float):
            return self < math.ceil(other) if math.isfinite(other) else other > 0
        return self._compare(other, other - self - 1, "<", ">=") if isinstance(other, (int, Dim)) else NotImplemented

    def _compare(self, other: Size, slack: Size, relation: str, opposite: str) -> bool:
        """Whether `slack >= 0`, recording `self relation other` (or its opposite) if it had to be sampled."""
        if isinstance(slack, int):
            return slack >= 0
        if slack.lower_bound() >= 0:
            if self.log.given:
                self._check_bounds(slack, ">=")
            return True
        negated = -slack - 1
        if isinstance(negated, Dim) and negated.lower_bound() >= 0:
            if self.log.given:
                self._check_bounds(negated, ">=")
            return False
        holds = slack.hint >= 0
        fact = slack if holds else negated
        assert isinstance(fact, Dim)
        self._assume(_solved(fact), f"{self} {relation if holds else opposite} {other}")
        return holds

    def _assume(self, slack: Dim, condition: str) -> None:
        """Records `slack >= 0` as a guard, unless one recorded before implies it; it replaces those that it implies."""
        bounds: dict[str, Dim] = self.log.bounds
        if any(_at_least(slack - known) for known in bounds.values()):
            return
        for weaker in [text for text, known in bounds.items() if _at_least(known - slack)]:
            del bounds[weaker]
            self.log.withdraw(weaker)
        symbol = (Symbol(slack.symbols()[0]),)
        if slack.terms.get(symbol) == 1 and slack.terms.keys() <= {symbol, ()}:
            condition = f"{slack.symbols()[0]} >= {-slack.terms.get((), 0)}"
        bounds[condition] = slack
        self.log.facts.append((slack, ">=", condition))
        self.log.record(condition, dynamic=True)

    def _check_bounds(self, formula: Dim, relation: str) -> None:
        """Notes the bounds that decided an answer where they do not hold in the caller's own data."""
        log = self.log
        if not _holds(formula, relation, log.as_given()):
            log.refuted += [
                Guard(f"{name} >= 1", log.location, True) for name in formula.symbols() if log.given.get(name) == 0
            ]

    def lower_bound(self) -> float:
        """A number the formula never goes below, from every symbol being at least 1; may be -inf."""
        return sum(
            (coefficient * _monomial_bound(monomial) if coefficient > 0 else -math.inf) if monomial else coefficient
            for monomial, coefficient in self.terms.items()
        )

    def __bool__(self) -> bool:
        return self != 0

    def __index__(self) -> int:
        raise DynamicSizeError(self)

    __int__ = __index__

    def __float__(self) -> float:
        raise DynamicSizeError(self)

    # Reading ------------------------------------------------------------------------------------

    def symbols(self) -> list[str]:
        """Names of the dimensions in the formula, in order of their names."""
        return sorted(_symbol_names(self))

    def at(self, sizes: Mapping[str, int]) -> int:
        """The formula's value where each named dimension has the given size."""
        return sum(c * math.prod(_atom_value(a, sizes) for a in m) for m, c in self.terms.items())

    def __str__(self) -> str:
        if self._text is None:
            ordered = sorted(
                self.terms.items(), key=lambda term: (not term[0], term[1] < 0, "*".join(map(str, term[0])))
            )
            parts = [_term_text(monomial, coefficient) for monomial, coefficient in ordered]
            text = " + ".join(parts).replace("+ -", "- ")
            if len(parts) == 1 and text.startswith("(") and len(ordered[0][0]) == 1 and ordered[0][1] == 1:
                text = text[1:-1]
            self._text = text
        return self._text

    def __repr__(self) -> str:
        return f"Dim({self})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def holds_at(log: GuardLog, sizes: Mapping[str, int]) -> bool:
    """Whether every guard on dynamic dimensions holds at the given sizes."""
    return all(_holds(formula, relation, sizes) for formula, relation, _ in log.facts)


def violated_by_sample(log: GuardLog) -> list[Guard]:
    """The guards, and the bounds that decided something, that do not hold in the caller's own data."""
    if not log.given:
        return []
    sizes = log.as_given()
    broken = [
        log.guard(condition) for formula, relation, condition in log.facts if not _holds(formula, relation, sizes)
    ]
    return [*(guard for guard in broken if guard is not None), *log.refuted]


_RELATIONS = {"==": int.__eq__, "!=": int.__ne__, ">=": int.__ge__}


def _holds(formula: Dim, relation: str, sizes: Mapping[str, int]) -> bool:
    """Whether a formula has that relation to zero at these sizes; not where it divides by a size of 0."""
    try:
        return bool(_RELATIONS[relation](formula.at(sizes), 0))
    except ZeroDivisionError:
        return False


def fixed_symbols(log: GuardLog) -> set[str]:
    """The dimensions that guards leave only one size: `T == 64`, `T == U` with such a U."""
    equalities = [
        set(formula.symbols())
        for formula, relation, _ in log.facts
        if relation == "=="
        and all(len(atoms) <= 1 and isinstance(atom, Symbol) for atoms in formula.terms for atom in atoms)
    ]
    fixed: set[str] = set()
    while more := {name for names in equalities if len(names - fixed) == 1 for name in names - fixed}:
        fixed |= more
    return fixed


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes; 1 for none."""
    result: Size = 1
    for size in sizes:
        result = result * size
    return result


def is_static(sizes: Iterable[Size]) -> bool:
    return not any(isinstance(size, Dim) for size in sizes)


def substitute(size: Size, value_of: Callable[[str], Size]) -> Size:
    """The formula with every symbol replaced by `value_of(name)`."""
    if isinstance(size, int):
        return size
    total: Size = 0
    for monomial, coefficient in size.terms.items():
        term: Size = coefficient
        for atom in monomial:
            term = term * _substitute_atom(atom, value_of)
        total = total + term
    return total


def _substitute_atom(atom: Atom, value_of: Callable[[str], Size]) -> Size:
    if isinstance(atom, Symbol):
        return value_of(atom.name)
    numerator = substitute(atom.numerator, value_of)
    denominator = substitute(atom.denominator, value_of)
    return numerator // denominator if isinstance(atom, FloorDiv) else numerator % denominator


def _terms(size: Size) -> Mapping[Monomial, int]:
    return size.terms if isinstance(size, Dim) else {(): size}


def _exact_quotient(numerator: Size, denominator: Dim) -> dict[Monomial, int] | None:
    """Terms of `numerator / denominator` where the division is exact term by term, else None."""
    if isinstance(numerator, Dim) and numerator.terms == denominator.terms:
        return {(): 1}
    if len(denominator.terms) != 1:
        return None
    ((divisor, by),) = denominator.terms.items()
    quotient: dict[Monomial, int] = {}
    for monomial, coefficient in _terms(numerator).items():
        rest = list(monomial)
        for atom in divisor:
            if atom not in rest:
                return None
            rest.remove(atom)
        if coefficient % by:
            return None
        quotient[tuple(rest)] = coefficient // by
    return quotient


def _atom_value(atom: Atom, sizes: Mapping[str, int]) -> int:
    if isinstance(atom, Symbol):
        return sizes[atom.name]
    numerator = atom.numerator.at(sizes)
    denominator = atom.denominator.at(sizes) if isinstance(atom.denominator, Dim) else atom.denominator
    return numerator // denominator if isinstance(atom, FloorDiv) else numerator % denominator


def _monomial_bound(monomial: Monomial) -> float:
    bounds = [_atom_bound(atom) for atom in monomial]
    return math.prod(bounds) if min(bounds) >= 0 else -math.inf


def _atom_bound(atom: Atom) -> float:
    if isinstance(atom, Symbol):
        return 1
    if isinstance(atom, Mod):  # by what is positive
        return 0
    below = atom.numerator.lower_bound()
    if below < 0:
        return -math.inf
    return below // atom.denominator if isinstance(atom.denominator, int) else 0


def _at_least(difference: Size) -> bool:
    """Whether a formula is never negative, as far as simple bounds show."""
    return difference >= 0 if isinstance(difference, int) else difference.lower_bound() >= 0


def _solved(slack: Dim) -> Dim:
    """An equivalent of `slack >= 0` without its outer division: `2*(H//8) - 1 >= 0` is `H - 8 >= 0`."""
    while True:
        symbolic = {monomial: c for monomial, c in slack.terms.items() if monomial}
        ((monomial, coefficient),) = symbolic.items() if len(symbolic) == 1 else (((), 0),)
        if len(monomial) != 1 or coefficient <= 0:
            return slack
        least = -(slack.terms.get((), 0) // coefficient)
        atom = monomial[0]
        if isinstance(atom, FloorDiv) and isinstance(atom.denominator, int):
            solved = atom.numerator - least * atom.denominator
        elif coefficient > 1:
            solved = slack._of({monomial: 1, (): -least}, slack._evaluate({monomial: 1, (): -least}))
        else:
            return slack
        if not isinstance(solved, Dim):
            return slack
        slack = solved


def _symbol_names(size: Size) -> set[str]:
    if isinstance(size, int):
        return set()
    names: set[str] = set()
    for monomial in size.terms:
        for atom in monomial:
            if isinstance(atom, Symbol):
                names.add(atom.name)
            else:
                names |= _symbol_names(atom.numerator) | _symbol_names(atom.denominator)
    return names


def _operand(size: Size) -> str:
    text = str(size)
    return f"({text})" if isinstance(size, Dim) and (len(size.terms) > 1 or " % " in text) else text


def _term_text(monomial: Monomial, coefficient: int) -> str:
    if not monomial:
        return str(coefficient)
    factors = "*".join(map(str, monomial))
    if coefficient == 1:
        return factors
    return f"-{factors}" if coefficient == -1 else f"{coefficient}*{factors}"


__all__ = [
    "Dim",
    "DynamicSizeError",
    "FloorDiv",
    "Mod",
    "Size",
    "Symbol",
    "fixed_symbols",
    "hint",
    "holds_at",
    "is_static",
    "product",
    "substitute",
    "violated_by_sample",
]
