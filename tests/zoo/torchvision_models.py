"""The models of torchvision, by name, on the meta device or with weights; without torchvision's compiled operations.

Importing torchvision beside a build of torch that its compiled operations were not made for fails, because it registers
shape functions for them; declaring the operations first is enough for the models, which do not use them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


def _declare_operations() -> None:
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_declare_operations()
import torchvision.models  # noqa: E402


class _EmptyOnMeta(TorchFunctionMode):
    """Layers get their weights from `torch.empty`; the constructors' own arithmetic stays real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})})


@dataclass(frozen=True)
class ZooModel:
    """A model of torchvision: how to build it, and the sample that it takes (without the batch).

    `shape` is what the model is documented with, `small` the least that its architecture takes, to be run with.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    small: tuple[int, ...]

    def on_meta(self) -> nn.Module:
        """The model without weights."""
        with _EmptyOnMeta():
            return self.build().eval().to("meta")

    def with_weights(self, seed: int = 0) -> nn.Module:
        """The model with random weights that let a signal through: fresh ones give outputs next to nothing."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.build().eval()
            for module in model.modules():
                _enliven(module)
        return model


def _enliven(module: nn.Module) -> None:
    is_norm = isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm))
    with torch.no_grad():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None or not tensor.is_floating_point():
                continue
            if name == "running_var":
                tensor.uniform_(0.5, 1.5)
            elif is_norm and name == "weight":
                tensor.uniform_(0.4, 0.8)  # below 1, or deep residual networks blow up and amplify rounding
            elif tensor.ndim < 2:
                tensor.normal_(0, 0.1)
            elif isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
                tensor.normal_(0, (1 / tensor[0].numel()) ** 0.5)


# Sides that differ from 224, as the models' weights are documented; and the least that a model takes, where not 64.
_SIDES = {"inception_v3": 299, "swin_v2_t": 256, "swin_v2_s": 256, "swin_v2_b": 256}
_SMALL_SIDES = {
    "inception_v3": 96,
    "maxvit_t": 224,
    **{f"vit_{size}": 224 for size in ("b_16", "b_32", "h_14", "l_16", "l_32")},
}
_VIDEO = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}
_OPTIONS: dict[str, dict[str, Any]] = {name: {"init_weights": False} for name in ("googlenet", "inception_v3")}


def classification() -> list[ZooModel]:
    """All 80 image classification models."""
    names = torchvision.models.list_models(module=torchvision.models)
    return [_model(name, (3, *[_SIDES.get(name, 224)] * 2), (3, *[_SMALL_SIDES.get(name, 64)] * 2)) for name in names]


def video() -> list[ZooModel]:
    """The 9 video classification models."""
    names = torchvision.models.list_models(module=torchvision.models.video)
    shapes = {name: (3, frames, side, side) for name in names for frames, side in [_VIDEO.get(name, (8, 64))]}
    return [_model(name, shape, shape) for name, shape in shapes.items()]


def segmentation() -> list[ZooModel]:
    """The 6 segmentation models, with the backbones that they come with."""
    names = torchvision.models.list_models(module=torchvision.models.segmentation)
    return [_model(name, (3, 64, 64), (3, 64, 64), weights_backbone=None) for name in names]


def _model(name: str, shape: tuple[int, ...], small: tuple[int, ...], **options: Any) -> ZooModel:
    options |= _OPTIONS.get(name, {})
    return ZooModel(name, lambda: torchvision.models.get_model(name, weights=None, **options), shape, small)
