"""A model's graph in the formats in which it can be drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from passes.errors import InputError
from passes.files.output_file import staged
from passes.program.stages import Shaped
from tracer.drawings.graph_formats import dot, mermaid
from tracer.drawings.graph_view import GraphView, build_graph_view
from tracer.drawings.report_page import report_page
from tracer.drawings.svg import svg
from tracer.edge.boundary import of_result
from tracer.inputs.input_files import checked_target
from tracer.reports.report import Report

FORMATS: dict[str, Callable[[GraphView], str]] = {
    "html": report_page,
    "svg": svg,
    "dot": dot,
    "mermaid": mermaid,
    "json": lambda view: json.dumps(view.to_dict(), indent=2) + "\n",
}
_SUFFIXES = {".html": "html", ".htm": "html", ".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid",
    ".mermaid": "mermaid", ".json": "json",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawn model: the text of the page or picture, its format, and the data that was drawn."""

    text: str
    format: str
    view: GraphView

    @property
    def report(self) -> Report:
        return self.view.report

    @of_result
    def save(self, path: str | Path) -> Path:
        """Writes the text, whole or not at all. Raises ExportError where it cannot be written."""
        target = checked_target(path)
        with staged(target) as staging:
            staging.file.write(self.text.encode())
        return target


def draw_program(program: Shaped, model_name: str, format: str) -> Drawing:
    """The graph of a program whose shapes are propagated, in one of the formats."""
    view = build_graph_view(program, model_name)
    return Drawing(FORMATS[format](view), format, view)


def chosen_format(asked: str | None, path: Path | None) -> str:
    """The format that was asked for, else the one that the file's suffix names, else html.

    Raises InputError for a format that there is not, and for a suffix that says nothing.
    """
    formats = ", ".join(FORMATS)
    if asked is not None:
        if asked not in FORMATS:
            raise InputError(f"there is no format {asked!r}", remedy=f"use one of {formats}")
        return asked
    if path is None:
        return "html"
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"the output {path} names no format", remedy=f"end it in .html, or choose one of {formats}")
    return _SUFFIXES[path.suffix.lower()]
