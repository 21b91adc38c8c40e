"""Nothing traced outlives its trace: models that keep tables by size run as ever before, between and after."""

from __future__ import annotations

import ctypes
import functools
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from einops import rearrange, reduce, repeat
from einops.layers.torch import Rearrange
from torch import fx, nn

import tracer
from tracer import SideEffectError, TracerError, spec
from tracer.capture.values.number import TracedNumber
from tracer.capture.values.tensor import TracedTensor

TABLES: dict[Any, Any] = {}
LOG: list[Any] = []
SEEN: set[Any] = set()
TABLE: Any = None


class Keeper:
    tables: dict[Any, Any] = {}
    one: Any = None
    __slots__ = ("slot",)


KEEPER = Keeper()
KEEPER.slot = None


def forget() -> None:
    global TABLE
    TABLE = Keeper.one = KEEPER.slot = None
    for kept in (TABLES, LOG, SEEN, Keeper.tables):
        kept.clear()
    for cached in (table, twice, pair):
        cached.cache_clear()


@functools.lru_cache
def table(length: int, width: int = 4) -> torch.Tensor:
    return torch.arange(length * width).reshape(length, width).float()


@functools.cache
def twice(length: int) -> int:
    return length * 2


@functools.lru_cache(maxsize=2)
def pair(shape: tuple[int, ...], *, half: bool) -> list[Any]:
    return [torch.linspace(0, 1, shape[1]), {"n": shape[1] // (2 if half else 1)}]


class Net(nn.Module):
    def __init__(self, call: Callable[..., Any]):
        super().__init__()
        self.fc = nn.LazyLinear(4)
        self.split = Rearrange("b (t k) c -> b t k c", k=2)
        self.call = call
        self.memo: dict[Any, Any] = {}

    def forward(self, x: torch.Tensor) -> Any:
        return self.call(self, x)


def einops_functions(m: Any, x: Any) -> Any:
    y = rearrange(x, "b (h w) c -> b h w c", h=2)
    z = repeat(reduce(y, "b h w c -> b c h", "mean"), "b c h -> b c (h k)", k=3)
    return m.fc(rearrange(z, "b c h -> b (c h)"))


def einops_layer(m: Any, x: Any) -> Any:
    return m.fc(m.split(x)).sum(2)


def cached_table(m: Any, x: Any) -> Any:
    return m.fc(x) + table(x.shape[1])


def cached_number(m: Any, x: Any) -> Any:
    return m.fc(x)[:, : twice(x.shape[1]) // 2] + twice(x.shape[2])


def cached_by_shape(m: Any, x: Any) -> Any:
    steps, rest = pair(tuple(x.shape), half=True)
    return m.fc(x) * steps[:, None] + rest["n"]


def cached_by_tensor(m: Any, x: Any) -> Any:
    return m.fc(x) + twice(x)


def dict_of_module(m: Any, x: Any) -> Any:
    length = x.shape[1]
    if length not in TABLES:
        TABLES[length] = torch.arange(length).float().unsqueeze(1)
    return m.fc(x) * TABLES[length]


def dict_by_text(m: Any, x: Any) -> Any:
    key = f"positions.{x.shape[1]}"
    if key not in TABLES:
        TABLES[key] = (torch.arange(x.shape[1]).float().unsqueeze(1), [x.shape[1]])
    return m.fc(x) * TABLES[key][0]


def dict_of_own_weights(m: Any, x: Any) -> Any:
    return m.fc(x) + TABLES.setdefault(str(x.shape[1]), torch.eye(x.shape[1])[:, :4])


def global_name(m: Any, x: Any) -> Any:
    global TABLE
    if TABLE is None:
        TABLE = torch.arange(x.shape[1]).float().unsqueeze(1)
    return m.fc(x) * TABLE


def class_attributes(m: Any, x: Any) -> Any:
    length = x.shape[1]
    if length not in Keeper.tables:
        Keeper.tables[length] = torch.zeros(length), x.shape[1:]
    if Keeper.one is None:
        Keeper.one = torch.ones(length, 1)
    if KEEPER.slot is None:
        KEEPER.slot = torch.ones(length, 1)
    return m.fc(x) + Keeper.tables[length][0][:, None] + Keeper.one + KEEPER.slot


def set_of_sizes(m: Any, x: Any) -> Any:
    SEEN.add(x.shape[1])
    SEEN.add((x.shape[1], "seen"))
    return m.fc(x) * len(SEEN)


def on_the_model(m: Any, x: Any) -> Any:
    m.memo["x"] = x
    m.last = m.fc(x)
    return m.memo["x"].sum() + m.last


KEEPING = [
    einops_functions, einops_layer, cached_table, cached_number, cached_by_shape, dict_of_module, dict_by_text,
    dict_of_own_weights, global_name, class_attributes, set_of_sizes, on_the_model,
]  # fmt: skip


def names_of_the_log(m: Any, x: Any) -> Any:
    LOG.append(x)
    return m.fc(x)


def names_of_the_dict(m: Any, x: Any) -> Any:
    TABLES["last"] = {"kept": [x + 1]}
    return m.fc(x)


def names_of_the_class(m: Any, x: Any) -> Any:
    Keeper.one = x
    return m.fc(x)


def names_of_the_global(m: Any, x: Any) -> Any:
    global TABLE
    TABLE = x.relu
    return m.fc(x)


LEAKING = {
    names_of_the_log: "test_what_outlives.LOG",
    names_of_the_dict: "test_what_outlives.TABLES",
    names_of_the_class: "test_what_outlives.Keeper.one",
    names_of_the_global: "test_what_outlives.TABLE",
}


def alive() -> list[Any]:
    gc.collect(0)
    kinds = {TracedNumber, TracedTensor, fx.proxy.Attribute}
    return [thing for thing in gc.get_objects() if type(thing) in kinds]


VERBS: dict[str, Callable[..., Any]] = {
    "inspect": tracer.inspect,
    "resolve": tracer.resolve,
    "convert": lambda model, sample: tracer.convert(model, sample, verify=False),
    "why": lambda model, sample: tracer.why(model, sample, "fc"),
    "draw": tracer.draw,
}
SAMPLES = [spec("N", 6, 4), spec("N", "T", 4)]


def eager(call: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    result: torch.Tensor = Net(call).eval()(x)
    assert type(result) is torch.Tensor
    assert result.device.type == "cpu"
    return result


@pytest.mark.filterwarnings("ignore:. is fixed at")  # by what is kept under a size
@pytest.mark.parametrize(("call", "sample"), [(call, SAMPLES[place % 2]) for place, call in enumerate(KEEPING)])
def test_every_function_twice_and_the_eager_model_between(call: Callable[..., Any], sample: Any) -> None:
    forget()
    x = torch.randn(2, 6, 4)
    expected = eager(call, x)
    for function in [*VERBS.values()] * 2:
        try:
            function(Net(call), sample)
        except TracerError:  # where the keeper's size is dynamic
            assert "T" in str(sample)
        assert torch.equal(eager(call, x), expected) or call is set_of_sizes
    assert not alive()


@pytest.mark.parametrize("call", KEEPING)
def test_the_file_is_the_model(call: Callable[..., Any]) -> None:
    """At fixed sizes every keeper converts on the direct route, and is verified, each time."""
    forget()
    for verify in (False, True):
        assert tracer.convert(Net(call), spec(3, 6, 4), verify=verify).route == "direct"


@pytest.mark.parametrize("call", LEAKING)
def test_who_keeps_what_depends_on_an_input_is_named(call: Callable[..., Any]) -> None:
    forget()
    for function in (tracer.inspect, tracer.convert):
        with pytest.raises(SideEffectError) as caught:
            function(Net(call), spec(2, 6, 4))
        assert LEAKING[call] in str(caught.value)
        assert not LOG
        assert TABLE is None
        assert Keeper.one is None
    assert not alive()


def test_a_key_that_is_a_tensor_is_let_go() -> None:
    assert tracer.convert(Net(cached_by_tensor), spec("N", 6, 4)).route == "direct"
    assert not alive()


@pytest.mark.parametrize("call", [cached_table, dict_of_module, class_attributes, dict_by_text])
def test_a_failure_leaves_nothing_either(call: Callable[..., Any]) -> None:
    def fails(m: Any, x: Any) -> Any:
        return call(m, x) @ torch.zeros(3, 3)

    forget()
    for function in (tracer.inspect, tracer.convert):
        with pytest.raises(TracerError) as caught:
            function(Net(fails), spec("N", 6, 4))
        if function is tracer.inspect:
            assert not alive()  # while the error is in use
        assert caught.value is not None
    eager(call, torch.randn(2, 6, 4))


@pytest.mark.filterwarnings("ignore:.* is fixed at")
def test_a_model_that_is_followed_without_data_leaves_no_table_without_data() -> None:
    def untraceable(m: Any, x: Any) -> Any:
        return m.fc(x) + dict_of_module(m, x) + table(x.shape[1]) + ctypes.c_int(x.shape[0]).value

    class Untraced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(untraceable)

        def forward(self, x: Any) -> Any:
            return self.net(x)

    forget()
    tracer.inspect(Untraced(), spec("N", "T", 4), dims={"T": 6})
    eager(untraceable, torch.randn(2, 6, 4))
