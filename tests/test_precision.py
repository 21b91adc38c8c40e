"""Models in half, bfloat16 and double are exported in their own dtype, and verified."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from passes.onnx.types import ONNX_TYPES
from passes.sizes.guards import GuardLog
from tracer import VerificationError
from tracer.capture.ladder import follow
from tracer.checking.agreement import TOLERANCES, tolerances
from tracer.checking.verification import verify
from tracer.inputs.sample import bind_sample

DTYPES = [torch.float16, torch.bfloat16, torch.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_opset = pytest.mark.parametrize("opset", [13, 20, 23])


class LeNet(nn.Sequential):
    def __init__(self, dtype: torch.dtype):
        super().__init__(
            nn.LazyConv2d(6, 5, padding=2, dtype=dtype),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.LazyConv2d(16, 5, dtype=dtype),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.LazyLinear(20, dtype=dtype),
            nn.Softplus(),
            nn.LazyLinear(10, dtype=dtype),
            nn.LogSoftmax(-1),
        )


class Residual(nn.Module):
    """Convolutions both ways, each with a batch norm to be folded whose statistics are not the first ones."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.convs = nn.ModuleList(nn.LazyConv2d(8, 3, padding=1, bias=bias, dtype=dtype) for bias in (True, False))
        self.up = nn.LazyConvTranspose2d(8, 4, 2, 1, dtype=dtype)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8, dtype=dtype) for _ in range(3))
        for norm in self.norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
        self.alone = nn.LazyBatchNorm2d(dtype=dtype)
        self.head = nn.LazyLinear(5, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.alone(x)
        x = F.relu(self.norms[0](self.convs[0](x)))
        x = F.leaky_relu(x + self.norms[1](self.convs[1](x)), 0.2)
        x = F.hardswish(self.norms[2](self.up(x)))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    """What transformers are made of, written out."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.embed = nn.Embedding(11, 16, dtype=dtype)
        self.norm = nn.LayerNorm(16, dtype=dtype)
        self.qkv = nn.LazyLinear(48, dtype=dtype)
        self.root_norm = nn.RMSNorm(16, eps=1e-6, dtype=dtype)
        self.wide = nn.LazyLinear(64, dtype=dtype)
        self.narrow = nn.LazyLinear(16, dtype=dtype)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / 8**0.5
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        mixed = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
        x = x + mixed.transpose(1, 2).flatten(2)
        return x + self.narrow(F.gelu(self.wide(self.root_norm(x)), approximate="tanh") + F.gelu(self.wide(x)))


class Images(nn.Module):
    """Pools, resizes and pads of all kinds."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.mix = nn.LazyConv2d(4, 3, padding=1, padding_mode="reflect", dtype=dtype)
        self.norm = nn.InstanceNorm2d(4, affine=True, dtype=dtype)
        self.groups = nn.GroupNorm(2, 4, dtype=dtype)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.norm(self.mix(F.pad(x, (1, 2, 3, 0), mode="replicate")))
        small = F.adaptive_avg_pool2d(x, (3, 2))
        large = F.interpolate(self.groups(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        peak, place = F.max_pool2d(x, 3, 2, 1, return_indices=True)
        return {
            "small": F.interpolate(small, size=(6, 6)),
            "large": F.avg_pool2d(large, 3, 2, 1, ceil_mode=True),
            "peak": F.adaptive_max_pool2d(peak, 1),
            "place": place,
        }


Build = Callable[[torch.dtype], nn.Module]
MODELS: dict[Build, Callable[[torch.dtype], Any]] = {
    LeNet: lambda dtype: tracer.spec("N", 1, 16, 16, dtype=dtype),
    Residual: lambda dtype: tracer.spec("N", 3, 6, 6, dtype=dtype),
    Block: lambda _: torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]),
    Images: lambda dtype: tracer.spec(2, 3, 9, 10, dtype=dtype),
}


# What runs them: onnxruntime has no convolution in float64 and next to nothing in bfloat16.
RUNTIMES = {
    torch.float16: "onnxruntime",
    torch.bfloat16: "onnxruntime, bfloat16 computed in float32",
    torch.float64: "onnxruntime, float64 computed in float32 by ",
}


@each_opset
@each_dtype
@pytest.mark.parametrize("build", MODELS)
def test_is_exported_in_its_dtype_and_verified(build: Build, dtype: torch.dtype, opset: int) -> None:
    torch.manual_seed(0)
    conversion = tracer.convert(build(dtype), MODELS[build](dtype), opset_version=opset, route="direct", seed=0)
    model = conversion.onnx_model
    ends = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert ends - {onnx.TensorProto.INT64} == {ONNX_TYPES[dtype]}
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    own = {weights[name] for name in conversion.module.state_dict() if name in weights}
    assert own == {ONNX_TYPES[dtype]}
    assert conversion.verification is not None
    assert conversion.verification.runtime.startswith(RUNTIMES[dtype])
    assert 0 < conversion.verification.largest_difference < {torch.float64: 1e-5}.get(dtype, 0.1)


@each_dtype
@pytest.mark.parametrize("build", MODELS)
def test_the_newest_opset_needs_no_casts(build: Build, dtype: torch.dtype) -> None:
    model = tracer.convert(build(dtype), MODELS[build](dtype), opset_version=23, verify=False).onnx_model
    assert "Cast" not in [node.op_type for node in model.graph.node]


def test_only_what_takes_no_bfloat16_is_between_casts() -> None:
    shared = nn.Conv1d(2, 2, 1, bias=False)
    model = nn.Sequential(nn.ReLU(), shared, nn.ELU(), shared, nn.Tanh()).bfloat16()
    x = torch.randn(2, 2, 3).bfloat16()
    graph = tracer.convert(model, x).onnx_model.graph
    types = [node.op_type for node in graph.node]
    assert types == ["Relu", "Cast", "Cast", "Conv", "Cast", "Cast", "Elu", "Cast", "Cast", "Conv", "Cast", "Tanh"]
    results = {name: node.op_type for node in graph.node for name in node.output}
    assert (results["1"], results["2"], results["1_1"]) == ("Cast", "Cast", "Cast")  # known by their module, as ever
    assert [node.input[0] for node in graph.node if node.op_type == "Cast"].count("1.weight") == 1


def test_double_is_verified_in_double_where_there_are_kernels() -> None:
    conversion = tracer.convert(
        nn.Sequential(nn.LazyLinear(8), nn.Tanh()).double(), tracer.spec("N", 4, dtype=torch.double)
    )
    assert conversion.verification is not None
    assert conversion.verification.runtime == "onnxruntime"
    assert conversion.verification.largest_difference < 1e-14


def test_a_loop_in_double_between_convolutions() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 4, 3, padding=1)
            self.lstm = nn.LSTM(4, 5, bidirectional=True, batch_first=True)
            self.last = nn.Conv1d(10, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.lstm(self.conv(x).transpose(1, 2))[0].transpose(1, 2))

    conversion = tracer.convert(Net().double(), torch.randn(2, 3, 6).double())
    assert "Scan" in [node.op_type for node in conversion.onnx_model.graph.node]
    assert conversion.verification is not None
    assert conversion.verification.runtime == f"{RUNTIMES[torch.float64]}Conv"


class Nearest(nn.Module):
    """Resizes to every size, behind a convolution. Torch computes coordinates in double where the input is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 1, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.conv(x)
        return [F.interpolate(x, size, mode=mode) for mode in ("nearest", "nearest-exact") for size in range(1, 60)]


@pytest.mark.parametrize("length", [22, "L"])
def test_resizing_in_double_picks_the_same_elements(length: int | str) -> None:
    sample = tracer.spec(1, 2, length, dtype=torch.float64)
    dims = {"L": 22} if length == "L" else None
    verified = tracer.convert(Nearest().double(), sample, dims=dims, route="direct").verification
    assert verified is not None
    assert "Conv" in verified.runtime


class Apart(nn.Module):
    """What ONNX or a runtime computes otherwise in some dtypes: far from zero, of tiny variance, summed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, eps=0.1)
        nn.init.constant_(self.norm.running_var, 1e-9)
        self.bag = nn.EmbeddingBag(5, 4, mode="max")

    def forward(self, x: torch.Tensor, places: torch.Tensor) -> dict[str, torch.Tensor]:
        y = x.clone()
        y.index_put_((places,), x[places], accumulate=True)
        return {
            "far": F.logsigmoid(100 * x),
            "normed": self.norm(x),
            "pooled": F.avg_pool2d(x[None], 2, divisor_override=3),
            "summed": y.index_add(0, places, x[places]),
            "largest": self.bag(places[None]),
        }


@pytest.mark.parametrize("opset", [16, 20, 23])
@each_dtype
def test_operators_that_differ_between_dtypes(dtype: torch.dtype, opset: int) -> None:
    sample = (torch.randn(6, 4).to(dtype), torch.tensor([1, 4, 1]))
    assert tracer.convert(Apart().to(dtype), sample, opset_version=opset, route="direct").verification is not None


@each_dtype
def test_without_onnxruntime(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of many numbers too, at which numpy's bfloat16 fails."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    model = nn.Sequential(nn.Linear(2000, 8), nn.AdaptiveAvgPool1d(1), nn.Flatten(0), nn.LayerNorm(600)).to(dtype)
    verified = tracer.convert(model, torch.rand(600, 2000).to(dtype), opset_version=23).verification
    assert verified is not None
    assert verified.runtime == (
        "onnx.reference, bfloat16 computed in float32" if dtype == torch.bfloat16 else "onnx.reference"
    )


def off_by(amount: float, dtype: torch.dtype) -> None:
    """Compares a model with one whose result is larger by that."""

    class Off(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + amount

    model = nn.Linear(4, 3)
    conversion = tracer.convert(model.to(dtype), tracer.spec(2, 4, dtype=dtype))
    other = Off(4, 3).to(dtype)
    other.load_state_dict(model.state_dict())
    compare(conversion, other, tracer.spec(2, 4, dtype=dtype))


def compare(conversion: tracer.Conversion, module: nn.Module, sample: Any) -> None:
    log = GuardLog()
    bound = bind_sample(module, sample, None, None, None, log)
    program, _ = follow(module, bound, log)
    verify(conversion.lowered, program, module, bound)


@pytest.mark.parametrize(
    ("dtype", "amount"),
    [(torch.float64, 1e-8), (torch.float32, 1e-3), (torch.float16, 0.1), (torch.bfloat16, 0.5)],
    ids=str,
)
def test_each_dtype_has_its_tolerance(dtype: torch.dtype, amount: float) -> None:
    off_by(0.0, dtype)
    off_by(amount / 100, dtype)
    with pytest.raises(VerificationError, match="of the range is allowed"):
        off_by(amount, dtype)


class Inside(nn.Module):
    """Computes in a lower precision than it gives."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.layer = nn.Linear(300, 4, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.softmax(self.layer(x.to(self.layer.weight.dtype)), -1).float() * 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_coarsest_dtype_on_the_way_decides(dtype: torch.dtype) -> None:
    model, sample, log = Inside(dtype), tracer.spec("N", 300), GuardLog()
    assert tracer.convert(model, sample).verification is not None
    program, _ = follow(model, bind_sample(model, sample, None, None, None, log), log)
    (output,) = program.output().all_input_nodes
    assert tolerances(program)[output] == TOLERANCES[dtype]


def test_another_output_dtype_is_a_disagreement() -> None:
    class Widened(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).float()

    sample = tracer.spec(2, 4, dtype=torch.float16)
    conversion = tracer.convert(nn.Linear(4, 3).half(), sample)
    with pytest.raises(VerificationError, match=r"output output is float16, but the module gives torch\.float32"):
        compare(conversion, Widened(4, 3).half(), sample)
