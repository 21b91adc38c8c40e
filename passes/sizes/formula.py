"""Formulas of sizes, as values: integer polynomials over named dimensions, floor divisions and remainders.

A `Formula` is kept in a normal form, so that equal formulas are equal without a solver, and anything that turns out
constant is a plain `int` again. Two rewrites do most of the work for the sizes of networks (d > 0, r and c integers):

    (d*q + r) // d      =  q + r // d          whole multiples leave the division
    (a // b + c) // d   =  (a + b*c) // (b*d)  nested divisions collapse

so a padded convolution followed by two poolings reads `H//4`, not `((H - 2)//2 + 1 - 2)//2 + 1`.

Formulas compare, hash and print without side effects, and have no order: whether one is at least another is a question
of what is known of its names, which `passes.sizes.facts` answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


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
    """`numerator % denominator`, irreducible; the denominator is positive."""

    numerator: Formula
    denominator: Whole

    def __str__(self) -> str:
        return f"({_operand(self.numerator)} % {_divisor(self.denominator)})"


Atom: TypeAlias = "Symbol | FloorDiv | Mod"
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
                monomial = tuple(sorted(left + right, key=str)) if left and right else left or right
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

        Raises ZeroDivisionError where it divides by what is 0 there.
        """
        total = 0
        for monomial, coefficient in self.terms.items():
            for atom in monomial:
                coefficient *= sizes[atom.name] if isinstance(atom, Symbol) else _atom_at(atom, sizes)
            total += coefficient
        return total

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
        return f"Formula({self})"


def whole(terms: Mapping[Monomial, int]) -> Whole:
    """The formula with these terms, as a plain int where nothing symbolic is left."""
    kept = {monomial: coefficient for monomial, coefficient in terms.items() if coefficient}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return Formula(kept)


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
    return _floor(rest, denominator) + whole(quotient_terms), whole({(Mod(rest, denominator),): 1})


def _floor(rest: Formula, denominator: int) -> Whole:
    """`rest // denominator` where every coefficient of `rest` lies in [0, denominator)."""
    symbolic = {monomial: coefficient for monomial, coefficient in rest.terms.items() if monomial}
    shared = math.gcd(denominator, *symbolic.values())
    if shared > 1:
        reduced = {monomial: coefficient // shared for monomial, coefficient in symbolic.items()}
        return divided(whole({**reduced, (): rest.constant // shared}), denominator // shared)[0]
    if len(symbolic) == 1:
        ((monomial, coefficient),) = symbolic.items()
        inner = monomial[0]
        if (
            coefficient == 1
            and len(monomial) == 1
            and isinstance(inner, FloorDiv)
            and isinstance(inner.denominator, int)
        ):
            return divided(inner.numerator + rest.constant * inner.denominator, inner.denominator * denominator)[0]
    return Formula({(FloorDiv(rest, denominator),): 1})


def _divided_by_formula(numerator: Whole, denominator: Formula) -> tuple[Whole, Whole]:
    quotient = _exact_quotient(numerator, denominator)
    if quotient is not None:
        return whole(quotient), 0
    top = numerator if isinstance(numerator, Formula) else Formula({(): numerator})
    return Formula({(FloorDiv(top, denominator),): 1}), Formula({(Mod(top, denominator),): 1})


def _exact_quotient(numerator: Whole, denominator: Formula) -> dict[Monomial, int] | None:
    """Terms of `numerator / denominator` where the division is exact term by term, else None."""
    if numerator == denominator:
        return {(): 1}
    if len(denominator.terms) != 1:
        return None
    ((divisor, by),) = denominator.terms.items()
    quotient: dict[Monomial, int] = {}
    for monomial, coefficient in terms_of(numerator).items():
        rest = list(monomial)
        for atom in divisor:
            if atom not in rest:
                return None
            rest.remove(atom)
        if coefficient % by:
            return None
        quotient[tuple(rest)] = coefficient // by
    return quotient


# Parts ----------------------------------------------------------------------------------------------


def _atom_at(atom: FloorDiv | Mod, sizes: Mapping[str, int]) -> int:
    numerator = atom.numerator.at(sizes)
    denominator = atom.denominator.at(sizes) if isinstance(atom.denominator, Formula) else atom.denominator
    return numerator // denominator if isinstance(atom, FloorDiv) else numerator % denominator


def _names(size: Whole) -> set[str]:
    if isinstance(size, int):
        return set()
    names: set[str] = set()
    for monomial in size.terms:
        for atom in monomial:
            if isinstance(atom, Symbol):
                names.add(atom.name)
            else:
                names |= _names(atom.numerator) | _names(atom.denominator)
    return names


def _operand(size: Whole) -> str:
    text = str(size)
    return f"({text})" if isinstance(size, Formula) and (len(size.terms) > 1 or " % " in text) else text


def _divisor(size: Whole) -> str:
    text = str(size)
    return text if text.isdigit() or text.isidentifier() else f"({text})"


def _term_text(monomial: Monomial, coefficient: int) -> str:
    if not monomial:
        return str(coefficient)
    factors = "*".join(map(str, monomial))
    if coefficient == 1:
        return factors
    return f"-{factors}" if coefficient == -1 else f"{coefficient}*{factors}"


__all__ = ["Atom", "FloorDiv", "Formula", "Mod", "Monomial", "Symbol", "Whole", "divided", "terms_of", "whole"]
