"""What the commands print: tables and summaries for people, from plain data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from passes.errors import TracerError
from passes.printable import printable, printable_lines
from tracer.cli.report_table import LayerTable
from tracer.reports.text import cautions, file_size, followed, from_data, inferred, kept, promised, stated, totals

if TYPE_CHECKING:
    from tracer.commands.comparison import Comparison
    from tracer.commands.explanation import Explanation
    from tracer.reports.report import Report
    from tracer.steps.conversion import Conversion

# Nothing is folded for a file or another program, unless the environment's COLUMNS says how wide it may be.
PIPED_WIDTH = 1000
# Of longer lists the first few are shown.
MANY = 4


def show(content: RenderableType, stream: TextIO | None = None) -> None:
    """Prints to `stream` (standard output by default): styled on a terminal, plain ASCII elsewhere; a text as it is."""
    if isinstance(content, str):
        print(printable_lines(content), end="", file=stream or sys.stdout, flush=True)
        return
    console = _console(stream or sys.stdout)
    with console.capture() as captured:
        console.print(Segments(map(_printable, console.render(content))), end="")
    lines = [line.rstrip() for line in captured.get().splitlines()]
    print("\n".join(lines), file=stream or sys.stdout, flush=True)


def _printable(segment: Segment) -> Segment:
    """The one place that all text passes on its way to a terminal: in none are there signs that it obeys."""
    return segment if segment.control else Segment(printable_lines(segment.text), segment.style)


@contextmanager
def progress(shown: bool) -> Iterator[ProgressLine]:
    """A line on a terminal's standard error that says what is being done; nothing where that is no terminal."""
    if not (shown and sys.stderr.isatty()):
        yield ProgressLine(None)
        return
    console = Console(stderr=True)
    with console.status("") as status:
        yield ProgressLine(status.update)


class ProgressLine:
    """Says what is being done at present."""

    def __init__(self, update: Any):
        self._update = update

    def says(self, step: str) -> None:
        if self._update is not None:
            self._update(Text(printable(step)))


def inspection(report: Report, verbose: bool = False) -> RenderableType:
    """The table of a model's layers, its totals, its guards, how it was followed and which route it takes."""
    facts = _facts()
    _add_inputs_and_outputs(facts, report, [])
    for name, text in totals(report):
        facts.add_row(name, Text(text))
    _add_conditions(facts, report, verbose)
    for name, text in cautions(report):
        facts.add_row(name, Text(text))
    for text in followed(report):
        facts.add_row("followed", Text(text))
    reasons = _shortened(report.route_reason.split("; "), verbose)
    facts.add_row("route", Text(f"{report.route} ({'; '.join(reasons)})"))
    return Group(Text(report.model, style="bold"), "", LayerTable(report.steps, _rule()), "", facts)


def followed_by(content: RenderableType, text: str) -> RenderableType:
    """What is printed, with a text after it."""
    return f"{content}\n{text}\n" if isinstance(content, str) else Group(content, "", Text(text))


def comparison_table(comparison: Comparison) -> RenderableType:
    """What changes between samples, a column for each; then why some do not work."""
    table = Table(box=_rule(), show_edge=False, padding=(0, 1 if _rule() else 2, 0, 0), pad_edge=False)
    table.add_column(Text(comparison.model), style="bold", overflow="fold")
    for sample, report in zip(comparison.samples, comparison.reports, strict=True):
        style = "red" if isinstance(report, TracerError) else ""
        table.add_column(Text(sample), style=style, justify="right", overflow="fold")
    works = [not isinstance(report, TracerError) for report in comparison.reports]
    if not all(works):
        table.add_row("works", *("yes" if fine else "no" for fine in works))
    for difference in comparison.differences:
        table.add_row(Text(difference.name), *(Text(value or "-") for value in difference.values))
    if sum(works) > 1 and not comparison.differences:
        table.add_row("nothing changes")
    faults = [Text(f"\n{sample} does not work: {error}") for sample, error in comparison.faults]
    return Group(table, *faults)


def explanation_table(explanation: Explanation) -> RenderableType:
    """The chain of shapes that leads to a layer, and what its sizes come to."""
    table = Table(box=_rule(), show_edge=False, padding=(0, 1 if _rule() else 2, 0, 0), pad_edge=False)
    for heading in ("step", "shape", "line"):
        table.add_column(heading, style="bold" if heading == "step" else "", overflow="fold")
    for step in explanation.steps:
        if step.kept:
            kept = f"{step.kept} steps keep the shape" if step.kept > 1 else "1 step keeps the shape"
            table.add_row("", Text(kept, style="dim"))
        name = Text.assemble(step.name, (f" {step.type}" if step.type else "", "dim"))
        table.add_row(name, Text(str(step).replace(" = ", "\n= ")), Text(step.source or ""))
    named = ", ".join(f"{name}={size}" for name, size in explanation.named.items())
    where = [Text(f"where {named}", style="dim")] if named else []
    return Group(table, "", *(Text(str(size), style="green") for size in explanation.conclusion()), *where)


def known_part(report: Report) -> RenderableType:
    """The table of a model's layers up to where it fails, without totals."""
    facts = _facts()
    _add_inputs_and_outputs(facts, report, [])
    parts: list[RenderableType] = [Text(f"{report.model}, as far as it is known", style="bold"), "", facts]
    if report.steps:
        parts += ["", LayerTable(report.steps, _rule())]
    return Group(*parts, "")


def conversion_summary(conversion: Conversion, path: Path, opset: int, seconds: float, verbose: bool) -> RenderableType:
    """What was inferred, what was written, which route it took, and how well the file agrees with the module."""
    report = conversion.report
    facts = _facts()
    _add_inputs_and_outputs(facts, report, conversion.lowered.output_names)
    facts.add_row("file", Text(f"{printable(str(path))}, {file_size(path.stat().st_size)}, opset {opset}"))
    reasons = _shortened(conversion.route_reason.split("; "), verbose)
    facts.add_row("route", Text(f"{conversion.route} ({'; '.join(reasons)})"))
    verified = conversion.verification
    facts.add_row(
        "checked",
        f"largest difference {verified.largest_difference:.2g} in {verified.runtime}"
        if verified is not None
        else "no (--no-verify)",
    )
    for note in verified.notes if verified is not None else ():
        facts.add_row("note", Text(note))
    _add_conditions(facts, report, verbose)
    for name, text in cautions(report):
        facts.add_row(name, Text(text))
    facts.add_row("time", f"{seconds:.2f} s")
    parts = [_lazy_layers(report), facts]
    if verbose:
        parts.append(stage_timings(conversion.timings))
    return Group(*parts)


def resolution_summary(report: Report, path: Path, seconds: float) -> RenderableType:
    """What was inferred and where the weights are."""
    return Group(_lazy_layers(report), written_file(path, seconds))


def written_file(path: Path, seconds: float) -> RenderableType:
    """What was written, and how long it took."""
    facts = _facts()
    facts.add_row("file", Text(f"{printable(str(path))}, {file_size(path.stat().st_size)}"))
    facts.add_row("time", f"{seconds:.2f} s")
    return facts


def stage_timings(timings: Mapping[str, float]) -> RenderableType:
    """The seconds of each step."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, seconds in timings.items():
        table.add_row(Text(f"  {name}"), f"{seconds * 1000:,.1f} ms")
    return table


def _facts() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _add_inputs_and_outputs(facts: Table, report: Report, output_names: Sequence[str]) -> None:
    for name, spec in report.inputs.items():
        facts.add_row("input", Text(f"{name} {spec}"))
    names = output_names or [""] * len(report.outputs)
    for name, spec in zip(names, report.outputs, strict=False):
        facts.add_row("output", Text(f"{name} {spec}".strip()))
    for name, text in kept(report):
        facts.add_row(name, Text(text))


def _add_conditions(facts: Table, report: Report, verbose: bool) -> None:
    """What was promised of dynamic dimensions and what else must hold; facts of the fixed sample are counted."""
    for name, text in promised(report):
        facts.add_row(name, Text(text))
    dynamic = [str(guard) for guard in report.guards if guard.dynamic]
    for condition in _shortened(dynamic, verbose):
        facts.add_row("holds if", Text(condition))
    fixed = [str(guard) for guard in report.guards if not guard.dynamic]
    if fixed and not verbose:
        facts.add_row("sample", f"{len(fixed)} facts of its fixed sizes are built in (-v lists them)")
    elif verbose:
        for condition in fixed:
            facts.add_row("sample", Text(condition))
    for name, text in (*from_data(report), *stated(report)):
        facts.add_row(name, Text(text))


def _shortened(items: Sequence[str], verbose: bool) -> list[str]:
    if verbose or len(items) <= MANY:
        return list(items)
    return [*items[: MANY - 1], f"and {len(items) - MANY + 1} more (-v lists them)"]


def _lazy_layers(report: Report) -> RenderableType:
    lazies = list({layer.path: layer for layer in report.layers if layer.resolved}.values())
    count = f"{len(lazies)} lazy layer{'s' if len(lazies) != 1 else ''} resolved" if lazies else "no lazy layers"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for layer in lazies:
        table.add_row(
            Text(f"  {printable(layer.path)}", overflow="fold"), Text(layer.type), Text(inferred(layer), style="green")
        )
    heading = Text.assemble((report.model, "bold"), f": {count}")
    return Group(heading, table) if lazies else heading


def _rule() -> box.Box | None:
    return box.SIMPLE_HEAD if sys.stdout.isatty() else None


def _console(stream: TextIO) -> Console:
    if stream.isatty():
        return Console(file=stream, highlight=False)
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and int(columns) else PIPED_WIDTH
    return Console(file=stream, highlight=False, width=width, color_system=None, force_terminal=False)
