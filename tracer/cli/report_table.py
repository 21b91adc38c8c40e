"""A report as a table: one line a layer where there is room, two where there is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from tracer.reports.text import COLUMNS, Column

if TYPE_CHECKING:
    from tracer.reports.data import Layer

# Where the room is scarce a column keeps at least this, and its texts are folded.
LEAST = 11


@dataclass(frozen=True, slots=True)
class LayerTable:
    """The table of a report's layers and operations. In a narrow space it stacks each two columns into one."""

    steps: Sequence[Layer]
    rule: box.Box | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        rows = [[column.text(step) for column in COLUMNS] for step in self.steps]
        widths = [max(map(len, texts)) for texts in zip([c.heading for c in COLUMNS], *rows, strict=True)]
        if sum(widths) + 2 * (len(widths) - 1) <= options.max_width:
            yield self._flat(rows)
        else:
            yield self._stacked([_terse(row) for row in rows], options.max_width)

    def _flat(self, rows: Sequence[Sequence[str]]) -> Table:
        table = self._table()
        for column in COLUMNS:
            table.add_column(column.heading, style=column.style, justify=_justified(column), no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))
        return table

    def _stacked(self, rows: Sequence[Sequence[str]], room: int) -> Table:
        table = self._table()
        columns = COLUMNS[::2]
        head, *cells = (
            [
                Text.assemble((above, column.style if index else ""), "\n", below if column.is_number else f"  {below}")
                for column, above, below in zip(columns, row[::2], row[1::2], strict=True)
            ]
            for index, row in enumerate([[column.heading for column in COLUMNS], *rows])
        )
        wanted = [
            max(max(map(len, text.plain.splitlines())) for text in column) for column in zip(head, *cells, strict=True)
        ]
        for column, heading, width in zip(columns, head, fitted(wanted, room - 2 * (len(head) - 1)), strict=True):
            table.add_column(heading, width=width, justify=_justified(column), overflow="fold")
        for row in cells:
            table.add_row(*row)
        return table

    def _table(self) -> Table:
        # A rule's box brings a column between the columns.
        return Table(box=self.rule, show_edge=False, padding=(0, 1 if self.rule else 2, 0, 0), pad_edge=False)


def fitted(wanted: Sequence[int], room: int) -> list[int]:
    """Widths of columns in that much room: the widest give way, down to what is least."""
    widths = list(wanted)
    while sum(widths) > room and max(widths) > LEAST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _terse(row: Sequence[str]) -> list[str]:
    """The row without saying a shape twice that the layer keeps."""
    return [
        "same" if column.heading == "output" and text == before else text
        for column, text, before in zip(COLUMNS, row, ["", *row], strict=False)
    ]


def _justified(column: Column) -> Literal["left", "right"]:
    return "right" if column.is_number else "left"
