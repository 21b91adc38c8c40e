"""A captured graph with what is known of the model that it belongs to, at every stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from passes.errors import LoadError, TracerError
from passes.modules.lazy import LazyLayer, is_uninitialized
from passes.ops.op import BoundCall, tensor_at
from passes.program.executable import graph_module
from passes.program.notes import FAULT, VALUE
from passes.sizes.dimension import Size
from passes.sizes.guards import GuardLog, Location
from passes.values.nested import leaves
from passes.values.spec import TensorSpec


@dataclass(frozen=True, slots=True)
class Rung:
    """How a module that could not be traced was followed instead, and why.

    `level` is "meta" (its own forward on meta tensors) or "real" (on data, on a copy); `remedy` is what would make
    it traceable.
    """

    path: str
    level: str
    reason: str
    location: Location
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "level": self.level, "reason": self.reason, "source": self.location.source}


@dataclass(slots=True)
class Program:
    """A model on its way through the passes: what every stage has. The stages are in `passes/program/stages.py`.

    `root` is the module that the graph's targets name; it is never changed: what is not part of it is beside it.
    `lazies` are the layers that are or were lazy, in execution order, which is the order in which weights are drawn.
    `rungs` are the modules that could not be traced; `whole` is the target that stands for the root itself, where one
    does. `left_behind` are the buffers and attributes that the forward writes. `read` has, by
    path, the model's tensors whose values the forward asked for, and so may have decided something. `constants` are
    tensors that the forward uses but the model does not hold. `kept` are the paths of the tensors that the forward
    writes, where those are the last inputs of the program; its output then is the result and, by path, what is left.
    """

    graph: fx.Graph
    root: nn.Module
    log: GuardLog
    lazies: dict[str, LazyLayer] = field(default_factory=dict)
    left_behind: list[str] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)
    whole: str | None = None
    read: dict[str, torch.Tensor] = field(default_factory=dict)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    _modules: dict[str, nn.Module] | None = None

    def kind(self, path: str) -> str:
        """The name of a module's class."""
        return type(self.module(path)).__name__

    def fault(self) -> TracerError | None:
        """The first fault in execution order, with the others that do not follow from it; None where there is none."""
        faults = [FAULT.of(node) for node in self.graph.nodes if FAULT.on(node)]
        if not faults:
            return None
        first, *first.others = faults
        return first

    def inputs(self) -> list[fx.Node]:
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    def output(self) -> fx.Node:
        node: fx.Node = next(node for node in reversed(self.graph.nodes) if node.op == "output")
        return node

    def inputs_of_sample(self) -> list[fx.Node]:
        """The inputs that the caller's sample has."""
        nodes = self.inputs()
        return nodes[: len(nodes) - len(self.kept)]

    def result(self) -> Any:
        """What is known of what the forward returns."""
        value = VALUE.of(self.output())
        return value[0] if self.kept else value

    def state_values(self) -> dict[str, tuple[Any, Any]]:
        """What is known of each tensor that is kept: before the forward, and after it."""
        nodes = self.inputs()
        after = VALUE.of(self.output())[1] if self.kept else {}
        before = zip(self.kept, nodes[len(nodes) - len(self.kept) :], strict=True)
        return {path: (VALUE.of(node), after[path]) for path, node in before}

    def path(self, node: fx.Node) -> str:
        """The module path that a `call_module` node names."""
        return "" if node.target == self.whole else str(node.target)

    def module(self, path: str) -> nn.Module:
        """The module that a `call_module` node names."""
        return self.root if path == self.whole else self.modules[path]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules of `root` by path; a shared one by each."""
        if self._modules is None:
            self._modules = dict(self.root.named_modules(remove_duplicate=False))
        return self._modules

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors of the root's state_dict, themselves. Raises LoadError where the model's own code fails."""
        try:
            entries: dict[str, Any] = self.root.state_dict(keep_vars=True)
        except (Exception, SystemExit) as error:  # hooks and overrides may raise anything
            raise LoadError(
                f"the model's state_dict() raises {type(error).__name__}: {error}",
                remedy="make model.state_dict() work",
            ) from error
        return {key: value for key, value in entries.items() if isinstance(value, torch.Tensor)}

    def tensor(self, path: str) -> torch.Tensor:
        """The parameter, buffer or plain tensor attribute that a `get_attr` node names."""
        if path in self.constants:
            return self.constants[path]
        owner, _, name = path.rpartition(".")
        module = self.module(owner)
        value = tensor_at(module, name)
        if value is None:
            value = getattr(module, name)
        assert isinstance(value, torch.Tensor), f"{path} is not a tensor"
        return value

    def tensor_spec(self, tensor: torch.Tensor) -> TensorSpec | None:
        """The spec of a tensor of `root`, or None where it has none yet."""
        return None if is_uninitialized(tensor) else TensorSpec.of(tensor)

    def element_count(self, tensor: torch.Tensor) -> Size:
        """How many numbers a tensor of `root` holds; none where it has no shape yet."""
        return 0 if is_uninitialized(tensor) else tensor.numel()

    def owned_spec(self, call: BoundCall, name: str) -> TensorSpec:
        assert call.module is not None
        tensor = tensor_at(call.module, name)
        assert tensor is not None
        spec = self.tensor_spec(tensor)
        assert spec is not None, f"{call.path}.{name} is not inferred"
        return spec

    def graph_module(self) -> fx.GraphModule:
        """The graph as a torch.fx module that shares the root's leaf modules and tensors; a region is a graph in it."""
        parts: dict[str, Any] = {}
        for node in self.graph.nodes:
            if node.op == "call_module":
                parts[str(node.target)] = self.module(str(node.target))
            elif node.op == "get_attr":
                parts[str(node.target)] = self.tensor(str(node.target))
        return graph_module(self.graph, parts, type(self.root).__name__)


def operation_of(node: fx.Node, root: Program | None = None) -> str:
    """The node's operation as its author spelled it: `Conv2d`, `cat`, `x.view`."""
    if node.op == "call_module":
        return root.kind(root.path(node)) if root else str(node.target)
    if node.op == "call_function":
        return getattr(node.target, "__name__", str(node.target))
    return str(node.target)


def tensor_specs(value: Any) -> Iterator[TensorSpec]:
    """Every TensorSpec in a propagated value."""
    if type(value) is TensorSpec:  # as most are
        return iter((value,))
    return (leaf for leaf in leaves(value) if isinstance(leaf, TensorSpec))


__all__ = ["Program", "Rung", "operation_of", "tensor_specs"]
