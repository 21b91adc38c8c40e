"""What is done to a state_dict before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.checkpoints.models import Weights


def first_key(weights: Weights) -> str:
    return next(key for key, value in weights.items() if isinstance(value, torch.Tensor) and value.ndim > 1)


def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Weights], None]:
    def apply(weights: Weights) -> None:
        for key, value in list(weights.items()):
            if isinstance(value, torch.Tensor):
                weights[key] = change(value)

    return apply


def scaled_ties(weights: Weights) -> None:
    for index, (key, value) in enumerate(list(weights.items())):
        if isinstance(value, torch.Tensor) and value.dtype.is_floating_point:
            weights[key] = value * (index + 1)


def other_extra(weights: Weights) -> None:
    for key in weights:
        if key.endswith("_extra_state"):
            weights[key] = torch.tensor(20.0) if isinstance(weights[key], torch.Tensor) else {"scale": 20.0}


def old_names(weights: Weights) -> None:
    for key in [key for key in weights if key.startswith("head.")]:
        weights[f"old_{key}"] = weights.pop(key)


def module_names(weights: Weights) -> None:
    for key in list(weights):
        weights[f"module.{key}"] = weights.pop(key)


def without(part: str) -> Callable[[Weights], None]:
    def drop(weights: Weights) -> None:
        for key in [key for key in weights if part in key]:
            del weights[key]

    return drop


def with_entry(key: str, value: Any) -> Callable[[Weights], None]:
    return lambda weights: weights.__setitem__(key, value)


def reshaped(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Weights], None]:
    return lambda weights: weights.__setitem__(first_key(weights), change(weights[first_key(weights)]))


def without_metadata(weights: Any) -> None:
    del weights._metadata


CHANGES: dict[str, Callable[[Weights], None]] = {
    "as it is": lambda weights: None,
    "other values in ties": scaled_ties,
    "half": changed(lambda t: t.half() if t.dtype.is_floating_point else t),
    "double": changed(lambda t: t.double() if t.dtype.is_floating_point else t),
    "integers": changed(lambda t: t.to(torch.int32)),
    "complex": changed(lambda t: t.to(torch.complex64)),
    "sparse": changed(lambda t: t.to_sparse() if t.ndim else t),
    "strided": changed(lambda t: t.t().contiguous().t() if t.ndim == 2 else t),
    "expanded": changed(lambda t: t[:1].expand(t.shape) if t.ndim else t),
    "negative views": changed(lambda t: torch._neg_view(t) if t.dtype.is_floating_point else t),
    "parameters": changed(lambda t: nn.Parameter(t) if t.dtype.is_floating_point else t),
    "meta": changed(lambda t: t.to("meta")),
    "one in a list": changed(lambda t: t[None] if t.ndim == 0 else t),
    "other extra state": other_extra,
    "old names": old_names,
    "names of a wrapper": module_names,
    "no metadata": without_metadata,
    "no head": without("head."),
    "no bias": without("bias"),
    "no counters": without("num_batches_tracked"),
    "no statistics": without("running_"),
    "no extra state": without("_extra_state"),
    "no weight": without("weight"),
    "more": with_entry("other", torch.ones(2)),
    "more extra state": with_entry("other._extra_state", {"a": 1}),
    "what is no tensor": with_entry("epoch", 3),
    "one more row": reshaped(lambda t: torch.cat([t, t[:1]])),
    "one more column": reshaped(lambda t: torch.cat([t, t[:, :1]], 1)),
    "flat": reshaped(torch.flatten),
    "one more axis": reshaped(lambda t: t[..., None]),
    "a number": reshaped(torch.sum),
    "empty": reshaped(lambda t: t[:0]),
}
