"""Where the lengths of packed sequences come from."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from passes.ops.packed_sequences import packed_data
from passes.program.notes import CALL, VALUE
from passes.program.program import Program
from passes.sizes.dimension import Size, minimum

_WHOLE = frozenset({torch.int64, torch.int32})


@dataclass(frozen=True, slots=True)
class LengthsInput:
    """What an input of lengths must be: each at least 1 and at most `most`, and falling where nothing sorts them."""

    most: Size
    falls: bool


def lengths_among_inputs(program: Program) -> dict[str, LengthsInput]:
    """The inputs that are lengths of packed sequences, by their names."""
    found: dict[str, LengthsInput] = {}
    for node in program.graph.nodes:
        if node.target is not packed_data:
            continue
        source, is_sorted = origin_of_lengths(CALL.of(node).record.named()["lengths"])
        if source.op == "placeholder":
            call = CALL.of(node).record.named()
            steps = VALUE.of(call["input"]).shape[1 if call["batch_first"] else 0]
            known = found.get(str(source.target), LengthsInput(steps, False))
            found[str(source.target)] = LengthsInput(minimum(known.most, steps), known.falls or not is_sorted)
    return found


def origin_of_lengths(node: fx.Node) -> tuple[fx.Node, bool]:
    """The node whose numbers a node with a value has, in the same or in falling order; and whether they were sorted."""
    is_sorted = False
    while VALUE.of(node).dtype in _WHOLE:
        same = arguments_of(node, "to") or arguments_of(node, "same")
        sort = None
        if same is None and node.target is operator.getitem and node.args[1] == 0:
            sort = arguments_of(node.args[0], "sort")
        if same is None and (sort is None or not sort["descending"]):
            break
        node, is_sorted = (same or sort or {})["input"], is_sorted or sort is not None
    return node, is_sorted


def arguments_of(node: Any, op: str) -> dict[str, Any] | None:
    """With which arguments a node calls an op of that name; None for any other."""
    call = CALL.get(node)
    return call.record.named() if call is not None and call.op.name == op else None


__all__ = ["LengthsInput", "arguments_of", "lengths_among_inputs", "origin_of_lengths"]
