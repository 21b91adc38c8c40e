"""The error family. Every error says what, where, with which numbers, and one thing to do.

A shape rule or a lowering knows only its operands, so it raises the bare fact (`check`, or
`raise ShapeError(...)`); whoever walks the graph adds the place and the shapes with `placed`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from passes.printable import printable_lines
from passes.sizes.fact import Fact
from passes.sizes.guards import Location

_made = threading.local()


@contextmanager
def noted_errors() -> Iterator[list[TracerError]]:
    """Every error of ours that this thread makes inside the block, in order, raised or not."""
    outer = getattr(_made, "errors", None)
    found: list[TracerError] = []
    _made.errors = found
    try:
        yield found
    finally:
        _made.errors = outer


class TracerError(Exception):
    """Base of everything this project raises on purpose.

    `message` is the fact in numbers; `location` the module path and the caller's source line;
    `inputs` describes the values that went in; `chain` the steps that led there, nearest last;
    `remedy` is one thing to do about it. `others` are faults of the same model that do not follow from this one, in
    execution order. Where the model's forward was followed up to the fault, `report` says what is known of it.
    `caught` says that the caller's forward caught the error, so that no other way of following it would meet it.
    `decisions` are the facts about named sizes by which something was decided last before it.
    """

    remedy_by_default = ""

    def __init__(self, message: str, *, remedy: str = ""):
        super().__init__(message)
        self.message = message
        self.location: Location | None = None
        self.operation = ""
        self.inputs: list[str] = []
        self.chain: list[str] = []
        self.remedy = remedy or self.remedy_by_default
        self.others: Sequence[TracerError] = ()
        self.report: Any = None
        self.program: Any = None  # what the report is made from
        self.caught = False
        self.decisions: tuple[Fact, ...] = ()
        noted = getattr(_made, "errors", None)
        if noted is not None:
            noted.append(self)

    def placed(
        self, location: Location, operation: str = "", inputs: list[str] | None = None, chain: list[str] | None = None
    ) -> TracerError:
        """Adds what is not known yet of the place where the error arose; what an inner place said stands."""
        if self.location is None:
            self.location = location
            self.operation = operation
        self.inputs = self.inputs or inputs or []
        self.chain = self.chain or chain or []
        return self

    def __str__(self) -> str:
        return printable_lines("\n".join([self._text(), *(f"also: {other._text()}" for other in self.others)]))

    def _text(self) -> str:
        text = self.message
        if self.location is not None:
            what = f" ({self.operation})" if self.operation and self.operation not in str(self.location) else ""
            text = f"{self.location}{what}: {text}"
        lines = [text]
        if self.inputs:
            lines.append(f"  inputs: {', '.join(self.inputs)}")
        lines += [f"  from: {step}" for step in self.chain]
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The error as plain data, for `--json`."""
        return {
            "kind": type(self).__name__,
            "message": self.message,
            "path": self.location.path if self.location else None,
            "source": self.location.source if self.location else None,
            "operation": self.operation or None,
            "inputs": self.inputs,
            "chain": self.chain,
            "remedy": self.remedy or None,
            "others": [other.to_dict() for other in self.others],
        }


class InputError(TracerError):
    """The sample input does not fit the model's forward, or cannot be understood."""


class LoadError(TracerError):
    """The model, its weights or a data file could not be loaded."""


class CaptureError(TracerError):
    """The forward cannot be captured symbolically."""


class NeedsDataError(CaptureError):
    """The forward cannot be followed without data, neither symbolically nor on meta tensors."""


class SideEffectError(TracerError):
    """The forward leaves what it computes where it outlives the call."""


class ShapeError(TracerError):
    """The operands of an operation do not fit together.

    `wants_fixed_size` says that they would, were no size dynamic: not to follow a model with names is no fault of the
    model's, but one that torch's exporter shares.
    """

    remedy_by_default = "change the sizes there, or give a sample input that fits them"

    def __init__(self, message: str, *, remedy: str = "", wants_fixed_size: bool = False):
        super().__init__(message, remedy=remedy)
        self.wants_fixed_size = wants_fixed_size


class LazyResolutionError(TracerError):
    """A lazy layer's sizes cannot be resolved."""


class UnsupportedOpError(TracerError):
    """Operations that cannot be lowered to ONNX directly; `blockers` lists every one."""

    def __init__(self, message: str, *, remedy: str = "", blockers: list[Blocker] | None = None):
        self.blockers = blockers or []
        super().__init__(message, remedy=next((b.remedy for b in self.blockers if b.remedy), remedy))


class ExportError(TracerError):
    """The exported model could not be built, checked or written."""


class VerificationError(TracerError):
    """The exported model and the eager module disagree."""


class InternalError(TracerError):
    """A bug of ours, met where no rule foresaw it; the exception that was raised is its cause."""


class TracerWarning(UserWarning):
    """Something surprising that does not stop the work: a lazy layer the sample never reaches, say."""

    def __str__(self) -> str:
        return printable_lines(super().__str__())


@dataclass(frozen=True, slots=True)
class Blocker:
    """One operation that keeps a model from the direct route."""

    operation: str
    reason: str
    location: Location = field(default_factory=Location)
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.operation} at {self.location}: {self.reason}"


def check(holds: bool, message: str, *numbers: object, remedy: str = "") -> None:
    """Raises ShapeError with the numbers in the braces of message and remedy unless `holds`."""
    if not holds:
        raise ShapeError(message.format(*numbers), remedy=remedy.format(*numbers))
