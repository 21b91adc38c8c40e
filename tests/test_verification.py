"""The exported model is really run, and a wrong one is really found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tracer
from passes.sizes.guards import GuardLog
from tracer import VerificationError
from tracer.capture.ladder import follow
from tracer.checking.verification import verify
from tracer.inputs.sample import bind_sample


class Halves(nn.Module):
    """Holds for even T up to 66 only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] % 2 == 0 and x.shape[1] <= 66:
            return x[:, ::2]
        return x


def compare(conversion: tracer.Conversion, module: nn.Module, *shape: int | str) -> float:
    log = GuardLog()
    sample = bind_sample(module, tracer.spec(*shape), None, None, None, log)
    program, _ = follow(module, sample, log)
    return verify(conversion.lowered, program, module, sample).largest_difference


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


def test_dynamic_sizes_are_moved_to_the_edges_of_what_the_guards_allow() -> None:
    conversion = tracer.convert(Halves(), tracer.spec("N", "T"))
    assert conversion.verification is not None
    assert [comparison.sizes for comparison in conversion.verification.comparisons] == [
        {"N": 2, "T": 64},
        {"N": 1, "T": 2},
        {"N": 1, "T": 64},
        {"N": 2, "T": 2},
        {"N": 9, "T": 64},
        {"N": 2, "T": 66},
        {"N": 2, "T": 4},
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


class Of(nn.Module):
    """A module with the forward it is given, and a layer of a dtype."""

    def __init__(self, forward: Any, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.fc = nn.LazyLinear(3, dtype=dtype)
        self.call = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.call(self.fc, x)


def runtime(model: nn.Module, *shape: int | str, dtype: torch.dtype = torch.float32, **options: Any) -> str:
    conversion = tracer.convert(model, tracer.spec(*shape, dtype=dtype), route="direct", **options)
    assert conversion.verification is not None
    return conversion.verification.runtime


def test_types_that_onnxruntime_has_no_kernels_for() -> None:
    conv = nn.Sequential(nn.LazyConv2d(4, 3, dtype=torch.float64), nn.GELU())
    assert runtime(conv, "N", 3, 6, 6, dtype=torch.float64) == "onnxruntime, float64 computed in float32 by Conv, Erf"
    conv = nn.Sequential(nn.LazyConv2d(4, 3, dtype=torch.bfloat16), nn.MaxPool2d(2))
    in_float32 = "onnxruntime, bfloat16 computed in float32"
    assert runtime(conv, "N", 3, 6, 6, dtype=torch.bfloat16, opset_version=22) == in_float32
    assert runtime(Of(lambda fc, x: fc(x.half()).float(), torch.float16), "N", 3) == "onnxruntime"
    assert runtime(Of(lambda fc, x: fc(x.bfloat16()).float(), torch.bfloat16), "N", 3) == in_float32
    assert runtime(Of(lambda fc, x: fc(x.float())), "N", 3, dtype=torch.uint16) == "onnxruntime"
    padded = Of(lambda fc, x: (fc(x.float()), nn.functional.pad(x, (1, 2))))
    assert runtime(padded, "N", 3, dtype=torch.int16) == "onnx.reference"


def test_another_dtype_is_a_disagreement() -> None:
    conversion = tracer.convert(Of(lambda fc, x: fc(x)), tracer.spec("N", 3), seed=0)
    with pytest.raises(VerificationError, match=r"at N=2 is float32, but the module gives torch\.float64"):
        compare(conversion, Of(lambda fc, x: conversion.module.fc(x).double()), "N", 3)


def test_a_module_that_does_not_run_itself_is_named(tmp_path: Path) -> None:
    model = Of(lambda fc, x: fc(x.transpose(1, 2).view(x.size(0), -1)))
    with pytest.raises(
        tracer.ExportError,
        match=r"test_verification\.py:\d+\): the module itself does not run at N=2: RuntimeError: view",
    ):
        tracer.convert(model, tracer.spec("N", 2, 3), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.qint8, torch.uint1])
def test_a_sample_that_cannot_be_made_is_an_input_error(dtype: torch.dtype) -> None:
    with pytest.raises(tracer.InputError, match=r"no data can be made for the input x .*: "):
        tracer.convert(Of(lambda fc, x: fc(x.float())), tracer.spec("N", 3, dtype=dtype))


def test_random_numbers_in_the_forward_are_told_from_a_disagreement() -> None:
    noisy = Of(lambda fc, x: fc(x) + torch.randn_like(x))
    with pytest.raises(VerificationError, match="another result each time, as it draws random numbers"):
        tracer.convert(noisy, tracer.spec("N", 3))
    assert runtime(Of(lambda fc, x: (torch.rand(3), fc(x))[1]), "N", 3) == "onnxruntime"


def test_the_random_state_is_restored() -> None:
    model = nn.Linear(3, 4)
    state = torch.get_rng_state()
    tracer.convert(model, tracer.spec("N", 3))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_number_that_the_file_has_as_a_tensor() -> None:
    conversion = tracer.convert(Of(lambda fc, x: (fc(x), x.sum().item())), tracer.spec("N", 3))
    assert conversion.route == "direct"
    assert [comparison.output for comparison in conversion.verification.comparisons][:2] == ["output_0", "output_1"]
