"""torch's functions that write to an argument which their name does not show, spelled with methods that are followed.

Statistics of a norm that normalises by its batch, rows that an embedding rescales, members of the lists that the
`_foreach` functions take, and `nn.init`, which is Python code of torch's that hands itself over as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import CaptureError
from passes.ops.op import is_inplace
from tracer.memory.handed_over import OTHERWISE


def spelled_out(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[], Any] | None:
    """The call in other operations, none of which writes in secret; None where the function itself can be followed."""
    found = _FUNCTIONS.get(function) or OTHERWISE.get(function)
    if found is not None:
        return found(*args, **kwargs)
    name = getattr(function, "__name__", "")
    if name.startswith("_foreach_") and getattr(torch, name, None) is not None:
        return lambda: _each(name.removeprefix("_foreach_"), *args, **kwargs)
    return None


def _each(name: str, tensors: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation on each tensor of a list; what else it takes is one for all, or a list as well."""
    results = []
    for place, tensor in enumerate(tensors):
        given = [argument[place] if isinstance(argument, (list, tuple)) else argument for argument in args]
        named = {key: value[place] if isinstance(value, (list, tuple)) else value for key, value in kwargs.items()}
        if name.startswith("addc") and len(given) == 3:
            named["value"] = given.pop()
        results.append(_one(name.removesuffix("_"), tensor, given, named))
        if is_inplace(name):
            tensor.copy_(results[-1])
    return None if is_inplace(name) else tuple(results)


def _one(name: str, tensor: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if name == "zero":
        return torch.zeros_like(tensor)
    if name == "copy":
        return args[0]
    if name == "norm":
        return torch.linalg.vector_norm(tensor, *args, **kwargs)
    for home in (torch, torch.Tensor):
        if hasattr(home, name):
            return getattr(home, name)(tensor, *args, **kwargs)
    raise CaptureError(f"the forward calls torch._foreach_{name}", remedy="compute with each tensor by itself")


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Callable[[], Any] | None:
    if not training or (running_mean is None and running_var is None):
        return None

    def call() -> Any:
        result = F.batch_norm(input, None, None, weight, bias, True, momentum, eps)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        _move(running_mean, input.mean(axes), momentum)
        _move(running_var, input.var(axes), momentum)
        return result

    return call


def _instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Callable[[], Any] | None:
    if not use_input_stats or (running_mean is None and running_var is None):
        return None

    def call() -> Any:
        result = F.instance_norm(input, None, None, weight, bias, True, momentum, eps)
        axes = list(range(2, input.ndim))
        _move(running_mean, input.mean(axes).mean(0), momentum)
        _move(running_var, input.var(axes).mean(0), momentum)
        return result

    return call


def _move(running: Any, now: Any, momentum: float) -> None:
    """Moves running statistics towards those of now."""
    if running is not None:
        running.copy_(running * (1 - momentum) + now * momentum)


def _native_batch_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, *rest: Any
) -> Callable[[], Any] | None:
    return _batch_norm(input, running_mean, running_var, weight, bias, training, *rest[:2])


def _native_instance_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, use_input_stats: bool, *rest: Any
) -> Callable[[], Any] | None:
    return _instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, *rest[:2])


def _embedding(
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Callable[[], Any] | None:
    if max_norm is None:
        return None

    def call() -> Any:
        rows = _scaled_down(F.embedding(input, weight, padding_idx), max_norm, norm_type)
        _renormalise(weight, input, max_norm, norm_type)  # which costs nothing where the weight is not used again
        return rows

    return call


def _embedding_bag(
    input: Any,
    weight: Any,
    offsets: Any = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    *args: Any,
    **kwargs: Any,
) -> Callable[[], Any] | None:
    if max_norm is None:
        return None

    def call() -> Any:
        _renormalise(weight, input, max_norm, norm_type)
        return F.embedding_bag(input, weight, offsets, None, 2.0, *args, **kwargs)

    return call


def _renormalise(weight: Any, indices: Any, max_norm: float, norm_type: float) -> Any:
    """Scales down, in place, the rows at these indices whose norm is larger."""
    used = torch.zeros_like(weight[:, :1]).index_fill(0, indices.reshape(-1), 1)
    weight.copy_(torch.where(used > 0, _scaled_down(weight, max_norm, norm_type), weight))
    return weight


def _scaled_down(rows: Any, max_norm: float, norm_type: float) -> Any:
    norm = torch.linalg.vector_norm(rows, norm_type, -1, keepdim=True)
    return torch.where(norm > max_norm, rows * (max_norm / (norm + 1e-7)), rows)


def _kaiming(tensor: Any, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    raise CaptureError(
        "the forward initialises a tensor with random numbers",
        remedy="make the layer that has it in __init__, or initialise the model before it is converted",
    )


# By function: what makes the call's other spelling of its arguments, or None where these make it write nothing.
_FUNCTIONS: dict[Any, Callable[..., Callable[[], Any] | None]] = {
    F.batch_norm: _batch_norm,
    torch.batch_norm: _native_batch_norm,
    F.instance_norm: _instance_norm,
    torch.instance_norm: _native_instance_norm,
    F.embedding: _embedding,
    F.embedding_bag: _embedding_bag,
    torch.embedding_renorm_: lambda weight, *rest: lambda: _renormalise(weight, *rest),
    nn.init.constant_: lambda tensor, val: lambda: tensor.fill_(val),
    nn.init.uniform_: lambda tensor, a=0.0, b=1.0, generator=None: lambda: tensor.uniform_(a, b, generator=generator),
    nn.init.normal_: lambda tensor, mean=0.0, std=1.0, generator=None: (
        lambda: tensor.normal_(mean, std, generator=generator)
    ),
    nn.init.kaiming_uniform_: _kaiming,
}

__all__ = ["spelled_out"]
