"""The ways that a model's branches and loops may go, which of them a run has gone, and data that may go others.

A file is compared with its module on data, and a branch that no data takes is not compared. So the data are varied
until each branch has been taken both ways, and each loop at least once, as far as that is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import fx, nn

from passes.isolation.control_flow import Carried, PlainControlFlow
from passes.ops.control_flow import cond, while_loop
from passes.program.notes import CALL
from passes.program.program import Program
from passes.sizes.guards import GuardLog
from tracer.checking.agreement import flat_tensors
from tracer.checking.trial_inputs import Arguments
from tracer.checking.trial_sizes import other_sizes
from tracer.edge.source_lines import function_name
from tracer.inputs.sample import Sample
from tracer.inputs.size_search import Sizes

# The names of the functions of a branch or a loop, and which of them is called.
Way = tuple[str, str, int]

# After so many steps of a loop, data that were made up are taken to be none for which it ends: those in place of a
# sample's own, and those that are tried beside.
MOST_STEPS, MOST_STEPS_BESIDE = 100_000, 1_000


class NotingControlFlow(PlainControlFlow):
    """Control flow in plain Python that notes in `taken` which ways it goes, and takes no more than so many steps."""

    def __init__(self, module: nn.Module, most_steps: float):
        self.taken: set[Way] = set()
        self._paths = {id(part): path for path, part in reversed(list(module.named_modules(remove_duplicate=False)))}
        self._most_steps = most_steps

    def cond(
        self, pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Sequence[Any]
    ) -> Any:
        self.taken.add((*self._names(true_fn, false_fn), 0 if pred else 1))
        return super().cond(pred, true_fn, false_fn, operands)

    def while_loop(
        self, cond_fn: Callable[..., Any], body_fn: Callable[..., Any], carried: Carried, more: Sequence[Any] = ()
    ) -> Any:
        steps = 0

        def step(*state: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > self._most_steps:
                raise RuntimeError(f"a loop has not ended after {self._most_steps} steps")
            self.taken.add((*self._names(cond_fn, body_fn), 1))
            return body_fn(*state)

        return super().while_loop(cond_fn, step, carried, more)

    def _names(self, *functions: Any) -> tuple[str, str]:
        one, other = (function_name(function, self._paths.get(id(function))) for function in functions)
        return one, other


def ways(program: Program) -> dict[Way, str]:
    """All ways that the program's branches and loops may go, each in words."""
    found: dict[Way, str] = {}
    for node in program.graph.nodes:
        if node.target is cond:
            names = _names(node)
            sides = enumerate(names)
            found.update({(names[0], names[1], side): f"the branch {name} of torch.cond" for side, name in sides})
        elif node.target is while_loop:
            names = _names(node)
            found[(names[0], names[1], 1)] = f"the loop {names[1]} of torch.while_loop"
    return found


def _names(node: fx.Node) -> tuple[str, str]:
    record: Any = CALL.of(node).record
    found: tuple[str, str] = record.names
    return found


def variations(sample: Sample, log: GuardLog) -> Iterator[tuple[Sizes, Arguments]]:
    """Other sizes than the sample's, and other data at its own, which may go other ways."""
    for moved in islice(other_sizes(sample.dimensions(), log), _MOST_SIZES):
        yield moved, sample.data(moved)
    given = flat_tensors(sample.data(log.as_given()))
    alike = [[change] * len(given) for change in _VARIATIONS]
    mixed = torch.randint(len(_VARIATIONS), (_MIXED, len(given))).tolist()
    for changes in (*alike, *([_VARIATIONS[which] for which in chosen] for chosen in mixed)):
        yield log.as_given(), _changed(sample, given, changes)


def other_counts(sample: Sample, log: GuardLog) -> Iterator[tuple[Sizes, Arguments]]:
    """Other data at the sample's sizes, in which other numbers of elements are likely to be found: all, or none."""
    given = flat_tensors(sample.data(log.as_given()))
    for change in (_negated, _moved(4), _moved(-4)):  # whole numbers may be places or counts
        changes = [
            change if tensor.is_floating_point() or tensor.dtype == torch.bool else torch.clone for tensor in given
        ]
        yield log.as_given(), _changed(sample, given, changes)


def _changed(
    sample: Sample, given: Sequence[torch.Tensor], changes: Sequence[Callable[[torch.Tensor], torch.Tensor]]
) -> Arguments:
    return sample.filled([change(tensor).to(tensor.dtype) for change, tensor in zip(changes, given, strict=True)])


_MIXED, _MOST_SIZES = 8, 24


def _negated(tensor: torch.Tensor) -> torch.Tensor:
    return -tensor if tensor.is_floating_point() or tensor.is_complex() else 1 - tensor.int()


def _moved(by: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """By how much numbers are moved; whole ones, which may be positions, become other small ones."""

    def vary(tensor: torch.Tensor) -> torch.Tensor:
        whole = not (tensor.is_floating_point() or tensor.is_complex())
        return torch.randint(abs(by), 2 * abs(by), tensor.shape) if whole else tensor + by

    return vary


_VARIATIONS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    _negated,
    torch.zeros_like,
    torch.ones_like,
    _moved(4),
    _moved(-4),
    lambda tensor: 8 * tensor,
    lambda tensor: tensor / 8,
    torch.clone,
)

__all__ = ["MOST_STEPS", "MOST_STEPS_BESIDE", "NotingControlFlow", "Way", "other_counts", "variations", "ways"]
