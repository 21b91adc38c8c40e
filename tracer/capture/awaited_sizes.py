"""What a lazy layer of torch.nn says of itself before its first call, while a forward is traced.

The file is the resolved model, whose layer is eager: that is what `type` and `isinstance` answer, from the start. Its
size is not known so early, and 0 would be read in its place: whoever reads it is refused.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from passes.errors import LazyResolutionError
from passes.modules.lazy import is_lazy
from passes.torch_private import LazyConvMixin, LazyNormBase
from tracer.edge.source_lines import is_user_code
from tracer.memory.recorder import Recorder

# The classes of torch.nn that infer a size, with the attribute that has it then.
SIZES: list[tuple[type, str]] = [
    (nn.LazyLinear, "in_features"),
    (LazyConvMixin, "in_channels"),
    (LazyNormBase, "num_features"),
]


def guard_sizes(tracer: Recorder) -> None:
    """Makes the caller's reading of a size that is not known yet an error; `SIZES` says what is to be put back."""
    for kind, name in SIZES:
        setattr(kind, name, _size(tracer, name))


_type = type  # Python's own, also while a forward is traced


def _size(tracer: Recorder, name: str) -> property:
    def read(module: nn.Module) -> Any:
        if tracer.recording and is_lazy(module) and is_user_code(sys._getframe(1).f_code):
            layer = tracer.path_of_module(module)
            raise LazyResolutionError(
                f"{layer}.{name} is read before its layer is called, so it is not known yet",
                remedy=f"read it after {layer} is called, or take the size from what {layer} is fed",
            )
        if name not in module.__dict__:
            raise AttributeError(name)
        return module.__dict__[name]

    def write(module: nn.Module, size: Any) -> None:
        module.__dict__[name] = size

    return property(read, write)


def eager_class(module: Any) -> type | None:
    """The class that a lazy layer of torch.nn will have, None for anything else."""
    kind = _type(module)
    if not issubclass(kind, nn.modules.lazy.LazyModuleMixin) or not kind.__module__.startswith("torch.nn."):
        return None
    return module.cls_to_become  # type: ignore[no-any-return]
