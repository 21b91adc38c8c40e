"""What an operation computes and what a module holds, in numbers."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from passes.ops.op import BoundCall, Owned
from passes.program.liveness import byte_count
from passes.program.notes import CALL, VALUE
from passes.program.program import Program
from passes.sizes.dimension import Size


def multiply_adds(node: fx.Node, program: Program) -> Size:
    """The multiply-adds of one node by its operation's cost rule; 0 where it has none."""
    call: BoundCall | None = CALL.get(node)
    if call is None or call.op.cost_rule is None:
        return 0
    bound = call

    def leaf(item: fx.Node | Owned) -> Any:
        return VALUE.of(item) if isinstance(item, fx.Node) else program.owned_spec(bound, item.name)

    cost: Size = call.op.cost_rule(VALUE.of(node), call.record.map(leaf))
    return cost


def parameter_count(module: nn.Module, program: Program) -> int:
    """The parameters of a module and all below it, each once; lazy ones as inferred, unreached ones not at all."""
    own = module.parameters() if module._modules else module._parameters.values()
    counts = [program.element_count(parameter) for parameter in own if parameter is not None]
    return sum(count for count in counts if isinstance(count, int))


def weight_bytes(program: Program) -> int:
    """The bytes of every parameter and buffer of the model, each once."""
    owners = program.modules.values()
    tensors = {
        id(tensor): tensor
        for owner in owners
        for tensor in (*owner._parameters.values(), *owner._buffers.values())
        if tensor is not None
    }
    return sum(byte_count(program.tensor_spec(tensor)) for tensor in tensors.values())
