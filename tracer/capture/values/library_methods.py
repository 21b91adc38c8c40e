"""Methods of libraries that ask a tensor more than their result depends on, as they are while a forward is traced.

Each stand-in gives what the method gives, for every tensor, and asks less: a question is a guard, and one that nothing
depends on would narrow the sizes of a file for nothing. A library is patched only where the caller has loaded it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any


def _length(layer: Any) -> Any:
    """How many tokens a layer of Hugging Face's dynamic cache holds; none where it has no element.

    The method asks for the number of elements. Where the other axes have some, that has none when the length is 0.
    """
    if layer.keys is None:
        return 0
    *others, length, width = layer.keys.shape
    return 0 if any(size == 0 for size in (*others, width)) else length


_METHODS: tuple[tuple[str, str, str, Callable[..., Any]], ...] = (
    ("transformers.cache_utils", "DynamicLayer", "get_seq_length", _length),
)


def library_methods() -> Iterator[tuple[type, str, Callable[..., Any]]]:
    """The methods of loaded libraries that have a stand-in: of which class, by which name, and what stands in."""
    for module, kind, name, stand_in in _METHODS:
        found = getattr(sys.modules.get(module), kind, None)
        if isinstance(found, type) and name in vars(found):
            yield found, name, stand_in


__all__ = ["library_methods"]
