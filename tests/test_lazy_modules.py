"""Lazy modules of any kind: the caller's own, third parties', subclasses, repeated and tied ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.lazy import LazyModuleMixin

import tracer
from tests.test_dry_run_identity import assert_same, dry_run
from tracer import LazyResolutionError, spec


class Scaled(LazyModuleMixin, nn.Module):
    """A lazy module of the caller's: several parameters, a buffer, keyword arguments, no class to become."""

    def __init__(self, out: int):
        super().__init__()
        self.out = out
        self.weight = nn.UninitializedParameter()
        self.gain = nn.UninitializedParameter()
        self.register_buffer("offset", nn.UninitializedBuffer())

    def initialize_parameters(self, x: torch.Tensor, *, times: int = 1) -> None:
        if self.has_uninitialized_params():
            self.width = x.shape[-1]
            self.weight.materialize((self.out, self.width))
            self.gain.materialize((self.out,))
            self.offset.materialize((self.width,))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.weight)
        nn.init.normal_(self.gain)
        with torch.no_grad():
            self.offset.fill_(3)

    def forward(self, x: torch.Tensor, *, times: int = 1) -> torch.Tensor:
        return F.linear(x - self.offset, self.weight) * self.gain * times


class HookLinear(nn.Module):
    """PyTorch Geometric's protocol: a plain module that initialises itself in a forward pre-hook."""

    def __init__(self, out: int):
        super().__init__()
        self.in_channels, self.out_channels = -1, out
        self.weight = nn.UninitializedParameter()
        self._hook = self.register_forward_pre_hook(self.initialise)

    @torch.no_grad()
    def initialise(self, module: nn.Module, args: Any) -> None:
        if isinstance(self.weight, nn.UninitializedParameter):
            self.in_channels = args[0].size(-1)
            self.weight.materialize((self.out_channels, self.in_channels))
            nn.init.uniform_(self.weight)
        self._hook.remove()
        del self._hook

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight)


class Ones(nn.LazyLinear):
    """A subclass of torch's own with its own initialisation and forward."""

    def reset_parameters(self) -> None:
        if self.in_features > 0:
            nn.init.ones_(self.weight)
            nn.init.normal_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias).exp()


class Caller(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.LazyLinear(6), Scaled(5), HookLinear(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = self.first(x * 2)
        return self.third(self.second(x, times=2)) + side[..., :4]


def test_modules_of_the_callers_own_resolve_as_in_a_dry_run() -> None:
    model = Caller()
    found = tracer.resolve(model, spec(2, 7), seed=2)
    assert_same(found, dry_run(Caller(), (2, 7), 2))
    assert (found.second.width, found.third.in_channels) == (7, 5)  # type: ignore[union-attr]
    assert isinstance(model.second.weight, nn.UninitializedParameter)
    assert not hasattr(model.second, "width")
    assert model.third.in_channels == -1
    report = tracer.inspect(model, spec("N", 7))
    assert report.resolved == {
        "first": {"in_features": 7},
        "second": {"width": 7},
        "third": {"in_channels": 5},
    }


def test_they_take_the_direct_route() -> None:
    conversion = tracer.convert(Caller(), spec("N", 7), seed=0)
    assert conversion.route == "direct"
    assert {"second.weight", "second.gain", "second.offset", "third.weight"} <= set(conversion.lowered.weights)


def test_a_subclass_keeps_its_class_and_its_forward() -> None:
    conversion = tracer.convert(nn.Sequential(Ones(3)), spec("N", 4), seed=0)
    layer = conversion.module[0]  # type: ignore[index]
    assert type(layer) is Ones
    assert torch.equal(layer.weight, torch.ones(3, 4))
    assert not layer._forward_pre_hooks
    x = torch.randn(2, 4)
    assert torch.equal(conversion.module(x), F.linear(x, layer.weight, layer.bias).exp())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("convolution", ["SAGEConv", "GCNConv", "GATConv", "GraphConv"])
def test_pytorch_geometric(convolution: str) -> None:
    import torch_geometric.nn as geometric

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = getattr(geometric, convolution)(-1, 6)
            self.lin = geometric.Linear(-1, 5)
            self.out = nn.LazyLinear(2)

        def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            return self.out(self.lin(self.conv(x, edges)).relu())

    x, edges = torch.randn(4, 7), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    model, twin = Graph(), Graph()
    lazy = [name for name, tensor in model.state_dict().items() if isinstance(tensor, nn.UninitializedParameter)]
    found = tracer.resolve(model, (x, edges), seed=5)
    torch.manual_seed(5)
    with torch.no_grad():
        twin.eval()(x, edges)
    assert len(lazy) >= 4
    for name in lazy:
        assert torch.equal(found.state_dict()[name], twin.state_dict()[name]), name
    assert all(isinstance(model.state_dict()[name], nn.UninitializedParameter) for name in lazy)


@pytest.mark.parametrize("kind", [nn.LazyBatchNorm2d, nn.LazyInstanceNorm2d])
def test_a_norm_without_tensors_becomes_eager_too(kind: Any) -> None:
    model = nn.Sequential(kind(affine=False, track_running_stats=False))
    found = tracer.resolve(model, spec(2, 3, 4, 4))
    assert type(found[0]) is kind.cls_to_become
    assert found[0].num_features == 3
    assert type(model[0]) is kind


class TwoWidths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.fc(x)
        return first + self.fc(x[:, 1:])


def test_one_module_at_two_widths_names_both_calls() -> None:
    message = r"fc \(test_lazy_modules\.py:\d+\).*fc\.in_features = 8 from its call at test_lazy_modules\.py:\d+, "
    with pytest.raises(LazyResolutionError, match=message + r"but fc\.in_features = 7 from this one"):
        tracer.resolve(TwoWidths(), spec(2, 8))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.LazyLinear(8)
        self.right = self.left
        self.out = nn.LazyLinear(8, bias=False)
        self.head = nn.Linear(8, 8)
        self.head.weight = self.out.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.left(x) + self.right(x))


def test_shared_modules_and_tied_parameters_stay_so() -> None:
    for inplace in (False, True):
        found: Any = tracer.resolve(Shared(), spec("N", 8), seed=0, inplace=inplace)
        assert found.left is found.right
        assert found.head.weight is found.out.weight
        assert not isinstance(found.head.weight, nn.UninitializedParameter)
    conversion = tracer.convert(Shared(), spec("N", 8), seed=0)
    assert set(conversion.lowered.weights) == {"left.weight", "left.bias", "out.weight"}


def test_a_lazy_module_that_fails_to_initialise_is_named() -> None:
    class Fails(Scaled):
        def initialize_parameters(self, x: torch.Tensor, *, times: int = 1) -> None:
            raise ValueError("no such width")

    with pytest.raises(
        LazyResolutionError, match=r"0: Fails cannot initialise itself from .*ValueError: no such width"
    ):
        tracer.resolve(nn.Sequential(Fails(3)), spec(2, 8))


def test_a_layer_that_is_never_reached_is_named() -> None:
    class Unreached(TwoWidths):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    with pytest.warns(tracer.TracerWarning, match="the sample never reaches the lazy layers fc") as warned:
        found: Any = tracer.resolve(Unreached(), spec(2, 8))
    assert [entry.filename for entry in warned] == [__file__]
    assert isinstance(found.fc.weight, nn.UninitializedParameter)
    with pytest.raises(LazyResolutionError, match="never reaches the lazy layers fc"):
        tracer.resolve(Unreached(), spec(2, 8), strict=True)
