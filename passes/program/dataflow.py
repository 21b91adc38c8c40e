"""Questions about the graph as a graph, on networkx: where does this value come from, what is alive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import fx

from passes.program.notes import VALUE, location_of
from passes.program.program import Program, operation_of, tensor_specs
from passes.program.regions import begins_region, ends_region
from passes.values.spec import describe

if TYPE_CHECKING:
    import networkx as nx


def dataflow_graph(graph: fx.Graph) -> nx.DiGraph[fx.Node]:
    """The graph's nodes with an edge from each operand to its user, in graph order."""
    import networkx as nx

    flow: nx.DiGraph[fx.Node] = nx.DiGraph()
    for node in graph.nodes:
        flow.add_node(node)
        flow.add_edges_from((operand, node) for operand in node.all_input_nodes)
    return flow


# How many steps of a chain are shown: the first, and the last ones.
_STEPS = 4


def shape_chain(node: fx.Node, program: Program) -> list[str]:
    """The last steps that led to the node's operands, nearest last: what each is, where, and its shape."""
    import networkx as nx

    flow = dataflow_graph(program.graph)
    order = {member: index for index, member in enumerate(program.graph.nodes)}
    behind = sorted(nx.ancestors(flow, node), key=order.__getitem__)
    return _steps(behind, program)


def latest_steps(program: Program) -> list[str]:
    """The last steps that were recorded, nearest last."""
    return _steps(program.graph.nodes, program)


def alive(graph: fx.Graph) -> set[fx.Node]:
    """The nodes on which the outputs depend, with the output itself and every input."""
    import networkx as nx

    flow = dataflow_graph(graph)
    outputs = [node for node in graph.nodes if node.op == "output"]
    kept = {node for node in graph.nodes if node.op == "placeholder"}
    for output in outputs:
        kept |= {output, *nx.ancestors(flow, output)}
    return kept


def _steps(nodes: Iterable[fx.Node], program: Program) -> list[str]:
    steps = [
        _step(node, program)
        for node in nodes
        if node.op not in ("get_attr", "output") and not _is_border(node) and any(tensor_specs(VALUE.get(node)))
    ]
    if len(steps) <= _STEPS:
        return steps
    return [steps[0], f"... {len(steps) - _STEPS} steps more", *steps[1 - _STEPS :]]


def _is_border(node: fx.Node) -> bool:
    return begins_region(node) or ends_region(node)


def _step(node: fx.Node, program: Program) -> str:
    value = describe(VALUE.of(node))
    if node.op == "placeholder":
        return f"input {node.target} {value}"
    location = location_of(node)
    name = str(node.target) if node.op == "call_module" else operation_of(node, program)
    return f"{name} -> {value}" + (f"  {location.source}" if location.source else "")
