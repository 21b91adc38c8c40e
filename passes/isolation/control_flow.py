"""torch's control flow (`torch.cond`, `torch.while_loop`, scan and map) as plain Python, without torch's compiler.

Called outside of its compiler, torch compiles such a function first, which takes seconds and knows nothing of who
follows the call. All that follows a model, or runs one to compare with it, has the functions stand for something else
meanwhile: `plain_control_flow` for what they mean, a capture for nodes of its graph.

A caller's code may hold such a function by a name of its own, so that the function stays the same object, and what it
does is exchanged. The operators that a traced model calls in place of the functions are exchanged with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from types import FunctionType
from typing import Any, Protocol

import torch

from passes.isolation.torch_state import Loan
from passes.torch_private import control_flow_functions, control_flow_operators
from passes.values.nested import leaves, map_structure

Carried = Sequence[Any]


class ControlFlow(Protocol):
    """What the functions do. `carried` are the arguments of the functions of a loop; `xs` is a nest of tensors; `more`
    are arguments behind those that change from step to step."""

    def cond(
        self, pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Sequence[Any]
    ) -> Any: ...

    def while_loop(
        self, cond_fn: Callable[..., Any], body_fn: Callable[..., Any], carried: Carried, more: Sequence[Any] = ()
    ) -> Any: ...

    def scan(self, combine_fn: Callable[..., Any], init: Any, xs: Any, dim: int, reverse: bool) -> Any: ...

    def map(self, f: Callable[..., Any], xs: Any, more: Sequence[Any]) -> Any: ...


class PlainControlFlow:
    """The functions as torch documents them."""

    def cond(
        self, pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Sequence[Any]
    ) -> Any:
        return true_fn(*operands) if pred else false_fn(*operands)

    def while_loop(
        self, cond_fn: Callable[..., Any], body_fn: Callable[..., Any], carried: Carried, more: Sequence[Any] = ()
    ) -> Any:
        state = tuple(map_structure(list(carried), _copy))
        while cond_fn(*state, *more):
            state = body_fn(*state, *more)
        return state

    def scan(self, combine_fn: Callable[..., Any], init: Any, xs: Any, dim: int, reverse: bool) -> Any:
        sequences = list(leaves(xs))
        if not sequences:
            return init, []
        axis = dim % sequences[0].ndim
        places = range(sequences[0].shape[axis])
        carry, stacked = init, []
        for place in reversed(places) if reverse else places:
            carry, out = combine_fn(carry, _slice(xs, axis, place))
            stacked.append(out)
        if reverse:
            stacked.reverse()
        return carry, _stacked(stacked, axis)

    def map(self, f: Callable[..., Any], xs: Any, more: Sequence[Any]) -> Any:
        count = next(leaves(xs)).shape[0]
        return _stacked([f(_slice(xs, 0, place), *more) for place in range(count)], 0)


def _copy(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def _slice(xs: Any, axis: int, place: int) -> Any:
    return map_structure(xs, lambda x: x.select(axis, place), keep_classes=True)


def _stacked(results: list[Any], axis: int) -> Any:
    """Nests of tensors of one structure as one nest, each tensor stacked along an axis, or the first where it has not
    so many."""
    rows = [list(leaves(result)) for result in results]
    columns = iter([_along(column, axis) for column in zip(*rows, strict=True)])
    return map_structure(results[0], lambda _: next(columns), keep_classes=True)


def _along(column: Sequence[Any], axis: int) -> Any:
    return torch.stack(list(column), axis if axis <= column[0].ndim else 0) if column[0] is not None else None


_at_work: list[ControlFlow] = [PlainControlFlow()]


@contextmanager
def standing_in(control_flow: ControlFlow) -> Iterator[None]:
    """Inside the block torch's functions of control flow do what `control_flow` says."""
    functions = {name: function for name, function in control_flow_functions().items() if name in _FUNCTIONS}
    operators = {name: operator for name, operator in control_flow_operators().items() if name in _OPERATORS}
    undo = [partial(setattr, function, "__code__", function.__code__) for function in functions.values()]
    before = list(_at_work)
    with Loan(
        [(operator, "__call__") for operator in operators.values()],
        *undo,
        partial(_at_work.__setitem__, slice(None), before),
    ):
        _at_work.append(control_flow)
        for name, function in functions.items():
            function.__code__ = _FUNCTIONS[name].__code__
        for name, operator in operators.items():
            operator.__call__ = _OPERATORS[name]
        yield


@contextmanager
def plain_control_flow() -> Iterator[None]:
    """Inside the block torch's functions of control flow are plain Python."""
    with standing_in(PlainControlFlow()):
        yield


def at_work() -> ControlFlow:
    """What the functions do now."""
    return _at_work[-1]


# What stands in for the functions: their code runs among the names of torch's own modules. -----------------------


def _cond(pred, true_fn, false_fn, operands=()):  # type: ignore[no-untyped-def]
    from passes.isolation.control_flow import at_work

    return at_work().cond(pred, true_fn, false_fn, operands)


def _while_loop(cond_fn, body_fn, carried_inputs):  # type: ignore[no-untyped-def]
    from passes.isolation.control_flow import at_work

    return at_work().while_loop(cond_fn, body_fn, carried_inputs)


def _scan(combine_fn, init, xs, *, dim=0, reverse=False):  # type: ignore[no-untyped-def]
    from passes.isolation.control_flow import at_work

    return at_work().scan(combine_fn, init, xs, dim, reverse)


def _map(f, xs, *args):  # type: ignore[no-untyped-def]
    from passes.isolation.control_flow import at_work

    return at_work().map(f, xs, args)


_FUNCTIONS: dict[str, FunctionType] = {"cond": _cond, "while_loop": _while_loop, "scan": _scan, "map": _map}  # type: ignore[dict-item]


# What stands in for the operators, which take and give flat lists. -----------------------------------------------


def _cond_operator(_: Any, pred: Any, true_fn: Any, false_fn: Any, operands: Any) -> Any:
    return at_work().cond(pred, true_fn, false_fn, operands)


def _while_loop_operator(_: Any, cond_fn: Any, body_fn: Any, carried: Any, more: Any = (), **__: Any) -> Any:
    return at_work().while_loop(cond_fn, body_fn, carried, more)


def _scan_operator(_: Any, combine_fn: Any, init: Any, xs: Any, more: Any = ()) -> Any:
    def step(carry: Any, slices: Any) -> Any:
        results = iter(combine_fn(*carry, *slices, *more))
        return list(islice(results, len(init))), list(results)

    carry, stacked = at_work().scan(step, list(init), list(xs), 0, False)
    return (*carry, *stacked)


def _map_operator(_: Any, f: Any, xs: Any, more: Any = ()) -> Any:
    return at_work().map(lambda slices, *more: f(*slices, *more), list(xs), more)


_OPERATORS: dict[str, Callable[..., Any]] = {
    "cond": _cond_operator,
    "while_loop": _while_loop_operator,
    "scan": _scan_operator,
    "map": _map_operator,
}

__all__ = ["Carried", "ControlFlow", "PlainControlFlow", "at_work", "plain_control_flow", "standing_in"]
