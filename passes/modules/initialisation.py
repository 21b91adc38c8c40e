"""A lazy module becomes eager: by its own code, which runs on shape-only inputs, or by the sizes that a rule gives.

What is done while a forward is traced can be undone (`Laziness`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from passes.modules.lazy import UNINITIALIZED, awaits_first_input, is_lazy, is_torch_lazy, is_uninitialized, own_tensors
from passes.ops.op import Inference
from passes.sizes.dimension import hint, sampled
from passes.torch_private import (
    LazyNormBase,
    NormBase,
    exchange_tensors,
    without_dispatch,
    without_overrides,
)
from passes.values.nested import map_structure
from passes.values.spec import TensorSpec

_type = type  # Python's own, also while a forward is traced


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
    waiting = {name: tensor for name, tensor in own_tensors(module) if type(tensor) in UNINITIALIZED}
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


def meta_inputs(value: Any) -> Any:
    """A structure of specs as meta tensors at the sampled sizes."""
    return map_structure(value, lambda leaf: leaf.meta_tensor() if isinstance(leaf, TensorSpec) else leaf)


__all__ = [
    "Laziness",
    "end_laziness",
    "initialise_by_rule",
    "meta_inputs",
    "move_lazy",
    "run_own_initialisation",
    "settle",
    "stand_on",
]
