"""Losses of classes against torch: shapes and dtypes on real tensors, values in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import ShapeError
from passes.torch_private import native_nn
from tests.ops.oracle import Call, assert_lowering_matches, assert_shape_matches, propagated

pytestmark = [
    pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning"),
    pytest.mark.filterwarnings("ignore:linear_cross_entropy. ..options:UserWarning"),
]

Loss = Callable[..., torch.Tensor]
REDUCTIONS = ("none", "mean", "sum")
LOOSE = {"rtol": 1e-2, "atol": 1e-2}
TIGHT = {"rtol": 1e-9, "atol": 1e-10}
# [N, C, …] by how many axes there are, and [C]; each with the labels' shape.
SHAPES = [((4, 3), (4,)), ((3,), ()), ((4, 3, 2), (4, 2)), ((2, 3, 2, 4), (2, 2, 4)), ((2, 3, 1, 2, 2), (2, 1, 2, 2))]


def options(*smoothings: float, ignored: tuple[int, ...] = (-100, 1)) -> list[dict[str, Any]]:
    return [
        {"reduction": reduction, "ignore_index": ignore, **({"label_smoothing": smooth} if smooth else {})}
        for reduction in REDUCTIONS
        for ignore in ignored
        for smooth in smoothings
    ]


def together(loss: Loss, given: list[dict[str, Any]], weighted: bool = False) -> Callable[..., Any]:
    def all_of(input: torch.Tensor, target: torch.Tensor, others: torch.Tensor, weight: torch.Tensor) -> Any:
        labels = [target if each["ignore_index"] == -100 else others for each in given]
        weights = weight if weighted else None
        return tuple(loss(input, own, weights, **each) for own, each in zip(labels, given, strict=True))

    return all_of


def sample(shape: Any, of_labels: Any) -> tuple[torch.Tensor, ...]:
    """Scores, labels of which -100 is ignored, labels of which 1 is, and a weight for each class."""
    labels = torch.randint(0, 3, of_labels)
    labels.view(-1)[0] = -100
    return torch.randn(shape) * 3, labels, labels.where(labels >= 0, 1), torch.rand(3) + 0.1


# Shapes and dtypes ----------------------------------------------------------------------------------

inputs = st.sampled_from([(2, 3), (3,), (), (2, 3, 4), (2, 3, 1, 4), (0, 3), (2, 3, 0), (1, 3), (2, 3, 1, 2, 2)])
targets = st.sampled_from([(2,), (3,), (), (2, 4), (2, 3), (2, 1, 4), (0,), (1,), (2, 1), (2, 1, 2, 2), (2, 3, 4)])
floats = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64])
kinds = st.sampled_from([torch.int64, torch.int64, torch.int32, torch.uint8, torch.float32, torch.float64])


@settings(max_examples=40)
@given(
    loss=st.sampled_from([F.nll_loss, partial(F.cross_entropy, label_smoothing=0.1), F.cross_entropy]),
    shape=inputs, of_labels=targets, a=floats, b=kinds, weight=st.sampled_from([None, 3, 2]), c=floats,
    reduction=st.sampled_from(REDUCTIONS),
)  # fmt: skip
def test_shape_and_dtype(
    loss: Loss, shape: Any, of_labels: Any, a: Any, b: Any, weight: Any, c: Any, reduction: str
) -> None:
    if b == torch.uint8 and (len(shape) > 2 or 0 in shape):
        return  # of nothing, torch takes labels of a type that it otherwise refuses
    input, target = torch.ones(shape).to(a), torch.zeros(of_labels).to(b)
    if weight is None:
        assert_shape_matches(lambda x, y: loss(x, y, reduction=reduction), input, target, device="cpu")
    else:
        weights = torch.ones(weight).to(c)
        assert_shape_matches(lambda x, y, w: loss(x, y, w, reduction=reduction), input, target, weights, device="cpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: F.cross_entropy(x, y[:1]), r"labels of shape \[2\] for an input of shape \[2, 3\], found \[1\]"),
        (lambda x, y: F.cross_entropy(x, y.int()), "takes int64 labels, found torch.int32"),
        (lambda x, y: F.nll_loss(x, y, x[0, :2]), r"takes 3 weights, one for each class, found float32\[2\]"),
        (
            lambda x, y: F.cross_entropy(x, x, ignore_index=0),
            "ignores no class among probabilities, found ignore_index 0",
        ),
        (
            lambda x, y: F.cross_entropy(x, x[:, :2]),
            r"probabilities of the input's shape \[2, 3\], or labels .* \[2, 2\]",
        ),
        (lambda x, y: F.cross_entropy(x, y, label_smoothing=1.5), "between 0 and 1, found 1.5"),
        (lambda x, y: F.nll_loss(x, y, reduction="batchmean"), "reduction is 'batchmean'"),
        (lambda x, y: F.nll_loss(x, y, x.double()[0]), "weights in the input's dtype, found torch.float64"),
    ],
)
def test_messages_name_the_operands(call: Loss, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        propagated(call, torch.randn(2, 3), torch.tensor([0, 2]))


# Values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shapes", "weighted"), [(SHAPES[0], False), (SHAPES[1], True), (SHAPES[3], True)], ids=str)
def test_labels(shapes: Any, weighted: bool) -> None:
    loss = together(F.cross_entropy, options(0.0, 0.2), weighted)
    assert_lowering_matches(loss, *sample(*shapes), opset=13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    x, y, z, w = sample((4, 3), (4,))
    tolerance = TIGHT if dtype == torch.float64 else LOOSE
    loss = together(F.cross_entropy, options(0.2, ignored=(-100,)), True)
    assert_lowering_matches(loss, x.to(dtype), y, z, w.to(dtype), opset=23, **tolerance)


def test_likelihoods() -> None:
    x, y, z, w = sample((4, 3), (4,))
    for weighted in (False, True):
        assert_lowering_matches(together(F.nll_loss, options(0.0), weighted), x, y, z, w)
    assert_lowering_matches(together(F.nll_loss, options(0.0)), x, z, z.byte(), w)


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(13, 24))
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_opsets(shapes: Any, opset: int) -> None:
    x, y, z, w = sample(*shapes)
    for weighted in (False, True):
        loss = together(F.cross_entropy, options(0.0, 0.2), weighted)
        assert_lowering_matches(loss, x, y, z, w, opset=opset)
        assert_lowering_matches(loss, x.half(), y, z, w.half(), opset=opset, **LOOSE)
        assert_lowering_matches(loss, x.double(), y, z, w.double(), opset=opset, **TIGHT)
        loss = together(F.cross_entropy, of_probabilities(), weighted)
        assert_lowering_matches(loss, x, x.softmax(-1), z, w, opset=opset)


def of_probabilities() -> list[dict[str, Any]]:
    return options(0.0, 0.2, ignored=(-100,))


@pytest.mark.parametrize("shape", [(4, 3), (3,), (2, 3, 2, 4)], ids=str)
def test_probabilities(shape: Any) -> None:
    x, p, w = torch.randn(shape), torch.rand(shape), torch.rand(3)
    assert_lowering_matches(together(F.cross_entropy, of_probabilities(), True), x, p, p, w, opset=13)
    if len(shape) == 2:
        loss = together(F.cross_entropy, of_probabilities())
        assert_lowering_matches(loss, x.half(), p.double(), p, w, **LOOSE)


IMAGES = {0: {0: "N", 1: "C", 2: "H", 3: "W"}, 1: {0: "N", 1: "H", 2: "W"}, 2: {0: "N", 1: "H", 2: "W"}, 3: {0: "C"}}


@pytest.mark.parametrize("weighted", [pytest.param(False, marks=pytest.mark.slow), True])
def test_dynamic_and_empty(weighted: bool) -> None:
    """Of no label, and where every label is ignored, the mean is nan."""
    loss = together(F.cross_entropy, options(0.2, ignored=(-100,)), weighted)
    given = sample((2, 3, 2, 4), (2, 2, 4))
    ignored = torch.randn(1, 5, 4, 3), torch.full((1, 4, 3), -100), torch.ones(1, 4, 3).long(), torch.rand(5)
    assert_lowering_matches(loss, *given, dynamic=IMAGES, also=ignored)
    none = torch.zeros(0, 4, 3, dtype=torch.int64)
    assert_lowering_matches(loss, *given, dynamic=IMAGES, also=(torch.randn(0, 3, 4, 3), none, none, torch.rand(3)))
    assert_lowering_matches(loss, torch.randn(0, 3), none[:, 0, 0], none[:, 0, 0], torch.rand(3))


def test_dynamic_and_empty_probabilities() -> None:
    names = {place: {0: "N", 1: "C"} for place in range(3)}
    loss = together(F.cross_entropy, of_probabilities(), True)
    x, p = torch.randn(2, 3), torch.rand(2, 3)
    also = torch.randn(0, 5), torch.rand(0, 5), torch.rand(0, 5), torch.rand(5)
    assert_lowering_matches(loss, x, p, p, torch.rand(3), dynamic={**names, 3: {0: "C"}}, also=also)


def test_special_numbers() -> None:
    """What is nan or infinite at an ignored label does not count; large scores do not overflow."""
    x = torch.randn(6, 3)
    x[0, 1], x[1] = -math.inf, torch.tensor([1e4, -1e4, 3.0])
    x[2:5, 0] = torch.tensor([math.nan, math.inf, -math.inf])
    y = torch.tensor([1, 1, -100, -100, 0, 2])
    z = torch.tensor([0, 2, 1, 1, 0, 2])
    assert_lowering_matches(together(F.cross_entropy, options(0.0, 0.2)), x, y, z, x[0])
    for w in (torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, math.inf, 0.5])):
        assert_lowering_matches(together(F.nll_loss, options(0.0), True), x, y, z, w)
    assert_lowering_matches(together(F.cross_entropy, options(0.2), True), x, y, z, w)


@pytest.mark.parametrize("label", [-1, 3, -101])
def test_a_label_that_torch_refuses_makes_the_file_fail(label: int) -> None:
    x, y = torch.randn(2, 3), torch.tensor([0, label])
    with pytest.raises(IndexError, match=f"Target {label} is out of bounds"):
        F.cross_entropy(x, y)
    model = tracer.convert(Call(F.cross_entropy), (x, torch.tensor([0, 1])), verify=False, route="direct").onnx_model
    session = onnxruntime.InferenceSession(model.SerializeToString(), quiet(), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    with pytest.raises(Exception, match="GatherElements"):
        session.run(None, dict(zip(names, (x.numpy(), y.numpy()), strict=True)))


def quiet() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


# Spellings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.CrossEntropyLoss(torch.rand(3), ignore_index=1, label_smoothing=0.1, reduction="sum"),
        lambda: nn.CrossEntropyLoss(size_average=False),
        lambda: nn.NLLLoss(torch.rand(3), reduce=False),
        lambda: nn.NLLLoss(ignore_index=2),
    ],
)
def test_modules(make: Callable[[], nn.Module]) -> None:
    """The weights of the classes are in the file under their own name."""
    layer = make()
    model = assert_lowering_matches(
        layer, torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), dynamic={0: {0: "N"}, 1: {0: "N"}}
    )
    names = {initializer.name for initializer in model.graph.initializer}
    assert ("weight" in names) == (layer.weight is not None)


def test_native_functions() -> None:
    """Their reduction is a number; where it is not given, torch's Python reduces nothing, and aten takes the mean."""
    aten = torch.ops.aten
    flat = [native_nn.nll_loss, native_nn.nll_loss_nd, aten.nll_loss, aten.nll_loss_nd.default]
    images = [native_nn.nll_loss2d, native_nn.nll_loss_nd, aten.nll_loss2d]

    def all_of(losses: list[Loss], x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, w: torch.Tensor) -> Any:
        return tuple(loss(x, z, *given) for loss in losses for given in ([], [w], [w, 0], [w, 1, 1], [w, 2]))

    def entropies(losses: list[Loss], x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, w: torch.Tensor) -> Any:
        return tuple(loss(x, z, *given) for loss in losses for given in ([], [w, 1, -100, 0.1], [None, 2, 1]))

    assert_lowering_matches(partial(all_of, flat), *sample((4, 3), (4,)))
    assert_lowering_matches(partial(all_of, images), *sample((2, 3, 2, 4), (2, 2, 4)))
    assert_lowering_matches(
        partial(entropies, [native_nn.cross_entropy_loss, aten.cross_entropy_loss]), *sample((4, 3), (4,))
    )


# With the layer before ------------------------------------------------------------------------------

with_linear = pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch has it since 2.13")


@with_linear
@pytest.mark.parametrize("chunked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_linear_cross_entropy(chunked: bool) -> None:
    x, y, w = torch.randn(4, 5), torch.tensor([0, 1, 2, 1]), torch.rand(3)
    weight, bias = torch.randn(3, 5), torch.randn(3)
    chunks = nn.LinearCrossEntropyOptions(batch_chunk_size=2) if chunked else None

    def all_of(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, w: torch.Tensor) -> Any:
        loss = partial(F.linear_cross_entropy, x, weight, y, options=chunks)
        plain = [loss(reduction=reduction, ignore_index=ignored) for reduction in REDUCTIONS for ignored in (None, 1)]
        return (*plain, loss(linear_bias=bias, weight=w), loss(linear_bias=bias, label_smoothing=0.1))

    assert_lowering_matches(all_of, x, y, weight, bias, w, dynamic={0: {0: "N"}, 1: {0: "N"}})
    assert_lowering_matches(lambda x, y, w: F.linear_cross_entropy(x, w, y, options=chunks), x[0], y[0], weight)


@with_linear
def test_linear_cross_entropy_of_several_outputs() -> None:
    loss = F.linear_cross_entropy
    x, weight, bias = torch.randn(4, 5), torch.randn(3, 2, 5), torch.randn(3, 2)
    assert_lowering_matches(lambda x, y, w, b: loss(x, w, y, linear_bias=b), x, torch.ones(4, 2).long(), weight, bias)
    assert_lowering_matches(lambda x, p, w: loss(x, w, p), x, torch.rand(4, 3, 2), weight)
    for operands, message in (
        ((x[0], torch.tensor([1]), weight), "one of 1 and one of 2"),
        ((x, torch.rand(4, 3), weight[:, 0, :4]), "one number of features, found 5 and 4"),
    ):
        with pytest.raises(RuntimeError):
            loss(operands[0], operands[2], operands[1])
        with pytest.raises(ShapeError, match=message):
            propagated(lambda x, y, w: loss(x, w, y), *operands)


@with_linear
def test_linear_cross_entropy_module() -> None:
    """Traced through: its layer keeps its name, and its multiply-adds are counted."""
    layer = nn.LinearCrossEntropyLoss(5, 3, bias=True, weight=torch.rand(3))
    model = assert_lowering_matches(layer, torch.randn(4, 5), torch.tensor([0, 1, 2, 0]))
    assert {"linear.weight", "linear.bias", "weight"} <= {initializer.name for initializer in model.graph.initializer}
    report = tracer.inspect(layer, (tracer.spec("N", 5), tracer.spec("N", dtype=torch.int64)))
    assert report.macs == "15*N"
