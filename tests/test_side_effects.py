"""Nothing of the caller's changes: after success, and after a failure at any point."""

from __future__ import annotations

import gc
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

import tracer
from tracer import spec

STAGES = [
    "tracer.capture.ladder.capture",
    "passes.stages.shape_propagation.ShapePropagation.run",
    "passes.stages.lazy_resolution.LazyResolution.run",
    "passes.stages.eager_rewrite.EagerRewrite.run",
    "passes.stages.simplification.Simplification.run",
    "passes.lowering.onnx_lowering.OnnxLowering.run",
    "passes.onnx.validity.check_model",
    "passes.files.writer.write_single",
    "tracer.checking.verification.verify",
]


class Busy(nn.Module):
    """A model whose forward leaves traces on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []
        self.cache: dict[str, Any] = {}
        self.steps = 0
        self.alias = self.log
        self.register_buffer("count", torch.zeros(1))
        self.conv = nn.LazyConv2d(4, 3)
        self.norm = nn.LazyBatchNorm2d()
        self.known = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.LazyLinear(3)
        self.fc.register_forward_hook(lambda module, args, output: output + 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        self.count += 1
        self.log.append(x.shape)
        x = self.drop(self.known(self.norm(self.conv(x))))
        self.cache["features"] = x
        return self.fc(x.flatten(1))


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything reachable from the model: identities, values of initialised tensors, attributes, hooks, modes."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        found[f"{path}:type"] = type(module)
        for name, value in module.__dict__.items():
            found[f"{path}:{name}"] = repr(sorted(value)) if name.endswith("_hooks") else repr(value)
        for name, tensor in {**module._parameters, **module._buffers}.items():
            lazy = isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer))
            found[f"{path}.{name}"] = (id(tensor), type(tensor), None if lazy or tensor is None else tensor.tolist())
    return found


def build() -> nn.Module:
    torch.manual_seed(0)
    model = Busy().train()
    model.known.eval()
    return model


def proxies_from(root: Any) -> list[Any]:
    """The fx proxies reachable from an object through Python containers and attributes."""
    seen, todo, found = set(), [root], []
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, (type, str, bytes)) or type(thing).__name__ in ("function", "module"):
            continue
        seen.add(id(thing))
        if issubclass(type(thing), fx.Proxy):
            found.append(thing)
        todo += (
            gc.get_referents(thing) if isinstance(thing, (dict, list, tuple, set)) or hasattr(thing, "__dict__") else []
        )
    return found


@pytest.mark.parametrize("verb", ["inspect", "resolve", "convert"])
def test_success_changes_nothing(verb: str, tmp_path: Path) -> None:
    model = build()
    before, state = snapshot(model), torch.get_rng_state()
    options: dict[str, Any] = {"inspect": {}, "resolve": {"seed": 0}, "convert": {"seed": 0, "f": tmp_path / "m.onnx"}}
    result = getattr(tracer, verb)(model, spec("N", 2, 6, 6), **options[verb])
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not proxies_from(model)
    produced = getattr(result, "module", result)
    if isinstance(produced, nn.Module):
        assert not proxies_from(produced)
        assert (produced.steps, produced.log, produced.cache) == (0, [], {})  # type: ignore[union-attr]
        assert produced.alias is produced.log
        assert produced.known.weight is model.known.weight  # type: ignore[union-attr]
        assert [module.training for module in produced.modules()] == [module.training for module in model.modules()]


class InjectedError(Exception):
    pass


def inject(stage: str, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a stage fail, in place of its work or once it is done."""
    original = pkgutil.resolve_name(stage)

    def fail(*args: Any, **kwargs: Any) -> None:
        if when == "after":
            original(*args, **kwargs)
        raise InjectedError

    monkeypatch.setattr(stage, fail)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_changes_nothing(stage: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    before, state = snapshot(model), torch.get_rng_state()
    inject(stage, when, monkeypatch)
    with pytest.raises(tracer.TracerError) as caught:
        tracer.convert(model, spec("N", 2, 6, 6), target, seed=0)
    assert isinstance(caught.value.__cause__, InjectedError)
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not proxies_from(model)
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("stage", STAGES[:3])
def test_a_failure_in_place_leaves_every_layer_lazy(stage: str, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    before = snapshot(model)
    inject(stage, when, monkeypatch)
    with pytest.raises(tracer.TracerError):
        tracer.resolve(model, spec("N", 2, 6, 6), inplace=True, seed=0)
    assert snapshot(model) == before


def test_torch_is_as_it_was() -> None:
    zeros, call, getattribute = torch.zeros, nn.Module.__call__, nn.Module.__getattr__
    tracer.inspect(build(), spec("N", 2, 6, 6))
    with pytest.raises(tracer.TracerError):
        tracer.inspect(build(), spec("N", 2, 1, 1))
    assert (torch.zeros, nn.Module.__call__, nn.Module.__getattr__) == (zeros, call, getattribute)
    assert "training" not in nn.Module.__dict__


def test_torchs_compiler_works_after_it_was_first_loaded_by_a_capture() -> None:
    """In a process of its own, where nothing has loaded it before."""
    script = """
import sys, torch, tracer
from torch import nn
from torch.utils.checkpoint import checkpoint

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(3)

    def forward(self, x):
        return checkpoint(self.fc, x, use_reentrant=False)

assert "torch._dynamo" not in sys.modules
assert tracer.inspect(Net(), tracer.spec("N", 4)).resolved == {"fc": {"in_features": 4}}
assert "torch._dynamo" in sys.modules
compiled = torch.compile(lambda x: x + 1 if isinstance(x, torch.Tensor) else x, backend="eager", fullgraph=True)
assert compiled(torch.ones(2)).tolist() == [2, 2]
"""
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent.parent, check=True)
