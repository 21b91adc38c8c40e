"""What a lazy module is, and what becomes of it when its own initialisation runs.

A module is lazy when it directly owns a parameter or buffer without a shape, or is a `LazyModuleMixin` that
has not seen its first input. Its own code initialises it: a forward pre-hook, which both torch.nn's lazy
modules and those of third parties install. That code runs here on shape-only inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from passes.errors import LazyResolutionError
from passes.guards import Location
from passes.ops.op import Inference
from passes.spec import TensorSpec, describe


@dataclass(slots=True)
class LazyLayer:
    """A lazy module that the sample reaches: what it is fed and what that makes of its sizes.

    `args` and `kwargs` are its first call's arguments as specs; `location` is that call; `type` is the name of
    the class as it was written.
    """

    path: str
    type: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inference: Inference
    location: Location = field(default_factory=Location)


def is_uninitialized(tensor: torch.Tensor | None) -> bool:
    return isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer))


def owns_uninitialized(module: nn.Module) -> bool:
    return any(map(is_uninitialized, module._parameters.values())) or any(
        map(is_uninitialized, module._buffers.values())
    )


def is_lazy(module: nn.Module) -> bool:
    """Whether the module waits for its first input to know its sizes (see the module's docstring)."""
    return owns_uninitialized(module) or (isinstance(module, LazyModuleMixin) and "_initialize_hook" in module.__dict__)


def is_torch_lazy(module: nn.Module) -> bool:
    """Whether the module is one of torch.nn's own lazy classes, not a subclass of one."""
    return isinstance(module, LazyModuleMixin) and type(module).__module__.startswith("torch.nn.")


def run_own_initialisation(module: nn.Module, args: Any, kwargs: Any) -> None:
    """Runs the module's forward pre-hooks until it is no longer lazy; no forward.

    Weights are drawn from torch's global random state where the module lives on a real device. A caller's subclass
    of a torch.nn lazy class keeps its own class, which torch itself would replace.
    """
    keeps_class = (
        isinstance(module, LazyModuleMixin)
        and not is_torch_lazy(module)
        and "cls_to_become" not in type(module).__dict__
    )
    if keeps_class:
        module.cls_to_become = None  # type: ignore[assignment]
    try:
        for key, hook in list(module._forward_pre_hooks.items()):
            if key in module._forward_pre_hooks_with_kwargs:
                changed = hook(module, args, kwargs)
                args, kwargs = changed if changed is not None else (args, kwargs)
            else:
                changed = hook(module, args)
                args = args if changed is None else changed if isinstance(changed, tuple) else (changed,)
            if not is_lazy(module):
                return
    finally:
        if keeps_class:
            module.__dict__.pop("cls_to_become", None)


def stand_on_meta(module: nn.Module) -> None:
    """Makes the module's own uninitialised tensors ones of the meta device, so that initialising them costs nothing."""
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if is_uninitialized(tensor):
                assert tensor is not None
                kind: Any = type(tensor)
                tensors[name] = kind(requires_grad=tensor.requires_grad, device="meta", dtype=tensor.dtype)


def infer_by_running(
    module: nn.Module,
    path: str,
    specs: tuple[Any, ...],
    kwspecs: dict[str, Any],
    inputs: tuple[Any, Any],
    location: Location,
) -> LazyLayer:
    """Initialises `module`, which must live on the meta device, and says what its sizes became.

    `inputs` are the meta tensors of `specs` and `kwspecs`. Raises LazyResolutionError where it is still lazy then.
    """
    waiting = [name for name, tensor in _own_tensors(module) if is_uninitialized(tensor)]
    before = _sizes(module)
    kind = type(module).__name__
    try:
        run_own_initialisation(module, *inputs)
    except Exception as error:  # the initialisation is the caller's code
        raise LazyResolutionError(
            f"{kind} cannot initialise itself from {describe(specs)}: {type(error).__name__}: {error}",
            remedy="check what the layer is fed",
        ).placed(location) from error
    if owns_uninitialized(module):
        raise LazyResolutionError(
            f"{kind} is still uninitialised after its forward pre-hooks",
            remedy="initialise it in a forward pre-hook, as torch.nn's lazy modules do",
        ).placed(location)
    attributes: dict[str, Any] = {name: size for name, size in _sizes(module).items() if before.get(name) != size}
    tensors = dict(_own_tensors(module))
    return LazyLayer(
        path,
        kind,
        specs,
        kwspecs,
        Inference(attributes, {name: tuple(tensors[name].shape) for name in waiting}),
        location,
    )


def _own_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    own = {**module._parameters, **module._buffers}
    return [(name, tensor) for name, tensor in own.items() if tensor is not None]


def _sizes(module: nn.Module) -> dict[str, int]:
    return {name: value for name, value in module.__dict__.items() if type(value) is int}


def meta_inputs(value: Any) -> Any:
    """A structure of specs as meta tensors at the sampled sizes."""
    if isinstance(value, TensorSpec):
        return value.meta_tensor()
    if isinstance(value, (tuple, list)):
        return type(value)([meta_inputs(item) for item in value])
    if isinstance(value, dict):
        return {key: meta_inputs(item) for key, item in value.items()}
    return value
