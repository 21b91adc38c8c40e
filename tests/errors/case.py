"""What a broken model's error must say."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

Broken = TypeVar("Broken", bound=type[nn.Module])


class Net(nn.Module):
    """A model whose layers `build` assigns."""

    def __init__(self) -> None:
        super().__init__()
        self.build()

    def build(self) -> None:
        """Assigns the layers; none here."""


@dataclass(frozen=True, slots=True)
class Case:
    """A broken model, and what its error must say.

    `sample` is the words after `-i` on the command line. The fault is at the line marked `# here` in the module
    `path` (empty for the model itself). `says` are parts of the message, `chain` parts of its steps, in order;
    `remedy` is a part of the remedy. `also` are the other faults, each with its path and a part of its message, at
    the lines marked `# and here`. What only an export needs, `inspect` does not miss (`exports_only`).
    """

    model: type[nn.Module]
    sample: str
    error: type[Exception]
    path: str
    says: tuple[str, ...]
    chain: tuple[str, ...]
    remedy: str
    also: tuple[tuple[str, str], ...]
    exports_only: bool

    @property
    def file(self) -> str:
        found = inspect.getsourcefile(self.model)
        assert found is not None
        return found

    def lines(self, mark: str) -> list[int]:
        """The numbers of the lines with this mark in the model's class."""
        lines, start = inspect.getsourcelines(self.model)
        return [start + index for index, line in enumerate(lines) if line.rstrip().endswith(f"# {mark}")]


def broken(
    sample: str,
    error: type[Exception],
    path: str,
    *says: str,
    chain: tuple[str, ...] = (),
    remedy: str,
    also: tuple[tuple[str, str], ...] = (),
    exports_only: bool = False,
) -> Callable[[Broken], Broken]:
    """Notes on the class what its error must say."""

    def note(model: Broken) -> Broken:
        model.case = Case(model, sample, error, path, says, chain, remedy, also, exports_only)  # type: ignore[attr-defined]
        return model

    return note


def cases_of(*modules: Any) -> list[Case]:
    """Every case in these modules, in order."""
    return [
        value.case
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and "case" in value.__dict__
    ]
