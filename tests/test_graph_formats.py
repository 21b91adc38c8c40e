"""DOT, Mermaid and SVG: what they say, that they are well-formed whatever things are called, and always the same."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import nn

import tracer
from examples.inception import GoogLeNet
from examples.resnet50 import ResNet50
from tests.test_ladder import Parent

STRANGE = 'a "b" <i>`x`</i>#; 1\\n & end'


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LazyLinear(4), nn.ReLU())
        self.head = nn.LazyLinear(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.body(x))


class Strange(nn.Module):
    """A module whose name means something in every one of the languages."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module(STRANGE, nn.Sequential(nn.LazyLinear(3), nn.ReLU()))

    def forward(self, end: torch.Tensor) -> torch.Tensor:
        return getattr(self, STRANGE)(end)


def text(model: nn.Module, format: str, *sizes: int | str) -> str:
    return tracer.draw(model, (tracer.spec(*sizes),), format=format).text


def test_dot() -> None:
    assert (
        text(Small(), "dot", "N", 4)
        == """\
digraph "Small" {
  node [shape=box, style="rounded,filled", fillcolor=white, fontname="sans-serif"];
  edge [fontname="sans-serif", fontsize=10];
  "x" [label="input x", shape=oval];
  subgraph "cluster body" { label="body: Sequential"; style=rounded; color=gray;
    "body_0" [label="0: LazyLinear\\nin_features = 4", fillcolor="#fff3e0", color="#d9822b"];
    "body_1" [label="1: ReLU"];
  }
  "add" [label="add"];
  "head" [label="head: LazyLinear\\nin_features = 4", fillcolor="#fff3e0", color="#d9822b"];
  "output" [label="output", shape=oval];
  "x" -> "body_0" [label="N×4"];
  "body_0" -> "body_1" [label="N×4"];
  "x" -> "add" [label="N×4"];
  "body_1" -> "add" [label="N×4"];
  "add" -> "head" [label="N×4"];
  "head" -> "output" [label="N×2"];
}
"""
    )


def test_mermaid() -> None:
    assert (
        text(Small(), "mermaid", "N", 4)
        == """\
flowchart TD
  classDef lazy fill:#fff3e0,stroke:#d9822b,color:#000
  n0(["input x"])
  subgraph g1["body: Sequential"]
    n1["0: LazyLinear<br/>in_features = 4"]:::lazy
    n2["1: ReLU"]
  end
  n3["add"]
  n4["head: LazyLinear<br/>in_features = 4"]:::lazy
  n5(["output"])
  n0 -->|"N×4"| n1
  n1 -->|"N×4"| n2
  n0 -->|"N×4"| n3
  n2 -->|"N×4"| n3
  n3 -->|"N×4"| n4
  n4 -->|"N×2"| n5
"""
    )


def test_names_are_escaped() -> None:
    dot = text(Strange(), "dot", "N", 4)
    assert 'label="a \\"b\\" <i>`x`</i>#; 1\\\\n & end: Sequential"' in dot
    assert dot.count("{") == dot.count("}") == len(re.findall(r"^(digraph|  subgraph) ", dot, re.MULTILINE))
    mermaid = text(Strange(), "mermaid", "N", 4)
    assert 'g1["a #34;b#34; #60;i#62;#96;x#96;#60;/i#62;#35;#59; 1#92;n #38; end: Sequential"]' in mermaid
    svg = ElementTree.fromstring(text(Strange(), "svg", "N", 4))
    assert f"{STRANGE}.0: LazyLinear" in [element.text for element in svg.iter()]


@pytest.mark.parametrize("format", ["html", "svg", "dot", "mermaid", "json"])
def test_the_same_each_time(format: str) -> None:
    assert text(GoogLeNet(), format, "N", 3, 96, 96) == text(GoogLeNet(), format, "N", 3, 96, 96)


SVG = "{http://www.w3.org/2000/svg}"


def boxes(svg: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of each node."""
    found = []
    for group in svg.iter(f"{SVG}g"):
        rectangle = group.find(f"{SVG}rect")
        assert rectangle is not None
        x, y, width, height = (float(rectangle.attrib[name]) for name in ("x", "y", "width", "height"))
        found.append((x, y, x + width, y + height))
    return found


@pytest.mark.parametrize(
    ("model", "sizes"),
    [(Small, ("N", 4)), (Parent, ("N", 8)), (ResNet50, ("N", 3, 64, 64)), (GoogLeNet, ("N", 3, 96, 96))],
)
def test_svg(model: Any, sizes: tuple[int | str, ...]) -> None:
    drawing = tracer.draw(model(), (tracer.spec(*sizes),), format="svg")
    svg = ElementTree.fromstring(drawing.text)
    texts = [element.text for element in svg.iter(f"{SVG}text")]
    placed = boxes(svg)
    assert len(placed) == len(drawing.view.nodes)
    assert all(line in texts for node in drawing.view.nodes for line in node.caption())
    assert {edge.shape for edge in drawing.view.edges} <= set(texts)
    for (left, top, right, bottom), (other_left, other_top, other_right, other_bottom) in combinations(placed, 2):
        assert left >= other_right or right <= other_left or top >= other_bottom or bottom <= other_top
    _, _, width, height = (float(size) for size in svg.attrib["viewBox"].split())
    assert all(left >= 0 and top >= 0 and right <= width and bottom <= height for left, top, right, bottom in placed)


def test_svg_lines_lead_downwards_from_box_to_box() -> None:
    svg = ElementTree.fromstring(text(ResNet50(), "svg", "N", 3, 64, 64))
    starts: list[tuple[float, float]] = []
    ends: list[tuple[float, float]] = []
    for path in svg.iter(f"{SVG}path"):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]
        starts.append((numbers[0], numbers[1]))
        ends.append((numbers[-2], numbers[-1]))
        assert numbers[-1] > numbers[1]
    placed = boxes(svg)
    tops = {(round((left + right) / 2, 1), round(top, 1)) for left, top, right, _ in placed}
    bottoms = {(round((left + right) / 2, 1), round(bottom, 1)) for left, _, right, bottom in placed}

    def near(point: tuple[float, float], points: set[tuple[float, float]]) -> bool:
        return any(abs(point[0] - x) <= 0.2 and abs(point[1] - y) <= 0.2 for x, y in points)

    # Where a line does not meet a box, it goes on from where another one ended.
    assert all(near(start, bottoms) or start in ends for start in starts)
    assert all(near(end, tops) or end in starts for end in ends)
