"""A size that is not known yet, as fractions of sizes see it: it computes like an integer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable


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
    if type(size) is int:  # as most are
        return size
    return size.hint if isinstance(size, DynamicSize) else size


def sampled(sizes: Iterable[int | DynamicSize]) -> list[int]:
    """The sizes at the sampled sizes."""
    return [size if type(size) is int else hint(size) for size in sizes]


__all__ = ["DynamicSize", "DynamicSizeError", "hint", "sampled"]
