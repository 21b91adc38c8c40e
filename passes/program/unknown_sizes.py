"""Names for sizes that come from data: where an op's rule gives a `DataSize`, the program has a `Dim` like `u0`.

Where it gives a `DataFloat`, that is a `Floating` of such a name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx

from passes.errors import NeedsDataError, ShapeError
from passes.program.notes import UNKNOWN, VALUE, location_of
from passes.program.regions import ends_region
from passes.sizes.dimension import Dim, Size, hint, is_of_data
from passes.sizes.fact import Fact, solved
from passes.sizes.floating import DynamicNumber, Floating
from passes.sizes.formulas.formula import Formula
from passes.sizes.formulas.real import Found, Real
from passes.sizes.guards import Guard, GuardLog
from passes.sizes.unknown import (
    LARGEST_INTEGER,
    LEAST_INTEGER,
    STAND_IN,
    DataFloat,
    DataSize,
    Unknown,
    UnknownSizeError,
    is_data_size,
    of_data,
)
from passes.values.nested import leaves, map_structure
from passes.values.numbers import floating_of
from passes.values.spec import TensorSpec


def with_names(value: Any, node: fx.Node, log: GuardLog) -> Any:
    """A node's value as a rule gave it, with names for the sizes that come from data; these are noted on the node."""
    if isinstance(value, TensorSpec) and not any(map(is_data_size, value.shape)):
        return value
    if ends_region(node):
        value = _seen_from_outside(value, node)
    handed = _handed_on(value, node)
    if not any(map(_has_data_size, leaves(value))):
        if handed:
            UNKNOWN.put(node, handed)
        return value
    names = iter(UNKNOWN.get(node) or ())
    given: dict[int, DynamicNumber] = {}

    def named(size: Any) -> Any:
        if not is_data_size(size):
            return size
        if id(size) not in given:
            name = next(names, None)
            if name is None or name not in log.unknown:
                name = _name(size, node, log)
            is_float = isinstance(size, DataFloat)
            given[id(size)] = floating_of(Real("float", (Found(name),)), log) if is_float else Dim.named(name, log)
        return given[id(size)]

    def leaf(part: Any) -> Any:
        return replace(part, shape=tuple(map(named, part.shape))) if isinstance(part, TensorSpec) else named(part)

    found = map_structure(value, leaf)
    UNKNOWN.put(node, (*(size.symbols()[0] for size in given.values()), *handed))
    return found


def _handed_on(value: Any, node: fx.Node) -> tuple[str, ...]:
    """The names in what a branch or a loop gives that are those of what its regions give: they are found in it."""
    names = [name for end in filter(ends_region, node.all_input_nodes) for name in UNKNOWN.get(end) or ()]
    if not names:
        return ()
    specs = [leaf for leaf in leaves(value) if isinstance(leaf, TensorSpec)]
    return tuple(name for name in names if any(name == str(size) for spec in specs for size in spec.shape))


def _seen_from_outside(value: Any, end: fx.Node) -> Any:
    """What a region gives, with a new size in place of each that is found in the region, and is none outside of it."""
    begin: Any = end.args[0]
    inside = _found(begin, end)
    if not inside:
        return value
    inside -= _found(next(iter(end.graph.nodes)), begin)

    def outer(size: Any) -> Any:
        if isinstance(size, DynamicNumber) and inside.intersection(size.symbols()):
            return DataFloat(_GIVEN) if isinstance(size, Floating) else DataSize(_GIVEN, LEAST_INTEGER)
        return size

    def leaf(part: Any) -> Any:
        if not isinstance(part, TensorSpec):
            return outer(part)
        shape = (replace(size, least=0) if is_data_size(size) else size for size in map(outer, part.shape))
        return replace(part, shape=tuple(shape))

    return map_structure(value, leaf)


_GIVEN = "size that a branch or a loop gives"


def _found(first: fx.Node, last: fx.Node) -> set[str]:
    """The names of sizes that are found by the nodes from one to another."""
    names: set[str] = set()
    node = first
    while node is not last:
        names.update(UNKNOWN.get(node) or ())
        node = node.next
    return names


def _has_data_size(leaf: Any) -> bool:
    if isinstance(leaf, TensorSpec):
        return any(map(is_data_size, leaf.shape))
    return is_data_size(leaf)


def _name(size: DataSize | DataFloat, node: fx.Node, log: GuardLog) -> str:
    """A name for a size: that of an earlier one which counts the same in the same operand, else a new one."""
    counted = _counted(size, node)
    known = next(
        (other.name for other in log.unknown.values() if counted is not None and other.counted == counted), None
    )
    if known is not None:
        return known
    number = len(log.unknown)
    while (name := f"u{number}") in log.sampled:
        number += 1
    place = str(location_of(node))
    if isinstance(size, DataFloat):
        log.unknown[name] = Unknown(name, size.what, place, STAND_IN, counted=counted)
        return name
    most = size.most
    stand_in = STAND_IN if most is None else min(STAND_IN, hint(most))
    log.unknown[name] = Unknown(name, size.what, place, max(stand_in, hint(size.least)), _limits(name, size), counted)
    found = Dim.named(name, log)
    facts = [_slack(found - size.least)]
    if most is not None:
        facts.append(_slack(most - found))
    log.facts.of_data = (*log.facts.of_data, *(fact for fact in facts if fact is not None))
    return name


def _counted(size: DataSize | DataFloat, node: fx.Node) -> tuple[str, str] | None:
    """What is counted in which operand; None where that cannot be told, as where two operands have one spec."""
    if size.of is None:
        return None
    operands = [operand for operand in node.all_input_nodes if VALUE.get(operand) is size.of]
    return (size.what, operands[0].name) if len(operands) == 1 else None


def _limits(name: str, size: DataSize) -> str:
    """`0 <= u0 <= N*T`; a limit that only the dtype sets is left out."""
    ends = [str(end) for end in (size.least, size.most)]
    least = "" if ends[0] == str(LEAST_INTEGER) else f"{ends[0]} <= "
    most = "" if ends[1] in ("None", str(LARGEST_INTEGER)) else f" <= {ends[1]}"
    return f"{least}{name}{most}" if least or most else ""


def _slack(slack: Size) -> Fact | None:
    return of_data(slack.formula, ">=") if isinstance(slack, Dim) else None


def decided(rule: Callable[[], Any], log: GuardLog) -> Any:
    """What a rule gives, where it may ask about sizes that come from data.

    An open question to which one answer ends in torch's refusal has the other one, wherever the model itself runs: that
    is then required of the data. One that both answers leave open is a NeedsDataError. So is required that no size of a
    result is negative.
    """
    try:
        found = rule()
    except UnknownSizeError as question:
        refusals = [_refusal(rule, fact, log) for fact in question.answers()]
        refused = [refusal for refusal in refusals if refusal is not None]
        if refused and len(refused) == len(refusals):
            raise refused[0] from question
        if len(refused) != 1:
            raise needs_data(question) from question
        answer = next(fact for fact, refusal in zip(question.answers(), refusals, strict=True) if refusal is None)
    else:
        return map_structure(found, lambda leaf: _sized(leaf, log))
    _require(answer, log)
    return decided(rule, log)


def _sized(leaf: Any, log: GuardLog) -> Any:
    """A result, of which no size is negative; one that is known by now is the number itself."""
    if not isinstance(leaf, TensorSpec) or not any(isinstance(size, Dim) and is_of_data(size) for size in leaf.shape):
        return leaf
    shape: list[Size] = []
    for size in leaf.shape:
        if isinstance(size, Dim) and is_of_data(size):
            if not size.at_least(0):
                _require(of_data(size.formula, ">="), log)
            known = log.facts.reduced(size.formula)
            size = known if isinstance(known, int) else size
        shape.append(size)
    return replace(leaf, shape=tuple(shape))


def _require(answer: Fact, log: GuardLog) -> None:
    """Takes for granted what must be so of the data."""
    assert isinstance(answer.formula, Formula)
    if answer.relation == "==":
        parts: list[Formula] = log.facts.parted(answer.formula)[0]
    else:
        parts = [solved(answer.formula) if answer.relation == ">=" else answer.formula]
    needed = [of_data(part, answer.relation) for part in parts]
    log.facts.of_data = (*log.facts.of_data, *needed)
    log.required += [Guard(fact.condition, log.location, True) for fact in needed]


def needs_data(question: UnknownSizeError) -> NeedsDataError:
    """What is said where a question must be answered that only the data can."""
    return NeedsDataError(
        str(question),
        remedy="use torch.cond to go either way, or compute what is right for any number, zero elements included",
    )


# How many further questions may be open where an answer to a first one is tried.
_MOST_QUESTIONS = 4


def _refusal(rule: Callable[[], Any], fact: Fact, log: GuardLog, further: int = _MOST_QUESTIONS) -> ShapeError | None:
    """How torch refuses the operands if something is so, whatever else is, or None; nothing of the question stays in
    the log."""
    with log.supposing(fact):
        try:
            rule()
        except ShapeError as refusal:
            return refusal
        except UnknownSizeError as question:
            found = [_refusal(rule, answer, log, further - 1) for answer in question.answers()] if further else [None]
            return found[0] if None not in found and found else None
    return None


__all__ = ["decided", "needs_data", "with_names"]
