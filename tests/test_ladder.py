"""A forward that cannot be traced is followed on meta tensors, else on data; the report says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from tests.test_dry_run_identity import assert_same, dry_run
from tracer import spec


class Picky(nn.Module):
    """Asks for a real tensor: not traceable, but runs on meta tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LazyLinear(4), nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(x, torch.fx.Proxy):
            raise RuntimeError("only real tensors")
        return self.second(self.first(x))


class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.picky, self.after = nn.LazyLinear(5), Picky(), nn.LazyLinear(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.picky(self.before(x)))


class ByData(nn.Module):
    """Branches on values."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[int] = []
        self.norm = nn.BatchNorm1d(8)
        self.left, self.right = nn.LazyLinear(4), nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x) + torch.rand(1)
        self.log.append(len(x))
        if x.sum() > -1e9:
            x = self.left(x)
        return self.right(x)


class ByNumpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = np.asarray(x).shape[0]
        return self.fc(x) * rows


def test_a_module_that_cannot_be_traced_is_one_node_on_meta() -> None:
    model = Parent()
    report = tracer.inspect(model, spec("N", 8))
    (rung,) = report.rungs
    assert (rung.path, rung.level) == ("picky", "meta")
    assert "only real tensors" in rung.reason
    assert str(rung.location).startswith("picky (test_ladder.py:")
    assert report.resolved["picky.first"] == {"in_features": 5}
    assert report.outputs == ["float32[N, 2]"]
    found = tracer.resolve(model, spec(2, 8), seed=1)
    assert_same(found, dry_run(Parent(), (2, 8), 1))


def test_it_takes_the_torch_route_or_is_a_blocker() -> None:
    with pytest.raises(tracer.UnsupportedOpError, match=r"Picky at picky \(test_ladder\.py:\d+\).*only real tensors"):
        tracer.convert(Parent(), spec("N", 8), route="direct")


def test_a_size_that_depends_on_a_dynamic_one_is_found_on_meta_too() -> None:
    model = nn.Sequential(nn.Flatten(), Picky())
    with pytest.raises(tracer.LazyResolutionError, match=r"1\.first\.in_features = 3\*T depends on T"):
        tracer.inspect(model, spec("N", 3, "T"))


@pytest.mark.parametrize("kind", [ByData, ByNumpy])
def test_a_forward_that_needs_data_resolves_on_data(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model: Any = kind()
    state = torch.get_rng_state()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    report = tracer.inspect(model, spec(2, 8))
    (rung,) = report.rungs
    assert (rung.path, rung.level) == ("", "real")
    assert rung.location.source is not None
    assert rung.location.source.startswith("test_ladder.py:")
    found = tracer.resolve(model, spec(2, 8), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(found, dry_run(kind(), (2, 8), 1))
    assert model.training
    assert getattr(model, "log", []) == []
    assert getattr(found, "log", []) == []
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert any(isinstance(parameter, nn.UninitializedParameter) for parameter in model.parameters())


def test_converting_it_names_the_line() -> None:
    with pytest.raises(
        tracer.UnsupportedOpError, match=r"test_ladder\.py:\d+\): the forward needs the data of"
    ) as info:
        tracer.convert(ByData(), spec(2, 8))
    assert "torch.onnx.export refuses the model" in str(info.value)


def test_a_forward_that_fails_anyway_shows_the_users_error() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError(f"no model for width {x.shape[1]}")

    with pytest.raises(tracer.CaptureError, match=r"test_ladder\.py:\d+.*raises ValueError: no model for width 8"):
        tracer.resolve(nn.Sequential(Fails()), spec(2, 8))


def test_a_bug_of_ours_is_never_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from passes.ops.linear import linear

    def broken(call: Any) -> Any:
        return {}["no such key"]

    broken.__code__ = broken.__code__.replace(co_filename=linear.shape_rule.__code__.co_filename)  # type: ignore[union-attr]
    monkeypatch.setattr(linear, "shape_rule", broken)
    with pytest.raises(tracer.InternalError, match="no such key"):
        tracer.resolve(nn.Sequential(nn.LazyLinear(3), Picky()), spec(2, 8))


class AfterReshaping(nn.Module):
    """Takes a size, and cannot be traced."""

    def forward(self, x: torch.Tensor, count: int) -> torch.Tensor:
        flat = x.reshape(count)
        if hasattr(flat, "node"):
            raise TypeError("only real tensors")
        return flat + 1


def test_a_number_that_was_first_used_in_vain_is_computed_again() -> None:
    class Numbers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = AfterReshaping()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            count = x.shape[0] * 4
            return self.odd(x, count).reshape(count) + x.reshape(count)

    report = tracer.inspect(Numbers(), spec("N", 4))
    assert [rung.path for rung in report.rungs] == ["odd"]
    assert report.outputs == ["float32[4*N]"]
