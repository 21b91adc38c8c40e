"""Python's own functions while a forward is traced: those that would have the number itself of a traced number.

Arithmetic, `abs`, `round`, `divmod`, `sum`, `math.floor` and `math.prod` ask a number what it makes of itself. `max`
and `min` would ask it for decisions, and the functions of `math` for a float: what stands in for them here has the
result computed from sizes, and is Python's own function for everything else.

`int`, `float` and `len` are used too widely for that: `namespaces.py` replaces them where they are needed.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable
from functools import wraps
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from torch import fx

from passes.torch_private import CHECK, CHECK_OF_SIZE, check_holds, check_size
from passes.values.numbers import OF_SIZES
from tracer.capture.values.number import TracedNumber, itself

# Python's own, also while a forward is traced
_type, _max, _min, _int, _float, _len = type, max, min, int, float, len
_LAZY = frozenset({GeneratorType, map, filter, zip, reversed})


def _number_among(operands: Any) -> TracedNumber | None:
    """A traced number among operands that all are numbers, or None."""
    found = None
    for operand in operands:
        kind = _type(operand)
        if kind is TracedNumber:
            found = operand
        elif kind not in _NUMBERS:
            return None
    return found


_NUMBERS = frozenset({_int, _float, bool, np.float64, np.float32, np.int64, np.int32})


def _choosing(native: Callable[..., Any]) -> Callable[..., Any]:
    """`max` or `min`, of traced numbers too."""

    @wraps(native)
    def call(*args: Any, **kwargs: Any) -> Any:
        items: Any = args
        if _len(args) == 1:
            items = args[0]
            if _type(items) in _LAZY:
                args = (items := [*items],)
            elif not issubclass(_type(items), (tuple, list)):
                return native(*args, **kwargs)
        number = None if kwargs else _number_among(items)
        return native(*args, **kwargs) if number is None else number.combined(native, *items)

    return call


def _computing(native: Callable[..., Any], function: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function of numbers, of traced ones too; `function` is what it computes, where that has another name."""

    @wraps(native)
    def call(*args: Any, **kwargs: Any) -> Any:
        number = None if kwargs else _number_among(args)
        return native(*args, **kwargs) if number is None else number.combined(function or native, *args)

    return call


def _knowing(native: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numpy's that would fill an array with traced numbers, where it is to have numbers."""

    @wraps(native)
    def call(*args: Any, **kwargs: Any) -> Any:
        return native(*map(itself, args), **{key: itself(value) for key, value in kwargs.items()})

    return call


def as_lists(array: Any) -> tuple[Any, torch.dtype | None]:
    """An array of traced numbers as lists of them, and the dtype that numpy gives such numbers; any other as it is."""
    if _type(array) is not np.ndarray or array.dtype != object:
        return array, None
    numbers = [number.kind if _type(number) is TracedNumber else _type(number) for number in array.flat]
    if not _NUMBERS.issuperset(numbers):
        return array, None
    return array.tolist(), torch.float64 if any(issubclass(kind, _float) for kind in numbers) else torch.int64


def _of_array(native: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.from_numpy`, of traced numbers too, which share no memory with anything."""

    @wraps(native)
    def call(array: Any) -> Any:
        lists, dtype = as_lists(array)
        return native(array) if dtype is None else torch.tensor(lists, dtype=dtype)

    return call


# Functions by where they are found, with what stands in for them while a forward is traced.
REPLACED: list[tuple[Any, str, Callable[..., Any]]] = [
    (builtins, "max", _choosing(_max)),
    (builtins, "min", _choosing(_min)),
    *(
        (math, name, _computing(native))
        for name, native in vars(math).items()
        if not name.startswith("_") and native in OF_SIZES
    ),
    (torch, "from_numpy", _of_array(torch.from_numpy)),
    (torch, "sym_max", _computing(torch.sym_max, _max)),
    (torch, "sym_min", _computing(torch.sym_min, _min)),
    (torch, "sym_int", _computing(torch.sym_int, _int)),
    (torch, "sym_float", _computing(torch.sym_float, _float)),
    *((np, function.__name__, _knowing(function)) for function in (np.arange, np.linspace, np.logspace, np.full)),
]

_DIVIDE = torch.div
# Functions of torch's that take numbers for tensors, by what they are of whole numbers.
_ON_WHOLE: dict[Any, Callable[..., Any]] = {
    torch.add: operator.add,
    torch.sub: operator.sub,
    torch.mul: operator.mul,
    torch.floor_divide: operator.floordiv,
    torch.remainder: operator.mod,
}


def on_numbers(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What torch makes of whole numbers alone, as a number; None for any other call.

    torch gives a tensor without axes, which counts as a number does wherever a size is asked for.
    """
    if _len(args) != 2 or (number := _number_among(args)) is None or any(isinstance(n, _float) for n in args):
        return None
    if function is _DIVIDE and kwargs.keys() == {"rounding_mode"}:
        if kwargs["rounding_mode"] == "floor":
            return number.combined(operator.floordiv, *args)
        if kwargs["rounding_mode"] == "trunc":
            return math.trunc(number.combined(operator.truediv, *args))
    found = None if kwargs else _ON_WHOLE.get(function)
    return None if found is None else number.combined(found, *args)


# Checks ---------------------------------------------------------------------------------------------


def _checking(native: Callable[..., Any]) -> Callable[..., Any]:
    """torch's checks: one of sizes is a branch that ends in an error, and so a guard; one of data computes nothing."""

    @wraps(native)
    def check(error_type: Any, cond: Any, message: Any) -> Any:
        if issubclass(_type(cond), fx.Proxy):
            known = cond.tracer.known.tensor(cond.node)
            return native(error_type, known is None or bool(known), message)
        return native(error_type, bool(cond) if _type(cond) is TracedNumber else cond, message)

    return check


def _checking_size(native: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(native)
    def check(i: Any, message: Any = None, *, max: Any = None) -> Any:
        if _number_among((i, max if max is not None else 0)) is None:
            return native(i, message, max=max)
        for holds in [i >= 0, *([i <= max] if max is not None else [])]:
            check_holds(RuntimeError, bool(holds), message)
        return None

    return check


REPLACED += [
    (*CHECK, _checking(check_holds)),
    (*CHECK_OF_SIZE, _checking_size(check_size)),
]

__all__ = ["REPLACED", "as_lists", "on_numbers"]
