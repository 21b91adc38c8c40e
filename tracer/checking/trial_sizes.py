"""At which sizes a verification runs: the sampled ones, and the edges of what the report says of each named size.

A file is likeliest to be wrong where a size is special (0, 1, the first that a guard lets through, the last one), and
where it is far from the sampled one. The other sizes stay as they were sampled, or follow as guards ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from passes.lowering.pinned_sizes import pinned_sizes
from passes.program.costs import Work
from passes.sizes.facts import Fact
from passes.sizes.formulas.formula import Formula, Whole
from passes.sizes.guards import GuardLog
from passes.sizes.statement import admissible
from tracer.inputs.promises import least_sizes
from tracer.inputs.size_search import Sizes, nearest_sizes

# Between which multiples of the sampled size a far one is drawn, the farthest first: the first that is not too much.
_FAR = ((3, 5), (2, 3), (1.5, 2))
# So many times the work of a run at the sampled sizes may a far one take, and any; or this much in any case.
_FAR_TIMES, _MOST_TIMES, _LITTLE = 2, 8, 2**24
# How long sizes are looked for that keep facts about several names: some hundredths of a second.
_TRIES = 8000


@dataclass(frozen=True, slots=True)
class Trial:
    """Sizes to run at, the likeliest first, of which one is enough; each is looked for when it is asked for.

    `about` says in words which they are; `names` are those that are moved, none where the sizes are the caller's.
    """

    about: str
    names: tuple[str, ...]
    sizes: Iterable[Sizes]


def trials(names: Sequence[str], log: GuardLog, work: Callable[[], Work]) -> Iterator[Trial]:
    """The sampled sizes, and the caller's own where they differ. Then, as far as guards and constraints allow and the
    most telling first: all names at their least, each at its least, each far from its sampled size (at its largest,
    where it has one that is not too much), and each at the next size after its least.

    One that guards tie to others takes these along. Far sizes are drawn, the same ones each time. What is too much is
    told by the `work` of a run, which is asked for where a size is free.
    """
    yield Trial("the sampled sizes", (), [dict(log.sampled)])
    if log.given:
        yield Trial("the sizes of the sample", (), [log.as_given()])
    pinned = pinned_sizes(log)
    free = tuple(name for name in names if name not in pinned)
    if not free:
        return
    edges = _Edges(free, log, work())
    if len(free) > 1:
        yield Trial(f"the least {' and '.join(free)} together", free, edges.least_together())
    for about, sizes in (("the least", edges.least), ("a far", edges.far), ("the second least", edges.second_least)):
        for name in free:
            yield Trial(f"{about} {name}", (name,), sizes(name))


# How far sizes are moved to be other ones, the nearest first.
_STEPS = (1, -1, 2, -2, 3, 4, -4, 8, -8, 16, -16, 32, -32, 64)


def other_sizes(names: Sequence[str], log: GuardLog) -> Iterator[Sizes]:
    """All sizes that guards and constraints allow where one name is moved by a step, or all together."""
    together = [names] if len(names) > 1 else []
    for step in _STEPS:
        for moved in (*together, *([name] for name in names)):
            sizes = {name: size + step * (name in moved) for name, size in log.sampled.items()}
            least = least_sizes(sizes, log.facts.given)
            if all(size >= least[name] for name, size in sizes.items()) and log.facts.hold(sizes):
                yield sizes


class _Edges:
    """Sizes at the edges of what the facts about names allow."""

    def __init__(self, free: Sequence[str], log: GuardLog, work: Work):
        self._free = free
        self._sampled = log.sampled
        self._facts = log.facts
        self._floor = least_sizes(log.sampled, log.facts.given)
        self._admitted = {name: admissible(log.facts, name) for name in free}
        self._work = work

    def least_together(self) -> Iterator[Sizes]:
        """All names at their least; then, where that is no other size or the module does not take it, all of them moved
        a little."""
        found = self._near({name: self._least_alone(name) for name in self._free})
        if found != self._sampled:
            yield from self._bearable(found)
        onwards = {name: self._sampled[name] + 1 for name in self._free}
        yield from self._bearable(self._near(onwards, *(_other(name, self._sampled[name]) for name in self._free)))

    def least(self, name: str) -> Iterator[Sizes]:
        """A name at its least."""
        yield from self._bearable(self._from(self._least_alone(name), name))

    def second_least(self, name: str) -> Iterator[Sizes]:
        """A name at the next size after its least."""
        least = self._from(self._least_alone(name), name)
        if least is not None:
            yield from self._bearable(self._from(least[name] + 1, name))

    def far(self, name: str) -> Iterator[Sizes]:
        """A name at its largest, or several times the sampled size; then, where the module does not take that, at the
        nearest sizes above and below the sampled one."""
        sampled, largest = self._sampled[name], self._admitted[name].upper
        above, below = _at_least(name, sampled + 1), _at_most(name, sampled - 1)
        drawn = Random(f"{name} = {sampled}")
        wanted = [drawn.randrange(int(low * sampled), int(high * sampled)) | 1 for low, high in _FAR]
        for size in wanted if largest is None else (largest, *wanted):
            found = list(self._bearable(self._near({name: size}, above, first=name), far=True))
            if found:
                yield from found
                break
        for side in (above, below):
            yield from self._bearable(self._near({name: sampled}, side, first=name))

    def _least_alone(self, name: str) -> int:
        """The least size of a name by what is known of it alone."""
        found = self._admitted[name].lower
        return self._floor[name] if found is None else max(found, self._floor[name])

    def _from(self, least: int, name: str) -> Sizes | None:
        """The first size of a name from one on, and the others as near to the sampled ones as they can be."""
        return self._near({name: least}, _at_least(name, least), first=name)

    def _near(self, wanted: Sizes, *more: Fact, first: str | None = None) -> Sizes | None:
        """The sizes nearest to those wanted, and to the sampled ones of other names, at which all holds that is known,
        and some more."""
        facts = [*self._facts.known(), *more]
        return nearest_sizes({**self._sampled, **wanted}, facts, self._floor, first=first, tries=_TRIES)

    def _bearable(self, sizes: Sizes | None, far: bool = False) -> Iterator[Sizes]:
        """The sizes, where there are some and a run at them is not too much."""
        times = _FAR_TIMES if far else _MOST_TIMES
        if sizes is not None and self._work.at(sizes) <= max(times * self._work.at(self._sampled), _LITTLE):
            yield sizes


def _at_least(name: str, size: int) -> Fact:
    return _fact(Formula.symbol(name) - size, ">=")


def _at_most(name: str, size: int) -> Fact:
    return _fact(size - Formula.symbol(name), ">=")


def _other(name: str, size: int) -> Fact:
    return _fact(Formula.symbol(name) - size, "!=")


def _fact(formula: Whole, relation: str) -> Fact:
    assert isinstance(formula, Formula)
    return Fact(formula, relation, "")


__all__ = ["Trial", "other_sizes", "trials"]
