"""A lowering made wrong, for the tests of what finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from passes.ops.op import FUNCTIONS, MODULES, Op
from passes.sizes.dimension import Size, maximum


def spoil(
    monkeypatch: pytest.MonkeyPatch, spelling: Any, call: int = 1, by: Callable[..., Size] = lambda *shape: 1
) -> None:
    """Makes the op's lowering add 1 to its result, in one call of it only, counted from 1.

    `spelling` is a function or a module class; of several results the first is spoilt. `by` gives another number to
    add, from the sizes of the result: 0 where it is right.
    """
    op: Op = MODULES[spelling][0] if spelling in MODULES else FUNCTIONS[spelling][0]
    right = op.lowering
    assert right is not None
    calls: Iterator[int] = count(1)

    def wrong(emit: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = right(emit, *args, **kwargs)
        if next(calls) != call:
            return outputs
        if isinstance(outputs, tuple):
            return (_plus(emit, outputs[0], emit.result[0], by), *outputs[1:])
        return _plus(emit, outputs, emit.result, by)

    monkeypatch.setattr(op, "lowering", wrong)


def only_at(size: Size, wanted: int) -> Size:
    """1 where a size is the wanted one, 0 elsewhere."""
    return maximum(1 - abs(size - wanted), 0)


def _plus(emit: Any, value: Any, spec: Any, by: Callable[..., Size]) -> Any:
    return emit.node("Add", value, emit.scalar(by(*spec.shape), spec))
