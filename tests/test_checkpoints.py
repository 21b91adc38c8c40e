"""A checkpoint is loaded as `load_state_dict` loads it into the model that a dry run has made."""

from __future__ import annotations

import copy
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tracer
from tests.reading import run
from tracer import InputError, LazyResolutionError, LoadError, TracerError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Casting complex values"),
    pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match num_features"),
]

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


# Models, by what is unusual about how they load -------------------------------------------------------------------


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


# What is done to a state_dict -------------------------------------------------------------------------------------


def first_key(weights: Weights) -> str:
    return next(key for key, value in weights.items() if isinstance(value, torch.Tensor) and value.ndim > 1)


def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Weights], None]:
    def apply(weights: Weights) -> None:
        for key, value in list(weights.items()):
            if isinstance(value, torch.Tensor):
                weights[key] = change(value)

    return apply


def scaled_ties(weights: Weights) -> None:
    for index, (key, value) in enumerate(list(weights.items())):
        if isinstance(value, torch.Tensor) and value.dtype.is_floating_point:
            weights[key] = value * (index + 1)


def other_extra(weights: Weights) -> None:
    for key in weights:
        if key.endswith("_extra_state"):
            weights[key] = torch.tensor(20.0) if isinstance(weights[key], torch.Tensor) else {"scale": 20.0}


def old_names(weights: Weights) -> None:
    for key in [key for key in weights if key.startswith("head.")]:
        weights[f"old_{key}"] = weights.pop(key)


def module_names(weights: Weights) -> None:
    for key in list(weights):
        weights[f"module.{key}"] = weights.pop(key)


def without(part: str) -> Callable[[Weights], None]:
    def drop(weights: Weights) -> None:
        for key in [key for key in weights if part in key]:
            del weights[key]

    return drop


def with_entry(key: str, value: Any) -> Callable[[Weights], None]:
    return lambda weights: weights.__setitem__(key, value)


def reshaped(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Weights], None]:
    return lambda weights: weights.__setitem__(first_key(weights), change(weights[first_key(weights)]))


def without_metadata(weights: Any) -> None:
    del weights._metadata


CHANGES: dict[str, Callable[[Weights], None]] = {
    "as it is": lambda weights: None,
    "other values in ties": scaled_ties,
    "half": changed(lambda t: t.half() if t.dtype.is_floating_point else t),
    "double": changed(lambda t: t.double() if t.dtype.is_floating_point else t),
    "integers": changed(lambda t: t.to(torch.int32)),
    "complex": changed(lambda t: t.to(torch.complex64)),
    "sparse": changed(lambda t: t.to_sparse() if t.ndim else t),
    "strided": changed(lambda t: t.t().contiguous().t() if t.ndim == 2 else t),
    "expanded": changed(lambda t: t[:1].expand(t.shape) if t.ndim else t),
    "negative views": changed(lambda t: torch._neg_view(t) if t.dtype.is_floating_point else t),
    "parameters": changed(lambda t: nn.Parameter(t) if t.dtype.is_floating_point else t),
    "meta": changed(lambda t: t.to("meta")),
    "one in a list": changed(lambda t: t[None] if t.ndim == 0 else t),
    "other extra state": other_extra,
    "old names": old_names,
    "names of a wrapper": module_names,
    "no metadata": without_metadata,
    "no head": without("head."),
    "no bias": without("bias"),
    "no counters": without("num_batches_tracked"),
    "no statistics": without("running_"),
    "no extra state": without("_extra_state"),
    "no weight": without("weight"),
    "more": with_entry("other", torch.ones(2)),
    "more extra state": with_entry("other._extra_state", {"a": 1}),
    "what is no tensor": with_entry("epoch", 3),
    "one more row": reshaped(lambda t: torch.cat([t, t[:1]])),
    "one more column": reshaped(lambda t: torch.cat([t, t[:, :1]], 1)),
    "flat": reshaped(torch.flatten),
    "one more axis": reshaped(lambda t: t[..., None]),
    "a number": reshaped(torch.sum),
    "empty": reshaped(lambda t: t[:0]),
}


# Every model with its own state_dict, and by turns with every change; the others are slow.
PAIRS = [
    pytest.param(kind, change, marks=[] if row == 0 or (row + column) % 6 == 0 else [pytest.mark.slow])
    for column, kind in enumerate(MODELS)
    for row, change in enumerate(CHANGES)
]


def loaded(model: nn.Module, weights: Weights) -> nn.Module | None:
    """The model after torch's own loading, or None where torch refuses."""
    try:
        model.load_state_dict(copy.deepcopy(weights))
    except (RuntimeError, KeyError, NotImplementedError, TypeError, IndexError):
        return None
    return model


@pytest.mark.parametrize(("kind", "change"), PAIRS)
def test_with_a_sample_it_is_what_torch_loads(kind: str, change: str) -> None:
    weights = trained(MODELS[kind])
    CHANGES[change](weights)
    before = copy.deepcopy(weights)
    torch.manual_seed(1)
    expected = loaded(dry_run(MODELS[kind]()), weights)
    torch.manual_seed(1)
    model = MODELS[kind]()
    untouched, state = everything(model), torch.get_rng_state()
    if expected is None:
        with pytest.raises((LoadError, LazyResolutionError)):
            tracer.resolve(model, tracer.spec(*SAMPLE), weights=weights)
    else:
        assert_same(tracer.resolve(model, tracer.spec(*SAMPLE), weights=weights), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert str(everything(model)) == str(untouched)
    assert str(weights) == str(before)


@pytest.mark.parametrize(("kind", "change"), PAIRS)
def test_without_a_sample_the_forward_is_that_of_torch(kind: str, change: str) -> None:
    """Torch's lazy layers take any shape that a checkpoint has: one that they make of no input is refused."""
    weights = trained(MODELS[kind])
    CHANGES[change](weights)
    x = torch.rand(SAMPLE)
    torch.manual_seed(1)
    model = MODELS[kind]()
    state = torch.get_rng_state()
    expected = loaded(copy_of(kind), weights)
    try:
        found = tracer.resolve(model, weights=weights)
    except LoadError:
        refused = True
    else:
        refused = False
    assert torch.equal(torch.get_rng_state(), state)
    if refused:
        assert expected is None or loaded(dry_run(copy_of(kind)), weights) is None
        return
    assert expected is not None
    assert {type(module) for module in found.modules()} & {nn.LazyLinear, nn.LazyConv1d} == set()
    if "Norm" in kind:  # torch's own lazy norm does not learn its size from a checkpoint, and then fails or warns
        expected.norm.num_features = 6
    assert_same_result(found, expected, x)


def assert_same_result(found: nn.Module, expected: nn.Module, x: torch.Tensor) -> None:
    """The two give the same, or fail alike."""
    try:
        result = expected.eval()(x)
    except (RuntimeError, TypeError, AttributeError, AssertionError, IndexError):
        with pytest.raises((RuntimeError, TypeError, AttributeError, AssertionError, IndexError)):
            found.eval()(x)
    else:
        torch.testing.assert_close(found.eval()(x), result, rtol=0, atol=0, equal_nan=True)


def copy_of(kind: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return MODELS[kind]()


@pytest.mark.parametrize("change", ["as it is", "other values in ties", "double", "other extra state"])
@pytest.mark.parametrize("kind", MODELS)
def test_the_file_is_the_loaded_model(kind: str, change: str, tmp_path: Path) -> None:
    weights = trained(MODELS[kind])
    CHANGES[change](weights)
    model = loaded(dry_run(MODELS[kind]()), weights)
    assert model is not None
    x = torch.rand(SAMPLE)
    with torch.no_grad():
        expected = model(x)
    path = tmp_path / "model.onnx"
    conversion = tracer.convert(
        MODELS[kind](), tracer.spec(*SAMPLE), path, input_names=["x"], weights=weights, verify=False
    )
    (found,) = run(path, x=x).values()
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=1e-4, atol=1e-4)
    assert conversion.report.resolved == tracer.inspect(MODELS[kind](), tracer.spec(*SAMPLE)).resolved


@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_in_place(kind: str, sample: bool) -> None:
    weights = trained(MODELS[kind])
    torch.manual_seed(1)
    expected = loaded(dry_run(MODELS[kind]()) if sample else MODELS[kind](), weights)
    assert expected is not None
    torch.manual_seed(1)
    model = MODELS[kind]()
    held = dict(model.named_parameters())
    assert tracer.resolve(model, tracer.spec(*SAMPLE) if sample else None, weights=weights, inplace=True) is model
    if sample:
        assert_same(model, expected)
    elif "Norm" not in kind:
        assert_same_result(model, expected, torch.rand(SAMPLE))
    assert all(found is held[name] for name, found in model.named_parameters() if name in held)


@pytest.mark.parametrize("form", ["safetensors", "pt", "nested"])
@pytest.mark.parametrize("kind", ["Plain", "Tied", "Extra", "Versioned", "ExtraTensor"])
def test_from_a_file(kind: str, form: str, tmp_path: Path) -> None:
    weights = trained(MODELS[kind])
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        if kind in ("Extra", "Versioned"):
            pytest.skip("the format holds tensors alone")
        save_file({key: tensor.clone() for key, tensor in weights.items()}, path)
    else:
        torch.save({"model": weights, "epoch": 1} if form == "nested" else weights, path)
    expected = loaded(dry_run(MODELS[kind]()), weights)
    assert expected is not None
    assert_same(tracer.resolve(MODELS[kind](), tracer.spec(*SAMPLE), weights=path), expected)


def exiting(*_: Any) -> None:
    sys.exit(3)


def failing(*_: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("action", [exiting, failing])
@pytest.mark.parametrize(
    "install",
    [
        lambda model, action: model.register_load_state_dict_pre_hook(action),
        lambda model, action: model.head.register_load_state_dict_post_hook(action),
        lambda model, action: setattr(model.head, "_load_from_state_dict", action),
        lambda model, action: setattr(model, "load_state_dict", action),
    ],
)
@pytest.mark.parametrize("sample", [True, False])
def test_loading_code_that_fails(install: Any, action: Any, sample: bool) -> None:
    model, weights = Plain(), trained(Plain)
    install(model, action)
    with pytest.raises(LoadError, match=r"own loading code raises (SystemExit|ZeroDivisionError)"):
        tracer.resolve(model, tracer.spec(*SAMPLE) if sample else None, weights=weights)


@pytest.mark.parametrize("action", [exiting, failing])
def test_an_initialisation_that_fails(action: Any) -> None:
    class Failing(nn.LazyLinear):
        reset_parameters = staticmethod(lambda: None)

        def initialize_parameters(self, x: torch.Tensor) -> None:
            super().initialize_parameters(x)
            action()

    for given in (None, {"0.weight": torch.ones(3, 5), "0.bias": torch.ones(3)}):
        with pytest.raises(TracerError, match=r"SystemExit|ZeroDivisionError"):
            tracer.resolve(nn.Sequential(Failing(3)), tracer.spec(*SAMPLE), weights=given)


class Unreached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.idle, self.spare = nn.LazyLinear(3), nn.LazyLinear(4), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


@pytest.mark.parametrize("given", [True, False])
def test_a_layer_that_the_sample_never_reaches(given: bool) -> None:
    full = nn.ModuleDict({"fc": nn.Linear(5, 3), "idle": nn.Linear(7, 4), "spare": nn.Linear(2, 2)})
    weights = {key: value for key, value in full.state_dict().items() if given or not key.startswith("idle")}
    model = Unreached()
    with pytest.warns(tracer.TracerWarning, match="never reaches the lazy layers idle"):
        found = tracer.resolve(model, tracer.spec(*SAMPLE), weights=weights)
    assert isinstance(model.idle.weight, nn.UninitializedParameter)
    if given:
        assert torch.equal(found.idle.weight, full["idle"].weight)
        assert found.idle(torch.ones(1, 7)).shape == (1, 4)
    else:
        assert isinstance(found.idle.weight, nn.UninitializedParameter)
    with warnings.catch_warnings(), pytest.raises(LoadError, match=r"spare\.bias"):
        warnings.simplefilter("ignore")
        tracer.resolve(
            Unreached(), tracer.spec(*SAMPLE), weights={k: v for k, v in weights.items() if k != "spare.bias"}
        )


@pytest.mark.parametrize("weights", [3, b"w.pt", [1], {1: torch.ones(2)}, {"epoch": 3, "net": {}}, object()])
def test_what_is_no_state_dict(weights: Any) -> None:
    with pytest.raises(LoadError if isinstance(weights, dict) else InputError):
        tracer.resolve(Plain(), tracer.spec(*SAMPLE), weights=weights)


def flipped(content: bytes, source: random.Random, count: int = 1) -> bytes:
    changed = bytearray(content)
    for _ in range(count):
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["safetensors", "pt", "old pt"])
def test_damaged_files_are_refused_or_loaded(form: str, tmp_path: Path) -> None:
    weights = nn.Linear(2, 3).state_dict()
    path = tmp_path / f"w.{form.split()[-1]}"
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "pt")
    whole, source = path.read_bytes(), random.Random(0)
    for attempt in range(150):
        damaged = flipped(whole, source, 1 + attempt % 3) if attempt % 5 else whole[: source.randrange(len(whole))]
        path.write_bytes(damaged)
        try:
            tracer.resolve(nn.Linear(2, 3), weights=path)
        except LoadError as error:
            assert str(error).replace("\n", "").isprintable()  # noqa: PT017
