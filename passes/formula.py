"""A size as what divides it sees it: a formula over named dimensions, which computes like an integer."""

from __future__ import annotations


class DynamicSizeError(Exception):
    """A fixed integer was needed where a named dimension stands."""

    def __init__(self, dim: object):
        super().__init__(f"{dim} is a dynamic dimension, but a fixed size is needed here")


class Formula:
    """An integer formula: `Dim` says what it is and how it computes, `Ratio` only computes with it.

    `hint` is its value at the sampled sizes.
    """

    __slots__ = ()

    hint: int


def hint(size: int | Formula) -> int:
    """The size at the sampled sizes."""
    return size.hint if isinstance(size, Formula) else size


__all__ = ["DynamicSizeError", "Formula", "hint"]
