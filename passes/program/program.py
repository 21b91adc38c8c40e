"""What the passes work on: a captured graph with everything known about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from passes.errors import LazyResolutionError, LoadError, TracerError
from passes.modules.batchnorm_folding import Fold
from passes.modules.lazy import LazyLayer, awaits_first_input, is_uninitialized, own_tensors
from passes.ops.op import BoundCall, tensor_at
from passes.sizes.dimension import Dim, Size
from passes.sizes.guards import GuardLog, Location
from passes.values.nested import leaves
from passes.values.spec import TensorSpec, shape_text

# The keys of `node.meta` that the passes use. "spec" is the node's propagated value, "call" its bound
# arguments, "location" its place in the caller's model, "ordinal" which call of its module it is, from 0, "fault" why
# it has no value. A node that has neither a value nor a fault depends on one with a fault.
SPEC, CALL, LOCATION, ORDINAL, FAULT = "spec", "call", "location", "ordinal", "fault"


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
    """A model on its way through the pipeline.

    `root` is the module that the graph's targets name: a working copy of the caller's until the eager
    rewrite, the resolved module afterwards. `lazies` is in execution order, which is the order in which
    weights are drawn; `draws` holds them with the nodes between them that draw random numbers too. `dry_run`
    runs a copy of the model on data, where nothing less would do. `rungs` are the modules that could not be
    traced; `whole` is the target that stands for the root itself, where one does. `unreached` are the lazy
    modules that the sample never calls. `left_behind` are the buffers and attributes that the forward writes.
    `inferred` has, by id, the tensors of `root` that a lazy layer initialises, with what they will be. `read` has, by
    path, the model's tensors whose values the forward asked for,
    and so may have decided something.

    `held` has the tensors of `root` by path while its forward is traced, which may put others in their places.

    `draws_in_python` says that the forward has drawn from Python's or numpy's random state.
    `constants` are tensors that the forward uses but the model does not hold; `added` are modules that passes
    made (`folds`: of a layer and a batch norm). Neither is ever attached to the root, which is the caller's
    class and stays as the caller wrote it.
    """

    graph: fx.Graph
    root: nn.Module
    log: GuardLog
    lazies: dict[str, LazyLayer] = field(default_factory=dict)
    inferred: dict[int, TensorSpec] = field(default_factory=dict)
    unreached: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    draws: list[LazyLayer | fx.Node] = field(default_factory=list)
    draws_in_python: bool = False
    dry_run: Callable[[nn.Module], object] | None = None
    rungs: list[Rung] = field(default_factory=list)
    whole: str | None = None
    read: dict[str, torch.Tensor] = field(default_factory=dict)
    held: dict[str, torch.Tensor] = field(default_factory=dict)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    added: dict[str, nn.Module] = field(default_factory=dict)
    folds: dict[str, Fold] = field(default_factory=dict)
    _modules: dict[str, nn.Module] | None = None

    def meet_lazy(self, layer: LazyLayer, declared: Mapping[str, torch.device] | None = None) -> None:
        """Notes a lazy layer at a call; one that was called before must come to the same sizes.

        `declared` says where its tensors were declared, where they have been moved since. Raises
        LazyResolutionError where sizes differ, also those of a tied tensor, or depend on a dynamic dimension.
        """
        for name, size in layer.inference.attributes.items():
            if isinstance(size, Dim) and not self.log.explains:
                symbols = ", ".join(size.symbols())
                raise LazyResolutionError(
                    f"{layer.path}.{name} = {size} depends on {symbols}, but a layer's size must be fixed",
                    remedy=f"give a fixed size for {symbols}, or pool to a fixed size before this layer",
                ).placed(layer.location)
        for name, shape in layer.inference.shapes.items():
            if not all(map(_is_size, shape)):
                raise LazyResolutionError(
                    f"{layer.path or 'the layer'}.{name} would have the shape [{', '.join(map(repr, shape))}]",
                    remedy="give the layer whole numbers for its sizes",
                ).placed(layer.location)
        known = self.lazies.get(layer.path)
        if known is None:
            self.lazies[layer.path] = known = layer
            self.draws.append(layer)
            self._note_tensors(layer, declared or {})
        if known.inference.shapes != layer.inference.shapes:
            raise LazyResolutionError(
                f"{_sizes_text(known)} from its call at {known.location.source}, "
                f"but {_sizes_text(layer)} from this one",
                remedy="give each call the same size, or use two layers",
            )

    def _note_tensors(self, layer: LazyLayer, declared: Mapping[str, torch.device]) -> None:
        for name, tensor in own_tensors(self.module(layer.path)):
            shape = layer.inference.shapes.get(name)
            if shape is None:
                continue
            with torch._C.DisableTorchFunction():  # a lazy tensor answers through Python
                spec = TensorSpec(shape, tensor.dtype, declared.get(name, tensor.device))
            tied = self.inferred.setdefault(id(tensor), spec)
            if tied.shape != spec.shape:
                raise LazyResolutionError(
                    f"{layer.path}.{name} would be {shape_text(spec.shape)}, but it is tied to a parameter that "
                    f"another lazy layer has made {shape_text(tied.shape)}",
                    remedy="feed both layers the same size, or do not share the parameter",
                ).placed(layer.location)

    def awaits(self, module: nn.Module) -> bool:
        """Whether a module of `root` waits for its first input: it, and no layer that it shares tensors with."""
        return awaits_first_input(module) or any(
            is_uninitialized(tensor) and id(tensor) not in self.inferred for _, tensor in own_tensors(module)
        )

    def has_met(self, path: str) -> bool:
        """Whether the module of `root` at a path is a lazy layer that was called before."""
        return path in self.lazies and bool(self.inferred)

    def kind(self, path: str) -> str:
        """The name of a module's class; of a lazy layer's, as it was written, as long as nothing is resolved."""
        return self.lazies[path].type if self.has_met(path) else type(self.module(path)).__name__

    def unreached_lazies(self) -> list[str]:
        """The lazy modules that the sample never calls, a shared one by its first path."""
        reached = {id(self.module(path)) for path in self.lazies}
        first = {id(module): path for path, module in reversed(self.modules.items())}
        return [
            path
            for path, module in self.modules.items()
            if first[id(module)] == path and id(module) not in reached and self.awaits(module)
        ]

    def fault(self) -> TracerError | None:
        """The first fault in execution order, with the others that do not follow from it; None where there is none."""
        faults: list[TracerError] = [node.meta[FAULT] for node in self.graph.nodes if FAULT in node.meta]
        if not faults:
            return None
        first, *first.others = faults
        first.program = self
        return first

    def keep_known(self) -> None:
        """Leaves the nodes that have a value: a program that ends where the model's fault is."""
        for node in reversed(self.graph.nodes):
            if SPEC not in node.meta:
                self.graph.erase_node(node)
        if not any(node.op == "output" for node in self.graph.nodes):
            self.graph.output(()).meta.update({SPEC: (), LOCATION: Location()})

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
        return self.modules[path]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules of `root` by path; a shared one by each."""
        if self._modules is None:
            self._modules = dict(self.root.named_modules(remove_duplicate=False))
        return self._modules

    def add(self, path: str, module: nn.Module) -> str:
        """Adds a module that a pass made, under a path that names nothing of the root; returns the path."""
        owner = self.module(path.rpartition(".")[0])
        while path in self.added or hasattr(owner, path.rpartition(".")[2]):
            path += "_"
        self.added[path] = module
        return path

    def rebase(self, root: nn.Module) -> None:
        """Makes the graph's targets name the modules of another root with the same structure."""
        self.root = root
        self.inferred = {}
        self._modules = None

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
        if path in self.held:
            return self.held[path]
        owner, _, name = path.rpartition(".")
        module = self.module(owner)
        value = tensor_at(module, name)
        if value is None:
            value = getattr(module, name)
        assert isinstance(value, torch.Tensor), f"{path} is not a tensor"
        return value

    def tensor_spec(self, tensor: torch.Tensor) -> TensorSpec | None:
        """The spec of a tensor of `root`: of a lazy one, as inferred, or None where it is not yet."""
        found = self.inferred.get(id(tensor))
        return found if found is not None or is_uninitialized(tensor) else TensorSpec.of(tensor)

    def element_count(self, tensor: torch.Tensor) -> Size:
        """How many numbers a tensor of `root` holds: a lazy one as inferred, or none where it is not yet."""
        found = self.inferred.get(id(tensor))
        if found is not None:
            return found.numel()
        return 0 if is_uninitialized(tensor) else tensor.numel()

    def owned_spec(self, call: BoundCall, name: str) -> TensorSpec:
        assert call.module is not None
        tensor = tensor_at(call.module, name)
        assert tensor is not None
        spec = self.tensor_spec(tensor)
        assert spec is not None, f"{call.path}.{name} is not inferred"
        return spec

    def graph_module(self) -> fx.GraphModule:
        """The graph as a torch.fx module that shares the root's leaf modules and tensors."""
        parts: dict[str, Any] = {}
        for node in self.graph.nodes:
            if node.op == "call_module":
                parts[str(node.target)] = self.module(str(node.target))
            elif node.op == "get_attr":
                parts[str(node.target)] = self.tensor(str(node.target))
        return fx.GraphModule(parts, self.graph, type(self.root).__name__)


def _is_size(size: Any) -> bool:
    if type(size) is int:  # as most are
        return size >= 0
    return isinstance(size, (int, Dim)) and size is not True and size >= 0


def location_of(node: fx.Node) -> Location:
    found = node.meta.get(LOCATION)
    return found if isinstance(found, Location) else Location()


def operation_of(node: fx.Node, root: Program | None = None) -> str:
    """The node's operation as its author spelled it: `Conv2d`, `cat`, `x.view`."""
    if node.op == "call_module":
        return root.kind(root.path(node)) if root else str(node.target)
    if node.op == "call_function":
        return getattr(node.target, "__name__", str(node.target))
    return str(node.target)


def _sizes_text(layer: LazyLayer) -> str:
    return ", ".join(f"{layer.path}.{name} = {size}" for name, size in layer.inference.attributes.items())


def tensor_specs(value: Any) -> Iterator[TensorSpec]:
    """Every TensorSpec in a propagated value."""
    if type(value) is TensorSpec:  # as most are
        return iter((value,))
    return (leaf for leaf in leaves(value) if isinstance(leaf, TensorSpec))


__all__ = ["CALL", "LOCATION", "SPEC", "BoundCall", "LazyLayer", "Program"]
