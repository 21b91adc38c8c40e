"""Sizes and numbers that only the data say: how many elements `nonzero` finds, what number `item()` is.

A rule that cannot know a size gives a `DataSize` in its place: between which numbers it lies, and what is counted.
Propagation makes it a name of its own (`u0`), a `Dim` like those of inputs, but for two things: it has no least size by
default, and nobody samples it. A question about it that the facts leave open is no guard, since no caller could keep
it: it is an `UnknownSizeError`. A float (`DataFloat`) becomes a `Floating` of such a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from passes.sizes.fact import Fact, Origin, condition_text
from passes.sizes.floating import DynamicSize, DynamicSizeError
from passes.sizes.formulas.formula import Formula, Whole
from passes.sizes.formulas.real import Real

# What stands for an unknown size where a number is needed to go on with, as in costs: neither 0 nor 1, if it can be.
STAND_IN = 5

LEAST_INTEGER, LARGEST_INTEGER = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True, eq=False)
class DataSize:
    """A size in the result of a rule that the data say. Each is one of its own, equal to no other.

    It lies between `least` and `most`, if that is known. `what` says what it is: "number that item() gives".
    Two that count the same in one operand, `of`, are one size: `x[mask]` and `y[mask]`.
    """

    what: str
    least: int | DynamicSize = 0
    most: int | DynamicSize | None = None
    of: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class DataFloat:
    """A float in the result of a rule that the data say; `what` and `of` are those of a `DataSize`."""

    what: str
    of: Any = None


def is_data_size(size: object) -> bool:
    """Whether a size or a number in a rule's result still has no name."""
    return type(size) in (DataSize, DataFloat)


@dataclass(frozen=True, slots=True)
class Unknown:
    """An unknown size by its name: what it is, where it was found, and a number that it could be.

    `limits` says between which numbers it lies, and `counted` what is counted in which node, for sizes that are the
    same wherever they are.
    """

    name: str
    what: str
    place: str
    stand_in: int
    limits: str = ""
    counted: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.name} is the {self.what}, at {self.place}"


class UnknownSizeError(DynamicSizeError):
    """An answer was needed that depends on a size which only the data say.

    `formula` and `relation` are the question, as a fact has it; without a relation it is which number that is.
    `unknown` are the sizes in it.
    """

    def __init__(self, formula: Formula | Real, relation: str | None, unknown: Sequence[Unknown]):
        self.formula = formula
        self.relation = relation
        self.unknown = tuple(unknown)
        said = "; ".join(map(str, unknown))
        asked = f"which number {formula} is"
        if relation is not None and isinstance(formula, Formula):
            asked = f"whether {condition_text(formula, relation)}"
        Exception.__init__(self, f"{asked} depends on the data: {said}")

    def answers(self) -> tuple[Fact, ...]:
        """The question answered with yes and with no, as facts about the data; none where it has more answers."""
        if self.relation is None or not isinstance(self.formula, Formula):
            return ()
        if self.relation == ">=":
            opposite: tuple[Whole, str] = (-self.formula - 1, ">=")
        else:
            opposite = (self.formula, "!=" if self.relation == "==" else "==")
        return of_data(self.formula, self.relation), of_data(*opposite)


def of_data(formula: Whole, relation: str) -> Fact:
    """What is so of the data, or the model itself fails."""
    assert isinstance(formula, Formula)
    return Fact(formula, relation, condition_text(formula, relation), Origin.DATA)


__all__ = [
    "LARGEST_INTEGER",
    "LEAST_INTEGER",
    "STAND_IN",
    "DataFloat",
    "DataSize",
    "Unknown",
    "UnknownSizeError",
    "is_data_size",
    "of_data",
]
