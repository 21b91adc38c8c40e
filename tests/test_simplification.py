"""A smaller graph that computes the same, and a model that is not touched by it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import tracer


def trained(model: nn.Module) -> nn.Module:
    """The model with batch norms that have seen something."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.weight, module.bias):
                if tensor is not None:
                    nn.init.normal_(tensor)
            if module.running_var is not None:
                nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def convert(model: nn.Module, *shape: int, **options: Any) -> tracer.Conversion:
    return tracer.convert(model, tracer.spec("N", *shape), **options)


def op_types(conversion: tracer.Conversion) -> list[str]:
    return [node.op_type for node in conversion.lowered.proto.graph.node]


FOLDABLE = [
    (nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), (4, 9)),
    (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)), (4, 6, 6)),
    (nn.Sequential(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3, affine=False)), (2, 4, 4, 4)),
    (nn.Sequential(nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6)), (4, 9)),
    (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (4, 6, 6)),
    (nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)), (5,)),
]


@pytest.mark.parametrize(("model", "shape"), FOLDABLE)
def test_a_batch_norm_is_folded(model: nn.Module, shape: tuple[int, ...]) -> None:
    model = trained(copy.deepcopy(model))
    conversion = convert(model, *shape)
    assert "BatchNormalization" not in op_types(conversion)
    assert conversion.verification is not None
    assert conversion.verification.largest_difference < 1e-4
    keys = set(model.state_dict())
    assert [node.name for node in conversion.lowered.proto.graph.node if not node.name.startswith("0/")] == ["0"]
    assert {"0_1.weight", "0_1.bias"} == set(conversion.lowered.weights)
    assert not keys & set(conversion.lowered.weights)
    assert set(conversion.module.state_dict()) == keys
    assert "BatchNormalization" in op_types(convert(model, *shape, fold_batchnorm=False))
    x = torch.randn(3, *shape)
    torch.testing.assert_close(conversion.graph_module(x), model.eval()(x), rtol=1e-4, atol=1e-5)


class TwoUsers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + self.norm(y)


class CalledTwice(TwoUsers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(self.conv(x)))


class Hooked(TwoUsers):
    def __init__(self) -> None:
        super().__init__()
        self.norm.register_forward_hook(lambda module, args, output: output * 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class BatchStatistics(TwoUsers):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


def test_a_weight_folded_in_one_place_stays_itself_in_another() -> None:
    class Tied(TwoUsers):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x)) + nn.functional.conv2d(x, self.conv.weight)

    conversion = convert(trained(Tied()), 2, 4, 4)
    weights = conversion.lowered.weights
    assert list(weights) == ["conv_norm.weight", "conv_norm.bias", "conv.weight"]
    assert weights["conv.weight"] is conversion.module.conv.weight


@pytest.mark.parametrize("kind", [TwoUsers, CalledTwice, Hooked, BatchStatistics])
def test_what_is_not_folded(kind: type[nn.Module]) -> None:
    conversion = convert(trained(kind()), 2, 4, 4)
    assert "conv.weight" in conversion.lowered.weights
    assert conversion.verification is not None


def test_identities_and_dropout_leave_no_trace() -> None:
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.5), nn.Linear(5, 5), nn.Dropout1d(), nn.Flatten(), nn.ReLU())
    conversion = convert(model.train(), 5)
    assert op_types(conversion) == ["Gemm", "Relu"]
    assert conversion.module.training


def test_what_no_output_needs_is_gone() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.LazyLinear(3), nn.LazyLinear(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.unused(x) * 2
            return self.used(x)

    conversion = convert(Dead(), 5)
    assert op_types(conversion) == ["Gemm"]
    assert set(conversion.lowered.weights) == {"used.weight", "used.bias"}
    assert conversion.report.resolved["unused"] == {"in_features": 5}


def test_a_folded_layer_takes_no_name_of_the_models() -> None:
    class Taken(TwoUsers):
        def __init__(self) -> None:
            super().__init__()
            self.conv_norm = nn.Conv2d(2, 2, 1)
            self.conv_norm_ = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv_norm(self.norm(self.conv(x)) * self.conv_norm_)

    conversion = convert(trained(Taken()), 2, 4, 4)
    weights = conversion.lowered.weights
    assert weights["conv_norm.weight"] is conversion.module.conv_norm.weight
    assert {"conv_norm__.weight", "conv_norm__.bias", "conv_norm_"} < set(weights)
    x = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(conversion.graph_module(x), conversion.module.eval()(x), rtol=1e-4, atol=1e-5)


def test_of_two_batch_norms_one_is_folded() -> None:
    conversion = convert(trained(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2))), 2, 4, 4)
    assert op_types(conversion) == ["Conv", "BatchNormalization"]
