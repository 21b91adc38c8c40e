"""What a lazy module is, and what becomes of it when its own initialisation runs.

A module is lazy when it directly owns a parameter or buffer without a shape, or is a `LazyModuleMixin` that
has not seen its first input. Its own code initialises it: a forward pre-hook, which both torch.nn's lazy
modules and those of third parties install. That code runs here on shape-only inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from passes.dimension import Size
from passes.errors import LazyResolutionError
from passes.guards import Location
from passes.nested import map_structure
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
    return issubclass(type(tensor), (nn.UninitializedParameter, nn.UninitializedBuffer))


def owns_uninitialized(module: nn.Module) -> bool:
    return any(map(is_uninitialized, module._parameters.values())) or any(
        map(is_uninitialized, module._buffers.values())
    )


def awaits_first_input(module: nn.Module) -> bool:
    """Whether the module is a `LazyModuleMixin` that has not seen its first input."""
    return isinstance(module, LazyModuleMixin) and "_initialize_hook" in module.__dict__


def is_lazy(module: nn.Module) -> bool:
    """Whether the module waits for its first input to know its sizes (see the module's docstring)."""
    return owns_uninitialized(module) or awaits_first_input(module)


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


def stand_on(module: nn.Module, device: torch.device) -> None:
    """Makes the module's own uninitialised tensors ones of that device; on meta, initialising them costs nothing.

    They stay the same objects, so that tied ones stay tied.
    """
    for _, tensor in own_tensors(module):
        if is_uninitialized(tensor) and tensor.device != device:
            kind: Any = type(tensor)
            moved = kind(requires_grad=tensor.requires_grad, device=device, dtype=tensor.dtype)
            moved.__dict__.update(tensor.__dict__)
            torch.utils.swap_tensors(tensor, moved)  # type: ignore[no-untyped-call]


def become(module: nn.Module, resolved: nn.Module) -> None:
    """Makes a lazy module what `resolved`, a resolved copy of it, is; its parameters keep their identity."""
    for own, theirs in ((module._parameters, resolved._parameters), (module._buffers, resolved._buffers)):
        for name, tensor in own.items():
            found = theirs[name]
            if tensor is None or found is None or tensor is found:
                continue
            if is_uninitialized(tensor):
                lazy: Any = tensor
                lazy.materialize(found.shape, found.device, found.dtype)
            tensor.data = found.data
        made: Any = {name: found for name, found in theirs.items() if found is not None and own.get(name) is None}
        own.update(made)
    for hooks in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_load_state_dict_pre_hooks"):
        own_hooks, kept = getattr(module, hooks), getattr(resolved, hooks)
        for key in [key for key in own_hooks if key not in kept]:
            del own_hooks[key]
    for name in [name for name in module.__dict__ if name not in resolved.__dict__]:
        del module.__dict__[name]
    module.__dict__.update(_sizes(resolved))
    module.__class__ = type(resolved)


class Observation:
    """Watches one lazy module become initialised, and says what its sizes became."""

    def __init__(self, module: nn.Module, path: str, args: Any, kwargs: Any, location: Location):
        self._module = module
        self._layer = LazyLayer(path, type(module).__name__, args, kwargs, Inference({}, {}), location)
        self._waiting = [name for name, tensor in own_tensors(module) if is_uninitialized(tensor)]
        self._before = _sizes(module)

    def layer(self) -> LazyLayer:
        """The layer with its sizes. Raises LazyResolutionError where the module is still uninitialised."""
        if owns_uninitialized(self._module):
            raise LazyResolutionError(
                f"{self._layer.type} is still uninitialised after its forward pre-hooks",
                remedy="initialise it in a forward pre-hook, as torch.nn's lazy modules do",
            ).placed(self._layer.location)
        attributes: dict[str, Size] = {
            name: size for name, size in _sizes(self._module).items() if self._before.get(name) != size
        }
        tensors = dict(own_tensors(self._module))
        shapes: dict[str, tuple[Size, ...]] = {name: tuple(tensors[name].shape) for name in self._waiting}
        return replace(self._layer, inference=Inference(attributes, shapes))


def infer_by_running(module: nn.Module, path: str, args: Any, kwargs: Any, location: Location) -> LazyLayer:
    """Initialises `module`, which must live on the meta device, from specs, and says what its sizes became.

    Raises LazyResolutionError where its own code fails, or leaves it lazy.
    """
    observation = Observation(module, path, args, kwargs, location)
    try:
        run_own_initialisation(module, meta_inputs(args), meta_inputs(kwargs))
    except (Exception, SystemExit) as error:  # the initialisation is the caller's code
        raise LazyResolutionError(
            f"{type(module).__name__} cannot initialise itself from {describe(args)}: {type(error).__name__}: {error}",
            remedy="check what the layer is fed",
        ).placed(location) from error
    return observation.layer()


def watch_lazies(root: nn.Module, prefix: str, found: list[LazyLayer], location: Location) -> None:
    """Makes a run of `root` add its lazy modules to `found`, each when its first call has initialised it.

    Paths begin with `prefix`, the path of `root` in the whole model.
    """
    for name, module in list(root.named_modules()):
        if is_lazy(module):
            _watch(module, ".".join(filter(None, (prefix, name))), found, location)


def _watch(module: nn.Module, path: str, found: list[LazyLayer], location: Location) -> None:
    started: list[Observation] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not started:
            started.append(Observation(module, path, as_specs(args), as_specs(kwargs), location))

    def after(module: nn.Module, args: Any, kwargs: Any) -> None:
        if path not in {layer.path for layer in found}:
            found.append(started[0].layer())

    module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
    module.register_forward_pre_hook(after, with_kwargs=True)


def as_specs(value: Any) -> Any:
    """A structure of tensors as specs."""
    return map_structure(
        value, lambda leaf: TensorSpec(tuple(leaf.shape), leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf
    )


def own_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The parameters and buffers that the module owns directly, by name."""
    own = {**module._parameters, **module._buffers}
    return [(name, tensor) for name, tensor in own.items() if tensor is not None]


def _sizes(module: nn.Module) -> dict[str, int]:
    return {name: value for name, value in module.__dict__.items() if type(value) is int}


def meta_inputs(value: Any) -> Any:
    """A structure of specs as meta tensors at the sampled sizes."""
    return map_structure(value, lambda leaf: leaf.meta_tensor() if isinstance(leaf, TensorSpec) else leaf)
