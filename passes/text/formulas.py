"""The text of size formulas, read: `H//4`, `(N + 1)*(T % 8)`. `str(Formula)` writes it.

A formula is read by the arithmetic of `Formula`, so that what is read is in the normal form of what was written.
"""

from __future__ import annotations

from collections.abc import Collection

from passes.sizes.facts import Fact, solved
from passes.sizes.formula import Formula, Whole, divided
from passes.text.scanner import MalformedTextError, Scanner

_FACTORS = r"//|\*|%"
_TERMS = r"[+-]"
_RELATIONS = "==|!=|>=|<=|>|<"


def read_formula(scanner: Scanner, names: Collection[str]) -> Whole:
    """A formula of named sizes. Raises MalformedTextError."""
    size = _read_term(scanner, names)
    while (sign := scanner.match(_TERMS)) is not None:
        term = _read_term(scanner, names)
        size = size + term if sign == "+" else size - term
    return size


def _read_term(scanner: Scanner, names: Collection[str]) -> Whole:
    size = _read_factor(scanner, names)
    while (sign := scanner.match(_FACTORS)) is not None:
        column = scanner.position
        factor = _read_factor(scanner, names)
        if sign == "*":
            size = size * factor
        elif isinstance(factor, int) and factor <= 0:
            raise MalformedTextError("a positive divisor", column)
        else:
            size = divided(size, factor)[sign == "%"]
    return size


def _read_factor(scanner: Scanner, names: Collection[str]) -> Whole:
    if scanner.found("-"):
        return -_read_factor(scanner, names)
    if scanner.found("("):
        size = read_formula(scanner, names)
        scanner.expect(")")
        return size
    number = scanner.match(r"\d+")
    if number is not None:
        return int(number)
    before = scanner.position
    name = scanner.take(r"[^\W\d]\w*", "a size")
    if name not in names:
        scanner.position = before
        raise scanner.fault("one of the named sizes" if names else "a size")
    return Formula.symbol(name)


def read_fact(condition: str, names: Collection[str]) -> Fact | None:
    """What a guard says of formulas; None where it compares no formulas of these sizes."""
    scanner = Scanner(condition)
    try:
        left = read_formula(scanner, names)
        relation = scanner.take(_RELATIONS, "a comparison")
        right = read_formula(scanner, names)
        scanner.end()
    except MalformedTextError:
        return None
    if relation in ("==", "!="):
        difference = left - right
        return Fact(difference, relation, condition) if isinstance(difference, Formula) else None
    slack = left - right if relation[0] == ">" else right - left
    if len(relation) == 1:
        slack = slack - 1
    return Fact(solved(slack), ">=", condition) if isinstance(slack, Formula) else None
