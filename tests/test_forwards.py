"""What people write in a forward: each takes the direct route and agrees with the module at two batch sizes."""

from __future__ import annotations

import collections
import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import tracer
from tests.reading import moved
from tracer import spec

Forward = Callable[..., Any]
ROWS, SEQUENCE, IMAGE = ("N", 8), ("N", "T", 8), ("N", 3, "H", "W")
CASES: list[tuple[Forward, tuple[Any, ...]]] = []


def of(*shape: Any) -> Callable[[Forward], Forward]:
    """Adds a forward that takes one tensor of this shape."""

    def add(forward: Forward) -> Forward:
        CASES.append((forward, shape))
        return forward

    return add


class Net(nn.Module):
    """Lazy and other layers, parameters and a cache, with the forward it is given."""

    def __init__(self, forward: Forward):
        super().__init__()
        self.fc = nn.LazyLinear(4)
        self.scale = nn.Parameter(torch.randn(8))
        self.layers = nn.ModuleList([nn.LazyLinear(8), nn.LazyLinear(8)])
        self.scales = nn.ParameterList([torch.randn(8), torch.randn(8)])
        self.weight_normed = parametrizations.weight_norm(nn.Linear(8, 3))
        self.spectral_normed = parametrizations.spectral_norm(nn.Linear(8, 3))
        self.hooked = nn.utils.spectral_norm(nn.Linear(8, 3))
        self.cache: dict[Any, Any] = {}
        self.call = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.call(self, x)


# Questions about shapes ---------------------------------------------------------------------------


@of(*ROWS)
def compares_shapes(m: Any, x: Any) -> Any:
    assert x.shape[1:] == (8,)
    assert tuple(x.shape)[1] == 8
    assert len(x.shape) == 2
    assert x.shape == (x * 2).shape
    return m.fc(x)


@of(*ROWS)
def products_of_sizes(m: Any, x: Any) -> Any:
    first = x.view(-1, x.size()[1:].numel())
    second = x.view(-1, int(np.prod(x.shape[1:])))
    third = x.view(-1, 2, 4).view(-1, *x.shape[1:])
    return m.fc(first + second + third + x.view(-1, math.prod(x.shape[1:])))


@of(*ROWS)
def arithmetic_on_sizes(m: Any, x: Any) -> Any:
    n = x.shape[1]
    quotient, rest = divmod(n, 3)
    numbers = [
        max(n, 3),
        min(n, 3),
        sum(x.shape[1:]),
        abs(n - 9),
        round(n / 3),
        n & 1,
        n | 1,
        n ^ 3,
        n << 1,
        n >> 1,
        ~n,
    ]
    return m.fc(x / math.sqrt(n) * n**-0.5) * quotient + rest + sum(numbers)


@of(*ROWS)
def shape_as_a_list(m: Any, x: Any) -> Any:
    sizes = list(x.shape)
    sizes[1] = 2
    return m.fc(x.view([*sizes, 4]).flatten(1))


@of(*ROWS)
def looks_a_size_up(m: Any, x: Any) -> Any:
    x = {8: x, 9: -x}[x.shape[1]] if x.shape[1] in (4, 8) else x * 0
    assert f"{x.shape[1]} of {x.dtype}" == "8 of torch.float32"
    return m.fc(m.layers[x.shape[1] % 2](x))


@of(*ROWS)
def caches_by_size(m: Any, x: Any) -> Any:
    key = (x.shape[1], x.device)
    if key not in m.cache:
        m.cache[key] = torch.ones(x.shape[1])
    return m.fc(x + m.cache[key])


@of(*ROWS)
def tensors_of_sizes(m: Any, x: Any) -> Any:
    sizes = torch.tensor([x.shape[0], x.shape[1]])
    return m.fc(x * torch.tensor(x.shape[1])) + torch.as_tensor(x.shape[0]) + sizes.sum()


@of(*ROWS)
def fraction_of_the_batch(m: Any, x: Any) -> Any:
    return m.fc(x) * (x.shape[0] / 2) + 1 / x.shape[0] - (x.shape[0] - 1) / (x.shape[0] + 1) * 0.5


@of(*SEQUENCE)
def rounds_a_fraction(m: Any, x: Any) -> Any:
    t = x.shape[1]
    first, last = math.ceil(t / 7), math.floor((t + 1) / 2 * 0.5)
    return m.fc(x)[:, :first].sum(1) + m.fc(x)[:, last:].sum(1)


@of(*SEQUENCE)
def halves(m: Any, x: Any) -> Any:
    half = x.shape[1] // 2
    return m.fc(x[:, :half]).sum(1) + m.fc(x[:, half:]).sum(1)


@of(*IMAGE)
def pads_to_a_multiple(m: Any, x: Any) -> Any:
    h, w = x.shape[-2:]
    return m.fc(F.pad(x, (0, (7 - w % 7) % 7, 0, (7 - h % 7) % 7)).mean((2, 3)))


@of(*IMAGE)
def resizes_back(m: Any, x: Any) -> Any:
    nearest = F.interpolate(F.max_pool2d(x, 2), size=x.shape[-2:], mode="nearest")
    return nearest + F.interpolate(F.avg_pool2d(x, 2), size=(x.shape[2], x.shape[3]), mode="bilinear")


# Sequences ------------------------------------------------------------------------------------------


@of(*SEQUENCE)
def masked_attention(m: Any, x: Any) -> Any:
    b, t, _ = x.shape
    positions = torch.arange(t, device=x.device).unsqueeze(0).expand(b, t)
    mask = torch.ones(t, t).tril()
    weights = (x @ x.transpose(1, 2)).masked_fill(mask == 0, float("-inf")).softmax(-1)
    return m.fc(weights @ x + positions.unsqueeze(-1))


@of(*SEQUENCE)
def causal_attention(m: Any, x: Any) -> Any:
    t = x.size(1)
    mask = torch.triu(torch.full((t, t), float("-inf")), diagonal=1)
    return m.fc(((x @ x.mT) + mask).softmax(-1) @ x)


@of(*SEQUENCE)
def class_token(m: Any, x: Any) -> Any:
    repeated = m.scale.view(1, 1, 8).repeat(x.shape[0], x.shape[1], 1)
    return m.fc(torch.cat([m.scale.expand(x.shape[0], 1, -1), x + repeated], 1))[:, 0]


@of(*SEQUENCE)
def flattens_and_unflattens(m: Any, x: Any) -> Any:
    scaled = x * torch.linspace(0, 1, x.shape[1])[None, :, None]
    scores = torch.einsum("btc,bsc->bts", scaled, x) @ x
    return m.fc(scores).flatten(0, 1).unflatten(0, (x.shape[0], -1)).sum(dim=(1,)).squeeze()


# Python around tensors ------------------------------------------------------------------------------


@of(*ROWS)
def modes(m: Any, x: Any) -> Any:
    if torch.jit.is_scripting() or torch.jit.is_tracing():
        return x
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return m.fc(x) if torch.is_grad_enabled() or not m.training else x


@of(*ROWS)
def warns(m: Any, x: Any) -> Any:
    if x.shape[1] > 4:
        warnings.warn("wide", stacklevel=1)
    return m.fc(x)


@of(*ROWS)
def loops(m: Any, x: Any) -> Any:
    for scale in m.scales:
        x = x * scale
    columns = [column * index for index, column in enumerate(torch.unbind(x, 1))]
    parts = sum(part for part in x.split(1, dim=1))
    zipped = sum(scale * part for scale, part in zip(m.scales, (x, x), strict=True))
    return m.fc(torch.stack(columns, 1) + parts + zipped + [x * index for index in range(3)][2])


@of(*ROWS)
def reduces(m: Any, x: Any) -> Any:
    return functools.reduce(torch.add, [m.fc(x)] * 3)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * 2


class Tripled(torch.autograd.Function):
    @staticmethod
    def forward(x: torch.Tensor, times: int = 3) -> torch.Tensor:
        return x * times

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(output)


doubled = Doubled.apply


@of(*ROWS)
def autograd_functions(m: Any, x: Any) -> Any:
    return m.fc(doubled(x) + Tripled.apply(x) + Doubled.apply(m.scale))


@of(*ROWS)
def tensors_of_tensors(m: Any, x: Any) -> Any:
    return m.fc(torch.as_tensor(x) + torch.tensor([x.shape[0], 1]).sum())


@of(*ROWS)
def checkpoints(m: Any, x: Any) -> Any:
    return m.fc(checkpoint(lambda y: y * 2, x, use_reentrant=False))


@of(*ROWS)
def new_tensors(m: Any, x: Any) -> Any:
    made = x.new_zeros(x.size(0), 8) + torch.zeros_like(x) + x.new_tensor([1.0] * 8) + x.new_ones(x.shape)
    more = torch.ones((x.shape[0], 8), dtype=x.dtype, device=x.device) + torch.from_numpy(np.ones(8, np.float32))
    return m.fc(x + made + more + torch.tensor([1.0, 2.0] * 4)) * torch.arange(3).tolist()[1]


@of(*ROWS)
def dtypes(m: Any, x: Any) -> Any:
    return m.fc(x.double().to(torch.float32).type_as(x).type(torch.float32).to(x).data.detach().clone())


@of(*ROWS)
def reads_parameters(m: Any, x: Any) -> Any:
    return m.fc(-x if m.scale.sum() > 1e9 else x) * m.scale.sum().item() + x.sum().item()


@of(*ROWS)
def chooses_by_element(m: Any, x: Any) -> Any:
    return m.fc(torch.where(x > 0, x, torch.zeros(()))) + x.T.T[:, :4]


# Writing in place -----------------------------------------------------------------------------------


@of(*ROWS)
def writes_through_a_mask(m: Any, x: Any) -> Any:
    y = x.clone()
    y[y < 0] = 0
    return m.fc(F.relu_(y))


@of(*ROWS)
def writes_through_views(m: Any, x: Any) -> Any:
    y = x.clone()
    part = y[:, :4]
    part.add_(1)
    pairs = y.view(-1, 2, 4)
    pairs[:, 0] += 1
    return m.fc(y)


@of(*ROWS)
def fills_an_empty_tensor(m: Any, x: Any) -> Any:
    out = torch.empty(x.shape[0], 8)
    out[:, :4] = x[:, 4:]
    out[:, 4:].copy_(x[:, :4])
    return m.fc(out)


# Parametrised weights -------------------------------------------------------------------------------


@of(*ROWS)
def parametrised_weights(m: Any, x: Any) -> Any:
    return m.fc(torch.cat([m.weight_normed(x), m.spectral_normed(x), m.hooked(x)], 1))


# Results --------------------------------------------------------------------------------------------

Pair = collections.namedtuple("Pair", "first second")


@dataclass
class Result:
    logits: torch.Tensor
    hidden: list[torch.Tensor]


@of(*ROWS)
def named_tuple(m: Any, x: Any) -> Any:
    return Pair(m.fc(x), x * 2)


@of(*ROWS)
def dataclass_result(m: Any, x: Any) -> Any:
    return Result(m.fc(x), [x, x * 2])


@of(*ROWS)
def nested_results(m: Any, x: Any) -> Any:
    y = m.fc(x)
    return {"logits": y, "again": y, "none": None, "hidden": [x, x * 2]}


@of(*ROWS)
def ignores_its_input(m: Any, x: Any) -> Any:
    return m.fc(torch.ones(2, 3))


@pytest.mark.filterwarnings("ignore::tracer.TracerWarning", "ignore:wide", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("forward", "shape"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_forward(forward: Forward, shape: tuple[Any, ...]) -> None:
    conversion = tracer.convert(Net(forward), spec(*shape), route="direct")
    assert conversion.verification is not None
    assert moved(conversion.verification) >= {frozenset([name]) for name in conversion.report.sampled}


@pytest.mark.filterwarnings("ignore::tracer.TracerWarning")
def test_names_of_results() -> None:
    assert tracer.convert(Net(named_tuple), spec(*ROWS)).lowered.output_names == ["first", "second"]
    assert tracer.convert(Net(dataclass_result), spec(*ROWS)).lowered.output_names == ["logits", "hidden_0", "hidden_1"]
