"""Reports and conversions as tables in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape as escaped

from passes.printable import printable
from tracer.reports.data import Layer, ReportData
from tracer.reports.text import COLUMNS, cautions, followed, from_data, kept, promised, stated, totals


def escape(text: str) -> str:
    """Any text in HTML, each sign that cannot be seen as Python writes it."""
    return escaped(printable(text))


def report_html(report: ReportData) -> str:
    """The layers, and what is known of the model as a whole below them."""
    followed_how = (("followed", text) for text in followed(report))
    route = ("route", f"{report.route} ({report.route_reason})")
    return _page(report, [*_inputs_and_outputs(report), *totals(report), *_conditions(report), *followed_how, route])


def conversion_html(report: ReportData, facts: Iterable[tuple[str, str]]) -> str:
    """The layers, and below them what is known of the model and, with `facts`, of its conversion."""
    return _page(report, [*_inputs_and_outputs(report), *totals(report), *facts, *_conditions(report)])


def _inputs_and_outputs(report: ReportData) -> Iterator[tuple[str, str]]:
    yield from (("input", f"{name} {spec}") for name, spec in report.inputs.items())
    yield from (("output", spec) for spec in report.outputs)
    yield from kept(report)


def _conditions(report: ReportData) -> Iterator[tuple[str, str]]:
    yield from promised(report)
    yield from (("holds if", str(guard)) for guard in report.guards if guard.dynamic)
    yield from from_data(report)
    yield from stated(report)
    yield from cautions(report)


def _page(report: ReportData, facts: Iterable[tuple[str, str]]) -> str:
    heading = "".join(f"<th>{escape(column.heading)}</th>" for column in COLUMNS)
    rows = "".join(map(_row, report.steps))
    known = "".join(f"<tr><th>{escape(name)}</th>{_cell(text)}</tr>" for name, text in facts)
    return (
        f"<div><b>{escape(report.model)}</b>"
        f"<table><thead><tr>{heading}</tr></thead><tbody>{rows}</tbody></table>"
        f"<table><tbody>{known}</tbody></table></div>"
    )


def _row(layer: Layer) -> str:
    cells = (_cell(column.text(layer), "right" if column.is_number else "left") for column in COLUMNS)
    return f"<tr>{''.join(cells)}</tr>"


def _cell(text: str, align: str = "left") -> str:
    return f'<td style="text-align: {align}">{escape(text)}</td>'
