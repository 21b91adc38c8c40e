"""A module's call is one node only while it is its class's own call: hooks, replaced parts, written tensors, reads.

Every model is built twice. One is run in PyTorch, which is the dry run of its lazy layers; the other is exported
without verification, and its file must give the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as calling

import tracer
from tracer import TracerError

SEED = 3


def agrees(build: Callable[[], nn.Module], folder: Path, *inputs: Any) -> tracer.Conversion:
    """Asserts that the exported file gives what the first call in PyTorch gives; returns the conversion."""
    torch.manual_seed(SEED)
    with torch.no_grad():
        expected = build().eval()(*(value.clone() for value in inputs))
    torch.manual_seed(SEED)
    conversion = tracer.convert(build().eval(), inputs, verify=False)
    session = onnxruntime.InferenceSession(
        str(conversion.save(folder / "model.onnx")), providers=["CPUExecutionProvider"]
    )
    names = [entry.name for entry in session.get_inputs()]
    found = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    wanted = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == tuple(theirs.shape)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
    return conversion


def data(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Forward(nn.Module):
    """Layers, and a function of the model and its input for a forward."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module):
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        return self._forward(self, x)


# Hooks --------------------------------------------------------------------------------------------

Layer = tuple[Callable[[], nn.Module], tuple[int, ...]]

LAYERS: dict[str, Layer] = {
    "LazyLinear": (lambda: nn.LazyLinear(5), (2, 4)),
    "LazyConv1d": (lambda: nn.LazyConv1d(5, 3), (2, 4, 7)),
    "LazyConv2d": (lambda: nn.LazyConv2d(5, 3), (2, 4, 7, 7)),
    "LazyConv3d": (lambda: nn.LazyConv3d(5, 2), (2, 4, 4, 4, 4)),
    "LazyConvTranspose1d": (lambda: nn.LazyConvTranspose1d(5, 3), (2, 4, 7)),
    "LazyConvTranspose2d": (lambda: nn.LazyConvTranspose2d(5, 3), (2, 4, 7, 7)),
    "LazyConvTranspose3d": (lambda: nn.LazyConvTranspose3d(5, 2), (2, 4, 4, 4, 4)),
    "LazyBatchNorm1d": (lambda: nn.LazyBatchNorm1d(), (2, 4, 7)),
    "LazyBatchNorm2d": (lambda: nn.LazyBatchNorm2d(), (2, 4, 7, 7)),
    "LazyBatchNorm3d": (lambda: nn.LazyBatchNorm3d(), (2, 4, 4, 4, 4)),
    "LazyInstanceNorm1d": (lambda: nn.LazyInstanceNorm1d(affine=True), (2, 4, 7)),
    "LazyInstanceNorm2d": (lambda: nn.LazyInstanceNorm2d(affine=True), (2, 4, 7, 7)),
    "LazyInstanceNorm3d": (lambda: nn.LazyInstanceNorm3d(affine=True), (2, 4, 4, 4, 4)),
    "Linear": (lambda: nn.Linear(4, 5), (2, 4)),
    "Conv2d": (lambda: nn.Conv2d(4, 5, 3), (2, 4, 7, 7)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), (2, 4, 7, 7)),
    "LayerNorm": (lambda: nn.LayerNorm(4), (2, 4)),
    "ReLU": (lambda: nn.ReLU(), (2, 4)),
    "Identity": (lambda: nn.Identity(), (2, 4)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), (2, 4, 7, 7)),
    "Flatten": (lambda: nn.Flatten(), (2, 4, 7)),
    "Softmax": (lambda: nn.Softmax(-1), (2, 4)),
}


class Doubling:
    """A callable object as a hook, which keeps what it has seen."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def __call__(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        self.seen.append(output)
        return 2 * self.seen[-1]

    def method(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return self(module, args, output) + 1


def after(layer: nn.Module) -> None:
    layer.register_forward_hook(lambda module, args, output: output * 2)


def before(layer: nn.Module) -> None:
    layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def before_all(layer: nn.Module) -> None:
    layer.register_forward_pre_hook(lambda module, args: args[0] - 1, prepend=True)


def after_with_kwargs(layer: nn.Module) -> None:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
        return output - len(kwargs) - len(args)

    layer.register_forward_hook(hook, with_kwargs=True)


def before_with_kwargs(layer: nn.Module) -> None:
    layer.register_forward_pre_hook(lambda module, args, kwargs: ((args[0] * 3,), kwargs), with_kwargs=True)


def always(layer: nn.Module) -> None:
    layer.register_forward_hook(lambda module, args, output: output.abs(), always_call=True)


def in_place(layer: nn.Module) -> None:
    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        output.mul_(2)

    layer.register_forward_hook(hook)


def in_place_before(layer: nn.Module) -> None:
    def hook(module: nn.Module, args: Any) -> None:
        args[0].add_(1)

    layer.register_forward_pre_hook(hook)


def other_shape(layer: nn.Module) -> None:
    layer.register_forward_hook(lambda module, args, output: torch.cat([output, output * 2], 1))


def wider_before(layer: nn.Module) -> None:
    if "Lazy" in type(layer).__name__:
        layer.register_forward_pre_hook(lambda module, args: torch.cat([args[0], args[0] * 2], 1), prepend=True)
    else:
        before(layer)


def several(layer: nn.Module) -> None:
    after(layer)
    before(layer)
    after_with_kwargs(layer)
    before_all(layer)


def removes_itself(layer: nn.Module) -> None:
    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        handle.remove()
        return output * 2

    handle = layer.register_forward_hook(hook)


def removes_itself_before(layer: nn.Module) -> None:
    def hook(module: nn.Module, args: Any) -> Any:
        module.handle.remove()  # type: ignore[operator, union-attr]
        return (args[0] * 2,)

    layer.handle = layer.register_forward_pre_hook(hook, prepend=True)  # type: ignore[assignment]


def with_default(layer: nn.Module) -> None:
    def hook(module: nn.Module, args: Any, output: torch.Tensor, seen: list[Any] = []) -> torch.Tensor:  # noqa: B006
        seen.append(output)
        return output * len(seen) * 2

    STORES.append(hook.__defaults__[0])  # type: ignore[index]
    layer.register_forward_hook(hook)


def with_closure(layer: nn.Module) -> None:
    seen: list[Any] = []

    def keep(value: Any) -> None:
        seen.append(value)

    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        keep(output)
        return output * len(seen) * 2

    STORES.append(seen)
    layer.register_forward_hook(hook)


def as_partial(layer: nn.Module) -> None:
    def hook(seen: list[Any], module: nn.Module, args: Any, output: torch.Tensor, *, by: int) -> torch.Tensor:
        seen.append(output)
        return output * by

    STORES.append([])
    layer.register_forward_hook(functools.partial(hook, STORES[-1], by=3))


def as_object(layer: nn.Module) -> None:
    hook = Doubling()
    STORES.append(hook.seen)
    layer.register_forward_hook(hook)


def as_method_of_an_object(layer: nn.Module) -> None:
    hook = Doubling()
    STORES.append(hook.seen)
    layer.register_forward_hook(hook.method)


def counts_calls(layer: nn.Module) -> None:
    calls = 0

    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return output * calls

    layer.register_forward_hook(hook)


def reads_the_module(layer: nn.Module) -> None:
    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        scale = sum(
            tensor.numel() for name in ("weight", "bias") if (tensor := getattr(module, name, None)) is not None
        )
        return output * (1 + scale / 100) + len(type(module).__name__)

    layer.register_forward_hook(hook)


HOOKS = [
    after, before, before_all, after_with_kwargs, before_with_kwargs, always, in_place, in_place_before, other_shape,
    wider_before, several, removes_itself, removes_itself_before, with_default, with_closure, as_partial, as_object,
    as_method_of_an_object, counts_calls, reads_the_module,
]  # fmt: skip

STORES: list[list[Any]] = []


def inside(layer: nn.Module) -> nn.Module:
    return Forward(lambda self, x: self.layer(x + 1) * 2, layer=layer)


def in_a_sequence(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Identity(), layer), nn.Tanh())


def called_twice(layer: nn.Module) -> nn.Module:
    return Forward(lambda self, x: self.layer(x + 1) - self.layer(x * 2), layer=layer)


def as_root(layer: nn.Module) -> nn.Module:
    return layer


PLACES = [inside, in_a_sequence, called_twice, as_root]


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    """No hook of the caller's has kept a traced value."""
    STORES.clear()
    yield
    assert all(type(value) is torch.Tensor for store in STORES for value in store)


def hooked(layer: str, hook: Callable[[nn.Module], None], place: Callable[[nn.Module], nn.Module]) -> nn.Module:
    made = LAYERS[layer][0]()
    hook(made)
    return place(made)


def _pairs() -> Iterator[Any]:
    """Every layer with every hook, each in one of the places, all of which every hook meets."""
    for row, layer in enumerate(LAYERS):
        for column, hook in enumerate(HOOKS):
            yield pytest.param(layer, hook, PLACES[(row + column) % len(PLACES)])


@pytest.mark.parametrize(("layer", "hook", "place"), list(_pairs()))
def test_hooks_take_part(layer: str, hook: Any, place: Any, tmp_path: Path) -> None:
    agrees(lambda: hooked(layer, hook, place), tmp_path, data(*LAYERS[layer][1]))


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("layer", LAYERS)
def test_hooks_take_part_everywhere(layer: str, hook: Any, place: Any, tmp_path: Path) -> None:
    agrees(lambda: hooked(layer, hook, place), tmp_path, data(*LAYERS[layer][1]))


# Replaced and overridden parts --------------------------------------------------------------------


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


def rows(layer: nn.Module) -> nn.Module:
    return Forward(lambda self, x: self.layer(x), layer=layer)


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


FLAT, IMAGE = (2, 4), (2, 4, 7, 7)
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


@pytest.mark.parametrize("layer", [lambda: nn.LazyLinear(5), lambda: nn.Linear(4, 5)], ids=["lazy", "eager"])
def test_hooks_of_all_modules_take_part(layer: Callable[[], nn.Module], tmp_path: Path) -> None:
    STORES.append([])

    def doubles(module: nn.Module, args: Any, output: torch.Tensor, seen: list[Any] = STORES[-1]) -> Any:
        seen.append(output)
        return output * 2 if isinstance(module, nn.Linear) else None

    def shifts(module: nn.Module, args: Any) -> Any:
        return (args[0] + 1,) if isinstance(module, nn.ReLU) else None

    handles = [
        calling.register_module_forward_hook(doubles),
        calling.register_module_forward_pre_hook(shifts),
        calling.register_module_forward_hook(lambda module, args, kwargs, output: output + 1, with_kwargs=True),
    ]
    before_the_export = (dict(calling._global_forward_hooks), dict(calling._global_forward_pre_hooks))
    try:
        agrees(lambda: rows(nn.Sequential(layer(), nn.ReLU(), nn.Sigmoid())), tmp_path, data(*FLAT))
        assert before_the_export == (dict(calling._global_forward_hooks), dict(calling._global_forward_pre_hooks))
    finally:
        for handle in handles:
            handle.remove()


def test_a_subclass_that_changes_nothing_of_the_call_is_a_leaf(tmp_path: Path) -> None:
    conversion = agrees(lambda: rows(OtherBias(4, 5)), tmp_path, data(*FLAT))
    assert [layer.type for layer in conversion.report.layers if layer.path == "layer"] == ["OtherBias"]


# Written before the call --------------------------------------------------------------------------


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


# What is read of a lazy layer ---------------------------------------------------------------------

READS_BEFORE: list[Callable[[Any, torch.Tensor], Any]] = [
    lambda self, x: self.layer(x.to(self.layer.weight.dtype)),
    lambda self, x: self.layer(x.to(self.layer.weight.device)),
    lambda self, x: self.layer(x.to(device=self.layer.weight.device, dtype=self.layer.weight.dtype)),
    lambda self, x: self.layer(x if self.layer.weight.dtype == torch.float32 else x * 2),
    lambda self, x: self.layer(x * self.layer.weight.ndim),
    lambda self, x: self.layer(x * self.layer.weight.dim()),
    lambda self, x: self.layer(x * 2 if self.layer.weight.requires_grad else x),
    lambda self, x: self.layer(x * 2 if self.layer.weight.is_cuda else x),
    lambda self, x: self.layer(x * 2 if self.layer.weight.is_floating_point() else x),
    lambda self, x: self.layer(x * 2 if isinstance(self.layer.weight, nn.Parameter) else x),
    lambda self, x: self.layer(x * 2 if isinstance(self.layer.weight, torch.Tensor) else x),
    lambda self, x: self.layer(x * 2 if self.layer.weight is not None else x),
    lambda self, x: self.layer(x * 2 if self.layer.weight.is_meta else x),
    lambda self, x: self.layer(x + torch.zeros(1, dtype=self.layer.weight.dtype, device=self.layer.weight.device)),
    lambda self, x: self.layer(x.to(next(self.layer.parameters()).dtype)),
    lambda self, x: (lambda weight: (self.layer(x), weight.sum()))(self.layer.weight),
    lambda self, x: (lambda weight: (self.layer(x), weight.shape[0]))(self.layer.weight)[0],
]
READS_AFTER: list[Callable[[Any, torch.Tensor], Any]] = [
    lambda self, x: self.layer(x) * getattr(self.layer, "in_features", 1),
    lambda self, x: self.layer(x) * getattr(self.layer, "in_channels", 1),
    lambda self, x: self.layer(x) * len(type(self.layer).__name__),
    lambda self, x: self.layer(x) * (2 if type(self.layer) in (nn.Linear, nn.Conv2d) else 1),
    lambda self, x: self.layer(x) * (2 if isinstance(self.layer, nn.modules.lazy.LazyModuleMixin) else 1),
    lambda self, x: self.layer(x) * self.layer.weight.shape[1],
    lambda self, x: self.layer(x) * self.layer.weight.numel(),
    lambda self, x: self.layer(x) * self.layer.weight.ndim,
    lambda self, x: self.layer(x) + self.layer.weight.sum(),
    lambda self, x: self.layer(x) * len(self.layer._forward_pre_hooks),
    lambda self, x: self.layer(x) * (2 if hasattr(self.layer, "_initialize_hook") else 1),
    lambda self, x: self.layer(x) * (2 if self.layer.weight.requires_grad else 1),
    lambda self, x: self.layer(x) * (2 if "in_" in repr(self.layer) else 1),
    lambda self, x: self.layer(x) * len(list(self.layer.parameters())),
]


def lazies(kind: str, place: str) -> dict[str, nn.Module]:
    layer = nn.LazyLinear(4) if kind == "linear" else nn.LazyConv2d(4, 1)
    if place == "hooked":
        after(layer)
    return {"layer": layer}


@pytest.mark.parametrize("place", ["plain", "hooked"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("read", [*READS_BEFORE, *READS_AFTER], ids=range(len(READS_BEFORE) + len(READS_AFTER)))
def test_reads_of_a_lazy_layer_are_those_of_the_resolved_one(read: Any, kind: str, place: str, tmp_path: Path) -> None:
    x = data(*(FLAT if kind == "linear" else IMAGE))
    torch.manual_seed(SEED)
    resolved = Forward(read, **lazies(kind, place)).eval()
    with torch.no_grad():
        resolved.layer(x)  # type: ignore[operator]
        expected = resolved(x)
    conversion = tracer.convert(Forward(read, **lazies(kind, place)), (x,), verify=False, seed=SEED)
    session = onnxruntime.InferenceSession(
        str(conversion.save(tmp_path / "model.onnx")), providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for ours, theirs in zip(found, [expected] if isinstance(expected, torch.Tensor) else expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "read",
    [
        lambda self, x: self.layer(x * self.layer.weight.shape[1]),
        lambda self, x: self.layer(x) + F.linear(x, self.layer.weight) if len(self.layer.weight) else x,
        lambda self, x: self.layer(x + self.layer.weight.sum()),
        lambda self, x: self.layer(x * self.layer.weight.numel()),
    ],
    ids=["shape", "len", "value", "numel"],
)
def test_what_is_not_known_of_a_lazy_layer_before_its_call_is_refused(read: Any) -> None:
    with pytest.raises(TracerError, match=r"layer\.weight is read before its layer is called"):
        tracer.convert(Forward(read, layer=nn.LazyLinear(4)), (data(*FLAT),), verify=False)


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
