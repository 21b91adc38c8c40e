"""Whole copies of Python objects: what `copy.deepcopy` leaves shared is copied too.

A function that closes over an object, a method bound to one, a weak reference to one: each leads back to the
original, so that what the copy does would reach it. Locks become locks that are free. What cannot be copied (an open
file, a generator, a process group) does not keep what holds it from being copied: an `Uncopied` stands in its place
and refuses to be used.
"""

from __future__ import annotations

import copy
import functools
import sys
import threading
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from passes.errors import CaptureError, TracerError
from passes.torch_private import WrappedHook

_ATOMS = frozenset(
    {
        int, float, complex, bool, str, bytes, type(None), type(...), type(NotImplemented), range, slice,
        torch.dtype, torch.device, torch.Size, torch.memory_format, torch.layout, torch.Stream, torch.Event,
        torch.jit.ScriptFunction,
        types.ModuleType, types.CodeType, types.GenericAlias, types.UnionType, property,
    }
)  # fmt: skip


class Uncopied:
    """In place of an object that cannot be copied; whatever is done with it is refused, by name."""

    __slots__ = ("_original", "_refusal")

    def __init__(self, original: Any, where: str, reason: str):
        self._original = original
        self._refusal = (
            f"{where} holds a {type(original).__module__}.{type(original).__qualname__}, which cannot be copied "
            f"({reason}), so that the forward would use the model's own"
        )

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise CaptureError(self._refusal, remedy="keep it out of the forward, or give its class a __deepcopy__")

    __getattr__ = __call__ = __iter__ = __next__ = __len__ = __contains__ = __getitem__ = __setitem__ = _refuse
    __enter__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __float__ = __int__ = __index__ = _refuse

    def __exit__(self, *_: Any) -> None:
        self._refuse()

    def __bool__(self) -> bool:
        return bool(self._original)


class ObjectCopier:
    """Copies objects, each once: `memo` has the copies by the originals' ids, as in `copy.deepcopy`.

    `tensor` and `module` copy those; `where` names what is being copied, for those who use an object that cannot be.
    An `Uncopied` that is met is kept, or, with `restores`, becomes the original again. `made` has the copies of what is
    neither tensor nor module.
    """

    def __init__(
        self,
        memo: dict[int, Any],
        tensor: Callable[[torch.Tensor], torch.Tensor],
        module: Callable[[nn.Module], nn.Module],
        where: Callable[[], str],
        restores: bool = False,
    ):
        self._where = where
        self._restores = restores
        self._memo = memo
        self._tensor = tensor
        self._module = module
        self._alive: list[Any] = []  # what has an id in the memo
        self.made: list[Any] = []

    def copy(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ATOMS or issubclass(kind, type):
            return value
        memo = self._memo
        found = memo.get(id(value), memo)
        if found is not memo:
            return found
        self._alive.append(value)
        try:
            made = self._made(value, kind)
        except (MemoryError, TracerError):
            raise
        except Exception as error:  # its class may have any code for this
            made = value if self._restores else Uncopied(value, self._where(), f"{type(error).__name__}: {error}")
        memo[id(value)] = made
        if made is not value and not isinstance(made, (torch.Tensor, nn.Module)):
            self.made.append(made)
        return made

    def _made(self, value: Any, kind: type) -> Any:
        rule = _RULES.get(kind)
        if rule is not None:
            return rule(self, value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, functools.partial):
            return self._partial(value)
        own = getattr(kind, "__deepcopy__", None)
        if own is not None:
            return own(value, self._memo)
        return self._rebuilt(value, kind)

    def _rebuilt(self, value: Any, kind: type) -> Any:
        """By the protocol of `copy` and `pickle`."""
        if kind in copy._deepcopy_dispatch:  # type: ignore[attr-defined]  # atoms, all that is left of them
            return copy._deepcopy_dispatch[kind](value, self._memo)  # type: ignore[attr-defined]
        reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):
            return value  # the name of something global
        function, arguments, state, items, pairs = (*reduced, *[None] * 5)[:5]
        copied = tuple(self.copy(argument) for argument in arguments)
        if kind is not tuple and isinstance(value, tuple) and all(map(_same, copied, arguments)) and not state:
            return value
        made = function(*copied)
        self._memo[id(value)] = made
        if state is not None:
            self._set_state(made, self.copy(state), reduced)
        for item in items or ():
            made.append(self.copy(item))
        for key, item in pairs or ():
            made[self.copy(key)] = self.copy(item)
        return made

    @staticmethod
    def _set_state(made: Any, state: Any, reduced: Any) -> None:
        if len(reduced) > 5 and reduced[5] is not None:
            reduced[5](made, state)
        elif hasattr(made, "__setstate__"):
            made.__setstate__(state)
        else:
            attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
            if attributes:
                made.__dict__.update(attributes)
            for name, item in (slots or {}).items():
                setattr(made, name, item)

    def _dict(self, value: dict[Any, Any]) -> Any:
        made = self._memo[id(value)] = type(value)()
        for key, item in value.items():
            made[self.copy(key)] = self.copy(item)
        return made

    def _defaultdict(self, value: defaultdict[Any, Any]) -> Any:
        made = self._memo[id(value)] = defaultdict(self.copy(value.default_factory))
        for key, item in value.items():
            made[self.copy(key)] = self.copy(item)
        return made

    def _list(self, value: list[Any]) -> Any:
        made: list[Any] = []
        self._memo[id(value)] = made
        made.extend(self.copy(item) for item in value)
        return made

    def _deque(self, value: deque[Any]) -> Any:
        made: deque[Any] = deque(maxlen=value.maxlen)
        self._memo[id(value)] = made
        made.extend(self.copy(item) for item in value)
        return made

    def _set(self, value: set[Any]) -> Any:
        return {self.copy(item) for item in value}

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        items = [self.copy(item) for item in value]
        if id(value) in self._memo:  # a member led back here
            return self._memo[id(value)]
        return value if all(map(_same, items, value)) else tuple(items)

    def _function(self, value: types.FunctionType) -> Any:
        """The function with copies of what it closes over and of its defaults; one that has only atoms, itself."""
        compiled_from = getattr(value, "_torchdynamo_orig_callable", None)
        if compiled_from is not None:
            return self.copy(compiled_from)
        return self._own_function(value) if _holds_state(value) and not _is_global(value) else value

    def hooks(self, value: dict[int, Any]) -> dict[int, Any]:
        """A copy of a module's hooks. What a function keeps is copied even where it is the program's: a hook acts for
        the module that it was registered on."""
        made = self._memo[id(value)] = type(value)()
        for key, hook in value.items():
            if type(hook) is types.MethodType and id(hook.__self__) in self._memo:
                made[key] = self._memo[id(hook)] = self._method(hook)
                continue
            stateful = type(hook) is types.FunctionType and id(hook) not in self._memo and _holds_state(hook)
            made[key] = self._own_function(hook) if stateful else self.copy(hook)
        return made

    def _wrapped_hook(self, value: WrappedHook) -> WrappedHook:
        """What torch keeps of a hook on a module's loading; every lazy module has one."""
        made = self._memo[id(value)] = WrappedHook.__new__(WrappedHook)
        made.__setstate__({name: self.copy(item) for name, item in value.__getstate__().items()})
        return made

    def _own_function(self, value: types.FunctionType) -> types.FunctionType:
        closure = None if value.__closure__ is None else tuple(self._cell(cell) for cell in value.__closure__)
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, None, closure)
        self._memo[id(value)] = made
        self.made.append(made)
        for cell in value.__closure__ or ():
            self._fill(cell)
        made.__defaults__ = self.copy(value.__defaults__)
        made.__kwdefaults__ = self.copy(value.__kwdefaults__)
        made.__qualname__, made.__doc__, made.__module__ = value.__qualname__, value.__doc__, value.__module__
        made.__annotations__ = value.__annotations__
        made.__dict__.update(self._dict(value.__dict__))
        self._memo[id(value.__dict__)] = made.__dict__
        return made

    def _cell(self, cell: types.CellType) -> types.CellType:
        """A cell in place of this one, empty until it is filled, which may lead back to it."""
        if id(cell) not in self._memo:
            self._alive.append(cell)
            self._memo[id(cell)] = types.CellType()
            self.made.append(self._memo[id(cell)])
        found: types.CellType = self._memo[id(cell)]
        return found

    def _fill(self, cell: types.CellType) -> None:
        made = self._cell(cell)
        if _contents(made) is _EMPTY and _contents(cell) is not _EMPTY:
            made.cell_contents = self.copy(cell.cell_contents)

    def _whole_cell(self, cell: types.CellType) -> types.CellType:
        self._fill(cell)
        return self._cell(cell)

    def _method(self, value: types.MethodType) -> Any:
        owner, function = self._memo.get(id(value.__self__)), value.__func__
        if owner is None:
            owner = self.copy(value.__self__)
        kind, name = type(value.__self__), function.__name__
        if getattr(kind, name, None) is not function and not any(
            vars(base).get(name) is function for base in kind.__mro__
        ):
            function = self.copy(function)
        if function is value.__func__ and owner is value.__self__:
            return value
        return types.MethodType(function, owner)

    def _builtin_method(self, value: Any) -> Any:
        owner = getattr(value, "__self__", None)
        if owner is None or isinstance(owner, (type, types.ModuleType)):
            return value
        made = self.copy(owner)
        return value if made is owner else getattr(made, value.__name__)

    def _partial(self, value: functools.partial[Any]) -> Any:
        function, args, keywords = self.copy(value.func), self.copy(value.args), self.copy(value.keywords)
        made = type(value)(function, *args, **keywords)
        self._memo[id(value)] = made
        made.__dict__.update(self._dict(value.__dict__))
        return made

    def _cached(self, value: Any) -> Any:
        """A function with a cache, as one with an empty cache."""
        return functools.lru_cache(**value.cache_parameters())(self.copy(value.__wrapped__))

    def _reference(self, value: weakref.ref[Any]) -> Any:
        """A reference to the copy of what is referred to, which lives at least as long as the reference."""
        original = value()
        if original is None:
            return value
        made = self.copy(original)
        return value if made is original else weakref.ref(made, _Keeping(made))

    def _weak_proxy(self, value: Any) -> Any:
        original = value.__repr__.__self__
        made = self.copy(original)
        return value if made is original else weakref.proxy(made, _Keeping(made))

    def _weak_keys(self, value: weakref.WeakKeyDictionary[Any, Any]) -> Any:
        made: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._memo[id(value)] = made
        for key, item in list(value.items()):
            made[self.copy(key)] = self.copy(item)
        return made

    def _weak_values(self, value: weakref.WeakValueDictionary[Any, Any]) -> Any:
        made: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()
        self._memo[id(value)] = made
        for key, item in list(value.items()):
            made[self.copy(key)] = self.copy(item)
        return made

    def _weak_set(self, value: weakref.WeakSet[Any]) -> Any:
        return weakref.WeakSet(self.copy(item) for item in list(value))

    def _mapping(self, value: types.MappingProxyType[Any, Any]) -> Any:
        return types.MappingProxyType(self.copy(dict(value)))

    def _local(self, value: threading.local) -> threading.local:
        """What this thread sees of it."""
        made = self._memo[id(value)] = threading.local()
        made.__dict__.update(self._dict(dict(value.__dict__)))
        return made

    def _uncopied(self, value: Uncopied) -> Any:
        return object.__getattribute__(value, "_original") if self._restores else value

    def _iterator(self, value: Any) -> Any:
        raise TypeError("it is used up as it is read")


class _Keeping:
    """The callback of a weak reference that keeps what is referred to alive."""

    __slots__ = ("kept",)

    def __init__(self, kept: Any):
        self.kept = kept

    def __call__(self, reference: Any) -> None:
        pass


_EMPTY = object()


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def _holds_state(function: types.FunctionType) -> bool:
    """Whether something that may change belongs to this function."""
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *function.__dict__.values()]
    held += [_contents(cell) for cell in function.__closure__ or ()]
    return not all(type(item) in _ATOMS or issubclass(type(item), type) for item in held)


def _is_global(function: types.FunctionType) -> bool:
    """Whether the function belongs to the program, and not to an object."""
    found: Any = sys.modules.get(function.__module__ or "")
    for name in function.__qualname__.split("."):
        found = getattr(found, "__dict__", {}).get(name)
    return getattr(found, "__func__", found) is function


def _same(left: Any, right: Any) -> bool:
    return left is right


_RULES: dict[type, Callable[[ObjectCopier, Any], Any]] = {
    dict: ObjectCopier._dict,
    OrderedDict: ObjectCopier._dict,
    defaultdict: ObjectCopier._defaultdict,
    list: ObjectCopier._list,
    deque: ObjectCopier._deque,
    set: ObjectCopier._set,
    tuple: ObjectCopier._tuple,
    types.FunctionType: ObjectCopier._function,
    types.CellType: ObjectCopier._whole_cell,
    WrappedHook: ObjectCopier._wrapped_hook,
    types.MethodType: ObjectCopier._method,
    types.BuiltinMethodType: ObjectCopier._builtin_method,
    types.MethodWrapperType: ObjectCopier._builtin_method,
    functools._lru_cache_wrapper: ObjectCopier._cached,
    weakref.ref: ObjectCopier._reference,
    weakref.ProxyType: ObjectCopier._weak_proxy,
    weakref.CallableProxyType: ObjectCopier._weak_proxy,
    weakref.WeakKeyDictionary: ObjectCopier._weak_keys,
    weakref.WeakValueDictionary: ObjectCopier._weak_values,
    weakref.WeakSet: ObjectCopier._weak_set,
    types.MappingProxyType: ObjectCopier._mapping,
    types.GeneratorType: ObjectCopier._iterator,
    Uncopied: ObjectCopier._uncopied,
    type(threading.Lock()): lambda _, __: threading.Lock(),
    type(threading.RLock()): lambda _, __: threading.RLock(),
    threading.local: lambda copier, local: copier._local(local),
    torch.Generator: lambda _, generator: generator.clone_state(),
}
