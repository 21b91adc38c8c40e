"""The report as one HTML page that needs nothing but itself: styles, scripts, layout library and data are inside."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from passes.printable import printable
from tracer.drawings.graph_view import GraphView
from tracer.version import __version__

_FOLDER = Path(__file__).parent / "page"
# In the order in which they need each other.
_SCRIPTS = ("text.js", "layout.js", "drawing.js", "chain.js", "table.js", "page.js")


def report_page(view: GraphView) -> str:
    """The page. What it holds is the same for the same model, to the byte."""
    return Template(_read("template.html")).substitute(
        title=html.escape(printable(view.report.model)),
        version=html.escape(__version__),
        style=_read("page.css"),
        script="\n".join([_layout_library(), '"use strict";', *map(_read, _SCRIPTS)]),
        data=_embeddable(json.dumps(_shown(view.to_dict()), ensure_ascii=False, separators=(",", ":"))),
    )


def _layout_library() -> str:
    """dagre under its licence, without the comment that names a file of its source map."""
    library = re.sub(r"^//# sourceMappingURL=.*$", "", _read("vendor/dagre.min.js"), flags=re.MULTILINE)
    return f"/*\n{_read('vendor/dagre.LICENSE')}*/\n{library.strip()}"


def _shown(data: Any) -> Any:
    """The data with all its texts printable: the page puts them where they are seen."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, Mapping):
        return {_shown(key): _shown(value) for key, value in data.items()}
    return [_shown(item) for item in data] if isinstance(data, (list, tuple)) else data


def _embeddable(data: str) -> str:
    """JSON that cannot end the element it stands in; in JSON a `<` occurs only inside strings."""
    return data.replace("<", "\\u003c")


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
