"""The module beside its file: run each time from the state in which it was given, one step or several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from passes.isolation.control_flow import standing_in
from passes.isolation.copy_on_write import running_copy
from passes.isolation.model_copy import in_eval_mode
from passes.modules.explicit_state import held_at, paths
from passes.modules.leftovers import changes, state_of
from passes.program.notes import VALUE
from passes.program.stages import Eager
from passes.values.nested import leaves
from passes.values.spec import TensorSpec
from tracer.checking.agreement import cloned, flat_tensors
from tracer.checking.trial_inputs import Arguments
from tracer.checking.ways import NotingControlFlow, Way

Tensors = list[torch.Tensor]


class EagerRuns:
    """The module, run each time from the state in which it was given; `kept` are the paths of what of that is shown."""

    def __init__(self, module: nn.Module, program: Eager):
        self._module = module
        self._kept = program.kept
        self._results = list(leaves(VALUE.of(program.output())))
        self.left_behind: list[str] = []
        self.taken: set[Way] = set()

    def state(self, module: nn.Module | None = None) -> Tensors:
        """What is shown of the state of a module: of this one, as it was given, or of a copy as it is now."""
        return [held_at(module or self._module, path).detach().clone() for path in self._kept]

    @contextmanager
    def fresh(self) -> Iterator[nn.Module]:
        """A copy that no forward has left anything in, to be run inside the block."""
        with running_copy(self._module) as copy:
            yield in_eval_mode(copy)

    def __call__(self, steps: Sequence[Arguments]) -> list[Tensors]:
        """What the module gives in each step, one after the other; the arguments stay as they are."""
        with self._watched(math.inf) as module:
            return [self.step(module, arguments) for arguments in steps]

    def first_steps(self, steps: Sequence[Arguments], most_in_loops: float) -> tuple[list[Tensors], str]:
        """What the module gives in the steps that it takes, and why there are no more. Each loop in it goes round
        `most_in_loops` times at most.

        Raises what the first step raises.
        """
        given: list[Tensors] = []
        with self._watched(most_in_loops) as module:
            try:
                given.extend(self.step(module, arguments) for arguments in steps)
            except (Exception, SystemExit) as error:  # the caller's own code may raise anything
                if not given:
                    raise
                return given, f"{type(error).__name__}: {first_line(error)}"
        return given, ""

    def step(self, module: nn.Module, arguments: Arguments) -> Tensors:
        """The tensors that a fresh module gives, or one that has taken steps, numbers in whose place the file has some,
        and what is shown of its state then."""
        args, kwargs = cloned(arguments)
        found = list(leaves(module(*args, **kwargs)))
        if len(found) + len(self._kept) == len(self._results):
            found = list(map(_as_tensor, found, self._results))
        return [*(tensor.clone() for tensor in flat_tensors(found)), *self.state(module)]

    @contextmanager
    def _watched(self, most_in_loops: float) -> Iterator[nn.Module]:
        """A fresh module; what it leaves behind in the block is noted, but for what is shown of its state."""
        with self.fresh() as module:
            apart = set(paths(module, [held_at(module, path) for path in self._kept]))
            before = state_of(module)
            control_flow = NotingControlFlow(module, most_in_loops)
            self.taken = control_flow.taken
            try:
                with standing_in(control_flow):
                    yield module
            finally:
                left = [path for path in changes(before, state_of(module)) if path not in apart]
                self.left_behind = list(dict.fromkeys([*self.left_behind, *left]))


def _as_tensor(result: Any, known: Any) -> Any:
    """What the module gives, as a tensor where it is a number that the program has as one."""
    is_number = isinstance(result, (bool, int, float)) and isinstance(known, TensorSpec)
    return torch.tensor(result, dtype=known.dtype) if is_number else result


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


__all__ = ["EagerRuns", "Tensors", "first_line"]
