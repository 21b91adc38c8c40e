"""What nothing in a graph uses is left out of it: some results of an operation with several, say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from onnx import GraphProto


def drop_unused(graph: GraphProto, weights: dict[str, torch.Tensor]) -> None:
    """Takes out of a graph, whose nodes are in order, the nodes that no output depends on; then constants and weights
    that no node uses."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(_used_in(node))
            kept.append(node)
    _replace(graph.node, kept[::-1])
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    for name in weights.keys() - needed:
        del weights[name]


def _used_in(node: Any) -> Iterator[str]:
    """The names that a node uses, those in its bodies among them."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _used_in(inner)
        yield from (output.name for output in attribute.g.output)


def _replace(repeated: Any, entries: list[Any]) -> None:
    del repeated[:]
    repeated.extend(entries)


__all__ = ["drop_unused"]
