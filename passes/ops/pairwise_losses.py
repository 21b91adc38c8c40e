"""Losses that compare an input with a target element by element: distances, and likelihoods of distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.composition import Do, composed
from passes.ops.loss import (
    MEAN,
    SUM,
    check_broadcast,
    check_floating,
    check_same_shape,
    once_asked,
    reduced_loss,
    spelled,
    spelled_natively,
)
from passes.ops.op import Op
from passes.ops.promotion import result_dtype
from passes.ops.record import Record, T
from passes.values.spec import shape_text

# Distances ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Distance(Record[T]):
    """`expanded` says that the operands are brought to one shape first, so that one without axes counts as any other
    when they are promoted: as in torch.nn.functional, and not in the native functions."""

    input: T
    target: T
    reduction: str = MEAN
    weight: T | None = None
    expanded: bool = True


@dataclass(frozen=True, slots=True)
class SmoothL1(Record[T]):
    input: T
    target: T
    reduction: str = MEAN
    beta: float = 1.0
    expanded: bool = True


@dataclass(frozen=True, slots=True)
class Huber(Record[T]):
    input: T
    target: T
    reduction: str = MEAN
    delta: float = 1.0
    weight: T | None = None
    expanded: bool = True


l1_loss = Op("l1_loss", Distance)
mse_loss = Op("mse_loss", Distance)
smooth_l1_loss = Op("smooth_l1_loss", SmoothL1)
huber_loss = Op("huber_loss", Huber)
spelled(l1_loss, "l1_loss", nn.L1Loss, native="input target reduction", expanded=False)
spelled(mse_loss, "mse_loss", nn.MSELoss, native="input target reduction", expanded=False)
spelled(smooth_l1_loss, "smooth_l1_loss", nn.SmoothL1Loss, native="input target reduction beta", expanded=False)
spelled(huber_loss, "huber_loss", nn.HuberLoss, native="input target reduction delta", expanded=False)


def _operands(do: Do, name: str, call: Any) -> tuple[Any, Any]:
    input, target = call.input, call.target
    check_broadcast(name, input=input, target=target)
    if call.expanded and input.dtype != target.dtype:
        rank = max(input.ndim, target.ndim)
        input, target = (do(torch.unsqueeze, each, 0) if each.ndim < min(rank, 1) else each for each in (input, target))
    return input, target


def _difference(do: Do, name: str, call: Any) -> Any:
    """`input - target` in the dtype that both are promoted to, which must be a floating-point one."""
    input, target = _operands(do, name, call)
    dtype = result_dtype(input, target)
    check(dtype.is_floating_point, "{} needs floating-point operands, found {} and {}", name, input.dtype, target.dtype)
    return do(torch.sub, do("to", input, dtype), do("to", target, dtype))


def _reduced(do: Do, losses: Any, call: Any, *, by_weight: bool) -> Any:
    """The losses times their weights, if there are any, reduced; their mean is over the sum of the weights, or over how
    many there are."""
    weight = call.weight
    if weight is None:
        return reduced_loss(do, losses, call.reduction)
    check_same_shape("a weighted loss", input=call.input, weight=weight)
    weighted = do(torch.mul, losses, weight)
    if by_weight and call.reduction == MEAN:
        return do(torch.div, do(torch.sum, weighted), do(torch.sum, weight))
    return reduced_loss(do, weighted, call.reduction)


@composed(l1_loss)
def l1_of(do: Do, call: Distance[Any]) -> Any:
    losses = do(torch.abs, do(torch.sub, *_operands(do, "l1_loss", call)))
    return _reduced(do, losses, call, by_weight=True)


@composed(mse_loss)
def mse_of(do: Do, call: Distance[Any]) -> Any:
    """Weighted, torch composes it of others, which take integers, too."""
    if call.weight is None:
        difference = _difference(do, "mse_loss", call)
    else:
        difference = do(torch.sub, *_operands(do, "mse_loss", call))
    return _reduced(do, do(torch.square, difference), call, by_weight=True)


@composed(smooth_l1_loss)
def smooth_l1_of(do: Do, call: SmoothL1[Any]) -> Any:
    """Half the square over beta up to it, from there on the distance less half of it; of beta 0, the distance."""
    beta = call.beta
    check(beta >= 0, "smooth_l1_loss takes a beta of at least 0, found {}", beta)
    if beta == 0:
        return l1_of(do, Distance(call.input, call.target, call.reduction, expanded=call.expanded))
    distance = do(torch.abs, _difference(do, "smooth_l1_loss", call))
    near = do(torch.div, do(torch.mul, do(torch.square, distance), 0.5), beta)
    far = do(torch.sub, distance, 0.5 * beta)
    return reduced_loss(do, do(torch.where, do(torch.lt, distance, beta), near, far), call.reduction)


@composed(huber_loss)
def huber_of(do: Do, call: Huber[Any]) -> Any:
    """Half the square up to delta, from there on the line that goes on from it; in the dtype of the input."""
    delta, dtype = call.delta, call.input.dtype
    check(delta > 0, "huber_loss takes a delta above 0, found {}", delta)
    check_floating("huber_loss", input=call.input)
    distance = do(torch.abs, _difference(do, "huber_loss", call))
    near = do(torch.mul, do(torch.square, distance), 0.5)
    far = do(torch.mul, do(torch.sub, distance, 0.5 * delta), delta)
    losses = do("to", do(torch.where, do(torch.le, distance, delta), near, far), dtype)
    return _reduced(do, losses, call, by_weight=False)


# Truth and its probability --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BinaryCrossEntropy(Record[T]):
    input: T
    target: T
    weight: T | None = None
    reduction: str = MEAN


@dataclass(frozen=True, slots=True)
class BinaryCrossEntropyWithLogits(Record[T]):
    input: T
    target: T
    weight: T | None = None
    reduction: str = MEAN
    pos_weight: T | None = None


binary_cross_entropy = Op("binary_cross_entropy", BinaryCrossEntropy)
with_logits = Op("binary_cross_entropy_with_logits", BinaryCrossEntropyWithLogits)
spelled(binary_cross_entropy, "binary_cross_entropy", nn.BCELoss, native="input target weight reduction")
spelled(
    with_logits,
    "binary_cross_entropy_with_logits",
    nn.BCEWithLogitsLoss,
    native="input target weight pos_weight reduction",
)
LEAST_LOGARITHM = -100.0


@composed(binary_cross_entropy)
def binary_cross_entropy_of(do: Do, call: BinaryCrossEntropy[Any]) -> Any:
    """`-t log(x) - (1 - t) log(1 - x)`, whose logarithms are no less than -100."""
    input, target, weight = call.input, call.target, call.weight
    check_same_shape("binary_cross_entropy", input=input, target=target)
    check_floating("binary_cross_entropy", input=input)
    check(
        target.dtype == input.dtype,
        "binary_cross_entropy takes an input and a target of one dtype, found {} and {}",
        input.dtype, target.dtype,
        remedy="convert the target to {0}, as in y.float()",
    )  # fmt: skip
    true = do(torch.clamp_min, do(torch.log, input), LEAST_LOGARITHM)
    false = do(torch.clamp_min, do(torch.log1p, do(torch.neg, input)), LEAST_LOGARITHM)
    losses = do(torch.sub, do(torch.mul, do(torch.sub, target, 1), false), do(torch.mul, target, true))
    if weight is not None:
        check_broadcast("binary_cross_entropy", input=input, weight=weight)
        losses = do("mul_", losses, weight)
    return reduced_loss(do, losses, call.reduction)


@composed(with_logits)
def with_logits_of(do: Do, call: BinaryCrossEntropyWithLogits[Any]) -> Any:
    """`(1 - t) x - log(sigmoid(x))`, the logarithm times `1 + (pos_weight - 1) t`; as torch writes it, in place."""
    input, target = call.input, call.target
    name = "binary_cross_entropy_with_logits"
    check_same_shape(name, input=input, target=target)
    check_floating(name, input=input, target=target)
    logarithm = do(F.logsigmoid, input)
    if call.pos_weight is not None:
        check_broadcast(name, input=input, pos_weight=call.pos_weight)
        scale = do("add_", do(torch.mul, do(torch.sub, call.pos_weight, 1), target), 1)
        logarithm = do("mul_", logarithm, scale)
    losses = do("sub_", do("mul_", do(torch.rsub, target, 1), input), logarithm)
    if call.weight is not None:
        check_broadcast(name, input=input, weight=call.weight)
        losses = do("mul_", losses, call.weight)
    return reduced_loss(do, losses, call.reduction)


# Likelihoods ----------------------------------------------------------------------------------------

BATCHMEAN = "batchmean"


@dataclass(frozen=True, slots=True)
class KlDiv(Record[T]):
    """`by_batch` says that what the reduction gives is divided by the size of the batch."""

    input: T
    target: T
    reduction: str = MEAN
    log_target: bool = False
    by_batch: bool = False


kl_div = Op("kl_div", KlDiv)
spelled_natively(kl_div, "kl_div", "input target reduction log_target")


@kl_div.function(F.kl_div)
def bind_kl_div(
    input: Any,
    target: Any,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = MEAN,
    log_target: bool = False,
) -> Mapping[str, Any]:
    """A reduction by batch divides also what the deprecated arguments reduce in another way."""
    asked = once_asked(size_average, reduce) or (SUM if reduction == BATCHMEAN else reduction)
    by_batch = reduction == BATCHMEAN
    return {"input": input, "target": target, "reduction": asked, "log_target": log_target, "by_batch": by_batch}


@kl_div.module(nn.KLDivLoss)
def bind_kl_div_module(module: nn.KLDivLoss, input: Any, target: Any) -> Mapping[str, Any]:
    return bind_kl_div(input, target, reduction=module.reduction, log_target=module.log_target)


@composed(kl_div)
def kl_div_of(do: Do, call: KlDiv[Any]) -> Any:
    """`t (log(t) - x)`, 0 where t is; or of the logarithm t, `exp(t) (t - x)`."""
    input, target = call.input, call.target
    check_floating("kl_div", input=input, target=target)
    check_broadcast("kl_div", input=input, target=target)
    if call.log_target:
        losses = do(torch.mul, do(torch.exp, target), do(torch.sub, target, input))
    else:
        losses = do(torch.sub, do(torch.xlogy, target, target), do(torch.mul, target, input))
    found = reduced_loss(do, losses, call.reduction)
    return do(torch.div, found, input.shape[0]) if call.by_batch and input.ndim else found


@dataclass(frozen=True, slots=True)
class PoissonNll(Record[T]):
    input: T
    target: T
    log_input: bool = True
    full: bool = False
    eps: float = 1e-8
    reduction: str = MEAN


poisson_nll_loss = Op("poisson_nll_loss", PoissonNll)
spelled(poisson_nll_loss, "poisson_nll_loss", nn.PoissonNLLLoss, native="input target log_input full eps reduction")


@composed(poisson_nll_loss)
def poisson_nll_of(do: Do, call: PoissonNll[Any]) -> Any:
    """`x - t log(x)`, of the logarithm `exp(x) - t x`; in full, with Stirling's approximation of log(t!) above 1."""
    input, target = call.input, call.target
    check_broadcast("poisson_nll_loss", input=input, target=target)
    if call.log_input:
        losses = do(torch.sub, do(torch.exp, input), do(torch.mul, target, input))
    else:
        losses = do(torch.sub, input, do(torch.mul, target, do(torch.log, do(torch.add, input, call.eps))))
    if call.full:
        term = do(torch.sub, do(torch.mul, target, do(torch.log, target)), target)
        term = do(torch.add, term, do(torch.mul, do(torch.log, do(torch.mul, target, 2 * math.pi)), 0.5))
        losses = do("add_", losses, do(torch.masked_fill, term, do(torch.le, target, 1), 0))
    return reduced_loss(do, losses, call.reduction)


@dataclass(frozen=True, slots=True)
class GaussianNll(Record[T]):
    input: T
    target: T
    var: T | float
    full: bool = False
    eps: float = 1e-6
    reduction: str = MEAN


gaussian_nll_loss = Op("gaussian_nll_loss", GaussianNll)
spelled(gaussian_nll_loss, "gaussian_nll_loss", nn.GaussianNLLLoss)


@composed(gaussian_nll_loss)
def gaussian_nll_of(do: Do, call: GaussianNll[Any]) -> Any:
    """`(log(v) + (x - t)^2 / v) / 2`, of a variance v that is no less than eps; in full, with log(2 pi) / 2."""
    input, target = call.input, call.target
    check_broadcast("gaussian_nll_loss", input=input, target=target)
    variance = do("clamp_", _variance(do, input, call.var), min=call.eps)
    square = do(torch.square, do(torch.sub, input, target))
    losses = do(torch.mul, do(torch.add, do(torch.log, variance), do(torch.div, square, variance)), 0.5)
    if call.full:
        losses = do("add_", losses, 0.5 * math.log(2 * math.pi))
    return reduced_loss(do, losses, call.reduction)


def _variance(do: Do, input: Any, given: Any) -> Any:
    """The variance as a tensor that broadcasts to the input: one for all, for each, or for each along one axis."""
    if isinstance(given, float):
        check(given >= 0, "a variance is at least 0, found {}", given)
        return do(torch.full, (1,) * input.ndim, given, dtype=result_dtype(input, given))
    if given.shape == input.shape:
        return given
    if input.ndim == given.ndim + 1 and input.shape[:-1] == given.shape:
        return do(torch.unsqueeze, given, -1)
    apart = [size for whole, size in zip(input.shape, given.shape, strict=False) if whole != size]
    check(
        input.ndim == given.ndim and sum(apart) == 1,
        "the variance {} is neither of the input's shape {}, nor of it but for one axis of size 1 or the last one",
        shape_text(given.shape), shape_text(input.shape),
        remedy="give a variance for each number of the input, or one for all as a float",
    )  # fmt: skip
    return given


@dataclass(frozen=True, slots=True)
class SoftMargin(Record[T]):
    input: T
    target: T
    reduction: str = MEAN


soft_margin_loss = Op("soft_margin_loss", SoftMargin)
spelled(soft_margin_loss, "soft_margin_loss", nn.SoftMarginLoss, native="input target reduction")


@composed(soft_margin_loss)
def soft_margin_of(do: Do, call: SoftMargin[Any]) -> Any:
    """`log(1 + exp(-t x))`, in the dtype of the input."""
    check_floating("soft_margin_loss", input=call.input)
    check_broadcast("soft_margin_loss", input=call.input, target=call.target)
    losses = do("exp_", do("mul_", do(torch.neg, call.input), call.target))
    return reduced_loss(do, do(torch.log1p, losses), call.reduction)


__all__ = ["Distance"]
