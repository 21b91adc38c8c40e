"""An op's arguments as one value: a frozen dataclass that its rules take.

    @dataclass(frozen=True, slots=True)
    class Linear(Record[T]):
        input: T
        weight: T
        bias: T | None = None

The fields are the op's signature: their order is that of torch's function, their defaults are torch's. `T` stands where
a tensor stands. It is an `fx.Node` (or `Owned`, a parameter of the called module) where a call is captured, a
`TensorSpec` for the shape rule, costs and identities, and a `Value` of the emitter for the lowering. What has no `T` in
its type takes numbers, strings and the like.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field, make_dataclass
from functools import cache
from inspect import Parameter
from operator import attrgetter
from typing import Any, Generic, TypeVar

from torch import fx

from passes.values.nested import ATOMS, map_structure

T = TypeVar("T")


def star() -> Any:
    """A field that takes sizes either one by one or as one sequence, as `x.view(2, 3)` and `x.view((2, 3))` do."""
    return field(default=(), metadata={"star": True})


def is_star(declared: Field[Any]) -> bool:
    """Whether a field was declared by `star()`."""
    return "star" in declared.metadata


@dataclass(frozen=True, slots=True)
class Owned:
    """A parameter or buffer of the module that is being called, by its path in that module."""

    name: str


class Record(Generic[T]):
    """An op's arguments, bound to its signature (see the module's docstring)."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()

    def map(self, leaf: Callable[[Any], Any]) -> Any:
        """The same call with every `fx.Node` and `Owned` in it replaced by `leaf(it)`."""
        kind: Any = type(self)
        return kind(
            *[value if type(value) in CONSTANTS else map_leaves(value, leaf) for value in _fields_of(kind)(self)]
        )

    def named(self) -> dict[str, Any]:
        """The arguments by name, in the signature's order."""
        return {name: getattr(self, name) for name in self.__match_args__}

    @property
    def subject(self) -> Any:
        """The first argument: what the operation is of."""
        return getattr(self, self.__match_args__[0])


@cache
def _fields_of(kind: Any) -> Callable[[Any], tuple[Any, ...]]:
    """What gives the arguments of a kind of record, all at once."""
    names = kind.__match_args__
    if len(names) > 1:
        return attrgetter(*names)
    return lambda record: tuple(getattr(record, name) for name in names)


def record_of(name: str, parameters: Iterable[Parameter]) -> type[Record[Any]]:
    """The record whose fields are a lowering's parameters, for ops that are declared by their lowering alone.

    `name` is the op's; of the annotations, which are text, those of operands become `T`.
    """
    declared: list[Any] = [
        (
            parameter.name,
            re.sub(r"\b(Value|Operand)\b", "T", str(parameter.annotation)),
            *([] if parameter.default is Parameter.empty else [field(default=parameter.default)]),
        )
        for parameter in parameters
    ]
    title = "".join(word.capitalize() for word in name.split("_"))
    return make_dataclass(title, declared, bases=(Record,), frozen=True, slots=True)


def map_leaves(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The argument structure with every `fx.Node` and `Owned` replaced by `leaf(it)`."""
    kind = type(value)
    if kind is fx.Node or kind is Owned:
        return leaf(value)
    if kind in ATOMS or (kind is tuple and CONSTANTS.issuperset(map(type, value))):
        return value
    return map_structure(value, lambda item: leaf(item) if type(item) is fx.Node or type(item) is Owned else item)


# The types of arguments that have no parts and are no nodes.
CONSTANTS = ATOMS - {fx.Node}

__all__ = ["CONSTANTS", "Owned", "Record", "T", "is_star", "map_leaves", "record_of", "star"]
