"""Classes whose objects are containers: dataclasses, those registered with torch's pytree, and a table of known ones.

A registered class is what its functions say: `torch.utils._pytree.register_pytree_node`, or
`torch.export.register_dataclass`. A dataclass is its fields. So is a class of the table below its attributes, of
libraries that register none of them themselves; a caller who registers one decides in place of the table.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.fx import immutable_collections

from passes.errors import InputError, TracerError
from passes.torch_private import registered_containers

_type = type  # Python's own, also while a forward is traced

# The attributes that hold an object's parts, by its class: as far as it has them. A subclass, which may hold more, is
# none of them. The caches of Hugging Face's transformers, but for the layers of a window, which keep count in Python.
_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "transformers.cache_utils.DynamicCache": ("layers",),
    "transformers.cache_utils.StaticCache": ("layers",),
    "transformers.cache_utils.EncoderDecoderCache": ("self_attention_cache", "cross_attention_cache"),
    "transformers.cache_utils.DynamicLayer": ("keys", "values"),
    "transformers.cache_utils.StaticLayer": ("keys", "values", "cumulative_length"),
}
_KNOWN_NAMES = frozenset(name.rpartition(".")[2] for name in _ATTRIBUTES)

# Registered, but what Python has them for; fx's hold the arguments of nodes.
_PLAIN = frozenset({tuple, list, dict, immutable_collections.immutable_list, immutable_collections.immutable_dict})


class Opened(dict[Any, Any]):
    """A container of a caller's class, its `kind`, by its parts; it knows how one of that is made of others."""

    __slots__ = ("_close", "kind")

    def __init__(self, kind: type, parts: Mapping[Any, Any], close: Callable[[Sequence[Any]], Any]):
        super().__init__(parts)
        self.kind = kind
        self._close = close

    def with_parts(self, parts: Sequence[Any]) -> Opened:
        """The same with other parts, in order."""
        return Opened(self.kind, dict(zip(self, parts, strict=True)), self._close)

    def closed(self, parts: Sequence[Any]) -> Any:
        """A container of the class with these parts, in order."""
        return self._close(parts)


def opened(value: Any) -> Opened | None:
    """The parts of a container of a class of the caller's, by name; None for all else, and for torch's named tuples.

    A registered class opens itself, with code of its own. What else it holds, its context, is the same for all of
    whatever parts; what of that is a list or a dict, each gets for itself.
    """
    kind = _type(value)
    if kind is Opened:
        found: Opened = value
        return found
    node = registered_containers.get(kind)
    if node is not None and kind not in _PLAIN and not issubclass(kind, tuple):
        return _opened_as_registered(value, node)
    if hasattr(kind, "__dataclass_fields__"):
        own = kind.__module__.partition(".")[0] in ("passes", "tracer")  # ours are leaves
        return None if own else _opened_by_attributes(value, [field.name for field in dataclasses.fields(value)])
    if kind.__name__ in _KNOWN_NAMES:
        names = _ATTRIBUTES.get(f"{kind.__module__}.{kind.__qualname__}")
        return None if names is None else _opened_by_attributes(value, [name for name in names if name in vars(value)])
    return None


def _opened_as_registered(value: Any, node: Any) -> Opened:
    kind = _type(value)

    def take_apart() -> tuple[list[Any], Any, list[Any]]:
        children, context = node.flatten_fn(value)
        named = node.flatten_with_keys_fn(value)[0] if node.flatten_with_keys_fn is not None else ()
        return list(children), context, [_key(key) for key, _ in named]

    remedy = "give tensors in it where there are specs: not every class takes those"
    children, context, keys = _by_its_own_code(take_apart, f"take apart a {kind.__name__}", remedy)
    if node.flatten_with_keys_fn is None and isinstance(value, Mapping):
        keys = list(value)
    if len(set(keys)) != len(children):
        keys = list(range(len(children)))

    def close(parts: Sequence[Any]) -> Any:
        return _by_its_own_code(
            lambda: node.unflatten_fn(list(parts), _apart(context)),
            f"make a {kind.__name__}",
            "let it take whatever its parts are, without looking at them",
        )

    return Opened(kind, dict(zip(keys, children, strict=True)), close)


def _by_its_own_code(work: Callable[[], Any], what: str, remedy: str) -> Any:
    """What the functions give that a class was registered with. Raises InputError for whatever they raise."""
    try:
        return work()
    except TracerError:
        raise
    except Exception as error:  # it is the caller's code
        said = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"the code that is registered to {what} raises {_type(error).__name__}: {said}", remedy=remedy
        ) from error


def _key(key: Any) -> Any:
    """What an entry of torch's key paths names: a key, an attribute, a place."""
    return next((getattr(key, name) for name in ("key", "name", "idx") if hasattr(key, name)), str(key))


def _opened_by_attributes(value: Any, names: Sequence[str]) -> Opened:
    def close(parts: Sequence[Any]) -> Any:
        """A copy of the object with these attributes; nothing of its own code is run."""
        changed = copy.copy(value)
        for name, held in getattr(value, "__dict__", {}).items():
            object.__setattr__(changed, name, _apart(held))
        for name, part in zip(names, parts, strict=True):
            object.__setattr__(changed, name, part)
        return changed

    return Opened(_type(value), {name: getattr(value, name) for name in names}, close)


def _apart(held: Any) -> Any:
    """A list or dict as one of its own, so that what is written into it stays there."""
    if _type(held) is list:
        return [_apart(item) for item in held]
    if _type(held) is dict:
        return {key: _apart(item) for key, item in held.items()}
    return held


__all__ = ["Opened", "opened"]
