"""Python's cyclic garbage collector, out of the way while a model is worked on.

Capture makes hundreds of objects for each layer, all of which stay in use until the work is done. The collector would
walk through them, and through all that torch has loaded, again and again, and find nothing: a third of the time for a
thousand layers.
"""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

_lock = threading.Lock()
_paused = 0


def without_collection(function: Function) -> Function:
    """The function with the collector paused while it runs, where it was on; it may run in several threads at once."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not _pause():
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        finally:
            _resume()

    return run  # type: ignore[return-value]


def _pause() -> bool:
    global _paused
    with _lock:
        if not _paused and not gc.isenabled():
            return False
        _paused += 1
        gc.disable()
    return True


def _resume() -> None:
    global _paused
    with _lock:
        _paused -= 1
        if not _paused:
            gc.enable()
