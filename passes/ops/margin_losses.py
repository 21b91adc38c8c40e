"""Losses by a margin, by which scores, distances and similarities are to differ: what is beyond it counts nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.composition import Do, composed
from passes.ops.loss import MEAN, NONE, check_broadcast, position_of, reduced_loss, spelled
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.values.spec import shape_text

# Pairs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MarginRanking(Record[T]):
    """`of_one_rank` says that the operands must have equally many axes, as torch.nn.functional demands."""

    input1: T
    input2: T
    target: T
    margin: float = 0
    reduction: str = MEAN
    of_one_rank: bool = True


@dataclass(frozen=True, slots=True)
class HingeEmbedding(Record[T]):
    input: T
    target: T
    margin: float = 1.0
    reduction: str = MEAN


@dataclass(frozen=True, slots=True)
class CosineEmbedding(Record[T]):
    input1: T
    input2: T
    target: T
    margin: float = 0
    reduction: str = MEAN


margin_ranking_loss = Op("margin_ranking_loss", MarginRanking)
hinge_embedding_loss = Op("hinge_embedding_loss", HingeEmbedding)
cosine_embedding_loss = Op("cosine_embedding_loss", CosineEmbedding)
OF_PAIRS = "input1 input2 target margin reduction"
spelled(margin_ranking_loss, "margin_ranking_loss", nn.MarginRankingLoss, native=OF_PAIRS, of_one_rank=False)
spelled(hinge_embedding_loss, "hinge_embedding_loss", nn.HingeEmbeddingLoss, native="input target margin reduction")
spelled(cosine_embedding_loss, "cosine_embedding_loss", nn.CosineEmbeddingLoss, native=OF_PAIRS)
# What the squared lengths of vectors are raised by.
LEAST_SQUARE = 1e-12


@composed(margin_ranking_loss)
def margin_ranking_of(do: Do, call: MarginRanking[Any]) -> Any:
    """`max(margin - t (x1 - x2), 0)`."""
    operands = {"input1": call.input1, "input2": call.input2, "target": call.target}
    check(
        not call.of_one_rank or len({operand.ndim for operand in operands.values()}) == 1,
        "margin_ranking_loss takes operands with equally many axes, found input1 {}, input2 {} and target {}",
        *(shape_text(operand.shape) for operand in operands.values()),
    )
    check_broadcast("margin_ranking_loss", **operands)
    moved = do(torch.mul, do(torch.neg, call.target), do(torch.sub, call.input1, call.input2))
    return reduced_loss(do, do("clamp_min_", do(torch.add, moved, float(call.margin)), 0), call.reduction)


@composed(hinge_embedding_loss)
def hinge_embedding_of(do: Do, call: HingeEmbedding[Any]) -> Any:
    """The distance x of what belongs together (t = 1), `max(margin - x, 0)` of what does not (t = -1)."""
    input, target = call.input, call.target
    check_broadcast("hinge_embedding_loss", input=input, target=target)
    margin = call.margin if input.dtype.is_floating_point else int(call.margin)
    apart = do(torch.clamp_min, do(torch.rsub, input, margin), 0)
    apart = do(torch.where, do(torch.ne, target, 1), apart, 0)
    together = do(torch.where, do(torch.ne, target, -1), input, 0)
    return reduced_loss(do, do(torch.add, apart, together), call.reduction)


@composed(cosine_embedding_loss)
def cosine_embedding_of(do: Do, call: CosineEmbedding[Any]) -> Any:
    """`1 - cos` of vectors that belong together (t = 1), `max(cos - margin, 0)` of others (t = -1)."""
    input1, input2, target = call.input1, call.input2, call.target
    fits = target.ndim <= 1 and input1.ndim == input2.ndim == target.ndim + 1
    check(
        fits,
        "cosine_embedding_loss takes rows and a target of 1 axis, or vectors and one of none, found input1 {}, "
        "input2 {} and target {}",
        *(shape_text(operand.shape) for operand in (input1, input2, target)),
    )
    check_broadcast("cosine_embedding_loss", input1=input1, input2=input2)
    axis = target.ndim
    products = do(torch.sum, do(torch.mul, input1, input2), axis)
    squares = [do(torch.add, do(torch.sum, do(torch.square, each), axis), LEAST_SQUARE) for each in (input1, input2)]
    cosine = do(torch.div, products, do(torch.sqrt, do(torch.mul, *squares)))
    check_broadcast("cosine_embedding_loss", similarities=cosine, target=target)
    together = do(torch.where, do(torch.eq, target, 1), do(torch.rsub, cosine, 1), 0)
    beyond = do(torch.clamp_min, do(torch.sub, cosine, call.margin), 0)
    apart = do(torch.where, do(torch.eq, target, -1), beyond, 0)
    return reduced_loss(do, do(torch.add, together, apart), call.reduction)


# Triplets -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TripletMargin(Record[T]):
    """`positive_margin` says that the margin must be above 0, as torch.nn.functional demands."""

    anchor: T
    positive: T
    negative: T
    margin: float = 1.0
    p: float = 2.0
    eps: float = 1e-6
    swap: bool = False
    reduction: str = MEAN
    positive_margin: bool = True


triplet_margin_loss = Op("triplet_margin_loss", TripletMargin)
spelled(
    triplet_margin_loss,
    "triplet_margin_loss",
    nn.TripletMarginLoss,
    native="anchor positive negative margin p eps swap reduction",
    positive_margin=False,
)


@composed(triplet_margin_loss)
def triplet_margin_of(do: Do, call: TripletMargin[Any]) -> Any:
    """`max(margin + |a - p| - |a - n|, 0)`; swapped, the smaller of `|a - n|` and `|p - n|` counts."""
    triplet = {"anchor": call.anchor, "positive": call.positive, "negative": call.negative}
    check(call.margin > 0 or not call.positive_margin, "the margin of triplets is above 0, found {}", call.margin)
    check(
        len({operand.ndim for operand in triplet.values()}) == 1,
        "triplet_margin_loss takes operands with equally many axes, found anchor {}, positive {} and negative {}",
        *(shape_text(operand.shape) for operand in triplet.values()),
    )
    check_broadcast("triplet_margin_loss", **triplet)
    near = do(torch.pairwise_distance, call.anchor, call.positive, call.p, call.eps)
    far = do(torch.pairwise_distance, call.anchor, call.negative, call.p, call.eps)
    if call.swap:
        far = do(torch.minimum, far, do(torch.pairwise_distance, call.positive, call.negative, call.p, call.eps))
    losses = do(torch.sub, do(torch.add, near, call.margin), far)
    return reduced_loss(do, do(torch.clamp_min, losses, 0), call.reduction)


# Classes --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MultiMargin(Record[T]):
    input: T
    target: T
    p: float = 1
    margin: float = 1.0
    weight: T | None = None
    reduction: str = MEAN


@dataclass(frozen=True, slots=True)
class MultilabelMargin(Record[T]):
    input: T
    target: T
    reduction: str = MEAN


@dataclass(frozen=True, slots=True)
class MultilabelSoftMargin(Record[T]):
    input: T
    target: T
    weight: T | None = None
    reduction: str = MEAN


multi_margin_loss = Op("multi_margin_loss", MultiMargin)
multilabel_margin_loss = Op("multilabel_margin_loss", MultilabelMargin)
multilabel_soft_margin_loss = Op("multilabel_soft_margin_loss", MultilabelSoftMargin)
spelled(multi_margin_loss, "multi_margin_loss", nn.MultiMarginLoss, native="input target p margin weight reduction")
spelled(multilabel_margin_loss, "multilabel_margin_loss", nn.MultiLabelMarginLoss, native="input target reduction")
spelled(multilabel_soft_margin_loss, "multilabel_soft_margin_loss", nn.MultiLabelSoftMarginLoss)


def _check_scores(name: str, input: Any, target: Any) -> None:
    """Scores are [N, C], [C] or one alone, C being at least 1; labels are int64."""
    axes = input.ndim
    check(
        axes <= 2 and (axes == 0 or input.shape[-1] != 0),
        "{} takes scores of at least 1 class, with 1 axis or as a batch with 2, found {}",
        name,
        shape_text(input.shape),
    )
    single = input.dtype in (torch.float32, torch.float64)
    check(single, "{} takes scores in float32 or float64, found {}", name, input.dtype, remedy="use input.float()")
    whole = target.dtype == torch.int64
    check(whole, "{} takes int64 labels, found {}", name, target.dtype, remedy="convert them: target.long()")


def _rows(do: Do, tensor: Any) -> Any:
    """One row of a batch where there is none."""
    return tensor if tensor.ndim == 2 else do(torch.reshape, tensor, (1, tensor.shape[0] if tensor.ndim else 1))


@composed(multi_margin_loss)
def multi_margin_of(do: Do, call: MultiMargin[Any]) -> Any:
    """The mean over the classes of `max(margin - x[t] + x[c], 0) ** p`, without the label's own; nan counts as 0."""
    input, target, weight = call.input, call.target, call.weight
    _check_scores("multi_margin_loss", input, target)
    check(call.p in (1, 2), "multi_margin_loss takes p = 1 or p = 2, found {}", call.p)
    batch = input.shape[0] if input.ndim == 2 else 1
    fits = target.ndim == 0 and batch == 1 if target.ndim != 1 else target.shape[0] == batch
    check(fits, "multi_margin_loss takes a label for each of {} rows, found {}", batch, shape_text(target.shape))
    scores = _rows(do, input)
    classes = scores.shape[1]
    labels = do(torch.reshape, target, (batch, 1))
    position = position_of(do, labels)
    losses = do(torch.add, do(torch.rsub, do(torch.gather, scores, 1, position), call.margin), scores)
    counted = do(torch.logical_and, do(torch.gt, losses, 0), do(torch.ne, do(torch.arange, classes), labels))
    if call.p == 2:
        losses = do(torch.square, losses)
    if weight is not None:
        check(
            weight.shape == (classes,) and weight.dtype == input.dtype,
            "multi_margin_loss takes {} weights of {}, one for each class, found {}",
            classes, input.dtype, weight,
        )  # fmt: skip
        losses = do(torch.mul, losses, do(torch.take, weight, position))
    losses = do(torch.div, do(torch.sum, do(torch.where, counted, losses, 0), 1), classes)
    if call.reduction == NONE and not target.ndim:
        return do(torch.squeeze, losses, 0)
    return reduced_loss(do, losses, call.reduction)


@composed(multilabel_margin_loss)
def multilabel_margin_of(do: Do, call: MultilabelMargin[Any]) -> Any:
    """The sum over labels t and other classes c of `max(1 - x[t] + x[c], 0)`, by the number of classes.

    A row's labels are those before its first negative number. What is nan counts as 0.
    """
    input, target = call.input, call.target
    _check_scores("multilabel_margin_loss", input, target)
    scores, labels = _rows(do, input), _rows(do, target)
    check(
        max(input.ndim, 1) == max(target.ndim, 1) and scores.shape == labels.shape,
        "multilabel_margin_loss takes as many labels as scores, found {} and {}",
        shape_text(target.shape), shape_text(input.shape),
        remedy="fill up each row of labels with -1",
    )  # fmt: skip
    classes = scores.shape[1]
    ended = do(torch.cumsum, do("to", do(torch.lt, labels, 0), torch.int64), 1)
    given = do(torch.eq, ended, 0)
    labels = do(torch.where, given, labels, 0)
    named = do(torch.eq, do(torch.unsqueeze, labels, 2), do(torch.arange, classes))
    given = do(torch.unsqueeze, given, 2)
    others = do(torch.logical_not, do(torch.any, do(torch.logical_and, named, given), 1, True))
    own = do(torch.unsqueeze, do(torch.gather, scores, 1, labels), 2)
    losses = do(torch.add, do(torch.rsub, own, 1), do(torch.unsqueeze, scores, 1))
    counted = do(torch.logical_and, do(torch.logical_and, given, others), do(torch.gt, losses, 0))
    losses = do(torch.div, do(torch.sum, do(torch.where, counted, losses, 0), (1, 2)), classes)
    if call.reduction == NONE and input.ndim < 2:
        return do(torch.squeeze, losses, 0)
    return reduced_loss(do, losses, call.reduction)


@composed(multilabel_soft_margin_loss)
def multilabel_soft_margin_of(do: Do, call: MultilabelSoftMargin[Any]) -> Any:
    """The mean over the last axis of `-t log(sigmoid(x)) - (1 - t) log(sigmoid(-x))`."""
    input, target = call.input, call.target
    check(input.ndim >= 1, "multilabel_soft_margin_loss takes an axis of classes, found an input without axes")
    check_broadcast("multilabel_soft_margin_loss", input=input, target=target)
    true = do(torch.mul, target, do(F.logsigmoid, input))
    false = do(torch.mul, do(torch.rsub, target, 1), do(F.logsigmoid, do(torch.neg, input)))
    losses = do(torch.neg, do(torch.add, true, false))
    if call.weight is not None:
        check_broadcast("multilabel_soft_margin_loss", input=losses, weight=call.weight)
        losses = do(torch.mul, losses, call.weight)
    classes = input.shape[-1]
    return reduced_loss(do, do(torch.div, do(torch.sum, losses, input.ndim - 1), classes), call.reduction)
