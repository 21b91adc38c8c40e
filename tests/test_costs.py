"""Multiply-adds: against counts by hand, and against torch's own counter where that counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import tracer
from tracer.reports.report import Report


class Calls(nn.Module):
    """A model that is one function."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def inspected(model: nn.Module | Callable[..., Any], *shapes: tuple[int | str, ...]) -> Report:
    module = model if isinstance(model, nn.Module) else Calls(model)
    return tracer.inspect(module, tuple(tracer.spec(*shape) for shape in shapes))


def counted_by_torch(model: nn.Module, *shapes: tuple[int, ...]) -> int:
    """Torch's count, with attention in parts: it does not count inside what is fused for a CPU."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model.eval()(*(torch.randn(shape) for shape in shapes))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops()


COUNTED: dict[str, tuple[nn.Module, tuple[tuple[int, ...], ...]]] = {
    "linear": (nn.Linear(5, 7), ((3, 4, 5),)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), ((2, 4, 11),)),
    "grouped conv2d": (nn.Conv2d(4, 6, (3, 2), groups=2, dilation=2), ((2, 4, 9, 8),)),
    "conv3d": (nn.Conv3d(2, 3, 2), ((1, 2, 4, 5, 6),)),
    "transposed conv2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), ((2, 4, 5, 6),)),
    "functional linear": (Calls(F.linear), ((3, 5), (7, 5))),
    "functional conv2d": (Calls(F.conv2d), ((2, 4, 9, 8), (6, 4, 3, 3))),
    "mm": (Calls(torch.mm), ((3, 4), (4, 5))),
    "bmm": (Calls(torch.bmm), ((2, 3, 4), (2, 4, 5))),
    "broadcast matmul": (Calls(torch.matmul), ((2, 1, 3, 4), (5, 4, 6))),
    "addmm": (Calls(torch.addmm), ((3, 5), (3, 4), (4, 5))),
    "baddbmm": (Calls(torch.baddbmm), ((2, 3, 5), (2, 3, 4), (2, 4, 5))),
    "einsum": (Calls(lambda a, b: torch.einsum("bhid,bhjd->bhij", a, b)), ((2, 3, 4, 5), (2, 3, 6, 5))),
    "tensordot": (Calls(lambda a, b: torch.tensordot(a, b, dims=2)), ((3, 4, 5), (4, 5, 6))),
    "attention": (Calls(F.scaled_dot_product_attention), ((2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 8))),
    "bilinear": (Calls(lambda x, y: x @ y.mT @ x), ((4, 3), (4, 3))),
}


@pytest.mark.parametrize("name", COUNTED)
def test_half_of_torchs_floating_point_operations(name: str) -> None:
    model, shapes = COUNTED[name]
    macs = inspected(model, *shapes).macs
    assert isinstance(macs, int)
    assert macs > 0
    assert 2 * macs == counted_by_torch(model, *shapes)


def test_transformer_agrees_with_torch() -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    projections, products, feedforward = 4 * 2 * 5 * 16 * 16, 2 * 2 * 5 * 5 * 16, 2 * 2 * 5 * 16 * 32
    report = inspected(model, (2, 5, 16))
    assert report.macs == projections + products + feedforward
    assert 2 * report.macs == counted_by_torch(model, (2, 5, 16))


def resized(mode: str, **options: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: F.interpolate(x, scale_factor=2, mode=mode, **options)


BY_HAND: dict[str, tuple[nn.Module | Callable[..., Any], tuple[tuple[int, ...], ...], int]] = {
    "LSTM": (nn.LSTM(3, 4, num_layers=2, bidirectional=True), ((5, 2, 3),), 10 * 2 * (16 * (3 + 4) + 16 * (8 + 4))),
    "projected LSTM": (nn.LSTM(3, 4, proj_size=2), ((5, 2, 3),), 10 * (16 * (3 + 2) + 2 * 4)),
    "GRU": (nn.GRU(3, 4, batch_first=True), ((2, 5, 3),), 10 * 12 * (3 + 4)),
    "RNN without a batch": (nn.RNN(3, 4), ((5, 3),), 5 * 4 * (3 + 4)),
    "LSTMCell": (nn.LSTMCell(3, 4), ((2, 3),), 2 * 16 * (3 + 4)),
    "nearest": (resized("nearest"), ((2, 3, 4, 5),), 0),
    "linear": (resized("linear"), ((2, 3, 4),), 2 * 3 * 8 * 2),
    "bilinear": (resized("bilinear"), ((2, 3, 4, 5),), 2 * 3 * 8 * 10 * 4),
    "bicubic": (resized("bicubic"), ((2, 3, 4, 5),), 2 * 3 * 8 * 10 * 16),
    "trilinear": (resized("trilinear"), ((1, 2, 2, 3, 4),), 2 * 4 * 6 * 8 * 8),
    "Upsample": (nn.Upsample(size=(7, 9), mode="bilinear"), ((1, 2, 3, 4),), 2 * 63 * 4),
    "area": (resized("area"), ((2, 3, 4, 5),), 0),
    "grid_sample": (
        lambda x, grid: F.grid_sample(x, grid, align_corners=False), ((2, 3, 4, 5), (2, 6, 7, 2)), 2 * 3 * 42 * 4,
    ),
    "nearest grid_sample": (
        lambda x, grid: F.grid_sample(x, grid, mode="nearest", align_corners=False),
        ((2, 3, 4, 5), (2, 6, 7, 2)),
        0,
    ),
    "affine_grid": (
        lambda theta: F.affine_grid(theta, [2, 3, 4, 5], align_corners=False), ((2, 2, 3),), 2 * 20 * 2 * 3,
    ),
    "reflected matmul": (lambda a, b: b.__rmatmul__(a), ((3, 4), (4, 5)), 3 * 4 * 5),
    "kron": (torch.kron, ((2, 3), (4, 5)), 8 * 15),
    "cross": (torch.linalg.cross, ((4, 3), (4, 3)), 4 * 6),
    "dot": (torch.dot, ((7,), (7,)), 7),
    "mv": (torch.mv, ((3, 4), (4,)), 12),
    "outer": (torch.outer, ((3,), (4,)), 12),
    "multi_dot": (lambda a, b, c: torch.linalg.multi_dot([a, b, c]), ((2, 3), (3, 4), (4, 5)), 24 + 40),
    "grouped-query attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        ((2, 4, 5, 8), (2, 2, 6, 8), (2, 2, 6, 8)),
        2 * 4 * 5 * 6 * (8 + 8),
    ),
    "pooling and activation": (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(3)), ((1, 3, 4, 4),), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_counted_by_hand(name: str) -> None:
    model, shapes, expected = BY_HAND[name]
    assert inspected(model, *shapes).macs == expected


def test_attention_module_with_other_widths() -> None:
    module = nn.MultiheadAttention(8, 2, kdim=3, vdim=5, batch_first=True)
    report = tracer.inspect(module, (tracer.spec(2, 4, 8), tracer.spec(2, 6, 3), tracer.spec(2, 6, 5)))
    queries_and_result, keys, values, products = 2 * 2 * 4 * 64, 2 * 6 * 3 * 8, 2 * 6 * 5 * 8, 2 * 2 * 4 * 6 * 8
    assert report.macs == queries_and_result + keys + values + products


def test_functional_operations_are_told_and_totals_agree() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            q = self.query(x)
            return q @ q.transpose(1, 2)

    report = inspected(Scores(), ("N", 5, 6))
    (operation,) = report.operations
    assert (operation.path, operation.type, operation.macs) == ("matmul", "matmul", "100*N")
    assert [step.path for step in report.steps] == ["query", "matmul"]
    assert report.macs == "220*N"
    assert report.macs_sampled == 440 == sum(step.macs_sampled for step in report.steps)
    assert not any(guard.dynamic for guard in report.guards)


def test_a_shared_layer_costs_at_each_call() -> None:
    layer = nn.Linear(4, 4)
    report = inspected(nn.Sequential(layer, nn.ReLU(), layer), (3, 4))
    assert (report.params, report.macs, report.weight_bytes) == (20, 2 * 3 * 16, 80)
