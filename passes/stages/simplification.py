"""A smaller graph that computes the same in eval mode.

What is removed: operations that return their first operand (identities, eval-time dropout, reshapes to
the same shape), batch norms that directly follow a convolution or linear layer and are its only user,
and what no output depends on. What is left alone: inputs, even unused ones, and everything else.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from passes.modules.batchnorm_folding import Fold
from passes.modules.lazy import own_tensors
from passes.ops.op import Owned
from passes.ops.record import Record
from passes.program.pipeline import Stage
from passes.program.program import CALL, ORDINAL, SPEC, BoundCall, Program
from passes.torch_private import BatchNorm


@dataclass(slots=True)
class Simplification:
    """The pass; the number of changes is the number of nodes removed."""

    fold_batchnorm: bool = True
    name: str = "simplification"
    requires: Stage = Stage.EAGER
    ensures: Stage = Stage.EAGER

    def run(self, program: Program) -> int:
        before = len(program.graph.nodes)
        _remove_identities(program)
        if self.fold_batchnorm:
            _fold_batchnorms(program)
        _remove_dead(program)
        return before - len(program.graph.nodes)


def _remove_identities(program: Program) -> None:
    for node in list(program.graph.nodes):
        call: BoundCall | None = node.meta.get(CALL)
        if call is None or call.op.identity_rule is None:
            continue
        operand = call.record.subject
        if not isinstance(operand, fx.Node):
            continue
        specs = call.record.map(lambda leaf: leaf.meta[SPEC] if isinstance(leaf, fx.Node) else leaf)
        if call.op.identity_rule(node.meta[SPEC], specs):
            _replace(program, node, operand)


def _fold_batchnorms(program: Program) -> None:
    """conv + batch norm -> conv, for one running-statistics batch norm that is the convolution's only user."""
    calls: dict[str, int] = {}
    for node in program.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    for node in list(program.graph.nodes):
        if node.op != "call_module" or not node.args or len(node.args) != 1:
            continue
        norm, producer = program.module(str(node.target)), node.args[0]
        if not isinstance(producer, fx.Node) or producer.op != "call_module" or len(producer.users) != 1:
            continue
        layer = program.module(str(producer.target))
        if not _foldable(layer, norm, producer) or calls[str(producer.target)] > 1 or producer.target in program.folds:
            continue
        fold, folded = _fold(str(producer.target), layer, str(node.target), norm)
        path = program.add(f"{fold.layer}_{fold.norm.rpartition('.')[2]}", folded)
        program.folds[path] = fold
        producer.target = path
        producer.meta[ORDINAL] = node.meta.get(ORDINAL)
        calls[path] = 1
        producer.meta[CALL] = replace(
            producer.meta[CALL], record=_with_bias(producer.meta[CALL].record), module=folded, path=path
        )
        _replace(program, node, producer)


def _foldable(layer: nn.Module, norm: nn.Module, producer: fx.Node) -> bool:
    """Whether `norm` scales each output channel of `layer` by constants."""
    if not isinstance(norm, BatchNorm) or norm.running_mean is None:
        return False
    if type(layer) in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
        return bool(producer.meta[SPEC].ndim == layer.weight.ndim)
    return type(layer) is nn.Linear and bool(producer.meta[SPEC].ndim == 2)


def _fold(path: str, layer: Any, norm_path: str, norm: Any) -> tuple[Fold, nn.Module]:
    """The layer with the batch norm in its weight and bias, and what was folded."""
    fold = Fold(path, norm_path, norm.eps, layer.groups if getattr(layer, "transposed", False) else None)
    tensors = {
        f"{owner}.{name}": tensor
        for owner, module in ((path, layer), (norm_path, norm))
        for name, tensor in own_tensors(module)
    }
    if any(tensor.is_meta for tensor in tensors.values()):  # sizes alone: the values come when they are written
        tensors = {key: tensor.detach().to("meta") for key, tensor in tensors.items()}
    folded = copy.copy(layer)
    folded._parameters = {
        "weight": nn.Parameter(fold.weight(tensors), requires_grad=False),
        "bias": nn.Parameter(fold.bias(tensors), requires_grad=False),
    }
    return fold, folded


def _with_bias(record: Any) -> Record[Any]:
    with_bias: Record[Any] = replace(record, bias=Owned("bias"))
    return with_bias


def _replace(program: Program, node: fx.Node, by: fx.Node) -> None:
    node.replace_all_uses_with(by)
    program.graph.erase_node(node)
    for user in by.users:
        call: BoundCall | None = user.meta.get(CALL)
        if call is not None:
            call.record = call.record.map(lambda leaf: by if leaf is node else leaf)


def _remove_dead(program: Program) -> None:
    for node in reversed(list(program.graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            program.graph.erase_node(node)
