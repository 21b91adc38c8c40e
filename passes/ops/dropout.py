"""Dropout and identity: in eval mode a dropout's result is its input.

A functional dropout whose `training` is left at its default drops in eval mode, too: it draws random numbers, and is
refused as whatever draws them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.op import Op
from passes.ops.random_numbers import refuse
from passes.ops.record import Record, T
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class Identity(Record[T]):
    input: T


identity = Op("identity", Identity, view=True)


@dataclass(frozen=True, slots=True)
class Dropout(Record[T]):
    input: T
    p: float = 0.5
    training: bool = True


dropout = Op("dropout", Dropout, functions=(F.dropout, F.dropout2d, F.dropout3d), random=True, view=True)


dropout1d = Op("dropout1d", Dropout, functions=(F.dropout1d,), random=True, view=True)


@identity.module(nn.Identity)
def bind_identity(module: nn.Identity, input: Any) -> Mapping[str, Any]:
    return {"input": input}


@dropout.module(nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
@dropout1d.module(nn.Dropout1d)
def bind_dropout(module: Any, input: Any) -> Mapping[str, Any]:
    return {"input": input, "p": module.p, "training": False}


@dropout.function(F.alpha_dropout, F.feature_alpha_dropout)
def bind_alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Mapping[str, Any]:
    return {"input": input, "p": p, "training": training}


@dropout.function(
    *(torch.dropout, torch.dropout_, torch.feature_dropout, torch.feature_dropout_),
    *(torch.alpha_dropout, torch.alpha_dropout_, torch.feature_alpha_dropout, torch.feature_alpha_dropout_),
)
def bind_builtin(input: Any, p: float, train: bool) -> Mapping[str, Any]:
    return {"input": input, "p": p, "training": train}


@identity.shape
def identity_shape(call: Identity[TensorSpec]) -> TensorSpec:
    return call.input


@dropout.shape
def dropout_shape(call: Dropout[TensorSpec]) -> TensorSpec:
    check(0 <= call.p <= 1, "a dropout probability lies between 0 and 1, found {}", call.p)
    return call.input


@dropout1d.shape
def dropout1d_shape(call: Dropout[TensorSpec]) -> TensorSpec:
    check(call.input.ndim in (2, 3), "dropout1d needs an input of 2 or 3 axes, found {}", call.input.ndim)
    return dropout_shape(call)


@identity.lower
def lower_identity(emit: Emitter, call: Identity[Value]) -> Value:
    return call.input


@dropout.lower
@dropout1d.lower
def lower_dropout(emit: Emitter, call: Dropout[Value]) -> Value:
    return refuse(emit) if call.training and call.p > 0 else call.input


DROPS_NOTHING = "Outside of training, or with a probability of 0, every element stays as it is."


@identity.identity("identity", why="The module returns what it is given.")
def is_identity(result: TensorSpec, call: Identity[TensorSpec]) -> bool:
    return True


@dropout.identity("dropout_of_none", why=DROPS_NOTHING)
@dropout1d.identity("dropout1d_of_none", why=DROPS_NOTHING)
def drops_nothing(result: TensorSpec, call: Dropout[TensorSpec]) -> bool:
    return not call.training or call.p == 0
