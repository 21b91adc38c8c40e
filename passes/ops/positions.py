"""Positions along an axis, counted as Python counts them: from its end where negative. Registers no op.

A position or a size that only the data say is not asked: it becomes a formula that is right for every number.
"""

from __future__ import annotations

from passes.sizes.dimension import Dim, Size, is_of_data, maximum, minimum, negativity


def from_front(position: Size, size: Size) -> Size:
    """The position of an element, counted from the front of its axis."""
    if is_of_data(position):
        return position + size * negativity(position)
    return position + size if position < 0 else position


def clamped(position: Size, size: Size) -> Size:
    """The bound of a slice, counted from the front and within its axis."""
    position = from_front(position, size)
    if is_of_data(position) or is_of_data(size):
        return minimum(maximum(position, 0), size)
    if position < 0:
        return 0
    return position if position <= size else size


def distance(first: Size, end: Size) -> Size:
    """How many elements lie from one bound to another; none where they are in the other order."""
    if is_of_data(first) or is_of_data(end):
        return maximum(end - first, 0)
    # Asked with >=, which more often needs no guard than >; where they are equal the formula gives 0 as well.
    return end - first if end >= first else 0


def may_be_negative(size: Size) -> bool:
    """Whether a size that an operation is given is to be asked: a fixed one, or one that only the data say."""
    return not isinstance(size, Dim) or is_of_data(size)


__all__ = ["clamped", "distance", "from_front", "may_be_negative"]
