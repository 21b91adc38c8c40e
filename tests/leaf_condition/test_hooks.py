"""A module's call is not one node where hooks act: its own, in any place and of any sort, or those of all modules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as calling

from tests.leaf_condition.models import FLAT, Forward, after, agrees, data, rows

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
