"""The sample as it was given: where its sizes are special (0, 1), and where `dynamic_shapes` says which are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from tests.ops.oracle import Call
from tracer import InputError

ONE = torch.randn(2, 1, 4)
EMPTY = torch.randn(2, 0, 4)

# What a size of 1 changes: the sample must be refused, naming the guard, since the file would be of another model.
SPECIAL_AT_ONE: dict[str, Callable[[torch.Tensor], Any]] = {
    "squeeze of the axis": lambda x: x.squeeze(1),
    "squeeze": lambda x: x.squeeze(),
    "squeeze of axes": lambda x: x.squeeze((0, 1)),
    "broadcast": lambda x: x + torch.ones(2, 1),
    "expand": lambda x: x.expand(2, 2, 4),
    "a branch": lambda x: x.relu() if x.shape[1] == 1 else x,
    "a product": lambda x: torch.einsum("abc,dbc->ad", x, torch.ones(3, 2, 4)),
    "statistics": lambda x: F.batch_norm(x.transpose(0, 1)[:, :, :1], None, None, training=True),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", SPECIAL_AT_ONE)
def test_a_sample_that_a_guard_excludes_is_refused(name: str, verify: bool) -> None:
    with pytest.raises(InputError, match="the sample has N = 1, but the model was followed at N = 2"):
        tracer.convert(Call(SPECIAL_AT_ONE[name]), (ONE,), dynamic_shapes=({1: "N"},), verify=verify)


@pytest.mark.parametrize("work", [tracer.inspect, tracer.resolve])
def test_so_is_it_where_nothing_is_exported(work: Callable[..., Any]) -> None:
    model = nn.Sequential(Call(lambda x: x.squeeze(1)), nn.LazyLinear(3))
    with pytest.raises(InputError, match="needs N != 1"):
        work(model, (ONE,), dynamic_shapes=({1: "N"},))
    work(model, (ONE,))


# What a size of 1 or 0 does not change: verified at it.
ORDINARY: dict[str, Callable[[torch.Tensor], Any]] = {
    "elementwise": lambda x: x * 2 + 1,
    "sum": lambda x: x.sum(1),
    "softmax": lambda x: x.softmax(1),
    "reshape": lambda x: x.transpose(0, 1).flatten(1),
    "linear": lambda x: F.linear(x, torch.ones(3, 4)),
    "cat": lambda x: torch.cat([x, x[:, :1]], 2) if x.shape[1] else x,
}


@pytest.mark.parametrize("name", ["elementwise", "sum", "softmax", "reshape", "linear"])
@pytest.mark.parametrize("sample", [ONE, EMPTY], ids=["one", "empty"])
def test_a_sample_of_a_special_size_is_verified(name: str, sample: torch.Tensor) -> None:
    conversion = tracer.convert(Call(ORDINARY[name]), (sample,), dynamic_shapes=({1: "N"},))
    assert conversion.verification is not None
    assert {"N": sample.shape[1]} in [comparison.sizes for comparison in conversion.verification.comparisons]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.max(1).values,
        lambda x: x.amax(1),
        lambda x: x.argmin(1),
        lambda x: x[:, 0],
        lambda x: x[:, :1] + torch.ones(2, 1, 4),
        lambda x: x.narrow(1, 0, 1),
        lambda x: x.relu() if x.shape[1] > 0 else x,
    ],
)
def test_a_bound_that_an_empty_sample_breaks_is_told(function: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"the sample has N = 0, .* needs N >= 1"):
        tracer.convert(Call(function), (EMPTY,), dynamic_shapes=({1: "N"},), verify=False)


def test_a_sample_elsewhere_than_dims_says_is_held_against_the_guards_too() -> None:
    sample = torch.randn(6, 4)
    verified = tracer.convert(Call(lambda x: x + 1), (sample,), dynamic_shapes=({0: "N"},), dims={"N": 3}).verification
    assert verified is not None
    assert [comparison.sizes for comparison in verified.comparisons][:2] == [{"N": 3}, {"N": 6}]
    with pytest.raises(InputError, match=r"the sample has N = 6, .* needs N <= 4"):
        tracer.convert(
            Call(lambda x: x if x.shape[0] <= 4 else -x), (sample,), dynamic_shapes=({0: "N"},), dims={"N": 3}
        )


class Three(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        total = a.sum() + b.sum()
        return total if c is None else total + c.sum()


A, B, C = torch.ones(2, 3), torch.ones(4, 5), torch.ones(6, 7)
NAMED = {"a": "float32[A, 3]", "b": "float32[4, B]", "c": "float32[6, 7]"}


@pytest.mark.parametrize(
    ("args", "kwargs", "shapes"),
    [
        ((A, B, C), {}, ({0: "A"}, {1: "B"}, None)),
        ((A,), {"b": B, "c": C}, ({0: "A"}, {1: "B"}, None)),
        ((A,), {"c": C, "b": B}, ({0: "A"}, {1: "B"}, None)),
        ((), {"c": C, "b": B, "a": A}, [("A", None), (None, "B"), {}]),
        ((), {"b": B, "c": C, "a": A}, {"b": {1: "B"}, "a": {0: "A"}}),
    ],
)
def test_a_sequence_follows_the_signature(args: Any, kwargs: Any, shapes: Any) -> None:
    report = tracer.inspect(Three(), args, kwargs, dynamic_shapes=shapes)
    assert report.inputs == NAMED


def test_a_sequence_may_leave_out_what_is_not_given() -> None:
    expected = {name: NAMED[name] for name in "ab"}
    for shapes in (({0: "A"}, {1: "B"}), ({0: "A"}, {1: "B"}, None)):
        assert tracer.inspect(Three(), (), {"b": B, "a": A}, dynamic_shapes=shapes).inputs == expected
    with pytest.raises(InputError, match=r"4 entries, but the sample has 2 inputs") as error:
        tracer.inspect(Three(), (), {"b": B, "a": A}, dynamic_shapes=[None] * 4)
    assert error.value.remedy == "give one entry per input, in this order: a, b"


def test_names_of_the_file_are_understood() -> None:
    shapes = {"second": {1: "B"}, "first": {0: "A"}}
    names = {"input_names": ["first", "second"], "verify": False}
    conversion = tracer.convert(Three(), (A, B), dynamic_shapes=shapes, **names)
    dims = [
        [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in conversion.lowered.proto.graph.input
    ]
    assert dims == [["A", 3], [4, "B"]]
    with pytest.raises(InputError, match="names 'third', but the inputs are a, b, in the file first, second"):
        tracer.convert(Three(), (A, B), dynamic_shapes={"third": {0: "N"}}, **names)


def test_names_of_the_file_reach_nested_tensors() -> None:
    model = Call(lambda pair: pair[0] + pair[1])
    shapes = {"right": {0: "N"}, "left": {0: "N"}}
    conversion = tracer.convert(model, ((A, A),), input_names=["left", "right"], dynamic_shapes=shapes)
    assert conversion.report.sampled == {"N": 2}


@pytest.mark.parametrize("work", [tracer.inspect, tracer.resolve, tracer.convert, tracer.draw])
@pytest.mark.parametrize(
    ("axes", "spelled"),
    [
        ({"a": {0: "batch"}, "out": {0: "batch"}}, "{'a': {0: 'batch'}}"),
        ({"a": [0, 1]}, "{'a': {0: 'a_dim_0', 1: 'a_dim_1'}}"),
        ({"b": {1: "batch size"}}, "{'b': {1: 'batch_size'}}"),
        ({"image": {0: "N"}, "output": {0: "N"}}, "{'image': {0: 'N'}}"),
        (None, '{"a": {0: "N"}}'),
    ],
)
def test_the_older_spelling_is_answered_with_the_new_one(work: Callable[..., Any], axes: Any, spelled: str) -> None:
    with pytest.raises(InputError, match="dynamic_axes is not taken") as error:
        work(Three(), (A, B), dynamic_axes=axes)
    assert error.value.remedy == f"write dynamic_shapes={spelled}"


@pytest.mark.parametrize("shapes", [3, "N", {"a": 3}, {"a": "N"}, ({"rows": "N"}, None)])
def test_what_is_no_description_of_axes_is_an_input_error(shapes: Any) -> None:
    with pytest.raises(InputError, match="dynamic_shapes"):
        tracer.inspect(Three(), (A, B), dynamic_shapes=shapes)
