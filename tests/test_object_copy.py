"""Attributes of every sort: the copy is complete, or its use is refused by name."""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import tracer
from passes.isolation.model_copy import ModelCopy, copy_model
from tracer import spec

Pair = namedtuple("Pair", "left right")
SOURCE = open(__file__)  # noqa: SIM115


@dataclass(slots=True)
class Slotted:
    model: Any
    seen: list[Any] = field(default_factory=list)


class Held:
    """An object with a way back to the model, and something that cannot be copied beside it."""

    def __init__(self, model: nn.Module):
        self.model, self.lock, self.seen = model, threading.RLock(), []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        with self.lock:
            self.seen.append(x)
            return self.model.fc(x)


class Net(nn.Module):
    """Reaches its own layer through the attribute `way`."""

    def __init__(self, make: Callable[[Any], Any]):
        super().__init__()
        self.fc, self.steps, self.log = nn.LazyLinear(3), 0, []
        object.__setattr__(self, "way", make(self))  # a module among them is not registered

    def called(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        self.log.append(x)
        return self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        way: Any = self.way
        while not callable(way):
            way = next(iter(way.values() if isinstance(way, dict) else way))
        found = way(x) if not isinstance(way, weakref.ref) else way().called(x)
        assert isinstance(found, torch.Tensor)
        return found


def nested(model: Net) -> Any:
    count = [0]

    def inner(x: torch.Tensor, store: list[Any] = []) -> torch.Tensor:  # noqa: B006
        store.append(x)
        count[0] += 1
        return model.called(x) if count[0] < 5 else inner(x)

    return inner


WAYS: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda model: lambda x: model.called(x),
    "nested function": nested,
    "bound method": lambda model: model.called,
    "method type": lambda model: types.MethodType(lambda self, x: self.called(x), model),
    "partial": lambda model: functools.partial(Net.called, model),
    "partial of a method": lambda model: functools.partial(model.called),
    "weak reference": weakref.ref,
    "weak method": lambda model: [weakref.proxy(model).called],
    "list with a lock": lambda model: [model.called, threading.Lock()],
    "dict with a file": lambda model: {"f": model.called, "log": SOURCE},
    "ordered": lambda model: OrderedDict(f=model.called),
    "default dict": lambda model: defaultdict(list, f=model.called),
    "deque": lambda model: deque([model.called], maxlen=3),
    "tuple": lambda model: (model.called, {"deeper": [model]}),
    "named tuple": lambda model: Pair(model.called, 3),
    "set": lambda model: {model.called},
    "frozen set": lambda model: frozenset({model.called}),
    "mapping": lambda model: dict(types.MappingProxyType({"f": model.called})),
    "object": Held,
    "slots": lambda model: [Slotted(model).model.called],
    "method of a list": lambda model: [lambda x: (model.log.append(x), model.called(x))[1]],
    "cached": lambda model: functools.partial(lambda f, x: f().called(x), functools.lru_cache(lambda: model)),
    "cell that is empty": lambda model: [lambda x: model.called(x) if model is not None else never],  # noqa: F821
}


@pytest.mark.parametrize("name", WAYS)
def test_every_way_back_to_the_model_leads_to_the_copy(name: str) -> None:
    model = Net(WAYS[name])
    before = {key: repr(value) for key, value in model.__dict__.items()}
    conversion = tracer.convert(model, spec(2, 4), seed=0)
    assert (model.steps, model.log) == (0, [])
    assert {key: repr(value) for key, value in model.__dict__.items()} == before
    assert isinstance(model.fc.weight, nn.UninitializedParameter)
    assert getattr(model.way, "seen", []) == []
    module: Any = conversion.module
    assert module(torch.ones(2, 4)).shape == (2, 3)
    assert (model.steps, model.log) == (0, [])


UNCOPIED: dict[str, Callable[[Any], Any]] = {
    "generator": lambda model: (x for x in [model.called]),
    "file": lambda model: SOURCE,
}


@pytest.mark.parametrize("name", UNCOPIED)
def test_what_cannot_be_copied_is_refused_by_name_where_it_is_used(name: str) -> None:
    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.source, self.used = nn.LazyLinear(3), UNCOPIED[name](self), True

        called = forward = lambda self, x: self.fc(x) + len(str(next(self.source))) if self.used else self.fc(x)

    model = Uses()
    with pytest.raises(tracer.CaptureError, match=rf"source holds a .*{'generator' if name == 'generator' else 'io'}"):
        tracer.inspect(model, spec(2, 4))
    next(model.source)  # is where it was
    model.used = False
    assert tracer.resolve(model, spec(2, 4)).source is model.source


def test_what_leads_nowhere_is_the_same_object() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.functions = [torch.relu, nn.functional.gelu, copy_model, len, Slotted, lambda x: x, threading]
            self.method, self.of_class, self.enum = [].append, Plain.of, torch.float32

        @classmethod
        def of(cls) -> None: ...

    model = Plain()
    copied: Any = copy_model(model)
    assert all(left is right for left, right in zip(copied.functions, model.functions, strict=True))
    assert copied.of_class == model.of_class
    assert copied.method.__self__ is not model.method.__self__


def test_tensors_and_modules_in_containers_share_memory_with_the_originals() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.rows = [self.weight, self.weight.detach()[1:], torch.ones(2)]
            self.hidden = [nn.Linear(2, 2)]
            self.generator = torch.Generator().manual_seed(4)

    model = Holder()
    copied: Any = copy_model(model)
    assert copied.rows[0] is copied.weight
    assert copied.weight is not model.weight
    for left, right in zip([*copied.rows, copied.hidden[0].weight], [*model.rows, model.hidden[0].weight], strict=True):
        assert left.data_ptr() == right.data_ptr()
    assert copied.hidden[0] is not model.hidden[0]
    torch.rand(2, generator=copied.generator)
    assert torch.equal(model.generator.get_state(), torch.Generator().manual_seed(4).get_state())
    settled: Any = ModelCopy(model).settled()
    assert settled.weight is model.weight
    assert settled.rows[0] is model.weight
    assert settled.rows[1].data_ptr() == model.rows[1].data_ptr()
    assert settled.rows[2].data_ptr() != model.rows[2].data_ptr()


class Cache:
    def __init__(self, **held: Any) -> None:
        self.seen: list[Any] = []
        self.__dict__.update(held)

    def update(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return torch.cat(self.seen, -1)


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(3)

    def forward(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
        return self.fc(cache.update(x))


def test_an_object_given_as_argument_is_another_one_in_each_run() -> None:
    cache = Cache(lock=threading.Lock(), nested={"a": [1]})
    conversion = tracer.convert(Cached(), (spec("N", 4), cache), seed=0)
    assert conversion.verification is not None
    assert cache.seen == []


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        ({"state": torch.ones(2, 3)}, r"a tensor float32\[2, 3\]"),
        ({"state": [{"deep": (torch.ones(2),)}]}, r"a tensor float32\[2\]"),
        ({"state": Cache(inner=Cache(x=torch.ones(2)))}, r"a tensor float32\[2\]"),
        ({"state": nn.Linear(2, 2)}, "the module Linear"),
        ({"state": functools.partial(print, torch.ones(1))}, r"a tensor float32\[1\]"),
    ],
)
def test_a_tensor_inside_an_object_is_refused_by_name(held: Any, kind: str) -> None:
    with pytest.raises(tracer.InputError, match=rf"cache holds {kind} inside an object"):
        tracer.convert(Cached(), (spec(2, 4), Cache(**held)), seed=0)
    with pytest.raises(tracer.InputError, match=r"cache_a_0 holds"):
        tracer.inspect(Cached(), (spec(2, 4), {"a": [Cache(**held)]}))
