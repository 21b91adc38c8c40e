"""Comparisons of sizes in words that people use: `H >= 29`, `N*T <= 4096`, `2*H > W`, `W % 32 == 0`."""

from __future__ import annotations

from passes.sizes.formula import Formula, Monomial, Whole, whole

_OPPOSITE = {">=": "<=", ">": "<", "==": "==", "!=": "!="}


def condition_text(formula: Formula, relation: str) -> str:
    """That a formula has a relation (`==`, `!=`, `>=`) to zero, with what is subtracted on the other side."""
    left = _part(formula, 1)
    right = _part(formula, -1)
    constant = formula.constant
    if left == 0:  # 4096 >= N*T
        return f"{right} {_OPPOSITE[relation]} {constant}"
    if relation == ">=" and constant == -1 and right != 0:
        return f"{left} > {right}"
    return f"{left} {relation} {right - constant}"


def _part(formula: Formula, sign: int) -> Whole:
    """The terms with names of that sign, made positive."""
    terms: dict[Monomial, int] = {
        monomial: sign * coefficient
        for monomial, coefficient in formula.terms.items()
        if monomial and sign * coefficient > 0
    }
    return whole(terms)


__all__ = ["condition_text"]
