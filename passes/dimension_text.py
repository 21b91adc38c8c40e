"""The text of size formulas, read: `H//4`, `(N + 1)*(T % 8)`. `str(Dim)` writes it.

A formula is read by the arithmetic of `Dim`, so that what is read is in the normal form of what was written.
"""

from __future__ import annotations

from passes.dimension import Dim, Size, solved
from passes.guards import GuardLog
from passes.text_scanner import MalformedTextError, Scanner

_FACTORS = r"//|\*|%"
_TERMS = r"[+-]"
_RELATIONS = "==|!=|>=|<=|>|<"


def read_size(scanner: Scanner, log: GuardLog) -> Size:
    """A formula of the sizes that the log samples. Raises MalformedTextError.

    Dividing by a formula may ask for its sign, which the log then records.
    """
    size = _read_term(scanner, log)
    while (sign := scanner.match(_TERMS)) is not None:
        term = _read_term(scanner, log)
        size = size + term if sign == "+" else size - term
    return size


def _read_term(scanner: Scanner, log: GuardLog) -> Size:
    size = _read_factor(scanner, log)
    while (sign := scanner.match(_FACTORS)) is not None:
        column = scanner.position
        factor = _read_factor(scanner, log)
        if sign == "*":
            size = size * factor
        elif factor == 0:
            raise MalformedTextError("a divisor other than 0", column)
        else:
            size = size // factor if sign == "//" else size % factor
    return size


def _read_factor(scanner: Scanner, log: GuardLog) -> Size:
    if scanner.found("-"):
        return -_read_factor(scanner, log)
    if scanner.found("("):
        size = read_size(scanner, log)
        scanner.expect(")")
        return size
    number = scanner.match(r"\d+")
    if number is not None:
        return int(number)
    before = scanner.position
    name = scanner.take(r"[^\W\d]\w*", "a size")
    if name not in log.sampled:
        scanner.position = before
        raise scanner.fault("one of the named sizes" if log.sampled else "a size")
    return Dim.symbol(name, log.sampled[name], log)


def read_fact(condition: str, log: GuardLog) -> tuple[Dim, str] | None:
    """What a guard says, as a formula and its relation to zero; None where it compares no formulas of these sizes."""
    scanner = Scanner(condition)
    try:
        left = read_size(scanner, log)
        relation = scanner.take(_RELATIONS, "a comparison")
        right = read_size(scanner, log)
        scanner.end()
    except MalformedTextError:
        return None
    if relation in ("==", "!="):
        fact = left - right
        return (fact, relation) if isinstance(fact, Dim) else None
    slack = left - right if relation[0] == ">" else right - left
    if len(relation) == 1:
        slack = slack - 1
    return (solved(slack), ">=") if isinstance(slack, Dim) else None
