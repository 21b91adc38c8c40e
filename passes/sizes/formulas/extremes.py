"""The largest and the smallest of sizes, as formulas: what `max`, `min`, `abs` and a sign are where no order is known.

Extremes are flat, hold at most one number, and none of two parts that differ by a number: `max(H, max(H - 1, 3), 2)` is
`max(H, 3)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from passes.sizes.formulas.formula import Formula, Max, Min, Whole


def maximum(*sizes: Whole) -> Whole:
    """The largest of some sizes."""
    return _extreme(sizes, Max, Min, max)


def minimum(*sizes: Whole) -> Whole:
    """The smallest of some sizes."""
    return _extreme(sizes, Min, Max, min)


def sign(size: Whole) -> Whole:
    """1 for a positive size, -1 for a negative one, 0 for none."""
    return minimum(1, maximum(-1, size))


def _extreme(
    sizes: tuple[Whole, ...],
    kind: type[Max] | type[Min],
    opposite: type[Max] | type[Min],
    choose: Callable[[int, int], int],
) -> Whole:
    kept: list[Whole] = []
    for size in _flat(sizes, kind):
        for index, other in enumerate(kept):
            apart = size - other
            if isinstance(apart, int):
                kept[index] = other + choose(apart, 0)
                break
        else:
            kept.append(size)
    # of max(a, min(a, b)), only a is left
    kept = [size for size in kept if not any(part in kept for part in _parts(size, opposite))]
    if len(kept) == 1:
        return kept[0]
    kept.sort(key=lambda size: (isinstance(size, int), str(size)))
    return Formula({(kind(tuple(kept)),): 1})


def _flat(sizes: tuple[Whole, ...], kind: type[Max] | type[Min]) -> Iterator[Whole]:
    for size in sizes:
        yield from _parts(size, kind) or (size,)


def _parts(size: Whole, kind: type[Max] | type[Min]) -> tuple[Whole, ...]:
    """The parts of a size that is an extreme of that kind; none of any other."""
    if isinstance(size, Formula) and len(size.terms) == 1:
        ((monomial, coefficient),) = size.terms.items()
        if coefficient == 1 and len(monomial) == 1 and isinstance(monomial[0], kind):
            return monomial[0].parts
    return ()


__all__ = ["maximum", "minimum", "sign"]
