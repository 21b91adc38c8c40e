"""The exported model is really run, and a wrong one is really found."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import tracer
from passes.guards import GuardLog
from passes.onnx_writer import temporary_model
from tracer import VerificationError
from tracer.sample import bind_sample
from tracer.verification import verify


class Halves(nn.Module):
    """Holds for even T up to 66 only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] % 2 == 0 and x.shape[1] <= 66:
            return x[:, ::2]
        return x


def compare(conversion: tracer.Conversion, module: nn.Module, *shape: int | str) -> float:
    log = GuardLog()
    sample = bind_sample(module, tracer.spec(*shape), None, None, None, log)
    with temporary_model(conversion.lowered) as file:
        return verify(file, module, sample, conversion.lowered.output_names, log).largest_difference


def test_a_wrong_model_is_found() -> None:
    model = tracer.resolve(nn.Sequential(nn.LazyLinear(4), nn.Tanh()), tracer.spec("N", 3), seed=0)
    conversion = tracer.convert(model, tracer.spec("N", 3))
    assert compare(conversion, model, "N", 3) < 1e-6
    other = tracer.resolve(nn.Sequential(nn.LazyLinear(4), nn.Tanh()), tracer.spec("N", 3), seed=1)
    with pytest.raises(VerificationError, match=r"output output at N=2 differs from the module's by .* is allowed"):
        compare(conversion, other, "N", 3)
    wider = tracer.resolve(nn.Sequential(nn.LazyLinear(5), nn.Tanh()), tracer.spec("N", 3), seed=1)
    with pytest.raises(VerificationError, match=r"has the shape \[2, 4\], but the module gives \[2, 5\]"):
        compare(conversion, wider, "N", 3)


def test_dynamic_sizes_are_run_at_two_sizes_for_which_the_guards_hold() -> None:
    conversion = tracer.convert(Halves(), tracer.spec("N", "T"))
    assert conversion.verification is not None
    assert [comparison.sizes for comparison in conversion.verification.comparisons] == [
        {"N": 2, "T": 64},
        {"N": 4, "T": 66},
    ]
    assert [guard.condition for guard in conversion.report.guards if guard.dynamic] == ["T % 2 == 0", "T <= 66"]


def test_sampled_sizes_are_the_callers() -> None:
    conversion = tracer.convert(Halves(), tracer.spec("N", "T"), dims={"T": 8})
    assert conversion.verification is not None
    assert conversion.verification.comparisons[0].sizes == {"N": 2, "T": 8}


def test_without_onnxruntime_the_reference_evaluator_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    conversion = tracer.convert(nn.Sequential(nn.LazyLinear(4), nn.ReLU()), tracer.spec("N", 3))
    assert conversion.verification is not None
    assert conversion.verification.runtime == "onnx.reference"
    assert conversion.verification.largest_difference < 1e-5


def test_the_random_state_is_restored() -> None:
    model = nn.Linear(3, 4)
    state = torch.get_rng_state()
    tracer.convert(model, tracer.spec("N", 3))
    assert torch.equal(torch.get_rng_state(), state)
