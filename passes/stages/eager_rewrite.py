"""The graph on eager modules: from the working copy to the resolved model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from passes.ops.op import BoundCall
from passes.program.notes import CALL, ORDINAL
from passes.program.regions import called_within
from passes.program.stages import Eager, Shaped


@dataclass(slots=True)
class EagerRewrite:
    """The pass: the graph's targets name the modules of `resolved`, whose reached lazy layers are eager.

    `resolved` has the structure of the captured model. Bound arguments hold modules, so they follow. Calls of a
    module are numbered while all of them are still there, unless one is in a region, which may run any number of
    times. The number of changes is the number of calls to layers
    that were lazy.
    """

    resolved: nn.Module
    name: str = "eager rewrite"
    takes: type[Shaped] = Shaped

    def run(self, shaped: Shaped) -> tuple[Eager, int]:
        program = Eager.of_shaped(shaped, self.resolved)
        changes = 0
        calls: Counter[nn.Module] = Counter()
        uncounted = {program.module(path) for path in called_within(program.graph)}
        for node in program.graph.nodes:
            if node.op == "call_module" and (module := program.module(str(node.target))) not in uncounted:
                ORDINAL.put(node, calls[module])
                calls[module] += 1
            call: BoundCall | None = CALL.get(node)
            if call is not None and call.module is not None:
                call.module = program.module(call.path)
                changes += call.path in program.lazies
        return program, changes
