"""What an operation computes, a module holds, and a whole forward does, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from passes.ops.control_flow import cond, scan
from passes.ops.op import BoundCall, Owned
from passes.program.liveness import byte_count
from passes.program.notes import CALL, VALUE, location_of
from passes.program.program import Program, operation_of, tensor_specs
from passes.program.regions import regions
from passes.sizes.dimension import Dim, Size, hint
from passes.sizes.formulas.formula import Formula


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


# An element that is made, read again and compared takes about the time of so many multiply-adds.
_MULTIPLY_ADDS_OF_AN_ELEMENT = 16


@dataclass(frozen=True, slots=True)
class Work:
    """How much a forward does, in multiply-adds, to compare sizes by: its own, and for the elements of all its values.

    `fixed` is what depends on no named size, `dynamic` has each formula with how often it counts, and `numbers` a
    number for every name in them.
    """

    fixed: int
    dynamic: Mapping[Formula, int]
    numbers: Mapping[str, int]

    @staticmethod
    def of(program: Program) -> Work:
        """The work of a program's forward. Asks no size anything, so that there is no guard of it."""
        fixed, dynamic = 0, Counter[Formula]()
        for node in program.graph.nodes:
            elements = [(spec.numel(), _MULTIPLY_ADDS_OF_AN_ELEMENT) for spec in tensor_specs(VALUE.of(node))]
            for size, times in (*elements, (multiply_adds(node, program), 1)):
                if isinstance(size, Dim):
                    dynamic[size.formula] += times
                else:
                    fixed += times * size
        return Work(fixed, dynamic, dict(program.log.numbers))

    def at(self, sizes: Mapping[str, int]) -> int:
        """How much it is at some sizes; what divides by a size of 0 there counts nothing."""
        total = self.fixed
        for formula, times in self.dynamic.items():
            with suppress(ArithmeticError):
                total += times * formula.at({**self.numbers, **sizes})
        return total


@dataclass(frozen=True, slots=True)
class Repetitions:
    """How often what lies in regions counts in a total: `factors` by node, where it is not once, and `words` that say
    how the branches and loops are counted.

    Of a branch only the side counts that multiplies and adds more at the sampled sizes. A step counts as often as there
    are slices; where that is for data to say, once.
    """

    factors: Mapping[fx.Node, Size]
    words: list[str]

    def times(self, node: fx.Node, cost: Size) -> Size:
        """What a node's cost counts in a total."""
        return cost * self.factors[node] if node in self.factors else cost


def repetitions(program: Program) -> Repetitions:
    """How often the nodes of a program count."""
    known = regions(program.graph)
    factors: dict[fx.Node, Size] = {}
    words: list[str] = []
    for owner in program.graph.nodes if known else ():  # those within a region come before the one that runs it
        inside = [known[operand] for operand in owner.all_input_nodes if operand in known]
        if not inside:
            continue
        place = location_of(owner).source
        what = f"{operation_of(owner)} ({place})" if place else operation_of(owner)
        costs = [
            sum(hint(multiply_adds(node, program) * factors.get(node, 1)) for node in region.nodes) for region in inside
        ]
        if not any(costs):
            continue
        if owner.target is cond:
            if costs[0] != costs[1]:
                words.append(f"{what} counts as the larger of its branches")
            less = inside[0 if costs[0] < costs[1] else 1]
            factors.update(dict.fromkeys(less.nodes, 0))
        elif owner.target is scan:
            call: Any = CALL.of(owner).record
            length = VALUE.of(call.sliced[0]).shape[call.dim]
            factors.update({node: factors.get(node, 1) * length for node in inside[0].nodes})
        else:
            words.append(f"{what} counts as one step")
    return Repetitions(factors, words)


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


__all__ = ["Repetitions", "Work", "multiply_adds", "parameter_count", "repetitions", "weight_bytes"]
