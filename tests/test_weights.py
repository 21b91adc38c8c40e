"""Weights from checkpoints, in place, and on other devices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tracer
from tracer import LazyResolutionError, LoadError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(8, 3, groups=2)
        self.norm = nn.LazyBatchNorm2d()
        self.up = nn.LazyConvTranspose2d(6, 2)
        self.fc = nn.LazyLinear(5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.norm(self.conv(x)))
        return self.head(self.fc(x.flatten(1)))


SAMPLE = (2, 4, 8, 8)


@pytest.fixture
def trained() -> nn.Module:
    model = tracer.resolve(Net(), tracer.spec(*SAMPLE), seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    return model


def same(left: nn.Module, right: nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_checkpoint_in_torchs_old_format(trained: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=False)
    assert same(tracer.resolve(Net(), weights=path), trained)


@pytest.mark.parametrize("form", ["mapping", "safetensors", "pt"])
@pytest.mark.parametrize("sample", [True, False])
def test_a_checkpoint_resolves(trained: nn.Module, form: str, sample: bool, tmp_path: Path) -> None:
    weights: object = trained.state_dict()
    if form != "mapping":
        path = tmp_path / f"weights.{form}"
        save_file(trained.state_dict(), path) if form == "safetensors" else torch.save(trained.state_dict(), path)
        weights = path
    model = Net()
    head = model.head.weight
    before = head.detach().clone()
    resolved = tracer.resolve(model, tracer.spec(*SAMPLE) if sample else None, weights=weights)
    assert same(resolved, trained)
    assert type(resolved.conv) is nn.Conv2d
    sizes = (resolved.conv.in_channels, resolved.norm.num_features, resolved.up.in_channels, resolved.fc.in_features)
    assert sizes == (4, 8, 8, 6 * 7 * 7)
    assert model.head.weight is head
    assert torch.equal(head, before)
    assert isinstance(model.conv.weight, nn.UninitializedParameter)
    x = torch.randn(SAMPLE)
    torch.testing.assert_close(resolved.eval()(x), trained.eval()(x))


def test_a_checkpoint_leaves_the_random_state(trained: nn.Module) -> None:
    model = Net()
    state = torch.get_rng_state()
    tracer.resolve(model, tracer.spec(*SAMPLE), weights=trained.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_checkpoint_converts(trained: nn.Module) -> None:
    conversion = tracer.convert(Net(), tracer.spec("N", *SAMPLE[1:]), weights=trained.state_dict())
    assert same(conversion.module, trained)
    assert conversion.verification is not None


def test_checkpoint_and_sample_disagree(trained: nn.Module) -> None:
    with pytest.raises(LazyResolutionError, match=r"fc\.weight is \[5, 294\].*makes it \[5, 336\].*in_features = 336"):
        tracer.resolve(Net(), tracer.spec(2, 4, 8, 9), weights=trained.state_dict())


def test_missing_and_unknown_keys(trained: nn.Module) -> None:
    weights = trained.state_dict()
    weights["other"] = weights.pop("fc.bias")
    with pytest.raises(LoadError, match=r"fc\.bias is missing from it; other is not in the model"):
        tracer.resolve(Net(), tracer.spec(*SAMPLE), weights=weights)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "exploded",))  # type: ignore[return-value]

    torch.save({"fc.weight": Bomb()}, tmp_path / "bad.pt")
    with pytest.raises(LoadError, match="cannot be read as weights"):
        tracer.resolve(Net(), weights=tmp_path / "bad.pt")
    assert not (tmp_path / "exploded").exists()


def test_in_place_keeps_the_identity_of_parameters() -> None:
    model = Net()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    assert tracer.resolve(model, tracer.spec(*SAMPLE), inplace=True, seed=0) is model
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), parameters, strict=True))
    drawn = tracer.resolve(Net(), tracer.spec(*SAMPLE), seed=0)
    assert torch.equal(model.fc.weight, drawn.fc.weight)
    before = model.fc.weight.detach().clone()
    model(torch.randn(SAMPLE)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.fc.weight, before)
    assert not model.conv._forward_pre_hooks
    assert type(model.up) is nn.ConvTranspose2d


def test_in_place_is_all_or_nothing() -> None:
    model = Net()
    with pytest.raises(tracer.TracerError):
        tracer.resolve(model, tracer.spec(2, 3, 8, 8), inplace=True)
    assert isinstance(model.conv.weight, nn.UninitializedParameter)
    assert type(model.conv) is nn.LazyConv2d


def test_meta_allocates_nothing() -> None:
    model = tracer.resolve(nn.Sequential(nn.LazyLinear(1_000_000)), tracer.spec(2, 1_000_000), device="meta")
    assert model[0].weight.is_meta
    assert model[0].weight.shape == (1_000_000, 1_000_000)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_declared_dtype_stays(dtype: torch.dtype) -> None:
    model = tracer.resolve(nn.Sequential(nn.LazyLinear(3, dtype=dtype)), tracer.spec(2, 4, dtype=dtype))
    assert model[0].weight.dtype == dtype
