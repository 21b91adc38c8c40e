"""Floats in a capture: what `/`, `math.sqrt` or a float factor make of a named size, until that is rounded again.

A `Floating` is a `Real`, the float that Python computes, and beside it the fraction of sizes that it stands for, where
rounding, comparing and halving cannot tell the two apart. `math.ceil(H / 7)` is `-(-H // 7)` by its fraction;
`int(H * 0.7)`, which is 62 at 90, has none, and is the formula `floor(H*0.7)`.

A float stands for a fraction `n / d` when it is as near to it as floats are, and is the fraction itself wherever that
has a denominator of a power of two. So does a quotient of two sizes; the product of a size with 0.6, whose error is at
most the half of what rounding takes away; and what is made of such by steps that keep it so.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

from passes.sizes.formulas.formula import Formula
from passes.sizes.formulas.real import Real

Part: TypeAlias = Any  # an int or a DynamicSize, which compute alike
Parts: TypeAlias = "tuple[Part, Part]"  # numerator and denominator, which is positive

# Floats are exact fractions (`H * 0.25`) where their denominator is a power of two up to this; and near to fractions
# with a denominator up to the second.
LARGEST_DENOMINATOR = 1024
LARGEST_DECIMAL = 1000


class DynamicSizeError(Exception):
    """A fixed integer was needed where a named dimension stands."""

    def __init__(self, dim: object):
        super().__init__(f"{dim} is a dynamic dimension, but a fixed size is needed here")


class DynamicNumber:
    """A number that depends on named dimensions: a size (`Dim`), or a float that was computed from some."""

    __slots__ = ()

    @property
    @abstractmethod
    def hint(self) -> Any:
        """The value at the sampled sizes."""

    @abstractmethod
    def symbols(self) -> list[str]:
        """Names of the dimensions that it depends on, in order of their names."""

    @abstractmethod
    def pin(self) -> None:
        """Assumes the value at the sampled sizes to be the only one, as a guard."""

    @abstractmethod
    def is_pinned(self) -> bool:
        """Whether the value at the sampled sizes is known to be the only one; asks for no guard."""

    @abstractmethod
    def unfixed(self) -> DynamicSizeError:
        """What is to be raised where a fixed number is needed in its place."""


class DynamicSize(DynamicNumber):
    """A dynamic size: `Dim` says what it is and how it computes, floats only compute with it."""

    __slots__ = ()

    formula: Formula

    @property
    @abstractmethod
    def hint(self) -> int:
        """The value at the sampled sizes."""

    @abstractmethod
    def at_least(self, least: int) -> bool:
        """Whether it is known never to be below; asks for no guard."""

    @abstractmethod
    def alike(self, formula: Any) -> Part:
        """Another size of the same capture."""

    @abstractmethod
    def rounded(self, how: str, real: Real | float) -> Part:
        """A float of the same capture as a size; `how` is floor, ceil or round."""

    @abstractmethod
    def towards_zero(self, down: Part, up: Part) -> Part:
        """Of two sizes of the same capture, which are a number rounded down and up, the one that is nearer to zero."""

    @abstractmethod
    def float_at(self, real: Real) -> float:
        """A float of the same capture at the sampled sizes."""

    @abstractmethod
    def unfixed_float(self, number: Floating) -> DynamicSizeError:
        """What is to be raised where a fixed number is needed in the place of a float of the same capture."""


def hint(size: int | DynamicSize) -> int:
    """A size, or any other number, at the sampled sizes."""
    if type(size) is int:  # as most are
        return size
    return size.hint if isinstance(size, DynamicNumber) else size


def sampled(sizes: Iterable[int | DynamicSize]) -> list[int]:
    """The sizes at the sampled sizes."""
    return [size if type(size) is int else hint(size) for size in sizes]


def fixed(number: Any) -> Any:
    """A number that an operation takes as it is known now. Raises DynamicSizeError where it is not."""
    if isinstance(number, DynamicNumber):
        raise number.unfixed()
    return number


def is_exactly(number: Any, value: float) -> bool:
    """Whether a number is known to be this one; a dynamic one is not asked."""
    return not isinstance(number, DynamicNumber) and bool(number == value)


class Floating(DynamicNumber):
    """A float in a capture (see the module's docstring); `size` is any that it is computed from."""

    __slots__ = ("fraction", "real", "size")

    def __init__(self, real: Real, fraction: Parts | None, size: DynamicSize):
        self.real = real
        self.fraction = fraction
        self.size = size

    @property
    def hint(self) -> float:
        """The value at the sampled sizes."""
        return self.size.float_at(self.real)

    def symbols(self) -> list[str]:
        return self.real.symbols()

    def pin(self) -> None:
        for size in self._sizes():
            size.pin()

    def is_pinned(self) -> bool:
        return all(size.is_pinned() for size in self._sizes())

    def _sizes(self) -> list[DynamicSize]:
        """The sizes that it is computed from."""
        sizes = [self.size.alike(formula) for formula in self.real.formulas()]
        return [size for size in sizes if isinstance(size, DynamicSize)]

    # Arithmetic ---------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Any:
        return computed("+", self, other)

    def __radd__(self, other: Any) -> Any:
        return computed("+", other, self)

    def __sub__(self, other: Any) -> Any:
        return computed("-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return computed("-", other, self)

    def __mul__(self, other: Any) -> Any:
        return computed("*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return computed("*", other, self)

    def __truediv__(self, other: Any) -> Any:
        return computed("/", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return computed("/", other, self)

    def __pow__(self, exponent: Any) -> Any:
        return computed("**", self, exponent)

    def __rpow__(self, base: Any) -> Any:
        return computed("**", base, self)

    def __neg__(self) -> Any:
        return computed("neg", self)

    def __abs__(self) -> Any:
        return computed("abs", self)

    def __floordiv__(self, other: Any) -> Any:
        return floor_divided(self, other)[0]

    def __rfloordiv__(self, other: Any) -> Any:
        return floor_divided(other, self)[0]

    def __mod__(self, other: Any) -> Any:
        return floor_divided(self, other)[1]

    def __rmod__(self, other: Any) -> Any:
        return floor_divided(other, self)[1]

    # Rounding -----------------------------------------------------------------------------------

    def __floor__(self) -> Part:
        return self.fraction[0] // self.fraction[1] if self.fraction else self._rounded("floor")

    def __ceil__(self) -> Part:
        return -(-self.fraction[0] // self.fraction[1]) if self.fraction else self._rounded("ceil")

    def __trunc__(self) -> Part:
        if self.fraction and _at_least(self.fraction[0], 0):
            return self.__floor__()
        if self.fraction and _at_least(-self.fraction[0], 0):
            return self.__ceil__()
        down, up = self.__floor__(), self.__ceil__()
        if _at_least(down, 0):
            return down
        return up if _at_least(-up, 0) else self.size.towards_zero(down, up)

    def __round__(self, digits: int | None = None) -> Part:
        """The nearest integer; of two, the even one."""
        if digits is not None:
            raise TypeError(f"{self} is rounded to {digits} decimal digits")
        if self.fraction is None or not isinstance(self.fraction[1], int):
            return self._rounded("round")
        n, d = self.fraction
        if d % 2:
            return (2 * n + d) // (2 * d)
        # one more from each odd number and a half on, and from behind each even number and a half
        return (n + 2 * d - d // 2 - 1) // (2 * d) + (n + d - d // 2) // (2 * d)

    def _rounded(self, how: str) -> Part:
        if not self.real.rounds_alike:
            raise TypeError(f"{self} is rounded to a size, but its last digits are not the same in every runtime")
        return self.size.rounded(how, self.real)

    # Comparison ---------------------------------------------------------------------------------

    def __ge__(self, other: Any) -> Any:
        return _is_at_least(self, other)

    def __le__(self, other: Any) -> Any:
        return _is_at_least(other, self)

    def __lt__(self, other: Any) -> Any:
        found = _is_at_least(self, other)
        return found if found is NotImplemented else not found

    def __gt__(self, other: Any) -> Any:
        found = _is_at_least(other, self)
        return found if found is NotImplemented else not found

    def __eq__(self, other: object) -> Any:
        if isinstance(other, Floating) and self.real == other.real:
            return True
        if not _is_number(other):
            return NotImplemented
        mine, theirs = _parts(self), _parts(other)
        if mine and theirs:
            return bool(mine[0] * theirs[1] == theirs[0] * mine[1])
        return bool(_is_at_least(self, other) and _is_at_least(other, self))

    def __bool__(self) -> bool:
        return bool(self != 0)

    def __hash__(self) -> int:
        return hash(self.real)

    def unfixed(self) -> DynamicSizeError:
        return self.size.unfixed_float(self)

    def __int__(self) -> int:
        raise self.unfixed()

    __index__ = __int__

    def __float__(self) -> float:
        raise self.unfixed()

    def at(self, sizes: Any) -> float:
        """The float where each named dimension has the given size."""
        return self.real.at(sizes)

    def __str__(self) -> str:
        return str(self.real)

    def __repr__(self) -> str:
        return f"Floating({self})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


# Functions ------------------------------------------------------------------------------------------


def computed(function: str, *operands: Any) -> Any:
    """A function (`passes.sizes.formulas.real.FUNCTIONS`) of numbers of which at least one is dynamic, as a float."""
    if not all(map(_is_number, operands)):
        return NotImplemented
    size = next(found for operand in operands if (found := _size_of(operand)) is not None)
    fraction = _fraction(function, *operands)
    real = Real(function, tuple(map(_operand, operands)))
    return Floating(real, fraction, size)


def floor_divided(numerator: Any, denominator: Any) -> tuple[Any, Any]:
    """`numerator // denominator` and what is left, of which one is a float; NotImplemented where that depends on how
    they are rounded."""
    above, below = _parts(numerator), _parts(denominator)
    if above is None or below is None:
        return NotImplemented, NotImplemented
    if not _is_exact(below):
        return NotImplemented, NotImplemented
    top, bottom = above[0] * below[1], below[0] * above[1]
    rest = _quotient_of_sizes(top % bottom, above[1] * below[1]) if _is_exact(above) else NotImplemented
    return _quotient_of_sizes(top // bottom, 1), rest


def _quotient_of_sizes(numerator: Part, denominator: int) -> Any:
    return computed("/", numerator, denominator) if isinstance(numerator, DynamicSize) else numerator / denominator


def _fraction(function: str, *operands: Any) -> Parts | None:
    """The fraction for which the result stands (see the module's docstring), or None."""
    parts = [_parts(operand) for operand in operands]
    if function in ("+", "-", "*", "/", "**", "neg", "abs", "float") and parts[0] is not None:
        n, d = parts[0]
        if function == "float":
            return n, d
        if function == "neg":
            return -n, d
        if function == "abs":
            return abs(n), d
        if function == "**":
            return _power(parts[0], operands[1])
    if function == "*":
        return _product(operands, parts)
    if len(parts) < 2 or parts[0] is None or parts[1] is None:
        return None
    (n, d), (m, e) = parts[0], parts[1]
    if function == "/":
        return _quotient(parts[0], parts[1])
    if not (_is_exact(parts[0]) or _is_exact(parts[1])):
        return None
    if function == "+":
        return n * e + m * d, d * e
    return (n * e - m * d, d * e) if function == "-" else None


def _product(operands: tuple[Any, ...], parts: list[Parts | None]) -> Parts | None:
    for mine, theirs, other in ((parts[0], parts[1], operands[1]), (parts[1], parts[0], operands[0])):
        if mine is None:
            continue
        if theirs is None and isinstance(other, float) and _is_exact(mine):
            theirs = _near_fraction(other)
        elif theirs is not None and not (_is_exact(theirs) and (_is_exact(mine) or _is_power_of_two(other))):
            continue
        if theirs is not None:
            return mine[0] * theirs[0], mine[1] * theirs[1]
    return None


def _quotient(above: Parts, below: Parts) -> Parts | None:
    (n, d), (m, e) = above, below
    if not isinstance(m, DynamicSize) and m == 0:
        raise ZeroDivisionError("float division by zero")
    if not _is_exact(below):
        return None
    if _at_least(m, 1):
        return n * e, d * m
    return (-n * e, -m * d) if _at_least(-m, 1) else None


def _power(base: Parts, exponent: Any) -> Parts | None:
    if isinstance(exponent, DynamicNumber) or exponent != exponent // 1 or abs(exponent) > LARGEST_DENOMINATOR:
        return None
    if abs(exponent) != 1 and not _is_exact(base):
        return None
    n: Part = 1
    d: Part = 1
    for _ in range(abs(int(exponent))):
        n, d = n * base[0], d * base[1]
    return (n, d) if exponent >= 0 else _quotient((d, 1), (n, 1))


def _parts(number: Any) -> Parts | None:
    if isinstance(number, Floating):
        return number.fraction
    if isinstance(number, (int, DynamicSize)):
        return number, 1
    numerator, denominator = number.as_integer_ratio() if math.isfinite(number) else (0, math.inf)
    return (numerator, denominator) if denominator <= LARGEST_DENOMINATOR else None


@lru_cache(maxsize=256)
def _near_fraction(number: float) -> tuple[int, int] | None:
    """The fraction that a float factor stands for, so near that its products are rounded to what is exact."""
    if not math.isfinite(number) or number == 0:
        return None
    near = Fraction(number).limit_denominator(LARGEST_DECIMAL)
    if near == 0 or abs(Fraction(number) / near - 1) > Fraction(1, 2**54):
        return None
    return near.numerator, near.denominator


def _is_exact(parts: Parts) -> bool:
    return isinstance(parts[1], int) and parts[1] & (parts[1] - 1) == 0


def _is_power_of_two(number: Any) -> bool:
    return isinstance(number, (int, float)) and number != 0 and abs(math.frexp(number)[0]) == 0.5


def _is_number(number: Any) -> bool:
    return isinstance(number, (int, float, DynamicNumber))


def _size_of(number: Any) -> DynamicSize | None:
    if isinstance(number, DynamicSize):
        return number
    return number.size if isinstance(number, Floating) else None


def _operand(number: Any) -> Any:
    if isinstance(number, DynamicSize):
        return number.formula
    return number.real if isinstance(number, Floating) else number


def _at_least(size: Part, least: int) -> bool:
    return size.at_least(least) if isinstance(size, DynamicSize) else size >= least


def _is_at_least(one: Any, other: Any) -> Any:
    """Whether a number is at least another one, of which one is a float over sizes."""
    if not (_is_number(one) and _is_number(other)):
        return NotImplemented
    for bound, number, sign in ((one, other, 1), (other, one, -1)):
        if isinstance(bound, float) and not math.isfinite(bound):
            if isinstance(number, Floating) and any(number.real.found()):  # which may be infinite too, or no number
                raise number.unfixed()
            return sign * bound > 0
    mine, theirs = _parts(one), _parts(other)
    if mine and theirs:
        return bool(mine[0] * theirs[1] >= theirs[0] * mine[1])
    if isinstance(other, (int, DynamicSize)):
        return bool(_whole("floor", one) >= other)
    if isinstance(one, (int, DynamicSize)):
        return bool(one >= _whole("ceil", other))
    return bool(_whole("floor", computed("-", one, other)) >= 0)


def _whole(how: str, number: Floating) -> Part:
    """A float that is rounded to be compared, which no runtime does."""
    if number.fraction is None:
        return number.size.rounded(how, number.real)
    return math.floor(number) if how == "floor" else math.ceil(number)


__all__ = [
    "DynamicNumber",
    "DynamicSize",
    "DynamicSizeError",
    "Floating",
    "Part",
    "computed",
    "fixed",
    "floor_divided",
    "hint",
    "is_exactly",
    "sampled",
]
