"""Running a copy of a model without writing to the original: what is written to gets memory of its own first.

The tensors of a copy are objects of its own on the original's memory (`passes/isolation/model_copy.py`). Here every
operation that torch runs is seen before it does; one that writes into that memory writes into a copy of it, and whoever
reads there from then on reads the copy. A model that writes nothing is not held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from passes.isolation.dispatch_mode import DispatchMode
from passes.isolation.model_copy import ModelCopy
from passes.isolation.tensor_copy import cloned, on_storage, shares_memory, storage_key
from passes.torch_private import without_dispatch


class CopyOnWrite(DispatchMode):  # type: ignore[no-untyped-call]
    """Inside the block, this thread's operations do not write into the memory of the originals of `pairs`.

    `pairs` are tensors, each with the one that stands for it in a copy. `before_write` is called with those that stand
    on a memory before it is written to for the first time, and may refuse it. With `undone`, any other memory from
    before the block that is written to (a global tensor of the caller's) has after the block what it had before it.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[torch.Tensor, torch.Tensor]],
        before_write: Callable[[list[tuple[torch.Tensor, torch.Tensor]]], None] | None = None,
        undone: bool = False,
    ):
        super().__init__()
        self._before_write = before_write
        self._guarded: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._undone = undone
        self._made: set[int] = set()  # the memory that is the block's own
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}  # other memory, as it was
        for original, own in pairs:
            if not shares_memory(own):
                continue
            key = storage_key(own)
            if key == storage_key(original):
                self._guarded.setdefault(key, []).append((original, own))
            else:
                self._made.add(key)
        self._private: dict[int, torch.UntypedStorage] = {}  # the copies, by what they are copies of

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for storage, before in self._before.values():
            storage.copy_(before)

    def seen(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        for tensor in _written(func, args, kwargs):
            self._give_own_memory(tensor)
        if self._private:
            args = tuple(map(self._read, args))
            kwargs = {name: self._read(value) for name, value in kwargs.items()}
        result = func(*args, **kwargs)
        if self._undone and _makes_memory(func):
            results = result if isinstance(result, (tuple, list)) else (result,)
            self._made.update(storage_key(made) for made in results if _is_tensor(made) and shares_memory(made))
        return result

    def _give_own_memory(self, tensor: torch.Tensor) -> None:
        if not shares_memory(tensor):
            return
        pairs = self._guarded.get(storage_key(tensor))
        if pairs is None:
            self._remember(tensor)
            return
        if self._before_write is not None:
            self._before_write(pairs)
        key = storage_key(tensor)
        with without_dispatch():  # nothing that a mode around this one would have to see
            storage = self._private[key] = cloned(tensor.untyped_storage())
            self._made.add(storage._cdata)
            for _, own in self._guarded.pop(key):
                if storage_key(own) == key:
                    own.data = on_storage(own, storage)

    def _remember(self, tensor: torch.Tensor) -> None:
        """Keeps what is in a memory that is neither the model's nor the block's own, before it is written to."""
        key = storage_key(tensor)
        if self._undone and not tensor.is_meta and key not in self._made and key not in self._before:
            storage = tensor.untyped_storage()
            self._before[key] = storage, cloned(storage)

    def _read(self, value: Any) -> Any:
        """An operation's argument, which is a tensor, a list of tensors, or none at all, as it is in the copy."""
        if isinstance(value, torch.Tensor):
            return self._redirected(value)
        if isinstance(value, (list, tuple)) and any(map(_is_tensor, value)):
            return [self._redirected(item) if _is_tensor(item) else item for item in value]
        return value

    def _redirected(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, or, where its memory is the original's of a copy, what it is in the copy."""
        storage = self._private.get(storage_key(tensor)) if shares_memory(tensor) else None
        return tensor if storage is None else on_storage(tensor, storage)


@contextmanager
def running_copy(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the model that may be run inside the block, whatever it does to itself."""
    copy = ModelCopy(model)
    with CopyOnWrite(copy.pairs, undone=True):
        yield copy.module


def _written(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """The tensors that the operation writes into."""
    for position, name, condition in _writes(func):
        if condition is not None and not _argument(args, kwargs, *condition):
            continue
        value = _argument(args, kwargs, position, name)
        yield from (item for item in (value if isinstance(value, (tuple, list)) else (value,)) if _is_tensor(item))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _argument(args: Any, kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if position < len(args) else kwargs.get(name)


@cache
def _makes_memory(func: Any) -> bool:
    """Whether a result of the operation is no view of an operand."""
    returns = func._schema.returns
    return func is torch.ops.aten.lift_fresh.default or any(entry.alias_info is None for entry in returns)


@cache
def _writes(func: Any) -> list[tuple[int, str, tuple[int, str] | None]]:
    """Which arguments the operation writes into: where they are, and the argument that says whether it does, if any.

    A batch norm that trains writes its running statistics, and does not declare it.
    """
    arguments = {argument.name: position for position, argument in enumerate(func._schema.arguments)}
    declared = [
        (position, argument.name, None)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    training = next(((arguments[name], name) for name in ("training", "train") if name in arguments), None)
    undeclared = [
        (arguments[name], name, training)
        for name in ("running_mean", "running_var")
        if name in arguments and training is not None and not any(name == entry[1] for entry in declared)
    ]
    return [*declared, *undeclared]
