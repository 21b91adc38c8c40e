"""torch's functions that do not hand themselves over as they were called, or with what no graph takes.

A function of torch.nn.functional that is called on a traced tensor, or under a mode, hands its call over as a whole.
One leaves an argument out, which is read from where it was called. One is given a function to call, which is the
caller's, to be followed like the rest of the forward: its own code is followed instead. One is told how to go about
it, which changes no result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch.nn import functional as F

# What functions leave out when they hand themselves over.
_LEFT_OUT: dict[Any, tuple[str, ...]] = {F.l1_loss: ("weight",)}


def with_all_arguments(function: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call that is being handed over, with those that torch leaves out."""
    names = _LEFT_OUT.get(function)
    if names is None:
        return kwargs
    code = function.__code__
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code is not code:
        frame = frame.f_back
    own = frame.f_locals if frame.f_code is code else {}
    return {**{name: own[name] for name in names if name in own}, **kwargs}


def _by_its_own_code(function: Any) -> Callable[..., Callable[[], Any]]:
    """What makes of a call's arguments a call of torch's code that does not ask whether to hand itself over."""

    def make(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        names = {**function.__globals__, "has_torch_function_variadic": lambda *tensors: False}
        own = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
        own.__kwdefaults__ = function.__kwdefaults__
        return lambda: own(*args, **kwargs)

    return make


def _without_options(*args: Any, options: Any = None, **kwargs: Any) -> Callable[[], Any] | None:
    return None if options is None else lambda: F.linear_cross_entropy(*args, **kwargs)


# By function: what makes of a call's arguments another call, or None where it is followed as it is.
OTHERWISE: dict[Any, Callable[..., Callable[[], Any] | None]] = {
    F.triplet_margin_with_distance_loss: _by_its_own_code(F.triplet_margin_with_distance_loss),
}
if hasattr(F, "linear_cross_entropy"):  # since torch 2.13
    OTHERWISE[F.linear_cross_entropy] = _without_options

__all__ = ["OTHERWISE", "with_all_arguments"]
