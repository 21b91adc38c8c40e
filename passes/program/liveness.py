"""How much memory the values of a forward take, from what is alive when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from passes.ops.control_flow import cond
from passes.ops.layout import COPIES
from passes.ops.op import BoundCall, is_inplace
from passes.program.notes import CALL, VALUE
from passes.program.program import Program, tensor_specs
from passes.program.regions import begins_region, ends_region, regions
from passes.sizes.dimension import hint
from passes.values.spec import TensorSpec


@dataclass(frozen=True, slots=True)
class Peak:
    """The most bytes that are alive at once, and the node that is being computed then."""

    bytes: int
    node: fx.Node


def peak_activation(program: Program) -> Peak:
    """The peak over the nodes in execution order, at the sampled sizes. Takes linear time.

    A value lives from the node that computes it to its last use; inputs and outputs count, weights do not. What a loop
    uses from outside lives until the end of a step, as there may be another one. A view lives in its operand's memory,
    and so does the result of an operation in place. Strides are not known, so a `reshape` counts as a view where torch
    may have to copy. What an operation needs within itself is not known either.
    """
    nodes = list(program.graph.nodes)
    memory: dict[fx.Node, tuple[fx.Node, ...]] = {}
    last_use: dict[fx.Node, int] = {}
    for step, node in enumerate(nodes):
        memory[node] = tuple(_memory(node, program, memory))
        for operand in (node, *node.all_input_nodes):
            last_use.update(dict.fromkeys(memory[operand], step))
    place = {node: step for step, node in enumerate(nodes)}
    for region in regions(program.graph).values():
        if region.owner is not None and region.owner.target is cond:
            continue
        begin, end = place[region.begin], place[region.end]
        used = {owner for node in region.nodes for operand in node.all_input_nodes for owner in memory[operand]}
        last_use.update({owner: max(last_use[owner], end) for owner in used if place[owner] < begin})
    freed: dict[int, list[fx.Node]] = {}
    for owner, step in last_use.items():
        freed.setdefault(step, []).append(owner)
    sizes = {node: byte_count(VALUE.of(node)) for node in last_use}
    alive, peak = 0, Peak(0, nodes[0])
    for step, node in enumerate(nodes):
        alive += sizes.get(node, 0)
        if alive > peak.bytes:
            peak = Peak(alive, node)
        alive -= sum(sizes[owner] for owner in freed.get(step, ()))
    return peak


def byte_count(value: Any) -> int:
    """The bytes of all tensors in a propagated value, at the sampled sizes."""
    if isinstance(value, TensorSpec):  # as most are
        return hint(value.numel()) * value.dtype.itemsize
    return sum(map(byte_count, tensor_specs(value)))


def _memory(node: fx.Node, program: Program, memory: dict[fx.Node, tuple[fx.Node, ...]]) -> Iterator[fx.Node]:
    """The nodes whose memory holds the node's value: its own, its operands', or none for a weight."""
    if node.op == "get_attr" or ends_region(node):  # what a region gives is handed on
        return
    call: BoundCall | None = CALL.get(node)
    if node.op == "output" or begins_region(node) or _is_container(node, call):
        for operand in node.all_input_nodes:  # a container's parts
            yield from memory[operand]
    elif call is not None and _shares_operand(node, call, program):
        yield from memory[node.all_input_nodes[0]]
    elif next(tensor_specs(VALUE.of(node)), None) is not None:
        yield node


def _is_container(node: fx.Node, call: BoundCall | None) -> bool:
    if call is not None:
        return call.op.container
    return node.op == "call_function" and not _takes_tensor(node)


def _takes_tensor(node: fx.Node) -> bool:
    return any(isinstance(VALUE.of(operand), TensorSpec) for operand in node.all_input_nodes)


def _shares_operand(node: fx.Node, call: BoundCall, program: Program) -> bool:
    if not node.all_input_nodes or node.target in COPIES:
        return False
    if _is_in_place(node, call):
        return True
    operand = VALUE.of(node.all_input_nodes[0])
    if not call.op.view or not isinstance(operand, TensorSpec):
        return False
    if _is_advanced(getattr(call.record, "index", None)):
        return False
    return all((spec.dtype, spec.device) == (operand.dtype, operand.device) for spec in tensor_specs(VALUE.of(node)))


def _is_advanced(index: Any) -> bool:
    """Whether a subscript picks elements by lists or tensors, which copies them."""
    if isinstance(index, tuple):
        return any(map(_is_advanced, index))
    if isinstance(index, fx.Node):
        return isinstance(VALUE.of(index), TensorSpec)
    return isinstance(index, (list, torch.Tensor))


def _is_in_place(node: fx.Node, call: BoundCall) -> bool:
    if node.op == "call_method":
        return is_inplace(str(node.target))
    return bool(node.kwargs.get("inplace") or getattr(call.module, "inplace", False))
