"""What the passes work on: a captured graph with everything known about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from passes.dimension import Dim
from passes.errors import LazyResolutionError
from passes.guards import GuardLog, Location
from passes.lazy_modules import LazyLayer, is_lazy, is_uninitialized
from passes.ops.op import BoundCall
from passes.spec import TensorSpec

# The keys of `node.meta` that the passes use. "spec" is the node's propagated value, "call" its bound
# arguments, "location" its place in the caller's model.
SPEC, CALL, LOCATION = "spec", "call", "location"


@dataclass(frozen=True, slots=True)
class Rung:
    """How a module that could not be traced was followed instead, and why.

    `level` is "meta" (its own forward on meta tensors) or "real" (on data, on a copy).
    """

    path: str
    level: str
    reason: str
    location: Location

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "level": self.level, "reason": self.reason, "source": self.location.source}


@dataclass(slots=True)
class Program:
    """A model on its way through the pipeline.

    `root` is the module that the graph's targets name: a working copy of the caller's until the eager
    rewrite, the resolved module afterwards. `lazies` is in execution order, which is the order in which
    weights are drawn; `draws` holds them with the nodes between them that draw random numbers too. `dry_run`
    runs a copy of the model on data, where nothing less would do. `rungs` are the modules that could not be
    traced; `whole` is the target that stands for the root itself, where one does. `unreached` are the lazy
    modules that the sample never calls.

    `constants` are tensors that the forward uses but the model does not hold; `added` are modules that passes
    made (`folds`: of a layer and a batch norm). Neither is ever attached to the root, which is the caller's
    class and stays as the caller wrote it.
    """

    graph: fx.Graph
    root: nn.Module
    log: GuardLog
    lazies: dict[str, LazyLayer] = field(default_factory=dict)
    unreached: list[str] = field(default_factory=list)
    draws: list[LazyLayer | fx.Node] = field(default_factory=list)
    dry_run: Callable[[nn.Module], object] | None = None
    rungs: list[Rung] = field(default_factory=list)
    whole: str | None = None
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    added: dict[str, nn.Module] = field(default_factory=dict)
    folds: dict[str, tuple[str, str]] = field(default_factory=dict)
    _modules: dict[str, nn.Module] | None = None

    def meet_lazy(self, layer: LazyLayer) -> None:
        """Notes a lazy layer at a call; one that was called before must come to the same sizes.

        Raises LazyResolutionError where they differ, or depend on a dynamic dimension.
        """
        for name, size in layer.inference.attributes.items():
            if isinstance(size, Dim):
                symbols = ", ".join(size.symbols())
                raise LazyResolutionError(
                    f"{layer.path}.{name} = {size} depends on {symbols}, but a layer's size must be fixed",
                    remedy=f"give a fixed size for {symbols}, or pool to a fixed size before this layer",
                ).placed(layer.location)
        known = self.lazies.get(layer.path)
        if known is None:
            self.lazies[layer.path] = known = layer
            self.draws.append(layer)
        if known.inference.shapes != layer.inference.shapes:
            raise LazyResolutionError(
                f"{_sizes_text(known)} from its call at {known.location.source}, "
                f"but {_sizes_text(layer)} from this one",
                remedy="give each call the same size, or use two layers",
            )

    def unreached_lazies(self, model: nn.Module) -> list[str]:
        """The lazy modules of the caller's model that the sample never calls, a shared one by its first path."""
        reached = {id(model.get_submodule(path)) for path in self.lazies}
        return [path for path, module in model.named_modules() if is_lazy(module) and id(module) not in reached]

    def inputs(self) -> list[fx.Node]:
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    def output(self) -> fx.Node:
        node: fx.Node = next(node for node in reversed(self.graph.nodes) if node.op == "output")
        return node

    def path(self, node: fx.Node) -> str:
        """The module path that a `call_module` node names."""
        return "" if node.target == self.whole else str(node.target)

    def module(self, path: str) -> nn.Module:
        """The module that a `call_module` node names."""
        if path == self.whole:
            return self.root
        if path in self.added:
            return self.added[path]
        if self._modules is None:
            self._modules = dict(self.root.named_modules(remove_duplicate=False))
        return self._modules[path]

    def rebase(self, root: nn.Module) -> None:
        """Makes the graph's targets name the modules of another root with the same structure."""
        self.root = root
        self._modules = None

    def tensor(self, path: str) -> torch.Tensor:
        """The parameter, buffer or plain tensor attribute that a `get_attr` node names."""
        if path in self.constants:
            return self.constants[path]
        owner, _, name = path.rpartition(".")
        value = getattr(self.module(owner), name)
        assert isinstance(value, torch.Tensor), f"{path} is not a tensor"
        return value

    def tensor_spec(self, path: str, module: nn.Module, name: str) -> TensorSpec:
        """The spec of a parameter or buffer of the module at `path`; of a lazy one, as inferred."""
        tensor = module._parameters.get(name, module._buffers.get(name))
        assert tensor is not None
        if not is_uninitialized(tensor):
            return TensorSpec.of(tensor)
        return TensorSpec(self.lazies[path].inference.shapes[name], tensor.dtype, tensor.device)

    def owned_spec(self, call: BoundCall, name: str) -> TensorSpec:
        assert call.module is not None
        return self.tensor_spec(call.path, call.module, name)

    def graph_module(self) -> fx.GraphModule:
        """The graph as a torch.fx module that shares the root's leaf modules and tensors."""
        parts: dict[str, Any] = {}
        for node in self.graph.nodes:
            if node.op == "call_module":
                parts[str(node.target)] = self.module(str(node.target))
            elif node.op == "get_attr":
                parts[str(node.target)] = self.tensor(str(node.target))
        return fx.GraphModule(parts, self.graph, type(self.root).__name__)


def location_of(node: fx.Node) -> Location:
    found = node.meta.get(LOCATION)
    return found if isinstance(found, Location) else Location()


def operation_of(node: fx.Node, root: Program | None = None) -> str:
    """The node's operation as its author spelled it: `Conv2d`, `cat`, `x.view`."""
    if node.op == "call_module":
        return type(root.module(str(node.target))).__name__ if root else str(node.target)
    if node.op == "call_function":
        return getattr(node.target, "__name__", str(node.target))
    return str(node.target)


def _sizes_text(layer: LazyLayer) -> str:
    return ", ".join(f"{layer.path}.{name} = {size}" for name, size in layer.inference.attributes.items())


def tensor_specs(value: Any) -> Iterator[TensorSpec]:
    """Every TensorSpec in a propagated value."""
    if isinstance(value, TensorSpec):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensor_specs(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensor_specs(item)


__all__ = ["CALL", "LOCATION", "SPEC", "BoundCall", "LazyLayer", "Program"]
