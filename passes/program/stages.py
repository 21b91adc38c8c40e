"""The stages of a program, each a type that a pass takes or gives.

    Captured -> Shaped -> Eager -> Lowered

| stage    | the graph                                        | its lazy layers          |
|----------|--------------------------------------------------|--------------------------|
| Captured | grows; a node may have no value yet, or a fault  | are met as it grows      |
| Shaped   | whole, a value on every node                     | wait for their weights   |
| Eager    | on the modules of the resolved model             | are eager                |
| Lowered  | an ONNX graph, made of an eager one              | are initializers         |

What a program must be at each is in `passes/program/legality.py`. A stage is made of the one before, which is used
up: they share the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from passes.errors import LazyResolutionError, TracerError
from passes.modules.batchnorm_folding import Fold
from passes.modules.lazy import LazyLayer, awaits_first_input, is_uninitialized, own_tensors
from passes.program.notes import PLACE, VALUE
from passes.program.program import Program
from passes.sizes.dimension import Dim, Size
from passes.sizes.guards import Location
from passes.torch_private import without_overrides
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.lowered_model import LoweredModel


@dataclass(slots=True)
class Unresolved(Program):
    """A program whose lazy layers wait for their weights; `root` is a working copy of the caller's model.

    `inferred` has, by id, the tensors of `root` that a lazy layer initialises, with what they will be. `draws` holds
    the lazy layers with the nodes between them that draw random numbers too. `dry_run` runs a copy of the model on
    data, where nothing less would do. `draws_in_python` says that the forward has drawn from Python's or numpy's
    random state.
    """

    inferred: dict[int, TensorSpec] = field(default_factory=dict)
    draws: list[LazyLayer | fx.Node] = field(default_factory=list)
    draws_in_python: bool = False
    dry_run: Callable[[nn.Module], object] | None = None

    def draw(self, node: fx.Node) -> None:
        """Notes a node that draws random numbers, where it was not noted before."""
        if node not in self.draws:
            self.draws.append(node)

    def meet_lazy(self, layer: LazyLayer, declared: Mapping[str, torch.device] | None = None) -> None:
        """Notes a lazy layer at a call; one that was called before must come to the same sizes.

        `declared` says where its tensors were declared, where they have been moved since. Raises
        LazyResolutionError where sizes differ, also those of a tied tensor, or depend on a dynamic dimension.
        """
        for name, size in layer.inference.attributes.items():
            if isinstance(size, Dim) and not self.log.explains:
                symbols = ", ".join(size.symbols())
                unknown = self.log.unknown_of(size.formula)
                said = "".join(f"; {found}" for found in unknown)
                fixed = "bring it to a fixed size" if unknown else f"give a fixed size for {symbols}"
                raise LazyResolutionError(
                    f"{layer.path}.{name} = {size} depends on {symbols}, but a layer's size must be fixed{said}",
                    remedy=f"{fixed}, or pool to a fixed size before this layer",
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
            with without_overrides():  # a lazy tensor answers through Python
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
        """The name of a module's class; of a lazy layer's, as it was written."""
        return self.lazies[path].type if self.has_met(path) else type(self.module(path)).__name__

    def tensor_spec(self, tensor: torch.Tensor) -> TensorSpec | None:
        """The spec of a tensor of `root`: of a lazy one, as inferred, or None where it is not yet."""
        found = self.inferred.get(id(tensor))
        return found if found is not None or is_uninitialized(tensor) else TensorSpec.of(tensor)

    def element_count(self, tensor: torch.Tensor) -> Size:
        """How many numbers a tensor of `root` holds: a lazy one as inferred, or none where it is not yet."""
        found = self.inferred.get(id(tensor))
        return found.numel() if found is not None else Program.element_count(self, tensor)


@dataclass(slots=True)
class Captured(Unresolved):
    """A program whose graph grows as the forward is traced.

    `held` has the tensors of `root` by path while its forward may put others in their places.
    """

    held: dict[str, torch.Tensor] = field(default_factory=dict)

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
        """The first fault, with this program, so that a report of what is known can be made of it."""
        first = Program.fault(self)
        if first is not None:
            first.program = self
        return first

    def tensor(self, path: str) -> torch.Tensor:
        """The parameter, buffer or plain tensor attribute that a `get_attr` node names, as it was at first."""
        return self.held[path] if path in self.held and path not in self.constants else Program.tensor(self, path)

    def known_part(self) -> Shaped:
        """The nodes that have a value: a program that ends where the model's fault is."""
        for node in reversed(self.graph.nodes):
            if not VALUE.on(node):
                self.graph.erase_node(node)
        if not any(node.op == "output" for node in self.graph.nodes):
            end = self.graph.output(())
            VALUE.put(end, ())
            PLACE.put(end, Location())
        return Shaped(**_carried(self, Unresolved) | {"kept": []})


@dataclass(slots=True)
class Shaped(Unresolved):
    """A program with a value on every node. `unreached` are the lazy modules that the sample never calls."""

    unreached: list[str] = field(default_factory=list)

    @staticmethod
    def of_captured(captured: Captured) -> Shaped:
        """The captured program, once every node has its value."""
        return Shaped(**_carried(captured, Unresolved), unreached=captured.unreached_lazies())


@dataclass(slots=True)
class Eager(Program):
    """A program on the modules of the resolved model, `root`, whose reached lazy layers are eager.

    `added` are modules that passes made (`folds`: of a layer and a batch norm).
    """

    unreached: list[str] = field(default_factory=list)
    added: dict[str, nn.Module] = field(default_factory=dict)
    folds: dict[str, Fold] = field(default_factory=dict)

    @staticmethod
    def of_shaped(shaped: Shaped, resolved: nn.Module) -> Eager:
        """The program with its targets naming the modules of `resolved`, which has the structure of its root."""
        carried = _carried(shaped, Program) | {"root": resolved, "_modules": None}
        return Eager(**carried, unreached=shaped.unreached)

    def module(self, path: str) -> nn.Module:
        """The module that a `call_module` node names."""
        return self.added[path] if path in self.added else Program.module(self, path)

    def add(self, path: str, module: nn.Module) -> str:
        """Adds a module that a pass made, under a path that names nothing of the root; returns the path."""
        owner = self.module(path.rpartition(".")[0])
        while path in self.added or hasattr(owner, path.rpartition(".")[2]):
            path += "_"
        self.added[path] = module
        return path


@dataclass(slots=True)
class Lowered(Eager):
    """An eager program with the ONNX graph that was made of it, `model`.

    `specs` has what propagation knows of the graph's values, by their names there.
    """

    model: LoweredModel = field(kw_only=True)
    specs: Mapping[str, TensorSpec] = field(default_factory=dict)

    @staticmethod
    def of_eager(eager: Eager, model: LoweredModel, specs: Mapping[str, TensorSpec] | None = None) -> Lowered:
        """The program with its ONNX graph."""
        return Lowered(**_carried(eager, Eager), model=model, specs=specs or {})


def _carried(program: Program, kind: type[Program]) -> dict[str, Any]:
    """What a program has of the fields of a kind that it is of."""
    return {known.name: getattr(program, known.name) for known in fields(kind)}


def _is_size(size: Any) -> bool:
    if type(size) is int:  # as most are
        return size >= 0
    return isinstance(size, (int, Dim)) and size is not True and size >= 0


def _sizes_text(layer: LazyLayer) -> str:
    return ", ".join(f"{layer.path}.{name} = {size}" for name, size in layer.inference.attributes.items())


__all__ = ["Captured", "Eager", "Lowered", "Shaped", "Unresolved"]
