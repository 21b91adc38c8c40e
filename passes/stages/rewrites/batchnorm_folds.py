"""Batch norms folded into the layer before them (`passes/modules/batchnorm_folding.py` has the arithmetic)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from passes.modules.batchnorm_folding import Fold
from passes.modules.lazy import own_tensors
from passes.ops.record import Owned
from passes.ops.rewrite import Layer, Rewrite, Site
from passes.program.stages import Eager
from passes.torch_private import BatchNorm


def into_convolution(layer: Site, norm: Site) -> bool:
    """A convolution with a batch axis; without one, the norm's channels are another axis."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    module: Any = layer.module
    return type(module) in kinds and layer.result.ndim == module.weight.ndim and _takes(layer, norm)


def into_linear(layer: Site, norm: Site) -> bool:
    """Of two axes; of more, the norm's channels are not the features."""
    return type(layer.module) is nn.Linear and layer.result.ndim == 2 and _takes(layer, norm)


def _takes(layer: Site, norm: Site) -> bool:
    """Whether the norm's numbers are constants, and the layer is called only here and has taken no other norm.

    The file says of a folded layer which one norm is in it, for `refresh`.
    """
    known = isinstance(norm.module, BatchNorm) and norm.module.running_mean is not None
    return known and layer.sole and not layer.folded


def folded(program: Eager, layer: Site, norm: Site) -> Layer:
    """The layer with the batch norm in its weight and bias; the program keeps what was folded."""
    module: Any = layer.module
    norm_module: Any = norm.module
    groups = module.groups if getattr(module, "transposed", False) else None
    fold = Fold(layer.path, norm.path, norm_module.eps, groups)
    tensors = {
        f"{path}.{name}": tensor
        for path, owner in ((layer.path, module), (norm.path, norm_module))
        for name, tensor in own_tensors(owner)
    }
    if any(tensor.is_meta for tensor in tensors.values()):  # sizes alone: the values come when they are written
        tensors = {key: tensor.detach().to("meta") for key, tensor in tensors.items()}
    made = copy.copy(module)
    made._parameters = {
        "weight": nn.Parameter(fold.weight(tensors), requires_grad=False),
        "bias": nn.Parameter(fold.bias(tensors), requires_grad=False),
    }
    path = program.add(f"{fold.layer}_{fold.norm.rpartition('.')[2]}", made)
    program.folds[path] = fold
    nodes: Any = layer.nodes
    return Layer(path, made, replace(nodes, bias=Owned("bias")))


def _row(op: str, condition: Callable[..., bool], noun: str) -> Rewrite:
    return Rewrite(
        f"batch_norm_into_{op}",
        (op, "batch_norm"),
        condition,
        folded,
        f"{noun} with the norm in its weight and bias",
        "Running statistics make the norm one factor and one summand per channel, which a weight and a bias take: "
        "the same function, up to rounding.",
    )


BATCH_NORM_FOLDS = (
    _row("conv", into_convolution, "the convolution"),
    _row("conv_transpose", into_convolution, "the transposed convolution"),
    _row("linear", into_linear, "the linear layer"),
)
