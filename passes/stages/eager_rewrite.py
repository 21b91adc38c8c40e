"""The graph on eager modules: from the working copy to the resolved model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from passes.program.pipeline import Stage
from passes.program.program import CALL, ORDINAL, BoundCall, Program


@dataclass(slots=True)
class EagerRewrite:
    """The pass: the graph's targets name the modules of `resolved`, whose reached lazy layers are eager.

    `resolved` has the structure of the captured model. Bound arguments hold modules, so they follow. Calls of a
    module are numbered while all of them are still there. The number of changes is the number of calls to layers
    that were lazy.
    """

    resolved: nn.Module
    name: str = "eager rewrite"
    requires: Stage = Stage.SHAPED
    ensures: Stage = Stage.EAGER

    def run(self, program: Program) -> int:
        program.rebase(self.resolved)
        changes = 0
        calls: Counter[nn.Module] = Counter()
        for node in program.graph.nodes:
            if node.op == "call_module":
                module = program.module(str(node.target))
                node.meta[ORDINAL] = calls[module]
                calls[module] += 1
            call: BoundCall | None = node.meta.get(CALL)
            if call is not None and call.module is not None:
                call.module = program.module(call.path)
                changes += call.path in program.lazies
        return changes
