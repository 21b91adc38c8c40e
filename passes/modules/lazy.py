"""What a lazy module is, and what becomes of it when its own initialisation runs.

A module is lazy when it directly owns a parameter or buffer without a shape, or is a `LazyModuleMixin` that
has not seen its first input. Its own code initialises it: a forward pre-hook, which both torch.nn's lazy
modules and those of third parties install. That code runs here on shape-only inputs.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from passes.errors import LazyResolutionError
from passes.ops.op import Inference, Owned, find_module
from passes.sizes.dimension import Size, hint, sampled
from passes.sizes.guards import Location
from passes.torch_private import (
    ConvNd,
    LazyNormBase,
    NormBase,
    exchange_tensors,
    tensor_of_class,
    without_classes,
    without_dispatch,
    without_overrides,
)
from passes.values.nested import map_structure
from passes.values.spec import TensorSpec, describe


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
_UNINITIALIZED = frozenset({nn.UninitializedParameter, nn.UninitializedBuffer})
_PLAIN = frozenset({torch.Tensor, nn.Parameter, type(None)})  # the types of most tensors that have a shape


def is_uninitialized(tensor: torch.Tensor | None) -> bool:
    kind = _type(tensor)
    return kind in _UNINITIALIZED or (
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


def run_own_initialisation(module: nn.Module, args: Any, kwargs: Any, hook: int | None = None) -> None:
    """Runs the module's forward pre-hooks until it is no longer lazy, or only the one with the key `hook`; no forward.

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
        hooks = module._forward_pre_hooks
        for key, run in list(hooks.items()) if hook is None else [(hook, hooks[hook])]:
            if key in module._forward_pre_hooks_with_kwargs:
                changed = run(module, args, kwargs)
                args, kwargs = changed if changed is not None else (args, kwargs)
            else:
                changed = run(module, args)
                args = args if changed is None else changed if isinstance(changed, tuple) else (changed,)
            if not is_lazy(module):
                return
    finally:
        if keeps_class:
            module.__dict__.pop("cls_to_become", None)


def initialise_by_rule(module: nn.Module, inference: Inference) -> bool:
    """Does what the initialisation of a lazy class of torch.nn does, once its sizes are known: sets them, gives its
    tensors memory, and fills that by `reset_parameters`. The modes that watch weights being drawn see what they are
    for, and not what happens in memory that nobody else has: each operation that they see takes several times as long.

    Says whether it did: not where some of the tensors have values already (tied ones), which torch's own code judges.
    """
    waiting = {name: tensor for name, tensor in own_tensors(module) if type(tensor) in _UNINITIALIZED}
    if not is_torch_lazy(module) or inference.shapes.keys() != waiting.keys():
        return False
    for name, size in inference.attributes.items():
        setattr(module, name, hint(size))
    with without_overrides(), without_dispatch():
        for name, tensor in waiting.items():
            shape = sampled(inference.shapes[name])
            tensor.data = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
            tensor.__class__ = tensor.cls_to_become  # type: ignore[attr-defined]
    reset: Any = module.reset_parameters
    with torch.no_grad():
        if _resets_without_drawing(module):
            batches: Any = module.num_batches_tracked
            if batches is not None:
                batches.zero_()  # it has a value, whose memory may be the original's
            with without_dispatch():
                reset()
        else:
            reset()
    end_laziness(module)
    return True


# How torch itself resets a norm: to zeros and ones. Noted here, before anyone can put others in their places.
_RESETS_OF_NORMS = {
    "reset_parameters": LazyNormBase.reset_parameters,
    "reset_running_stats": NormBase.reset_running_stats,
}


def _resets_without_drawing(module: nn.Module) -> bool:
    """Whether it is a norm that resets itself as torch does, and so draws nothing."""
    return isinstance(module, NormBase) and all(
        getattr(getattr(module, name), "__func__", None) is torchs for name, torchs in _RESETS_OF_NORMS.items()
    )


def stand_on(module: nn.Module, device: torch.device) -> None:
    """Makes the module's own uninitialised tensors ones of that device; on meta, initialising them costs nothing.

    They stay the same objects, so that tied ones stay tied.
    """
    for _, tensor in own_tensors(module):
        if is_uninitialized(tensor) and tensor.device != device:
            moved = _uninitialized_like(tensor, device)
            torch.utils.swap_tensors(tensor, moved)  # type: ignore[no-untyped-call]


def _uninitialized_like(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    kind: Any = type(tensor)
    fresh: torch.Tensor = kind(requires_grad=tensor.requires_grad, device=device, dtype=tensor.dtype)
    fresh.__dict__.update(tensor.__dict__)
    return fresh


def settle(module: nn.Module, inference: Inference) -> Laziness:
    """Makes a lazy module of torch.nn what its first call makes it, with tensors on the meta device: nothing is drawn.

    Its tensors stay the same objects. Returns what makes it lazy again.
    """
    before = Laziness(module, swapped=[])
    # Lazy tensors answer every question about them through Python, and no mode has anything to see here.
    with without_overrides(), without_dispatch():
        for name, tensor in own_tensors(module):
            if is_uninitialized(tensor):
                shape = sampled(inference.shapes[name])
                fresh = _empty(shape, dtype=tensor.dtype, device=_META, requires_grad=tensor.requires_grad)
                fresh.__class__ = tensor.cls_to_become  # type: ignore[attr-defined]
                fresh.__dict__.update(tensor.__dict__)
                _exchange(tensor, fresh)
                before.swapped.append((tensor, fresh))
    own = module.__dict__
    for name, size in inference.attributes.items():
        if name in own:
            own[name] = hint(size)
        else:
            setattr(module, name, hint(size))
    end_laziness(module)
    return before


_empty = torch.empty  # torch's own, also while a forward is traced
_META = torch.device("meta")


def _exchange(left: torch.Tensor, right: torch.Tensor) -> None:
    """Makes each of two tensors what the other is; they stay the same objects."""
    left.__class__, right.__class__ = right.__class__, left.__class__
    left.__dict__, right.__dict__ = right.__dict__, left.__dict__
    exchange_tensors(left, right)


def end_laziness(module: nn.Module) -> None:
    """Ends a module's lazy life as its first forward would: no more hooks, and the eager class."""
    if not awaits_first_input(module):
        return
    for hook in ("_initialize_hook", "_load_hook"):
        handle: Any = module.__dict__.pop(hook)
        handle.remove()
    becomes: Any = module.cls_to_become
    if becomes is not None and (is_torch_lazy(module) or "cls_to_become" in type(module).__dict__):
        _set_class(module, becomes)


def _set_class(module: nn.Module, kind: type) -> None:
    object.__setattr__(module, "__class__", kind)  # a module's own way looks for parameters first


# What most attributes of a module are that are no dicts.
_NO_DICTS = frozenset({bool, int, float, str, tuple, set, type(None)})
_EMPTY: dict[Any, Any] = {}


class Laziness:
    """What a lazy module is before its first call, to make it that again; its tensors stay the same objects."""

    def __init__(self, module: nn.Module, swapped: list[tuple[torch.Tensor, torch.Tensor]] | None = None):
        """`swapped` are the tensors to change places again; without it, the uninitialised ones with new ones."""
        self.module = module
        self._class = type(module)
        self._attributes = dict(module.__dict__)
        # Most of these are empty: torch keeps one for each kind of hooks.
        self._members: list[tuple[dict[Any, Any], dict[Any, Any]]] = [
            (value, dict(value) if value else _EMPTY)
            for value in self._attributes.values()
            if (kind := _type(value)) not in _NO_DICTS and issubclass(kind, dict)
        ]
        self.swapped = swapped if swapped is not None else self._uninitialized()

    def _uninitialized(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            (tensor, _uninitialized_like(tensor, tensor.device))
            for _, tensor in own_tensors(self.module)
            if is_uninitialized(tensor)
        ]

    def restore(self) -> None:
        _set_class(self.module, self._class)
        self.module.__dict__.clear()
        self.module.__dict__.update(self._attributes)
        for kept, members in self._members:
            if kept or members:
                kept.clear()
                kept.update(members)
        with without_overrides():
            for tensor, other in self.swapped:
                _exchange(tensor, other)


def move_lazy(model: nn.Module, device: torch.device) -> None:
    """Moves every tensor of the lazy modules of `model`, a copy, to the device: those that have values too.

    A tensor that the caller's model holds as well is replaced here, wherever this copy has it.
    """
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        if is_lazy(module):
            stand_on(module, device)
            for _, tensor in own_tensors(module):
                if not is_uninitialized(tensor) and tensor.device != device:
                    moved[id(tensor)] = _on(tensor, device)
    for module in model.modules() if moved else ():
        holders: tuple[Any, Any] = (module._parameters, module._buffers)
        for held in holders:
            held.update({name: moved[id(tensor)] for name, tensor in held.items() if id(tensor) in moved})


def _on(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of a parameter or buffer on another device, of the same kind."""
    data = tensor.detach().to(device)
    return nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def become(module: nn.Module, resolved: nn.Module) -> None:
    """Makes a module what `resolved`, a resolved copy of it, is; its parameters keep their identity."""
    for own, theirs in ((module._parameters, resolved._parameters), (module._buffers, resolved._buffers)):
        for name, tensor in own.items():
            found = theirs[name]
            if tensor is not None and found is not None and not is_uninitialized(found):
                _take(tensor, found)
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


def become_all(model: nn.Module, resolved: nn.Module) -> None:
    """Makes a model what `resolved`, a resolved copy of it, is, or leaves it as it was where that fails half-way."""
    modules = dict(model.named_modules())
    before = [(module, _Before(module)) for module in modules.values()]
    try:
        for path, module in modules.items():
            become(module, resolved.get_submodule(path))
    except BaseException:
        for module, state in before:
            state.restore(module)
        raise


def _take(tensor: torch.Tensor, found: torch.Tensor) -> None:
    """Makes a tensor what `found` is, and leaves it the same object; no memory is taken for it."""
    if tensor is found:
        return
    with without_classes():
        if tensor.device.type == found.device.type:
            tensor.data = found.data
            if is_uninitialized(tensor):
                tensor.__class__ = tensor.cls_to_become  # type: ignore[attr-defined]
        else:
            twin = (
                found.detach() if not isinstance(found, nn.Parameter) else nn.Parameter(found.data, found.requires_grad)
            )
            torch.utils.swap_tensors(tensor, twin)  # type: ignore[no-untyped-call]


class _Before:
    """What a module was before it became another one."""

    def __init__(self, module: nn.Module):
        self._class = type(module)
        self._attributes = dict(module.__dict__)
        self._hooks = [(value, dict(value)) for value in module.__dict__.values() if isinstance(value, OrderedDict)]
        with without_classes():
            self._tensors = [(tensor, tensor.data, type(tensor)) for _, tensor in own_tensors(module)]

    def restore(self, module: nn.Module) -> None:
        module.__class__ = self._class
        module.__dict__.clear()
        module.__dict__.update(self._attributes)
        for hooks, entries in self._hooks:
            hooks.clear()
            hooks.update(entries)
        with without_classes():
            for tensor, data, kind in self._tensors:
                if tensor.device.type == data.device.type:
                    tensor.data = data
                    tensor.__class__ = kind
                else:
                    before: torch.Tensor = tensor_of_class(kind, data, tensor.requires_grad)
                    torch.utils.swap_tensors(tensor, before)  # type: ignore[no-untyped-call]


class Observation:
    """Watches one lazy module become initialised, and says what its sizes became."""

    def __init__(
        self, module: nn.Module, path: str, args: Any, kwargs: Any, location: Location, hook: int | None = None
    ):
        self._module = module
        self._layer = LazyLayer(path, type(module).__name__, args, kwargs, Inference({}, {}), location, hook)
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


def infer_by_rule(module: nn.Module, path: str, args: Any, kwargs: Any, location: Location) -> LazyLayer:
    """What the first call of a lazy module of torch.nn, with specs, makes of its sizes; the module is not touched.

    Raises any error of shapes that its op's rule finds.
    """
    found = find_module(type(module))
    assert found is not None, f"no op covers {type(module).__name__}"
    op, bind_module = found
    rule = op.inference_rules[type(module)]
    given = bind_module(module, *args, **kwargs)
    known = {name: None if isinstance(value, Owned) else value for name, value in given.items()}
    inference = rule(module, op.bind((), known))
    hook = initialising_hook(module)
    return LazyLayer(path, type(module).__name__, args, kwargs, inference, location, hook, by_rule=True)


def infer_by_running(
    module: nn.Module, path: str, args: Any, kwargs: Any, location: Location, hook: int | None = None
) -> LazyLayer:
    """Initialises `module`, which must live on the meta device, from specs, and says what its sizes became.

    `hook` is the key of the forward pre-hook that does it; without one, all run until it is done.

    Raises LazyResolutionError where its own code fails, or leaves it lazy.
    """
    observation = Observation(module, path, args, kwargs, location, hook)
    try:
        run_own_initialisation(module, meta_inputs(args), meta_inputs(kwargs), hook)
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
