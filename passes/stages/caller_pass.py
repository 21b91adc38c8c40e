"""A pass of the caller's own, as one of the pipeline's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from passes.program.pipeline import Stage, check_stage
from passes.program.program import SPEC, Program
from passes.stages.shape_propagation import Propagator


@dataclass(slots=True)
class CallerPass:
    """A pass of the caller's own: any callable on the program. Shapes are propagated again after it."""

    function: Callable[[Program], object]
    requires: Stage = Stage.EAGER
    ensures: Stage = Stage.EAGER

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def run(self, program: Program) -> int:
        changed = self.function(program)
        check_stage(program, Stage.CAPTURED, self.name)
        for node in program.graph.nodes:
            if node.op != "placeholder":
                node.meta.pop(SPEC, None)
        Propagator(program).complete()
        return int(changed) if isinstance(changed, int) else 0
