"""A pass of the caller's own, as one of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from passes.program.legality import check_graph
from passes.program.notes import FAULT, VALUE
from passes.program.program import Program
from passes.stages.shape_propagation import Propagator

Of = TypeVar("Of", bound=Program)


@dataclass(slots=True)
class CallerPass(Generic[Of]):
    """A pass of the caller's own: any callable on a program of the stage `takes`, which stays at that stage.

    Shapes are propagated again after it. Raises the fault where what it leaves does not fit.
    """

    function: Callable[[Of], object]
    takes: type[Of]

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def run(self, program: Of) -> tuple[Of, int]:
        changed = self.function(program)
        check_graph(program, self.name)
        for node in program.graph.nodes:
            FAULT.drop(node)
            if node.op != "placeholder":
                VALUE.drop(node)
        Propagator(program).complete()
        fault = program.fault()
        if fault is not None:
            raise fault
        return program, int(changed) if isinstance(changed, int) else 0
