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
    """A model of torchvision: how to build it, and the sample that it takes (without the batch)."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def on_meta(self) -> nn.Module:
        with _EmptyOnMeta():
            return self.build().eval().to("meta")

    def sample(self, batch: int, device: str = "cpu") -> torch.Tensor:
        return torch.randn(batch, *self.shape, device=device)


# Sides that differ from 224, as the models' own weights are documented.
_SIDES = {"inception_v3": 299, "vit_h_14": 224, "swin_v2_t": 256, "swin_v2_s": 256, "swin_v2_b": 256}
_VIDEO = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}
_OPTIONS: dict[str, dict[str, Any]] = {name: {"init_weights": False} for name in ("googlenet", "inception_v3")}


def classification() -> list[ZooModel]:
    """All 80 image classification models."""
    names = torchvision.models.list_models(module=torchvision.models)
    return [_model(name, (3, _SIDES.get(name, 224), _SIDES.get(name, 224))) for name in names]


def video() -> list[ZooModel]:
    names = torchvision.models.list_models(module=torchvision.models.video)
    return [_model(name, (3, frames, side, side)) for name in names for frames, side in [_VIDEO.get(name, (8, 112))]]


def segmentation() -> list[ZooModel]:
    names = torchvision.models.list_models(module=torchvision.models.segmentation)
    return [_model(name, (3, 64, 64), weights_backbone=None) for name in names]


def _model(name: str, shape: tuple[int, ...], **options: Any) -> ZooModel:
    options |= _OPTIONS.get(name, {})
    return ZooModel(name, lambda: torchvision.models.get_model(name, weights=None, **options), shape)
