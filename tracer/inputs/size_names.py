"""The named sizes of a sample: which there are, what is promised of them, and at which sizes the model is followed.

Names are met axis by axis; once all are known, `settle` holds the caller's own data against what was promised, and
chooses the sampled sizes so that they keep it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from passes.errors import InputError
from passes.sizes.dimension import Dim
from passes.sizes.facts import LEAST_SIZE, Fact, Facts, Origin
from passes.sizes.formulas.formula import Formula
from passes.sizes.guards import GuardLog
from tracer.inputs.promises import check_sizes, least_sizes, read_promises
from tracer.inputs.size_search import nearest_sizes

# A dynamic dimension is sampled here unless the caller says otherwise: a small batch, and other axes
# wide enough for a usual stack of strided layers. Never 0 or 1, which are special to broadcasting.
BATCH_HINT, OTHER_HINT = 2, 64
LEAST_SAMPLE = 2

_DATA = "the sample has"
_DIMS = "the sizes to sample at have"


class SizeNames:
    """The names that were met, with the sizes that the caller's own data has (`found`), and what is promised.

    `chosen` are the sizes at which the caller wants names sampled. What comes of it is in the log.
    """

    def __init__(self, chosen: Mapping[str, int], log: GuardLog):
        self.chosen = dict(chosen)
        self.log = log
        self.found: dict[str, int] = {}
        self._wanted: dict[str, int] = {}
        self._texts: dict[str, None] = {}
        self._axes: dict[str, Fact] = {}

    def promise(self, constraints: Iterable[str]) -> None:
        """Takes constraints, each once."""
        self._texts.update(dict.fromkeys(constraints))

    def dim(self, size: Formula, axis: int, sample: int | None) -> Dim:
        """An axis whose size is a name or `a*name + b`, and which has `sample` elements where the caller gives data."""
        (name,) = size.symbols()
        times, more = _slope(size, name), size.constant
        default = BATCH_HINT if axis == 0 else OTHER_HINT
        if sample is not None:
            own, left = divmod(sample - more, times)
            if left or own < 0:
                raise InputError(
                    f"an axis of the sample has {sample} elements, which is {size} for no size of {name}",
                    remedy=f"give a sample whose size is {size}, or name the axis by itself",
                )
            if self.found.setdefault(name, own) != own:
                raise InputError(
                    f"the dynamic dimension {name} is {self.found[name]} in one place of the sample, {own} in another",
                    remedy="give samples of one size, or two names",
                )
            self._wanted.setdefault(name, max(LEAST_SAMPLE, own))
        else:
            self._wanted.setdefault(name, max(LEAST_SAMPLE, (default - more) // times))
        if more < 0:  # an axis has elements
            slack = size - LEAST_SIZE
            assert isinstance(slack, Formula)
            self._axes.setdefault(str(size), Fact(slack, ">=", f"{size} >= {LEAST_SIZE}", Origin.DEFAULT))
        return Dim(size, self.log)

    def settle(self) -> None:
        """Gives the log the promises, the sampled sizes, and the sizes of the caller's own data where they differ.

        Raises InputError where the caller's sizes break a promise, and where no sizes keep all of them.
        """
        self._check_chosen()
        promised = read_promises(self._texts, list(self._wanted))
        facts = (*promised, *self._axes.values())
        check_sizes(self.found, facts, _DATA, "give a sample for which it holds, or a constraint that allows this one")
        chosen = {name: self.chosen.get(name, size) for name, size in self.found.items()} | self.chosen
        check_sizes(chosen, facts, _DIMS, "choose sizes for which it holds, or another constraint")
        wanted = {**self._wanted, **self.chosen}
        fixed = set(wanted) - self.free()
        sampled = nearest_sizes(wanted, facts, dict.fromkeys(wanted, LEAST_SAMPLE), fixed)
        if sampled is None:
            raise self._without_sizes(wanted, facts)
        self.log.facts = Facts(given=facts)
        self.log.sampled.update(sampled)
        self.log.given = {name: size for name, size in self.found.items() if size != sampled[name]}

    def free(self) -> frozenset[str]:
        """The names that are sampled where we like: the caller neither chooses a size, nor has data of a usual one."""
        own = {name for name, size in self.found.items() if size >= LEAST_SAMPLE}
        return frozenset(set(self._wanted) - own - set(self.chosen))

    def _check_chosen(self) -> None:
        for name, size in self.chosen.items():
            if name not in self._wanted:
                listed = f"the dynamic dimensions are {', '.join(self._wanted)}" if self._wanted else "none is dynamic"
                raise InputError(f"dims gives a size for {name}, but {listed}", remedy="name one of them")
            if size < LEAST_SAMPLE:
                raise InputError(
                    f"the dynamic dimension {name} is sampled at {size}",
                    remedy="sample it at 2 or more; 1 will still run",
                )

    def _without_sizes(self, wanted: Mapping[str, int], facts: tuple[Fact, ...]) -> InputError:
        """The error for promises that no sizes of at least 2 keep: only smaller ones do, or none."""
        said = ", ".join(fact.condition for fact in facts)
        small = nearest_sizes(wanted, facts, least_sizes(wanted, facts))
        if small is None:
            return InputError(
                f"there are no sizes for which the constraints hold together: {said}",
                remedy="leave out the one that contradicts the others",
            )
        if any(size < LEAST_SAMPLE for size in small.values()):
            listed = ", ".join(f"{name} = {size}" for name, size in small.items() if size < LEAST_SAMPLE)
            return InputError(
                f"the constraints {said} leave nothing but {listed}, and a model is followed at sizes of at least 2",
                remedy=f"write the number in place of the name: {listed}",
            )
        fixed = ", ".join(f"{name} = {wanted[name]}" for name in {**self.found, **self.chosen})
        return InputError(
            f"at {fixed} there are no sizes of the other names for which the constraints hold: {said}",
            remedy="give other sizes, or other constraints",
        )


def _slope(size: Formula, name: str) -> int:
    return size.at({name: 1}) - size.at({name: 0})


__all__ = ["BATCH_HINT", "LEAST_SAMPLE", "OTHER_HINT", "SizeNames"]
