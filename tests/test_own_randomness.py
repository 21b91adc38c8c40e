"""Numbers drawn from generators of our own are those of the global random state, which does not move."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn import init

import tracer
from passes.isolation.own_randomness import own_randomness
from tests.test_dry_run_identity import assert_same, dry_run
from tests.test_weight_streaming import Folded


def tensor() -> torch.Tensor:
    return torch.full((5, 7), 0.5)


DRAWS: dict[str, Callable[[], Any]] = {
    "rand": lambda: torch.rand(40), "randn": lambda: torch.randn(3, 5), "randint": lambda: torch.randint(9, (20,)),
    "randint with low": lambda: torch.randint(2, 9, (20,)), "randperm": lambda: torch.randperm(20),
    "rand_like": lambda: torch.rand_like(tensor()), "randn_like": lambda: torch.randn_like(tensor()),
    "randint_like": lambda: torch.randint_like(tensor(), 9), "out": lambda: torch.rand(3, out=torch.empty(3)),
    "normal": lambda: torch.normal(0.0, 1.0, (3, 4)), "normal of tensors": lambda: torch.normal(tensor(), tensor()),
    "bernoulli": lambda: torch.bernoulli(tensor()), "multinomial": lambda: torch.multinomial(tensor(), 3),
    "poisson": lambda: torch.poisson(tensor() * 9), "binomial": lambda: torch.binomial(tensor() * 8, tensor()),
    "dropout": lambda: F.dropout(tensor(), 0.4), "alpha dropout": lambda: F.alpha_dropout(tensor(), 0.4, True),
    "dropout2d": lambda: F.dropout2d(tensor()[None, :, None], 0.4), "rrelu": lambda: F.rrelu(-tensor(), training=True),
    "native dropout": lambda: torch.native_dropout(tensor(), 0.5, True)[0],
    "gumbel": lambda: F.gumbel_softmax(tensor()), "fractional": lambda: F.fractional_max_pool2d(tensor()[None], 2, 3),
    "attention": lambda: F.scaled_dot_product_attention(tensor(), tensor(), tensor(), dropout_p=0.5),
    "recurrent": lambda: nn.LSTM(7, 3, 2, dropout=0.5)(tensor())[0],
    "dirichlet": lambda: torch._sample_dirichlet(tensor()),
    "gamma": lambda: torch._standard_gamma(tensor()), "beta": lambda: torch.distributions.Beta(0.5, 0.5).sample((5,)),
    "global by name": lambda: torch.rand(9, generator=torch.default_generator),
    "seeded": lambda: (torch.manual_seed(4), torch.rand(3))[1],
    "own": lambda: torch.rand(3, generator=torch.Generator().manual_seed(3)),
    "forked": lambda: _forked(),
} | {
    name: lambda name=name: getattr(tensor(), name)(*([0.5] if name == "geometric_" else []))
    for name in ("normal_", "uniform_", "random_", "exponential_", "cauchy_", "log_normal_", "geometric_", "bernoulli_")
} | {
    name: lambda name=name, extra=extra: getattr(init, name)(torch.empty(6, 8), *extra)
    for name, extra in (
        ("uniform_", ()), ("normal_", ()), ("trunc_normal_", ()), ("xavier_uniform_", ()), ("xavier_normal_", ()),
        ("kaiming_uniform_", ()), ("kaiming_normal_", ()), ("orthogonal_", ()), ("sparse_", (0.3,)),
    )
}  # fmt: skip


def _forked() -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        torch.rand(3)
    return torch.rand(3)


@pytest.mark.parametrize("name", DRAWS)
def test_the_same_numbers_and_nothing_global_moves(name: str) -> None:
    torch.manual_seed(7)
    expected, after = DRAWS[name](), torch.get_rng_state()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with own_randomness(7):
        found = DRAWS[name]()
        assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    with own_randomness(put_back=True):
        assert torch.equal(DRAWS[name](), expected)
    assert torch.equal(torch.get_rng_state(), after)


@contextmanager
def drawing_beside() -> Iterator[list[torch.Tensor]]:
    """Another thread that draws from the global state all the time, and what it drew."""
    drawn: list[torch.Tensor] = []
    done, started, interval = threading.Event(), threading.Event(), sys.getswitchinterval()

    def draw() -> None:
        while not done.is_set():
            drawn.append(torch.rand(3))
            started.set()

    thread = threading.Thread(target=draw)
    sys.setswitchinterval(1e-5)
    thread.start()
    started.wait()
    try:
        yield drawn
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)


@pytest.mark.filterwarnings("ignore::tracer.TracerWarning")
def test_another_thread_that_draws_changes_nothing_and_sees_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    model = Folded()
    torch.manual_seed(0)
    expected = dry_run(Folded(), (2, 3, 6, 6), 3)
    torch.manual_seed(11)
    with drawing_beside() as drawn:
        found = tracer.resolve(model, tracer.spec(2, 3, 6, 6), seed=3)
        conversion = tracer.convert(model, tracer.spec(2, 3, 6, 6), tmp_path / "kept.onnx", seed=3)
        monkeypatch.setattr("tracer.steps.delivery.STREAMED_FROM", 0)
        tracer.convert(model, tracer.spec(2, 3, 6, 6), tmp_path / "m.onnx", seed=3, verify=False)
    assert_same(found, expected)
    assert_same(conversion.module, expected)
    assert (tmp_path / "m.onnx").read_bytes() == (tmp_path / "kept.onnx").read_bytes()
    torch.manual_seed(11)
    assert torch.equal(torch.stack(drawn), torch.stack([torch.rand(3) for _ in drawn]))


def test_without_a_seed_the_global_state_moves_as_in_a_dry_run() -> None:
    torch.manual_seed(5)
    expected = Folded().eval()
    with torch.no_grad():
        expected(torch.ones(2, 3, 6, 6))
    after = torch.get_rng_state()
    torch.manual_seed(5)
    found = tracer.resolve(Folded(), tracer.spec(2, 3, 6, 6))
    assert torch.equal(torch.get_rng_state(), after)
    assert all(torch.equal(found.state_dict()[key], value) for key, value in expected.state_dict().items())


@pytest.mark.parametrize("name", ["reset_parameters", "reset_running_stats"])
def test_a_norm_that_draws_when_it_is_reset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own resets of norms draw nothing; others in their places may, and draw as in a dry run."""
    own = getattr(nn.modules.batchnorm._NormBase, name)

    def drawn(self: Any) -> None:
        own(self)
        if self.running_mean is not None and not nn.parameter.is_lazy(self.running_mean):
            self.running_mean.data.normal_()

    monkeypatch.setattr(nn.LazyBatchNorm2d, name, drawn)

    def model() -> nn.Module:
        return nn.Sequential(nn.LazyConv2d(4, 1), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))

    expected = dry_run(model(), (2, 3, 5, 5), 7)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    found = tracer.resolve(model(), tracer.spec(2, 3, 5, 5), seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(found, expected)
