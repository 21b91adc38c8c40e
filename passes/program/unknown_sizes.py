"""Names for sizes that come from data: where an op's rule gives a `DataSize`, the program has a `Dim` like `u0`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from passes.errors import NeedsDataError, ShapeError
from passes.program.notes import UNKNOWN, VALUE, location_of
from passes.sizes.dimension import Dim, Size, hint
from passes.sizes.fact import Fact
from passes.sizes.formulas.formula import Formula
from passes.sizes.guards import Guard, GuardLog
from passes.sizes.unknown import (
    LARGEST_INTEGER,
    LEAST_INTEGER,
    STAND_IN,
    DataSize,
    Unknown,
    UnknownSizeError,
    is_data_size,
    of_data,
)
from passes.values.nested import leaves, map_structure
from passes.values.spec import TensorSpec


def with_names(value: Any, node: fx.Node, log: GuardLog) -> Any:
    """A node's value as a rule gave it, with names for the sizes that come from data; these are noted on the node."""
    if isinstance(value, TensorSpec) and not any(map(is_data_size, value.shape)):
        return value
    if not any(map(_has_data_size, leaves(value))):
        return value
    names = iter(UNKNOWN.get(node) or ())
    given: dict[int, Dim] = {}

    def named(size: Any) -> Any:
        if not is_data_size(size):
            return size
        if id(size) not in given:
            name = next(names, None)
            given[id(size)] = Dim.named(name, log) if name in log.unknown else _named(size, node, log)
        return given[id(size)]

    def leaf(part: Any) -> Any:
        return part.with_shape(*map(named, part.shape)) if isinstance(part, TensorSpec) else named(part)

    found = map_structure(value, leaf)
    UNKNOWN.put(node, tuple(size.symbols()[0] for size in given.values()))
    return found


def _has_data_size(leaf: Any) -> bool:
    if isinstance(leaf, TensorSpec):
        return any(map(is_data_size, leaf.shape))
    return is_data_size(leaf)


def _named(size: DataSize, node: fx.Node, log: GuardLog) -> Dim:
    """A name for a size: that of an earlier one which counts the same in the same operand, else a new one."""
    operand = next(
        (operand for operand in node.all_input_nodes if size.of is not None and VALUE.get(operand) is size.of), None
    )
    counted = (size.what, operand.name) if operand is not None else None
    known = next(
        (other.name for other in log.unknown.values() if counted is not None and other.counted == counted), None
    )
    if known is not None:
        return Dim.named(known, log)
    number = len(log.unknown)
    while (name := f"u{number}") in log.sampled:
        number += 1
    most = size.most
    stand_in = STAND_IN if most is None else min(STAND_IN, hint(most))
    log.unknown[name] = Unknown(
        name, size.what, str(location_of(node)), max(stand_in, hint(size.least)), _limits(name, size), counted
    )
    found = Dim.named(name, log)
    facts = [_slack(found - size.least)]
    if most is not None:
        facts.append(_slack(most - found))
    log.facts.of_data = (*log.facts.of_data, *(fact for fact in facts if fact is not None))
    return found


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
    is then required of the data. One that both answers leave open is a NeedsDataError.
    """
    try:
        return rule()
    except UnknownSizeError as question:
        refused = [fact for fact in question.answers() if _is_refused(rule, fact, log)]
        if len(refused) != 1:
            raise needs_data(question) from question
        answer = next(fact for fact in question.answers() if fact not in refused)
    assert isinstance(answer.formula, Formula)
    parts = log.facts.parted(answer.formula)[0] if answer.relation == "==" else [answer.formula]
    needed = [of_data(part, answer.relation) for part in parts]
    log.facts.of_data = (*log.facts.of_data, *needed)
    log.required += [Guard(fact.condition, log.location, True) for fact in needed]
    return decided(rule, log)


def needs_data(question: UnknownSizeError) -> NeedsDataError:
    """What is said where a question must be answered that only the data can."""
    return NeedsDataError(
        str(question),
        remedy="use torch.cond to go either way, or compute what is right for any number, zero elements included",
    )


def _is_refused(rule: Callable[[], Any], fact: Fact, log: GuardLog) -> bool:
    """Whether torch refuses the operands if something is so; nothing of the question stays in the log."""
    with log.supposing(fact):
        try:
            rule()
        except ShapeError:
            return True
        except UnknownSizeError:
            return False
    return False


__all__ = ["decided", "needs_data", "with_names"]
