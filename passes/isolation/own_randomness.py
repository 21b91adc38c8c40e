"""Random numbers of our own: the same ones as torch's global random state gives, from generators that no one else has.

Each operation that draws is seen before it does, and given such a generator. Another thread that draws meanwhile
neither changes our numbers nor sees its own change. `torch.manual_seed` and what else works on the global state by
name works, in this thread, on ours.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from passes.isolation.dispatch_mode import DispatchMode
from passes.isolation.torch_state import TORCH_STATE, Loan
from passes.torch_private import cpu_generator

_CPU = torch.device("cpu")


class OwnRandomness(DispatchMode):  # type: ignore[no-untyped-call]
    """Inside the block, this thread's random numbers are those after `seed`, or after the present random state."""

    def __init__(self, seed: int | None = None):
        super().__init__()
        self._seed = seed
        self._around = _stack()[-1] if _stack() else None
        self._generators: dict[torch.device, torch.Generator] = {}
        self._started: dict[torch.device, torch.Tensor] = {}
        self.generator(_CPU)

    def generator(self, device: torch.device) -> torch.Generator:
        """The one that stands for torch's own for this device."""
        if device not in self._generators:
            made = torch.Generator(device)
            if self._seed is not None:
                made.manual_seed(self._seed)
            else:
                made.set_state(_state(device, self._around))
            self._generators[device] = made
            self._started[device] = made.get_state()
        return self._generators[device]

    def moved(self) -> list[torch.device]:
        """The devices on which something was drawn."""
        return [
            device
            for device, made in self._generators.items()
            if not torch.equal(made.get_state(), self._started[device])
        ]

    def put_back(self) -> None:
        """Leaves what the numbers were taken from after them: torch's random state, or the block's around this one."""
        for device in self.moved():
            _set_state(device, self._generators[device].get_state(), self._around)

    def seen(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        way = _way_to_draw(func)
        if way is None:
            return func(*args, **kwargs)
        device = _device(args, kwargs)
        if device.type == "meta":
            return func(*args, **kwargs)
        takes, position = way
        given = args[position] if 0 <= position < len(args) else kwargs.get("generator")
        if given is not None and given._cdata != cpu_generator._cdata:  # type: ignore[attr-defined]
            return func(*args, **kwargs)  # the model has a generator of its own
        if takes is None and 0 in _dropout(func, args, kwargs):
            return func(*args, **kwargs)
        if takes is None:
            return self._drawn_in_turn(device, func, args, kwargs)
        if 0 <= position < len(args):
            args = (*args[:position], self.generator(device), *args[position + 1 :])
            return takes(*args, **kwargs)
        return takes(*args, **{**kwargs, "generator": self.generator(device)})

    def _drawn_in_turn(self, device: torch.device, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation that takes no generator: torch's own is in our state as long as it runs."""
        own = self.generator(device)
        with TORCH_STATE, Loan((), partial(_set_state, device, _state(device))):
            _set_state(device, own.get_state())
            result = func(*args, **kwargs)
            own.set_state(_state(device))
        return result


@contextmanager
def own_randomness(seed: int | None = None, *, put_back: bool = False) -> Iterator[OwnRandomness]:
    """Inside the block, random numbers are our own; with `put_back`, the random state moves on as they did."""
    own = OwnRandomness(seed)
    with own, _named(own):
        yield own
    if put_back:
        own.put_back()


@contextmanager
def own_random_state(seed: int | None = None) -> Iterator[None]:
    """Inside the block, `torch.manual_seed` and the like work on a state of our own; for what draws no real numbers."""
    with _named(OwnRandomness(seed)):
        yield


@contextmanager
def python_randomness_kept() -> Iterator[None]:
    """After the block, the random states of Python and numpy are what they were."""
    with Loan((), partial(_set_python_state, random.getstate(), np.random.get_state())):
        yield


def python_random_state() -> tuple[Any, Any]:
    """The random states of Python and numpy, to compare (`moved_on`)."""
    return random.getstate(), np.random.get_state()


def moved_on(before: tuple[Any, Any]) -> bool:
    """Whether something was drawn from Python's or numpy's random state since."""
    return random.getstate() != before[0] or not _same_state(np.random.get_state(), before[1])


def _set_python_state(pythons: Any, numpys: Any) -> None:
    if random.getstate() != pythons:
        random.setstate(pythons)
    if not _same_state(np.random.get_state(), numpys):
        np.random.set_state(numpys)


def _same_state(left: Any, right: Any) -> bool:
    return left[2:] == right[2:] and np.array_equal(left[1], right[1])


def _dropout(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The probability with which an attention or a recurrent layer drops, where it has one."""
    return [
        args[position] if position < len(args) else kwargs.get(argument.name, argument.default_value)
        for position, argument in enumerate(func._schema.arguments)
        if argument.name in ("dropout_p", "dropout")
    ]


def _device(args: Any, kwargs: Any) -> torch.device:
    device = kwargs.get("device")
    if device is None:
        tensor = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
        return _CPU if tensor is None else _indexed(tensor.device)
    return _indexed(torch.device(device))


def _indexed(device: torch.device) -> torch.device:
    if device.type in ("cpu", "meta"):
        return torch.device(device.type)
    if device.index is None:
        return torch.device(device.type, torch.get_device_module(device).current_device())  # type: ignore[unreachable]
    return device


@cache
def _way_to_draw(func: Any) -> tuple[Any, int] | None:
    """The operation that does the same with a generator, and where it takes that (-1: by name); None for the operation
    where there is none, and altogether for one that does not draw."""
    names = [argument.name for argument in func._schema.arguments]
    if "generator" in names:
        return func, names.index("generator")
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return None
    described = _described(func)
    for overload in func.overloadpacket.overloads():
        other = getattr(func.overloadpacket, overload)
        if _described(other) == described and other is not func:
            return other, -1
    return None, -1


def _described(func: Any) -> tuple[Any, ...]:
    """An operation's arguments and results, but for the generator."""
    arguments = [(a.name, str(a.type)) for a in func._schema.arguments if a.name != "generator"]
    return (arguments, [str(result.type) for result in func._schema.returns])


# The random state by name -----------------------------------------------------------------------------


class _ThreadsGenerator:
    """What `torch.random` takes for torch's generator: this thread's."""

    def __init__(self, genuine: torch.Generator):
        self._genuine = genuine

    def __getattr__(self, name: str) -> Any:
        stack = _stack()
        return getattr(stack[-1].generator(_CPU) if stack else self._genuine, name)


_at_work = threading.local()


def _stack() -> list[OwnRandomness]:
    if not hasattr(_at_work, "stack"):
        _at_work.stack = []
    found: list[OwnRandomness] = _at_work.stack
    return found


@contextmanager
def _named(own: OwnRandomness) -> Iterator[None]:
    stack = _stack()
    with Loan([(torch.random, "default_generator")], partial(stack.__delitem__, slice(len(stack), None))):
        setattr(torch.random, "default_generator", _ThreadsGenerator(cpu_generator))  # noqa: B010
        stack.append(own)
        yield


def _state(device: torch.device, own: OwnRandomness | None = None) -> torch.Tensor:
    """The random state of torch itself, or of what stands for it."""
    if own is not None:
        return own.generator(device).get_state()
    if device.type == "cpu":
        return cpu_generator.get_state()
    state: torch.Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def _set_state(device: torch.device, state: torch.Tensor, own: OwnRandomness | None = None) -> None:
    if own is not None:
        own.generator(device).set_state(state)
    elif device.type == "cpu":
        cpu_generator.set_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)
