"""Connectionist temporal classification: the likelihood of a sequence of labels under any alignment to longer ones.

A. Graves et al., "Connectionist temporal classification", 2006. A sequence of labels is laid out as blank, label,
blank, label, …, blank; `alpha[s]` is the logarithm of the probability of all alignments that have come to its place s.
Each step in time adds those that stay there, come from the place before, or skip a blank between two unlike labels.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.onnx.value import Value
from passes.ops.composition import Do, on_values
from passes.ops.loss import MEAN, NONE, NOWHERE, check_reduction, reduced_loss, spelled
from passes.ops.op import Op
from passes.ops.promotion import category
from passes.ops.record import Record, T
from passes.sizes.dimension import Size
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter


@dataclass(frozen=True, slots=True)
class Ctc(Record[T]):
    """Lengths are a tensor, or numbers: one for each sequence."""

    log_probs: T
    targets: T
    input_lengths: Any
    target_lengths: Any
    blank: int = 0
    reduction: str = MEAN
    zero_infinity: bool = False


ctc_loss = Op("ctc_loss", Ctc)
spelled(
    ctc_loss,
    "ctc_loss",
    nn.CTCLoss,
    native="log_probs targets input_lengths target_lengths blank reduction zero_infinity",
)


@ctc_loss.shape
def ctc_loss_shape(call: Ctc[TensorSpec]) -> TensorSpec:
    """[T, N, C], or [T, C] without a batch; labels [N, S], or those of all sequences one behind the other."""
    scores, targets = call.log_probs, call.targets
    check(scores.ndim in (2, 3), "ctc_loss takes log_probs of 3 axes, or 2 without a batch, found {}", scores)
    single = scores.dtype in (torch.float32, torch.float64)
    check(single, "ctc_loss takes log_probs in float32 or float64, found {}", scores.dtype, remedy="use x.float()")
    check(0 not in scores.shape, "ctc_loss takes log_probs that are not empty, found {}", shape_text(scores.shape))
    steps, batch, classes = scores.shape[0], scores.shape[1] if scores.ndim == 3 else 1, scores.shape[-1]
    check(0 <= call.blank < classes, "ctc_loss has {} classes, but the blank is {}", classes, call.blank)
    check_reduction(call.reduction)
    inputs = _check_lengths("input_lengths", call.input_lengths, batch)
    lengths = _check_lengths("target_lengths", call.target_lengths, batch)
    numbers = isinstance(call.input_lengths, TensorSpec) == isinstance(call.target_lengths, TensorSpec)
    check(numbers, "ctc_loss takes input_lengths and target_lengths both as tensors, or both as numbers")
    for length in inputs:
        check(0 <= length <= steps, "ctc_loss has log_probs of {} steps, but an input length is {}", steps, length)
    check(targets.ndim in (1, 2), "ctc_loss takes targets of 1 axis or 2, found {}", targets)
    if targets.ndim == 2:
        fits = targets.shape[0] == batch
        check(fits, "ctc_loss has a batch of {}, but targets for {}", batch, targets.shape[0])
    for length in lengths:
        most = targets.shape[-1]
        check(0 <= length <= most, "ctc_loss has targets of {} labels, but a target length is {}", most, length)
    if targets.ndim == 1 and lengths:
        total = sum(lengths)
        check(total == targets.shape[0], "target_lengths add up to {}, but the targets are {}", total, targets)
    return scores.with_shape(*((batch,) if call.reduction == NONE and scores.ndim == 3 else ()))


def _check_lengths(name: str, lengths: Any, batch: Size) -> Sequence[Size]:
    """The lengths that are numbers; none where they are a tensor."""
    if isinstance(lengths, TensorSpec):
        check(category(lengths.dtype) == 1, "ctc_loss takes {} that are integers, found {}", name, lengths.dtype)
        check(lengths.numel() == batch, "ctc_loss takes {} for a batch of {}, found {}", name, batch, lengths)
        return ()
    numbers: Sequence[Size] = lengths if isinstance(lengths, (tuple, list)) else ()
    check(len(numbers) == batch, "ctc_loss takes {} for a batch of {}, found {}", name, batch, lengths)
    return numbers


@ctc_loss.lower
def lower_ctc_loss(emit: Emitter, call: Ctc[Value]) -> Any:
    """The steps in time are those of a Scan, so that there may be any number of them.

    Lengths that torch refuses make the file fail.
    """
    do = on_values(emit)
    scores = call.log_probs if call.log_probs.ndim == 3 else do(torch.unsqueeze, call.log_probs, 1)
    steps, batch, _ = scores.shape
    inputs, lengths = (_as_column(emit, do, each, batch) for each in (call.input_lengths, call.target_lengths))
    labels = _padded_labels(do, call.targets, lengths, call.target_lengths, call.blank)
    places = _laid_out(do, labels, call.blank)
    alpha = _forward(emit, do, scores, inputs, places, call.blank)
    end = do(torch.mul, lengths, 2)
    if isinstance(call.input_lengths, Value):
        wrong = _refused(do, inputs, lengths, steps, call.targets)
        last = do(torch.gather, alpha, 1, do(torch.where, wrong, NOWHERE, end))
    else:
        last = do(torch.gather, alpha, 1, end)
    before = do(torch.gather, alpha, 1, do(torch.clamp_min, do(torch.sub, end, 1), 0))
    before = do(torch.where, do(torch.gt, lengths, 0), before, -math.inf)
    losses = do(torch.squeeze, do(torch.neg, _logarithm_of_sum(do, [last, before])), 1)
    if call.zero_infinity:
        losses = do(torch.where, do(torch.eq, losses, math.inf), 0, losses)
    if call.reduction == MEAN:
        counts = do("to", do(torch.clamp_min, do(torch.squeeze, lengths, 1), 1), losses.dtype)
        losses = do(torch.div, losses, counts)
    if call.reduction == NONE and call.log_probs.ndim == 2:
        return do(torch.squeeze, losses, 0)
    return reduced_loss(do, losses, call.reduction)


def _refused(do: Do, inputs: Any, lengths: Any, steps: Size, targets: Any) -> Any:
    """For each sequence whether torch refuses its lengths; one beyond padded targets has no place to be read from."""
    wrong = do(torch.logical_or, do(torch.lt, inputs, 0), do(torch.gt, inputs, steps))
    wrong = do(torch.logical_or, wrong, do(torch.lt, lengths, 0))
    if targets.ndim == 1:
        wrong = do(torch.logical_or, wrong, do(torch.ne, do(torch.sum, lengths), targets.shape[0]))
    return wrong


def _as_column(emit: Emitter, do: Do, lengths: Any, batch: Size) -> Any:
    """The lengths as [N, 1] of int64."""
    if isinstance(lengths, (tuple, list)):
        lengths = replace(emit.sizes(lengths), spec=TensorSpec((len(lengths),), torch.int64))
    return do("to", do(torch.reshape, lengths, (batch, 1)), torch.int64)


def _padded_labels(do: Do, targets: Any, lengths: Any, given: Any, blank: int) -> Any:
    """The labels of each sequence as a row [N, S], filled up with blanks.

    Where they come one behind the other, and lengths are a tensor, a sequence may have them all.
    """
    labels = do("to", targets, torch.int64)
    numbers = [length for length in given if isinstance(length, int)] if isinstance(given, (tuple, list)) else []
    known = bool(numbers) and len(numbers) == len(given)
    longest = max(numbers) if known and targets.ndim == 1 else targets.shape[-1]
    place = do(torch.arange, longest)
    inside = do(torch.lt, place, lengths)
    if targets.ndim == 1:
        start = do(torch.sub, do(torch.cumsum, lengths, 0), lengths)
        place = do(torch.where, inside, do(torch.add, start, place), 0)
        labels = do(torch.take, labels, place)
    return do(torch.where, inside, labels, blank)


def _laid_out(do: Do, labels: Any, blank: int) -> Any:
    """The labels with a blank before each of them, and one at the end: [N, 2 S + 1]."""
    batch, longest = labels.shape
    pairs = do(F.pad, do(torch.unsqueeze, labels, 2), (1, 0), "constant", blank)
    return do(F.pad, do(torch.reshape, pairs, (batch, 2 * longest)), (0, 1), "constant", blank)


def _forward(emit: Emitter, do: Do, scores: Any, inputs: Any, places: Any, blank: int) -> Any:
    """`alpha` after as many steps as each sequence has; before the first, only the first place can be where one is."""
    batch, length = places.shape
    apart = do(operator.getitem, do(F.pad, places, (2, 0), "constant", blank), (slice(None), slice(None, -2)))
    skips = do(torch.ne, places, apart)
    first = do(torch.full, (batch, 1), 0.0, dtype=scores.dtype)
    start = do(F.pad, first, (0, length - 1), "constant", -math.inf)
    count = do(torch.full, (), 0, dtype=torch.int64)

    def step(*values: Value) -> tuple[Value, ...]:
        specs = start.spec, count.spec, TensorSpec(scores.shape[1:], scores.dtype)
        alpha, number, own = (replace(value, spec=spec) for value, spec in zip(values, specs, strict=True))
        padded = do(F.pad, alpha, (2, 0), "constant", -math.inf)
        before = do(operator.getitem, padded, (slice(None), slice(1, -1)))
        skipped = do(operator.getitem, padded, (slice(None), slice(None, -2)))
        skipped = do(torch.where, skips, skipped, -math.inf)
        moved = do(torch.add, _logarithm_of_sum(do, [alpha, before, skipped]), do(torch.gather, own, 1, places))
        there = do(torch.lt, number, inputs)
        return do(torch.where, there, moved, alpha), do(torch.add, number, 1)

    alpha, _ = emit.scan(step, [start, count], [scores])
    return replace(alpha, spec=start.spec)


def _logarithm_of_sum(do: Do, logarithms: Sequence[Any]) -> Any:
    """`log(exp(a) + exp(b) + …)`, minus infinity where all are."""
    most = logarithms[0]
    for each in logarithms[1:]:
        most = do(torch.maximum, most, each)
    most = do(torch.where, do(torch.eq, most, -math.inf), 0, most)
    total = None
    for each in logarithms:
        term = do(torch.exp, do(torch.sub, each, most))
        total = term if total is None else do(torch.add, total, term)
    return do(torch.add, do(torch.log, total), most)
