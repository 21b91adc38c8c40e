"""Every lazy module gets its weights, drawn in execution order by the module's own initialisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from passes.errors import LazyResolutionError
from passes.lazy_modules import is_lazy, meta_inputs, run_own_initialisation
from passes.pipeline import Stage
from passes.program import Program


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
    requires: Stage = Stage.SHAPED
    ensures: Stage = Stage.SHAPED

    def run(self, program: Program) -> int:
        for layer in program.lazies.values():
            module = self.target.get_submodule(layer.path)
            run_own_initialisation(module, meta_inputs(layer.args), meta_inputs(layer.kwargs))
            if is_lazy(module):
                raise LazyResolutionError(f"{layer.type} is still lazy after its own initialisation").placed(
                    layer.location
                )
            for name, size in layer.inference.attributes.items():
                if getattr(module, name, size) != size:
                    setattr(module, name, size)
        return len(program.lazies)
