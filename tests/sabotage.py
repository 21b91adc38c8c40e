"""A lowering made wrong, for the tests of what finds it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from passes.ops.op import FUNCTIONS, MODULES, Op


def spoil(monkeypatch: pytest.MonkeyPatch, spelling: Any, call: int = 1) -> None:
    """Makes the op's lowering add 1 to its result, in one call of it only, counted from 1.

    `spelling` is a function or a module class; of several results the first is spoilt.
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
            return (_plus_one(emit, outputs[0], emit.result[0]), *outputs[1:])
        return _plus_one(emit, outputs, emit.result)

    monkeypatch.setattr(op, "lowering", wrong)


def _plus_one(emit: Any, value: Any, spec: Any) -> Any:
    return emit.node("Add", value, emit.scalar(1, spec))
