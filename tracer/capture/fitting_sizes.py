"""At which sizes a model is followed: at others than ours, where its forward fails there.

A name of which the caller says no size is sampled at one of our choice. A forward may need another: a table is shorter
than that, a kernel is larger, three values are taken out of two, an assertion wants 224. What was decided last before
it failed was decided by the size; so sizes are tried at which that is decided the other way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from passes.errors import CaptureError, ShapeError
from passes.program.pipeline import PassResult
from passes.program.stages import Shaped
from passes.sizes.fact import Fact, opposite
from passes.sizes.guards import GuardLog
from tracer.capture.ladder import follow
from tracer.inputs.request import Request
from tracer.inputs.sample import Sample
from tracer.inputs.size_names import LEAST_SAMPLE
from tracer.inputs.size_search import Sizes, nearest_sizes

# How many other sizes are tried at most.
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Followed:
    """A model followed from a sample: its program, and the passes that gave it; `request` has the sizes that fit."""

    request: Request
    sample: Sample
    log: GuardLog
    program: Shaped
    passes: list[PassResult]


def follow_where_it_fits(model: nn.Module, request: Request, *, explains: bool = False) -> Followed:
    """The model followed from its sample, at the sizes that the caller gives, and at ours of names without one.

    Raises TracerError: the first one where the forward fails at all sizes that were tried.
    """
    search: _Search | None = None
    while True:
        log = GuardLog(explains=explains)
        sample = request.bound(model, log)
        try:
            return Followed(request, sample, log, *follow(model, sample, log))
        except (CaptureError, ShapeError) as error:
            search = search or _Search(error, sample.free, log)
            sizes = search.next(error, log)
        if sizes is None:
            first, search = search.first, None
            raise first
        request = request.sampled_at(sizes)


class _Search:
    """Sizes of `free` names, each time others than those at which the forward has failed; `first` says how at first."""

    def __init__(self, first: CaptureError | ShapeError, free: frozenset[str], log: GuardLog):
        self.first = first
        self._free = free
        self._wanted = dict(log.sampled)
        self._fixed = {name: size for name, size in log.sampled.items() if name not in free}
        self._given = log.facts.given
        self._tried = [dict(log.sampled)]
        self._needed: list[Fact] = []
        self._turned: Counter[object] = Counter()

    def next(self, error: CaptureError | ShapeError, log: GuardLog) -> Sizes | None:
        """The sizes to try after an error, None where there are none: first those at which what was decided last is
        decided the other way, then what was decided before it, of which nothing was tried yet."""
        is_of_sizes = not error.caught and not (isinstance(error, ShapeError) and error.wants_fixed_size)
        if not is_of_sizes or len(self._tried) > _TRIES:
            return None
        suspects = [*dict.fromkeys([*error.decisions, *reversed(log.facts.assumed)])]
        for suspect in sorted(suspects, key=lambda fact: self._turned[_what(fact)]):
            other = opposite(suspect) if self._free.intersection(suspect.formula.symbols()) else None
            if other is None:
                continue
            for needed in ([*self._needed, other], [other]):
                for sizes in self._where(suspect, needed):
                    if sizes not in self._tried:
                        self._tried.append(sizes)
                        self._needed = needed
                        self._turned[_what(suspect)] += 1
                        return {name: size for name, size in sizes.items() if name in self._free}
        return None

    def _where(self, suspect: Fact, needed: list[Fact]) -> Iterator[Sizes]:
        """Sizes at which facts hold: far from their border, where sizes are seldom special, and at it.

        How many there are of something that Python takes apart is small.
        """
        if suspect.relation == "==":
            yield from self._near({**self._wanted, **dict.fromkeys(suspect.formula.symbols(), LEAST_SAMPLE)}, needed)
            return
        for border in self._near(self._wanted, needed):
            beyond = {name: _beyond(size, self._wanted[name]) for name, size in border.items()}
            yield from self._near(beyond, needed)
            yield border

    def _near(self, wanted: Mapping[str, int], needed: list[Fact]) -> Iterator[Sizes]:
        least = dict.fromkeys(wanted, LEAST_SAMPLE)
        found = nearest_sizes({**wanted, **self._fixed}, [*self._given, *needed], least, self._fixed)
        if found is not None:
            yield found


def _what(fact: Fact) -> object:
    """What a fact says, where it is tried more than once: another number of one formula is the same again."""
    return tuple(fact.formula.symbols()) if fact.relation == "==" else fact


def _beyond(border: int, wanted: int) -> int:
    """A size on the far side of a border, seen from the one that is wanted."""
    if border == wanted:
        return wanted
    return 2 * border if border > wanted else max(border // 2, LEAST_SAMPLE)


__all__ = ["Followed", "follow_where_it_fits"]
