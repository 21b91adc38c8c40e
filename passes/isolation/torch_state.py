"""What torch keeps for the whole process: the random state, backend flags, and what fx patches.

Whoever changes such a thing for a while holds the lock until it is back, so that conversions in several threads take
turns there and do not see each other's changes. A `Loan` notes what was there before anything is changed. It is given
back on every way out, and more than once does no harm: an interrupt that meets the giving back is met by
`undisturbed` around it. A child that is forked meanwhile gets everything back that other threads had borrowed.
"""

from __future__ import annotations

import functools
import os
import threading
import traceback
from collections.abc import Callable, Iterable
from types import ModuleType, TracebackType
from typing import Any, TypeVar

import torch

from passes.torch_private import dispatch_modes, function_modes, leave_dispatch_mode, leave_function_mode, set_gradients

Function = TypeVar("Function", bound=Callable[..., Any])

TORCH_STATE = threading.RLock()

_ABSENT: Any = object()
_loans: list[Loan] = []


class Loan:
    """Attributes of modules and classes that the block may replace, each put back after it, and steps to undo the rest.

    The lock is held meanwhile.
    """

    def __init__(self, places: Iterable[tuple[Any, str]], *undo: Callable[[], object]):
        self._places = places
        self._undo = undo
        self._before: list[tuple[Any, str, Any]] = []
        self.thread = threading.get_ident()

    def __enter__(self) -> Loan:
        TORCH_STATE.acquire()
        self._before = [(owner, name, owner.__dict__.get(name, _ABSENT)) for owner, name in self._places]
        _loans.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.give_back()
        _loans.remove(self)
        TORCH_STATE.release()

    def give_back(self) -> None:
        """Puts everything back as it was; what is there already stays."""
        for owner, name, value in self._before:
            own = owner.__dict__
            if own.get(name, _ABSENT) is value:
                continue
            if value is _ABSENT:
                delattr(owner, name)
            elif type(owner) is ModuleType:
                own[name] = value
            else:
                setattr(owner, name, value)
        for undo in self._undo:
            undo()


class _ThreadState:
    """What this thread has of torch, and has borrowed, to go back to."""

    def __init__(self) -> None:
        self._loans = len(_loans) if _holds() else 0
        self._held = _holds()
        self._gradients = torch.is_grad_enabled()
        self._modes = function_modes(), dispatch_modes()
        self._random = torch.get_rng_state()
        self.interrupted = False

    def restore(self) -> None:
        if _holds() > self._held:
            while len(_loans) > self._loans:
                _loans[-1].give_back()
                _loans.pop()
        if torch.is_grad_enabled() != self._gradients:
            set_gradients(self._gradients)
        while function_modes() > self._modes[0]:
            leave_function_mode()
        while dispatch_modes() > self._modes[1]:
            leave_dispatch_mode()
        if self.interrupted:
            torch.set_rng_state(self._random)
        while _holds() > self._held:
            TORCH_STATE.release()


def _holds() -> int:
    """How often this thread holds the lock."""
    return int(TORCH_STATE._recursion_count()) if TORCH_STATE._is_owned() else 0  # type: ignore[attr-defined]


def undisturbed(function: Function) -> Function:
    """The function, after which everything that is global to torch is as before, also where it was interrupted."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        before = _ThreadState()
        try:
            try:
                return function(*args, **kwargs)
            except Exception:
                raise
            except BaseException as interrupt:
                before.interrupted = True
                traceback.clear_frames(interrupt.__traceback__)  # what waits there to be undone is undone now
                raise
            finally:
                before.restore()
        finally:
            before.restore()  # once more, where an interrupt met the first

    return run  # type: ignore[return-value]


def _in_child() -> None:
    """In a forked child there is only the thread that forked: what others had borrowed is given back."""
    me = threading.get_ident()
    for loan in reversed([loan for loan in _loans if loan.thread != me]):
        loan.give_back()
        _loans.remove(loan)
    if not TORCH_STATE._is_owned():  # type: ignore[attr-defined]
        TORCH_STATE._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
