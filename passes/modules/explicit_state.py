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


def paths(model: nn.Module) -> Iterator[str]:
    """The paths of all that the modules of the model hold, in their order."""
    for path, module in model.named_modules(remove_duplicate=False):
        for table in _tables(module):
            yield from (f"{path}.{name}" if path else name for name in table)


def call_with_state(
    model: nn.Module, at: Sequence[str], tensors: Sequence[Any], call: Callable[[], Result]
) -> tuple[Result, list[Any]]:
    """What the call of a model gives with these tensors at those paths, and what it leaves there.

    Whatever comes of the call, the model has afterwards what it had before. Raises SideEffectError where the forward
    leaves other things in two places of one tensor.
    """
    if not at:
        return call(), []
    places = [list(_places(model, held_at(model, path))) for path in at]
    before = [(table, name, table[name]) for held in places for table, name in held]
    try:
        for held, tensor in zip(places, tensors, strict=True):
            for table, name in held:
                table[name] = tensor
        result = call()
        left = [[table.get(name) for table, name in held] for held in places]
        return result, [_one(path, found) for path, found in zip(at, left, strict=True)]
    finally:
        for table, name, value in before:
            table[name] = value


def holds_any(module: nn.Module, tensors: Sequence[Any]) -> bool:
    """Whether a module or a part of it holds one of these tensors in a place of its own."""
    return any(next(_places(module, tensor), None) is not None for tensor in tensors)


def _one(path: str, found: list[Any]) -> Any:
    first = found[0]
    if any(other is not first for other in found):
        raise SideEffectError(
            f"{path} is one tensor in {len(found)} places of the model, and the forward replaces it in some of them",
            remedy="write into the tensor, or give each place its own",
        )
    return first


def _places(model: nn.Module, held: Any) -> Iterator[tuple[dict[str, Any], str]]:
    for module in model.modules():
        for table in _tables(module):
            yield from ((table, name) for name, value in table.items() if value is held)


def _tables(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._buffers, module._parameters, module.__dict__


__all__ = ["call_with_state", "held_at", "holds_any", "paths"]
