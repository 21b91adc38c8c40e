"""A fact about named sizes: that a formula has a relation to zero, in which words, and who said so."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from passes.sizes.formulas.formula import FloorDiv, Formula, Rounded, Whole, rounded, shown_terms, sum_text, whole


class Answer(enum.Enum):
    """What is known of a statement."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    def __bool__(self) -> bool:
        raise TypeError("an answer is compared with YES, NO or UNKNOWN; unknown is neither true nor false")


class Origin(enum.Enum):
    """Where a fact comes from."""

    DEFAULT = "default"  # every name is at least LEAST_SIZE, where nothing else is said of it
    GIVEN = "given"  # the caller promised it
    GUARD = "guard"  # a decision at the sampled sizes assumed it
    DATA = "data"  # an operation that counts in the data gives nothing else, or the model itself fails


class Evaluated(Protocol):
    """What a fact is about: something that has a value at given sizes. A `Formula` is one."""

    def at(self, sizes: Mapping[str, int], /) -> int: ...

    def symbols(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Fact:
    """That a formula has a relation (`==`, `!=`, `>=`) to zero; `condition` says it in the words of a guard."""

    formula: Evaluated
    relation: str
    condition: str
    origin: Origin = Origin.GUARD

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether it is so at these sizes; not where it divides by a size of 0."""
        return holds(self.formula, self.relation, sizes)


_RELATIONS = {"==": int.__eq__, "!=": int.__ne__, ">=": int.__ge__}


def holds(formula: Evaluated, relation: str, sizes: Mapping[str, int]) -> bool:
    """Whether a formula has that relation to zero at these sizes; not where it divides by a size of 0."""
    try:
        return bool(_RELATIONS[relation](formula.at(sizes), 0))
    except ArithmeticError:
        return False


_NEGATED = {"==": "!=", "!=": "=="}


def opposite(fact: Fact) -> Fact | None:
    """The fact that holds where this one does not; None where that is none about a formula."""
    if fact.relation in _NEGATED:
        return Fact(fact.formula, _NEGATED[fact.relation], "")
    below = -fact.formula - 1 if isinstance(fact.formula, Formula) else None
    return Fact(below, ">=", "") if isinstance(below, Formula) else None


def solved(slack: Formula) -> Formula:
    """An equivalent of `slack >= 0` without its outer division or rounding: `2*(H//8) - 1 >= 0` is `H - 8 >= 0`."""
    while True:
        symbolic = {monomial: coefficient for monomial, coefficient in slack.terms.items() if monomial}
        ((monomial, coefficient),) = symbolic.items() if len(symbolic) == 1 else (((), 0),)
        if len(monomial) != 1 or coefficient <= 0:
            return slack
        least = -(slack.constant // coefficient)
        atom = monomial[0]
        if isinstance(atom, FloorDiv) and isinstance(atom.denominator, int):
            without = atom.numerator - least * atom.denominator
        elif isinstance(atom, Rounded) and (bound := _least_operand(atom, least)) is not None:
            without = bound
        elif coefficient > 1:
            without = whole({monomial: 1, (): -least})
        else:
            return slack
        if not isinstance(without, Formula):
            return slack
        slack = without


# Up to which number an operand is looked for that takes a rounded float to some size.
_LARGEST_OPERAND = 2**40


def _least_operand(atom: Rounded, least: int) -> Whole | None:
    """A formula that is at least zero just where a rounded float is at least so much: `floor(H*0.7) >= 1` is `H >= 2`.

    None where it is not one formula times a positive number, or the root of one.
    """
    real, places = (
        atom.real,
        [place for place, operand in enumerate(atom.real.operands) if isinstance(operand, Formula)],
    )
    others = [operand for operand in real.operands if not isinstance(operand, Formula)]
    if len(places) != 1 or not all(isinstance(operand, (int, float)) and operand > 0 for operand in others):
        return None
    if not (real.function in ("*", "sqrt", "float") or (real.function == "/" and places == [0])):
        return None

    def reaches(operand: int) -> bool:
        value = rounded(atom.how, real.rewritten(lambda _: operand))
        return isinstance(value, int) and value >= least

    low, high = -1, _LARGEST_OPERAND
    if least < 1 or not reaches(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    operand: Formula = real.operands[places[0]]
    return operand - high


# Words -----------------------------------------------------------------------------------------------

_OPPOSITE = {">=": "<=", "==": "==", "!=": "!="}


def condition_text(formula: Formula, relation: str) -> str:
    """That a formula has a relation (`==`, `!=`, `>=`) to zero, with what is subtracted on the other side."""
    terms = shown_terms(formula)
    constant = terms[-1][1] if not terms[-1][0] else 0
    left = [(text, number) for text, number in terms if text and number > 0]
    right = [(text, -number) for text, number in terms if text and number < 0]
    if not left:  # 4096 >= N*T
        return f"{sum_text(right)} {_OPPOSITE[relation]} {constant}"
    if relation == ">=" and constant == -1 and right:
        return f"{sum_text(left)} > {sum_text(right)}"
    return f"{sum_text(left)} {relation} {sum_text([*right, *([('', -constant)] if constant else [])])}"


__all__ = ["Answer", "Evaluated", "Fact", "Origin", "condition_text", "holds", "opposite", "solved"]
