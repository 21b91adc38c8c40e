"""Losses of classes: a label for each place, or a probability for each class.

Composed of elementary operations: runtimes have ONNX's own operators for these losses as functions of such operations,
which fail for an empty batch, and take a negative label for a class counted from the end, where torch refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.composition import Do, composed
from passes.ops.linear import Linear, linear_cost
from passes.ops.loss import (
    MEAN,
    NONE,
    SUM,
    check_floating,
    check_reduction,
    position_of,
    reduced_loss,
    spelled,
    spelled_natively,
)
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.sizes.dimension import Size, product
from passes.values.spec import TensorSpec, shape_text

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Nll(Record[T]):
    input: T
    target: T
    weight: T | None = None
    reduction: str = MEAN
    ignore_index: int = IGNORED


@dataclass(frozen=True, slots=True)
class CrossEntropy(Record[T]):
    input: T
    target: T
    weight: T | None = None
    reduction: str = MEAN
    ignore_index: int = IGNORED
    label_smoothing: float = 0.0


nll_loss = Op("nll_loss", Nll)
spelled(nll_loss, "nll_loss", nn.NLLLoss)
OF_LABELS = "input target weight reduction ignore_index"
for _name in ("nll_loss", "nll_loss2d", "nll_loss_nd"):
    spelled_natively(nll_loss, _name, OF_LABELS)
cross_entropy = Op("cross_entropy", CrossEntropy)
spelled(
    cross_entropy,
    "cross_entropy",
    nn.CrossEntropyLoss,
    native=f"{OF_LABELS} label_smoothing",
    natively="cross_entropy_loss",
)


# Labels ---------------------------------------------------------------------------------------------


def class_axis(input: Any) -> int:
    return 0 if input.ndim == 1 else 1


def _check_labels(name: str, input: Any, target: Any, weight: Any) -> None:
    """[N, C, …] and labels [N, …], or [C] and one label."""
    check(input.ndim >= 1, "{} takes an axis of classes, found an input without axes", name)
    check_floating(name, input=input)
    whole = target.dtype == torch.int64 or (target.dtype == torch.uint8 and input.ndim <= 2)
    check(whole, "{} takes int64 labels, found {}", name, target.dtype, remedy="convert them: target.long()")
    if input.ndim == 1:
        fits = target.ndim == 0 or target.shape == (1,)
        check(fits, "{} takes one label for the scores {}, found {}", name, shape_text(input.shape), target)
    else:
        wanted = (input.shape[0], *input.shape[2:])
        check(
            target.shape == wanted,
            "{} takes labels of shape {} for an input of shape {}, found {}",
            name, shape_text(wanted), shape_text(input.shape), shape_text(target.shape),
            remedy="classes are axis 1 of the input: move them there, or reshape the labels to {1}",
        )  # fmt: skip
    _check_weight(name, input, weight)


def _check_weight(name: str, input: Any, weight: Any) -> None:
    classes = input.shape[class_axis(input)]
    check(
        weight is None or weight.shape == (classes,),
        "{} takes {} weights, one for each class, found {}",
        name,
        classes,
        weight,
    )


@composed(nll_loss)
def nll_of(do: Do, call: Nll[Any]) -> Any:
    """`-w[t] x[t]` at each place, 0 where the label is the one that is ignored; the mean is over what is not.

    A label that torch refuses makes the file fail.
    """
    input, target, weight = call.input, call.target, call.weight
    _check_labels("nll_loss", input, target, weight)
    check_reduction(call.reduction)
    if weight is not None:
        same = weight.dtype == input.dtype
        check(same, "nll_loss takes weights in the input's dtype, found {} and {}", weight.dtype, input.dtype)
    axis = class_axis(input)
    labels = do("to", target if input.ndim > 1 else do(torch.reshape, target, ()), torch.int64)
    ignored = do(torch.eq, labels, call.ignore_index)
    position = position_of(do, do(torch.where, ignored, 0, labels))
    own = do(torch.squeeze, do(torch.gather, input, axis, do(torch.unsqueeze, position, axis)), axis)
    losses = do(torch.neg, own)
    if weight is not None:
        weight = do(torch.take, weight, position)
        losses = do(torch.mul, losses, weight)
    losses = do(torch.where, ignored, 0, losses)
    if call.reduction in (NONE, SUM):
        return reduced_loss(do, losses, call.reduction)
    if weight is None:
        counted = do("to", do(torch.logical_not, ignored), input.dtype)
    else:
        counted = do(torch.where, ignored, 0, weight)
    return do(torch.div, do(torch.sum, losses), do(torch.sum, counted))


# Cross entropy --------------------------------------------------------------------------------------


@composed(cross_entropy)
def cross_entropy_of(do: Do, call: CrossEntropy[Any]) -> Any:
    """Of probabilities, which have the input's shape, or of labels."""
    input, target = call.input, call.target
    check(input.ndim >= 1, "cross_entropy takes an axis of classes, found an input without axes")
    check_floating("cross_entropy", input=input)
    check_reduction(call.reduction)
    smoothing = call.label_smoothing
    check(smoothing <= 1, "label_smoothing is between 0 and 1, found {}", smoothing)
    if target.ndim == input.ndim and (input.ndim > 1 or target.shape == input.shape):
        return _of_probabilities(do, call)
    _check_labels("cross_entropy", input, target, call.weight)
    logarithms = do(torch.log_softmax, input, class_axis(input))
    labelled = nll_of(do, Nll(logarithms, target, call.weight, call.reduction, call.ignore_index))
    if smoothing <= 0:
        return labelled
    smooth = _over_all_classes(do, logarithms, call)
    weighted = do(torch.mul, smooth, smoothing / input.shape[class_axis(input)])
    return do(torch.add, do(torch.mul, labelled, 1 - smoothing), weighted)


def _of_probabilities(do: Do, call: CrossEntropy[Any]) -> Any:
    input, target, weight, smoothing = call.input, call.target, call.weight, call.label_smoothing
    check(
        target.shape == input.shape,
        "cross_entropy takes probabilities of the input's shape {}, or labels without its axis 1, found {}",
        shape_text(input.shape), shape_text(target.shape),
    )  # fmt: skip
    check_floating("cross_entropy", target=target)
    unignored = call.ignore_index < 0
    check(unignored, "cross_entropy ignores no class among probabilities, found ignore_index {}", call.ignore_index)
    axis = class_axis(input)
    classes = input.shape[axis]
    _check_weight("cross_entropy", input, weight)
    if smoothing > 0:
        target = do(torch.add, do(torch.mul, target, 1 - smoothing), smoothing / classes)
    products = do(torch.mul, do(torch.log_softmax, input, axis), target)
    if weight is not None:
        products = do(torch.mul, products, _along_classes(do, weight, input))
    if call.reduction == NONE:
        return do(torch.neg, do(torch.sum, products, axis))
    total = do(torch.neg, do(torch.sum, products))
    if call.reduction == SUM:
        return total
    places = product(size for place, size in enumerate(input.shape) if place != axis)
    return do(torch.div, total, places if classes != 0 else 0)


def _along_classes(do: Do, weight: Any, input: Any) -> Any:
    """The weights along the axis of the classes."""
    return weight if input.ndim <= 2 else do(torch.reshape, weight, (1, weight.shape[0], *[1] * (input.ndim - 2)))


def _over_all_classes(do: Do, logarithms: Any, call: CrossEntropy[Any]) -> Any:
    """What smoothing adds to a label: the loss of all classes alike, reduced as the label's."""
    weight, axis = call.weight, class_axis(logarithms)
    weighted = logarithms if weight is None else do(torch.mul, logarithms, _along_classes(do, weight, logarithms))
    ignored = do(torch.eq, call.target, call.ignore_index)
    losses = do("masked_fill_", do(torch.neg, do(torch.sum, weighted, axis)), ignored, 0)
    if call.reduction in (NONE, SUM):
        return reduced_loss(do, losses, call.reduction)
    if weight is None:
        counted = do("to", do(torch.logical_not, ignored), losses.dtype)
    else:
        position = position_of(do, do(torch.where, ignored, 0, do("to", call.target, torch.int64)))
        counted = do(torch.where, ignored, 0, do(torch.take, weight, position))
    return do(torch.div, do(torch.sum, losses), do(torch.sum, counted))


# With the layer before ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinearCrossEntropy(Record[T]):
    """`options` say in which parts torch computes it, which changes nothing."""

    input: T
    linear_weight: T
    target: T
    linear_bias: T | None = None
    weight: T | None = None
    reduction: str = MEAN
    ignore_index: int | None = None
    label_smoothing: float = 0.0
    options: object = None


linear_cross_entropy = Op("linear_cross_entropy", LinearCrossEntropy)
spelled(linear_cross_entropy, "linear_cross_entropy")


@composed(linear_cross_entropy)
def linear_cross_entropy_of(do: Do, call: LinearCrossEntropy[Any]) -> Any:
    """The cross entropy of a linear layer's result, whose weight [C, …, in_features] may give each class several."""
    input, weight, bias = call.input, call.linear_weight, call.linear_bias
    check(
        input.ndim in (1, 2) and weight.ndim >= 2 and (input.ndim == 2 or weight.ndim == 2),
        "linear_cross_entropy takes an input of 2 axes and a linear_weight of 2 or more, or one of 1 and one of 2, "
        "found {} and {}",
        shape_text(input.shape), shape_text(weight.shape),
    )  # fmt: skip
    check(
        input.shape[-1] == weight.shape[-1],
        "linear_cross_entropy takes an input and a linear_weight of one number of features, found {} and {}",
        input.shape[-1],
        weight.shape[-1],
    )
    outputs = weight.shape[:-1]
    check(
        bias is None or bias.shape == outputs,
        "linear_cross_entropy takes a linear_bias of shape {}, found {}",
        shape_text(outputs),
        bias,
    )
    shape = (*input.shape[:-1], *outputs)
    if len(outputs) > 1:
        weight = do(torch.reshape, weight, (product(outputs), weight.shape[-1]))
        bias = bias if bias is None else do(torch.reshape, bias, (product(outputs),))
    logits = do(torch.reshape, do(F.linear, input, weight, bias), shape)
    ignored = call.ignore_index
    probabilities = call.target.ndim == len(shape) and call.target.shape == shape
    check(
        not probabilities or ignored is None,
        "linear_cross_entropy ignores no class among probabilities, found ignore_index {}",
        ignored,
    )
    of_logits = CrossEntropy(
        logits,
        call.target,
        call.weight,
        call.reduction,
        IGNORED if ignored is None else ignored,
        call.label_smoothing,
    )
    return cross_entropy_of(do, of_logits)


@linear_cross_entropy.cost
def linear_cross_entropy_cost(result: TensorSpec, call: LinearCrossEntropy[TensorSpec]) -> Size:
    """That of the layer."""
    outputs = call.input.with_shape(*call.input.shape[:-1], product(call.linear_weight.shape[:-1]))
    return linear_cost(outputs, Linear(call.input, call.linear_weight))
