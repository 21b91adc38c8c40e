"""A module's call is followed where its class, or it itself, has other methods, attributes or tensors than torch's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn

from tests.leaf_condition.models import FLAT, IMAGE, Forward, after, agrees, data, rows


class ConvOfItsOwn(nn.Conv2d):
    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return super()._conv_forward(x, weight / weight.norm(), bias)


class CallOfItsOwn(nn.Linear):
    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        return super()._call_impl(*args, **kwargs) * 2


class Called(nn.Linear):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs) * 2


class OtherAttributes(nn.Linear):
    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return found * 2 if name == "weight" and "ready" in self.__dict__ else found


class OtherLookup(nn.Linear):
    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return found * 2 if name == "bias" else found


class Equalized(nn.Linear):
    """Its weight is computed from another parameter."""

    def __init__(self, *sizes: int):
        super().__init__(*sizes)
        self.raw = self._parameters.pop("weight")

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        return self.raw * 0.5

    @weight.setter
    def weight(self, value: nn.Parameter) -> None:
        self._parameters["weight"] = value


class EqualizedAside(nn.Conv2d):
    """The registered weight stays, and a property hides it."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self._parameters["weight"])  # type: ignore[arg-type]
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        if "weight" not in self._parameters:
            raise AttributeError("weight")
        return self._parameters["weight"] * 0.5  # type: ignore[operator]

    @weight.setter
    def weight(self, value: nn.Parameter) -> None:
        self._parameters["weight"] = value


class OtherSlope(nn.LeakyReLU):
    @property
    def negative_slope(self) -> float:  # type: ignore[override]
        return 0.5

    @negative_slope.setter
    def negative_slope(self, value: float) -> None:
        pass


class OtherCheck(nn.BatchNorm2d):
    def _check_input_dim(self, input: torch.Tensor) -> None:
        input.mul_(2)


class OtherBias(nn.Linear):
    """A subclass that changes nothing of the call."""

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)


class LazyWithOwnSizes(nn.LazyLinear):
    def initialize_parameters(self, input: torch.Tensor) -> None:
        super().initialize_parameters(input)
        with torch.no_grad():
            self.weight.mul_(2)


def replaced(layer: nn.Module, name: str, value: Any) -> nn.Module:
    setattr(layer, name, value)
    return layer


def with_own_forward(layer: nn.Module) -> nn.Module:
    """As accelerate does it: the bound forward is kept, and called by what takes its place."""
    old = layer.forward

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return old(*args, **kwargs) * 2

    layer.forward = MethodType(forward, layer)
    return layer


def with_own_call(layer: nn.Module) -> nn.Module:
    old = layer._call_impl
    layer._call_impl = lambda *args, **kwargs: old(*args, **kwargs) + 1  # type: ignore[method-assign]
    return layer


def plain_weight(layer: nn.Module, name: str = "weight") -> nn.Module:
    value = getattr(layer, name).detach() * 2
    del layer._parameters[name]
    layer.__dict__[name] = value
    return layer


def parametrized(layer: nn.Module) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(layer)


def functional(parameters: Callable[[nn.Module], dict[str, Any]]) -> Callable[[nn.Module, torch.Tensor], Any]:
    def forward(self: Any, x: torch.Tensor) -> Any:
        return torch.func.functional_call(self.layer, parameters(self), (x,)) + self.layer(x)

    return forward


def patched_inside(self: Any, x: torch.Tensor) -> Any:
    before = nn.ReLU.forward
    first = self.layer(x)
    nn.ReLU.forward = lambda module, x: x * 3  # type: ignore[method-assign]
    try:
        return first, self.layer(x)
    finally:
        nn.ReLU.forward = before  # type: ignore[method-assign]


def mha(layer: nn.Module) -> nn.Module:
    return Forward(lambda self, x: self.layer(x, x, x)[0], layer=layer)


def lstm_with_dropped_weight() -> nn.Module:
    """As weight-dropped LSTMs do it: one of its weights is computed anew."""
    layer = nn.LSTM(4, 3)
    raw = layer._parameters.pop("weight_hh_l0")
    assert raw is not None
    layer.register_parameter("raw", raw)
    layer.__dict__["weight_hh_l0"] = raw.detach() * 2
    layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]
    return Forward(lambda self, x: self.layer(x)[0], layer=layer)


def spectral(layer: nn.Module) -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(layer)


class Halved(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def mha_with_parametrized_part() -> nn.Module:
    layer = nn.MultiheadAttention(4, 2)
    nn.utils.parametrize.register_parametrization(layer.out_proj, "weight", Halved())
    return mha(layer)


REPLACED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "forward": (lambda: rows(replaced(nn.Linear(4, 5), "forward", lambda x: x * 2)), FLAT),
    "forward of a lazy layer": (lambda: rows(with_own_forward(nn.LazyLinear(5))), FLAT),
    "forward of a lazy convolution": (lambda: rows(with_own_forward(nn.LazyConv2d(5, 3))), IMAGE),
    "forward of a norm": (lambda: rows(with_own_forward(nn.LazyBatchNorm2d())), IMAGE),
    "bound forward": (lambda: rows(with_own_forward(nn.Linear(4, 5))), FLAT),
    "forward of the root": (lambda: with_own_forward(nn.Linear(4, 5)), FLAT),
    "forward of a lazy root": (lambda: with_own_forward(nn.LazyLinear(5)), FLAT),
    "forward of another layer": (lambda: rows(replaced(nn.ReLU(), "forward", nn.GELU().forward)), FLAT),
    "_call_impl": (lambda: rows(with_own_call(nn.Linear(4, 5))), FLAT),
    "_call_impl of a class": (lambda: rows(CallOfItsOwn(4, 5)), FLAT),
    "__call__ of a class": (lambda: rows(Called(4, 5)), FLAT),
    "__call__ of the root": (lambda: Called(4, 5), FLAT),
    "__getattr__": (lambda: rows(replaced(OtherAttributes(4, 5), "ready", True)), FLAT),
    "__getattribute__": (lambda: rows(OtherLookup(4, 5)), FLAT),
    "_conv_forward of a class": (lambda: rows(ConvOfItsOwn(4, 5, 3)), IMAGE),
    "_conv_forward of an instance": (
        lambda: rows(replaced(nn.Conv2d(4, 5, 3), "_conv_forward", lambda x, weight, bias: x * 2)),
        IMAGE,
    ),
    "_output_padding": (
        lambda: rows(replaced(nn.ConvTranspose2d(4, 5, 3, 2), "_output_padding", lambda *_, **__: [1, 1])),
        IMAGE,
    ),
    "_check_input_dim": (lambda: Forward(lambda self, x: self.layer(x + 1), layer=OtherCheck(4)), IMAGE),
    "weight as a property": (lambda: rows(Equalized(4, 5)), FLAT),
    "weight hidden by a property": (lambda: rows(EqualizedAside(4, 5, 3)), IMAGE),
    "an attribute as a property": (lambda: rows(OtherSlope()), FLAT),
    "a plain weight": (lambda: rows(plain_weight(nn.Linear(4, 5))), FLAT),
    "a plain bias": (lambda: rows(plain_weight(nn.Conv2d(4, 5, 3), "bias")), IMAGE),
    "a plain weight of a norm": (lambda: rows(plain_weight(nn.LayerNorm(4))), FLAT),
    "weight norm": (lambda: rows(parametrized(nn.Linear(4, 5))), FLAT),
    "spectral norm": (lambda: rows(spectral(nn.Linear(4, 5))), FLAT),
    "parametrized part": (mha_with_parametrized_part, (3, 2, 4)),
    "weight of a recurrent layer": (lstm_with_dropped_weight, (3, 2, 4)),
    "initialize_parameters of a lazy class": (lambda: rows(LazyWithOwnSizes(5)), FLAT),
    "a class patched in the forward": (lambda: Forward(patched_inside, layer=nn.ReLU()), FLAT),
    "functional_call": (
        lambda: Forward(functional(lambda self: {"weight": 2 * self.layer.weight}), layer=nn.Linear(4, 4)),
        FLAT,
    ),
    "functional_call with another's": (
        lambda: Forward(
            functional(lambda self: dict(self.other.named_parameters())), layer=nn.Linear(4, 4), other=nn.Linear(4, 4)
        ),
        FLAT,
    ),
    "functional_call of a convolution": (
        lambda: Forward(functional(lambda self: {"bias": self.layer.bias - 1}), layer=nn.Conv2d(4, 4, 3)),
        IMAGE,
    ),
    "functional_call of a norm": (
        lambda: Forward(
            functional(lambda self: {"running_mean": self.layer.running_mean + 1}), layer=nn.BatchNorm2d(4)
        ),
        IMAGE,
    ),
    "functional_call of attention": (
        lambda: Forward(
            lambda self, x: torch.func.functional_call(
                self.layer, {"out_proj.weight": self.layer.out_proj.weight * 2}, (x, x, x)
            )[0],
            layer=nn.MultiheadAttention(4, 2),
        ),
        (3, 2, 4),
    ),
    "hook of a part that is not called": (
        lambda: mha(replaced_part(nn.MultiheadAttention(4, 2))),
        (3, 2, 4),
    ),
}  # fmt: skip


def replaced_part(layer: nn.MultiheadAttention) -> nn.Module:
    after(layer.out_proj)
    return layer


@pytest.mark.parametrize("name", REPLACED)
def test_replaced_parts_are_followed(name: str, tmp_path: Path) -> None:
    build, shape = REPLACED[name]
    agrees(build, tmp_path, data(*shape))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(nn.ReLU, FLAT), (nn.Linear, FLAT), (nn.Conv2d, IMAGE), (nn.BatchNorm2d, IMAGE), (nn.LazyLinear, FLAT)],
)
def test_a_patched_class_is_followed(kind: Any, shape: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: own(self, x) * 2)
    sizes = {nn.ReLU: (), nn.Linear: (4, 5), nn.Conv2d: (4, 5, 3), nn.BatchNorm2d: (4,), nn.LazyLinear: (5,)}[kind]
    agrees(lambda: rows(kind(*sizes)), tmp_path, data(*shape))


@pytest.mark.parametrize("name", ["__call__", "_call_impl"])
def test_patched_calls_of_all_modules_are_followed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = getattr(nn.Module, name)

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = own(self, *args, **kwargs)
        return result * 2 if isinstance(self, nn.Linear) else result

    monkeypatch.setattr(nn.Module, name, call)
    agrees(lambda: rows(nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 3))), tmp_path, data(*FLAT))


def test_a_subclass_that_changes_nothing_of_the_call_is_a_leaf(tmp_path: Path) -> None:
    conversion = agrees(lambda: rows(OtherBias(4, 5)), tmp_path, data(*FLAT))
    assert [layer.type for layer in conversion.report.layers if layer.path == "layer"] == ["OtherBias"]
