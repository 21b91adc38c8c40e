"""The text of constraints: what the caller promises of named sizes: `H >= 33`, `29 <= W <= 512, W % 32 == 0`.

A constraint compares formulas (`passes.text.formulas`) by `==`, `!=`, `<`, `<=`, `>` or `>=`; comparisons may be
chained, as in Python, and several constraints stand in one text with commas between them. What comes out are facts
that are given: `passes.sizes.facts` answers from them, and nothing that they say becomes a guard.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from passes.errors import InputError
from passes.sizes.fact import Answer, Fact, Origin
from passes.sizes.facts import Facts
from passes.sizes.formulas.formula import Formula, Whole
from passes.sizes.statement import admissible
from passes.text.formulas import RELATIONS, compared, read_formula
from passes.text.scanner import MalformedTextError, Scanner

_REMEDY = "write comparisons of named sizes, such as 'H >= 33', '29 <= H <= 512', 'W % 32 == 0', 'H == W'"
_LONGEST = 1000  # characters; nobody writes more, and a text of brackets only would exhaust the stack


def parse_constraint(text: str, names: Collection[str] | None = None) -> list[Fact]:
    """The facts that a text gives, in its order; `names` are the named sizes there are, where that is known.

    Raises InputError for what is no constraint.
    """
    if not isinstance(text, str):
        raise InputError(f"a constraint on sizes is a text, not {text!r}", remedy=_REMEDY)
    if len(text) > _LONGEST:
        raise InputError(f"the constraint {text[:40]!r}... is longer than {_LONGEST} characters", remedy=_REMEDY)
    scanner = Scanner(text)
    try:
        facts = list(_read_constraints(scanner, names))
        scanner.end()
    except MalformedTextError as fault:
        raise InputError(
            f"the constraint {text!r} cannot be read: {fault.said_of(text)} in column {fault.column + 1}",
            remedy=_REMEDY if names is None else f"{_REMEDY}; the named sizes are {', '.join(names) or 'none'}",
        ) from fault
    except (RecursionError, ValueError) as error:  # a number of 5000 digits, 1000 brackets
        raise InputError(f"the constraint {text!r} cannot be read: {error}", remedy=_REMEDY) from error
    return facts


def parse_constraints(texts: Iterable[str], names: Collection[str] | None = None) -> tuple[Fact, ...]:
    """The facts that all texts give together, each once: what `Facts.given` holds.

    Raises InputError for what is no constraint, and for constraints that no sizes fulfil, as far as that can be told.
    """
    given = tuple(dict.fromkeys(fact for text in texts for fact in parse_constraint(text, names)))
    impossible = contradiction(given)
    if impossible:
        listed = " and ".join(fact.condition for fact in impossible)
        raise InputError(
            f"no sizes fulfil {listed}", remedy="leave one of these out; a size that may be 0 is given as 'P >= 0'"
        )
    return given


def _read_constraints(scanner: Scanner, names: Collection[str] | None) -> Iterator[Fact]:
    yield from _read_chain(scanner, names)
    while scanner.found(","):
        yield from _read_chain(scanner, names)


def _read_chain(scanner: Scanner, names: Collection[str] | None) -> Iterator[Fact]:
    left = read_formula(scanner, names)
    relation = scanner.take(RELATIONS, "a comparison")
    while relation:
        column = scanner.position
        right = read_formula(scanner, names)
        yield _given(left, relation, right, column)
        left, relation = right, scanner.match(RELATIONS) or ""


def _given(left: Whole, relation: str, right: Whole, column: int) -> Fact:
    fact = compared(left, relation, right, "", Origin.GIVEN)
    if fact is None:
        raise MalformedTextError("a comparison that depends on a named size", column)
    return fact


def contradiction(given: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """Facts among those given that no sizes fulfil together, as far as that can be told; none where it cannot."""
    for count in range(1, len(given) + 1):
        facts, last = Facts(given=given[: count - 1]), given[count - 1]
        if not isinstance(last.formula, Formula):
            continue
        names = last.formula.symbols()
        if len(names) > 1:
            decision = facts.decide(last.formula, last.relation)
            if decision.answer is Answer.NO:
                return (*(fact for fact in decision.used if fact.origin is Origin.GIVEN), last)
        for name in names:
            if not admissible(Facts(given=given[:count]), name).sizes:
                return tuple(fact for fact in given[:count] if fact.formula.symbols() == [name])
    return ()
