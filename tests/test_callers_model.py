"""What is the caller's stays as it was, bit for bit, whatever the forward and the initialisers do."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tests.benchmarks.measuring import peak_bytes
from tracer import TracerError, spec


class Of(nn.Module):
    """A module with a lazy layer, an eager one, a buffer, and the forward that it is given."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.fc, self.known = nn.LazyLinear(3), nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(3))
        self.register_buffer("view", self.known.weight.detach()[0])
        self.table = [torch.ones(3)]
        self.act = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self, self.fc(x))


class HalfLazy(nn.Module):
    """A layer whose bias is there before its weight, and is drawn anew with it."""

    def __init__(self, out: int = 3):
        super().__init__()
        self.weight, self.bias = nn.UninitializedParameter(), nn.Parameter(torch.full((out,), 7.0))
        self.hook = self.register_forward_pre_hook(self.initialise)

    @torch.no_grad()
    def initialise(self, module: nn.Module, args: Any) -> None:
        self.weight.materialize((len(self.bias), args[0].size(-1)))  # type: ignore[attr-defined]
        nn.init.normal_(self.weight)
        nn.init.uniform_(self.bias)
        self.hook.remove()
        del self.hook

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


def and_return(value: Any, *_: Any) -> Any:
    return value


class Merging(nn.Module):
    """Changes its weights when its mode changes, as adapters do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lazy, self.merged = nn.Linear(4, 4), nn.LazyLinear(3), False

    def train(self, mode: bool = True) -> nn.Module:
        if not mode and not self.merged:
            self.fc.weight.data += 1
            self.merged = True
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lazy(self.fc(x))


class Counted(nn.Module):
    """Lazy norms write a buffer that is there already."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.LazyConv1d(3, 1), nn.LazyBatchNorm1d()
        self.norm.num_batches_tracked.fill_(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x[..., None])).flatten(1)


def spectral() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.utils.spectral_norm(nn.Linear(4, 3)))


def geometric() -> nn.Module:
    from torch_geometric.nn import Linear

    return nn.Sequential(Linear(-1, 5), nn.ReLU(), Linear(-1, 3))


FORWARDS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "nothing": lambda self, x: self.known(x),
    "buffer": lambda self, x: and_return(self.known(x), self.count.add_(1)),
    "parameters": lambda self, x: and_return(self.known(x), [p.data.mul_(2) for p in self.known.parameters()]),
    "data of a weight": lambda self, x: and_return(self.known(x), self.known.weight.data.clamp_(0, 1)),
    "table": lambda self, x: and_return(self.known(x), self.table[0].add_(1)) + self.table[0],
    "view": lambda self, x: and_return(self.known(x), self._buffers["view"].fill_(3)),
    "dtype": lambda self, x: self.known.double()(x.double()),
    "gradients": lambda self, x: and_return(self.known(x), self.zero_grad()),
    "numbers": lambda self, x: and_return(self.known(x), random.random(), np.random.rand(), torch.manual_seed(3)),
    "noise": lambda self, x: and_return(self.known(x), self.table[0].normal_()),
    "needs data": lambda self, x: self.known(x) if self.count.add_(1).sum() + x.sum() > 1e9 else self.known(x) + 1,
    "replaced": lambda self, x: and_return(self.known(x), setattr(self, "table", [])),
    "hooks": lambda self, x: and_return(self.known(x), self.known.register_forward_hook(lambda m, a, o: o + 1)),
    "frozen": lambda self, x: and_return(self.known(x), self.known.requires_grad_(False)),
    "embedding": lambda self, x: F.embedding(torch.tensor([0, 1]), self.known.weight, max_norm=0.1) + self.known(x),
    "training": lambda self, x: F.batch_norm(x, self.count, self.view, training=True),
}
MODELS: dict[str, Callable[[], nn.Module]] = {name: (lambda act=act: Of(act)) for name, act in FORWARDS.items()}
MODELS |= {
    "half lazy": lambda: nn.Sequential(HalfLazy(), nn.LazyLinear(3)),
    "half lazy, tied": lambda: tied(nn.Sequential(HalfLazy(), nn.Linear(3, 3))),
    "merging": Merging,
    "counted": Counted,
    "spectral": spectral,
    "geometric": geometric,
    "a lazy root": HalfLazy,
}


# What a verb or two may refuse: what the forward writes where the tracer cannot see it, or decides by data.
REFUSED = ("needs data", "dtype", "parameters", "merging", "table", "noise", "embedding", "training", "view")


def tied(model: nn.Sequential) -> nn.Module:
    model[1].bias = model[0].bias
    return model


def bits(tensor: torch.Tensor) -> Any:
    if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
        return type(tensor)
    numbers = tensor.detach().contiguous().view(torch.uint8).tolist() if tensor.dim() else tensor.item()
    gradient = None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
    return id(tensor), tensor.dtype, tensor.data_ptr(), tensor._version, tensor.requires_grad, numbers, gradient


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Every tensor by its bits, every attribute and hook by what it is, and the random states."""
    found: dict[str, Any] = {
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
        "names": (nn.Module.__call__, torch.random.default_generator, torch.is_grad_enabled()),
    }
    for path, module in model.named_modules():
        found[f"{path}:class"] = type(module)
        for name, value in module.__dict__.items():
            members = list(value.items()) if isinstance(value, dict) else value
            found[f"{path}:{name}"] = (id(value), repr(members))
        for name, tensor in {**module._parameters, **module._buffers}.items():
            found[f"{path}.{name}"] = tensor if tensor is None else bits(tensor)
        for name, tensor in enumerate(getattr(module, "table", ())):
            found[f"{path}.table.{name}"] = bits(tensor)
    return found


VERBS: dict[str, Callable[[nn.Module, Any, Path], object]] = {
    "inspect": lambda model, x, _: tracer.inspect(model, x),
    "draw": lambda model, x, folder: tracer.draw(model, x, folder / "m.svg"),
    "why": lambda model, x, _: tracer.why(model, x, next((path for path, _ in model.named_modules() if path), "")),
    "resolve": lambda model, x, _: tracer.resolve(model, x, seed=0),
    "convert": lambda model, x, folder: tracer.convert(model, x, folder / "m.onnx", seed=0),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_every_public_function_leaves_the_callers_model_as_it_was(name: str, tmp_path: Path) -> None:
    """Whether it gives an answer, or refuses the model."""
    model, x = MODELS[name](), torch.randn(2, 4)
    for parameter in model.parameters():
        if not isinstance(parameter, nn.UninitializedParameter):
            parameter.grad = torch.ones_like(parameter)
    before, bits_of_x, refused = snapshot(model), bits(x), list[str]()
    for verb, run in VERBS.items():
        try:
            run(model, x, tmp_path)
        except tracer.TracerError:
            refused.append(verb)
        after = snapshot(model)
        assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == set(), verb
        assert bits(x) == bits_of_x
    assert not refused or name in REFUSED


EXPORTED = [
    "nothing",
    "buffer",
    "data of a weight",
    "gradients",
    "half lazy",
    "half lazy, tied",
    "counted",
    "geometric",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*EXPORTED, "needs data", "a lazy root"])
@pytest.mark.parametrize("inplace", [False, True])
def test_weights_are_those_of_a_dry_run(name: str, inplace: bool) -> None:
    """What an initialiser draws anew too; apart from what the forward itself writes."""
    torch.manual_seed(1)
    model = MODELS[name]()
    torch.manual_seed(1)
    twin, x = MODELS[name](), torch.randn(2, 4)
    torch.manual_seed(5)
    with torch.no_grad():
        twin.eval()(x)
    parameters = list(model.parameters())
    found = tracer.resolve(model, x, seed=5, inplace=inplace).eval()
    ours, theirs = found.state_dict(), twin.state_dict()
    written = {"buffer": ["count"], "needs data": ["count"], "data of a weight": ["view", "known.weight"]}.get(name, [])
    assert list(ours) == list(theirs)
    assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == written
    if inplace:
        assert all(left is right for left, right in zip(parameters, found.parameters(), strict=True))


def test_tensors_on_one_memory_stay_on_one_memory() -> None:
    model = Of(FORWARDS["nothing"])
    found: Any = tracer.resolve(model, spec(2, 4))
    assert found.known.weight is model.known.weight
    assert found.view is model.view
    assert found.table[0] is not model.table[0]
    assert found.table[0].data_ptr() != model.table[0].data_ptr()
    half: Any = nn.Sequential(HalfLazy())
    half.register_buffer("row", half[0].bias.detach()[1:])
    for inplace in (False, True):
        resolved: Any = tracer.resolve(half, spec(2, 4), inplace=inplace)
        resolved[0].bias.data.fill_(2)
        assert resolved.row.tolist() == [2, 2]


def test_on_another_device_too() -> None:
    from passes.isolation.model_copy import copy_model

    copied: Any = copy_model(Of(FORWARDS["nothing"]), torch.device("meta"))
    assert copied.view.untyped_storage()._cdata == copied.known.weight.untyped_storage()._cdata
    assert (copied.view.shape, copied.table[0].device.type) == ((3,), "meta")


def test_a_model_that_writes_nothing_is_not_held_twice() -> None:
    setup = """
from torch import nn
from passes.isolation.copy_on_write import running_copy
model = nn.Sequential(*(nn.Linear(4000, 4000) for _ in range(5)))
x = torch.randn(1, 4000)
with torch.no_grad():
    model(x)
"""
    work = "with torch.no_grad(), running_copy(model) as copy:\n    {}copy(x)"
    assert peak_bytes(setup, work.format("")) < 30e6
    assert peak_bytes(setup, work.format("copy[0].weight.data.mul_(1); ")) > 60e6


def test_a_write_is_seen_by_every_view_and_by_no_other() -> None:
    from passes.isolation.copy_on_write import running_copy

    model: Any = nn.Linear(3, 3)
    before = model.weight.detach().clone()
    with torch.no_grad(), running_copy(model) as copied:
        early = copied.weight.data[0]  # type: ignore[index,union-attr]
        copied.weight.data.fill_(2)  # type: ignore[union-attr,operator]
        assert early.sum().item() == 6
        early.add_(1)
        assert copied.weight.sum().item() == 21  # type: ignore[union-attr,operator]
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("at", range(6))
def test_in_place_is_all_or_nothing(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import passes.modules.becoming as becoming

    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), HalfLazy(), nn.Linear(3, 3))
    before, take, count = snapshot(model), becoming._take, iter(range(100))

    def failing(*args: Any) -> None:
        if next(count) == at:
            raise MemoryError
        take(*args)

    monkeypatch.setattr(becoming, "_take", failing)
    with pytest.raises(tracer.TracerError, match="memory ran out"):
        tracer.resolve(model, spec(2, 4), inplace=True, seed=0)
    assert snapshot(model) == before


def test_eval_that_changes_weights_is_refused_until_it_is_done() -> None:
    model = Merging()
    with pytest.raises(tracer.InputError, match=r"Merging\.eval\(\) changes fc\.weight"):
        tracer.convert(model, spec(2, 4), seed=0)
    model.eval()
    assert tracer.convert(model, spec(2, 4), seed=0).verification is not None


def assert_same_tensors(found: nn.Module, expected: nn.Module) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_lazy_root_resolves_like_any_other() -> None:
    class Own(nn.LazyLinear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.weight, self.bias) * 2

    for build in (lambda: nn.LazyLinear(3), lambda: Own(3), HalfLazy, nn.LazyBatchNorm1d):
        torch.manual_seed(0)
        twin, x = build(), torch.randn(2, 4)
        torch.manual_seed(3)
        with torch.no_grad():
            expected = twin.eval()(x)
        for inplace in (False, True):
            model = build()
            found = tracer.resolve(model, x, seed=3, inplace=inplace)
            assert_same_tensors(found, twin)
            assert torch.equal(found.eval()(x), expected)
            assert (found is model) == inplace
        assert tracer.convert(build(), x, seed=3).route == "direct"
        loaded = tracer.resolve(build(), x, weights=twin.state_dict())
        assert_same_tensors(loaded, twin)


def test_weak_references_in_the_table_of_models_are_dead() -> None:
    """Nothing of a copy lives on."""
    from passes.isolation.model_copy import copy_model

    copied = copy_model(Of(FORWARDS["nothing"]))
    watched = weakref.ref(copied)
    del copied
    import gc

    gc.collect()
    assert watched() is None


# Tensors that the model does not have ----------------------------------------------------------------

GLOBAL = torch.arange(4.0)


class WritesGlobal(nn.Module):
    """Writes to a tensor of its Python module: where it is traced, or in a call that only runs."""

    def __init__(self, write: Callable[[torch.Tensor], object]):
        super().__init__()
        self.write, self.fc = write, nn.LazyLinear(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.write(x)
        return self.fc(x) + GLOBAL


@pytest.mark.parametrize(
    "write",
    [
        lambda x: GLOBAL.add_(1),
        lambda x: GLOBAL[1:].copy_(GLOBAL[:3].clone()),
        lambda x: GLOBAL.add_(1) if torch.Tensor.dim(x) == 2 else None,
        lambda x: GLOBAL.view(2, 2).mul_(2) if torch.Tensor.numel(x) else None,
        lambda x: GLOBAL.add_(1) if x.sum() < 100 else None,
    ],
)
@pytest.mark.parametrize("run", [tracer.inspect, tracer.resolve, tracer.convert])
def test_global_tensors_stay_as_they_are(run: Callable[..., object], write: Callable[[torch.Tensor], object]) -> None:
    with suppress(TracerError):
        run(WritesGlobal(write), torch.ones(2, 4))
    assert torch.equal(GLOBAL, torch.arange(4.0))
