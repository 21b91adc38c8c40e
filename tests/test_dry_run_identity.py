"""The weights are those of PyTorch's own dry run, bit for bit, for generated models and every lazy class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tracer
from tests.random_models import (
    BATCH_NORMS,
    CONVOLUTIONS,
    INSTANCE_NORMS,
    TRANSPOSED,
    RandomModel,
    random_models,
)

pytestmark = pytest.mark.filterwarnings("ignore:input's size at dim:UserWarning")


def dry_run(model: nn.Module, shape: tuple[int, ...], seed: int) -> nn.Module:
    x = torch.ones(shape)
    torch.manual_seed(seed)
    with torch.no_grad():
        model.eval()(x)
    return model


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype
        assert torch.equal(ours[key], tensor), key
    assert [type(module) for module in found.modules()] == [type(module) for module in expected.modules()]


def lazy_state(model: nn.Module) -> list[tuple[str, type, bool]]:
    return [(name, type(module), module.training) for name, module in model.named_modules()] + [
        (name, type(tensor), tensor.requires_grad) for name, tensor in model.state_dict(keep_vars=True).items()
    ]


@given(case=random_models(), seed=st.integers(0, 2**31))
@settings(max_examples=200)
def test_generated_models(case: RandomModel, seed: int) -> None:
    try:
        expected = dry_run(case.build(), case.shape, seed)
    except (RuntimeError, ValueError):  # groups that do not divide, say: both ways must say no
        with pytest.raises(tracer.TracerError):
            tracer.resolve(case.build(), tracer.spec(*case.shape), seed=seed)
        return
    model = case.build()
    before = lazy_state(model)
    state = torch.get_rng_state()
    found = tracer.resolve(model, tracer.spec(*case.shape), seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(found, expected)
    assert lazy_state(model) == before
    for batch in {2, 3}:
        x = torch.randn(batch, *case.shape[1:])
        torch.manual_seed(0)
        ours = found.eval()(x)
        torch.manual_seed(0)
        assert torch.equal(ours, expected(x))


CLASSES: list[Any] = [lambda: nn.LazyLinear(3)]
CLASSES += [lambda kind=kind: kind(4, 3) for kinds in (CONVOLUTIONS, TRANSPOSED) for kind in kinds.values()]
CLASSES += [lambda kind=kind: kind() for kinds in (BATCH_NORMS, INSTANCE_NORMS) for kind in kinds.values()]
RANKS = [2] + [1, 2, 3] * 4


@pytest.mark.parametrize(("build", "rank"), list(zip(CLASSES, RANKS, strict=True)))
def test_every_lazy_class_of_torch(build: Any, rank: int) -> None:
    shape = (2, 3, *(5,) * rank)
    model = build()
    assert_same(tracer.resolve(model, tracer.spec(*shape), seed=4), dry_run(build(), shape, 4))
    assert any(
        isinstance(t, (nn.UninitializedParameter, nn.UninitializedBuffer))
        for t in [*model.parameters(), *model.buffers()]
    )


def test_without_a_seed_the_weights_come_from_the_global_state() -> None:
    torch.manual_seed(9)
    found = tracer.resolve(nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(2)), tracer.spec(2, 3))
    assert_same(found, dry_run(nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(2)), (2, 3), 9))
