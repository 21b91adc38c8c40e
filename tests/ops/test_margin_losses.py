"""Losses by a margin against torch: shapes and dtypes on real tensors, values in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import ShapeError
from passes.torch_private import native_nn
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

pytestmark = pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning")

Loss = Callable[..., torch.Tensor]
REDUCTIONS = ("none", "mean", "sum")
LOOSE = {"rtol": 1e-2, "atol": 1e-2}
TIGHT = {"rtol": 1e-9, "atol": 1e-10}

# By loss, its options, and operands for a batch of so many.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "margin_ranking_loss": [{}, {"margin": 0.5}],
    "hinge_embedding_loss": [{}, {"margin": 0.3}],
    "cosine_embedding_loss": [{}, {"margin": -0.2}],
    "triplet_margin_loss": [{}, {"margin": 2, "p": 1, "swap": True}, {"p": 3.0, "eps": 0.1}],
    "triplet_margin_with_distance_loss": [{}, {"margin": 2, "swap": True}],
    "multi_margin_loss": [{}, {"p": 2, "margin": 0.3}],
    "multilabel_margin_loss": [{}],
    "multilabel_soft_margin_loss": [{}],
}
CLASSES = ["multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss"]


def operands(name: str, rows: int, width: int = 4) -> tuple[torch.Tensor, ...]:
    x, y, z = torch.randn(3, rows, width)
    signs = torch.randint(0, 2, (rows,)) * 2 - 1
    if name == "margin_ranking_loss":
        return x[:, 0], y[:, 0], signs
    if name == "hinge_embedding_loss":
        return x, torch.stack([signs] * width, 1)
    if name == "cosine_embedding_loss":
        return x, y, signs
    if name.startswith("triplet"):
        return x, y, z
    if name == "multi_margin_loss":
        return x, torch.randint(0, width, (rows,))
    if name == "multilabel_margin_loss":
        return x, torch.randint(-1, width, (rows, width))
    return x, torch.randint(0, 2, (rows, width)).float()


def variants(name: str) -> list[Loss]:
    return [
        partial(getattr(F, name), reduction=reduction, **given) for given in OPTIONS[name] for reduction in REDUCTIONS
    ]


def together(losses: list[Loss]) -> Callable[..., tuple[torch.Tensor, ...]]:
    return lambda *operands: tuple(loss(*operands) for loss in losses)


def converted(operands: tuple[torch.Tensor, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    return [each.to(dtype) if each.is_floating_point() else each for each in operands]


# Shapes and dtypes ----------------------------------------------------------------------------------

shapes = st.sampled_from([(2, 3), (3,), (), (1,), (2,), (2, 2, 3)])
dtypes = st.sampled_from([torch.float32, torch.float32, torch.float64, torch.float16, torch.int64, torch.bool])


def filled(shape: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.full(shape, 0.5).to(dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype)


@settings(max_examples=20)
@given(
    loss=st.sampled_from([loss for name in OPTIONS if name not in CLASSES for loss in variants(name)]),
    own=st.tuples(shapes, shapes, shapes),
    kinds=st.tuples(dtypes, dtypes, dtypes),
)
def test_shape_and_dtype(loss: Loss, own: Any, kinds: Any) -> None:
    count = 2 if loss.func is F.hinge_embedding_loss else 3  # type: ignore[attr-defined]
    assert_shape_matches(loss, *map(filled, own[:count], kinds), device="cpu")
    rows = (2, 3), (2, 3), (2,) if loss.func is F.cosine_embedding_loss else (2, 3)  # type: ignore[attr-defined]
    assert_shape_matches(loss, *map(filled, rows[:count], kinds), device="cpu")


@settings(max_examples=20)
@given(
    name=st.sampled_from(CLASSES), reduction=st.sampled_from(REDUCTIONS),
    input=st.sampled_from([(2, 3), (3,), (), (1,), (2, 0), (0,), (2, 3, 4), (1, 3)]),
    target=st.sampled_from([(2,), (), (1,), (3,), (2, 3), (2, 1), (0,), (2, 3, 4)]),
    weight=st.sampled_from([None, (3,), (1,), (), (2,), (3, 1)]), a=dtypes, b=dtypes,
)  # fmt: skip
def test_shape_of_classes(name: str, reduction: str, input: Any, target: Any, weight: Any, a: Any, b: Any) -> None:
    loss: Loss = partial(getattr(F, name), reduction=reduction)
    labels = torch.zeros(target, dtype=torch.int64)
    assert_shape_matches(loss, filled(input, torch.float32), labels, device="cpu")
    rows = (2,) if name == "multi_margin_loss" else (2, 3)
    assert_shape_matches(loss, filled((2, 3), a), torch.zeros(rows).to(b), device="cpu")
    if weight is not None and name != "multilabel_margin_loss":
        weighted: Loss = lambda x, y, w: loss(x, y, weight=w)  # noqa: E731
        assert_shape_matches(weighted, filled((2, 3), a), torch.zeros(rows).long(), filled(weight, b), device="cpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.margin_ranking_loss(x, x, x[0]), r"equally many axes, found input1 \[2, 3\], .* target \[3\]"),
        (lambda x: F.cosine_embedding_loss(x, x, x), "rows and a target of 1 axis, or vectors and one of none"),
        (lambda x: F.triplet_margin_loss(x, x, x, margin=0), "margin of triplets is above 0, found 0"),
        (lambda x: F.triplet_margin_loss(x, x[:, :2], x), r"anchor \[2, 3\], positive \[2, 2\], negative \[2, 3\]"),
        (lambda x: F.multi_margin_loss(x, x[0].long()), r"a label for each of 2 rows, found \[3\]"),
        (lambda x: F.multi_margin_loss(x, x[:, 0].long(), p=3), "p = 1 or p = 2, found 3"),
        (lambda x: F.multi_margin_loss(x.half(), x[:, 0].long()), "scores in float32 or float64, found torch.float16"),
        (lambda x: F.multilabel_margin_loss(x, x[:, :2].long()), r"as many labels as scores, found \[2, 2\] and"),
        (lambda x: F.multilabel_margin_loss(x, x), "takes int64 labels, found torch.float32"),
    ],
)
def test_messages_name_the_operands(call: Loss, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        propagated(call, torch.randn(2, 3))


# Values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_values(name: str) -> None:
    assert_lowering_matches(together(variants(name)), *operands(name, 3), opset=13)


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(13, 24))
@pytest.mark.parametrize("name", OPTIONS)
def test_opsets(name: str, opset: int) -> None:
    loss, given = together(variants(name)), operands(name, 3)
    assert_lowering_matches(loss, *given, opset=opset)
    assert_lowering_matches(loss, *converted(given, torch.float64), opset=opset, **TIGHT)
    if name not in CLASSES[:2]:
        assert_lowering_matches(loss, *converted(given, torch.float16), opset=opset, **LOOSE)


@pytest.mark.parametrize("name", OPTIONS)
def test_dynamic_and_empty(name: str) -> None:
    """Of no row the mean is nan; torch leaves open what two of the losses give, so that those get one row."""
    given = operands(name, 3)
    names = [{0: "N", 1: "C"} if each.ndim == 2 else {0: "N"} for each in given]
    also = operands(name, 1 if name in CLASSES[:2] else 0, 5)
    assert_lowering_matches(together(variants(name)), *given, dynamic=dict(enumerate(names)), also=also)


@pytest.mark.parametrize("name", OPTIONS)
def test_special_numbers(name: str) -> None:
    """Where torch skips what is nan, so does the file."""
    numbers = torch.tensor([0.0, 1.0, -2.0, math.inf, -math.inf, math.nan])
    losses = [loss for loss in variants(name) if loss.keywords["reduction"] == "none"]  # type: ignore[attr-defined]
    given = list(operands(name, 72, 2))
    grid = torch.cartesian_prod(numbers, numbers).repeat(2, 1)
    given[0] = grid if given[0].ndim == 2 else grid[:, 0]
    if given[1].is_floating_point() and name not in CLASSES:
        given[1] = grid.flip(0) if given[1].ndim == 2 else grid[:, 1]
    assert_lowering_matches(together(losses), *given)


@pytest.mark.parametrize("shapes", [((3,), ()), ((3,), (1,)), ((), ()), ((1, 3), ())])
def test_without_a_batch(shapes: Any) -> None:
    x, y = torch.randn(shapes[0]), torch.zeros(shapes[1]).long()
    assert_lowering_matches(together(variants("multi_margin_loss")), x, y)
    if x.ndim < 2:
        assert_lowering_matches(together(variants("multilabel_margin_loss")), x, torch.zeros_like(x).long() - x.ndim)
    if x.ndim == 1:
        assert_lowering_matches(together(variants("multilabel_soft_margin_loss")), x, x.sign())


def test_labels_end_at_the_first_negative_one() -> None:
    labels = torch.tensor([[3, 0, -1, 1], [0, 0, 0, 0], [-1, 2, 1, 0], [0, 1, 2, 3], [2, -1, -1, -1]])
    assert_lowering_matches(together(variants("multilabel_margin_loss")), torch.randn(5, 4), labels)


def test_weights_of_classes() -> None:
    for layer in (nn.MultiMarginLoss(2, 0.5, torch.rand(4)), nn.MultiLabelSoftMarginLoss(torch.rand(4))):
        name = "multi_margin_loss" if isinstance(layer, nn.MultiMarginLoss) else "multilabel_soft_margin_loss"
        model = assert_lowering_matches(layer, *operands(name, 3), dynamic={0: {0: "N"}, 1: {0: "N"}})
        assert "weight" in {initializer.name for initializer in model.graph.initializer}


def test_hinge_of_integers() -> None:
    """The margin is rounded towards zero, to be in the input's dtype."""
    x, y = torch.tensor([3, -2, 0, 1]), torch.tensor([1, -1, -1, 5])
    for dtype in (torch.int64, torch.int32):
        assert_lowering_matches(lambda x, y: F.hinge_embedding_loss(x, y, 1.7, reduction="none"), x.to(dtype), y)


# Spellings ------------------------------------------------------------------------------------------

MODULES: dict[str, Callable[[], nn.Module]] = {
    "margin_ranking_loss": lambda: nn.MarginRankingLoss(0.3, reduction="sum"),
    "hinge_embedding_loss": lambda: nn.HingeEmbeddingLoss(0.3, reduce=False),
    "cosine_embedding_loss": lambda: nn.CosineEmbeddingLoss(0.2),
    "triplet_margin_loss": lambda: nn.TripletMarginLoss(0.5, 3, 0.1, swap=True),
    "triplet_margin_with_distance_loss": lambda: nn.TripletMarginWithDistanceLoss(swap=True),
    "multi_margin_loss": lambda: nn.MultiMarginLoss(2, 0.3),
    "multilabel_margin_loss": lambda: nn.MultiLabelMarginLoss(size_average=False),
    "multilabel_soft_margin_loss": lambda: nn.MultiLabelSoftMarginLoss(reduction="none"),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    assert_lowering_matches(MODULES[name](), *operands(name, 3))


NATIVE: dict[str, Callable[..., Any]] = {
    "margin_ranking_loss": lambda loss, x, y, t, *r: loss(x, y, t, 0.3, *r),
    "hinge_embedding_loss": lambda loss, x, t, *r: loss(x, t, 0.3, *r),
    "cosine_embedding_loss": lambda loss, x, y, t, *r: loss(x, y, t, 0.3, *r),
    "triplet_margin_loss": lambda loss, x, y, z, *r: loss(x, y, z, 0.3, 2.0, 0.1, True, *r),
    "multi_margin_loss": lambda loss, x, t, *r: loss(x, t, 1, 0.3, x[0] * 2, *r),
    "multilabel_margin_loss": lambda loss, x, t, *r: loss(x, t, *r),
}


@pytest.mark.parametrize("name", NATIVE)
def test_native_functions(name: str) -> None:
    """Their reduction is a number; where it is not given, torch's Python reduces nothing, and aten takes the mean."""
    losses = [getattr(home, name) for home in (torch, native_nn, torch.ops.aten) if hasattr(home, name)]
    assert len(losses) == 2

    def all_of(*given: torch.Tensor) -> Any:
        return tuple(NATIVE[name](loss, *given, *number) for loss in losses for number in ([], [0], [1], [2]))

    assert_lowering_matches(all_of, *operands(name, 3))


def test_native_functions_broadcast() -> None:
    x, y, signs = operands("margin_ranking_loss", 3)
    assert_lowering_matches(lambda x, y, t: torch.margin_ranking_loss(x, y[:, None], t, 0.0, 0), x, y, signs)


# A distance of the caller's -------------------------------------------------------------------------


class Apart(nn.Module):
    """Triplets by a distance that has weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.LazyLinear(5)
        self.scale = nn.LazyLinear(1)
        self.loss = nn.TripletMarginWithDistanceLoss(distance_function=self.distance, margin=0.5, swap=True)

    def distance(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.scale((x - y).abs()).squeeze(-1).exp()

    def forward(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.loss(self.embed(x), self.embed(y), self.embed(z))


def test_a_distance_of_the_callers_is_traced_through() -> None:
    conversion = tracer.convert(Apart(), (tracer.spec("N", 3),) * 3, route="direct", seed=0)
    assert conversion.report.resolved == {"embed": {"in_features": 3}, "scale": {"in_features": 5}}
    assert conversion.verification is not None


def test_a_distance_that_is_a_function() -> None:
    losses = [
        partial(F.triplet_margin_with_distance_loss, distance_function=distance, reduction=reduction)
        for distance in (lambda x, y: 1 - F.cosine_similarity(x, y), nn.PairwiseDistance(1))
        for reduction in REDUCTIONS
    ]
    assert_lowering_matches(together(losses), *torch.randn(3, 4, 5))
    with pytest.raises(tracer.TracerError, match="margin must be greater than 0, got 0"):
        propagated(lambda x: F.triplet_margin_with_distance_loss(x, x, x, margin=0), torch.randn(2, 3))
