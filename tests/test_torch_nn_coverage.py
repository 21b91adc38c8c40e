"""What torch.nn exports is lowered directly, traced through, or left out for a reason that is written here.

A class or function of a later torch that is in none of the tables fails, and so does a line that has become untrue.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import UnsupportedOpError
from passes.ops.op import FUNCTIONS, Op, find_module
from passes.ops.random_numbers import refuse

BY_MASKS = "its forward selects rows by masks, and how many there are depends on the data"
RANDOM = "it draws random numbers, so a file could not be compared with the module"
A_BASE = "a base class or a namesake without a forward of its own"
DEVICES = "it spreads a model over devices"
TOOLS = "it is a tool of torch's own, and computes nothing"
LOW_PRECISION = "a product of scaled or grouped matrices in formats that ONNX does not have"

# Classes that are no operation: tracing goes through them to their parts.
TRACED_THROUGH = {
    "Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "Transformer", "TransformerEncoder",
    "TransformerEncoderLayer", "TransformerDecoder", "TransformerDecoderLayer", "LinearCrossEntropyLoss",
    "TripletMarginWithDistanceLoss",
}  # fmt: skip

LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(("Module", "Container", "RNNBase", "RNNCellBase"), A_BASE),
    **dict.fromkeys(("FractionalMaxPool2d", "FractionalMaxPool3d"), RANDOM),
    "DataParallel": DEVICES,
    "AdaptiveLogSoftmaxWithLoss": BY_MASKS,
}

# Functions of torch.nn.functional that call others, which are lowered.
COMPOSED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "triplet_margin_with_distance_loss": lambda x: F.triplet_margin_with_distance_loss(x, x + 1, x * 2),
    "upsample": lambda x: F.upsample(x, scale_factor=2, mode="bicubic"),
    "upsample_bilinear": lambda x: F.upsample_bilinear(x, size=(7, 9)),
    "upsample_nearest": lambda x: F.upsample_nearest(x, scale_factor=2),
}

FUNCTIONS_LEFT_OUT: dict[str, str] = {
    **{name: TOOLS for name in vars(F) if "torch_function" in name},
    **dict.fromkeys(("boolean_dispatch", "assert_int_or_pair"), TOOLS),
    **dict.fromkeys(("grouped_mm", "scaled_mm", "scaled_grouped_mm"), LOW_PRECISION),
    **{name: RANDOM for name in vars(F) if name.startswith("fractional_max_pool")},
    "gumbel_softmax": RANDOM,
}


def classes() -> dict[str, type[nn.Module]]:
    """The module classes that torch.nn exports, by name."""
    return {name: kind for name, kind in vars(nn).items() if inspect.isclass(kind) and issubclass(kind, nn.Module)}


def functions() -> dict[str, Callable[..., Any]]:
    """The functions that torch.nn.functional has, by name; what it imports from `typing` and the like are none."""
    return {
        name: function
        for name, function in vars(F).items()
        if not name.startswith("_") and inspect.isroutine(function) and function.__module__ != "typing"
    }


def is_lowered(found: tuple[Op, Any] | None) -> bool:
    return found is not None and found[0].lowering not in (None, refuse)


@pytest.mark.parametrize("name", classes())
def test_every_class_is_lowered_traced_through_or_left_out(name: str) -> None:
    lowered = is_lowered(find_module(classes()[name]))
    assert [lowered, name in TRACED_THROUGH, name in LEFT_OUT].count(True) == 1


@pytest.mark.parametrize("name", functions())
def test_every_function_is_lowered_composed_or_left_out(name: str) -> None:
    lowered = is_lowered(FUNCTIONS.get(functions()[name]))
    assert [lowered, name in COMPOSED, name in FUNCTIONS_LEFT_OUT].count(True) == 1


@pytest.mark.parametrize("table", [LEFT_OUT, dict.fromkeys(TRACED_THROUGH), FUNCTIONS_LEFT_OUT, COMPOSED])
def test_tables_name_what_exists(table: dict[str, Any]) -> None:
    assert set(table) <= {*classes(), *functions()}


class Parts(nn.Module):
    """The containers that have no forward of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])
        self.named = nn.ModuleDict({"norm": nn.LayerNorm(4)})
        self.rows = nn.ParameterList([torch.ones(4), torch.zeros(4)])
        self.scales = nn.ParameterDict({"scale": torch.ones(4)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.listed:
            x = layer(x)
        for row in self.rows:
            x = x + row
        return self.named["norm"](x) * self.scales["scale"]


def layer(kind: type[nn.Module]) -> nn.Module:
    return kind(8, 2, 16, batch_first=True)


SEQUENCE = tracer.spec("N", 5, 8)
THROUGH: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {
    "Sequential": (nn.Sequential(nn.Linear(8, 4), nn.ReLU()), (SEQUENCE,)),
    "Transformer": (nn.Transformer(8, 2, 1, 1, 16, batch_first=True), (SEQUENCE,) * 2),
    "TransformerEncoderLayer": (layer(nn.TransformerEncoderLayer), (SEQUENCE,)),
    "TransformerEncoder": (
        nn.TransformerEncoder(layer(nn.TransformerEncoderLayer), 1, enable_nested_tensor=False),
        (SEQUENCE,),
    ),
    "TransformerDecoderLayer": (layer(nn.TransformerDecoderLayer), (SEQUENCE,) * 2),
    "TransformerDecoder": (nn.TransformerDecoder(layer(nn.TransformerDecoderLayer), 1), (SEQUENCE,) * 2),
    "LinearCrossEntropyLoss": (
        nn.LinearCrossEntropyLoss(8, 3, bias=True),
        (tracer.spec("N", 8), tracer.spec("N", dtype=torch.int64)),
    ),
    "TripletMarginWithDistanceLoss": (nn.TripletMarginWithDistanceLoss(), (SEQUENCE,) * 3),
}


@pytest.mark.parametrize("name", THROUGH)
def test_what_is_traced_through_is_lowered(name: str) -> None:
    model, inputs = THROUGH[name]
    found = tracer.convert(model, inputs, route="direct")
    assert found.verification is not None


def test_containers_without_a_forward_are_traced_through() -> None:
    tracer.convert(Parts(), (tracer.spec("N", 4),), route="direct")
    assert set(THROUGH) | {"ModuleList", "ModuleDict", "ParameterList", "ParameterDict"} == TRACED_THROUGH


@pytest.mark.filterwarnings("ignore:`nn.functional.upsample:UserWarning")
@pytest.mark.parametrize("name", COMPOSED)
def test_composed_functions_are_lowered(name: str) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return COMPOSED[name](x)

    tracer.convert(Model(), (tracer.spec("N", 3, 4, 5),), route="direct")


def test_a_loss_by_masks_is_refused_by_name() -> None:
    sample = tracer.spec("N", 8), tracer.spec("N", dtype=torch.int64)
    with pytest.raises(UnsupportedOpError, match="AdaptiveLogSoftmaxWithLoss"):
        tracer.convert(nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5]), sample, route="direct")


def test_a_random_pool_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedOpError, match=r"fractional_max_pool2d at 0.*it draws random"):
        tracer.convert(nn.Sequential(nn.FractionalMaxPool2d(2, 3)), (tracer.spec("N", 3, 8, 8),), route="direct")
