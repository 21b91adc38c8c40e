"""Sizes during a capture: whole numbers, and named dimensions that answer Python's questions.

A `Dim` is a formula (`passes.sizes.formulas`) in a capture. Python needs a yes or a no of a comparison, so a `Dim` asks
the capture's facts (`passes.sizes.facts`); what these leave unknown is answered at the sampled sizes (`hint`) and
assumed from then on, as a guard. This is the one place where unknown becomes a guard.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from passes.sizes.fact import Answer, Fact, condition_text, holds, solved
from passes.sizes.floating import DynamicSize, DynamicSizeError, Floating, computed, floor_divided, hint, sampled
from passes.sizes.formulas import extremes
from passes.sizes.formulas.formula import Formula, Monomial, Symbol, Whole, rounded
from passes.sizes.formulas.real import Real
from passes.sizes.guards import Guard, GuardLog
from passes.sizes.unknown import DataSize, UnknownSizeError

Size: TypeAlias = "int | Dim"

# A formula is multiplied out, so that the powers of sums grow.
LARGEST_POWER = 16


class Dim(DynamicSize):
    """A named dimension of an input, or what was computed from some (see the module's docstring).

    `formula` is its value, `log` the capture's: it holds the sampled sizes, the facts and the guards.
    """

    __slots__ = ("_hint", "formula", "log")

    def __init__(self, formula: Formula, log: GuardLog):
        self.formula = formula
        self.log = log
        self._hint: int | None = None

    @staticmethod
    def symbol(name: str, hint: int, log: GuardLog) -> Dim:
        """The dimension called `name`, sampled at the size `hint`."""
        log.sampled[name] = hint
        return Dim(Formula.symbol(name), log)

    @staticmethod
    def named(name: str, log: GuardLog) -> Dim:
        """The dimension of that name, which the capture knows already."""
        return Dim(Formula.symbol(name), log)

    @property
    def hint(self) -> int:
        """The value at the sampled sizes, with what stands for those that come from data."""
        if self._hint is None:
            self._hint = self.formula.at(self.log.numbers)
        return self._hint

    @property
    def terms(self) -> Mapping[Monomial, int]:
        """The formula's terms."""
        return self.formula.terms

    # Arithmetic ---------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Any:
        if isinstance(other, float):
            return computed("+", self, other)
        return self._in_capture(self.formula + _whole(other)) if isinstance(other, (int, Dim)) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return computed("+", other, self) if isinstance(other, float) else self + other

    def __neg__(self) -> Size:
        return Dim(-self.formula, self.log)

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, float):
            return computed("-", self, other)
        return self + (-other) if isinstance(other, (int, Dim)) else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        return computed("-", other, self) if isinstance(other, float) else -self + other

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, float):
            return computed("*", self, other)
        return self._in_capture(self.formula * _whole(other)) if isinstance(other, (int, Dim)) else NotImplemented

    def __rmul__(self, other: Any) -> Any:
        return computed("*", other, self) if isinstance(other, float) else self * other

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, float):
            return floor_divided(self, other)[0]
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        return self._divmod(self, other)[0]

    def __rfloordiv__(self, other: Any) -> Any:
        if isinstance(other, float):
            return floor_divided(other, self)[0]
        return self._divmod(other, self)[0] if isinstance(other, int) else NotImplemented

    def __mod__(self, other: Any) -> Any:
        if isinstance(other, float):
            return floor_divided(self, other)[1]
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        return self._divmod(self, other)[1]

    def __rmod__(self, other: Any) -> Any:
        if isinstance(other, float):
            return floor_divided(other, self)[1]
        return self._divmod(other, self)[1] if isinstance(other, int) else NotImplemented

    def __truediv__(self, other: Any) -> Any:
        return computed("/", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return computed("/", other, self)

    def __pow__(self, exponent: Any) -> Any:
        """A power: a size for a number from 0 on, else a float; NotImplemented where that depends on the exponent."""
        if not isinstance(exponent, int):
            return NotImplemented if isinstance(exponent, Dim) else computed("**", self, exponent)
        if exponent > LARGEST_POWER:
            return NotImplemented
        return product([self] * exponent) if exponent >= 0 else computed("**", self, exponent)

    def __rpow__(self, base: Any) -> Any:
        return computed("**", base, self) if isinstance(base, float) else NotImplemented

    def __lshift__(self, count: Any) -> Any:
        return self * 2**count if isinstance(count, int) and count >= 0 else NotImplemented

    def __rshift__(self, count: Any) -> Any:
        return self // 2**count if isinstance(count, int) and count >= 0 else NotImplemented

    def __and__(self, mask: Any) -> Any:
        """The lowest bits, or all but these: what is left by a division by a power of two, or is not."""
        if isinstance(mask, int) and mask >= 0 and mask & (mask + 1) == 0:
            return self % (mask + 1)
        return self - self % -mask if isinstance(mask, int) and -mask & (-mask - 1) == 0 else NotImplemented

    __rand__ = __and__

    def __abs__(self) -> Size:
        return maximum(self, -self)

    def __floor__(self) -> Size:
        return self

    __ceil__ = __trunc__ = __floor__

    def __round__(self, digits: int | None = None) -> Size:
        if digits is not None and digits < 0:
            raise TypeError(f"{self} is rounded to {digits} decimal digits")
        return self

    def _divmod(self, numerator: Size, denominator: Size) -> tuple[Size, Size]:
        """`(numerator // denominator, numerator % denominator)`, once the denominator's sign is known."""
        if denominator == 0:
            raise ZeroDivisionError(f"{numerator} is divided by zero")
        if denominator < 0:
            quotient, remainder = self._divmod(-numerator, -denominator)
            return quotient, -remainder
        floor, rest, used = self.log.facts.divided(_whole(numerator), _whole(denominator))
        self.log.rely(used)
        return self._in_capture(floor), self._in_capture(rest)

    def _in_capture(self, value: Whole) -> Size:
        return Dim(value, self.log) if isinstance(value, Formula) else value

    # Comparison ---------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if isinstance(other, float):
            return other.is_integer() and bool(self == int(other))
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        difference = self.formula - _whole(other)
        decision = self.log.facts.decide(difference, "==")
        answer = decision.answer
        if answer is not Answer.UNKNOWN:
            self.log.rely(decision.used)
            if answer is Answer.NO:
                self._check_bounds(difference, "!=")
            return answer is Answer.YES
        assert isinstance(difference, Formula)
        self._refuse_unknown(difference, "==")
        equal = difference.at(self.log.sampled) == 0
        relation = "==" if equal else "!="
        parts, used = self.log.facts.parted(difference) if equal else ([difference], [])
        self.log.rely(used)
        for part in parts:
            as_asked = part is difference and isinstance(other, Dim)
            self._assume(part, relation, f"{self} {relation} {other}" if as_asked else condition_text(part, relation))
        return equal

    def __hash__(self) -> int:
        return hash(self.formula)

    def __ge__(self, other: Size | float) -> bool:
        if isinstance(other, float):
            return self >= math.ceil(other) if math.isfinite(other) else other < 0
        return self._compare(other, self - other, ">=", "<") if isinstance(other, (int, Dim)) else NotImplemented

    def __gt__(self, other: Size | float) -> bool:
        if isinstance(other, float):
            return self > math.floor(other) if math.isfinite(other) else other < 0
        return self._compare(other, self - other - 1, ">", "<=") if isinstance(other, (int, Dim)) else NotImplemented

    def __le__(self, other: Size | float) -> bool:
        if isinstance(other, float):
            return self <= math.floor(other) if math.isfinite(other) else other > 0
        return self._compare(other, other - self, "<=", ">") if isinstance(other, (int, Dim)) else NotImplemented

    def __lt__(self, other: Size | float) -> bool:
        if isinstance(other, float):
            return self < math.ceil(other) if math.isfinite(other) else other > 0
        return self._compare(other, other - self - 1, "<", ">=") if isinstance(other, (int, Dim)) else NotImplemented

    def _compare(self, other: Size, slack: Size, relation: str, opposite: str) -> bool:
        """Whether `slack >= 0`, which is `self relation other`; assuming that or its opposite where it is unknown."""
        formula = _whole(slack)
        decision = self.log.facts.decide(formula, ">=")
        answer = decision.answer
        if isinstance(formula, int):
            return answer is Answer.YES
        if answer is Answer.UNKNOWN:
            self._refuse_unknown(formula, ">=")
            holds_here = formula.at(self.log.sampled) >= 0
            assumed = formula if holds_here else _formula(-formula - 1)
            fact = solved(assumed)
            as_asked = f"{self} {relation if holds_here else opposite} {other}"
            said = as_asked if isinstance(other, Dim) else condition_text(assumed, ">=")
            self._assume(fact, ">=", _bound_text(fact) or said)
            return holds_here
        self.log.rely(decision.used)
        self._check_bounds(formula if answer is Answer.YES else -formula - 1, ">=")
        return answer is Answer.YES

    def _refuse_unknown(self, formula: Formula, relation: str) -> None:
        """Raises UnknownSizeError where an open question is about the data: it must be known, and no guard helps."""
        if unknown := self.log.unknown_of(formula):
            raise UnknownSizeError(formula, relation, unknown)

    def _assume(self, formula: Formula, relation: str, condition: str) -> None:
        """Records a guard; it replaces those that it implies."""
        fact = Fact(formula, relation, condition)
        for weaker in self.log.facts.assume(fact):
            self.log.withdraw(weaker.condition)
        self.log.decisions = (fact,)
        self.log.record(condition, dynamic=True)

    def _check_bounds(self, formula: Whole, relation: str) -> None:
        """Notes the bounds that decided an answer where they do not hold in the caller's own data."""
        log = self.log
        if not log.given or not isinstance(formula, Formula) or log.unknown_of(formula):
            return
        if not holds(formula, relation, log.as_given()):
            log.refuted += [
                Guard(f"{name} >= 1", log.location, True) for name in formula.symbols() if log.given.get(name) == 0
            ]

    def __bool__(self) -> bool:
        return self != 0

    def __index__(self) -> int:
        raise self.unfixed()

    __int__ = __index__

    def __float__(self) -> float:
        raise self.unfixed()

    def unfixed(self) -> DynamicSizeError:
        return self._unfixed(self, self.formula)

    def pin(self) -> None:
        """Assumes the sampled size to be the only one, as a guard: for whatever must know it."""
        if self.log.unknown_of(self.formula) and not self.is_pinned():
            raise self.unfixed()
        held = self == self.hint
        assert held, "the sampled sizes meet every fact"

    def is_pinned(self) -> bool:
        """Whether it is known to have the sampled size; asks for no guard."""
        return not isinstance(known(self), Dim)

    # What floats ask ----------------------------------------------------------------------------

    def at_least(self, least: int) -> bool:
        return _is_at_least(self.log, self.formula - least)

    def alike(self, formula: Any) -> Size:
        return self._in_capture(formula)

    def rounded(self, how: str, real: Real | float) -> Size:
        return self._in_capture(rounded(how, real))

    def towards_zero(self, down: Size, up: Size) -> Size:
        return maximum(0, down) + minimum(0, up)

    def float_at(self, real: Real) -> float:
        return real.at(self.log.numbers)

    def unfixed_float(self, number: Floating) -> DynamicSizeError:
        return self._unfixed(number, number.real)

    def _unfixed(self, number: object, value: Formula | Real) -> DynamicSizeError:
        unknown = self.log.unknown_of(value)
        return UnknownSizeError(value, None, unknown) if unknown else DynamicSizeError(number)

    # Reading ------------------------------------------------------------------------------------

    def symbols(self) -> list[str]:
        """Names of the dimensions in the formula, in order of their names."""
        return self.formula.symbols()

    def at(self, sizes: Mapping[str, int]) -> int:
        """The formula's value where each named dimension has the given size."""
        return self.formula.at(sizes)

    def __str__(self) -> str:
        return str(self.formula)

    def __repr__(self) -> str:
        return f"Dim({self})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def is_open(relation: Callable[[Any, Any], Any], left: Size, right: Size) -> bool:
    """Whether a comparison of sizes is not known, so that its answer would have to be assumed. Asks for no guard."""
    log = next(size.log for size in (left, right) if isinstance(size, Dim))
    difference = _whole(left) - _whole(right)
    slack, kind = _SLACK[relation](difference)
    return log.facts.decide(slack, kind).answer is Answer.UNKNOWN


# For each comparison, what must be zero or be at least zero for it to hold, or for its opposite.
_SLACK: dict[Any, Callable[[Whole], tuple[Whole, str]]] = {
    operator.eq: lambda difference: (difference, "=="),
    operator.ne: lambda difference: (difference, "=="),
    operator.ge: lambda difference: (difference, ">="),
    operator.lt: lambda difference: (difference, ">="),
    operator.gt: lambda difference: (-difference, ">="),
    operator.le: lambda difference: (-difference, ">="),
}


def same_size(left: Size, right: Size) -> bool:
    """Whether two sizes are the same number or the same formula; asks for no guard."""
    return _whole(left) == _whole(right)


def pinned(size: Size) -> int:
    """The number itself, for a rule that must know it; a dynamic size is assumed to be the sampled one, as a guard."""
    if isinstance(size, Dim):
        size.pin()
    return hint(size)


def known(size: Size) -> Size:
    """The number in the place of a dynamic size that has one value only; asks for no guard."""
    if not isinstance(size, Dim):
        return size
    decision = size.log.facts.decide(size.formula - size.hint, "==")
    if decision.answer is not Answer.YES:
        return size
    size.log.rely(decision.used)
    return size.hint


def violated_by_sample(log: GuardLog) -> list[Guard]:
    """The guards, and the bounds that decided something, that do not hold in the caller's own data."""
    if not log.given:
        return []
    sizes = log.as_given()
    broken = [log.guard(fact.condition) for fact in log.facts.assumed if not fact.holds(sizes)]
    return [*(guard for guard in broken if guard is not None), *log.refuted]


def maximum(*sizes: Size) -> Size:
    """The largest of some sizes: one of them where their order is known, else a formula. Asks for no guard."""
    return _extreme(sizes, extremes.maximum, 1)


def minimum(*sizes: Size) -> Size:
    """The smallest of some sizes: one of them where their order is known, else a formula. Asks for no guard."""
    return _extreme(sizes, extremes.minimum, -1)


def sign(size: Size) -> Size:
    """1 for a positive size, -1 for a negative one, 0 for none. Asks for no guard."""
    return minimum(1, maximum(-1, size))


def negativity(size: Size) -> Size:
    """1 for a negative size, else 0: one of them where that is known, else a formula. Asks for no guard."""
    if not isinstance(size, Dim):
        return int(size < 0)
    if size.at_least(0):
        return 0
    found = extremes.maximum(extremes.minimum(-size.formula, 1), 0)
    return 1 if _is_at_least(size.log, -size.formula - 1) else Dim(_formula(found), size.log)


def _extreme(sizes: Sequence[Size], combine: Callable[..., Whole], direction: int) -> Size:
    log = next((size.log for size in sizes if isinstance(size, Dim)), None)
    kept: list[Whole] = []
    for size in map(_whole, sizes):
        if log is None or not any(_is_at_least(log, direction * (other - size)) for other in kept):
            kept = [other for other in kept if log is None or not _is_at_least(log, direction * (size - other))]
            kept.append(size)
    found = combine(*kept)
    return Dim(found, log) if isinstance(found, Formula) and log is not None else found  # type: ignore[return-value]


def _is_at_least(log: GuardLog, slack: Whole) -> bool:
    decision = log.facts.decide(slack, ">=")
    if decision.answer is Answer.YES:
        log.rely(decision.used)
    return decision.answer is Answer.YES


def is_of_data(size: Any) -> bool:
    """Whether a size comes from data, and is known to nobody before."""
    return isinstance(size, DataSize) or (isinstance(size, Dim) and bool(size.log.unknown_of(size.formula)))


def may_be_zero(size: Any) -> bool:
    """Whether a size is zero, or may be one for all that is known; sizes of inputs are none. Asks for no guard."""
    return is_of_data(size) and not size.at_least(1) if isinstance(size, Dim) else size == 0


def are_equal(left: Size, right: Size) -> bool:
    """Whether two sizes are known to be equal. Asks for no guard."""
    log = next((size.log for size in (left, right) if isinstance(size, Dim)), None)
    difference = _whole(left) - _whole(right)
    return difference == 0 if log is None else log.facts.decide(difference, "==").answer is Answer.YES


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes; 1 for none."""
    result: Size = 1
    for size in sizes:
        result = result * size
    return result


def is_static(sizes: Iterable[Size]) -> bool:
    return not any(isinstance(size, Dim) for size in sizes)


def _whole(size: Size) -> Whole:
    return size.formula if isinstance(size, Dim) else size


def _formula(value: Whole) -> Formula:
    assert isinstance(value, Formula), "an undecided comparison is of a formula"
    return value


def _bound_text(fact: Formula) -> str | None:
    """`H >= 29`, where that is what the fact says."""
    name = fact.symbols()[0]
    symbol = (Symbol(name),)
    if fact.terms.get(symbol) == 1 and fact.terms.keys() <= {symbol, ()}:
        return f"{name} >= {-fact.constant}"
    return None


__all__ = [
    "Dim",
    "DynamicSizeError",
    "Size",
    "are_equal",
    "hint",
    "is_of_data",
    "is_open",
    "is_static",
    "known",
    "maximum",
    "may_be_zero",
    "minimum",
    "negativity",
    "pinned",
    "product",
    "same_size",
    "sampled",
    "sign",
    "violated_by_sample",
]
