"""What the commands print: tables and summaries for people, from plain data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from passes.guards import Guard
    from tracer.conversion import Conversion
    from tracer.report import Layer, Report

PIPED_WIDTH = 80
# What columns of a table keep whole, and the room between them.
WHOLE_PATH, WHOLE_TYPE, WHOLE_AXIS, WHOLE_SIZES, GAP = 24, 15, 12, 18, 2
# Of longer lists the first few are shown.
MANY = 4


def show(content: RenderableType, stream: TextIO | None = None) -> None:
    """Prints to `stream` (standard output by default): styled on a terminal, plain ASCII elsewhere."""
    console = _console(stream or sys.stdout)
    with console.capture() as captured:
        console.print(content)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    print("\n".join(lines), file=stream or sys.stdout)


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
            self._update(Text(step))


def inspection(report: Report, verbose: bool = False) -> RenderableType:
    """The table of a model's layers, its totals and its guards."""
    facts = _facts()
    _add_inputs_and_outputs(facts, report, [])
    facts.add_row("params", f"{report.params:,}")
    facts.add_row("macs", formula(report.macs))
    _add_guards(facts, report.guards, verbose)
    return Group(Text(report.model, style="bold"), "", _layers(report.layers), "", facts)


def known_part(report: Report) -> RenderableType:
    """The table of a model's layers up to where it fails, without totals."""
    facts = _facts()
    _add_inputs_and_outputs(facts, report, [])
    parts: list[RenderableType] = [Text(f"{report.model}, as far as it is known", style="bold"), "", facts]
    if report.layers:
        parts += ["", _layers(report.layers)]
    return Group(*parts, "")


def _layers(layers: Sequence[Layer]) -> Table:
    """A row for each layer. On a narrow terminal shapes are broken between their axes, and long types; paths and
    numbers stay whole while that is possible."""
    head = ("layer", "type", "output", "params", "inferred")
    rows = [
        (
            layer.path,
            layer.type,
            shape(layer.output_shape).replace(" + ", "+").replace(" - ", "-"),
            f"{layer.params:,}",
            inferred(layer),
        )
        for layer in layers
    ]
    path, kind, axes, params, sizes = (max(map(len, texts)) for texts in zip(head, *rows, strict=True))
    path, sizes = min(path, WHOLE_PATH), min(sizes, WHOLE_SIZES)
    room = _console(sys.stdout).width - (path + params + sizes)
    gap = GAP if room >= WHOLE_TYPE + WHOLE_AXIS + GAP * (len(head) - 1) else 1
    room -= gap * (len(head) - 1)
    kind = min(kind, max(room - axes, WHOLE_TYPE))
    axes = min(axes, max(room - kind, WHOLE_AXIS))
    ruled = sys.stdout.isatty()  # the rule's box brings a column between the columns
    table = Table(
        box=box.SIMPLE_HEAD if ruled else None, show_edge=False, padding=(0, gap - ruled, 0, 0), pad_edge=False
    )
    styles = {"layer": "bold", "inferred": "green"}
    for name, width in zip(head, (path, kind, axes, params, sizes), strict=True):
        justify: Literal["left", "right"] = "right" if name == "params" else "left"
        table.add_column(name, width=width, overflow="fold", style=styles.get(name), justify=justify)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def conversion_summary(conversion: Conversion, path: Path, opset: int, seconds: float, verbose: bool) -> RenderableType:
    """What was inferred, what was written, which route it took, and how well the file agrees with the module."""
    report = conversion.report
    facts = _facts()
    _add_inputs_and_outputs(facts, report, conversion.lowered.output_names)
    facts.add_row("file", f"{path}, {file_size(path.stat().st_size)}, opset {opset}")
    reasons = _shortened(conversion.route_reason.split("; "), verbose)
    facts.add_row("route", Text(f"{conversion.route} ({'; '.join(reasons)})"))
    verified = conversion.verification
    facts.add_row(
        "checked",
        f"largest difference {verified.largest_difference:.2g} in {verified.runtime}"
        if verified is not None
        else "no (--no-verify)",
    )
    _add_guards(facts, report.guards, verbose)
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
    facts.add_row("file", f"{path}, {file_size(path.stat().st_size)}")
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


def inferred(layer: Layer) -> str:
    """`in_features=400`, or nothing for a layer that was not lazy."""
    return ", ".join(f"{name}={size}" for name, size in layer.resolved.items())


def shape(sizes: Sequence[Any]) -> str:
    """`[N, 64, 56, 56]`; several outputs one after the other."""
    if any(isinstance(size, list) for size in sizes):
        return " ".join(map(shape, sizes))
    return f"[{', '.join(map(str, sizes))}]"


def formula(size: int | str) -> str:
    return f"{size:,}" if isinstance(size, int) else size


def file_size(size: int) -> str:
    """A number of bytes in three digits: `1.23 MB`."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} GB"


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


def _add_guards(facts: Table, guards: Sequence[Guard], verbose: bool) -> None:
    """Conditions on dynamic dimensions; those that only describe the fixed sample are counted."""
    dynamic = [str(guard) for guard in guards if guard.dynamic]
    for condition in _shortened(dynamic, verbose):
        facts.add_row("holds if", Text(condition))
    fixed = [str(guard) for guard in guards if not guard.dynamic]
    if fixed and not verbose:
        facts.add_row("sample", f"{len(fixed)} facts of its fixed sizes are built in (-v lists them)")
    elif verbose:
        for condition in fixed:
            facts.add_row("sample", Text(condition))


def _shortened(items: Sequence[str], verbose: bool) -> list[str]:
    if verbose or len(items) <= MANY:
        return list(items)
    return [*items[: MANY - 1], f"and {len(items) - MANY + 1} more (-v lists them)"]


def _lazy_layers(report: Report) -> RenderableType:
    lazies = list({layer.path: layer for layer in report.layers if layer.resolved}.values())
    count = f"{len(lazies)} lazy layer{'s' if len(lazies) != 1 else ''} resolved" if lazies else "no lazy layers"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for layer in lazies:
        table.add_row(Text(f"  {layer.path}", overflow="fold"), layer.type, Text(inferred(layer), style="green"))
    heading = Text.assemble((report.model, "bold"), f": {count}")
    return Group(heading, table) if lazies else heading


def _console(stream: TextIO) -> Console:
    if stream.isatty():
        return Console(file=stream, highlight=False)
    return Console(file=stream, highlight=False, width=PIPED_WIDTH, color_system=None, force_terminal=False)
