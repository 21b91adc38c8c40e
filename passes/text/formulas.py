"""The text of size formulas, read: `H//4`, `(N + 1)*(T % 8)`, `max(H, 3)`, `floor(sqrt(T))`. `str(Formula)` writes it.

A formula is read by the arithmetic of `Formula`, so that what is read is in the normal form of what was written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from passes.sizes.fact import Fact, Origin, condition_text, solved
from passes.sizes.formulas.extremes import maximum, minimum
from passes.sizes.formulas.formula import Formula, Whole, divided, rounded
from passes.sizes.formulas.real import FUNCTIONS, Real
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
    how = scanner.match(r"(?:floor|ceil|round)(?= *\()")
    if how is not None:
        scanner.expect("(")
        real = read_number(scanner, names)
        scanner.expect(")")
        if not isinstance(real, Real):
            raise MalformedTextError("a float over sizes", before)
        return rounded(how, real)
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
    return _extreme(kind, parts)


def _extreme(kind: str, parts: Sequence[Whole]) -> Whole:
    if kind == "abs":
        return maximum(parts[0], -parts[0])
    return maximum(*parts) if kind == "max" else minimum(*parts)


# Floats over sizes ----------------------------------------------------------------------------------

_NAMED = "|".join(sorted(name for name in FUNCTIONS if name.isidentifier() and name not in ("neg",)))


def read_number(scanner: Scanner, names: Collection[str] | None) -> Whole | float | Real:
    """A float over named sizes, as `str(Real)` writes it, or a formula, or a number. Raises MalformedTextError."""
    found = _read_product(scanner, names)
    while (sign := scanner.match(_TERMS)) is not None:
        found = _joined(sign, found, _read_product(scanner, names))
    return found


def _read_product(scanner: Scanner, names: Collection[str] | None) -> Whole | float | Real:
    found = _read_power(scanner, names)
    while (sign := scanner.match(r"//|/|%|\*(?!\*)")) is not None:
        column = scanner.position
        other = _read_power(scanner, names)
        if sign not in ("//", "%"):
            found = _joined(sign, found, other)
        elif isinstance(found, (float, Real)) or isinstance(other, (float, Real)) or _is_not_positive(other):
            raise MalformedTextError("a positive divisor", column)
        else:
            found = divided(found, other)[sign == "%"]
    return found


def _read_power(scanner: Scanner, names: Collection[str] | None) -> Whole | float | Real:
    if scanner.found("-"):
        number = _read_power(scanner, names)
        return Real("neg", (number,)) if isinstance(number, Real) else -number
    found = _read_operand(scanner, names)
    return _joined("**", found, _read_power(scanner, names)) if scanner.found("**") else found


def _read_operand(scanner: Scanner, names: Collection[str] | None) -> Whole | float | Real:
    number = scanner.match(r"\d+(?:\.\d+(?:e[+-]?\d+)?|e[+-]?\d+)(?!\w)")
    if number is not None:
        return float(number)
    name = scanner.match(rf"(?:{_NAMED})(?= *\()")
    if name is not None:
        scanner.expect("(")
        operands = [read_number(scanner, names)]
        while name in ("max", "min") and scanner.found(","):
            operands.append(read_number(scanner, names))
        scanner.expect(")")
        wholes = [operand for operand in operands if isinstance(operand, (int, Formula))]
        if name in ("max", "min", "abs") and len(wholes) == len(operands):
            return _extreme(name, wholes)
        return Real(name, tuple(operands))
    if scanner.found("("):
        found = read_number(scanner, names)
        scanner.expect(")")
        return found
    return _read_factor(scanner, names)


def _joined(sign: str, left: Whole | float | Real, right: Whole | float | Real) -> Whole | float | Real:
    if sign in "+-*" and isinstance(left, (int, Formula)) and isinstance(right, (int, Formula)):
        return left * right if sign == "*" else left + right if sign == "+" else left - right
    return Real(sign, (left, right))


def _is_not_positive(divisor: Whole | float | Real) -> bool:
    return isinstance(divisor, int) and divisor <= 0


# Facts ----------------------------------------------------------------------------------------------


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
