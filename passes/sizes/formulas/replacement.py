"""A formula with something else in place of its parts, computed anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from passes.sizes.formulas.extremes import maximum, minimum
from passes.sizes.formulas.formula import (
    Atom,
    FloorDiv,
    Formula,
    Max,
    Min,
    Monomial,
    Rounded,
    Symbol,
    Whole,
    divided,
    parts_of,
    rounded,
    terms_of,
)
from passes.sizes.formulas.polynomials import without


def rewritten(size: Whole, value_of: Callable[[Atom], Whole | None]) -> Whole:
    """The formula with `value_of(atom)` for every atom, computed anew; None leaves an atom as it is."""

    def within(atom: Atom) -> Whole:
        value = value_of(atom)
        return _rebuilt(atom, lambda part: rewritten(part, value_of)) if value is None else value

    if isinstance(size, int):
        return size
    total: Whole = 0
    for monomial, coefficient in size.terms.items():
        total = total + _product(coefficient, map(within, monomial))
    return total


def replaced(size: Whole, product: Monomial, value: Whole) -> Whole:
    """The formula with a value for a product of atoms, as often as that is a factor of its terms, computed anew."""
    if len(product) == 1:
        return rewritten(size, lambda atom: value if atom == product[0] else None)
    if isinstance(size, int):
        return size
    total: Whole = 0
    for monomial, coefficient in size.terms.items():
        factors: list[Whole] = []
        left = monomial
        while (rest := without(left, product)) is not None:
            left = rest
            factors.append(value)
        factors += [_rebuilt(atom, lambda part: replaced(part, product, value)) for atom in left]
        total = total + _product(coefficient, factors)
    return total


def contains(size: Whole, product: Monomial) -> bool:
    """Whether a product of atoms is a factor of a term, at any depth."""
    return any(
        without(monomial, product) is not None
        or any(contains(part, product) for atom in monomial if not isinstance(atom, Symbol) for part in parts_of(atom))
        for monomial in terms_of(size)
    )


def _rebuilt(atom: Atom, value_of: Callable[[Whole], Whole]) -> Whole:
    """An atom, with a value for each of the formulas that it is made of."""
    if isinstance(atom, Symbol):
        return Formula({(atom,): 1})
    if isinstance(atom, Rounded):
        return rounded(atom.how, atom.real.rewritten(value_of))
    parts = [value_of(part) for part in parts_of(atom)]
    if isinstance(atom, (Max, Min)):
        return maximum(*parts) if isinstance(atom, Max) else minimum(*parts)
    if isinstance(parts[1], int) and parts[1] <= 0:  # there are no such sizes
        return Formula({(atom,): 1})
    return divided(parts[0], parts[1])[not isinstance(atom, FloorDiv)]


def _product(coefficient: int, factors: Iterable[Whole]) -> Whole:
    term: Whole = coefficient
    for factor in factors:
        term = term * factor
    return term


__all__ = ["contains", "replaced", "rewritten"]
