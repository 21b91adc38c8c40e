"""Whatever the model and the arguments: no exception but a TracerError leaves the public functions.

What is known to go wrong has an error of its own; `InternalError`, the last net, is for what nobody foresaw.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import passes.stages.shape_propagation
import tracer
from tracer import InputError, InternalError, TracerError, spec
from tracer.edge.argument_kinds import BOOKKEEPING

X, IMAGE = torch.randn(2, 3), torch.randn(2, 4, 8, 8)
DYNAMIC = spec("N", 4, "H", "W")
VERBS: dict[str, Callable[..., Any]] = {
    "inspect": tracer.inspect,
    "resolve": tracer.resolve,
    "convert": tracer.convert,
    "draw": tracer.draw,
    "why": lambda model, args: tracer.why(model, args, ""),
    "compare": lambda model, args: tracer.compare(model, [args, args]),
}


class Net(nn.Module):
    """A forward, and what it finds on its module."""

    def __init__(self, function: Callable[..., Any], **parts: Any):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


def fail(*_: object, **__: object) -> Any:
    raise ValueError("of the model")


def odd_class(**overridden: Any) -> nn.Module:
    """A model whose class overrides what torch's machinery calls."""

    def build(self: nn.Module) -> None:
        nn.Module.__init__(self)
        self.layer = nn.LazyLinear(2)

    return type("Odd", (nn.Module,), {"__init__": build, "forward": lambda self, x: self.layer(x), **overridden})()


def with_modules(**modules: Any) -> nn.Module:
    """A model with entries that `add_module` would refuse."""
    model = Net(lambda self, x: x + 1)
    model._modules.update({name.replace("_dot_", "."): module for name, module in modules.items()})
    return model


def containing_itself() -> nn.Module:
    model = nn.Sequential(nn.LazyLinear(2))
    model._modules["again"] = model
    return model


def nested(depth: int) -> nn.Module:
    model: nn.Module = nn.LazyLinear(3)
    for _ in range(depth):
        model = nn.Sequential(model)
    return model


def deep(x: Any, depth: int) -> Any:
    for _ in range(depth):
        x = [x]
    return x


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError("no words")


def refusal(call: Callable[[], Any]) -> TracerError | None:
    """The error that a call ends with, if it does; any but a TracerError is raised."""
    try:
        call()
    except TracerError as error:
        return error
    return None


def changed(module: nn.Module, **attributes: Any) -> nn.Module:
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def emptied(name: str) -> nn.Module:
    """A layer with a number in the place of what torch keeps under a name in every module."""
    module = nn.LazyLinear(2)
    vars(module)[name] = 3
    return module


NAMED = ("named_modules", "named_children", "named_parameters", "_named_members", "_save_to_state_dict", "train")
METHODS = (
    "named_modules",
    "modules",
    "state_dict",
    "__repr__",
    "extra_repr",
    "__len__",
    "__bool__",
    "__iter__",
    "eval",
)
METHODS += ("__hash__", "named_parameters", "parameters", "children", "train", "get_submodule", "__deepcopy__", "to")
RESULTS: dict[str, Callable[..., Any]] = {
    "nothing": lambda self, x: None,
    "text": lambda self, x: "hi",
    "set": lambda self, x: {x},
    "generator": lambda self, x: (y for y in (x, x)),
    "self": lambda self, x: self,
    "module": lambda self, x: nn.ReLU(),
    "nested None": lambda self, x: [None, {"a": None, "b": (None, x)}],
    "empty": lambda self, x: [],
    "type": lambda self, x: int,
    "int keys": lambda self, x: {1: x, 2: x + 1},
    "mixed keys": lambda self, x: {1: x, "1": x + 1},
    "tuple keys": lambda self, x: {(1, 2): x},
    "deep": lambda self, x: deep(x, 300),
    "very deep": lambda self, x: deep(x, 2500),
    "unspeakable": lambda self, x: Unspeakable(),
    "nan": lambda self, x: math.nan,
    "its input": lambda self, x: (x, x),
}
CALLS: dict[str, tuple[Callable[..., Any], Any]] = {
    "deepcopy": (lambda self, x: copy.deepcopy(x) + 1, X),
    "deepcopy of a list": (lambda self, x: copy.deepcopy([x, 1])[0] + 1, X),
    "window of a shape": (lambda self, x: F.avg_pool2d(x, x.shape[2:]), IMAGE),
    "window of dynamic sizes": (lambda self, x: F.max_pool2d(x, x.shape[2:]), DYNAMIC),
    "dynamic stride": (lambda self, x: F.max_pool2d(x, 2, stride=x.shape[0]), DYNAMIC),
    "dynamic groups": (lambda self, x: F.group_norm(x.transpose(0, 1), x.shape[0]), DYNAMIC),
    "dynamic convolution groups": (
        lambda self, x: F.conv2d(
            x.reshape(1, -1, 8, 8), torch.ones(4, 4, 3, 3).repeat(x.shape[0], 1, 1, 1), groups=x.shape[0]
        ),
        spec("N", 4, 8, 8),
    ),
    "dynamic padding": (lambda self, x: F.conv2d(x, torch.ones(2, 4, 3, 3), padding=x.shape[0]), DYNAMIC),
    "dynamic dilation": (lambda self, x: F.conv2d(x, torch.ones(2, 4, 1, 1), dilation=x.shape[0]), DYNAMIC),
    "dynamic unfold": (lambda self, x: F.unfold(x, x.shape[0]), DYNAMIC),
    "dynamic transposed": (lambda self, x: F.conv_transpose2d(x, torch.ones(4, 2, 3, 3), stride=x.shape[0]), DYNAMIC),
    "no device": (lambda self, x: x.to("nowhere"), X),
    "no axis": (lambda self, x: x.sum("a"), X),
    "no dtype": (lambda self, x: x + "a", X),
    "step 0": (lambda self, x: x[::0], X),
    "too large": (lambda self, x: x + 1, spec(2**40, 2**40)),
    "sparse": (lambda self, x: x + 1, X.to_sparse()),
    "not initialised": (lambda self, x: x + 1, nn.UninitializedParameter()),
    "raises": (fail, X),
    "raises StopIteration": (lambda self, x: next(iter([])), X),
}
MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    **{f"{name} raises": (lambda name=name: odd_class(**{name: fail}), X) for name in METHODS},
    "named_modules lies": (lambda: odd_class(named_modules=lambda self, *_, **__: iter([])), X),
    "state_dict lies": (lambda: odd_class(state_dict=lambda self, *_, **__: 3), X),
    "equal to all": (lambda: odd_class(__eq__=lambda self, other: True, __hash__=lambda self: 1), X),
    "unhashable": (lambda: odd_class(__eq__=lambda self, other: False), X),
    "forward None": (lambda: odd_class(forward=None), X),
    "forward a number": (lambda: odd_class(forward=3), X),
    **{f"gives {name}": (lambda function=function: Net(function), X) for name, function in RESULTS.items()},
    **{name: (lambda function=function: Net(function), args) for name, (function, args) in CALLS.items()},
    "scripted": (lambda: Net(lambda self, x: self.part(x), part=torch.jit.trace(nn.Linear(3, 2), X)), X),
    "on meta": (lambda: nn.Sequential(nn.Linear(3, 2, device="meta"), nn.LazyLinear(2)), X),
    "buffer on meta": (lambda: Net(lambda self, x: x + self.part, part=torch.ones(3, device="meta")), X),
    "nested": (lambda: nested(200), X),
    "nested too deeply": (lambda: nested(1200), X),
    "contains itself": (containing_itself, X),
    "module that is none": (lambda: with_modules(part=3), X),
    "module named forward": (lambda: with_modules(forward=nn.ReLU()), X),
    "module with a dot": (lambda: with_modules(a_dot_b=nn.ReLU()), X),
    "kernel of text": (lambda: changed(nn.LazyConv2d(2, 3), kernel_size="a"), IMAGE),
    "eps of text": (lambda: changed(nn.BatchNorm2d(4), eps="a"), IMAGE),
    "no heads": (lambda: changed(nn.MultiheadAttention(4, 2), num_heads=0), (torch.randn(3, 2, 4),) * 3),
    "negative width": (lambda: changed(nn.LazyLinear(2), out_features=-1), X),
    **{f"{name} is no method": (lambda name=name: nn.Sequential(odd_class(**{name: 3})), X) for name in NAMED},
    **{f"{name} is no table": (lambda name=name: nn.Sequential(emptied(name)), X) for name in BOOKKEEPING},
    "handle of text": (lambda: changed(nn.LazyLinear(2), _load_hook="a"), X),
    "no forward": (nn.Module, X),
    "numpy": (lambda: nn.LazyLinear(2), X.numpy()),
    "set": (lambda: nn.LazyLinear(2), {1}),
    "cycle": (lambda: Net(lambda self, x: x[0]), ((lambda made: (made.append(made), made)[1])([X]),)),
}
# A class's own broken method is called deep in torch's code and ours.
FORESEEN = [name for name in MODELS if not name.endswith(" raises") and name != "equal to all"]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _limit() -> Iterator[None]:
    before = sys.getrecursionlimit()
    yield
    assert sys.getrecursionlimit() == before


# Copying modules that lie so deep in each other takes a minute.
MINUTES = {"nested too deeply"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in MINUTES else name for name in MODELS]
)
def test_whatever_the_model(name: str) -> None:
    build, args = MODELS[name]
    for verb, function in VERBS.items():
        model = build()
        told = refusal(lambda function=function, model=model: function(model, args))
        assert name not in FORESEEN or not isinstance(told, InternalError), (verb, str(told))


ARGUMENTS = (
    "kwargs",
    "dynamic_shapes",
    "dims",
    "strict",
    "passes",
    "seed",
    "weights",
    "device",
    "inplace",
    "f",
    "format",
)
ARGUMENTS += ("input_names", "output_names", "opset_version", "route", "fold_batchnorm", "verify", "metadata", "names")
WRONG = (1, -1, 2**70, 1.5, math.nan, "text", b"bytes", [1], [None], {1: 2}, {"x": 3}, object(), X, int, Unspeakable())


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_whatever_the_arguments(argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    calls: list[Callable[..., Any]] = [tracer.inspect, tracer.resolve, tracer.convert, tracer.draw]
    calls += [lambda model, args, **options: tracer.why(model, args, "", **options)]
    calls += [lambda model, args, **options: tracer.compare(model, [args], **options)]
    for function in calls:
        for value in WRONG:
            told = refusal(lambda f=function, v=value: f(nn.LazyLinear(2), X, **{argument: v}))
            assert not isinstance(told, InternalError), str(told)


@pytest.mark.parametrize("value", WRONG)
def test_whatever_is_called_a_model_or_a_file(value: Any) -> None:
    for function in (tracer.inspect, tracer.resolve, tracer.convert, tracer.draw):
        with pytest.raises(InputError):
            function(value, X)
    for call in (
        lambda: tracer.why(nn.LazyLinear(2), X, value),
        lambda: tracer.compare(nn.LazyLinear(2), value),
        lambda: tracer.refresh(value, value),
        lambda: tracer.inspect(nn.LazyLinear(2), value),
    ):
        assert not isinstance(told := refusal(call), InternalError), str(told)


@pytest.mark.parametrize("size", [-1, 1.5, math.nan, None, "1", "a b", True, X, [1]])
def test_a_spec_is_of_sizes(size: Any) -> None:
    with pytest.raises(InputError):
        spec(size)
    with pytest.raises(InputError):
        spec(1, device="nowhere")


def test_a_call_that_is_none_of_ours() -> None:
    with pytest.raises(InputError, match="unexpected keyword argument 'colour'"):
        tracer.inspect(nn.LazyLinear(2), X, colour="red")  # type: ignore[call-arg]
    with pytest.raises(InputError, match="missing a required argument"):
        tracer.convert(nn.LazyLinear(2))  # type: ignore[call-arg]


def test_a_bug_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exception is the cause; an interrupt is none of it."""

    def broken(self: Any, program: Any) -> None:
        return program.no_such_thing

    monkeypatch.setattr(passes.stages.shape_propagation.ShapePropagation, "run", broken)
    with pytest.raises(TracerError) as caught:
        tracer.inspect(nn.LazyLinear(2), X)
    assert isinstance(caught.value.__cause__, AttributeError)

    def interrupted(self: Any, program: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(passes.stages.shape_propagation.ShapePropagation, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tracer.inspect(nn.LazyLinear(2), X)


def test_an_internal_error_names_our_line_and_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    from passes.ops.op import FUNCTIONS

    monkeypatch.setattr(FUNCTIONS[F.relu][0], "shape_rule", len)
    with pytest.raises(
        InternalError, match=r"this is a bug in lazytracer: TypeError: .* at shape_propagation\.py:\d+"
    ) as caught:
        tracer.inspect(Net(lambda self, x: F.relu(x)), X)
    assert "test_odd_models.py:" in str(caught.value)
    assert isinstance(caught.value.__cause__, TypeError)
