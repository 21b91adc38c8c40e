"""Models by what is unusual about how they load, trained ones, and when two are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Weights = dict[str, Any]
SAMPLE = (2, 6, 5)


def dry_run(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model.eval()(torch.zeros(SAMPLE))
    return model


def trained(make: Callable[[], nn.Module]) -> Weights:
    """The state_dict of another instance, with other values."""
    model = dry_run(make())
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dtype.is_floating_point:
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.dtype == torch.int64:
                tensor.fill_(3)
    return model.state_dict()


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a model is: its tensors with what is said of them, its plain attributes, its ties."""
    tensors = {
        path: (tuple(t.shape), t.dtype, t.requires_grad, type(t) is nn.Parameter, t.layout, t.detach().to_dense())
        for path, t in [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
        if not isinstance(t, (nn.UninitializedParameter, nn.UninitializedBuffer))
    }
    plain = {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, (int, float, str, list)) and name != "training"
        if not (name == "num_features" and not list(module.state_dict()))  # torch leaves it at 0 then
    }
    classes = {path: type(module) for path, module in model.named_modules()}
    held = list(model.named_parameters(remove_duplicate=False))
    ties = {(a, b) for a, first in held for b, second in held if first is second}
    return {"tensors": tensors, "plain": plain, "classes": classes, "ties": ties}


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    ours, theirs = everything(found), everything(expected)
    assert ours["tensors"].keys() == theirs["tensors"].keys()
    for path, (*facts, tensor) in theirs["tensors"].items():
        assert ours["tensors"][path][:-1] == tuple(facts), path
        assert torch.equal(ours["tensors"][path][-1], tensor), path
    for what in ("plain", "classes", "ties"):
        assert ours[what] == theirs[what], what


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.LazyConv1d(4, 3, groups=2), nn.LazyBatchNorm1d(), nn.LazyLinear(3)
        self.head = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.fc(self.norm(self.conv(x)).flatten(1)))


class PreHook(Plain):
    """Old names are understood."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(self._rename)

    @staticmethod
    def _rename(module: nn.Module, state: Weights, prefix: str, *_: Any) -> None:
        for key in [key for key in state if key.startswith("old_")]:
            state[key.removeprefix("old_")] = state.pop(key)


class ClosureHook(Plain):
    """The hook changes a value, in place, and notes something on its own module."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0.0

        def double(state: Weights, prefix: str, *_: Any) -> None:
            state[prefix + "head.weight"].mul_(2)
            self.seen += 1.0

        self._register_load_state_dict_pre_hook(double)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1 + self.seen)


class PostHook(Plain):
    """What is missing may be, and is made up."""

    def __init__(self) -> None:
        super().__init__()
        self.head.register_load_state_dict_post_hook(self._forgive)

    @staticmethod
    def _forgive(module: nn.Module, found: Any) -> None:
        found.missing_keys[:] = [key for key in found.missing_keys if not key.startswith("head.")]
        nn.init.constant_(module.bias, 5)


class Override(nn.Module):
    """Weights are stored transposed, by a layer that does so itself."""

    class Layer(nn.LazyLinear):
        cls_to_become = None  # type: ignore[assignment]

        def _load_from_state_dict(self, state: Weights, prefix: str, *rest: Any) -> None:
            state[prefix + "weight"] = state[prefix + "weight"].t()
            super()._load_from_state_dict(state, prefix, *rest)

        def _save_to_state_dict(self, destination: Weights, prefix: str, keep_vars: bool) -> None:
            super()._save_to_state_dict(destination, prefix, keep_vars)
            if not isinstance(self.weight, nn.UninitializedParameter):
                destination[prefix + "weight"] = destination[prefix + "weight"].t()

    def __init__(self) -> None:
        super().__init__()
        self.layer = self.Layer(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


class WholeOverride(Plain):
    """The model's own load_state_dict takes what a wrapper has saved."""

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return super().load_state_dict(
            {key.removeprefix("module."): value for key, value in state_dict.items()}, *args, **kwargs
        )


class Extra(nn.Module):
    """The scale is no tensor, and part of the state."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.fc = scale, nn.LazyLinear(3)

    def get_extra_state(self) -> Any:
        return {"scale": self.scale}

    def set_extra_state(self, state: Any) -> None:
        self.scale = state["scale"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1)) * self.scale if self.scale < 10 else self.fc(x.flatten(1))


class ExtraTensor(Extra):
    def get_extra_state(self) -> Any:
        return torch.tensor(self.scale)  # as a tensor it is in a .safetensors file too

    def set_extra_state(self, state: Any) -> None:
        self.scale = float(state.detach())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LazyLinear(5, bias=False), nn.LazyLinear(5, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("whole", torch.arange(6.0))
        self.register_buffer("part", self.whole[:3])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) + self.whole.sum() + self.part.sum()


class Norms(nn.Module):
    def __init__(self, affine: bool, statistics: bool, kind: Any) -> None:
        super().__init__()
        self.norm, self.fc = kind(affine=affine, track_running_stats=statistics), nn.LazyLinear(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(x))


class Frozen(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.head.requires_grad_(False)
        self.fc.to(torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.fc(self.norm(self.conv(x)).flatten(1).double()).float())


class OwnLayer(nn.modules.lazy.LazyModuleMixin, nn.Module):
    """A lazy module of its own, with what is in no checkpoint."""

    cls_to_become = None

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.UninitializedParameter(), nn.Parameter(torch.ones(5))
        self.register_buffer("places", None, persistent=False)

    def initialize_parameters(self, x: torch.Tensor) -> None:
        if self.has_uninitialized_params():
            self.weight.materialize((x.shape[1], 5))
            self.places = torch.arange(x.shape[1] * 5.0).view(-1, 5)
            self.width = x.shape[1]
            nn.init.normal_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + self.bias + self.places


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = OwnLayer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Subclass(nn.Module):
    class Linear(nn.LazyLinear):
        cls_to_become = None  # type: ignore[assignment]

        def reset_parameters(self) -> None:
            if self.in_features:
                nn.init.normal_(self.weight)
                nn.init.ones_(self.bias)

    def __init__(self) -> None:
        super().__init__()
        self.fc = self.Linear(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


class Versioned(Plain):
    """Weights of before version 2 are halved."""

    _version = 2

    def _load_from_state_dict(self, state: Weights, prefix: str, metadata: Any, *rest: Any) -> None:
        if (metadata.get("version") or 1) < 2:
            state[prefix + "head.weight"] = state[prefix + "head.weight"] / 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def norms(affine: bool, statistics: bool, kind: Any) -> Callable[[], nn.Module]:
    return lambda: Norms(affine, statistics, kind)


MODELS: dict[str, Callable[[], nn.Module]] = {
    kind.__name__: kind
    for kind in (
        Plain, PreHook, ClosureHook, PostHook, Override, WholeOverride, Extra, ExtraTensor, Tied, Frozen, Own,
        Subclass, Versioned,
    )
} | {
    f"{kind.__name__} affine={affine} statistics={statistics}": norms(affine, statistics, kind)
    for kind in (nn.LazyBatchNorm1d, nn.LazyInstanceNorm1d)
    for affine in (True, False)
    for statistics in (True, False)
}  # fmt: skip
