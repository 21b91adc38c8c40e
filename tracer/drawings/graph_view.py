"""A model's graph as plain data to draw: its nodes, the shapes on the edges, and the modules around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import fx, nn

from passes.modules.lazy import LazyLayer
from passes.program.costs import multiply_adds, parameter_count, repetitions
from passes.program.notes import VALUE, location_of
from passes.program.program import Program, operation_of, tensor_specs
from passes.program.regions import begins_region, ends_region, given_to_region, sources
from passes.program.stages import Shaped
from passes.sizes.dimension import Dim, Size, hint
from passes.values.spec import TensorSpec
from tracer.reports.report import Report, build_report

# Of more shapes on one edge only the first few are written.
MANY = 3

_KINDS = {"placeholder": "input", "output": "output", "call_module": "layer", "get_attr": "tensor"}


@dataclass(slots=True)
class Node:
    """One value of the forward, and how it comes about.

    `kind` is "input", "output", "layer" (a module), "operation" (anything else that is called) or "tensor" (a
    parameter or constant that the forward uses itself). `path` names the input, the layer or the tensor; of an
    operation it is the module whose forward calls it, as `group` is of everything. Shapes have an int or a formula's
    text per axis; where a value holds several tensors, `output_shape` is a list of shapes. `macs_sampled` is `macs`
    at the sampled sizes. `resolved` has what was inferred for a lazy layer, and for lazy layers inside one that
    could not be traced. `shape_from` is the node before this one on the way of its shape from an input.
    """

    id: str
    kind: str
    path: str
    group: str
    type: str
    dtype: str
    input_shapes: list[list[int | str]]
    output_shape: list[Any]
    params: int
    macs: int | str
    macs_sampled: int
    source: str | None
    shape_from: str | None
    resolved: dict[str, int] = field(default_factory=dict)

    def caption(self, outer: str = "") -> list[str]:
        """The lines for the node in a picture: `fc: LazyLinear`, named from `outer`; and what was inferred."""
        name = _within(self.path, outer)
        lines = {"layer": f"{name}: {self.type}" if name else self.type, "input": f"input {self.path}", "tensor": name}
        return [lines.get(self.kind, self.type), *inferred_lines(self.resolved)]


@dataclass(slots=True)
class Edge:
    """A value on its way from one node to another; `shape` is its text, such as `N×64×56×56`."""

    source: str
    target: str
    shape: str


@dataclass(slots=True)
class Group:
    """A module whose forward was traced, and what is inside it; the root's path is empty and its `parent` None.

    A mere container, such as a ModuleList, is no group: what it holds belongs to the module that calls it.

    `resolved` has what was inferred for lazy modules that are no node: a lazy module that was traced through, by
    itself, others by their path from here.
    """

    path: str
    parent: str | None
    type: str
    params: int
    macs: int | str = 0
    resolved: dict[str, int] = field(default_factory=dict)

    def caption(self) -> list[str]:
        """The lines that stand for the module, named as the one around it names it."""
        return [f"{_within(self.path, self.parent or '')}: {self.type}", *inferred_lines(self.resolved)]


@dataclass(slots=True)
class GraphView:
    """A graph to draw. Nodes are in the order of the forward, and a group comes before the groups inside it."""

    report: Report
    nodes: list[Node]
    edges: list[Edge]
    groups: list[Group]

    def chain(self, node: Node) -> list[Node]:
        """The way of the node's shape from an input (or a tensor of the model's) to it, in order."""
        by_id = {member.id: member for member in self.nodes}
        steps = [node]
        while (before := steps[-1].shape_from) is not None:
            steps.append(by_id[before])
        return steps[::-1]

    def to_dict(self) -> dict[str, Any]:
        """The report's facts with nodes, edges and groups in place of its layers and operations."""
        told = ("layers", "operations")
        facts = {name: fact for name, fact in self.report.to_dict().items() if name not in told}
        parts = {name: [asdict(item) for item in getattr(self, name)] for name in ("nodes", "edges", "groups")}
        return {**facts, "lazy_layers": len(self.report.resolved), **parts}


def build_graph_view(program: Shaped, model_name: str) -> GraphView:
    """The graph of a program whose shapes are propagated, in time linear in its size.

    Nodes that compute numbers from shapes are left out: the formulas on the edges say the same.
    """
    view = GraphView(build_report(program, model_name), [], [], [])
    groups = _Groups(program)
    often = repetitions(program)
    way = _ShapeWay()
    for node in program.graph.nodes:
        before = way.step_before(node)
        if not _is_drawn(node):
            continue
        macs = multiply_adds(node, program)
        group = groups.around(_enclosing(node, program), often.times(node, macs))
        view.nodes.append(_node(node, program, group.path, macs, before))
        for operand in filter(_is_drawn, sources(node)):
            view.edges.append(Edge(operand.name, node.name, value_text(VALUE.of(operand))))
    view.groups = groups.built()
    _place_lazies(view, program)
    return view


def _is_drawn(node: fx.Node) -> bool:
    if begins_region(node) or ends_region(node):
        return False
    return node.op in ("placeholder", "output") or any(tensor_specs(VALUE.of(node)))


def _node(node: fx.Node, program: Program, group: str, macs: Size, before: fx.Node | None) -> Node:
    kind = _KINDS.get(node.op, "operation")
    path = {"layer": program.path(node), "operation": group, "output": ""}.get(kind, str(node.target))
    value = VALUE.of(node)
    lazy = program.lazies.get(path) if kind == "layer" else None
    params = 0
    if kind == "layer":
        params = parameter_count(program.module(path), program)
    elif kind == "tensor" and isinstance(program.tensor(path), nn.Parameter):
        params = int(value.numel())
    return Node(
        id=node.name,
        kind=kind,
        path=path,
        group=group,
        type=_type(node, program, lazy),
        dtype=", ".join(dict.fromkeys(str(spec.dtype).removeprefix("torch.") for spec in tensor_specs(value))),
        input_shapes=[_axes(spec) for operand in node.all_input_nodes for spec in tensor_specs(VALUE.of(operand))],
        output_shape=_output_shape(value),
        params=params,
        macs=_plain(macs),
        macs_sampled=hint(macs),
        source=location_of(node).source,
        shape_from=before.name if before is not None else None,
    )


def _type(node: fx.Node, program: Program, lazy: LazyLayer | None) -> str:
    if lazy is not None:
        return lazy.type
    if node.op == "call_module":
        return type(program.module(program.path(node))).__name__
    if node.op.startswith("call"):
        return given_to_region(node) or operation_of(node, program)
    return _KINDS[node.op]


def _enclosing(node: fx.Node, program: Program) -> str:
    """The module in whose forward the node is."""
    if node.op == "call_module":
        return program.path(node).rpartition(".")[0]
    return location_of(node).path


class _Groups:
    """The modules around the nodes, made as they are met."""

    def __init__(self, program: Program):
        self.program = program
        self.macs: dict[str, Size] = {}
        self.groups: dict[str, Group] = {}

    def around(self, path: str, macs: Size) -> Group:
        """The innermost group around a path, with those around it; each of them does these multiply-adds too."""
        group = None
        for enclosing in filter(self._has_forward, _from_root(path)):
            if enclosing not in self.groups:
                module = self.program.module(enclosing)
                params = parameter_count(module, self.program)
                parent = group.path if group is not None else None
                self.groups[enclosing] = Group(enclosing, parent, type(module).__name__, params)
            self.macs[enclosing] = self.macs.get(enclosing, 0) + macs
            group = self.groups[enclosing]
        assert group is not None, "the root has a forward"
        return group

    def _has_forward(self, path: str) -> bool:
        return not path or type(self.program.module(path)).forward is not nn.Module.forward

    def built(self) -> list[Group]:
        for path, group in self.groups.items():
            group.macs = _plain(self.macs[path])
        return list(self.groups.values())


class _ShapeWay:
    """From where each node has its shape: the operand of that very shape, or the one nearest to an input."""

    def __init__(self) -> None:
        self.steps: dict[fx.Node, float] = {}
        self.before: dict[fx.Node, fx.Node | None] = {}

    def step_before(self, node: fx.Node) -> fx.Node | None:
        """The tensor before this one; a number counts as the tensor whose shape it was computed from."""
        operands = [self._tensor(operand) for operand in node.all_input_nodes]
        before = min(filter(None, operands), key=lambda operand: self._rank(operand, node), default=None)
        if before is None:
            self.steps[node] = 0 if node.op == "placeholder" else math.inf
        else:
            self.steps[node] = self.steps[before] + 1
        self.before[node] = before
        return before

    def _tensor(self, operand: fx.Node) -> fx.Node | None:
        return operand if _is_drawn(operand) else self.before[operand]

    def _rank(self, operand: fx.Node, node: fx.Node) -> tuple[bool, bool, float]:
        """What comes from an input first, then what has the node's own shape, then what is nearest to an input."""
        steps = self.steps[operand]
        return steps == math.inf, _output_shape(VALUE.of(operand)) != _output_shape(VALUE.of(node)), steps


def _place_lazies(view: GraphView, program: Program) -> None:
    """Writes what was inferred on the lazy layers' nodes, or on the innermost node or group around them."""
    nodes: dict[str, list[Node]] = {}
    for node in view.nodes:
        if node.kind == "layer":
            nodes.setdefault(node.path, []).append(node)
    groups = {group.path: group for group in view.groups}
    for path, lazy in program.lazies.items():
        place = next(outer for outer in reversed(_from_root(path)) if outer in nodes or outer in groups)
        inside = _within(path, place)
        sizes = {".".join(filter(None, (inside, name))): int(n) for name, n in lazy.inference.attributes.items()}
        holders: Sequence[Node | Group] = nodes.get(place) or [groups[place]]
        for holder in holders:
            holder.resolved.update(sizes)


def _within(path: str, outer: str) -> str:
    """The path as the outer module names it."""
    return path.removeprefix(outer).removeprefix(".")


def _from_root(path: str) -> list[str]:
    """The path's module and all around it, the root first: `"", "a", "a.b"`."""
    parts = path.split(".") if path else []
    return [".".join(parts[:count]) for count in range(len(parts) + 1)]


def inferred_lines(resolved: dict[str, int]) -> list[str]:
    return [f"{name} = {size}" for name, size in resolved.items()]


def value_text(value: Any) -> str:
    """A value in a few characters: `N×64×(H - 1)`, `scalar`, the first of several tensors; numbers as they are."""
    shapes = [shape_text(_axes(spec)) for spec in tensor_specs(value)]
    if not shapes:
        return str(value)
    shown = shapes if len(shapes) <= MANY else [*shapes[:MANY], f"… {len(shapes)} in all"]
    return ", ".join(shown)


def shape_text(shape: list[int | str]) -> str:
    """`N×64×56×56`; a formula that is a sum or has a remainder in parentheses."""
    return "×".join(f"({size})" if " " in str(size) else str(size) for size in shape) or "scalar"


def _output_shape(value: Any) -> list[Any]:
    if isinstance(value, TensorSpec):
        return _axes(value)
    return [_axes(spec) for spec in tensor_specs(value)]


def _axes(spec: TensorSpec) -> list[int | str]:
    return [_plain(size) for size in spec.shape]


def _plain(size: Size) -> int | str:
    return str(size) if isinstance(size, Dim) else size
