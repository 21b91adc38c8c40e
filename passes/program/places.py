"""Which places a tensor of indices names, where that follows from sizes: positions are counted by a range."""

from __future__ import annotations

from typing import Any

from torch import fx

from passes.errors import check
from passes.ops.conversion import to
from passes.ops.creation import arange
from passes.ops.indexing import getitem
from passes.ops.layout import flatten, permute, ravel, squeeze, transpose, unflatten, unsqueeze, view
from passes.ops.op import BoundCall
from passes.ops.repetition import expand, expand_as
from passes.program.notes import CALL, VALUE
from passes.sizes.dimension import Dim, Size

# What gives every element of its operand, and no other.
_KEEPING = frozenset({expand, expand_as, flatten, permute, ravel, squeeze, to, transpose, unflatten, unsqueeze, view})


def check_places(call: BoundCall, record: Any) -> None:
    """Raises ShapeError where a call looks up places behind the end, as torch would on data; `record` has its specs."""
    assert call.op.looks_up is not None
    operand, rule = call.op.looks_up
    last = _last_place(getattr(call.record, operand))
    if last is not None:
        count = rule(record)
        check(last < count, "the places go up to {}, but there are {} of them", last, count, remedy=_PLACES)


_PLACES = "give a sample of at most {1}, or a larger table"


def _last_place(node: Any) -> Size | None:
    """The largest index that a node gives, where it is a range by ones; None for any other."""
    while isinstance(node, fx.Node):
        call = CALL.get(node)
        if call is None:
            return None
        record: Any = call.record
        if call.op is arange:
            bounds = (record.start, record.end, record.step)
            start, end, step = (VALUE.of(bound) if isinstance(bound, fx.Node) else bound for bound in bounds)
            whole = all(isinstance(bound, (int, Dim)) for bound in (start, end))
            return end - 1 if whole and type(step) is int and step == 1 else None
        if call.op not in _KEEPING and not (call.op is getitem and _keeps_all(record.index)):
            return None
        node = record.subject
    return None


def _keeps_all(index: Any) -> bool:
    entries = index if isinstance(index, tuple) else (index,)
    return all(entry is None or entry is ... or entry == slice(None) for entry in entries)


__all__ = ["check_places"]
