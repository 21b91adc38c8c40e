"""Activations against torch: shapes and dtypes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import ShapeError, UnsupportedOpError
from passes.program.notes import VALUE
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

native = torch._C._nn
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGER = (torch.int64, torch.int32, torch.uint8)

MODULES: list[nn.Module] = [
    nn.CELU(),
    nn.CELU(0.7),
    nn.ELU(),
    nn.ELU(0.3),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.Hardshrink(),
    nn.Hardshrink(0.2),
    nn.Hardsigmoid(),
    nn.Hardswish(),
    nn.Hardtanh(),
    nn.Hardtanh(-0.5, 2.0),
    nn.LeakyReLU(),
    nn.LeakyReLU(0.3),
    nn.LogSigmoid(),
    nn.Mish(),
    nn.RReLU(),
    nn.RReLU(0.2, 0.9),
    nn.ReLU(),
    nn.ReLU6(),
    nn.SELU(),
    nn.SiLU(),
    nn.Sigmoid(),
    nn.Softplus(),
    nn.Softplus(2.0, 1.5),
    nn.Softplus(0.5, 40.0),
    nn.Softshrink(),
    nn.Softshrink(0.0),
    nn.Softshrink(1.2),
    nn.Softsign(),
    nn.Tanh(),
    nn.Tanhshrink(),
    nn.Threshold(0.5, 2.0),
    nn.Threshold(-0.5, 0.0),
]

FUNCTIONS: list[Callable[..., Any]] = [
    F.celu, F.elu, F.gelu, F.hardshrink, F.hardsigmoid, F.hardswish, F.hardtanh, F.leaky_relu, F.logsigmoid, F.mish,
    F.relu, F.relu6, F.rrelu, F.selu, F.sigmoid, F.silu, F.softplus, F.softshrink, F.softsign, F.tanh, F.tanhshrink,
    torch.celu, torch.hardshrink, torch.relu, torch.rrelu, torch.selu, torch.sigmoid, torch.special.expit, torch.tanh,
    native.hardsigmoid, native.hardswish, native.hardtanh, native.leaky_relu, native.mish, native.relu6, native.silu,
    F.celu_, F.elu_, F.hardtanh_, F.leaky_relu_, F.rrelu_, F.selu_, torch.relu_, torch.sigmoid_, torch.tanh_,
    native.silu_, native.mish_, native.hardswish_, native.hardsigmoid_,
]  # fmt: skip

ARGUMENTS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda x: (F.celu(x, 2.0, True), x)[1],
    lambda x: F.tanh(F.elu(x, 0.5, inplace=True)),
    lambda x: F.gelu(x, approximate="tanh"),
    lambda x: F.hardshrink(x, 1.0),
    lambda x: F.hardtanh(x, min_val=-2, max_val=1),
    lambda x: F.leaky_relu(x, 0.2, True),
    lambda x: F.relu(x, True),
    lambda x: F.rrelu(x, 0.1, 0.2, False),
    lambda x: torch.rrelu(x, 0.1, 0.2, False),
    lambda x: F.softplus(x, 3, 2),
    lambda x: F.softshrink(x, lambd=0.1),
    lambda x: F.threshold(x, 0.1, -3.0),
    lambda x: torch.threshold(x, 0.1, 0),
    lambda x: F.threshold_(x, 0.1, 0.5),
    lambda x: x.hardshrink(lambd=0.3),
    lambda x: x.relu_(),
    lambda x: x.relu().sigmoid().tanh_(),
]


def name(value: Any) -> str:
    return getattr(value, "__name__", "") if not isinstance(value, nn.Module) else str(value)


def samples(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values on both sides of every threshold, and far out."""
    return torch.cat([torch.linspace(-8, 8, 65), torch.tensor([-100.0, -30.0, 30.0, 80.0])]).to(dtype)[:, None]


@given(
    module=st.sampled_from(MODULES),
    shape=st.lists(st.integers(0, 3), max_size=4),
    dtype=st.sampled_from(FLOATING),
)
def test_shape(module: nn.Module, shape: list[int], dtype: torch.dtype) -> None:
    assert_shape_matches(module, torch.empty(shape, dtype=dtype))


@pytest.mark.parametrize("module", MODULES, ids=name)
@pytest.mark.parametrize("dtype", [*FLOATING, *INTEGER, torch.bool], ids=str)
def test_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """The dtype as on the CPU, whose kernels say what exists; meta kernels accept more."""
    x = torch.ones(2, 4, dtype=dtype)
    try:
        expected = module.eval()(x).dtype
    except (RuntimeError, NotImplementedError):
        with pytest.raises(ShapeError):
            propagated(module, x)
    else:
        assert VALUE.of(propagated(module, x).output()).dtype == expected


@pytest.mark.parametrize("module", MODULES, ids=name)
@pytest.mark.parametrize("opset", [13, 14, 17, 18, 20, 23])
def test_module(module: nn.Module, opset: int) -> None:
    assert_lowering_matches(module, samples(), opset=opset)


@pytest.mark.parametrize("function", [*FUNCTIONS, *ARGUMENTS], ids=name)
def test_function(function: Callable[..., Any]) -> None:
    assert_shape_matches(function, samples())
    assert_lowering_matches(function, samples(), dynamic={0: {0: "N"}}, also=(torch.randn(3, 1),))


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_float16(module: nn.Module) -> None:
    assert_lowering_matches(module, samples(torch.float16), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_float64(module: nn.Module) -> None:
    if isinstance(module, nn.GELU) and module.approximate == "none":
        # onnxruntime has no Erf in double precision; the graph is valid all the same.
        tracer.convert(module, (samples(torch.float64),), verify=False, route="direct")
        return
    assert_lowering_matches(module, samples(torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_scalar_input(module: nn.Module) -> None:
    assert_lowering_matches(module, torch.tensor(-0.3))


@pytest.mark.parametrize("dtype", INTEGER, ids=str)
@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize(
    "function",
    [
        F.relu,
        F.relu6,
        lambda x: F.hardtanh(x, 1, 3),
        lambda x: F.threshold(x, 2, 7),
        torch.sigmoid,
        torch.tanh,
        F.tanhshrink,
    ],
)
def test_integers(function: Callable[..., Any], dtype: torch.dtype, opset: int) -> None:
    x = torch.arange(-4, 9).to(dtype)
    assert_shape_matches(function, x)
    assert_lowering_matches(function, x, opset=opset)


def test_integer_softsign() -> None:
    assert_lowering_matches(F.softsign, torch.arange(-4, 9))
    with pytest.raises(UnsupportedOpError):
        assert_lowering_matches(F.softsign, torch.arange(4, dtype=torch.uint8))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.hardtanh(x, 2.0, 1.0),
        lambda x: F.softshrink(x, -1.0),
        lambda x: F.celu(x, 0.0),
        lambda x: F.rrelu(x, 0.5, 0.1),
        lambda x: F.gelu(x, approximate="sigmoid"),
        lambda x: F.leaky_relu(x.long()),
    ],
)
def test_refusals(function: Callable[..., Any]) -> None:
    x = torch.randn(4)
    with pytest.raises((RuntimeError, ValueError, ZeroDivisionError)):
        function(x)
    with pytest.raises(ShapeError):
        propagated(function, x)


# PReLU --------------------------------------------------------------------------------------------


@given(
    shape=st.lists(st.integers(1, 3), max_size=4),
    weight=st.lists(st.integers(1, 3), max_size=2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_prelu_shape(shape: list[int], weight: list[int], dtype: torch.dtype) -> None:
    assert_shape_matches(F.prelu, torch.empty(shape), torch.empty(weight, dtype=dtype))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("opset", [13, 16, 20])
def test_prelu(shape: tuple[int, ...], channels: int, opset: int) -> None:
    if channels == 3 and len(shape) < 2:
        return
    module = nn.PReLU(channels)
    module.weight.data = torch.linspace(-0.5, 0.5, channels)
    assert_lowering_matches(module, torch.randn(shape), opset=opset)


def test_prelu_spellings() -> None:
    x, weight = torch.randn(2, 3), torch.tensor([0.1, 0.2, 0.3])
    for function in (F.prelu, lambda x, w: x.prelu(w)):
        assert_lowering_matches(function, x, weight, dynamic={0: {0: "N"}}, also=(torch.randn(4, 3), weight))
    assert_lowering_matches(F.prelu, torch.tensor(-2.0), torch.tensor(0.25))
    assert_lowering_matches(F.prelu, torch.randn(2, 3), torch.tensor(0.25))


# GLU ----------------------------------------------------------------------------------------------


@given(shape=st.lists(st.integers(0, 4), max_size=3), dim=st.integers(-4, 3))
def test_glu_shape(shape: list[int], dim: int) -> None:
    assert_shape_matches(lambda x: F.glu(x, dim), torch.empty(shape))


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("opset", [13, 18, 23])
def test_glu(dim: int, opset: int) -> None:
    assert_lowering_matches(nn.GLU(dim), torch.randn(4, 6), opset=opset)
    assert_lowering_matches(
        lambda x: F.glu(x, dim=dim),
        torch.randn(4, 6),
        opset=opset,
        dynamic={0: {0: "N", 1: "C"}},
        also=(torch.randn(2, 10),),
    )
