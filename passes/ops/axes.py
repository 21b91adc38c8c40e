"""How an axis is named: counted from the front, or from the back with a negative number. Registers no op."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from passes.errors import ShapeError, check


def axis_of(dim: Any, ndim: int) -> int:
    """The axis counted from the front, of a tensor with `ndim` axes; a 0-d tensor counts as one with 1 axis.

    Raises DynamicSizeError where it is a size that is not fixed.
    """
    try:
        axis = operator.index(dim)
    except TypeError as error:
        raise ShapeError(f"an axis is a whole number, not {dim}") from error
    axes = max(ndim, 1)
    check(
        -axes <= axis < axes,
        "axis {} is out of range for a tensor of {} axes",
        axis, ndim, axes - 1,
        remedy="name an axis from 0 to {2}, or from the end with -1",
    )  # fmt: skip
    return axis % axes


def axes_of(dims: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """One axis or several, counted from the front; each at most once."""
    axes = tuple(axis_of(dim, ndim) for dim in (dims if isinstance(dims, Sequence) else [dims]))
    check(len(set(axes)) == len(axes), "the axes {} name one axis twice", dims, remedy="name each axis once")
    return axes


def moved(ndim: int, source: Sequence[int], destination: Sequence[int]) -> tuple[int, ...]:
    """The permutation that moves the axes `source` to `destination` and leaves the others in their order."""
    rest = iter(axis for axis in range(ndim) if axis not in source)
    target = dict(zip(destination, source, strict=True))
    return tuple(target[axis] if axis in target else next(rest) for axis in range(ndim))


def inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes the given one."""
    return tuple(sorted(range(len(permutation)), key=permutation.__getitem__))


__all__ = ["axes_of", "axis_of", "inverse", "moved"]
