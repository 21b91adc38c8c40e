"""Control flow over regions (`regions.py`): a branch, of which one side runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import ShapeError, check
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.ops.regions import Region, as_tensor
from passes.sizes.dimension import Dim, same_size
from passes.values.spec import TensorSpec, describe

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


# A branch -------------------------------------------------------------------------------------------


def cond(predicate: Any, then: Any, otherwise: Any, names: tuple[str, str] = ("true_fn", "false_fn")) -> Any:
    """What one of two regions gives: `then` where the predicate is true, else `otherwise`."""
    raise NotImplementedError("a region runs as a whole, by the operation that it belongs to")


@dataclass(frozen=True, slots=True)
class Cond(Record[T]):
    predicate: T
    then: T
    otherwise: T
    names: tuple[str, str] = ("true_fn", "false_fn")


branch = Op("cond", Cond, functions=(cond,), view=True)


@branch.shape
def cond_shape(call: Cond[Any]) -> tuple[Any, ...]:
    """What both sides give, result by result."""
    check_predicate(call.predicate)
    check(
        len(call.then) == len(call.otherwise),
        "the branches of torch.cond give {} and {} results: {} and {}",
        len(call.then),
        len(call.otherwise),
        *call.names,
        remedy="return the same structure from both",
    )
    pairs = zip(call.then, call.otherwise, strict=True)
    return tuple(_of_both(then, otherwise, place, call) for place, (then, otherwise) in enumerate(pairs))


def check_predicate(predicate: Any) -> None:
    check(
        isinstance(predicate, TensorSpec) and all(size == 1 for size in predicate.shape),
        "a condition is one truth value, but here it is {}",
        describe(predicate),
        remedy="reduce it to one element, with any() or all()",
    )


def _of_both(then: Any, otherwise: Any, place: int, call: Cond[Any]) -> Any:
    """A result that may come from either side: numbers that are equal stay what they are.

    This is the one place that says what comes of sides that differ.
    """
    if not isinstance(then, TensorSpec) and not isinstance(otherwise, TensorSpec) and _is_same(then, otherwise):
        return then
    sides = as_tensor(then), as_tensor(otherwise)
    if sides[0].dtype != sides[1].dtype or sides[0].ndim != sides[1].ndim or sides[0].shape != sides[1].shape:
        raise ShapeError(
            f"the branches of torch.cond give different {'sizes' if sides[0].dtype == sides[1].dtype else 'dtypes'}: "
            f"result {place} is {sides[0]} from {call.names[0]}, but {sides[1]} from {call.names[1]}",
            remedy="make both branches give tensors of one shape and dtype, by padding or a cast",
        )
    return sides[0]


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, (int, Dim)) and isinstance(other, (int, Dim)):
        return type(one) is type(other) and same_size(one, other)
    return type(one) is type(other) and bool(one == other)


@branch.lower
def lower_cond(emit: Emitter, call: Cond[Any]) -> tuple[Any, ...]:
    """An If, whose branches see the values around it. A number that both give is no result of it."""
    wanted = {place: spec for place, spec in enumerate(emit.result) if isinstance(spec, TensorSpec)}
    then, otherwise = (partial(_side, emit, region, wanted) for region in (call.then, call.otherwise))
    results = emit.branch(truth(emit, call.predicate), then, otherwise, list(wanted.values()))
    found = dict(zip(wanted, results, strict=True))
    return tuple(found.get(place) for place in range(len(emit.result)))


def _side(emit: Emitter, region: Region, wanted: Mapping[int, TensorSpec]) -> list[Value]:
    results = region(())
    return [emit.operand(results[place], spec.dtype) for place, spec in wanted.items()]


def truth(emit: Emitter, predicate: Value) -> Value:
    """A condition as ONNX takes it: a bool without axes."""
    value = emit.cast(predicate, torch.bool)
    return emit.reshape(value, ()) if predicate.ndim else value
