"""Division of polynomials in several unknowns, with integer coefficients, as far as it goes.

A polynomial maps monomials (sorted tuples of unknowns, each as often as its power) to coefficients. Monomials are
ordered by their degree, then by their powers of the unknowns in the order of their names, which products respect; so
the usual long division ends, and its result is the only one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Generic, TypeVar

Unknown = TypeVar("Unknown")


def long_division(
    numerator: Mapping[tuple[Unknown, ...], int], denominator: Mapping[tuple[Unknown, ...], int]
) -> tuple[dict[tuple[Unknown, ...], int], dict[tuple[Unknown, ...], int]]:
    """`quotient, rest` with `numerator == quotient*denominator + rest`, no term of the rest divisible any more.

    A coefficient is divided as whole numbers are: `5*N` by `2*N` leaves `N`.
    """
    powers: _Powers[Unknown] = _Powers(numerator, denominator)
    lead = max(denominator, key=powers.rank)
    by = denominator[lead]
    left = dict(numerator)
    quotient: dict[tuple[Unknown, ...], int] = {}
    rest: dict[tuple[Unknown, ...], int] = {}
    while left:
        monomial = max(left, key=powers.rank)
        factor = without(monomial, lead)
        times = left[monomial] // by if factor is not None else 0
        if factor is not None and times:
            quotient[factor] = quotient.get(factor, 0) + times
            for below, coefficient in denominator.items():
                product = multiplied(factor, below)
                left[product] = left.get(product, 0) - times * coefficient
        remains = left.pop(monomial)
        if remains:
            rest[monomial] = remains
        left = {monomial: coefficient for monomial, coefficient in left.items() if coefficient}
    return quotient, rest


class _Powers(Generic[Unknown]):
    """The order of monomials (see the module's docstring)."""

    def __init__(self, *polynomials: Mapping[tuple[Unknown, ...], int]):
        unknowns = {unknown for terms in polynomials for monomial in terms for unknown in monomial}
        self._unknowns = sorted(unknowns, key=str)

    def rank(self, monomial: tuple[Unknown, ...]) -> tuple[int, ...]:
        count = Counter(monomial)
        return (len(monomial), *(count[unknown] for unknown in self._unknowns))


def multiplied(left: tuple[Unknown, ...], right: tuple[Unknown, ...]) -> tuple[Unknown, ...]:
    """The product of two monomials."""
    return tuple(sorted(left + right, key=str)) if left and right else left or right


def without(monomial: tuple[Unknown, ...], divisor: tuple[Unknown, ...]) -> tuple[Unknown, ...] | None:
    """The monomial divided by another, or None where that is no divisor."""
    rest = list(monomial)
    for unknown in divisor:
        if unknown not in rest:
            return None
        rest.remove(unknown)
    return tuple(rest)


def content(*polynomials: Mapping[tuple[Unknown, ...], int]) -> int:
    """The greatest common divisor of all coefficients."""
    return math.gcd(*(coefficient for terms in polynomials for coefficient in terms.values()))


def common_monomial(*polynomials: Mapping[tuple[Unknown, ...], int]) -> tuple[Unknown, ...]:
    """The largest monomial that divides every term."""
    monomials = [monomial for terms in polynomials for monomial in terms]
    shared = Counter(monomials[0]) if monomials else Counter[Unknown]()
    for monomial in monomials[1:]:
        shared &= Counter(monomial)
    return tuple(sorted(shared.elements(), key=str))


__all__ = ["common_monomial", "content", "long_division", "multiplied", "without"]
