"""A tensor of one element where an operation takes a number: its value where it is known, another rung where not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer

X = torch.randn(2, 6, 4)
IMAGE = torch.randn(2, 3, 8, 8)
NUMBERS = {
    "third": torch.tensor(0.3),
    "one": torch.tensor(1),
    "two": torch.tensor(2),
    "three": torch.tensor(3),
    "last": torch.tensor(-1),
    "pair": torch.tensor([2]),
}

# `n` has the numbers: buffers in one test, inputs in the other.
FORMS: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "slope": lambda n, x: F.leaky_relu(x, n.third),
    "elu": lambda n, x: F.elu(x, n.third),
    "softplus": lambda n, x: F.softplus(x, beta=n.two),
    "hardtanh": lambda n, x: F.hardtanh(x, -n.third, n.third),
    "hardshrink": lambda n, x: F.hardshrink(x, n.third),
    "view": lambda n, x: x.view(2, n.three, -1),
    "view of one axis": lambda n, x: x.view(n.pair, -1),
    "reshape": lambda n, x: x.reshape((2, n.three, 8)),
    "unflatten": lambda n, x: x.unflatten(1, (n.two, n.three)),
    "expand": lambda n, x: x[:1].expand(n.three, -1, -1),
    "repeat": lambda n, x: x.repeat(n.two, 1, 1),
    "repeat of a tuple": lambda n, x: x.repeat((n.two, 1, n.three)),
    "tile": lambda n, x: x.tile((n.two,)),
    "repeat_interleave": lambda n, x: x.repeat_interleave(n.two, dim=n.one),
    "pad": lambda n, x: F.pad(x, (n.one, 0)),
    "pad with": lambda n, x: F.pad(x, (1, 0), value=n.third),
    "topk": lambda n, x: x.topk(n.two)[0],
    "alpha of add": lambda n, x: torch.add(x, x, alpha=n.third),
    "value of addcmul": lambda n, x: torch.addcmul(x, x, x, value=n.third),
    "beta of baddbmm": lambda n, x: torch.baddbmm(x, x, torch.ones(2, 4, 4), alpha=n.third, beta=n.two),
    "softmax": lambda n, x: F.softmax(x, dim=n.one),
    "sum": lambda n, x: x.sum(n.one),
    "mean of axes": lambda n, x: x.mean(dim=(n.one, n.two)),
    "var": lambda n, x: x.var(n.one),
    "correction": lambda n, x: x.var(1, correction=n.one),
    "transpose": lambda n, x: x.transpose(n.one, n.two),
    "permute": lambda n, x: x.permute(n.two, 0, n.one),
    "narrow": lambda n, x: x.narrow(1, n.one, n.two),
    "select": lambda n, x: x.select(n.one, n.two),
    "index": lambda n, x: x[n.one],
    "slice": lambda n, x: x[:, n.one : n.three],
    "split": lambda n, x: x.split([n.two, 4], n.one)[1],
    "chunk": lambda n, x: x.chunk(n.two, n.one)[0],
    "cat": lambda n, x: torch.cat([x, x], dim=n.one),
    "roll": lambda n, x: x.roll((n.two, 1), (0, n.one)),
    "flip": lambda n, x: x.flip((n.one, n.two)),
    "full": lambda n, x: x + torch.full((4,), n.third),
    "full of a size": lambda n, x: x[:, :3] + torch.full((n.three, 1), 1.0),
    "zeros": lambda n, x: x[:, :3] + torch.zeros(n.three, 1),
    "eye": lambda n, x: x[:, :3, :3] + torch.eye(n.three),
    "arange": lambda n, x: x[:, :2] + torch.arange(n.one, n.three)[:, None],
    "linspace": lambda n, x: x[..., :3] + torch.linspace(0, 1, n.three),
    "new_full": lambda n, x: x + x.new_full((n.one,), n.third),
    "clamp": lambda n, x: torch.clamp(x, n.third),
    "eps of a norm": lambda n, x: F.layer_norm(x, (4,), eps=n.third),
    "groups of a norm": lambda n, x: F.group_norm(x, n.two, eps=n.third),
    "p of a norm": lambda n, x: x.norm(p=n.three, dim=n.last),
    "normalize": lambda n, x: F.normalize(x, p=n.three, dim=n.one, eps=n.third),
    "attention": lambda n, x: F.scaled_dot_product_attention(x, x, x, scale=n.third),
    "decimals": lambda n, x: torch.round(x, decimals=n.two),
    "tril": lambda n, x: x.tril(n.one),
    "one_hot": lambda n, x: F.one_hot((x > 0).long(), n.two),
    "tensordot": lambda n, x: torch.tensordot(x[0], x[0].T, dims=n.one),
    "a number times a tensor of it": lambda n, x: x + F.leaky_relu(n.third, n.third),
}
ON_IMAGES: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "conv": lambda n, x: F.conv2d(x, torch.ones(3, 3, 3, 3), stride=(n.two, 1), padding=n.one),
    "max_pool": lambda n, x: F.max_pool2d(x, n.two),
    "avg_pool": lambda n, x: F.avg_pool2d(x, (n.two, n.two)),
    "adaptive": lambda n, x: F.adaptive_avg_pool2d(x, (n.two, n.one)),
    "interpolate": lambda n, x: F.interpolate(x, size=(n.three, n.three)),
    "pixel_unshuffle": lambda n, x: F.pixel_unshuffle(x, n.two),
}
EVERY = {name: (form, X) for name, form in FORMS.items()} | {name: (form, IMAGE) for name, form in ON_IMAGES.items()}


class Known(nn.Module):
    def __init__(self, form: Callable[..., Any]):
        super().__init__()
        self.form = form
        for name, number in NUMBERS.items():
            self.register_buffer(name, number.clone())

    def forward(self, x: torch.Tensor) -> Any:
        return self.form(self, x)


class Given(nn.Module):
    def __init__(self, form: Callable[..., Any]):
        super().__init__()
        self.form = form

    def forward(self, x: torch.Tensor, numbers: dict[str, torch.Tensor]) -> Any:
        return self.form(SimpleNamespace(**numbers), x)


@pytest.mark.parametrize("name", EVERY)
def test_a_known_number_is_taken_as_it_is(name: str) -> None:
    form, x = EVERY[name]
    conversion = tracer.convert(Known(form), (x,), route="direct")
    assert conversion.verification is not None
    assert not conversion.report.rungs


@pytest.mark.parametrize("name", EVERY)
def test_an_unknown_number_is_no_error_of_ours(name: str) -> None:
    """The file agrees, or the operation is named among those that have no lowering."""
    form, x = EVERY[name]
    try:
        tracer.convert(Given(form), (x, NUMBERS), route="direct")
    except tracer.UnsupportedOpError as refusal:
        assert refusal.blockers  # noqa: PT017


def test_what_was_read_is_a_guard() -> None:
    report = tracer.inspect(Known(FORMS["view"]), X)
    assert [str(guard.condition) for guard in report.guards] == ["three is 3, from the model's own tensors"]


def test_where_it_is_unknown_another_rung_resolves_the_model() -> None:
    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.leaky_relu(x, x.mean().abs())

    model = nn.Sequential(nn.LazyLinear(3), Inner(), nn.LazyLinear(2))
    with torch.no_grad():
        assert tracer.resolve(model, X)(X).shape == (2, 6, 2)


t = torch.tensor
LAYERS: list[tuple[nn.Module, torch.Tensor]] = [
    (nn.LeakyReLU(t(0.3)), X),  # type: ignore[arg-type]
    (nn.Softmax(t(1)), X),  # type: ignore[arg-type]
    (nn.Flatten(t(1)), X),  # type: ignore[arg-type]
    (nn.ZeroPad2d((t(1), 0, 0, 0)), IMAGE),  # type: ignore[arg-type]
    (nn.MaxPool2d(t(2)), IMAGE),  # type: ignore[arg-type]
    (nn.AvgPool2d((t(2), t(2))), IMAGE),  # type: ignore[arg-type]
    (nn.AdaptiveAvgPool2d((t(2), t(1))), IMAGE),  # type: ignore[arg-type]
    (nn.Upsample(size=(t(3), t(3))), IMAGE),  # type: ignore[arg-type]
    (nn.BatchNorm2d(3, eps=t(0.1)), IMAGE),  # type: ignore[arg-type]
    (nn.GroupNorm(3, 3, eps=t(0.1)), IMAGE),  # type: ignore[arg-type]
    (nn.GLU(t(-1)), X),  # type: ignore[arg-type]
    (nn.Threshold(t(0.1), t(0.2)), X),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("layer", "x"), LAYERS, ids=lambda value: type(value).__name__)
def test_so_is_that_of_a_layer(layer: nn.Module, x: torch.Tensor) -> None:
    tracer.convert(layer.eval(), (x,), route="direct")
