"""Errors of propagation: the caller's own are named, a rule's are not hidden."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn
from torch.nn import functional as F

import tracer
from passes.ops.linear import linear
from passes.values.spec import TensorSpec
from tests.ops.oracle import Call


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.MaxPool2d("3"), r"torch refuses MaxPool2d: max_pool2d\(\): argument 'kernel_size'"),
        (nn.LazyBatchNorm2d(eps="1"), "torch refuses LazyBatchNorm2d: '<' not supported"),
        (Call(lambda x: F.max_pool2d(x, "3")), r"test_shape_propagation\.py.*torch refuses max_pool2d"),
    ],
)
def test_an_argument_of_a_wrong_type_is_the_callers_error(model: nn.Module, message: str) -> None:
    with pytest.raises(tracer.ShapeError, match=message):
        tracer.inspect(model, tracer.spec("N", 4, 8, 8))


@pytest.mark.parametrize("width", ["abc", 2.5, -3, True])
def test_a_lazy_layer_whose_sizes_are_no_whole_numbers_is_named(width: Any) -> None:
    for layer in (nn.LazyLinear(width), nn.LazyConv2d(width, 1)):
        with pytest.raises(tracer.LazyResolutionError, match=rf"0\.weight would have the shape \[{width!r}, 4"):
            tracer.inspect(nn.Sequential(layer), tracer.spec("N", 4, 8, 4))


def test_a_bug_in_a_rule_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(call: Any) -> TensorSpec:
        raise TypeError("a bug")

    broken.__code__ = broken.__code__.replace(co_filename=linear.shape_rule.__code__.co_filename)  # type: ignore[union-attr]
    monkeypatch.setattr(linear, "shape_rule", broken)
    with pytest.raises(tracer.InternalError, match="a bug"):
        tracer.inspect(nn.Linear(4, 3), tracer.spec("N", 4))
