"""Layers whose weights were replaced by others of another size: they are what their tensors are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import tracer

ROWS, SEQUENCE, IMAGE = torch.randn(2, 6), torch.randn(2, 6, 9), torch.randn(2, 6, 8, 8)


def with_tensors(layer: nn.Module, **shapes: tuple[int, ...]) -> nn.Module:
    """The layer with other tensors under these names; what it states of its sizes stays."""
    for name, shape in shapes.items():
        owner, _, own = name.rpartition("__")
        module = getattr(layer, owner) if owner else layer
        tensor = torch.rand(shape) + 0.1
        if own in module._buffers:
            module._buffers[own] = tensor
        else:
            setattr(module, own, nn.Parameter(tensor))
    return layer.eval()


CASES: dict[str, tuple[nn.Module, torch.Tensor]] = {
    "linear, other inputs": (with_tensors(nn.Linear(10, 3), weight=(3, 6)), ROWS),
    "linear, other outputs": (with_tensors(nn.Linear(6, 3), weight=(5, 6), bias=(5,)), ROWS),
    "linear over a sequence": (with_tensors(nn.Linear(6, 3), weight=(5, 9), bias=(5,)), SEQUENCE),
    "convolution, other outputs": (with_tensors(nn.Conv2d(6, 4, 3), weight=(7, 6, 3, 3), bias=(7,)), IMAGE),
    "convolution, other inputs": (with_tensors(nn.Conv2d(9, 4, 3), weight=(4, 6, 3, 3)), IMAGE),
    "convolution, other kernel": (with_tensors(nn.Conv2d(6, 4, 3, padding=1), weight=(4, 6, 5, 5)), IMAGE),
    "grouped convolution": (with_tensors(nn.Conv2d(8, 4, 3, groups=2), weight=(4, 3, 3, 3)), IMAGE),
    "convolution of a sequence": (with_tensors(nn.Conv1d(9, 4, 3), weight=(4, 6, 3)), SEQUENCE),
    "transposed convolution": (with_tensors(nn.ConvTranspose2d(9, 4, 3), weight=(6, 7, 3, 3), bias=(7,)), IMAGE),
    "batch norm": (
        with_tensors(nn.BatchNorm2d(4), weight=(6,), bias=(6,), running_mean=(6,), running_var=(6,)),
        IMAGE,
    ),
    "batch norm without weights": (
        with_tensors(nn.BatchNorm2d(4, affine=False), running_mean=(6,), running_var=(6,)),
        IMAGE,
    ),
    "group norm": (with_tensors(nn.GroupNorm(2, 4), weight=(6,), bias=(6,)), IMAGE),
    "embedding": (with_tensors(nn.Embedding(4, 3), weight=(9, 5)), torch.tensor([8, 1])),
    "prelu": (with_tensors(nn.PReLU(3), weight=(6,)), IMAGE),
    "a transformer's layer": (
        with_tensors(
            nn.TransformerEncoderLayer(9, 3, 16, batch_first=True),
            linear1__weight=(10, 9), linear1__bias=(10,), linear2__weight=(9, 10),
        ),
        SEQUENCE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("inside", [False, True], ids=["root", "submodule"])
@pytest.mark.parametrize("name", CASES)
def test_they_are_what_their_tensors_are(name: str, inside: bool) -> None:
    layer, x = CASES[name]
    model: Any = nn.Sequential(layer, nn.Identity()) if inside else layer
    conversion = tracer.convert(model, (x,), route="direct", dynamic_shapes=({0: "N"},))
    assert conversion.verification is not None


def test_beside_lazy_layers() -> None:
    """A pruned convolution with its batch norm, folded into it, before a layer that is still lazy."""
    model = nn.Sequential(
        with_tensors(nn.Conv2d(6, 8, 3), weight=(5, 6, 3, 3), bias=(5,)),
        with_tensors(nn.BatchNorm2d(8), weight=(5,), bias=(5,), running_mean=(5,), running_var=(5,)),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    conversion = tracer.convert(model, (IMAGE,), route="direct")
    assert conversion.module[3].in_features == 5 * 6 * 6  # type: ignore[index]


LAZY: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "linear": (lambda: nn.LazyLinear(3), ROWS),
    "convolution": (lambda: nn.LazyConv2d(4, 3), IMAGE),
    "transposed convolution": (lambda: nn.LazyConvTranspose1d(4, 3), SEQUENCE),
    "batch norm": (nn.LazyBatchNorm2d, IMAGE),
    "instance norm": (lambda: nn.LazyInstanceNorm2d(affine=True, track_running_stats=True), IMAGE),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", LAZY)
def test_every_tensor_of_a_lazy_layer_is_on_the_device(name: str, inplace: bool) -> None:
    layer, x = LAZY[name]
    model = nn.Sequential(layer())

    def held() -> dict[str, tuple[int, str]]:
        return {key: (id(tensor), tensor.device.type) for key, tensor in model.state_dict(keep_vars=True).items()}

    before = held()
    resolved = tracer.resolve(model, x, device="meta", inplace=inplace)
    assert {tensor.device.type for tensor in resolved.state_dict(keep_vars=True).values()} == {"meta"}
    expected = {key: (held_id, "meta") for key, (held_id, _) in before.items()} if inplace else before
    assert held() == expected
