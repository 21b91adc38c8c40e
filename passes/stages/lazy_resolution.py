"""Every lazy module gets its weights, drawn in execution order by the module's own initialisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from passes.errors import LazyResolutionError
from passes.isolation.copy_on_write import running_copy
from passes.modules.becoming import become
from passes.modules.initialisation import initialise_by_rule, meta_inputs, run_own_initialisation
from passes.modules.lazy import LazyLayer, is_lazy
from passes.ops.op import map_leaves
from passes.program.notes import VALUE
from passes.program.stages import Shaped
from passes.sizes.dimension import Dim, hint, sampled
from passes.values.spec import TensorSpec


@dataclass(slots=True)
class LazyResolution:
    """The pass: the lazy modules of `target` get their sizes and weights, in execution order.

    `target` has the structure of the captured model. Each module runs its own initialisation on inputs of
    the meta device: as a dry run does, without a forward. Weights come from torch's global random state, so
    under the same seed they are those of a dry run in eval mode. Lazy modules that the sample never
    reaches stay lazy. The number of changes is the number of modules resolved.
    """

    target: nn.Module
    name: str = "lazy resolution"
    takes: type[Shaped] = Shaped

    def run(self, program: Shaped) -> tuple[Shaped, int]:
        if program.dry_run is not None:
            self._from_dry_run(program)
            return program, len(program.lazies)
        return program, sum(1 for _ in draw_layers(program.draws, self.target))

    def _from_dry_run(self, program: Shaped) -> None:
        """The weights of a real dry run on a scratch copy, for a model that cannot be followed without data."""
        assert program.dry_run is not None
        with running_copy(self.target) as scratch:
            program.dry_run(scratch.eval())
        for path in program.lazies:
            become(self.target.get_submodule(path), scratch.get_submodule(path))


@dataclass(slots=True)
class LazyOutline:
    """The pass: the lazy modules of `target`, which stand on the meta device, get their sizes; nothing is drawn."""

    target: nn.Module
    name: str = "lazy outline"
    takes: type[Shaped] = Shaped

    def run(self, program: Shaped) -> tuple[Shaped, int]:
        for layer in program.lazies.values():
            _initialise(layer, self.target)
        return program, len(program.lazies)


def draw_layers(draws: Sequence[LazyLayer | fx.Node], target: nn.Module) -> Iterator[LazyLayer]:
    """Gives the lazy modules of `target` their weights in the order of `draws`, each when the next is asked for.

    What the forward itself draws between them is drawn too, so that the random state moves as in a dry run.
    """
    for draw in draws:
        if isinstance(draw, LazyLayer):
            _initialise(draw, target)
            yield draw
        else:
            _move_random_state(draw)


def _initialise(layer: LazyLayer, target: nn.Module) -> None:
    module = target.get_submodule(layer.path)
    if layer.by_rule and initialise_by_rule(module, layer.inference):
        return
    run_own_initialisation(module, meta_inputs(layer.args), meta_inputs(layer.kwargs), layer.hook)
    if is_lazy(module):
        fault = LazyResolutionError(f"{layer.type} is still lazy after its own initialisation")
        raise fault.placed(layer.location)
    for name, size in layer.inference.attributes.items():
        if getattr(module, name, size) != size:
            setattr(module, name, size)


def _move_random_state(node: fx.Node) -> None:
    """Draws what the node draws in a dry run, on operands that stand in for its own, and throws it away.

    How much is drawn depends on their shapes alone. Ones are valid as probabilities, weights and deviations.
    """

    def stand_in(operand: Any) -> Any:
        found = VALUE.of(operand)
        if not isinstance(found, TensorSpec):
            return hint(found) if isinstance(found, Dim) else found
        return torch.ones(sampled(found.shape), dtype=found.dtype, device=found.device)

    args, kwargs = map_leaves(node.args, stand_in), map_leaves(dict(node.kwargs), stand_in)
    with torch.no_grad():
        if node.op == "call_method":
            getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            assert callable(node.target)
            node.target(*args, **kwargs)
