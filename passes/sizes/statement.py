"""For which sizes a result holds, in as few words as say it: `H >= 32, H % 32 == 0`, `29 <= H <= 512`, `N*T <= 4096`.

The facts about one name are solved together (`passes.sizes.solving`), so that those that others imply are left out, and
the rest says plainly which sizes there are. Facts about several names are left out where the others decide them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from passes.sizes.bounds import LEAST_SIZE, default_fact
from passes.sizes.fact import Answer, Fact, Origin
from passes.sizes.facts import Facts
from passes.sizes.formulas.formula import Formula, Symbol, Whole
from passes.sizes.formulas.replacement import rewritten
from passes.sizes.solving import EVERY_SIZE, LARGEST_PERIOD, SizeSet, at_least, joint_period, solutions

# How many single sizes, remainders or exceptions are listed.
_MOST_LISTED = 4
# Between more facts than this, it is not looked for implied ones.
_MOST_COMPARED = 64


# What facts admit ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admissible:
    """The sizes that one name may have: all of `sizes`, which lie between `lower` and `upper` (None: no limit) and
    leave the `residues` by `modulus`. `lower_by` and `upper_by` are the facts that end them there; `open` are the facts
    about the name that are not among those solved, as they are of other names too.
    """

    name: str
    sizes: SizeSet
    lower: int | None
    upper: int | None
    modulus: int
    residues: tuple[int, ...]
    lower_by: Fact | None
    upper_by: Fact | None
    open: tuple[Fact, ...]


def admissible(facts: Facts, name: str, at: Mapping[str, int] | None = None) -> Admissible:
    """The sizes that a name may have, by the facts about it alone, or with the other names at the sizes of `at`."""
    solved: list[tuple[Fact, SizeSet]] = []
    left: list[Fact] = []
    alone = {id(fact): formula for formula, fact in facts.alone(name)}
    for fact in (*own_facts(facts, name), *(fact for fact in facts.known() if name in fact.formula.symbols())):
        found = solved_at(fact, name, at or {})
        if found is None and id(fact) in alone:
            found = solutions(alone[id(fact)], fact.relation)
        if found is None or joint_period([found, *(other for _, other in solved)]) > 2 * LARGEST_PERIOD:
            left.append(fact)
        else:
            solved.append((fact, found))
    sizes = EVERY_SIZE
    for _, found in solved:
        sizes = sizes & found
    lower, upper = sizes.least, sizes.largest
    modulus = sizes.modulus
    return Admissible(
        name,
        sizes,
        lower,
        upper,
        modulus,
        tuple(sorted(sizes.residues(modulus))),
        None if lower is None else _ended_by(solved, lower, -1, sizes.residues(modulus), modulus),
        None if upper is None else _ended_by(solved, upper, 1, sizes.residues(modulus), modulus),
        tuple(left),
    )


def own_facts(facts: Facts, name: str) -> list[Fact]:
    """The default least size of a name, unless the caller gave another."""
    promised = Facts(given=facts.given).least_by(name)
    return [default_fact(name)] if not promised or promised[0].origin is Origin.DEFAULT else []


def solved_at(fact: Fact, name: str, at: Mapping[str, int]) -> SizeSet | None:
    """The sizes of a name at which a fact holds with the other names at some sizes; None where they are not found."""
    if not isinstance(fact.formula, Formula):
        return None
    formula: Whole = fact.formula
    if fact.formula.symbols() != [name]:
        others = {Symbol(other): at[other] for other in fact.formula.symbols() if other != name and other in at}
        formula = rewritten(fact.formula, lambda atom: others.get(atom) if isinstance(atom, Symbol) else None)
    if isinstance(formula, int):
        holds = formula >= 0 if fact.relation == ">=" else (formula == 0) == (fact.relation == "==")
        return EVERY_SIZE if holds else ~EVERY_SIZE
    return solutions(formula, fact.relation) if formula.symbols() == [name] else None


def _ended_by(
    solved: list[tuple[Fact, SizeSet]], border: int, step: int, residues: frozenset[int], modulus: int
) -> Fact | None:
    """The fact that excludes the next size beyond a border with a remainder of those inside; of several, a guard."""
    beyond = border + step
    while beyond % modulus not in residues:
        beyond += step
    if beyond < 0:
        return None
    ending = [fact for fact, found in solved if beyond not in found]
    return next((fact for fact in ending if fact.origin is Origin.GUARD), ending[0] if ending else None)


# Words -------------------------------------------------------------------------------------------


def words(name: str, sizes: SizeSet, below: int | None = None) -> str | None:
    """A set of sizes in words, or None where there are no short ones. A least size is left out where it is the first
    from `below` on that the other words allow; with None it is always said."""
    least, largest = sizes.least, sizes.largest
    if least is None:
        return None
    if largest is not None:
        listed = _first(sizes, _MOST_LISTED + 1)
        if len(listed) == 1:
            return f"{name} == {least}"
        if len(listed) <= _MOST_LISTED and listed[-1] - least >= len(listed):
            return f"{name} in ({', '.join(map(str, listed))})"
    for exceptions_allowed in (0, _MOST_LISTED):
        for modulus in (found for found in range(1, sizes.period + 1) if sizes.period % found == 0):
            residues = sizes.residues(modulus)
            remainder = _remainder_words(name, modulus, residues)
            missing = sizes.missing(modulus, exceptions_allowed + 1) if remainder is not None else None
            if missing is None or remainder is None:
                continue
            from_start = below is not None and not any(size % modulus in residues for size in range(below, least))
            bounds = _range_words(name, None if from_start else least, largest)
            parts = [*bounds, *remainder, *(f"{name} != {size}" for size in missing)]
            return ", ".join(parts) if parts else _range_words(name, least, largest)[0]
    return None


def _range_words(name: str, least: int | None, largest: int | None) -> list[str]:
    if largest is None:
        return [] if least is None else [f"{name} >= {least}"]
    return [f"{name} <= {largest}" if least is None else f"{least} <= {name} <= {largest}"]


def _remainder_words(name: str, modulus: int, residues: frozenset[int]) -> list[str] | None:
    if len(residues) == modulus:
        return []
    if len(residues) == 1:
        return [f"{name} % {modulus} == {next(iter(residues))}"]
    if len(residues) == modulus - 1:
        (other,) = set(range(modulus)) - residues
        return [f"{name} % {modulus} != {other}"]
    if len(residues) <= _MOST_LISTED:
        return [f"{name} % {modulus} in ({', '.join(map(str, sorted(residues)))})"]
    starts = [rest for rest in residues if (rest - 1) % modulus not in residues]
    if len(starts) != 1:
        return None
    if starts[0] + len(residues) == modulus:
        return [f"{name} % {modulus} >= {starts[0]}"]
    shifted = f"({name} + {modulus - starts[0]})" if starts[0] else name
    return [f"{shifted} % {modulus} <= {len(residues) - 1}"]


def _first(sizes: SizeSet, count: int) -> list[int]:
    found: list[int] = []
    for size in sizes.sizes():
        found.append(size)
        if len(found) == count:
            break
    return found


# Guards ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """An assumed fact that the others do not imply, and its words."""

    fact: Fact
    condition: str


def needed(facts: Facts) -> list[Kept]:
    """The assumed facts without those that the others and what was promised imply, each solved for its name."""
    kept = list(facts.assumed)
    if len(kept) <= _MOST_COMPARED:
        solved = {id(fact): _solved(fact) for fact in kept}
        for fact in reversed(facts.assumed):
            others = [other for other in kept if other is not fact]
            if _is_implied(fact, solved[id(fact)], others, solved, facts):
                kept = others
    return [Kept(fact, _condition(fact, facts)) for fact in kept]


def _solved(fact: Fact) -> SizeSet | None:
    if not isinstance(fact.formula, Formula) or len(fact.formula.symbols()) != 1:
        return None
    return solutions(fact.formula, fact.relation)


def _is_implied(
    fact: Fact, sizes: SizeSet | None, others: Sequence[Fact], solved: dict[int, SizeSet | None], facts: Facts
) -> bool:
    if not isinstance(fact.formula, Formula):
        return False
    if sizes is not None:
        (name,) = fact.formula.symbols()
        there = admissible(Facts(given=facts.given), name).sizes
        for other in others:
            found = solved[id(other)]
            if found is not None and other.formula.symbols() == [name] and _fits(there, found):
                there &= found
        if _fits(there, sizes) and there <= sizes:
            return True
    return Facts(list(others), facts.given).decide(fact.formula, fact.relation).answer is Answer.YES


def _fits(left: SizeSet, right: SizeSet) -> bool:
    """Whether the two are worth comparing."""
    return left.period * right.period <= LARGEST_PERIOD**2 and max(left.period, right.period) <= 2 * LARGEST_PERIOD


def _condition(fact: Fact, facts: Facts) -> str:
    sizes = _solved(fact)
    if sizes is None:
        return fact.condition
    (name,) = fact.formula.symbols()
    start = 1 if own_facts(facts, name) else 0
    return words(name, sizes & at_least(start), start) or fact.condition


# The sentence ---------------------------------------------------------------------------------------


def statement(facts: Facts, names: Iterable[str], extra: Iterable[str] = ()) -> str:
    """One sentence that says for which sizes the facts hold: `valid for N >= 1, H >= 29, W >= 29`; empty without names.

    `extra` are conditions besides, of which no formula is known.
    """
    kept = [item.fact for item in needed(facts)]
    needed_facts = Facts(kept, facts.given)
    found = {name: admissible(needed_facts, name) for name in names}
    parts: list[str] = []
    for name, sizes in found.items():
        said = words(name, sizes.sizes) if sizes.sizes != EVERY_SIZE else f"{name} >= 0"
        if said is not None:
            parts.append(said)
            continue
        parts += [
            fact.condition
            for fact in (*own_facts(facts, name), *needed_facts.known())
            if name in fact.formula.symbols() and (fact not in sizes.open or fact.formula.symbols() == [name])
        ]
    rest = [fact for fact in needed_facts.known() if _is_open(fact, found, needed_facts)]
    parts += [fact.condition for fact in rest if not _is_known_without(fact, needed_facts)]
    said_so_far = dict.fromkeys([*parts, *extra])
    return f"valid for {', '.join(said_so_far)}" if said_so_far else ""


def _is_open(fact: Fact, found: Mapping[str, Admissible], facts: Facts) -> bool:
    """Whether the sizes of the names do not say all that a fact says."""
    about = [name for name in fact.formula.symbols() if name in found]
    alone = [name for name in about if any(other is fact for _, other in facts.alone(name))]
    is_open = [fact in found[name].open for name in alone or about]
    return any(is_open) if alone else bool(about) and all(is_open)


def stated(facts: Facts, names: Iterable[str]) -> list[Fact]:
    """The facts that the sentence is made of, each with its words: what was promised, default least sizes, guards."""
    kept = needed(facts)
    solved = {item.fact.formula.symbols()[0]: sizes for item in kept if (sizes := _solved(item.fact)) is not None}
    defaults = [
        fact
        for name in names
        for fact in own_facts(facts, name)
        if name not in solved or not solved[name] <= at_least(LEAST_SIZE)
    ]
    return [*facts.given, *defaults, *(replace(item.fact, condition=item.condition) for item in kept)]


def _is_known_without(fact: Fact, facts: Facts) -> bool:
    """Whether a promise about several names follows from everything else."""
    if not isinstance(fact.formula, Formula) or fact not in facts.given:
        return False
    others = Facts(facts.assumed, tuple(other for other in facts.given if other != fact))
    return others.decide(fact.formula, fact.relation).answer is Answer.YES


__all__ = ["Admissible", "Kept", "admissible", "needed", "own_facts", "solved_at", "stated", "statement", "words"]
