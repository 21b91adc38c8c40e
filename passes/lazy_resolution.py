"""Every lazy module gets its weights, drawn in execution order by the module's own initialisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from passes.errors import LazyResolutionError
from passes.pipeline import Stage
from passes.program import Program, is_lazy
from passes.spec import TensorSpec


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
            module: Any = self.target.get_submodule(layer.path)
            module._infer_parameters(module, _meta(layer.args), _meta(layer.kwargs))
            if is_lazy(module):
                raise LazyResolutionError(
                    f"{type(layer.module).__name__} is still uninitialised after its own initialisation"
                ).placed(layer.location)
        return len(program.lazies)


def _meta(value: Any) -> Any:
    if isinstance(value, TensorSpec):
        return value.meta_tensor()
    if isinstance(value, (tuple, list)):
        return type(value)([_meta(item) for item in value])
    if isinstance(value, dict):
        return {key: _meta(item) for key, item in value.items()}
    return value
