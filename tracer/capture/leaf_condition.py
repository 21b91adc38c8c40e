"""When a module's call may be one node of the graph: while calling it does what its class does, and no longer.

A leaf is a shortcut for tracing the module through. Its node says "this class, with the attributes and tensors that the
module had before the forward", and that is what is lowered later. So a call is a leaf only while all of that is true:
its class is one that an op covers, with the forward, the methods that the forward reaches and the calling protocol
that torch wrote; the module replaces none of them; no hook acts, of its own or of all modules; what its forward reads
is what it was; its tensors are registered, and were not written. Everything else is traced through.
"""

from __future__ import annotations

import builtins
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from operator import is_
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from passes.modules.lazy import initialising_hook
from passes.ops.op import MODULES
from passes.torch_private import HOOKS_OF_ALL
from tracer.capture.values.packed_sequences import given_packed
from tracer.capture.values.tensor import TracedTensor

# What torch does around every forward, and where it does it.
_PROTOCOL: dict[str, type] = {
    "__call__": nn.Module,
    "_wrapped_call_impl": nn.Module,
    "_call_impl": nn.Module,
    "_slow_forward": nn.Module,
    "__getattr__": nn.Module,
    "__getattribute__": object,
}
# Where the calls of a module begin, a lazy one's first call too.
_ENTRIES = ("forward", "initialize_parameters", "_infer_parameters")
_TENSOR_TYPES = frozenset({torch.Tensor, nn.Parameter, nn.UninitializedParameter, nn.UninitializedBuffer, type(None)})
_SCALARS = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device})
# What most attributes of a module are, and what is no tensor and no list of tensors.
_WITHOUT_TENSORS = _SCALARS | {tuple, dict, set, OrderedDict}
# Attributes that make a forward write: the statistics of a norm in training, the rows that an embedding looks up.
_WRITING = ("training", "max_norm")
_ABSENT = object()
_type = type  # Python's own, also while a forward is traced

# What a call must find a module to be; None for one whose calls are no leaves.
Noted = list[Any] | None


@dataclass(frozen=True, slots=True)
class OwnCall:
    """What calling a module of a class consists of: methods by name, and the names of what those read of the module.

    `writing` are those of `reads` that make a forward write.
    """

    methods: dict[str, FunctionType]
    replaceable: frozenset[str]
    reads: tuple[str, ...]
    writing: tuple[str, ...]

    def is_that_of(self, module: nn.Module) -> bool:
        """Whether the module replaces none of these methods, and its class has them still."""
        return self.replaceable.isdisjoint(module.__dict__) and all(
            map(is_, map(getattr, repeat(_type(module)), self.methods), self.methods.values())
        )


class LeafCondition:
    """Whether a call may be a leaf, for one trace of one model (see the module's docstring).

    `written` says of tensors of the model whether the forward has written to one of them so far.
    """

    def __init__(self, written: Callable[[list[torch.Tensor]], bool]):
        self._written = written
        self._protocol_is_torchs = all(_is_torchs(holder, name) for name, holder in _PROTOCOL.items())
        self._calls: dict[type[nn.Module], OwnCall | None] = {}
        self._states: dict[int, Noted] = {}

    def note(self, module: nn.Module) -> None:
        """Notes what the module is now, as what its calls must find it."""
        call = self._call_of(_type(module))
        if call is None or module._forward_hooks or not _only_initialises(module) or not _is_plain(module):
            self._states[id(module)] = None
        else:
            self._states[id(module)] = _state(module, call)

    def noted(self, module: nn.Module) -> Noted:
        return self._states.get(id(module))

    def settled(self, module: nn.Module) -> Noted:
        """Notes that a module has been given its sizes, which leaves it as plain as it was; what it was noted as."""
        before, call = self.noted(module), self._call_of(_type(module))
        self._states[id(module)] = _state(module, call) if call is not None and before is not None else None
        return before

    def put_back(self, module: nn.Module, noted: Noted) -> None:
        self._states[id(module)] = noted

    def holds(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call of the module does what its class does."""
        kind, own = _type(module), module.__dict__
        call, before = self._calls.get(kind), self._states.get(id(module))
        if call is None or before is None or any(HOOKS_OF_ALL) or not _takes_tensors(kind, args, kwargs):
            return False
        for name in call.writing:
            if own.get(name):
                return False
        return (
            not module._forward_hooks
            and _only_initialises(module)
            and call.is_that_of(module)
            and _unchanged(before, _state(module, call))
            and not self._written(_tensors(module))
        )

    def initialises_as_its_class(self, module: nn.Module) -> bool:
        """Whether the methods of a module, and how it initialises itself, are those of a covered class."""
        call = self._call_of(_type(module))
        return call is not None and call.is_that_of(module)

    def _call_of(self, kind: type[nn.Module]) -> OwnCall | None:
        if kind not in self._calls:
            self._calls[kind] = _own_call(kind) if self._protocol_is_torchs else None
        return self._calls[kind]


def _own_call(kind: type[nn.Module]) -> OwnCall | None:
    """What a call of a covered class consists of; None where it is not covered, or does it in another way."""
    base = next((base for base in kind.__mro__ if base in MODULES), None)
    if base is None or any(_found(kind, name)[0] is not holder for name, holder in _PROTOCOL.items()):
        return None
    methods: dict[str, FunctionType] = {}
    reads: dict[str, None] = {}
    known: list[dict[str, Any]] = [vars(builtins)]  # where a name is a global, and nothing of the module
    waiting = [name for name in _ENTRIES if hasattr(base, name)]
    while waiting:
        name = waiting.pop()
        if name in methods or name in reads:
            continue
        holder, found = _found(base, name)
        inherited = found if kind is base else _found(kind, name)[1]
        if found is not inherited and (found is not _ABSENT or hasattr(type(inherited), "__get__")):
            return None
        if type(found) is not FunctionType or holder in (nn.Module, object):
            if not any(name in names for names in known):
                reads[name] = None
        elif holder is not None and _is_torchs(holder, name):
            methods[name] = found
            if not any(found.__globals__ is names for names in known):
                known.append(found.__globals__)
            waiting.extend(found.__code__.co_names)
        else:
            return None
    writing = tuple(name for name in _WRITING if name in reads)
    return OwnCall(methods, frozenset({*methods, *_PROTOCOL}), tuple(reads), writing)


def _found(kind: type, name: str) -> tuple[type | None, Any]:
    """An attribute as it is in the class that has it, and that class."""
    for base in kind.__mro__:
        own = base.__dict__
        if name in own:
            return base, own[name]
    return None, _ABSENT


def _is_torchs(holder: type, name: str) -> bool:
    """Whether a method of a class was written there, and not put in its place."""
    found = vars(holder)[name]
    if type(found) is not FunctionType:
        return holder is object
    named = found.__qualname__ == f"{holder.__qualname__}.{name}" or (name, found.__name__) == _CALL
    return named and found.__globals__ is vars(sys.modules[holder.__module__])


_CALL = ("__call__", "_wrapped_call_impl")  # the one method that torch gives two names


def _is_plain(module: nn.Module) -> bool:
    """Whether the module's tensors, and those of its parts, are registered, and of torch's own types."""
    own = module.__dict__
    for value in own.values():
        kind = _type(value)
        if kind in _WITHOUT_TENSORS:
            continue
        if issubclass(kind, torch.Tensor):
            return False
        if kind is list and any(issubclass(_type(item), torch.Tensor) for item in value):
            registered = {id(tensor) for tensor in own["_parameters"].values()}
            if any(issubclass(_type(item), torch.Tensor) and id(item) not in registered for item in value):
                return False
    if not _TENSOR_TYPES.issuperset(map(_type, _tensors(module))):
        return False
    if not module._modules:
        return True
    parts = [part for part in module._modules.values() if part is not None]
    return all(_own_call(_type(part)) is not None and _is_plain(part) for part in parts)


def _state(module: nn.Module, call: OwnCall) -> list[Any]:
    """What a call of the module reads of it."""
    own = module.__dict__
    state = [tuple(value) if _type(value) is list else value for value in map(own.get, call.reads, repeat(_ABSENT))]
    state += module._parameters.values()
    state += module._buffers.values()
    if module._modules:
        state += module._modules.values()
        for part in module._modules.values():
            state += _tensors(part)
    return state


def _tensors(module: nn.Module | None) -> list[Any]:
    """The tensors of a module and its parts."""
    if module is None:
        return []
    found = [*module._parameters.values(), *module._buffers.values()]
    if module._modules:
        for part in module._modules.values():
            found += _tensors(part)
    return found


def _unchanged(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and (
        all(map(is_, before, now)) or all(old is new or _equal(old, new) for old, new in zip(before, now, strict=True))
    )


def _equal(old: Any, new: Any) -> bool:
    """Whether two values that are no tensors are the same; numbers that come from shapes are asked nothing."""
    kind = _type(old)
    if kind is not _type(new):
        return False
    if kind in (tuple, torch.Size):
        return _unchanged(list(old), list(new))
    return kind in _SCALARS and bool(old == new)


def _only_initialises(module: nn.Module) -> bool:
    """Whether no forward pre-hook acts but that of torch's lazy modules."""
    hooks = module._forward_pre_hooks
    if not hooks:
        return True
    return len(hooks) == 1 and isinstance(module, LazyModuleMixin) and initialising_hook(module) in hooks


def _takes_tensors(kind: type[nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call gives what the forward computes with, its first argument, as a tensor; or as a packed sequence,
    where it computes with such."""
    if issubclass(kind, nn.RNNBase) and given_packed(args, kwargs) is not None:
        return True
    first = args[0] if args else next(iter(kwargs.values()), _ABSENT)
    return first is _ABSENT or _type(first) is TracedTensor or isinstance(first, torch.Tensor)
