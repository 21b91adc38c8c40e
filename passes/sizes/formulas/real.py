"""Floats that are computed from sizes: `sqrt(H)`, `H*0.7`, `H**-0.5`, as values.

A `Real` is what Python computes in double precision, operation by operation: `at` gives the very float that the
caller's code has at these sizes. Nothing is rearranged, for rounding would differ. Where a float is rounded to a size,
that is an atom of a formula (`passes.sizes.formulas.formula.Rounded`): `floor(sqrt(T))`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Range: TypeAlias = "tuple[float, float]"

EVERYTHING: Range = (-math.inf, math.inf)


class WholeFormula(Protocol):
    """A formula of whole numbers, as floats see it."""

    def at(self, sizes: Mapping[str, int], /) -> int: ...

    def symbols(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Found:
    """A float that only the data say (`passes.sizes.unknown`), by its name."""

    name: str

    def at(self, sizes: Mapping[str, float]) -> float:
        """The float, where the data are known."""
        return float(sizes[self.name])

    def __str__(self) -> str:
        return self.name


Operand: TypeAlias = "int | float | Real | Found | WholeFormula"


@dataclass(frozen=True, slots=True)
class Function:
    """What a float is computed by, and between which numbers it lies where its operands lie between such.

    `precise` says that every runtime's result is the same to the last digit, as IEEE 754 demands of arithmetic.
    """

    compute: Callable[..., float]
    range: Callable[..., Range]
    precise: bool = False


@dataclass(frozen=True, slots=True)
class Real:
    """A float over named dimensions (see the module's docstring): a function of `FUNCTIONS`, and its operands."""

    function: str
    operands: tuple[Any, ...]  # of Operand

    def at(self, sizes: Mapping[str, int]) -> float:
        """The float at these sizes. Raises ArithmeticError where there is none."""
        values = [
            operand if isinstance(operand, (int, float)) else operand.at(sizes)  # a formula's value is an int
            for operand in self.operands
        ]
        try:
            return float(FUNCTIONS[self.function].compute(*values))
        except (TypeError, ValueError) as error:  # of a negative number: a complex one, or none
            raise ArithmeticError(f"{self} is no float at these sizes") from error

    def formulas(self) -> Iterator[WholeFormula]:
        """The formulas in it."""
        for operand in self.operands:
            if isinstance(operand, Real):
                yield from operand.formulas()
            elif not isinstance(operand, (int, float, Found)):
                yield operand

    def found(self) -> Iterator[Found]:
        """The floats in it that only the data say."""
        for operand in self.operands:
            if isinstance(operand, Real):
                yield from operand.found()
            elif isinstance(operand, Found):
                yield operand

    def symbols(self) -> list[str]:
        """Names of the dimensions and of what is found in data, in order."""
        of_formulas = {name for formula in self.formulas() for name in formula.symbols()}
        return sorted(of_formulas.union(found.name for found in self.found()))

    def rewritten(self, value_of: Callable[[Any], Any]) -> Real | float:
        """The same of other formulas; a number where nothing symbolic is left."""
        operands = tuple(
            operand
            if isinstance(operand, (int, float, Found))
            else operand.rewritten(value_of)
            if isinstance(operand, Real)
            else value_of(operand)
            for operand in self.operands
        )
        found = Real(self.function, operands)
        return found.at({}) if all(isinstance(operand, (int, float)) for operand in operands) else found

    def range(self, range_of: Callable[[WholeFormula], Range]) -> Range:
        """Numbers below and above which it never is, from those of its formulas."""
        ranges = [
            (float(operand), float(operand))
            if isinstance(operand, (int, float))
            else EVERYTHING
            if isinstance(operand, Found)
            else operand.range(range_of)
            if isinstance(operand, Real)
            else range_of(operand)
            for operand in self.operands
        ]
        try:
            low, high = FUNCTIONS[self.function].range(*ranges)
        except (ArithmeticError, ValueError, TypeError):
            return EVERYTHING
        return EVERYTHING if math.isnan(low) or math.isnan(high) else (low, high)

    @property
    def rounds_alike(self) -> bool:
        """Whether another runtime rounds it to the same integer: what is computed only roughly is not computed with."""
        return all(not isinstance(operand, Real) or operand._is_precise() for operand in self.operands)

    def _is_precise(self) -> bool:
        return FUNCTIONS[self.function].precise and self.rounds_alike

    def __str__(self) -> str:
        if self.function == "neg":
            return f"-{_shown(self.operands[0])}"
        if self.function in _INFIX:
            left, right = map(_shown, self.operands)
            blank = " " if self.function in "+-" else ""
            return f"{left}{blank}{self.function}{blank}{right}"
        return f"{self.function}({', '.join(map(_number, self.operands))})"

    def __repr__(self) -> str:
        return f"Real({self})"


def _number(operand: Operand) -> str:
    return repr(operand) if isinstance(operand, (int, float)) else str(operand)


def _shown(operand: Operand) -> str:
    """An operand between signs, in parentheses where it has signs of its own."""
    text = _number(operand)
    if isinstance(operand, Real):
        return f"({text})" if operand.function == "neg" or operand.function in _INFIX else text
    return text if isinstance(operand, (int, float)) or text.isidentifier() else f"({text})"


# Functions ------------------------------------------------------------------------------------------


def _corners(compute: Callable[[float, float], float], left: Range, right: Range) -> Range:
    found = [0.0 if a == 0 or b == 0 else compute(a, b) for a in left for b in right]
    return (min(found), max(found)) if not any(map(math.isnan, found)) else EVERYTHING


def _quotient(left: Range, right: Range) -> Range:
    if right[0] <= 0 <= right[1]:
        return EVERYTHING
    found = [0.0 if math.isinf(b) and not math.isinf(a) else a / b for a in left for b in right]
    return (min(found), max(found)) if not any(map(math.isnan, found)) else EVERYTHING


def _power(base: Range, exponent: Range) -> Range:
    if base[0] <= 0 or exponent[0] != exponent[1]:
        return (0, math.inf) if base[0] >= 0 else EVERYTHING
    found = [number ** exponent[0] for number in base]
    return min(found), max(found)


def _rising(compute: Callable[[float], float], least: float, at_least: float) -> Callable[[Range], Range]:
    """The range of a function that rises from `least` on, where it is `at_least`."""

    def range_of(x: Range) -> Range:
        high = math.inf if math.isinf(x[1]) else compute(x[1])
        return (compute(x[0]) if x[0] > least else at_least), high

    return range_of


def _absolute(x: Range) -> Range:
    least = 0.0 if x[0] <= 0 <= x[1] else min(abs(x[0]), abs(x[1]))
    return least, max(abs(x[0]), abs(x[1]))


def _waves(x: Range) -> Range:
    return -1.0, 1.0


FUNCTIONS: dict[str, Function] = {
    "float": Function(float, lambda x: x, precise=True),
    "neg": Function(operator.neg, lambda x: (-x[1], -x[0]), precise=True),
    "abs": Function(abs, _absolute, precise=True),
    "+": Function(operator.add, lambda x, y: (x[0] + y[0], x[1] + y[1]), precise=True),
    "-": Function(operator.sub, lambda x, y: (x[0] - y[1], x[1] - y[0]), precise=True),
    "*": Function(operator.mul, lambda x, y: _corners(operator.mul, x, y), precise=True),
    "/": Function(operator.truediv, _quotient, precise=True),
    "**": Function(operator.pow, _power),
    "max": Function(max, lambda *x: (max(low for low, _ in x), max(high for _, high in x)), precise=True),
    "min": Function(min, lambda *x: (min(low for low, _ in x), min(high for _, high in x)), precise=True),
    "sqrt": Function(math.sqrt, _rising(math.sqrt, 0, 0), precise=True),
    "exp": Function(math.exp, _rising(math.exp, -math.inf, 0)),
    "log": Function(math.log, _rising(math.log, 0, -math.inf)),
    "log2": Function(math.log2, _rising(math.log2, 0, -math.inf)),
    "log10": Function(math.log10, _rising(math.log10, 0, -math.inf)),
    "sin": Function(math.sin, _waves),
    "cos": Function(math.cos, _waves),
    "tanh": Function(math.tanh, _waves),
}  # fmt: skip

_INFIX = frozenset({"+", "-", "*", "/", "**"})

__all__ = ["EVERYTHING", "FUNCTIONS", "Found", "Operand", "Range", "Real", "WholeFormula"]
