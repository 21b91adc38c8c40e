"""Fractions of dynamic sizes: what `/` gives where a size is named, until it is rounded or meets a tensor.

Python computes `H / 7` in floating point, which is exact enough for sizes: rounding the exact fraction gives
the same integer. So a fraction is kept as two integer formulas, and `math.ceil(H / 7)` is `-(-H // 7)`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

Part: TypeAlias = Any  # an int or a DynamicSize, which compute alike

# A float factor (`H * 0.25`) becomes a fraction where its denominator is a power of two up to this; other floats are
# no fractions of small integers, and rounding them exactly is not what Python does.
LARGEST_DENOMINATOR = 1024


class DynamicSizeError(Exception):
    """A fixed integer was needed where a named dimension stands."""

    def __init__(self, dim: object):
        super().__init__(f"{dim} is a dynamic dimension, but a fixed size is needed here")


class DynamicSize:
    """A dynamic size: `Dim` says what it is and how it computes, `Ratio` only computes with it."""

    __slots__ = ()

    @property
    @abstractmethod
    def hint(self) -> int:
        """The value at the sampled sizes."""


def hint(size: int | DynamicSize) -> int:
    """The size at the sampled sizes."""
    return size.hint if isinstance(size, DynamicSize) else size


@dataclass(frozen=True, slots=True)
class Ratio:
    """`numerator / denominator`, of which at least one is dynamic; the denominator is positive."""

    numerator: Part
    denominator: Part

    @property
    def hint(self) -> float:
        """The value at the sampled sizes."""
        return hint(self.numerator) / hint(self.denominator)

    def __add__(self, other: Any) -> Any:
        return _with_parts(other, lambda n, d: _ratio(self.numerator * d + n * self.denominator, self.denominator * d))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return _with_parts(other, lambda n, d: _ratio(self.numerator * d - n * self.denominator, self.denominator * d))

    def __rsub__(self, other: Any) -> Any:
        return _with_parts(other, lambda n, d: _ratio(n * self.denominator - self.numerator * d, self.denominator * d))

    def __mul__(self, other: Any) -> Any:
        return _with_parts(other, lambda n, d: _ratio(self.numerator * n, self.denominator * d))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return _with_parts(other, lambda n, d: _ratio(self.numerator * d, self.denominator * n))

    def __rtruediv__(self, other: Any) -> Any:
        return _with_parts(other, lambda n, d: _ratio(n * self.denominator, d * self.numerator))

    def __neg__(self) -> Any:
        return _ratio(-self.numerator, self.denominator)

    def __abs__(self) -> Any:
        return _ratio(abs(self.numerator), self.denominator)

    def __pow__(self, exponent: Any) -> Any:
        return power(self, exponent)

    def __floordiv__(self, other: Any) -> Any:
        return _with_parts(other, lambda n, d: _ratio(self.numerator * d // (self.denominator * n), 1))

    def __rfloordiv__(self, other: Any) -> Any:
        return _with_parts(other, lambda n, d: _ratio(n * self.denominator // (d * self.numerator), 1))

    def __mod__(self, other: Any) -> Any:
        return _with_parts(
            other, lambda n, d: _ratio(self.numerator * d % (self.denominator * n), self.denominator * d)
        )

    def __rmod__(self, other: Any) -> Any:
        return _with_parts(
            other, lambda n, d: _ratio(n * self.denominator % (d * self.numerator), self.denominator * d)
        )

    def __floor__(self) -> Part:
        return self.numerator // self.denominator

    def __ceil__(self) -> Part:
        return -(-self.numerator // self.denominator)

    def __trunc__(self) -> Part:
        return self.__floor__() if self.numerator >= 0 else self.__ceil__()

    def __round__(self, digits: int | None = None) -> Part:
        """The nearest integer; of two, the even one."""
        if digits is not None:
            raise TypeError(f"{self} is rounded to {digits} decimal digits")
        doubled, whole = 2 * self.numerator + self.denominator, 2 * self.denominator
        upper, above = doubled // whole, doubled % whole
        is_between = 1 - -(-above // whole)
        return upper - is_between * (upper % 2)

    def __lt__(self, other: Any) -> Any:
        return _with_parts(other, lambda n, d: self.numerator * d < n * self.denominator)

    def __le__(self, other: Any) -> Any:
        return _with_parts(other, lambda n, d: self.numerator * d <= n * self.denominator)

    def __gt__(self, other: Any) -> Any:
        return _with_parts(other, lambda n, d: self.numerator * d > n * self.denominator)

    def __ge__(self, other: Any) -> Any:
        return _with_parts(other, lambda n, d: self.numerator * d >= n * self.denominator)

    def __eq__(self, other: object) -> Any:
        found = _with_parts(other, lambda n, d: self.numerator * d == n * self.denominator)
        if found is NotImplemented and isinstance(other, float):
            if math.isfinite(other):
                raise TypeError(f"whether {self} is {other} depends on how it is rounded")
            return False
        return found

    def __hash__(self) -> int:
        return hash((self.numerator, self.denominator))

    def __int__(self) -> int:
        raise DynamicSizeError(self)

    __index__ = __int__

    def __float__(self) -> float:
        raise DynamicSizeError(self)

    def __str__(self) -> str:
        return " / ".join(
            f"({part})" if isinstance(part, DynamicSize) and not str(part).isidentifier() else str(part)
            for part in (self.numerator, self.denominator)
        )

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def divide(numerator: Any, denominator: Any) -> Any:
    """`numerator / denominator` for sizes, of which at least one is dynamic."""
    return _with_parts(numerator, lambda n, d: _with_parts(denominator, lambda m, e: _ratio(n * e, d * m)))


def multiply(size: DynamicSize, factor: float) -> Any:
    """`size * factor`, or NotImplemented where the factor is no fraction with a small denominator."""
    return _with_parts(factor, lambda n, d: _ratio(size * n, d))


def power(base: DynamicSize | Ratio, exponent: Any) -> Any:
    """A whole power of a size or a fraction of sizes, or NotImplemented for any other exponent."""
    if not isinstance(exponent, (int, float)) or exponent != exponent // 1:
        return NotImplemented
    result: Any = 1 if isinstance(exponent, int) and isinstance(base, DynamicSize) else 1.0
    for _ in range(abs(int(exponent))):
        result = result * base
    return result if exponent >= 0 else 1 / result


def as_fraction(size: Part) -> Any:
    """The size as a float is one."""
    return _ratio(size, 1)


def _ratio(numerator: Part, denominator: Part) -> Any:
    """The fraction; a plain float where nothing in it is dynamic."""
    if denominator == 0:
        raise ZeroDivisionError("float division by zero")
    if denominator < 0:
        numerator, denominator = -numerator, -denominator
    if isinstance(numerator, DynamicSize) or isinstance(denominator, DynamicSize):
        return Ratio(numerator, denominator)
    return numerator / denominator


def _with_parts(number: Any, combine: Callable[[Part, Part], Any]) -> Any:
    """`combine(numerator, denominator)` of a number, or NotImplemented where it is no exact fraction."""
    if isinstance(number, Ratio):
        return combine(number.numerator, number.denominator)
    if isinstance(number, (int, DynamicSize)):
        return combine(number, 1)
    if isinstance(number, float) and math.isfinite(number):
        numerator, denominator = number.as_integer_ratio()
        if denominator <= LARGEST_DENOMINATOR:
            return combine(numerator, denominator)
    return NotImplemented


__all__ = ["DynamicSize", "DynamicSizeError", "Ratio", "as_fraction", "divide", "hint", "multiply", "power"]
