"""Control flow over regions (`regions.py`): a branch, of which one side runs; a loop for as long as a condition says; a
step for each slice of some tensors, which is also what `map` is.

`names` are those of the caller's functions that the regions were traced from, for messages.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import ShapeError, check
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.ops.regions import NOT_BY_ITSELF, Region, as_tensor
from passes.sizes.dimension import Dim, Size, is_of_data, maximum, minimum, same_size
from passes.sizes.unknown import DataSize
from passes.values.spec import TensorSpec, describe

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

SCAN = ("scan", "combine_fn")


# A condition ----------------------------------------------------------------------------------------

# Relations of sizes in Python, and in ONNX: of two that are opposite, one is computed and turned round.
_RELATIONS: dict[str, tuple[Callable[[Any, Any], Any], str, bool]] = {
    "==": (operator.eq, "Equal", False),
    "!=": (operator.ne, "Equal", True),
    "<": (operator.lt, "Less", False),
    ">=": (operator.ge, "Less", True),
    ">": (operator.gt, "Greater", False),
    "<=": (operator.le, "Greater", True),
}


def compared(relation: str, left: Any, right: Any) -> torch.Tensor:
    """Whether two sizes have a relation, as a tensor."""
    return torch.tensor(_RELATIONS[relation][0](left, right))


@dataclass(frozen=True, slots=True)
class Compared(Record[T]):
    relation: str
    left: Size
    right: Size


comparison = Op("size_comparison", Compared, functions=(compared,))


@comparison.shape
def compared_shape(call: Compared[Any]) -> TensorSpec:
    """Which it is, is for the file to say: nothing is asked of the sizes."""
    check(call.relation in _RELATIONS, "there is no relation {!r} of sizes", call.relation)
    return TensorSpec((), torch.bool)


@comparison.lower
def lower_compared(emit: Emitter, call: Compared[Any]) -> Value:
    _, op_type, turned = _RELATIONS[call.relation]
    found = emit.squeeze(emit.node(op_type, emit.size(call.left), emit.size(call.right)), 0)
    return emit.node("Not", found) if turned else found


# A branch -------------------------------------------------------------------------------------------


def cond(predicate: Any, then: Any, otherwise: Any, names: tuple[str, str] = ("true_fn", "false_fn")) -> Any:
    """What one of two regions gives: `then` where the predicate is true, else `otherwise`."""
    raise NotImplementedError(NOT_BY_ITSELF)


@dataclass(frozen=True, slots=True)
class Cond(Record[T]):
    predicate: T
    then: T
    otherwise: T
    names: tuple[str, str] = ("true_fn", "false_fn")


branch = Op("cond", Cond, functions=(cond,))


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
    if sides[0].dtype != sides[1].dtype or sides[0].ndim != sides[1].ndim:
        raise ShapeError(
            f"the branches of torch.cond give different {'ranks' if sides[0].dtype == sides[1].dtype else 'dtypes'}: "
            f"result {place} is {sides[0]} from {call.names[0]}, but {sides[1]} from {call.names[1]}",
            remedy="make both branches give tensors of one rank and dtype, by a reshape or a cast",
        )
    return sides[0].with_shape(*map(_either, sides[0].shape, sides[1].shape))


def _either(size: Size, other: Size) -> Any:
    """A size that is one of two, as the data say."""
    if same_size(size, other):
        return size
    limits = (0, None) if is_of_data(size) or is_of_data(other) else (minimum(size, other), maximum(size, other))
    return DataSize("size that one branch or the other gives", *limits)


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


# A loop ---------------------------------------------------------------------------------------------


def while_loop(condition: Any, body: Any, carried: Any, names: tuple[str, str] = ("cond_fn", "body_fn")) -> Any:
    """What is carried on, once `condition` of it is no longer true; until then `body` gives the next of it."""
    raise NotImplementedError(NOT_BY_ITSELF)


@dataclass(frozen=True, slots=True)
class WhileLoop(Record[T]):
    condition: T
    body: T
    carried: tuple[T, ...]
    names: tuple[str, str] = ("cond_fn", "body_fn")


loop = Op("while_loop", WhileLoop, functions=(while_loop,))


@loop.shape
def while_loop_shape(call: WhileLoop[Any]) -> tuple[TensorSpec, ...]:
    """What is carried keeps its shapes and dtypes."""
    found = [as_tensor(result) for result in call.condition]
    check(
        len(found) == 1 and (found[0].shape, found[0].dtype) == ((), torch.bool),
        "the condition of torch.while_loop is one truth value, a bool without axes, but {} gives {}",
        call.names[0],
        describe(tuple(found)),
        remedy="compare something of one element, and reduce it with all() or any()",
    )
    return _kept("torch.while_loop", call.carried, call.body, call.names[1])


def _kept(loop: str, carried: Sequence[Any], given: Sequence[Any], name: str) -> tuple[TensorSpec, ...]:
    """The specs of what is carried, which one step gives with the same ones."""
    check(
        len(carried) == len(given),
        "{} carries {} values, but {} gives {}",
        loop,
        len(carried),
        name,
        len(given),
        remedy="return what is carried, in the same structure",
    )
    specs = tuple(map(as_tensor, carried))
    for place, (before, after) in enumerate(zip(specs, map(as_tensor, given), strict=True)):
        check(
            before.dtype == after.dtype and before.ndim == after.ndim and all(map(_stays, before.shape, after.shape)),
            "{} carries value {} as {}, but {} gives {} for it",
            loop,
            place,
            before,
            name,
            after,
            remedy="keep its shape and dtype: write into a tensor of fixed size, or cast",
        )
    return specs


def _stays(before: Size, after: Size) -> bool:
    """Whether a size is the same after a step; of one that data say, only if it is by the same name."""
    return same_size(before, after) if is_of_data(before) or is_of_data(after) else before == after


@loop.lower
def lower_while_loop(emit: Emitter, call: WhileLoop[Any]) -> tuple[Value, ...]:
    """A Loop, whose condition is computed before it, and at the end of each step."""
    specs = emit.result
    states = _typed(emit, call.carried, specs)

    def goes_on(states: Sequence[Value]) -> Value:
        (found,) = call.condition(states)
        return emit.operand(found, torch.bool)

    def step(*states: Value) -> list[Value]:
        following = _typed(emit, call.body(states), specs)
        return [goes_on(following), *following]

    return emit.loop(goes_on(states), step, states)


def _typed(emit: Emitter, values: Sequence[Any], specs: Sequence[TensorSpec]) -> list[Value]:
    """Values or numbers as values of these specs."""
    found = (emit.operand(value, spec.dtype) for value, spec in zip(values, specs, strict=True))
    return [type(value)(value.name, spec) for value, spec in zip(found, specs, strict=True)]


# A step for each slice ------------------------------------------------------------------------------


def scan(
    step: Any, carried: Any, sliced: Any, dim: int = 0, reverse: bool = False, names: tuple[str, str] = SCAN
) -> Any:
    """What `step` carries on over the slices of some tensors along an axis, then all else that it gives, stacked."""
    raise NotImplementedError(NOT_BY_ITSELF)


@dataclass(frozen=True, slots=True)
class Scan(Record[T]):
    step: T
    carried: tuple[T, ...]
    sliced: tuple[T, ...]
    dim: int = 0
    reverse: bool = False
    names: tuple[str, str] = SCAN


scanning = Op("scan", Scan, functions=(scan,))


@scanning.shape
def scan_shape(call: Scan[Any]) -> tuple[TensorSpec, ...]:
    """What is carried keeps its shapes and dtypes; each result gets an axis of as many as there are slices."""
    kind, name = call.names
    lengths = [spec.shape[call.dim] for spec in call.sliced]
    check(
        all(length == lengths[0] for length in lengths),
        "{} goes over axis {} of tensors of different sizes there: {}",
        kind,
        call.dim,
        ", ".join(map(str, lengths)),
        remedy="give tensors that have equally many slices",
    )
    check(lengths[0] >= 1, "{} needs at least one slice, but axis {} has {}", kind, call.dim, lengths[0])
    kept = len(call.carried)
    carried = _kept(kind, call.carried, call.step[:kept], name)
    return (*carried, *(_stacked(as_tensor(result), lengths[0], call.dim) for result in call.step[kept:]))


def _stacked(spec: TensorSpec, length: Size, dim: int) -> TensorSpec:
    axis = _stacked_axis(spec.ndim, dim)
    return spec.with_shape(*spec.shape[:axis], length, *spec.shape[axis:])


def _stacked_axis(ndim: int, dim: int) -> int:
    """Along which axis results of so many axes are stacked: that which is gone over, if they are enough for it."""
    return dim if dim <= ndim else 0


@scanning.lower
def lower_scan(emit: Emitter, call: Scan[Any]) -> tuple[Value, ...]:
    """A Scan in ONNX too."""
    kept = len(call.carried)
    specs, stacked = emit.result[:kept], emit.result[kept:]
    axes = [_stacked_axis(spec.ndim - 1, call.dim) for spec in stacked]
    results = [spec.without_axis(axis) for spec, axis in zip(stacked, axes, strict=True)]

    def step(*given: Value) -> list[Value]:
        return _typed(emit, call.step(given), [*specs, *results])

    return emit.scan(
        step,
        _typed(emit, call.carried, specs),
        call.sliced,
        axis=call.dim,
        backwards=call.reverse,
        stacked=results,
        stacked_along=axes,
    )


__all__ = ["cond", "scan", "while_loop"]
