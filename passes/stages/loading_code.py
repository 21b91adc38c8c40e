"""Which modules save or load their state with code of their own.

That code may do anything to the entries and to the module: only running it says what is loaded. A module whose loading
is torch's copies each entry into the tensor of its name.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from passes.torch_private import WrappedHook

_METHODS = (
    "load_state_dict",
    "_load_from_state_dict",
    "set_extra_state",
    "get_extra_state",
    "state_dict",
    "_save_to_state_dict",
)
_HOOKS = ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_state_dict_pre_hooks", "_state_dict_hooks")


def loading_code(model: nn.Module) -> list[str]:
    """The methods and hooks for saving and loading that are not torch's, each with its module: `head._rename`."""
    found = []
    for path, module in model.named_modules():
        ways = [(name, getattr(module, name, None)) for name in _METHODS]
        hooks = [_unwrapped(hook) for table in _HOOKS for hook in getattr(module, table, {}).values()]
        ways += [(_name(hook), hook) for hook in hooks]
        found += [f"{path}.{name}" if path else name for name, way in ways if not _is_torchs(way)]
    return found


def _unwrapped(hook: Any) -> Any:
    """What was registered: torch may wrap it, and a copy of the wrapper no longer passes for what it wraps."""
    return hook.hook if isinstance(hook, WrappedHook) else hook


def _is_torchs(way: Any) -> bool:
    place = getattr(way, "__module__", None)
    return isinstance(place, str) and f"{place}.".startswith("torch.")


def _name(hook: Any) -> str:
    return getattr(hook, "__name__", None) or type(hook).__name__
