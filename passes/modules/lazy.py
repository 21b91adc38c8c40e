"""What a lazy module is.

A module is lazy when it directly owns a parameter or buffer without a shape, or is a `LazyModuleMixin` that
has not seen its first input. Its own code initialises it: a forward pre-hook, which both torch.nn's lazy
modules and those of third parties install.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from passes.ops.op import Inference
from passes.sizes.guards import Location
from passes.torch_private import (
    ConvNd,
)


@dataclass(slots=True)
class LazyLayer:
    """A lazy module that the sample reaches: what it is fed and what that makes of its sizes.

    `args` and `kwargs` are its first call's arguments as specs, as they reach `hook`, the key of the forward pre-hook
    that initialises it; without one, as the caller gives them. `location` is that call; `type` is the name of the
    class as it was written. `by_rule` says that an op's rule gives the sizes, which stands only for a module that
    initialises itself as the class in torch.nn does.
    """

    path: str
    type: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inference: Inference
    location: Location = field(default_factory=Location)
    hook: int | None = None
    by_rule: bool = False


_type = type  # Python's own, also while a forward is traced
UNINITIALIZED = frozenset({nn.UninitializedParameter, nn.UninitializedBuffer})
_PLAIN = frozenset({torch.Tensor, nn.Parameter, type(None)})  # the types of most tensors that have a shape


def is_uninitialized(tensor: torch.Tensor | None) -> bool:
    kind = _type(tensor)
    return kind in UNINITIALIZED or (
        kind not in _PLAIN and issubclass(kind, (nn.UninitializedParameter, nn.UninitializedBuffer))
    )


def owns_uninitialized(module: nn.Module) -> bool:
    for tensors in (module._parameters, module._buffers):
        for tensor in tensors.values():
            if is_uninitialized(tensor):
                return True
    return False


def awaits_first_input(module: nn.Module) -> bool:
    """Whether the module is a `LazyModuleMixin` that has not seen its first input."""
    return "_initialize_hook" in module.__dict__ and isinstance(module, LazyModuleMixin)


def is_lazy(module: nn.Module) -> bool:
    """Whether the module waits for its first input to know its sizes (see the module's docstring)."""
    return owns_uninitialized(module) or awaits_first_input(module)


def is_torch_lazy(module: nn.Module) -> bool:
    """Whether the module is one of torch.nn's own lazy classes, not a subclass of one."""
    return isinstance(module, LazyModuleMixin) and type(module).__module__.startswith("torch.nn.")


def rank_to_be(module: nn.Module, name: str) -> int | None:
    """How many axes a tensor of a lazy module will have; None where its class does not say."""
    if not is_torch_lazy(module):
        return None
    if name != "weight":
        return 1
    if isinstance(module, ConvNd):
        return len(module.kernel_size) + 2
    return 2 if isinstance(module, nn.Linear) else 1


def initialising_hook(module: nn.Module) -> int | None:
    """The key of the forward pre-hook that initialises a lazy module: torch's, its only one, or a method of its own.

    None where it is not plain to see which one that is.
    """
    if awaits_first_input(module):
        handle: Any = module.__dict__["_initialize_hook"]
        return int(handle.id)
    hooks = module._forward_pre_hooks
    own = list(hooks) if len(hooks) == 1 else [key for key, hook in hooks.items() if _is_method_of(module, hook)]
    return own[0] if own else None


def _is_method_of(module: nn.Module, hook: Any) -> bool:
    return getattr(hook, "__self__", None) is module


def own_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The parameters and buffers that the module owns directly, by name."""
    own = {**module._parameters, **module._buffers}
    return [(name, tensor) for name, tensor in own.items() if tensor is not None]


__all__ = [
    "UNINITIALIZED",
    "LazyLayer",
    "awaits_first_input",
    "initialising_hook",
    "is_lazy",
    "is_torch_lazy",
    "is_uninitialized",
    "own_tensors",
    "owns_uninitialized",
    "rank_to_be",
]
