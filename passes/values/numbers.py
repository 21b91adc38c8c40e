"""What Python's own functions are of numbers that depend on named sizes: `int`, `max`, `math.sqrt` and their like.

`computed` is the one place that says it, for numbers while a forward is traced and for the nodes of a program.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from passes.sizes import floating
from passes.sizes.dimension import Dim, maximum, minimum
from passes.sizes.floating import DynamicNumber, Floating
from passes.sizes.formulas.real import Found, Real
from passes.sizes.guards import GuardLog


def is_dynamic(value: Any) -> bool:
    """Whether a number depends on a named size."""
    return isinstance(value, DynamicNumber)


def computed(function: Callable[..., Any], *operands: Any) -> Any:
    """`function(*operands)`. Raises TypeError where that is not known for a named size."""
    if not any(map(is_dynamic, operands)):
        return function(*operands)
    return OF_SIZES.get(function, function)(*operands)


def floating_of(real: Real, log: GuardLog) -> Floating:
    """A float over sizes, in a capture."""
    (found_in_data, *_) = (*real.operands, None)
    if isinstance(found_in_data, Found):
        return Floating(real, None, Dim.named(found_in_data.name, log))
    operands = [
        floating_of(operand, log)
        if isinstance(operand, Real)
        else operand
        if isinstance(operand, (int, float))
        else Dim(operand, log)
        for operand in real.operands
    ]
    found: Floating = floating.computed(real.function, *operands)
    return found


def _whole(number: Any) -> Any:
    return math.trunc(number)


def _float(number: Any) -> Any:
    return number if isinstance(number, Floating) else floating.computed("float", number)


def _of_floats(name: str, *operands: Any) -> Any:
    found = floating.computed(name, *operands)
    if found is NotImplemented:
        raise TypeError(f"{name} takes numbers")
    return found


def _absolute_float(number: Any) -> Any:
    return abs(_float(number))


def _power(base: Any, exponent: Any) -> Any:
    return _float(base) ** exponent if is_dynamic(base) else float(base) ** exponent


def _logarithm(number: Any, base: Any = math.e) -> Any:
    if base is math.e:
        return _of_floats("log", number)
    below = _of_floats("log", base) if is_dynamic(base) else math.log(base)
    return (_of_floats("log", number) if is_dynamic(number) else math.log(number)) / below


def _root(number: Any) -> Any:
    """The integer below the root: the root of a size is computed precisely enough to be rounded."""
    return math.floor(_of_floats("sqrt", number))


def _extreme(name: str, of_sizes: Callable[..., Any], native: Callable[..., Any], *operands: Any) -> Any:
    """`max` or `min`: of sizes a size, of floats a float; of both, one of them, which depends on their order."""
    if all(isinstance(operand, (int, Dim)) for operand in operands):
        return of_sizes(*operands)
    if all(isinstance(operand, (float, Floating)) for operand in operands):
        return _of_floats(name, *operands)
    return native(*operands)


# A function of Python's by what it is of dynamic sizes. All others work with any number by themselves.
OF_SIZES: dict[Any, Callable[..., Any]] = {
    int: _whole,
    float: _float,
    builtins.max: partial(_extreme, "max", maximum, builtins.max),
    builtins.min: partial(_extreme, "min", minimum, builtins.min),
    math.isqrt: _root,
    math.log: _logarithm,
    math.pow: _power,
    math.fabs: _absolute_float,
    math.radians: lambda number: number * (math.pi / 180),
    math.degrees: lambda number: number * (180 / math.pi),
    **{
        getattr(math, name): partial(_of_floats, name)
        for name in ("sqrt", "exp", "log2", "log10", "sin", "cos", "tanh")
    },
}


__all__ = ["OF_SIZES", "computed", "floating_of", "is_dynamic"]
