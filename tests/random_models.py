"""Small random networks out of lazy layers, for comparing ways of resolving them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

CONVOLUTIONS = {1: nn.LazyConv1d, 2: nn.LazyConv2d, 3: nn.LazyConv3d}
TRANSPOSED = {1: nn.LazyConvTranspose1d, 2: nn.LazyConvTranspose2d, 3: nn.LazyConvTranspose3d}
BATCH_NORMS = {1: nn.LazyBatchNorm1d, 2: nn.LazyBatchNorm2d, 3: nn.LazyBatchNorm3d}
INSTANCE_NORMS = {1: nn.LazyInstanceNorm1d, 2: nn.LazyInstanceNorm2d, 3: nn.LazyInstanceNorm3d}
AVERAGES = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}

Build = Callable[[], nn.Module]


class Residual(nn.Module):
    """`x + f(x)`, where `f` keeps the shape."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Branches(nn.Module):
    """The results of several modules side by side, called from the last to the first."""

    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        results = [branch(x) for branch in reversed(self.branches)]
        return torch.cat(results[::-1], 1)


class Twice(nn.Module):
    """One module, called twice."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) - self.body(x * 2)


class Noisy(nn.Module):
    """A forward that draws random numbers between its layers."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x + torch.randn_like(x)) + torch.rand(1)


@dataclass(frozen=True)
class RandomModel:
    """How to build a network (as often as needed), and the shape it takes."""

    build: Build
    shape: tuple[int, ...]


@st.composite
def random_models(draw: st.DrawFn) -> RandomModel:
    rank = draw(st.integers(1, 3))
    shape = (2, draw(st.sampled_from([2, 4, 6])), *(draw(st.integers(5, 7)) for _ in range(rank)))
    parts = draw(st.lists(_blocks(rank), min_size=1, max_size=4))
    head = draw(st.sampled_from(["linear", "pooled", "none"]))
    features = draw(st.integers(1, 8))

    def build() -> nn.Module:
        modules = [part() for part in parts]
        if head == "pooled":
            modules.append(AVERAGES[rank](2))
        if head != "none":
            modules += [nn.Flatten(), nn.LazyLinear(features), nn.Dropout(), nn.Tanh(), nn.LazyLinear(3, bias=False)]
        return nn.Sequential(*modules)

    return RandomModel(build, shape)


def _blocks(rank: int) -> st.SearchStrategy[Build]:
    return st.recursive(_layers(rank), lambda inner: _combined(inner), max_leaves=4)


def _layers(rank: int) -> st.SearchStrategy[Build]:
    """Layers that keep the spatial sizes."""
    channels = st.sampled_from([2, 4, 6])

    def convolution(out: int, kernel: int, groups: int, bias: bool, transposed: bool) -> Build:
        kind = (TRANSPOSED if transposed else CONVOLUTIONS)[rank]
        options: dict[str, Any] = {"padding": kernel // 2, "groups": groups, "bias": bias}
        return lambda: kind(out, kernel, **options)

    convolutions = st.builds(
        convolution, channels, st.sampled_from([1, 3]), st.sampled_from([1, 2]), st.booleans(), st.booleans()
    )
    norms = st.sampled_from([BATCH_NORMS[rank], INSTANCE_NORMS[rank]])
    options = st.fixed_dictionaries({"affine": st.booleans(), "track_running_stats": st.booleans()})
    normalised = st.builds(lambda kind, given: lambda: kind(**given), norms, options)
    activations = st.sampled_from([nn.ReLU, nn.Sigmoid, nn.Identity])
    return st.one_of(convolutions, convolutions, normalised, activations)


def _combined(inner: st.SearchStrategy[Build]) -> st.SearchStrategy[Build]:
    def sequence(parts: list[Build]) -> Build:
        return lambda: nn.Sequential(*(part() for part in parts))

    def branches(parts: list[Build]) -> Build:
        return lambda: Branches(*(part() for part in parts))

    def wrapped(kind: Callable[[nn.Module], nn.Module], part: Build) -> Build:
        # Pooling the channels to a fixed number makes any body keep the shape that a residual needs.
        return lambda: kind(part())

    several = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        st.builds(sequence, several),
        st.builds(branches, several),
        st.builds(wrapped, st.sampled_from([Twice, Noisy]), inner),
        st.builds(lambda part: lambda: Residual(nn.Sequential(part(), _Narrow())), inner),
    )


class _Narrow(nn.Module):
    """One channel, which broadcasts against any number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1, keepdim=True)
