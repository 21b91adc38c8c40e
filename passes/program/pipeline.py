"""A pass: from a program of one stage to one of the same or another stage, checked."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from passes.program.legality import ContractError, check
from passes.program.program import Program

Taken = TypeVar("Taken", bound=Program, contravariant=True)
Given = TypeVar("Given", bound=Program, covariant=True)
Before = TypeVar("Before", bound=Program)
After = TypeVar("After", bound=Program)


@runtime_checkable
class Pass(Protocol[Taken, Given]):
    """One pass. `takes` is the stage of the program that it runs on; what `run` gives says the stage afterwards.

    `run` gives the program, which may be the one that it took, and how many things it changed.
    """

    @property
    def name(self) -> str: ...

    @property
    def takes(self) -> type[Program]: ...

    def run(self, program: Taken, /) -> tuple[Given, int]: ...


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass did: how many changes, and how long it took."""

    name: str
    changes: int
    seconds: float


def run_pass(step: Pass[Before, After], program: Before) -> tuple[After, PassResult]:
    """What a pass makes of a program, checked to be what its stage must be.

    Raises ContractError where the program is of another stage than the pass takes, or the result is not legal.
    """
    if not isinstance(program, step.takes):
        wanted, found = step.takes.__name__.lower(), type(program).__name__.lower()
        raise ContractError(f"{step.name} needs a program that is {wanted}, not {found}")
    started = time.perf_counter()
    given, changes = step.run(program)
    check(given, step.name)
    return given, PassResult(step.name, changes, time.perf_counter() - started)


__all__ = ["Pass", "PassResult", "run_pass"]
