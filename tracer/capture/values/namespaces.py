"""`int`, `float`, `len` of numbers over named sizes and of tensors, and cached functions, in code that asks for them.

These functions are used too widely to be replaced for everybody, and two of them are types, which are compared and
asked about. So they are replaced in the globals of those modules alone whose code has asked a number over named sizes
for its int, float, length or hash: the trace is taken again with what stands in for them there. The functions of `math`
that such a module holds by their names are replaced with them, and its functions under `functools.lru_cache` are called
without. A sample without names never comes to this.
"""

from __future__ import annotations

import functools
import math
from types import FrameType
from typing import Any

import numpy as np

from tracer.capture.values.number import TracedNumber
from tracer.capture.values.python_functions import REPLACED
from tracer.capture.values.tensor import TracedTensor, has_traced
from tracer.edge.source_lines import is_ours

_type, _int, _float, _len = type, int, float, len  # Python's own, also while a forward is traced


class _StandIn(type):
    """The type of what stands in for `int` and `float`: for everything but a traced number, that type itself."""

    native: type

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        number: Any = args[0] if _len(args) == 1 else None
        if _type(number) is TracedTensor and number.holds_unknown_number():
            number = number.number_within()
        if _type(number) is TracedNumber:
            return number.combined(cls.native, number)
        return cls.native(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.native)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, cls.native)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.native

    def __hash__(cls) -> int:
        return hash(cls.native)

    def __repr__(cls) -> str:
        return repr(cls.native)


def _standing_in(native: type) -> type:
    # numpy asks a type that it does not know for its dtype
    return _StandIn(native.__name__, (native,), {"native": native, "dtype": np.dtype(native), "__module__": "builtins"})


def _length(of: Any, /) -> Any:
    number = of.length() if _type(of) is TracedTensor else None
    return _len(of) if number is None else number


_TYPES: dict[Any, type] = {native: _standing_in(native) for native in (_int, _float)}
_BY_NAME: dict[str, tuple[Any, Any]] = {
    "int": (_int, _TYPES[_int]),
    "float": (_float, _TYPES[_float]),
    "len": (_len, _length),
}
_BY_ID: dict[int, Any] = {
    **{id(native): stand_in for native, stand_in in _BY_NAME.values()},
    **{id(getattr(math, name)): stand_in for home, name, stand_in in REPLACED if home is math},
}


def genuine(kind: Any) -> Any:
    """The type for which another one stands in; anything else itself."""
    return kind.native if _type(kind) is _StandIn else kind


def as_seen_by(frame: FrameType, kind: Any) -> Any:
    """What the code finds under a type's name."""
    stand_in = _TYPES.get(kind)
    return stand_in if stand_in is not None and frame.f_globals.get(kind.__name__) is stand_in else kind


def _uncached(cached: Any) -> Any:
    """A function without its `functools.lru_cache`, for calls with what is traced: it computes the same, and a key of
    the cache would have to be a number."""

    @functools.wraps(cached)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (cached.__wrapped__ if has_traced((args, kwargs)) else cached)(*args, **kwargs)

    call.cache_info, call.cache_clear = cached.cache_info, cached.cache_clear  # type: ignore[attr-defined]
    return call


_CACHED = _type(functools.lru_cache(lambda: None))


def _stand_in(value: Any) -> Any:
    """What takes the place of a value that a module holds by a name, or None."""
    return _uncached(value) if _type(value) is _CACHED else _BY_ID.get(id(value))


class Namespaces:
    """The globals in which the functions are replaced, and those in which they should be in the next trace."""

    def __init__(self) -> None:
        self._known: list[dict[str, Any]] = []
        self._missed: list[dict[str, Any]] = []
        self._before: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def miss(self, frame: FrameType) -> None:
        """Notes that this code has asked a number over named sizes for an int, a float, a length or a hash."""
        found = frame.f_globals
        if not is_ours(frame.f_code) and not any(found is other for other in (*self._known, *self._missed)):
            self._missed.append(found)

    def grow(self) -> bool:
        """Whether code has asked that was not known of; from here on it is."""
        self._known += self._missed
        found, self._missed = bool(self._missed), []
        return found

    def replace(self) -> None:
        """Puts what stands in for the functions into the globals; `restore` puts back what was there."""
        for space in self._known:
            new = {name: found for name, value in space.items() if (found := _stand_in(value)) is not None}
            new |= {name: stand_in for name, (_, stand_in) in _BY_NAME.items() if name not in space}
            self._before.append((space, {name: space[name] for name in new if name in space}))
            self._before[-1][1].update({name: _ABSENT for name in new if name not in space})
            space.update(new)

    def restore(self) -> None:
        """Puts everything back; once more does no harm."""
        while self._before:
            space, before = self._before[-1]
            for name, value in before.items():
                if value is _ABSENT:
                    space.pop(name, None)
                else:
                    space[name] = value
            self._before.pop()


_ABSENT: Any = object()

__all__ = ["Namespaces", "as_seen_by", "genuine"]
