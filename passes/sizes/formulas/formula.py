"""Formulas of sizes, as values: integer polynomials over names, floor divisions, remainders, extremes, rounded floats.

A `Formula` is kept in a normal form, so that equal formulas are equal without a solver, and anything that turns out
constant is a plain `int` again. These rewrites do most of the work for the sizes of networks (d > 0, r and c integers):

    (d*q + r) // d      =  q + r // d            whole multiples leave the division
    (a // b + c) // d   =  (a + b*c) // (b*d)    nested divisions collapse
    a % d               =  a - d*(a // d)        a remainder by a number is what the division leaves
    -a // d             =  -((a + d - 1) // d)   a division upwards is one downwards
    a - a // 2          =  (a + 1) // 2          two halves are a whole

so a padded convolution followed by two poolings reads `H//4`, not `((H - 2)//2 + 1 - 2)//2 + 1`, and
`H + (7 - H % 7) % 7` is `7*((H + 6)//7)`. Divisions by formulas are divisions of polynomials
(`passes.sizes.formulas.polynomials`). The text of a formula shows remainders again: `H % 4`.

Formulas compare, hash and print without side effects, and have no order: whether one is at least another is a question
of what is known of its names, which `passes.sizes.facts` answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from passes.sizes.formulas.polynomials import common_monomial, content, long_division, multiplied, without
from passes.sizes.formulas.real import Real


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named dimension of an input."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class FloorDiv:
    """`numerator // denominator`, irreducible; the denominator is positive."""

    numerator: Formula
    denominator: Whole

    def __str__(self) -> str:
        return f"({_operand(self.numerator)}//{_divisor(self.denominator)})"


@dataclass(frozen=True, slots=True)
class Mod:
    """`numerator % denominator` by a formula, irreducible; the denominator is positive."""

    numerator: Formula
    denominator: Formula

    def __str__(self) -> str:
        return f"({_operand(self.numerator)} % {_divisor(self.denominator)})"


@dataclass(frozen=True, slots=True)
class Max:
    """The largest of some formulas, of which at most one is a number (`passes.sizes.formulas.extremes` makes them)."""

    parts: tuple[Whole, ...]

    def __str__(self) -> str:
        if len(self.parts) == 2 and self.parts[0] == -self.parts[1]:
            return f"abs({min(map(str, self.parts), key=lambda text: (text.startswith('-'), text))})"
        return f"max({', '.join(map(str, self.parts))})"


@dataclass(frozen=True, slots=True)
class Min:
    """The smallest of some formulas, of which at most one is a number."""

    parts: tuple[Whole, ...]

    def __str__(self) -> str:
        return f"min({', '.join(map(str, self.parts))})"


@dataclass(frozen=True, slots=True)
class Rounded:
    """A float that is rounded to a whole number: `how` is floor, ceil or round (to the even one of two)."""

    how: str
    real: Real

    def __str__(self) -> str:
        return f"{self.how}({self.real})"


Atom: TypeAlias = "Symbol | FloorDiv | Mod | Max | Min | Rounded"
Monomial: TypeAlias = "tuple[Atom, ...]"
Whole: TypeAlias = "int | Formula"


class Formula:
    """An integer formula over named dimensions (see the module's docstring).

    `terms` maps a monomial (a sorted tuple of atoms) to its coefficient, which is never 0.
    """

    __slots__ = ("_hash", "_text", "terms")

    def __init__(self, terms: Mapping[Monomial, int]):
        self.terms = terms
        self._text: str | None = None
        self._hash: int | None = None

    @staticmethod
    def symbol(name: str) -> Formula:
        """The dimension called `name`."""
        return Formula({(Symbol(name),): 1})

    # Arithmetic ---------------------------------------------------------------------------------

    def __add__(self, other: Whole) -> Whole:
        terms = dict(self.terms)
        for monomial, coefficient in terms_of(other).items():
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return whole(terms)

    __radd__ = __add__

    def __neg__(self) -> Formula:
        return Formula({monomial: -coefficient for monomial, coefficient in self.terms.items()})

    def __sub__(self, other: Whole) -> Whole:
        return self + (-other)

    def __rsub__(self, other: int) -> Whole:
        return -self + other

    def __mul__(self, other: Whole) -> Whole:
        terms: dict[Monomial, int] = {}
        for left, a in self.terms.items():
            for right, b in terms_of(other).items():
                monomial = multiplied(left, right)
                terms[monomial] = terms.get(monomial, 0) + a * b
        return whole(terms)

    __rmul__ = __mul__

    # Values -------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        """Whether it is the same formula. Two that are never the same number may still not be told apart."""
        return self.terms == other.terms if isinstance(other, Formula) else NotImplemented

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self.terms.items()))
        return self._hash

    @property
    def constant(self) -> int:
        """The term without names; 0 where there is none."""
        return self.terms.get((), 0)

    def symbols(self) -> list[str]:
        """Names of the dimensions in the formula, in order of their names."""
        return sorted(_names(self))

    def at(self, sizes: Mapping[str, int]) -> int:
        """The formula's value where each named dimension has the given size.

        Raises ArithmeticError where it divides by what is 0 there, or has no value for another such reason.
        """
        total = 0
        for monomial, coefficient in self.terms.items():
            for atom in monomial:
                coefficient *= sizes[atom.name] if isinstance(atom, Symbol) else _atom_at(atom, sizes)
            total += coefficient
        return total

    def __str__(self) -> str:
        if self._text is None:
            self._text = sum_text(shown_terms(self))
        return self._text

    def __repr__(self) -> str:
        return f"Formula({self})"


def whole(terms: Mapping[Monomial, int]) -> Whole:
    """The formula with these terms, as a plain int where nothing symbolic is left."""
    kept = {monomial: coefficient for monomial, coefficient in terms.items() if coefficient}
    if not kept:
        return 0
    if len(kept) == 1:
        return kept[()] if () in kept else Formula(kept)
    for monomial, coefficient in kept.items():
        if len(monomial) == 1 and type(monomial[0]) is FloorDiv and -coefficient in kept.values():
            joined = _joined_halves(kept, monomial[0], -coefficient)
            if joined is not None:
                return joined
    return Formula(kept)


def _joined_halves(terms: Mapping[Monomial, int], half: FloorDiv, times: int) -> Whole | None:
    """The terms with the other half in place of a whole without one, `times` each, or None where there is none."""
    if not isinstance(half.denominator, int) or half.denominator % 2:
        return None
    middle = half.denominator // 2
    both = terms_of(divided(half.numerator, middle)[0])
    symbolic = [monomial for monomial in both if monomial]
    if len(symbolic) != 1 or both[symbolic[0]] != 1 or terms.get(symbolic[0]) != times or symbolic[0] == (half,):
        return None
    rest = {monomial: coefficient for monomial, coefficient in terms.items() if monomial not in ((half,), symbolic[0])}
    rest[()] = rest.get((), 0) - times * both.get((), 0)
    other = divided(half.numerator + middle, half.denominator)[0]
    return times * other + whole(rest)


def terms_of(size: Whole) -> Mapping[Monomial, int]:
    """The terms of a formula or a number."""
    return size.terms if isinstance(size, Formula) else {(): size}


# Division -------------------------------------------------------------------------------------------


def divided(numerator: Whole, denominator: Whole) -> tuple[Whole, Whole]:
    """`(numerator // denominator, numerator % denominator)` for a denominator that is positive."""
    if isinstance(denominator, Formula):
        return _divided_by_formula(numerator, denominator)
    quotient_terms: dict[Monomial, int] = {}
    rest_terms: dict[Monomial, int] = {}
    for monomial, coefficient in terms_of(numerator).items():
        quotient_terms[monomial], rest_terms[monomial] = divmod(coefficient, denominator)
    rest = whole(rest_terms)
    if isinstance(rest, int):
        return whole(quotient_terms), rest
    floor = _floor(rest, denominator)
    return floor + whole(quotient_terms), rest - denominator * floor


def _floor(rest: Formula, denominator: int) -> Whole:
    """`rest // denominator` where every coefficient of `rest` lies in [0, denominator)."""
    symbolic = {monomial: coefficient for monomial, coefficient in rest.terms.items() if monomial}
    shared = math.gcd(denominator, *symbolic.values())
    if shared > 1:
        reduced = {monomial: coefficient // shared for monomial, coefficient in symbolic.items()}
        return divided(whole({**reduced, (): rest.constant // shared}), denominator // shared)[0]
    upwards = 2 * sum(symbolic.values()) - len(symbolic) * denominator  # above 0 where -rest has the smaller numbers
    first = min(symbolic, key=_name) if len(symbolic) > 1 else next(iter(symbolic))
    if upwards > 0 or (upwards == 0 and 2 * symbolic[first] > denominator):
        return -divided(denominator - 1 - rest, denominator)[0]
    inner = first[0]
    if (
        len(symbolic) == 1
        and symbolic[first] == 1
        and len(first) == 1
        and isinstance(inner, FloorDiv)
        and isinstance(inner.denominator, int)
    ):
        return divided(inner.numerator + rest.constant * inner.denominator, inner.denominator * denominator)[0]
    return Formula({(FloorDiv(rest, denominator),): 1})


def _name(monomial: Monomial) -> str:
    return "*".join(map(str, monomial))


def _divided_by_formula(numerator: Whole, denominator: Formula) -> tuple[Whole, Whole]:
    """The division of polynomials; what is left over is divided as a fraction in lowest terms."""
    if numerator == denominator:
        return 1, 0
    if numerator == 0:
        return 0, 0
    above, below = terms_of(numerator), denominator.terms
    shared = content(above, below)
    names = tuple(
        atom for atom in common_monomial(above, below) if isinstance(atom, Symbol)
    )  # positive as divisors are
    if shared > 1 or names:
        quotient, rest = divided(_reduced(above, names, shared), _reduced(below, names, shared))
        return quotient, rest * Formula({names: shared}) if names else rest * shared
    found, left = long_division(above, below)
    quotient, rest = whole(found), whole(left)
    if rest == 0:
        return quotient, 0
    if found and (content(rest_terms := terms_of(rest), below) > 1 or common_monomial(rest_terms, below)):
        more, rest = divided(rest, denominator)
        return quotient + more, rest
    if len(rest_of := terms_of(rest)) == len(below):
        parts = content(rest_of), content(below)
        if _reduced(rest_of, (), parts[0]) == _reduced(below, (), parts[1]):  # the same polynomial, so many times
            return quotient + parts[0] // parts[1], _reduced(below, (), parts[1]) * (parts[0] % parts[1])
    top = rest if isinstance(rest, Formula) else Formula({(): rest})
    return quotient + Formula({(FloorDiv(top, denominator),): 1}), Formula({(Mod(top, denominator),): 1})


def _reduced(terms: Mapping[Monomial, int], names: Monomial, by: int) -> Whole:
    """The terms divided by a monomial and a number that divide them."""
    return whole(
        {
            cast("Monomial", without(monomial, names)) if names else monomial: coefficient // by
            for monomial, coefficient in terms.items()
        }
    )


# Parts ----------------------------------------------------------------------------------------------


_ROUNDING: dict[str, Callable[[float], int]] = {"floor": math.floor, "ceil": math.ceil, "round": round}


def rounded(how: str, real: Real | float) -> Whole:
    """A float that is rounded to a whole number. Raises ArithmeticError for a number that is none."""
    if isinstance(real, Real):
        return Formula({(Rounded(how, real),): 1})
    if not math.isfinite(real):
        raise ArithmeticError(f"{real} is no number to be rounded")
    return _ROUNDING[how](real)


def _atom_at(atom: FloorDiv | Mod | Max | Min | Rounded, sizes: Mapping[str, int]) -> int:
    if isinstance(atom, Rounded):
        value = rounded(atom.how, atom.real.at(sizes))
        assert isinstance(value, int)
        return value
    if isinstance(atom, (Max, Min)):
        values = [part if isinstance(part, int) else part.at(sizes) for part in atom.parts]
        return max(values) if isinstance(atom, Max) else min(values)
    numerator = atom.numerator.at(sizes)
    denominator = atom.denominator if isinstance(atom.denominator, int) else atom.denominator.at(sizes)
    return numerator // denominator if isinstance(atom, FloorDiv) else numerator % denominator


def parts_of(atom: FloorDiv | Mod | Max | Min | Rounded) -> tuple[Whole, ...]:
    """The formulas that an atom is made of."""
    if isinstance(atom, Rounded):
        return tuple(cast("Iterator[Formula]", atom.real.formulas()))
    return atom.parts if isinstance(atom, (Max, Min)) else (atom.numerator, atom.denominator)


def _names(size: Whole) -> set[str]:
    if isinstance(size, int):
        return set()
    names: set[str] = set()
    for monomial in size.terms:
        for atom in monomial:
            if isinstance(atom, Symbol):
                names.add(atom.name)
            elif isinstance(atom, Rounded):
                names.update(atom.real.symbols())
            else:
                names.update(*map(_names, parts_of(atom)))
    return names


# Text -----------------------------------------------------------------------------------------------


def shown_terms(formula: Formula) -> list[tuple[str, int]]:
    """The terms as they are shown, each with its coefficient; the constant, last, is one of no text."""
    terms, remainders = _with_remainders(formula)
    listed = [*((_name(monomial), coefficient) for monomial, coefficient in terms.items()), *remainders]
    return sorted(listed, key=lambda term: (not term[0], term[1] < 0, term[0]))


def sum_text(terms: Sequence[tuple[str, int]]) -> str:
    """A sum of such terms; 0 for none."""
    text = " + ".join(_term_text(*term) for term in terms).replace("+ -", "- ")
    alone = len(terms) == 1 and terms[0][1] == 1
    return (text[1:-1] if alone and text.startswith("(") and _closes_at_the_end(text) else text) or "0"


def _with_remainders(formula: Formula) -> tuple[Mapping[Monomial, int], list[tuple[str, int]]]:
    """The terms, and the remainders (with how often they are taken) that shorten them: `H - 4*(H//4)` is `H % 4`."""
    terms, remainders = formula.terms, []
    for monomial, coefficient in formula.terms.items():
        for index, atom in enumerate(monomial):
            if type(atom) is not FloorDiv or not isinstance(atom.denominator, int) or monomial not in terms:
                continue
            times, uneven = divmod(-coefficient, atom.denominator)
            if uneven:
                continue
            others = monomial[:index] + monomial[index + 1 :]
            left = dict(terms)
            del left[monomial]
            for inner, count in atom.numerator.terms.items():
                product = multiplied(others, inner)
                left[product] = left.get(product, 0) - times * count
            left = {monomial: coefficient for monomial, coefficient in left.items() if coefficient}
            if len(left) < len(terms) - 1:
                terms = left
                shown = f"({_operand(atom.numerator)} % {atom.denominator})"
                remainders.append(("*".join(sorted([*map(str, others), shown])), times))
    return terms, remainders


def _closes_at_the_end(text: str) -> bool:
    """Whether the bracket that a text begins with is closed by its last."""
    depth = 0
    for index, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return index == len(text) - 1
    return False


def _operand(size: Whole) -> str:
    text = str(size)
    return text if text.isidentifier() or text.isdigit() or _is_chain(size, text) else f"({text})"


def _is_chain(size: Whole, text: str) -> bool:
    """Whether a text is one product or division from the left, which `//` may follow as it is."""
    return isinstance(size, Formula) and len(size.terms) == 1 and () not in size.terms and " % " not in text


def _divisor(size: Whole) -> str:
    text = str(size)
    return text if text.isdigit() or text.isidentifier() else f"({text})"


def _term_text(factors: str, coefficient: int) -> str:
    if not factors:
        return str(coefficient)
    if coefficient == 1:
        return factors
    return f"-{factors}" if coefficient == -1 else f"{coefficient}*{factors}"


__all__ = [
    "Atom",
    "FloorDiv",
    "Formula",
    "Max",
    "Min",
    "Mod",
    "Monomial",
    "Rounded",
    "Symbol",
    "Whole",
    "divided",
    "parts_of",
    "rounded",
    "shown_terms",
    "sum_text",
    "terms_of",
    "whole",
]
