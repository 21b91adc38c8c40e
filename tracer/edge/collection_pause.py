"""Python's cyclic garbage collector, out of the way while a model is worked on.

Capture makes hundreds of objects for each layer, all of which stay in use until the work is done. The collector would
walk through them, and through all that torch has loaded, again and again, and find nothing: a third of the time for a
thousand layers.
"""

from __future__ import annotations

import functools
import gc
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

# Who has paused the collector, by the thread; adding and discarding are single steps for other threads.
_pausing: dict[object, int] = {}


def without_collection(function: Function) -> Function:
    """The function with the collector paused while it runs, where it was on; it may run in several threads at once."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not _pausing and not gc.isenabled():
            return function(*args, **kwargs)
        token = object()
        try:
            try:
                _pausing[token] = threading.get_ident()
                gc.disable()
                return function(*args, **kwargs)
            finally:
                _resume(token)
        finally:
            _resume(token)  # once more, where an interrupt met the first

    return run  # type: ignore[return-value]


def _resume(token: object) -> None:
    _pausing.pop(token, None)
    if not _pausing:
        gc.enable()


def _in_child() -> None:
    """In a forked child no thread but the one that forked has paused anything."""
    mine = threading.get_ident()
    for token, thread in list(_pausing.items()):
        if thread != mine:
            _resume(token)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
