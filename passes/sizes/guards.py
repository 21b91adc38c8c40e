"""What had to be true for a capture to be valid: the record of decisions that were baked in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, fields, replace

from passes.printable import printable
from passes.sizes.facts import Fact, Facts, Origin
from passes.sizes.formulas.formula import Formula
from passes.sizes.formulas.real import Real
from passes.sizes.statement import needed, statement
from passes.sizes.unknown import Unknown


@dataclass(frozen=True, slots=True)
class Location:
    """Where in the caller's model something happened.

    `path` is the module path (`features.3.conv`, empty for the root); `source` is the caller's own
    line (`net.py:41`), or None where no line of the caller was on the stack.
    """

    path: str = ""
    source: str | None = None

    def __str__(self) -> str:
        place = self.path or "the model's forward"
        return printable(f"{place} ({self.source})" if self.source else place)


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition under which the captured graph is the model: `H % 2 == 0`, `x.shape[1] > 3`.

    `dynamic` says whether the condition constrains a named dimension (and so narrows the sizes for
    which the result holds) or only records a fact about the fixed sample.
    """

    condition: str
    location: Location
    dynamic: bool

    def __str__(self) -> str:
        return f"{self.condition}  at {self.location}"

    def to_dict(self) -> dict[str, object]:
        return {
            "condition": self.condition,
            "path": self.location.path,
            "source": self.location.source,
            "dynamic": self.dynamic,
        }


@dataclass(slots=True)
class GuardLog:
    """Collects guards in the order in which they were met; a repeated condition is kept once.

    `location` is where the work is at present: capture and propagation set it before they evaluate
    something, so that whoever records a guard need not know. `sampled` holds the size at which each
    named dimension is sampled; questions that a formula leaves open are answered there. `facts` holds what the guards
    say of dimensions, as formulas. `given` holds the sizes of the caller's own data where the dimension is sampled at
    another one (0 and 1 never are samples), and `refuted` the bounds that decided something and do not hold there.
    `relied` holds every fact that an answer rested on, by its condition: the default least size of a name among them.
    `decisions` holds the facts by which the last question was answered that needed any.
    `unknown` has the sizes that come from data, by their names, and `required` what must be so of them, where the model
    itself fails in any other case.
    `explains` says that fixed sizes were named only to see what follows from them, so that a layer's own size may
    come out as a formula.
    """

    sampled: dict[str, int] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    given: dict[str, int] = field(default_factory=dict)
    refuted: list[Guard] = field(default_factory=list)
    relied: dict[str, Fact] = field(default_factory=dict)
    decisions: tuple[Fact, ...] = ()
    unknown: dict[str, Unknown] = field(default_factory=dict)
    required: list[Guard] = field(default_factory=list)
    explains: bool = False
    location: Location = field(default_factory=Location)
    _guards: dict[str, Guard] = field(default_factory=dict)

    def withdraw(self, condition: str) -> None:
        """Forgets a guard that a stronger one implies."""
        self._guards.pop(condition, None)

    def record(self, condition: str, *, dynamic: bool) -> None:
        self._guards.setdefault(condition, Guard(condition, self.location, dynamic))

    def rely(self, used: Iterable[Fact]) -> None:
        """Notes what an answer rested on."""
        for fact in used:
            self.relied.setdefault(fact.condition, fact)
        self.decisions = tuple(used) or self.decisions

    @contextmanager
    def supposing(self, fact: Fact) -> Iterator[None]:
        """Goes on as if something were so of the data, and forgets after it what was asked meanwhile."""
        kept = {item.name: copy(getattr(self, item.name)) for item in fields(self)}
        self.facts.of_data = (*self.facts.of_data, fact)
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(self, name, value)

    def forget(self) -> None:
        """Forgets every guard; the sizes and what was promised of them stay."""
        self._guards.clear()
        self.refuted.clear()
        self.relied.clear()
        self.decisions = ()
        self.unknown.clear()
        self.required.clear()
        self.facts = Facts(given=self.facts.given)

    def from_data(self) -> list[str]:
        """What the sizes are that come from data, in words."""
        return [f"{size}{f'; {size.limits}' if size.limits else ''}" for size in self.unknown.values()]

    @property
    def numbers(self) -> dict[str, int]:
        """A number for every name: the sampled size, or what stands for one that comes from data."""
        if not self.unknown:
            return self.sampled
        return {**self.sampled, **{name: size.stand_in for name, size in self.unknown.items()}}

    def unknown_of(self, number: Formula | Real) -> list[Unknown]:
        """The sizes in a formula, or a float, that come from data."""
        return [self.unknown[name] for name in number.symbols() if name in self.unknown] if self.unknown else []

    def as_given(self) -> dict[str, int]:
        """The size of each named dimension in the caller's own data, or the sampled one where there are none."""
        return {**self.sampled, **self.given}

    def constraints(self) -> list[str]:
        """What the caller promised, in words."""
        return [fact.condition for fact in self.facts.given if fact.origin is Origin.GIVEN]

    def guard(self, condition: str) -> Guard | None:
        """The guard with this condition, unless it was withdrawn."""
        return self._guards.get(condition)

    @property
    def recorded(self) -> list[Guard]:
        """Every guard as it was recorded."""
        return list(self._guards.values())

    @property
    def guards(self) -> list[Guard]:
        """The guards, those of named sizes in few words: without what others imply, each solved for its size."""
        if not self.facts.assumed:
            return self.recorded
        stated = {kept.fact.condition: kept.condition for kept in needed(self.facts)}
        of_sizes = {fact.condition for fact in self.facts.assumed}
        return [
            replace(guard, condition=stated.get(guard.condition, guard.condition))
            for guard in self._guards.values()
            if guard.condition in stated or guard.condition not in of_sizes
        ]

    def statement(self) -> str:
        """For which sizes the result holds, in one sentence; empty where no size is named."""
        of_sizes = {fact.condition for fact in self.facts.assumed}
        others = [
            guard.condition for guard in self._guards.values() if guard.dynamic and guard.condition not in of_sizes
        ]
        return statement(self.facts, self.sampled, others) if self.sampled else ""
