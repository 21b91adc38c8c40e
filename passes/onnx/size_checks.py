"""Sizes that the graph itself refuses: a node for each fact about the inputs' sizes, which fails where it is not so.

ONNX has no assertion, so each fact becomes an index that is in range only where the fact holds:

    broken  = Cast(Less(size, 0))     1 where it does not hold; Equal or Not(Equal) for facts of another relation
    checked = Gather([0], broken)     fails then; the node is named by the fact, and runtimes say the name
    x       = Reshape(x, Shape(x) + checked + ...)

Whatever uses an input with named sizes takes it from that Reshape, so that nothing else runs, and fails, before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from passes.onnx.emitter import Emitter, Value
from passes.sizes.dimension import Dim
from passes.sizes.facts import Fact
from passes.sizes.formulas.formula import Formula


def refuse_other_sizes(emit: Emitter, inputs: Sequence[Value], facts: Iterable[Fact]) -> None:
    """Makes a finished graph fail at sizes of its inputs at which a fact does not hold, or one name has two sizes.

    A fact that is no formula of sizes cannot be checked, and is left out.
    """
    named = [value for value in inputs if any(isinstance(size, Dim) for size in value.shape)]

    def checked() -> dict[str, Value]:
        emit.begin("sizes", None)
        checks = [*_same_names(emit, named), *(_of_fact(emit, fact) for fact in facts if _is_formula(fact))]
        return {value.name: _depending(emit, value, checks) for value in named} if checks else {}

    emit.prepend(checked)


def _is_formula(fact: Fact) -> bool:
    return isinstance(fact.formula, Formula)


def _same_names(emit: Emitter, inputs: Sequence[Value]) -> Iterator[Value]:
    """A check of each axis whose size is that of another one, or a formula of others."""
    known: set[str] = set()
    for value in inputs:
        for axis, size in enumerate(value.shape):
            if not isinstance(size, Dim):
                continue
            if str(size) in size.symbols() and str(size) not in known:  # what the name means
                known.add(str(size))
                continue
            difference = emit.node("Sub", emit.axis_size(value, axis), emit.size(size))
            yield _check(emit, f"{value.name}.shape[{axis}] == {size}", difference, "==")


def _of_fact(emit: Emitter, fact: Fact) -> Value:
    assert isinstance(fact.formula, Formula)
    return _check(emit, fact.condition, emit.size(fact.formula), fact.relation)


def _check(emit: Emitter, condition: str, size: Value, relation: str) -> Value:
    """0 of shape [1] where a size has that relation to 0; else the node fails, which the condition names."""
    zero = emit.ints(0)
    if relation == ">=":
        broken = emit.node("Less", size, zero)
    else:
        broken = emit.node("Equal", size, zero)
        if relation == "==":
            broken = emit.node("Not", broken)
    return emit.named_node(condition, "Gather", zero, emit.cast(broken, torch.int64))


def _depending(emit: Emitter, value: Value, checks: Sequence[Value]) -> Value:
    """The input itself, once every check has passed."""
    shape = emit.node("Shape", value)
    for check in checks:
        shape = emit.node("Add", shape, check)
    allowzero = 1 if emit.has_attribute("Reshape", "allowzero") else None
    result = emit.node("Reshape", value, shape, allowzero=allowzero)
    emit.declare(result, value.known)
    return result


__all__ = ["refuse_other_sizes"]
