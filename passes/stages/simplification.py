"""A smaller graph that computes the same in eval mode.

What is removed: operations that return their first operand (identities, eval-time dropout, reshapes to
the same shape), batch norms that directly follow a convolution or linear layer and are its only user,
and what no output depends on. What is left alone: inputs, even unused ones, and everything else.
The rewrites are rows (`passes/stages/rewrites/registry.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from passes.onnx.opsets import DEFAULT_OPSET
from passes.program.stages import Eager
from passes.stages.rewrites.engine import apply_rewrites
from passes.stages.rewrites.registry import BATCH_NORM_FOLDS, identities


@dataclass(slots=True)
class Simplification:
    """The pass, for a file of an opset; the number of changes is the number of nodes removed."""

    fold_batchnorm: bool = True
    opset: int = DEFAULT_OPSET
    name: str = "simplification"
    takes: type[Eager] = Eager

    def run(self, program: Eager) -> tuple[Eager, int]:
        before = len(program.graph.nodes)
        for rows in (identities(), BATCH_NORM_FOLDS if self.fold_batchnorm else ()):
            apply_rewrites(program, [row for row in rows if row.is_for(self.opset)])
        _remove_dead(program)
        return program, before - len(program.graph.nodes)


def _remove_dead(program: Eager) -> None:
    for node in reversed(list(program.graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            program.graph.erase_node(node)
