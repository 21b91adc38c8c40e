"""What the caller promises of named sizes, as a contract: the model must keep it, and so must the caller's own data.

Promises are facts that are given (`GuardLog.facts.given`). A name of which nothing was promised is free: what the model
needs of it is a guard, and told. A name of which something was promised is not: where the model needs more than that,
the file would be wrong at sizes that were promised, and there is none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from passes.errors import InputError
from passes.sizes.fact import opposite
from passes.sizes.facts import Fact, Facts, Origin
from passes.sizes.formulas.formula import Formula
from passes.sizes.guards import GuardLog
from passes.sizes.statement import Kept, needed
from passes.text.constraints import parse_constraint, parse_constraints
from tracer.inputs.size_search import Sizes, nearest_sizes


def read_promises(texts: Iterable[str], names: Collection[str]) -> tuple[Fact, ...]:
    """The facts that constraints give. Raises InputError where one is of a size that the sample does not name."""
    texts = list(texts)
    if texts and not names:
        raise InputError(
            f"the constraint {texts[0]!r} is of a named size, but the sample names none",
            remedy='name the axis that it is about: spec("N", 3, "H", "W"), or -i Nx3xHxW',
        )
    return parse_constraints(texts, names)


def promised_names(log: GuardLog) -> list[str]:
    """The names of which the caller promised something."""
    promised = (fact for fact in log.facts.given if fact.origin is Origin.GIVEN)
    return list(dict.fromkeys(name for fact in promised for name in fact.formula.symbols()))


def least_sizes(names: Iterable[str], promised: tuple[Fact, ...]) -> dict[str, int]:
    """The least size of each name: 1, or 0 where a promise says that it may be (`P >= 0`); more where one says that."""
    facts = Facts(given=promised)
    return {name: int(facts.low(Formula.symbol(name))) for name in names}


def check_sizes(sizes: Mapping[str, int], facts: Iterable[Fact], said: str, remedy: str) -> None:
    """Raises InputError where sizes, of which `said` tells where they come from, break a promise about them."""
    for fact in facts:
        names = fact.formula.symbols()
        if sizes.keys() >= set(names) and not fact.holds(sizes):
            listed = ", ".join(f"{name} = {sizes[name]}" for name in names)
            raise InputError(f"{said} {listed}, but the constraint {fact.condition} excludes that", remedy=remedy)


def check_promises(log: GuardLog) -> None:
    """Raises InputError where the model needs more of a size than was promised: which line, and at which size not.

    A guard narrows a promise where sizes are found that were promised and that it excludes.
    """
    promised = set(promised_names(log))
    if not promised:
        return
    broken: list[tuple[Kept, Sizes]] = []
    for kept in needed(log.facts):
        if promised & set(kept.fact.formula.symbols()):
            excluded = _excluded_by(kept.fact, log)
            if excluded is not None:
                broken.append((kept, excluded))
    if not broken:
        return
    first, excluded = broken[0][0].fact, broken[0][1]
    names = [name for name in first.formula.symbols() if name in promised]
    said = [fact.condition for fact in log.facts.given if set(names) & set(fact.formula.symbols())]
    listed = ", ".join(f"{name} = {excluded[name]}" for name in first.formula.symbols())
    written = ", ".join(dict.fromkeys(_as_constraint(kept) for kept, _ in broken))
    more = ", ".join(dict.fromkeys(kept.condition for kept, _ in broken))
    guard = log.guard(first.condition)
    error = InputError(
        f"the model needs {more}, but the constraint {', '.join(said)} promises more: it allows {listed}",
        remedy=f'write "{written}" as a constraint too, give a fixed size for '
        f"{', '.join(names)}, or write that line so that it asks nothing of it",
    )
    raise error.placed(guard.location) if guard is not None else error


def _as_constraint(kept: Kept) -> str:
    """A guard as a caller may write it: in the words that are told, or where those list sizes, in its own."""
    try:
        parse_constraint(kept.condition)
    except InputError:
        return kept.fact.condition
    return kept.condition.replace(" ", "")


def _excluded_by(guard: Fact, log: GuardLog) -> Sizes | None:
    """Sizes that were promised and that a guard excludes, near the sampled ones; None where none were found."""
    without = opposite(guard)
    if without is None:
        return None
    facts = [*log.facts.given, without]
    names = {name for fact in facts for name in fact.formula.symbols()}
    wanted = {name: size for name, size in log.sampled.items() if name in names}
    return nearest_sizes(wanted, facts, least_sizes(wanted, log.facts.given))


__all__ = ["check_promises", "check_sizes", "least_sizes", "promised_names", "read_promises"]
