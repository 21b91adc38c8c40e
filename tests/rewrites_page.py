"""Writes docs/rewrites.md: the table of all rewrites, from their rows (`python -m tests.rewrites_page`)."""

from __future__ import annotations

from pathlib import Path

from passes.ops.rewrite import Rewrite
from passes.stages.rewrites.registry import rewrites

TARGET = Path(__file__).parents[1] / "docs" / "rewrites.md"
HEADING = """\
# Rewrites

What a graph becomes before it is lowered, at inference. A pattern is an op, or ops of which each result is what the
next one is of and goes nowhere else. When a row holds is code beside it (`passes/ops/`,
`passes/stages/rewrites/`), its cases are in `tests/test_passes_as_text.py`. Rows are tried in this order. Written by
`python -m tests.rewrites_page`.

| name | pattern | becomes | since opset | why |
|---|---|---|---|---|
"""


def page() -> str:
    return HEADING + "".join(map(_line, rewrites()))


def _line(row: Rewrite) -> str:
    pattern = ", ".join(f"`{name}`" for name in row.pattern)
    since = "any" if row.since is None else str(row.since)
    return f"| `{row.name}` | {pattern} | {row.becomes} | {since} | {row.why} |\n"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
