"""How a command talks: what it prints, where its JSON goes, and with which status it ends."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from passes.errors import ExportError, InputError, TracerError, TracerWarning, VerificationError
from passes.printable import printable_lines

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tracer.cli.rendering import ProgressLine

FAILED, WRONG_USAGE, DISAGREES, INTERRUPTED = 1, 2, 3, 130


@dataclass(slots=True)
class Outcome:
    """What a command found: plain data for `--json`, and what to print."""

    facts: dict[str, Any]
    summary: RenderableType


@dataclass(slots=True)
class Invocation:
    """How a command talks: how much, and where its JSON goes."""

    json_target: str | None
    quiet: bool
    verbose: bool
    progress: ProgressLine = field(init=False)
    warnings: list[str] = field(default_factory=list)
    known: RenderableType | None = None  # what to print of a model that fails
    output: Path | None = None

    def carry_out(self, command: Callable[[Invocation], Outcome], files_read: Sequence[Path]) -> int:
        """Runs the command, which reads these files, and tells how it ended; returns the exit status."""
        try:
            from tracer.cli import rendering

            self.check_outputs(files_read)
            # What the caller's model prints is no part of our answer.
            with (
                rendering.progress(not self.quiet) as self.progress,
                redirect_stdout(sys.stderr),
                self._warnings_shown(),
            ):
                self.progress.says("importing torch")
                outcome = command(self)
            if not self.quiet and self.json_target != "-":
                rendering.show(outcome.summary)
            self._write_json({**outcome.facts, "warnings": self.warnings})
            return 0
        except BrokenPipeError:  # whoever reads our output has read enough, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except TracerError as error:
            return self._fail(error, error.to_dict(), _status(error))
        except (Exception, SystemExit) as error:
            bug = _as_bug(error)
            return self._fail(bug, {**bug.to_dict(), "kind": type(error).__name__}, FAILED)

    def _fail(self, error: TracerError, facts: dict[str, Any], status: int) -> int:
        if self.verbose:
            click.echo(printable_lines(traceback.format_exc()), err=True)
        if self.known is not None and not self.quiet and self.json_target != "-":
            from tracer.cli import rendering

            rendering.show(self.known)
        say("error", str(error))
        if error.report is not None:
            facts = {**facts, "report": error.report.to_dict()}
        try:
            self._write_json({"error": facts, "warnings": self.warnings})
        except ExportError as unwritable:
            say("error", str(unwritable))
        return status

    def check_outputs(self, inputs: Sequence[Path]) -> None:
        """Raises ExportError or InputError unless what is to be written can be, beside the files that are read."""
        from passes.files.output_file import check_target

        if self.output is not None:
            check_target(self.output, inputs)
        self.check_json(inputs)

    def check_json(self, inputs: Sequence[Path]) -> None:
        """Raises InputError unless the JSON can be written beside the files that are read."""
        from passes.files.output_file import check_target

        if self.json_target not in (None, "-"):
            target, self.json_target = self.json_target, None  # where it cannot be written, the error is not either
            path = Path(str(target))
            try:
                place = check_target(path, inputs)
            except ExportError as error:
                fault = error.message if path.parent.is_dir() else f"there is no folder {path.parent}"
                raise InputError(
                    f"--json {path} cannot be written: {fault}",
                    remedy="name a file in a folder that exists, or - for standard output",
                ) from error
            if self.output is not None and os.path.realpath(place) == os.path.realpath(check_target(self.output)):
                raise InputError(f"--json {path} is the output too", remedy="name two files")
            self.json_target = target

    def _write_json(self, facts: dict[str, Any]) -> None:
        if self.json_target is None:
            return
        text = json.dumps(facts, indent=2) + "\n"
        if self.json_target == "-":
            click.echo(text, nl=False)
            return
        from passes.files.output_file import staged

        with staged(Path(self.json_target)) as staging:
            staging.file.write(text.encode())

    @contextmanager
    def _warnings_shown(self) -> Iterator[None]:
        """TracerWarnings as lines on standard error; all others as ever."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", TracerWarning)
            as_ever = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
                if not issubclass(category, TracerWarning):
                    as_ever(message, category, *place, **more)
                    return
                if str(message) not in self.warnings:
                    self.warnings.append(str(message))
                    say("warning", str(message))

            warnings.showwarning = show
            yield


def _status(error: TracerError) -> int:
    if isinstance(error, InputError):
        return WRONG_USAGE
    return DISAGREES if isinstance(error, VerificationError) else FAILED


def _as_bug(error: BaseException) -> TracerError:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return TracerError(
        f"this is a bug in lazytracer: {type(error).__name__}: {error}{place}",
        remedy="run again with -v for the traceback, and report it together with the model",
    )


def say(kind: str, text: str) -> None:
    heading = click.style(f"{kind}:", fg="red" if kind == "error" else "yellow", bold=True)
    click.echo(f"{heading} {printable_lines(text)}", err=True)
