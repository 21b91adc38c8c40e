"""Convolutions against torch: shapes on meta, values in onnxruntime, lazy layers against torch's dry run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import LazyResolutionError, ShapeError, TracerError, UnsupportedOpError
from passes.ops.op import FUNCTIONS
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

# Torch's notice that "same" padding of an even kernel copies its input.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
ranks = st.integers(1, 3)


def per_axis(low: int, high: int) -> st.SearchStrategy[Any]:
    """One number, a single one in a list, or up to three."""
    return st.integers(low, high) | st.lists(st.integers(low, high), min_size=1, max_size=3)


def assert_as_torch(function: Any, *tensors: torch.Tensor) -> None:
    """The rule gives torch's shape, and refuses what torch refuses on real tensors (on meta it lets more through)."""
    try:
        result = function(*tensors)
    except (RuntimeError, ValueError, IndexError):
        with pytest.raises(TracerError):
            propagated(function, *tensors)
    else:
        # Whether a single axis of the result may be empty depends on torch's kernel; the rule refuses it.
        assume(0 not in result.shape[1:])
        assert_shape_matches(function, *tensors)


@given(
    rank=ranks,
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    kernel=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    inside=st.integers(1, 3),
    outside=st.integers(1, 4),
    bias=st.integers(0, 5),
    stride=per_axis(0, 3),
    padding=per_axis(-1, 2) | st.sampled_from(["same", "valid", "full"]),
    dilation=per_axis(0, 2),
    groups=st.integers(0, 3),
)
def test_shape(
    rank: int, shape: list[int], kernel: list[int], inside: int, outside: int, bias: int,
    stride: Any, padding: Any, dilation: Any, groups: int,
) -> None:  # fmt: skip
    tensors = [torch.zeros(shape), torch.zeros(outside, inside, *kernel[:rank])]
    tensors += [torch.zeros(bias)] if bias else []
    assert_as_torch(
        lambda x, w, b=None: CONV[rank](x, w, b, stride, padding=padding, dilation=dilation, groups=groups), *tensors
    )


@st.composite
def fitting(draw: Any) -> dict[str, Any]:
    """Arguments of a convolution, most of which torch accepts."""
    rank, groups = draw(ranks), draw(st.integers(1, 3))
    each = lambda low, high: [draw(st.integers(low, high)) for _ in range(rank)]  # noqa: E731
    return {
        "rank": rank, "groups": groups, "lead": draw(st.lists(st.integers(1, 3), max_size=1)),
        "spatial": each(1, 7), "kernel": each(1, 4), "stride": each(1, 3), "dilation": each(1, 3),
        "padding": each(0, 2), "inside": draw(st.integers(1, 2)), "outside": draw(st.integers(1, 2)),
        "output_padding": each(0, 2),
    }  # fmt: skip


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_an_empty_batch(rank: int) -> None:
    x, weight = torch.zeros(0, 2, *[4] * rank), torch.zeros(2, 2, *[3] * rank)
    assert_shape_matches(CONV[rank], x, weight)
    assert_shape_matches(TRANSPOSED[rank], x, weight)


@given(a=fitting(), text=st.sampled_from([None, "same", "valid"]))
def test_shape_of_fitting_arguments(a: dict[str, Any], text: str | None) -> None:
    x = torch.zeros(*a["lead"], a["inside"] * a["groups"], *a["spatial"])
    weight = torch.zeros(a["outside"] * a["groups"], a["inside"], *a["kernel"])
    stride = 1 if text == "same" else a["stride"]
    padding = text or a["padding"]
    assert_as_torch(lambda x, w: CONV[a["rank"]](x, w, None, stride, padding, a["dilation"], a["groups"]), x, weight)


@given(a=fitting())
def test_transposed_shape_of_fitting_arguments(a: dict[str, Any]) -> None:
    x = torch.zeros(*a["lead"], a["inside"] * a["groups"], *a["spatial"])
    weight = torch.zeros(a["inside"] * a["groups"], a["outside"], *a["kernel"])
    options = [a[name] for name in ("stride", "padding", "output_padding", "groups", "dilation")]
    assert_as_torch(lambda x, w: TRANSPOSED[a["rank"]](x, w, None, *options), x, weight)


@given(
    rank=ranks,
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    inside=st.integers(1, 4),
    outside=st.integers(1, 2),
    bias=st.integers(0, 3),
    stride=per_axis(0, 2),
    padding=per_axis(-1, 2),
    output_padding=per_axis(-1, 2),
    dilation=per_axis(0, 2),
    groups=st.integers(0, 2),
)
def test_transposed_shape(
    rank: int, shape: list[int], inside: int, outside: int, bias: int,
    stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int,
) -> None:  # fmt: skip
    tensors = [torch.zeros(shape), torch.zeros(inside, outside, *[2] * rank)]
    tensors += [torch.zeros(bias)] if bias else []
    assert_as_torch(
        lambda x, w, b=None: TRANSPOSED[rank](x, w, b, stride, padding, output_padding, groups, dilation), *tensors
    )


@given(size=st.lists(st.integers(4, 9), min_size=1, max_size=5), batched=st.booleans())
def test_output_size(size: list[int], batched: bool) -> None:
    assert_shape_matches(AtSize(size), torch.empty(*[1] * batched, 2, 4, 2))


class AtSize(nn.Module):
    """A transposed convolution to a size that its forward asks for."""

    def __init__(self, size: list[int]) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 3, 3, stride=(2, 3), padding=1)
        self.size = size

    def forward(self, x: torch.Tensor) -> Any:
        return self.up(x, output_size=self.size)


@pytest.mark.parametrize("opset", [13, 18, 23])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "stride": 2, "padding": 1},
        {"dilation": 2, "groups": 2},
        {"padding": "same"},
        {"padding": "same", "kernel_size": 4, "dilation": 3},
        {"padding": "valid", "padding_mode": "reflect"},
        {"padding": 2, "padding_mode": "reflect", "stride": 2},
        {"padding": 2, "padding_mode": "replicate"},
        {"padding": 2, "padding_mode": "circular"},
        {"padding": "same", "padding_mode": "circular", "kernel_size": 2},
    ],
)
def test_lowering(rank: int, options: dict[str, Any], opset: int) -> None:
    layer = getattr(nn, f"Conv{rank}d")(4, 6, **{"kernel_size": 3, **options})
    spatial = (7, 6, 5)[:rank]
    assert_lowering_matches(layer, torch.randn(2, 4, *spatial), opset=opset)
    assert_lowering_matches(layer, torch.randn(4, *spatial), opset=opset)
    assert_shape_matches(layer, torch.empty(2, 4, *spatial))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "stride": 2, "padding": 1, "output_padding": 1},
        {"dilation": 2, "groups": 2, "output_padding": 1},
        {"stride": 3, "padding": 2, "dilation": 2, "output_padding": 2},
    ],
)
def test_transposed_lowering(rank: int, options: dict[str, Any]) -> None:
    layer = getattr(nn, f"ConvTranspose{rank}d")(4, 6, **{"kernel_size": 3, **options})
    spatial = (4, 3, 5)[:rank]
    assert_lowering_matches(layer, torch.randn(2, 4, *spatial))
    assert_lowering_matches(layer, torch.randn(4, *spatial), opset=13)
    assert_shape_matches(layer, torch.empty(2, 4, *spatial))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_functions_with_computed_weights(rank: int) -> None:
    x, weight, bias = torch.randn(2, 4, *[5] * rank), torch.randn(4, 2, *[3] * rank), torch.randn(4)
    assert_lowering_matches(lambda x, w, b: CONV[rank](x, w, b, 2, padding="valid", groups=2), x, weight, bias)
    assert_lowering_matches(lambda x, w: TRANSPOSED[rank](x, w, stride=2, groups=2), x, weight)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_dynamic_axes(padding_mode: str) -> None:
    assert_lowering_matches(
        nn.Conv2d(3, 4, (3, 5), stride=2, padding=(1, 2), padding_mode=padding_mode),
        torch.randn(2, 3, 6, 7),
        dynamic={0: {0: "N", 2: "H", 3: "W"}},
        also=(torch.randn(1, 3, 9, 5),),
    )


def test_dynamic_axes_of_a_transposed_convolution() -> None:
    assert_lowering_matches(
        nn.ConvTranspose1d(3, 4, 5, stride=2, padding=1, output_padding=1),
        torch.randn(2, 3, 6),
        dynamic={0: {0: "N", 2: "T"}},
        also=(torch.randn(1, 3, 9),),
    )


class Restored(nn.Module):
    """Down and up again, to the size that it was."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.up(self.down(x), output_size=x.shape)


def test_output_size_that_depends_on_the_input() -> None:
    assert_lowering_matches(Restored(), torch.randn(1, 2, 8, 5))
    assert_lowering_matches(
        Restored(), torch.randn(1, 2, 8, 5), dynamic={0: {2: "H", 3: "W"}}, also=(torch.randn(1, 2, 7, 6),)
    )


@pytest.mark.parametrize("opset", [20, 22])
def test_bfloat16_is_valid_onnx(opset: int) -> None:
    layer = nn.Conv1d(2, 3, 3).bfloat16()
    x = torch.randn(1, 2, 5, dtype=torch.bfloat16)
    model = tracer.convert(layer, (x,), opset_version=opset, verify=False, route="direct").onnx_model
    assert [node.op_type for node in model.graph.node].count("Cast") == (4 if opset < 22 else 0)


def test_integer_convolution_is_unsupported() -> None:
    with pytest.raises(UnsupportedOpError, match=r"no Conv for torch\.int64"):
        tracer.convert(
            _Function(F.conv1d), (torch.ones(1, 1, 4).long(), torch.ones(1, 1, 2).long()), verify=False, route="direct"
        )


class _Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors)


def test_multiply_adds() -> None:
    layers = tracer.inspect(
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ConvTranspose2d(6, 8, 2, stride=2, groups=2)),
        (torch.empty(2, 4, 5, 5),),
    ).layers
    assert [layer.macs for layer in layers] == [2 * 6 * 25 * 2 * 9, 2 * 6 * 25 * 4 * 4]


# Lazy layers --------------------------------------------------------------------------------------

LAZY = [
    nn.LazyConv1d, nn.LazyConv2d, nn.LazyConv3d, nn.LazyConvTranspose1d, nn.LazyConvTranspose2d, nn.LazyConvTranspose3d,
]  # fmt: skip


@pytest.mark.parametrize("cls", LAZY)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("options", [{}, {"bias": False, "groups": 2, "stride": 2}])
def test_lazy_layers_resolve_as_by_a_dry_run(cls: type[nn.Module], batched: bool, options: dict[str, Any]) -> None:
    rank = int(cls.__name__[-2])
    x = torch.randn(*[2] * batched, 4, *(7, 6, 5)[:rank])
    model = nn.Sequential(cls(6, 3, **options), nn.ReLU(), cls(4, 2))
    ours = tracer.resolve(model, (x,), seed=7)
    expected = copy.deepcopy(model).eval()
    torch.manual_seed(7)
    with torch.no_grad():
        expected(x)
    assert [type(layer) for layer in ours] == [type(layer) for layer in expected]
    assert [ours[0].in_channels, ours[2].in_channels] == [4, 6]
    assert ours.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    assert_lowering_matches(ours, x)


@pytest.mark.parametrize("cls", LAZY)
def test_lazy_layers_refuse_what_torch_refuses(cls: type[nn.Module]) -> None:
    rank = int(cls.__name__[-2])
    with pytest.raises(ShapeError, match="3 channels do not divide into 2 groups"):
        propagated(nn.Sequential(cls(4, 1, groups=2)), torch.empty(1, 3, *[4] * rank))
    for ndim in (rank, rank + 3):
        with pytest.raises(ShapeError, match=f"needs an input of {rank + 2} axes"):
            propagated(nn.Sequential(cls(4, 1)), torch.empty([2] * ndim))


def test_a_dynamic_channel_cannot_be_resolved() -> None:
    with pytest.raises(LazyResolutionError, match="in_channels"):
        tracer.inspect(nn.Sequential(nn.LazyConv1d(4, 3)), (tracer.spec(2, "C", 9),))


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ShapeError, match="in_channels is 3, but the input has 4 channels"):
        propagated(nn.Conv2d(3, 4, 3), torch.empty(1, 4, 5, 5))
    with pytest.raises(ShapeError, match="reaches over 5 elements, but spatial axis 1 has 4"):
        propagated(nn.Conv2d(3, 4, 3, dilation=2), torch.empty(1, 3, 5, 4))


def test_every_function_is_registered() -> None:
    assert all(function in FUNCTIONS for function in (*CONV.values(), *TRANSPOSED.values()))


tbc = st.lists(st.integers(0, 4), min_size=3, max_size=3) | st.lists(st.integers(1, 3), min_size=2, max_size=4)


@given(shape=tbc, weight=tbc, bias=st.integers(0, 4), pad=st.integers(0, 2), fits=st.booleans())
def test_conv_over_time_first_shape(shape: list[int], weight: list[int], bias: int, pad: int, fits: bool) -> None:
    if fits and len(shape) == len(weight) == 3:
        shape[2], bias = weight[1], weight[2]
    assert_shape_matches(
        lambda x, w, b: F.conv_tbc(x, w, b, pad), torch.zeros(shape), torch.zeros(weight), torch.zeros(bias)
    )


@pytest.mark.parametrize("pad", [0, 2])
def test_conv_over_time_first(pad: int) -> None:
    x, weight, bias = torch.randn(9, 2, 3), torch.randn(4, 3, 5), torch.randn(5)
    assert_lowering_matches(lambda x, w, b: torch.conv_tbc(x, w, b, pad), x, weight, bias)
    assert_lowering_matches(
        lambda x, w, b: F.conv_tbc(x, w, b, pad=pad),
        x, weight, bias, dynamic={0: {0: "T", 1: "N"}}, also=(torch.randn(12, 5, 3), weight, bias),
    )  # fmt: skip
