"""Who holds an object, and how it is made to let go.

What stands for a value while a forward is followed must not outlive that: a table under `functools.lru_cache`, or a
dict of a module, would hand it to the caller's own model later. Holders are found through the garbage collector, which
takes a while; so it is asked only where something is known to be alive.
"""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import BuiltinMethodType, CellType, FrameType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from passes.isolation.dispatch_mode import DispatchMode

# Stands for what cannot be had: a holder loses what it held.
MISSING: Any = object()

_IMMUTABLE = (tuple, frozenset, partial, MethodType, BuiltinMethodType)
_Cached = type(functools.lru_cache(lambda: None))
# How far up from an object its holder is looked for; beyond, only its kind can be told.
_FAR = 64


def release(
    values: Sequence[Any], real: Callable[[Any], Any], passing: Collection[int] = (), named: bool = True
) -> list[str]:
    """Makes everything let go of the values, and says who held one of which nothing is left to them, if that is to be
    `named`, which takes a while.

    `real` gives what takes a value's place, or MISSING. A cache of `functools` is emptied, which its user cannot tell
    from having it; whatever else can be written to gets what is real, or loses the entry. Frames hold what they hold.
    `passing` has the ids of what is ours, copies of the caller's objects, and may lose anything.
    """
    return _Release(values, real, passing).run(named)


@contextmanager
def nothing_left_on_meta() -> Iterator[None]:
    """What the caller's code keeps of tensors without data that the block made, it loses after the block.

    It may keep a table by its size alone, and would find one without data where its own model runs.
    """
    made = _MadeOnMeta()
    try:
        with made:
            yield
    finally:
        if made.alive():
            gc.collect(0)  # the collector pauses while a model is worked on: all that is new is young
            left = made.alive()
            if left:
                release(left, lambda _: MISSING)


class _MadeOnMeta(DispatchMode):  # type: ignore[no-untyped-call]
    """Inside the block, the tensors without data that operations give are noted, not held."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[weakref.ref[torch.Tensor]] = []

    def seen(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                self._made.append(weakref.ref(tensor))
        return result

    def alive(self) -> list[torch.Tensor]:
        return [tensor for made in self._made if (tensor := made()) is not None]


class _Release:
    def __init__(self, values: Sequence[Any], real: Callable[[Any], Any], passing: Collection[int]):
        self._values = values
        self._make = real
        self._things: dict[int, Any] = {id(value): value for value in values}
        self._real: dict[int, Any] = {}
        self._passing = passing
        self._losers: list[Any] = []
        self._names: dict[str, None] = {}

    def run(self, named: bool) -> list[str]:
        level = list(self._things.values())
        for _ in range(_FAR):
            # What can be written to is; what cannot is held by others in turn, which get another, or lose it.
            left = [holder for holder in self._referrers(level) if not self._rewrite(holder)]
            self._losers += [holder for holder in left if not isinstance(holder, _IMMUTABLE)]
            level = [holder for holder in left if isinstance(holder, _IMMUTABLE)]
            del left  # which would be found among the holders
            self._things.update((id(holder), holder) for holder in level)
            if not level:
                break
        while self._losers and named:
            name = self._name(self._losers.pop(0))
            if name is not None:
                self._names[name] = None
        return list(self._names)

    def _referrers(self, things: list[Any]) -> list[Any]:
        own = {id(own) for own in (things, self._values, self._things, self._real, self._losers, vars(self), self)}
        return [
            holder
            for holder in gc.get_referrers(*things)
            if id(holder) not in own and id(holder) not in self._things and not isinstance(holder, FrameType)
        ]

    # What takes the place of a holder, or of what it holds ----------------------------------------

    def _swap(self, value: Any) -> Any:
        place = id(value)
        if place not in self._things:
            return value
        if place not in self._real:
            self._real[place] = self._rebuilt(value) if isinstance(value, tuple) else self._make(value)
        return self._real[place]

    def _rebuilt(self, holder: tuple[Any, ...]) -> Any:
        items = [self._swap(item) for item in holder]
        if any(item is MISSING for item in items):
            return MISSING
        if hasattr(holder, "numel"):  # a traced tensor's shape
            return torch.Size(items)
        return type(holder)(*items) if hasattr(holder, "_fields") else tuple(items)

    def _rewrite(self, holder: Any) -> bool:
        """Puts what is real into a holder that can be written to; says whether it can."""
        if isinstance(holder, _Cached):
            holder.cache_clear()
        elif isinstance(holder, dict):
            self._rewrite_dict(holder)
        elif isinstance(holder, (list, deque, set)):
            kept = self._kept(holder, holder)
            holder.clear()
            (holder.update if isinstance(holder, set) else holder.extend)(kept)
        elif isinstance(holder, CellType):
            kept = self._kept(holder, [holder.cell_contents])
            holder.cell_contents = kept[0] if kept else None
        else:
            return not isinstance(holder, _IMMUTABLE) and self._rewrite_attributes(holder)
        return True

    def _kept(self, holder: Any, items: Iterable[Any]) -> list[Any]:
        swapped = [self._swap(item) for item in items]
        kept = [item for item in swapped if item is not MISSING]
        self._note(holder, len(kept) < len(swapped))
        return kept

    def _rewrite_dict(self, holder: dict[Any, Any]) -> None:
        place = _place_of_names(holder)
        write = holder.__setitem__ if place is None or isinstance(place, ModuleType) else partial(setattr, place)
        entries = [(key, self._swap(key), value, self._swap(value)) for key, value in list(holder.items())]
        lost = [before for before, key, _, value in entries if key is MISSING or value is MISSING]
        if place is None:
            self._note(holder, bool(lost))
        else:
            self._names.update((f"{_title(place)}.{name}", None) for name in lost)
        if any(key is not before for before, key, _, _ in entries):
            holder.clear()
            holder.update((key, value) for _, key, _, value in entries if key is not MISSING and value is not MISSING)
            return
        for key, _, before, value in entries:
            if value is MISSING and place is None:
                del holder[key]
            elif value is not before:
                write(key, None if value is MISSING else value)  # a name stays, as that of nothing

    def _rewrite_attributes(self, holder: Any) -> bool:
        """An object's own attributes, where it has them in Python's way; says whether one was found."""
        names = [name for name, value in getattr(holder, "__dict__", {}).items() if id(value) in self._things]
        slots = [
            name
            for kind in type(holder).__mro__
            for name, slot in vars(kind).items()
            if isinstance(slot, MemberDescriptorType) and id(getattr(holder, name, None)) in self._things
        ]
        written = False
        for name in (*names, *slots):
            new = self._swap(object.__getattribute__(holder, name))
            try:
                object.__setattr__(holder, name, None if new is MISSING else new)
            except (AttributeError, TypeError):  # a slot of native code's, which is only to be read
                continue
            self._note(holder, new is MISSING)
            written = True
        return written

    def _note(self, holder: Any, lost: bool) -> None:
        if lost:
            self._losers.append(holder)

    # What a holder is called ----------------------------------------------------------------------

    def _name(self, holder: Any) -> str | None:
        """Where the caller finds the holder; None for what belongs to a module of ours, or to nobody any more."""
        below: dict[int, Any] = {id(holder): None}
        level, last, ours, function = [holder], holder, False, ""
        for _ in range(_FAR):
            above = []
            for thing in level:
                if id(thing) in self._passing:
                    ours = True
                    continue
                if isinstance(thing, _Cached):  # its own dict: an entry less, which its user cannot tell
                    return None
                if isinstance(thing, FunctionType) and "<locals>" in thing.__qualname__:  # it may be a copy of ours
                    function = function or f"what {thing.__module__}.{thing.__qualname__} keeps"
                    above.append(thing)
                    continue
                name = _place(thing, below[id(thing)])
                if name is not None:
                    return name
                above.append(thing)
            own = {id(own) for own in (level, above, below, self._things, self._losers, self._real)}
            level = []
            for thing in above:
                last = thing
                for holder in gc.get_referrers(thing):
                    if id(holder) not in below and id(holder) not in own and not isinstance(holder, FrameType):
                        below[id(holder)] = thing
                        level.append(holder)
            if not level:
                break
        return None if ours else function or f"a {type(last).__name__} of the caller's"


def _place_of_names(names: dict[Any, Any]) -> ModuleType | type | None:
    """The Python module or the class whose names the dict holds."""
    name = names.get("__name__", names.get("__module__"))
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None:
        return None
    if vars(module) is names:
        return module
    return next((owner for owner in gc.get_referrers(names) if isinstance(owner, type)), None)


def _place(thing: Any, held: Any) -> str | None:
    """What the caller calls a thing that stays (a Python module, a class, a function, a module of the model)."""
    if isinstance(thing, dict):
        owner = _place_of_names(thing)
        if not isinstance(owner, ModuleType):
            return None
        return _title(owner) + _name_in(thing, held)
    if isinstance(thing, type):
        return _title(thing) + _name_in(vars(thing), held)
    if isinstance(thing, FunctionType):
        return f"what {thing.__module__}.{thing.__qualname__} keeps"
    if isinstance(thing, nn.Module):
        return f"the caller's {type(thing).__name__}" + _name_in(vars(thing), held)
    return None


def _title(place: ModuleType | type) -> str:
    return place.__name__ if isinstance(place, ModuleType) else f"{place.__module__}.{place.__qualname__}"


def _name_in(names: Mapping[str, Any], held: Any) -> str:
    return next((f".{name}" for name, value in names.items() if value is held), "")
