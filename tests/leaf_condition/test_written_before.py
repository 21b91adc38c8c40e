"""What a forward writes to a module before calling it counts in the call, and what it is given as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tests.leaf_condition.models import FLAT, IMAGE, Forward, agrees, data
from tracer import TracerError


def renormalised(self: Any, x: torch.Tensor) -> Any:
    with torch.no_grad():
        self.layer.weight.copy_(F.normalize(self.layer.weight, dim=1))
    return self.layer(x)


def data_clamped(self: Any, x: torch.Tensor) -> Any:
    self.layer.weight.data.clamp_(-0.1, 0.1)
    return self.layer(x)


def data_replaced(self: Any, x: torch.Tensor) -> Any:
    first = self.layer(x)
    self.layer.weight.data = self.layer.weight.data * 2
    return first, self.layer(x)


def data_shared(self: Any, x: torch.Tensor) -> Any:
    self.layer.weight.data = self.other.weight.data
    return self.layer(x), self.other(x)


def item_written(self: Any, x: torch.Tensor) -> Any:
    with torch.no_grad():
        self.layer.weight[0] = 1
        self.layer.bias[1:].zero_()
    return self.layer(x)


def detached_written(self: Any, x: torch.Tensor) -> Any:
    self.layer.weight.detach().mul_(2)
    return self.layer(x)


def written_between(self: Any, x: torch.Tensor) -> Any:
    first = self.layer(x)
    with torch.no_grad():
        self.layer.weight.mul_(2)
    return first, self.layer(x), F.linear(x, self.layer.weight)


def initialised(self: Any, x: torch.Tensor) -> Any:
    nn.init.ones_(self.layer.weight)
    return self.layer(x)


def new_parameter(self: Any, x: torch.Tensor) -> Any:
    first = self.layer(x)
    self.layer.weight = nn.Parameter(self.layer.weight * 2)
    return first, self.layer(x)


def bias_taken_away(self: Any, x: torch.Tensor) -> Any:
    self.layer.bias = None
    return self.layer(x)


def deleted(self: Any, x: torch.Tensor) -> Any:
    weight = self.layer.weight * 2
    del self.layer.weight
    self.layer.weight = weight
    return self.layer(x)


def filled(self: Any, x: torch.Tensor) -> Any:
    self.norm.running_mean.fill_(0.5)
    self.norm.running_var.mul_(2).add_(1)
    return self.norm(x)


def buffer_replaced(self: Any, x: torch.Tensor) -> Any:
    self.norm.running_mean = x.mean((0, 2, 3))
    return self.norm(x)


def written_by_a_view(self: Any, x: torch.Tensor) -> Any:
    self.layer.weight.data[0].add_(1)
    self.layer.weight.data.t()[1].mul_(2)
    return self.layer(x)


def written_after(self: Any, x: torch.Tensor) -> Any:
    y = self.layer(x)
    self.layer.weight.data.zero_()
    return y


def lazy_written(self: Any, x: torch.Tensor) -> Any:
    first = self.lazy(x)
    with torch.no_grad():
        self.lazy.weight.mul_(2)
    return first, self.lazy(x)


def lazy_data(self: Any, x: torch.Tensor) -> Any:
    first = self.lazy(x)
    self.lazy.weight.data = F.normalize(self.lazy.weight.data, dim=0)
    return first, self.lazy(x)


def dilated(self: Any, x: torch.Tensor) -> Any:
    results = []
    for dilation in (1, 2, 3):
        self.conv.dilation = (dilation, dilation)
        self.conv.padding = (dilation, dilation)
        results.append(self.conv(x))
    return results


def scalar_dilation(self: Any, x: torch.Tensor) -> Any:
    first = self.conv(x)
    self.conv.dilation = 2
    return first, self.conv(x)


def dilated_by_the_size(self: Any, x: torch.Tensor) -> Any:
    self.conv.dilation = (x.shape[-1] // 3, 1)
    return self.conv(x)


def dilated_lazy(self: Any, x: torch.Tensor) -> Any:
    first = self.lazy_conv(x)
    self.lazy_conv.stride = (2, 2)
    return first, self.lazy_conv(x)


def dilated_before_its_first_call(self: Any, x: torch.Tensor) -> Any:
    self.lazy_conv.stride = (2, 1)
    return self.lazy_conv(x)


def other_eps(self: Any, x: torch.Tensor) -> Any:
    first = self.norm(x)
    self.norm.eps = 0.5
    return first, self.norm(x)


def other_slope(self: Any, x: torch.Tensor) -> Any:
    self.leaky.negative_slope = 0.7
    return self.leaky(x)


def list_in_place(self: Any, x: torch.Tensor) -> Any:
    first = self.flatten(x)
    self.fold.normalized_shape = [4, 7, 7]
    return first, self.fold(x)


def changed_and_restored(self: Any, x: torch.Tensor) -> Any:
    before = self.conv.stride
    self.conv.stride = (2, 2)
    first = self.conv(x)
    self.conv.stride = before
    return first, self.conv(x)


def weights_in_a_loop(self: Any, x: torch.Tensor) -> Any:
    for name in ("weight", "bias"):
        getattr(self.layer, name).data.mul_(0.5)
    return self.layer(x)


ON_ROWS = [
    renormalised, data_clamped, data_replaced, data_shared, item_written, detached_written, written_between,
    initialised, new_parameter, bias_taken_away, filled, buffer_replaced, written_by_a_view, written_after,
    lazy_written, lazy_data, dilated, scalar_dilation, dilated_by_the_size, dilated_lazy,
    dilated_before_its_first_call, other_eps, other_slope, list_in_place, changed_and_restored, weights_in_a_loop,
]  # fmt: skip
ON_IMAGES = [
    filled, buffer_replaced, dilated, scalar_dilation, dilated_by_the_size, dilated_lazy,
    dilated_before_its_first_call, other_eps, list_in_place, changed_and_restored,
]  # fmt: skip


def several_layers() -> dict[str, nn.Module]:
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.running_var)  # type: ignore[arg-type]
    return {
        "layer": nn.Linear(4, 4), "other": nn.Linear(4, 4), "lazy": nn.LazyLinear(4), "norm": norm,
        "conv": nn.Conv2d(4, 4, 3, padding=1), "lazy_conv": nn.LazyConv2d(4, 3), "leaky": nn.LeakyReLU(),
        "flatten": nn.Flatten(), "fold": nn.LayerNorm([7, 7], elementwise_affine=False),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:the sample never reaches")
@pytest.mark.parametrize("forward", ON_ROWS)
def test_what_is_written_before_a_call_counts(forward: Any, tmp_path: Path) -> None:
    shape = IMAGE if forward in ON_IMAGES else FLAT
    agrees(lambda: Forward(forward, **several_layers()), tmp_path, data(*shape))


# Arguments that are no tensors --------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, 3, "text", (1, 2), True])
@pytest.mark.parametrize("layer", [nn.Identity, lambda: nn.Dropout(0.5)], ids=["identity", "dropout"])
def test_a_layer_that_is_given_no_tensor(layer: Callable[[], nn.Module], given: Any, tmp_path: Path) -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        found = self.layer(given)
        return x * 2 if found == given and type(found) is type(given) else x

    try:
        agrees(lambda: Forward(forward, layer=layer()), tmp_path, data(*FLAT))
    except TypeError:  # torch's own refusal
        with pytest.raises(TracerError):
            tracer.convert(Forward(forward, layer=layer()), (data(*FLAT),), verify=False)


def test_a_layer_that_is_given_several_tensors(tmp_path: Path) -> None:
    agrees(
        lambda: Forward(lambda self, x: [2 * part for part in self.layer((x, x + 1))], layer=nn.Identity()),
        tmp_path,
        data(*FLAT),
    )
