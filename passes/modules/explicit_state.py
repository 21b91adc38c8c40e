"""Tensors of a model that its forward writes, as what a call takes and gives.

Each is named by its path: that of a module, and the name of its buffer, its parameter or its plain attribute. A module
may hold one in several places, which stay one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch import nn

from passes.errors import SideEffectError

Result = TypeVar("Result")


def held_at(model: nn.Module, path: str) -> Any:
    """What a module of the model has at a path, as its buffer, parameter or attribute; None where it has nothing."""
    owner, _, name = path.rpartition(".")
    module = dict(model.named_modules(remove_duplicate=False)).get(owner)
    tables = () if module is None else _tables(module)
    return next((table[name] for table in tables if name in table), None)


def paths(model: nn.Module, of: Sequence[Any] | None = None) -> Iterator[str]:
    """The paths of all that the modules of the model hold, in their order; or of these objects, each in every place."""
    wanted = None if of is None else {id(held) for held in of}
    for path, module in model.named_modules(remove_duplicate=False):
        for table in _tables(module):
            for name, value in table.items():
                if wanted is None or id(value) in wanted:
                    yield f"{path}.{name}" if path else name


def call_with_state(
    model: nn.Module, at: Sequence[str], tensors: Sequence[Any], call: Callable[[], Result]
) -> tuple[Result, list[Any]]:
    """What the call of a model gives with these tensors at those paths, and what it leaves there.

    Whatever comes of the call, the model has afterwards what it had before. Raises SideEffectError where the forward
    leaves other things in two places of one tensor.
    """
    if not at:
        return call(), []
    held = [held_at(model, path) for path in at]
    places = _places(model, held)
    try:
        for before, tensor in zip(held, tensors, strict=True):
            for table, name in places[id(before)]:
                table[name] = tensor
        result = call()
        left = [[table.get(name) for table, name in places[id(before)]] for before in held]
        return result, [_one(path, found) for path, found in zip(at, left, strict=True)]
    finally:
        for before in held:
            for table, name in places[id(before)]:
                table[name] = before


def holds_any(module: nn.Module, tensors: Sequence[Any]) -> bool:
    """Whether a module or a part of it holds one of these tensors in a place of its own."""
    return any(_places(module, tensors).values())


def _one(path: str, found: list[Any]) -> Any:
    first = found[0]
    if any(other is not first for other in found):
        raise SideEffectError(
            f"{path} is one tensor in {len(found)} places of the model, and the forward replaces it in some of them",
            remedy="write into the tensor, or give each place its own",
        )
    return first


def _places(model: nn.Module, held: Sequence[Any]) -> dict[int, list[tuple[dict[str, Any], str]]]:
    """Where the modules of the model hold these objects: in which tables, under which names, by the objects' ids."""
    found: dict[int, list[tuple[dict[str, Any], str]]] = {id(one): [] for one in held}
    for module in model.modules():
        for table in _tables(module):
            for name, value in table.items():
                if id(value) in found:
                    found[id(value)].append((table, name))
    return found


def _tables(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._buffers, module._parameters, module.__dict__


__all__ = ["call_with_state", "held_at", "holds_any", "paths"]
