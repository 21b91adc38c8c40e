"""The graph as a picture in layers from top to bottom, without the modules around its nodes.

A layer holds what is equally far from the inputs. Within layers, nodes are ordered by where their neighbours are
(the barycentre heuristic of Sugiyama, Tagawa and Toda, 1981) and put as near to them as the order allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape as escaped
from itertools import pairwise
from typing import TYPE_CHECKING

from passes.printable import printable
from tracer.drawings.graph_view import GraphView, Node

if TYPE_CHECKING:
    import networkx as nx

# Sizes in pixels. The font has one width for all characters, so that a text's width is known.
FONT, CHARACTER, LINE = 12, 7.3, 16
PADDING, BETWEEN, MARGIN, GAP, ASIDE = 10, 20, 24, 48, 6
SWEEPS = 8

_STYLE = """
text { font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; text-anchor: middle; fill: #1b1f24 }
rect { fill: #fff; stroke: #8b949e } path { fill: none; stroke: #8b949e }
.lazy rect { fill: #fff3e0; stroke: #d9822b } .lazy text + text { fill: #9a4a00; font-weight: 600 }
.end rect { fill: #e9ecef } .shape { fill: #59636e; font-size: 11px; text-anchor: start }
.shape { paint-order: stroke; stroke: #fff; stroke-width: 4px }
.back { fill: #fff; stroke: none }
"""


@dataclass(slots=True, eq=False)
class Spot:
    """A place in a layer: a node's box, or where a value passes by on its way to a layer further down."""

    value: str
    layer: int
    node: Node | None = None
    shape: str = ""
    above: list[Spot] = field(default_factory=list)
    below: list[Spot] = field(default_factory=list)
    x: float = 0
    y: float = 0

    @property
    def lines(self) -> list[str]:
        return [printable(line) for line in self.node.caption()] if self.node is not None else []

    @property
    def box(self) -> float:
        """The width of the node's box."""
        return max((len(line) for line in self.lines), default=0) * CHARACTER + 2 * PADDING * (self.node is not None)

    @property
    def width(self) -> float:
        """The room that the box needs, with the shape below it to the right of its middle."""
        return max(self.box, 2 * (ASIDE + len(self.shape) * CHARACTER))

    @property
    def height(self) -> float:
        return len(self.lines) * LINE + PADDING if self.node is not None else 0


def escape(text: str) -> str:
    """Any text in XML, which has no place for control characters, not even escaped."""
    return escaped(printable(text))


def svg(view: GraphView) -> str:
    """A picture of the graph: layers with what was inferred for them, shapes below each node they come from."""
    layers = _layers(view)
    _order(layers)
    _place(layers)
    spots = [spot for layer in layers for spot in layer]
    right = max(spot.x + spot.width / 2 for spot in spots) + MARGIN
    bottom = max(spot.y + spot.height for spot in spots) + MARGIN
    title = escape(f"{view.report.model}: graph and shapes")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right:.0f} {bottom:.0f}" '
        f'width="{right:.0f}" height="{bottom:.0f}" role="img" aria-label="{title}">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="back" width="{right:.0f}" height="{bottom:.0f}"/>',
        *[_curve(spot, lower) for spot in spots for lower in spot.below],
        *[_shape(spot) for spot in spots if spot.shape],
        *[_box(spot, spot.node) for spot in spots if spot.node is not None],
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _layers(view: GraphView) -> list[list[Spot]]:
    """Every node in a layer below its operands, linked through a spot in each layer that a value passes."""
    import networkx as nx

    flow: nx.DiGraph[str] = nx.DiGraph()
    flow.add_nodes_from(node.id for node in view.nodes)
    flow.add_edges_from((edge.source, edge.target) for edge in view.edges)
    depth = _depths(flow)
    shapes = {edge.source: edge.shape for edge in view.edges}
    layers: list[list[Spot]] = [[] for _ in range(max(depth.values()) + 1)]
    passing: dict[tuple[str, int], Spot] = {}
    linked: set[tuple[Spot, Spot]] = set()

    def spot(value: str, layer: int, node: Node | None = None) -> Spot:
        if (value, layer) not in passing:
            passing[value, layer] = made = Spot(value, layer, node, shapes.get(value, "") if node is not None else "")
            layers[layer].append(made)
        return passing[value, layer]

    for node in view.nodes:
        here = spot(node.id, depth[node.id], node)
        for operand in flow.predecessors(node.id):
            way = [spot(operand, layer) for layer in range(depth[operand], here.layer)] + [here]
            for upper, lower in pairwise(way):
                if (upper, lower) not in linked:
                    linked.add((upper, lower))
                    upper.below.append(lower)
                    lower.above.append(upper)
    return layers


def _depths(flow: nx.DiGraph[str]) -> dict[str, int]:
    """How far below the inputs each node is; what has no operands is just above the first that uses it."""
    import networkx as nx

    depth = {node: layer for layer, nodes in enumerate(nx.topological_generations(flow)) for node in nodes}
    for node in flow:
        if flow.in_degree(node) == 0 and flow.out_degree(node) > 0:
            depth[node] = min(depth[user] for user in flow.successors(node)) - 1
    return depth


def _order(layers: list[list[Spot]]) -> None:
    """Orders each layer by the middle of its neighbours, downwards and upwards in turn."""

    def sort(layer: list[Spot], neighbours: Callable[[Spot], list[Spot]]) -> None:
        for index, spot in enumerate(layer):
            near = neighbours(spot)
            spot.x = sum(position[id(other)] for other in near) / len(near) if near else index
        layer.sort(key=lambda spot: spot.x)
        position.update({id(spot): float(index) for index, spot in enumerate(layer)})

    position = {id(spot): float(index) for layer in layers for index, spot in enumerate(layer)}
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            sort(layer, (lambda spot: spot.above) if sweep % 2 == 0 else (lambda spot: spot.below))


def _place(layers: list[list[Spot]]) -> None:
    y = float(MARGIN)
    for layer in layers:
        tallest = max(spot.height for spot in layer)
        for spot in layer:
            spot.y = y + (tallest - spot.height) / 2
        _spread(layer, [spot.x for spot in layer])
        y += tallest + GAP
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            _spread(layer, [_middle(spot.above + spot.below, spot.x) for spot in layer])
    left = min(spot.x - spot.width / 2 for layer in layers for spot in layer)
    for layer in layers:
        for spot in layer:
            spot.x += MARGIN - left


def _middle(spots: Iterable[Spot], otherwise: float) -> float:
    places = [spot.x for spot in spots]
    return sum(places) / len(places) if places else otherwise


def _spread(layer: Sequence[Spot], wished: Sequence[float]) -> None:
    """Puts spots as near to where they are wished as they fit beside each other in their order.

    Least squares: where neighbours would overlap they move together, to the mean of what they wish (the algorithm of
    pool adjacent violators for isotonic regression).
    """
    offsets, offset = [], 0.0
    for index, spot in enumerate(layer):
        offset += (layer[index - 1].width + spot.width) / 2 + BETWEEN if index else 0.0
        offsets.append(offset)
    blocks: list[tuple[float, int]] = []
    for wish, offset in zip(wished, offsets, strict=True):
        mean, count = wish - offset, 1
        while blocks and blocks[-1][0] > mean:
            before, size = blocks.pop()
            mean, count = (before * size + mean * count) / (size + count), size + count
        blocks.append((mean, count))
    starts = [mean for mean, count in blocks for _ in range(count)]
    for spot, start, offset in zip(layer, starts, offsets, strict=True):
        spot.x = start + offset


def _curve(upper: Spot, lower: Spot) -> str:
    top, end = upper.y + upper.height, lower.y
    middle = (top + end) / 2
    start, bend = f"{upper.x:.1f} {top:.1f}", f"{upper.x:.1f} {middle:.1f}"
    return f'<path d="M{start}C{bend} {lower.x:.1f} {middle:.1f} {lower.x:.1f} {end:.1f}"/>'


def _shape(spot: Spot) -> str:
    x, y = spot.x + ASIDE, spot.y + spot.height + 15
    return f'<text class="shape" x="{x:.1f}" y="{y:.1f}">{escape(spot.shape)}</text>'


def _box(spot: Spot, node: Node) -> str:
    kind = "lazy" if node.resolved else "end" if node.kind in ("input", "output") else node.kind
    radius = spot.height / 2 if kind == "end" else 5
    lines = "".join(
        f'<text x="{spot.x:.1f}" y="{spot.y + PADDING / 2 + LINE * index + FONT:.1f}">{escape(line)}</text>'
        for index, line in enumerate(spot.lines)
    )
    return (
        f'<g class="{kind}"><title>{escape(_description(node))}</title><rect x="{spot.x - spot.box / 2:.1f}" '
        f'y="{spot.y:.1f}" width="{spot.box:.1f}" height="{spot.height:.1f}" rx="{radius:.1f}"/>{lines}</g>'
    )


def _description(node: Node) -> str:
    return "  ".join(filter(None, (node.path, node.type, node.source)))
