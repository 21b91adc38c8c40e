"""The text of size formulas, read: `H//4`, `(N + 1)*(T % 8)`, `max(H, 3)`. `str(Formula)` writes it.

A formula is read by the arithmetic of `Formula`, so that what is read is in the normal form of what was written.
"""

from __future__ import annotations

from collections.abc import Collection

from passes.sizes.extremes import maximum, minimum
from passes.sizes.fact import Fact, Origin, condition_text, solved
from passes.sizes.formula import Formula, Whole, divided
from passes.text.scanner import MalformedTextError, Scanner

_FACTORS = r"//|\*|%"
_TERMS = r"[+-]"
RELATIONS = "==|!=|>=|<=|>|<"


def read_formula(scanner: Scanner, names: Collection[str] | None) -> Whole:
    """A formula of named sizes: of these, or of any where `names` is None. Raises MalformedTextError."""
    size = _read_term(scanner, names)
    while (sign := scanner.match(_TERMS)) is not None:
        term = _read_term(scanner, names)
        size = size + term if sign == "+" else size - term
    return size


def _read_term(scanner: Scanner, names: Collection[str] | None) -> Whole:
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


def _read_factor(scanner: Scanner, names: Collection[str] | None) -> Whole:
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
    extreme = scanner.match(r"(?:max|min|abs)(?= *\()")
    if extreme is not None:
        return _read_extreme(scanner, extreme, names)
    name = scanner.take(r"[^\W\d]\w*", "a size")
    if names is not None and name not in names:
        scanner.position = before
        raise scanner.fault("one of the named sizes" if names else "a size")
    return Formula.symbol(name)


def _read_extreme(scanner: Scanner, kind: str, names: Collection[str] | None) -> Whole:
    """What `max`, `min` or `abs` is of the sizes in the brackets that follow."""
    scanner.expect("(")
    parts = [read_formula(scanner, names)]
    while kind != "abs" and scanner.found(","):
        parts.append(read_formula(scanner, names))
    scanner.expect(")")
    if kind == "abs":
        return maximum(parts[0], -parts[0])
    return maximum(*parts) if kind == "max" else minimum(*parts)


def read_fact(condition: str, names: Collection[str] | None) -> Fact | None:
    """What a guard says of formulas; None where it compares no formulas of these sizes."""
    scanner = Scanner(condition)
    try:
        left = read_formula(scanner, names)
        relation = scanner.take(RELATIONS, "a comparison")
        right = read_formula(scanner, names)
        scanner.end()
    except MalformedTextError:
        return None
    return compared(left, relation, right, condition)


def compared(
    left: Whole, relation: str, right: Whole, condition: str = "", origin: Origin = Origin.GUARD
) -> Fact | None:
    """What a comparison says, in its own words where no `condition` is given; None where it depends on no size."""
    if relation in ("==", "!="):
        difference = left - right
    else:
        difference = left - right if relation[0] == ">" else right - left
        if len(relation) == 1:
            difference = difference - 1
        relation = ">="
    if not isinstance(difference, Formula):
        return None
    if relation == ">=":
        difference = solved(difference)
    return Fact(difference, relation, condition or condition_text(difference, relation), origin)
