"""What keeps a program from the direct route, told without lowering it."""

from __future__ import annotations

import operator

from torch import fx

from passes.errors import Blocker
from passes.program.notes import CALL, VALUE, location_of
from passes.program.program import Program, operation_of, tensor_specs
from passes.program.regions import begins_region, ends_region

# Functions of tuples of tensors: nothing to compute at run time. Where an operand is a tensor an op covers them.
ON_CONTAINERS = (operator.getitem, operator.add)

NO_LOWERING = "there is no direct lowering for it"


def blocker(node: fx.Node, program: Program, reason: str = NO_LOWERING) -> Blocker:
    """What the node blocks, and where; for a module that could not be traced, why it could not."""
    location, remedy = location_of(node), ""
    for rung in program.rungs:
        if node.target in (rung.path, program.whole):
            reason, location, remedy = rung.reason, rung.location, rung.remedy
    return Blocker(operation_of(node, program), reason, location, remedy)


def lacks_lowering(node: fx.Node) -> bool:
    """Whether no op covers the node, or its op has no lowering."""
    call = CALL.get(node)
    return call is None or call.op.lowering is None


def known_blockers(program: Program) -> list[Blocker]:
    """The operations without a lowering among those that the outputs depend on.

    A lowering may still refuse particular arguments, which only lowering finds.
    """
    needed: set[fx.Node] = set()
    found: list[Blocker] = []
    for node in reversed(program.graph.nodes):
        if node.op == "output" or node in needed:
            needed.update(node.all_input_nodes)
            if _is_computed(node) and lacks_lowering(node):
                found.append(blocker(node, program))
    return found[::-1]


def _is_computed(node: fx.Node) -> bool:
    """Whether the node is something to compute at run time."""
    if node.op in ("placeholder", "get_attr", "output") or next(tensor_specs(VALUE.of(node)), None) is None:
        return False
    if begins_region(node) or ends_region(node):
        return False
    return CALL.on(node) or node.target not in ON_CONTAINERS
