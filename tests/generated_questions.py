"""Generated questions to facts, each answer put to z3: `python -m tests.generated_questions [FIRST [LAST]]`.

A seed is a question. Answers are counted by whether z3 finds them wrong, finds that they cannot be, or gives up after
so much work, measured in z3's own steps and not in seconds, which a busy machine makes few; those are tried at all
small sizes. It can be done in parts: a line is printed every thousand seeds.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import z3

from passes.sizes.facts import LEAST_SIZE, Answer, Fact, Facts, Origin, holds
from passes.sizes.formulas.extremes import maximum, minimum
from passes.sizes.formulas.formula import FloorDiv, Formula, Max, Min, Symbol, Whole, divided, parts_of

N, H, W = (Formula.symbol(name) for name in "NHW")
RELATIONS = ("==", "!=", ">=")

# The questions of the whole sweep, in parts.
ALL_SEEDS = [range(first, first + 5_000) for first in range(0, 100_000, 5_000)]
# How many steps z3 takes at most for one answer; up to which size those are tried that it gives up.
STEPS = 1_000_000
TRIED = 24

# What an answer says, how z3 reads that it is wrong, and whether it is at some sizes.
Claim = tuple[str, Any, Callable[[Mapping[str, int]], bool]]


@dataclass(slots=True)
class Tally:
    """What became of the questions: how many answers there were, and what z3 says of those that are yes or no."""

    questions: int = 0
    answers: dict[Answer, int] = field(default_factory=lambda: dict.fromkeys(Answer, 0))
    divisions: int = 0
    confirmed: int = 0
    undecided: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return self.answers[Answer.YES] + self.answers[Answer.NO] + self.divisions

    def __str__(self) -> str:
        yes, no, unknown = (self.answers[answer] for answer in (Answer.YES, Answer.NO, Answer.UNKNOWN))
        return (
            f"{self.questions} questions: {yes} yes, {no} no, {unknown} unknown, {self.divisions} divisions done; "
            f"confirmed {self.confirmed}, undecided {len(self.undecided)}, wrong {len(self.wrong)}"
        )


def confirmed(seeds: Iterable[int], tally: Tally | None = None) -> Tally:
    """Asks the questions of these seeds, and z3 about the answers."""
    tally = tally or Tally()
    for seed in seeds:
        question = Question(seed)
        tally.questions += 1
        for said, wrong, is_wrong in question.claims(tally):
            solver = z3.Solver()
            solver.set("rlimit", STEPS)
            solver.add(*question.known_in_z3(), *question.sides, wrong)
            found = solver.check()
            if found == z3.unsat:
                tally.confirmed += 1
            elif found == z3.sat or any(map(is_wrong, question.small_sizes())):
                tally.wrong.append(f"seed {seed}: {said}")
            else:
                tally.undecided.append(f"seed {seed}: {said}")
    return tally


def in_z3(value: Whole, names: dict[str, Any], sides: list[Any]) -> Any:
    """The formula as z3 reads it; `sides` gets what it takes for granted: that its divisors are positive."""
    if isinstance(value, int):
        return z3.IntVal(value)
    total: Any = z3.IntVal(0)
    for monomial, coefficient in value.terms.items():
        term: Any = z3.IntVal(coefficient)
        for atom in monomial:
            if isinstance(atom, Symbol):
                term = term * names[atom.name]
                continue
            parts = [in_z3(part, names, sides) for part in parts_of(atom)]
            if isinstance(atom, (Max, Min)):
                best = parts[0]
                for part in parts[1:]:
                    best = z3.If(part > best if isinstance(atom, Max) else part < best, part, best)
                term = term * best
                continue
            above, below = parts
            sides.append(below > 0)
            term = term * (above / below if isinstance(atom, FloorDiv) else above % below)
        total = total + term
    return total


def at(value: Whole, sizes: Mapping[str, int]) -> int:
    return value.at(sizes) if isinstance(value, Formula) else value


def related(value: Any, relation: str) -> Any:
    return {"==": value == 0, "!=": value != 0, ">=": value >= 0}[relation]


class Question:
    """A generated question: a formula and a division, and facts that hold at some sizes; as z3 reads them, too."""

    def __init__(self, seed: int):
        self.draw = random.Random(seed)
        self.names = {name: z3.Int(name) for name in "NHW"}
        self.sizes = {name: self.draw.randint(1, 40) for name in self.names}
        self.grids: list[tuple[Formula, int, int]] = []  # divisions that are a multiple of a coarser one
        self.zero_too = zero_too = self.draw.random() < 0.2
        self.sides: list[Any] = [
            name >= (0 if zero_too and key == "N" else LEAST_SIZE) for key, name in self.names.items()
        ]
        given = [Fact(N, ">=", "N >= 0", Origin.GIVEN)] if zero_too else []
        given += [fact for _ in range(self.draw.choice([0, 0, 1, 2])) for fact in self.known(Origin.GIVEN)]
        self.facts = Facts(given=tuple(given))
        for _ in range(self.draw.randrange(3)):
            for fact in self.known(Origin.GUARD):
                self.facts.assume(fact)
        self.formula = self.grown(3)
        near = [fact.formula for fact in self.facts.known() if isinstance(fact.formula, Formula)]
        if near and self.draw.random() < 0.4:
            self.formula = self.draw.choice([1, -1, 2]) * self.draw.choice(near) + self.draw.randint(-2, 2)
            if self.draw.random() < 0.5:
                self.formula = self.formula + self.grown(1)
        elif self.grids and self.draw.random() < 0.6:
            self.formula = self.cell() * self.draw.choice([1, -2, self.cell(), N]) + self.draw.choice([0, -1, 3])
            if self.draw.random() < 0.6:
                self.formula = self.formula - self.draw.randint(1, 6) * self.cell() * self.draw.choice([1, N])
        self.division = self.cell() * self.draw.choice([1, 4, N, self.cell()]), self.cell()

    def claims(self, tally: Tally) -> Iterator[Claim]:
        """What the facts say."""
        for relation in ("==", ">="):
            answer = self.facts.decide(self.formula, relation).answer
            tally.answers[answer] += 1
            if answer is not Answer.UNKNOWN:
                yes = answer is Answer.YES
                stated = related(in_z3(self.formula, self.names, self.sides), relation)
                yield (
                    f"{self.formula} {relation} 0 is said to be {answer.value}",
                    z3.Not(stated) if yes else stated,
                    lambda sizes, relation=relation, yes=yes: holds(self.formula, relation, sizes) != yes,
                )
        above, below = self.division
        quotient, rest, used = self.facts.divided(above, below)
        if used:
            tally.divisions += 1
            top, by, times, left = (in_z3(value, self.names, self.sides) for value in (above, below, quotient, rest))
            yield (
                f"({above}) // ({below}) is said to be {quotient}",
                z3.And(by > 0, z3.Or(top != times * by + left, left < 0, left >= by)),
                lambda sizes: (
                    (by := at(below, sizes)) > 0
                    and divmod(at(above, sizes), by) != (at(quotient, sizes), at(rest, sizes))
                ),
            )

    def small_sizes(self) -> Iterator[dict[str, int]]:
        """Sizes at which the facts hold."""
        for sizes in itertools.product(range(TRIED + 1), repeat=3):
            named = dict(zip("NHW", sizes, strict=True))
            least = {name: 0 if self.zero_too and name == "N" else LEAST_SIZE for name in named}
            if all(named[name] >= least[name] for name in named) and self.facts.hold(named):
                yield named

    def known_in_z3(self) -> Iterator[Any]:
        """The facts, as z3 reads them."""
        for fact in self.facts.known():
            assert isinstance(fact.formula, Formula)
            yield related(in_z3(fact.formula, self.names, self.sides), fact.relation)

    def known(self, origin: Origin) -> list[Fact]:
        """A fact that holds at the sampled sizes: of one name by itself, of a grid, or of anything."""
        draw, name = self.draw, self.draw.choice("NHW")
        symbol, size = Formula.symbol(name), self.sizes[name]
        simple: list[tuple[Whole, str]] = [
            (symbol - draw.randint(max(size - 3, 1), size), ">="),
            (size + draw.randint(0, 30) - symbol, ">="),
            (divided(symbol, by := draw.randint(2, 12))[1] - size % by, "=="),
            (symbol - Formula.symbol(other := draw.choice("NHW")) - (size - self.sizes[other]), "=="),
            (symbol - Formula.symbol(other) - draw.randint(-40, size - self.sizes[other]), ">="),
            self.grid(symbol, size),
            self.grid(symbol, size),
        ]
        formula, relation = draw.choice(simple) if draw.random() < 0.6 else (self.grown(2), draw.choice(RELATIONS))
        fact = Fact(formula, relation, f"{formula} {relation} 0", origin)  # type: ignore[arg-type]
        if origin is Origin.GIVEN and isinstance(formula, Formula) and formula.terms.keys() <= {(Symbol("N"),), ()}:
            return []  # a promise of its own least size may take the default away, which z3 is told of by itself
        return [fact] if isinstance(formula, Formula) and fact.holds(self.sizes) else []

    def grid(self, symbol: Formula, size: int) -> tuple[Whole, str]:
        """That a name is divided into whole windows of patches, or that there are so many patches of two names."""
        draw = self.draw
        patch, window = draw.choice([1, 2, 3, 4, 8]), draw.choice([2, 3, 4, 7])
        moved = symbol + (-size) % (patch * window)
        assert isinstance(moved, Formula)
        self.grids.append((moved, patch, window))
        if draw.random() < 0.7:
            return divided(moved, patch)[0] - window * divided(moved, patch * window)[0], "=="
        other = draw.choice("NHW")
        patches = divided(moved, patch)[0] * divided(Formula.symbol(other), draw.choice([1, 2, 4]))[0]
        return patches - (patches.at(self.sizes) if isinstance(patches, Formula) else 0), draw.choice(["==", ">="])

    def cell(self) -> Whole:
        """How often something like the patches or the windows of a grid goes into a name."""
        draw = self.draw
        moved, patch, window = draw.choice(self.grids) if self.grids else (draw.choice([N, H, W]), 2, 3)
        return divided(moved + draw.choice([0, 0, 0, 1, -1, patch]), patch * draw.choice([1, window, window, 2]))[0]

    def grown(self, depth: int) -> Whole:
        draw = self.draw
        if depth == 0 or draw.random() < 0.2:
            return draw.choice([N, H, W, draw.randint(-9, 9)])
        left = self.grown(depth - 1)
        kind = draw.choice(["+", "-", "*", "//", "%", "+", "-", "*", "//", "%", "max", "min"])
        if kind in "//%":
            divisor: Whole = draw.randint(1, 6)
            if draw.random() < 0.15:
                divisor = draw.choice([H, W, H + 1, H * W, 2 * W, H + W])
            quotient, remainder = divided(left, divisor)
            return quotient if kind == "//" else remainder
        right = draw.randint(-4, 4) if kind == "*" and draw.random() < 0.8 else self.grown(depth - 1)
        if kind in ("max", "min"):
            return maximum(left, right) if kind == "max" else minimum(left, right)
        return left + right if kind == "+" else left - right if kind == "-" else left * right


def main(first: int = 0, last: int = ALL_SEEDS[-1].stop) -> None:
    tally = Tally()
    for start in range(first, last, 1_000):
        confirmed(range(start, min(start + 1_000, last)), tally)
        print(f"seeds {first}-{min(start + 1_000, last) - 1}: {tally}", *tally.wrong, sep="\n", flush=True)
    print(*tally.undecided, sep="\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
