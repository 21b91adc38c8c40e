"""Every elementwise function and reduction at special values: zeros, infinities, nan, the smallest and largest
numbers, 64-bit integers beyond a double's 53 bits, and empty tensors.

What the kernels of the runtime, or of torch, do otherwise is in `EXCEPTIONS` with its reason, and in docs/numbers.md.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import passes.ops
import tracer
from passes.ops.op import FUNCTIONS

INF, NAN = math.inf, math.nan
FLOATS = (torch.float32, torch.float64, torch.float16)
TOLERANCES = {torch.float32: (2e-4, 1e-6), torch.float64: (1e-6, 1e-12), torch.float16: (4e-3, 2e-3)}
INPLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor")
# Not functions of each element, or of data that is not there.
OTHERS = {"tensor", "where", "meshgrid", "empty_like", "matmul", "searchsorted", "cartesian_prod", "kron", "block_diag"}

EXCEPTIONS = {
    "gelu": "torch's vectorised erf of an infinity is nan, and its products overflow early",
    "hardswish": "torch's product of the largest number overflows",
    "argsort": "torch's order of equal elements is not said",
    "remainder": "torch's quotient by a subnormal number is infinite, and its remainder then nan",
    "fmod": "torch's quotient by a subnormal number is infinite, and its remainder then nan",
    "weight_norm": "runtimes square numbers below the square root of the smallest to 0",
}
NO_KERNEL_OF_DOUBLE = {"erf", "erfc", "gelu", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"}
NO_KERNEL_OF_DOUBLE |= {"atan2", "ndtr", "erfinv"}


class Many(nn.Module):
    """Many functions of the same tensors; of several results the first."""

    def __init__(self, functions: list[Callable[..., Any]]):
        super().__init__()
        self.functions = functions

    def forward(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        results = [function(*tensors) for function in self.functions]
        return [result[0] if isinstance(result, tuple) else result for result in results]


def disagreements(functions: dict[str, Callable[..., Any]], *tensors: torch.Tensor) -> list[str]:
    """The functions whose values in onnxruntime are not torch's, with the first of each that differs."""
    results = {name: of_torch(function, *tensors) for name, function in functions.items()}
    works = {name: result for name, result in results.items() if result is not None}
    assert works
    model = Many([functions[name] for name in works])
    conversion = tracer.convert(model, tensors, verify=False, route="direct")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString(), options)
    named = dict(zip([entry.name for entry in session.get_inputs()], map(torch.Tensor.numpy, tensors), strict=False))
    found = [torch.from_numpy(np.asarray(array)) for array in session.run(None, named)]
    told = []
    for (name, expected), ours in zip(works.items(), found, strict=True):
        assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype), name
        differs = ~agrees(ours, expected)
        if differs.any():
            place = tuple(differs.nonzero()[0].tolist())
            told.append(f"{name} at {place}: {ours[place].item()}, not {expected[place].item()}")
    return told


def of_torch(function: Callable[..., Any], *tensors: torch.Tensor) -> torch.Tensor | None:
    """What torch computes, None where it refuses."""
    try:
        return Many([function])(*(tensor.clone() for tensor in tensors))[0]
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None


def agrees(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Element by element: the same infinity, both nan, or within rounding."""
    if not ours.dtype.is_floating_point:
        return ours == theirs
    relative, absolute = TOLERANCES[ours.dtype]
    a, b = ours.double(), theirs.double()
    near = (a - b).abs() <= relative * b.abs() + absolute
    return (a == b) | (a.isnan() & b.isnan()) | (a.isfinite() & b.isfinite() & near)


def floats(dtype: torch.dtype) -> torch.Tensor:
    """Twice over and backwards, so that each value meets a kernel's vectors and its rest."""
    limits = torch.finfo(dtype)
    numbers = [
        0.0,
        1.0,
        0.5,
        2.5,
        3.0,
        1e-3,
        20.0,
        100.0,
        1e4,
        limits.tiny,
        limits.tiny / 4,
        limits.max,
        limits.eps,
        INF,
    ]
    values = torch.tensor([*numbers, *(-number for number in numbers), NAN], dtype=dtype)
    return torch.cat([values, values.flip(0)])


def integers() -> torch.Tensor:
    limits = torch.iinfo(torch.int64)
    numbers = [0, 1, -1, 2, 3, -7, 10, 2**24 + 1, 2**53 + 1, -(2**53) - 1, 2**62 + 1, limits.max, limits.min]
    return torch.tensor([*numbers, limits.min + 1])


def table(operands: int) -> dict[str, Callable[..., Any]]:
    """One spelling of each op that gives a tensor of so many tensors' shape."""
    found: dict[str, Callable[..., Any]] = {}
    trial = torch.tensor([0.5, 0.25])
    for function, (op, _) in FUNCTIONS.items():
        name = getattr(function, "__name__", "")
        if op.random or name.endswith("_") or name in INPLACE or op.name in OTHERS or "like" in name:
            continue
        try:
            result = function(*[trial.clone() for _ in range(operands)])
        except Exception:  # not a function of so many
            continue
        if isinstance(result, torch.Tensor) and result.shape == trial.shape:
            found.setdefault(op.name, function)
    return found


def elementwise(operands: int, dtype: torch.dtype) -> dict[str, Callable[..., Any]]:
    absent = {*EXCEPTIONS, *(NO_KERNEL_OF_DOUBLE if dtype == torch.float64 else ())}
    return {name: function for name, function in table(operands).items() if name not in absent}


def pairs(values: torch.Tensor) -> list[torch.Tensor]:
    return [each.flatten().contiguous() for each in torch.meshgrid(values, values, indexing="ij")]


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64])
def test_functions_of_one_tensor(dtype: torch.dtype) -> None:
    assert passes.ops
    values = integers() if dtype == torch.int64 else floats(dtype)
    assert disagreements(elementwise(1, dtype), values) == []


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64])
def test_functions_of_two_tensors(dtype: torch.dtype) -> None:
    if dtype == torch.int64:
        functions = elementwise(2, dtype)
        del functions["pow"]  # see test_integer_powers
        assert disagreements(functions, *pairs(integers())) == []
    else:
        functions = elementwise(2, dtype)
        if dtype == torch.float16:  # torch rounds each step of a loss, the file only what comes of it
            steps = ("hinge_embedding_loss", "binary_cross_entropy_with_logits", "kl_div", "soft_margin_loss")
            functions = {name: function for name, function in functions.items() if name not in steps}
        assert disagreements(functions, *pairs(floats(dtype)[:29])) == []


NUMBERS = (0, 1, -1, 2, 3, -3, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 0.5, -0.5, INF, -INF, 0.0)
LIMITS = (
    (None, 1.0),
    (None, INF),
    (-INF, None),
    (0, None),
    (-INF, INF),
    (NAN, None),
    (None, NAN),
    (1, -1),
    (0.5, None),
)


def with_numbers() -> dict[str, Callable[..., Any]]:
    functions: dict[str, Callable[..., Any]] = {}
    for name in ("add", "sub", "mul", "truediv", "floordiv", "eq", "lt", "ge", "pow"):
        function = getattr(operator, name)
        for number in NUMBERS:
            functions[f"x {name} {number}"] = lambda x, f=function, n=number: f(x, n)
    for low, high in LIMITS:
        functions[f"clamp {low} {high}"] = partial(torch.clamp, min=low, max=high)
    for exponent in (-2, 3, 4, 7):
        functions[f"x ** {exponent}"] = lambda x, n=exponent: x**n
    return functions


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64])
def test_functions_of_a_tensor_and_a_number(dtype: torch.dtype) -> None:
    functions = with_numbers()
    if dtype.is_floating_point:  # see docs/numbers.md
        functions = {k: f for k, f in functions.items() if "floordiv 9" not in k and "floordiv -9" not in k}
        functions = {k: f for k, f in functions.items() if not (dtype == torch.float16 and "pow 0.5" in k)}
    assert disagreements(functions, integers() if dtype == torch.int64 else floats(dtype)) == []


def test_integer_powers() -> None:
    """Exponents up to 63 wrap exactly; above, bases of 0, 1, -1 and even ones do."""
    base, exponent = pairs(integers())
    small = exponent.abs() <= 63
    tame = (base.abs() <= 1) | (base % 2 == 0)
    assert disagreements({"pow": operator.pow}, base[small], exponent[small]) == []
    assert disagreements({"pow": operator.pow}, base[tame], exponent[tame]) == []


def rows(dtype: torch.dtype) -> torch.Tensor:
    some = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    listed = [[NAN, *some], [*some, NAN], [*some[:3], NAN, *some[3:]], [NAN] * 9, [INF, *some], [-INF, *some[1:], -INF]]
    listed += [
        [INF, -INF, *[0.0] * 7],
        [-INF] * 9,
        [INF] * 9,
        [NAN, INF, NAN, -INF, *[0.0] * 5],
        [0.0] * 9,
        [*some, -0.0],
    ]
    return torch.tensor(listed, dtype=dtype)


NAMES = (
    "sum nansum mean nanmean prod var std amax amin max min argmax argmin aminmax all any softmax log_softmax cumsum "
)
NAMES += "cumprod logcumsumexp cummax cummin count_nonzero logsumexp median norm std_mean var_mean diff"


def reductions() -> dict[str, Callable[..., Any]]:
    functions: dict[str, Callable[..., Any]] = {}
    for name in NAMES.split():
        function = getattr(torch, name)
        functions[name] = function
        for dim in (0, -1):
            functions[f"{name} {dim}"] = partial(function, dim=dim)
            functions[f"{name} {dim} second"] = lambda x, f=function, d=dim: f(x, dim=d)[1]
            if name not in ("logcumsumexp", "cumsum", "cumprod", "cummax", "cummin", "softmax", "log_softmax", "diff"):
                functions[f"{name} {dim} kept"] = partial(function, dim=dim, keepdim=True)
    for order in (0, 1, 2, 3, INF, -INF):
        functions[f"vector_norm {order}"] = partial(torch.linalg.vector_norm, ord=order, dim=-1)
    functions["sort"] = lambda x: torch.sort(x, stable=True)[1]
    functions["topk"] = lambda x: torch.topk(x, 3)[0]
    return functions


@pytest.mark.parametrize("dtype", FLOATS)
def test_reductions(dtype: torch.dtype) -> None:
    functions = {name: f for name, f in reductions().items() if not (name.startswith("median") and "second" in name)}
    assert disagreements(functions, rows(dtype)) == []


def test_reductions_of_integers() -> None:
    """Sums and products wrap, and keep every bit."""
    values = integers()
    functions = {name: f for name, f in reductions().items() if not name.startswith(("median", "std", "var"))}
    table = torch.stack([values, values.flip(0), torch.full_like(values, 2**53 + 1), torch.arange(14) + 2**60])
    assert disagreements(functions, table) == []
    narrow = torch.arange(12, dtype=torch.int32).reshape(3, 4) + 2**31 - 12
    assert disagreements({"sum": torch.sum, "prod": torch.prod}, narrow) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool])
@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_reductions_of_nothing(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A sum is 0, a mean nan, `all` true and `any` false."""
    named = ("sum", "nansum", "mean", "nanmean", "prod", "var", "std", "all", "any", "logsumexp", "cumsum", "norm")
    functions = {name: f for name, f in reductions().items() if name.split()[0] in named}
    assert disagreements(functions, torch.zeros(shape, dtype=dtype)) == []


IMAGE = torch.arange(2 * 4 * 6 * 6.0).reshape(2, 4, 6, 6)
SERIES = torch.arange(2 * 4 * 3.0).reshape(2, 4, 3) / 10


def written(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1:] = x[:, :-1] + 1
    y[:, ::2] += 1
    y[..., 0] = 3
    return y


AT_BATCH_0: dict[str, tuple[Callable[..., Any], torch.Tensor]] = {
    "any": (lambda x: (x > 0).any(), SERIES),
    "any 0": (lambda x: (x > 0).any(0), SERIES),
    "all": (lambda x: (x > 0).all(0), SERIES),
    "all of bytes": (lambda x: (x > 0).byte().all(0), SERIES),
    "mean": (lambda x: x.mean(0), SERIES),
    "mean of all": (lambda x: x.mean(), SERIES),
    "sum of integers": (lambda x: x.long().sum(0), SERIES),
    "product of integers": (lambda x: (x.long() + 2).prod(1), SERIES),
    "variance": (lambda x: x.var(0, correction=0), SERIES),
    "group norm": (nn.GroupNorm(2, 4), IMAGE),
    "local response norm": (nn.LocalResponseNorm(2), IMAGE),
    "writes": (written, SERIES),
    "einsum": (lambda x: torch.einsum("bij,bkj->bki", x, x), SERIES),
    "attention scores": (lambda x: torch.einsum("bhqd,bhkd->bhqk", x, x), IMAGE),
    "circular padding": (lambda x: F.pad(x, (1, 2), mode="circular"), SERIES),
    "lstm": (nn.LSTM(3, 2, batch_first=True, bidirectional=True, num_layers=2), SERIES),
    "gru": (nn.GRU(3, 2, batch_first=True), SERIES),
    "rnn": (nn.RNN(3, 2, batch_first=True), SERIES),
}


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("name", AT_BATCH_0)
def test_an_empty_batch(name: str) -> None:
    """A file with a dynamic batch runs without any element, and with several, as torch does."""
    function, x = AT_BATCH_0[name]
    module = function if isinstance(function, nn.Module) else Many([function])
    conversion = tracer.convert(module.eval(), x, dynamic_shapes=[{0: "N"}], verify=False, route="direct")
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString())
    for batch in (2, 0, 1):
        with torch.no_grad():
            expected = module(x[:batch])
        (entry,) = session.get_inputs()
        ours = torch.from_numpy(np.asarray(session.run(None, {entry.name: x[:batch].numpy()})[0]))
        first = expected if isinstance(expected, torch.Tensor) else expected[0]
        assert (ours.shape, ours.dtype) == (first.shape, first.dtype)
        assert agrees(ours, first).all()


@pytest.mark.parametrize("opset", [13, 19, 23])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_circular_padding_has_kernels(rank: int, opset: int) -> None:
    x = torch.arange(2 * 3 * 4.0**rank).reshape(2, 3, *[4] * rank)
    for padding in (1, 4, (2, 1) * rank, (-1, 2) * rank):
        layer = getattr(nn, f"CircularPad{rank}d")(padding)
        conversion = tracer.convert(layer, x, opset_version=opset)
        assert "wrap" not in str(conversion.onnx_model.graph.node)


def test_ordinary_layers_get_no_nodes_for_special_values() -> None:
    """What runtimes' own kernels make of them is told in docs/numbers.md."""
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.ReLU6(), nn.Softmax(1), nn.AdaptiveAvgPool2d(1))
    nodes = [node.op_type for node in tracer.convert(model, IMAGE, verify=False).onnx_model.graph.node]
    assert nodes == ["Relu", "MaxPool", "Clip", "Softmax", "GlobalAveragePool"]
