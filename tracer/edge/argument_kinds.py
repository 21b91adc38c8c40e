"""What the arguments of the public functions may be, by their names, and what is asked of a model before it is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from passes.errors import InputError

SEEDS = range(-(2**63), 2**64)


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _names_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_device(value: Any) -> bool:
    try:
        torch.device(value)
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Kind:
    """What an argument is in words, and the test of it; None is let pass where the function has it as a default."""

    words: str
    holds: Callable[[Any], bool]
    optional: bool = True


SWITCH = Kind("True or False", lambda value: isinstance(value, (bool, int)), False)
NAMES = Kind("a list of texts", lambda value: _is_list(value) and all(isinstance(name, str) for name in value))
WEIGHTS = Kind("a state_dict or a path", lambda value: isinstance(value, Mapping) or _is_path(value))
ARGUMENTS: dict[str, Kind] = {
    "f": Kind("a path", _is_path),
    "onnx_file": Kind("a path", _is_path, False),
    "path": Kind("a text", lambda value: isinstance(value, str), False),
    "kwargs": Kind(
        "a mapping from names to inputs",
        lambda value: (
            _names_texts(value) or (_is_list(value) and all(one is None or _names_texts(one) for one in value))
        ),
    ),
    "samples": Kind("a list of samples", _is_list, False),
    "names": NAMES,
    "input_names": NAMES,
    "output_names": NAMES,
    "dims": Kind("a mapping from names to sizes", lambda v: _names_texts(v) and all(map(_is_number, v.values()))),
    "dynamic_shapes": Kind("a mapping or a list", lambda value: isinstance(value, Mapping) or _is_list(value)),
    "opset_version": Kind("a whole number", _is_number, False),
    "seed": Kind("a whole number of 64 bits", lambda value: _is_number(value) and value in SEEDS),
    "route": Kind("a text", lambda value: isinstance(value, str), False),
    "format": Kind("a text", lambda value: isinstance(value, str)),
    "metadata": Kind("a mapping", lambda value: isinstance(value, Mapping)),
    "state": Kind('None or "explicit"', lambda value: value == "explicit"),
    "passes": Kind(
        "a list of passes", lambda v: _is_list(v) and all(callable(p) or hasattr(p, "run") for p in v), False
    ),
    "device": Kind("a device", _is_device),
    "weights": WEIGHTS,
    "state_dict": WEIGHTS,
    "strict": SWITCH,
    "verify": SWITCH,
    "inplace": SWITCH,
    "fold_batchnorm": SWITCH,
}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raises InputError for the first argument that is of the wrong kind."""
    for name, value in arguments.items():
        kind = ARGUMENTS.get(name)
        if kind is None or (value is None and kind.optional) or kind.holds(value):
            continue
        raise InputError(f"{name} is {_shown(value)}, not {kind.words}", remedy=f"give {name} as {kind.words}")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # whatever a caller's object says of itself
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"a {type(value).__name__}"


# What torch keeps in every module, and what it calls of one while it looks for modules and tensors.
BOOKKEEPING = {
    name: dict if isinstance(value, dict) else set
    for name, value in vars(nn.Module()).items()
    if isinstance(value, (dict, set))
}
METHODS = (
    "named_modules", "modules", "named_children", "children", "named_parameters", "parameters", "named_buffers",
    "buffers", "_named_members", "state_dict", "_save_to_state_dict", "train", "eval",
)  # fmt: skip
_TENSORS = frozenset({torch.Tensor, nn.Parameter, nn.UninitializedParameter, nn.UninitializedBuffer, type(None)})
_HANDLES = ("_load_hook", "_initialize_hook")  # of a lazy module


def check_model(model: Any) -> None:
    """Raises where the tree of modules is none: InputError with the module at fault, and for compiled code.

    A module is reached by the names of its parents, so that each name must lead to it.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the model is a {type(model).__name__}, not a torch.nn.Module",
            remedy="pass an instance of your model class",
        )
    if not isinstance(model, torch.jit.ScriptModule) and not callable(getattr(type(model), "forward", None)):
        raise InputError(f"{type(model).__name__} has no forward to call", remedy="define its forward")
    parents: set[int] = set()
    seen: set[int] = set()
    sound: set[type] = set()  # classes whose methods are known to be some
    steps: list[tuple[str, Any, bool]] = [("", model, False)]
    while steps:
        path, module, done = steps.pop()
        if done:
            parents.discard(id(module))
            continue
        if not isinstance(module, nn.Module):
            raise InputError(
                f"{path} is registered as a module, but is {_shown(module)}", remedy="register modules only"
            )
        if id(module) in parents:
            raise InputError(
                f"{path or 'the model'} contains itself", remedy="keep the reference outside of the modules"
            )
        if id(module) in seen:
            continue
        seen.add(id(module))
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{path or 'the model'} is a {type(module).__name__}: its forward is no Python function, so it cannot "
                "be traced",
                remedy="pass the module that it was compiled from",
            )
        _check_bookkeeping(path or "the model", module, sound)
        if type(module).__hash__ is not object.__hash__:
            _check_hash(path or "the model", module)
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if type(tensor) not in _TENSORS and not isinstance(tensor, torch.Tensor):
                raise InputError(f"{path}.{name} is registered as a tensor, but is {_shown(tensor)}".lstrip("."))
        parents.add(id(module))
        steps.append((path, module, True))
        for name, child in module._modules.items():
            if child is None:
                continue
            if not isinstance(name, str) or not name or "." in name or name in nn.Module.__dict__:
                raise InputError(
                    f"{path or 'the model'} has a submodule named {name!r}, by which it cannot be reached",
                    remedy="give it a name without dots that no method has",
                )
            steps.append((f"{path}.{name}" if path else name, child, False))
    _check_overrides(model)


def _check_hash(name: str, module: nn.Module) -> None:
    try:
        hash(module)
    except Exception as error:
        raise InputError(
            f"{name} cannot be hashed: {type(error).__name__}", remedy="let its class keep __hash__"
        ) from error


def _check_bookkeeping(name: str, module: nn.Module, sound: set[type]) -> None:
    """Raises InputError where something else is in the place of what torch keeps in a module, or calls of it.

    The methods of a class in `sound` have been found to be some; that of `module` is added.
    """
    state, cls = vars(module), type(module)
    if not all(map(isinstance, map(state.get, BOOKKEEPING), BOOKKEEPING.values())):
        entry = next(entry for entry, kind in BOOKKEEPING.items() if not isinstance(state.get(entry), kind))
        raise InputError(
            f"{name} has {_shown(state.get(entry))} where torch.nn.Module keeps its {entry}",
            remedy="call super().__init__() first, and leave what torch keeps there as it is",
        )
    if cls not in sound or not state.keys().isdisjoint(METHODS):
        for method in METHODS:
            found = state[method] if method in state else getattr(cls, method)
            if not callable(found):
                raise InputError(
                    f"{name} has {_shown(found)} in place of the method {method}, which torch calls",
                    remedy="give that attribute another name",
                )
        if state.keys().isdisjoint(METHODS):
            sound.add(cls)
    for handle in _HANDLES:
        if handle in state and not hasattr(state[handle], "remove"):
            raise InputError(f"{name}.{handle} is {_shown(state[handle])}, not the handle of a hook")


def _check_overrides(model: nn.Module) -> None:
    """Raises InputError where the model's own methods hide its modules or its state."""
    cls = type(model)
    if cls.named_modules is not nn.Module.named_modules or cls.modules is not nn.Module.modules:
        listed = {id(module) for _, module in model.named_modules()}
        if {id(module) for _, module in nn.Module.named_modules(model)} - listed:
            raise InputError(f"{cls.__name__}.named_modules leaves modules out", remedy="let it list every module")
    if cls.state_dict is not nn.Module.state_dict and not isinstance(model.state_dict(keep_vars=True), Mapping):
        raise InputError(f"{cls.__name__}.state_dict gives no mapping", remedy="let it give names and tensors")


__all__ = ["ARGUMENTS", "check_arguments", "check_model"]
