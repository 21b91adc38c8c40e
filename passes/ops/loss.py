"""What all losses share: how torch spells them, and how one number is made of many. Registers no op.

A loss is found as `F.mse_loss(input, target, reduction="sum")`, as `nn.MSELoss(reduction="sum")`, and as the native
function that both end in, `torch.ops.aten.mse_loss(input, target, 2)`, which counts its reductions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import ShapeError, check
from passes.ops.composition import Do
from passes.ops.op import Op, Owned
from passes.ops.promotion import broadcast_shapes
from passes.torch_private import native_nn
from passes.values.spec import shape_text

MEAN, SUM, NONE = "mean", "sum", "none"
# How native functions count the reductions, and how torch once called the mean.
BY_NUMBER = {0: NONE, 1: MEAN, 2: SUM}
ONCE_CALLED = {"elementwise_mean": MEAN}


# Spellings ------------------------------------------------------------------------------------------


def spelled(op: Op, name: str, *modules: type[nn.Module], native: str = "", natively: str = "", **natives: Any) -> None:
    """Declares the spellings of a loss: the function of torch.nn.functional, modules, and native functions.

    `native` are the parameters of the native functions in their order, `natively` is their name where it is another,
    and `natives` are arguments that they stand for.
    """
    function = getattr(F, name, None)
    if function is not None:
        op.function(function)(of_signature(function))
    if native:
        spelled_natively(op, natively or name, native, **natives)
    for module in modules:
        op.module(module)(of_module(op, module))


def spelled_natively(op: Op, name: str, parameters: str, **natives: Any) -> None:
    """Declares the native functions of a name: in `torch`, where torch.nn.functional has its own, and as aten's.

    Their default is the mean as aten declares it, but torch's bindings to Python take that word for 0.
    """
    for home, reduction in ((torch, 0), (native_nn, 0), (torch.ops.aten, 1)):
        if hasattr(home, name):
            op.function(getattr(home, name))(by_number(parameters, reduction=reduction, **natives))


def of_signature(function: Callable[..., Any]) -> Callable[..., Mapping[str, Any]]:
    """The arguments of a function of torch.nn.functional, with one `reduction` for its three arguments about it."""
    signature = inspect.signature(function)

    def bind(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
        given = dict(signature.bind(*args, **kwargs).arguments)
        asked = once_asked(given.pop("size_average", None), given.pop("reduce", None))
        return given if asked is None else {**given, "reduction": asked}

    return bind


def once_asked(size_average: bool | None, reduce: bool | None) -> str | None:
    """The reduction that the two deprecated arguments ask for, in place of any other, where one of them is given."""
    if size_average is None and reduce is None:
        return None
    if reduce is not None and not reduce:
        return NONE
    return MEAN if size_average is None or size_average else SUM


def by_number(names: str, **more: Any) -> Callable[..., Mapping[str, Any]]:
    """The arguments of a native function with parameters of these names, and `more`; its reduction is a number."""
    parameters = names.split()

    def bind(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
        if len(args) > len(parameters):
            raise TypeError(f"it takes {len(parameters)} arguments, found {len(args)}")
        given = {**more, **dict(zip(parameters, args, strict=False)), **kwargs}
        if "self" in given:
            given[parameters[0]] = given.pop("self")
        number = given["reduction"]
        check(number in BY_NUMBER, "native losses are reduced by 0 (not), 1 (mean) or 2 (sum), not {}", number)
        return {**given, "reduction": BY_NUMBER[number]}

    return bind


def of_module(op: Op, kind: type[nn.Module]) -> Callable[..., Mapping[str, Any]]:
    """The arguments of a module's call: its forward's, then by name those of the op's other ones that it reads."""
    forward = inspect.signature(kind.forward)
    fields = op.record.__match_args__
    operands = fields[: len(forward.parameters) - 1]
    own = [name for name in fields[len(operands) :] if name in kind.forward.__code__.co_names]

    def bind(module: nn.Module, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        given = list(forward.bind(module, *args, **kwargs).arguments.values())[1:]
        tensors = {name: Owned(name) for name in own if name in module._buffers or name in module._parameters}
        numbers = {name: getattr(module, name) for name in own if name not in tensors}
        return {**dict(zip(operands, given, strict=True)), **numbers, **tensors}

    return bind


# Reductions -----------------------------------------------------------------------------------------


def check_reduction(reduction: Any) -> None:
    """Raises ShapeError unless it is one of torch's."""
    known = (NONE, MEAN, SUM)
    check(
        reduction in known or reduction in ONCE_CALLED,
        "reduction is {!r}, not one of {}",
        reduction, ", ".join(map(repr, known)),
        remedy="give one of them",
    )  # fmt: skip


def reduced_loss(do: Do, losses: Any, reduction: str) -> Any:
    """The mean of the losses, which of none is not a number, or their sum, or the losses themselves."""
    check_reduction(reduction)
    reduction = ONCE_CALLED.get(reduction, reduction)
    if reduction == NONE:
        return losses
    return do(torch.mean if reduction == MEAN else torch.sum, losses)


# Labels ---------------------------------------------------------------------------------------------

# A position that no axis has.
NOWHERE = torch.iinfo(torch.int32).max


def position_of(do: Do, labels: Any) -> Any:
    """The classes' positions, for `gather` and `take`: a negative label, which would count from the end, has none."""
    return do(torch.where, do(torch.lt, labels, 0), NOWHERE, labels)


# Operands -------------------------------------------------------------------------------------------


def check_same_shape(name: str, **operands: Any) -> None:
    """Raises ShapeError where two tensors differ in shape, with their roles and shapes."""
    (role, first), (other, second) = operands.items()
    check(
        first.shape == second.shape,
        f"{name} takes {role} and {other} of one shape, found {{}} and {{}}",
        shape_text(first.shape), shape_text(second.shape),
        remedy=f"bring the {other} to the shape of the {role}: {{0}}",
    )  # fmt: skip


def check_broadcast(name: str, **operands: Any) -> None:
    """Raises ShapeError where the operands do not broadcast, with their roles and shapes."""
    try:
        broadcast_shapes(*(operand.shape for operand in operands.values()))
    except ShapeError as error:
        listed = ", ".join(f"{role} {shape_text(operand.shape)}" for role, operand in operands.items())
        raise ShapeError(f"the operands of {name} do not broadcast: {listed}", remedy=error.remedy) from error


def check_floating(name: str, **operands: Any) -> None:
    """Raises ShapeError where an operand has no floating-point dtype."""
    for role, operand in operands.items():
        check(
            operand.dtype.is_floating_point,
            f"{name} needs a floating-point {role}, found {{}}",
            operand.dtype,
            remedy=f"convert the {role}, as in y.float()",
        )


__all__ = [
    "MEAN",
    "NONE",
    "SUM",
    "check_broadcast",
    "check_floating",
    "check_reduction",
    "check_same_shape",
    "once_asked",
    "position_of",
    "reduced_loss",
    "spelled",
    "spelled_natively",
]
