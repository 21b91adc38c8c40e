"""torch's functions called on no traced tensor: on real ones, on numbers alone, or on nothing at all.

They run as ever, but for two kinds. What takes a number that depends on a dynamic dimension is recorded: a table of
fixed length sliced by a size, `torch.tensor([7.0]).expand(n)`. So is what makes a tensor of sizes alone, for which
nothing need be allocated, where an op covers it; else the sizes must be known. It does not matter by which name the
caller's code has the function: torch asks its modes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from passes.ops.op import FUNCTIONS
from passes.values.nested import leaves, map_structure
from tracer.capture.values.number import TracedNumber
from tracer.capture.values.python_functions import as_lists
from tracer.capture.values.tensor import TracedTensor
from tracer.memory.real_tensors import FollowingReal
from tracer.memory.recorder import Recorder

_CREATION: frozenset[Any] = frozenset({
    torch.zeros, torch.ones, torch.full, torch.empty, torch.arange, torch.linspace, torch.eye,
    torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal,
})  # fmt: skip

# What makes a tensor of what numpy has.
_OF_DATA: frozenset[Any] = frozenset({torch.tensor, torch.as_tensor, torch.asarray})


def following_real(tracer: Recorder) -> FollowingReal:
    """The mode that sees each call of torch's functions while a forward is traced."""
    return FollowingReal(tracer, TracedTensor.__torch_function__, _run)


def _run(tracer: Recorder, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call that writes to no real tensor, and uses none that was written to."""
    is_traced = bool(args) and type(args[0]) is TracedTensor
    kinds = {TracedTensor} if is_traced else {type(leaf) for leaf in leaves((args, kwargs))}
    if TracedTensor in kinds:
        return TracedTensor.__torch_function__(function, (), args, kwargs)
    if np.ndarray in kinds and function in _OF_DATA:
        lists, dtype = as_lists(args[0]) if args else (None, None)
        if dtype is not None:
            return _run(tracer, function, (lists, *args[1:]), {"dtype": dtype, **kwargs})
    if function in _CREATION:
        return tracer.create_proxy("call_function", function, args, kwargs)
    if TracedNumber not in kinds:
        return function(*args, **kwargs)
    dynamic = any(type(leaf) is TracedNumber and leaf.is_dynamic for leaf in leaves((args, kwargs)))
    if dynamic and (function in FUNCTIONS or not _makes_a_tensor(function, args, kwargs)):
        return TracedTensor.__torch_function__(function, (), args, kwargs)
    args, kwargs = map_structure((args, kwargs), _itself, keep_classes=True)
    return function(*args, **kwargs)


def _makes_a_tensor(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function that no op covers makes a tensor of numbers alone, as `torch.hann_window` does: they must be
    known then, at what is a constant."""
    if any(isinstance(leaf, torch.Tensor) for leaf in leaves((args, kwargs))):
        return False
    args, kwargs = map_structure((args, kwargs), lambda leaf: leaf.now() if type(leaf) is TracedNumber else leaf)
    return isinstance(function(*args, **kwargs), torch.Tensor)


def _itself(leaf: Any) -> Any:
    """The number in place of a traced one, which is noted as a guard."""
    if type(leaf) is not TracedNumber:
        return leaf
    return bool(leaf) if leaf.kind is bool else leaf.itself()


__all__ = ["following_real"]
