"""The graph as text for other tools: Graphviz's DOT and Mermaid. The same graph gives the same text.

DOT: https://graphviz.org/doc/info/lang.html. Mermaid: https://mermaid.js.org/syntax/flowchart.html.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from passes.printable import printable, printable_lines
from tracer.drawings.graph_view import Edge, GraphView, Group, Node

# Fill and border of what was lazy, on any background.
_LAZY_FILL, _LAZY_LINE = "#fff3e0", "#d9822b"


def dot(view: GraphView) -> str:
    """A digraph for Graphviz: a cluster for each module, a box for each layer, the shapes on the edges."""
    lines = [
        f"digraph {_quoted(view.report.model)} {{",
        '  node [shape=box, style="rounded,filled", fillcolor=white, fontname="sans-serif"];',
        '  edge [fontname="sans-serif", fontsize=10];',
        *_nested(view, _dot_node, _dot_cluster, "}"),
        *[f"  {_quoted(edge.source)} -> {_quoted(edge.target)} [label={_quoted(edge.shape)}];" for edge in view.edges],
        "}",
    ]
    return "\n".join(lines) + "\n"


def mermaid(view: GraphView) -> str:
    """A flowchart for Mermaid, which Markdown pages show: a subgraph for each module, the shapes on the edges."""
    number = {node.id: f"n{index}" for index, node in enumerate(view.nodes)}
    group_number = {group.path: f"g{index}" for index, group in enumerate(view.groups)}

    def box(node: Node) -> str:
        left, right = ("([", "])") if node.kind in ("input", "output") else ("[", "]")
        text = f'{number[node.id]}{left}"{_entities(node.caption(node.group))}"{right}'
        return f"{text}:::lazy" if node.resolved else text

    def subgraph(group: Group) -> str:
        return f'subgraph {group_number[group.path]}["{_entities(group.caption())}"]'

    def arrow(edge: Edge) -> str:
        return f'  {number[edge.source]} -->|"{_entities([edge.shape])}"| {number[edge.target]}'

    lines = [
        "flowchart TD",
        f"  classDef lazy fill:{_LAZY_FILL},stroke:{_LAZY_LINE},color:#000",
        *_nested(view, box, subgraph, "end"),
        *map(arrow, view.edges),
    ]
    return "\n".join(lines) + "\n"


def _nested(
    view: GraphView, box: Callable[[Node], str], opening: Callable[[Group], str], closing: str
) -> Iterator[str]:
    """The nodes, each inside the modules around it, in the order of the forward; the root has no frame."""
    groups = {group.path: group for group in view.groups}
    inside: dict[str, list[Node | Group]] = {}
    for node in view.nodes:
        item: Node | Group = node
        path: str | None = node.group
        while path is not None:
            is_new = path not in inside
            inside.setdefault(path, []).append(item)
            if not is_new:
                break
            item, path = groups[path], groups[path].parent

    def lines(path: str, indent: str) -> Iterator[str]:
        for item in inside[path]:
            if isinstance(item, Node):
                yield indent + box(item)
            else:
                yield indent + opening(item)
                yield from lines(item.path, indent + "  ")
                yield indent + closing

    return lines("", "  ")


def _dot_node(node: Node) -> str:
    attributes = f"label={_quoted(chr(10).join(node.caption(node.group)))}"
    if node.kind in ("input", "output"):
        attributes += ", shape=oval"
    if node.resolved:
        attributes += f', fillcolor="{_LAZY_FILL}", color="{_LAZY_LINE}"'
    return f"{_quoted(node.id)} [{attributes}];"


def _dot_cluster(group: Group) -> str:
    # Graphviz draws a frame around a subgraph whose name begins with "cluster".
    name, label = _quoted(f"cluster {group.path}"), _quoted("\n".join(group.caption()))
    return f"subgraph {name} {{ label={label}; style=rounded; color=gray;"


def _quoted(text: str) -> str:
    escaped = printable_lines(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _entities(lines: list[str]) -> str:
    """Lines of text in which Mermaid reads nothing but letters: all its signs as its own numbered entities."""
    return "<br/>".join(
        re.sub(r"[^\w\s.,:=()×…*/+-]", lambda sign: f"#{ord(sign[0])};", printable(line)) for line in lines
    )
