"""The lazy twin of an eager model: what its author would have written with lazy layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_CONV = ("out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
_NORM = ("eps", "momentum", "affine", "track_running_stats")
# Each eager class with its lazy one and the attributes that are that one's arguments. `bias` is the bias's presence.
LAZY_TWINS: dict[type[nn.Module], tuple[Any, tuple[str, ...]]] = {
    nn.Linear: (nn.LazyLinear, ("out_features",)),
    **{getattr(nn, f"Conv{d}d"): (getattr(nn, f"LazyConv{d}d"), _CONV) for d in (1, 2, 3)},
    **{
        getattr(nn, f"ConvTranspose{d}d"): (getattr(nn, f"LazyConvTranspose{d}d"), (*_CONV, "output_padding"))
        for d in (1, 2, 3)
    },
    **{getattr(nn, f"BatchNorm{d}d"): (getattr(nn, f"LazyBatchNorm{d}d"), _NORM) for d in (1, 2, 3)},
    **{getattr(nn, f"InstanceNorm{d}d"): (getattr(nn, f"LazyInstanceNorm{d}d"), _NORM) for d in (1, 2, 3)},
}


def lazify(model: nn.Module, *sample: torch.Tensor) -> int:
    """Replaces every layer of `model` that a call with `sample` reaches by its lazy twin; how many there were.

    A layer whose weights are read without calling it stays, as no dry run could resolve it. The model must stand on
    the sample's device.
    """
    called: set[int] = set()
    handles = [m.register_forward_hook(lambda m, *_: called.add(id(m))) for m in model.modules()]
    with torch.no_grad():
        model.eval()(*sample)
    for handle in handles:
        handle.remove()
    twins: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and type(child) in LAZY_TWINS and id(child) in called:
                parent._modules[name] = twins.setdefault(id(child), _twin(child))
    return len(twins)


def _twin(layer: nn.Module) -> nn.Module:
    kind, attributes = LAZY_TWINS[type(layer)]
    arguments = {name: getattr(layer, name) for name in attributes}
    if not issubclass(kind, nn.modules.batchnorm._NormBase):
        arguments["bias"] = layer.bias is not None
    tensor = next(iter(layer.parameters()), None)
    if tensor is not None:
        arguments |= {"dtype": tensor.dtype, "device": tensor.device}
    twin: nn.Module = kind(**arguments)
    return twin.train(layer.training)
