"""A view's new value, put back into what it is a view of.

Where every view on the way has an opposite (`setitem` for a slice, the opposite permutation for a transpose), those are
applied, at any sizes. Otherwise the views are taken once of the positions of the elements instead of the elements,
which says for fixed sizes where the new value goes.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import cat, fx, stack  # as they are: while tracing, those of the module are recorded

from passes.errors import check
from passes.ops.assignment import with_item
from passes.ops.op import bind_node, map_leaves
from passes.sizes.dimension import Dim, hint, same_size
from passes.values.nested import map_structure
from passes.values.spec import TensorSpec
from tracer.memory.recorder import Recorder
from tracer.memory.storage import Memory, op_of


@dataclass(frozen=True, slots=True)
class Step:
    """One view on the way from memory to a tensor: its node, and which of its operands it is a view of."""

    view: fx.Node
    operand: fx.Node


class UnfollowableError(Exception):
    """The write goes through views that cannot be followed back; the message says how."""


class WriteBack:
    """Computes what a write through a view leaves in the memory (see the module's docstring)."""

    def __init__(self, tracer: Recorder, memory: Memory):
        self._tracer = tracer
        self._memory = memory

    def put_back(self, root: fx.Node, steps: tuple[Step, ...], result: fx.Node) -> fx.Node:
        """The root's new value, where the last of the views of it has become `result`. Raises UnfollowableError."""
        specs = [self._tracer.value(node) for node in (root, *(step.view for step in steps))]
        dtypes = {value.dtype for value in specs if isinstance(value, TensorSpec)}
        if len(dtypes) > 1 or any(dtype.is_complex for dtype in dtypes):
            raise UnfollowableError("through a view that shows its elements as other numbers")
        if all(self._has_opposite(step) for step in steps):
            return self._by_opposites(root, steps, result)
        return self._by_positions(root, steps, result)

    # Through opposites --------------------------------------------------------------------------

    def _by_opposites(self, root: fx.Node, steps: tuple[Step, ...], result: fx.Node) -> fx.Node:
        parents = [root]
        for step in steps[:-1]:
            parents.append(taken_again(self._tracer, step, parents[-1], {}))
        new: Any = result
        for parent, step in zip(reversed(parents), reversed(steps), strict=True):
            new = self._opposite(step.view, parent, new)
        found: fx.Node = new
        return found

    def _has_opposite(self, step: Step) -> bool:
        above, value = self._tracer.value(step.operand), self._tracer.value(step.view)
        op = op_of(step.view, self._tracer.program.module)
        if op is None or not isinstance(above, TensorSpec):
            return op is not None and op.name == "getitem"
        if not isinstance(value, TensorSpec):
            return op.name in ("unbind", *_PIECES)
        if op.name in _SAME_ORDER_WHERE_AS_MANY:
            return same_size(above.numel(), value.numel())
        if op.name == "narrow":
            return not any(map(self._is_tensor, _others(step)))
        return op.name in _WITH_OPPOSITE

    def _opposite(self, view: fx.Node, parent: fx.Node, new: Any) -> Any:
        """The parent's new value, where its view has become `new`; a list of pieces for a parent that is several."""
        create = self._tracer.create_node
        above = self._tracer.value(parent)
        if not isinstance(above, TensorSpec):
            at: Any = view.args[1]
            place = at % len(above)
            return [
                new if index == place else create("call_function", operator.getitem, (parent, index), {})
                for index in range(len(above))
            ]
        module = self._tracer.program.module(str(view.target)) if view.op == "call_module" else None
        call = bind_node(view, module)
        assert call is not None
        name, given = call.op.name, call.record.named()
        if name in _SAME:
            return new
        if name in _SAME_ORDER or name in _SAME_ORDER_WHERE_AS_MANY:
            return create("call_method", "reshape_as", (new, parent), {})
        if name in _OTHER_ORDER:
            with self._tracer.computing():
                axes = self._axes(view, above.ndim)
            order = [axes.index(axis) for axis in range(above.ndim)]
            return create("call_method", "permute", (new, tuple(order)), {})
        if name == "unbind":
            return create("call_function", stack, (new, given["dim"]), {})
        if name in _PIECES:
            return create("call_function", cat, (new, given["dim"]), {})
        return create("call_function", with_item, (parent, self._subscript(name, given, above.ndim), new), {})

    def _subscript(self, name: str, given: Mapping[str, Any], ndim: int) -> Any:
        """The subscript that stands for a view of a part of its operand."""
        if name == "getitem":
            return given["index"]
        entry: Any = given.get("index")
        if name == "narrow":
            start, length = given["start"], given["length"]
            end: Any
            if isinstance(start, fx.Node) or isinstance(length, fx.Node):
                end = self._tracer.create_node("call_function", operator.add, (start, length), {})
            else:
                to_the_end = start < 0 and start + length == 0
                end = None if to_the_end else start + length
            entry = slice(start, end)
        return (*[slice(None)] * (given["dim"] % ndim), entry)

    def _is_tensor(self, leaf: fx.Node) -> bool:
        return isinstance(self._tracer.value(leaf), TensorSpec)

    def _axes(self, view: fx.Node, ndim: int) -> list[int]:
        """For each axis of a view in another order, that of its operand: read off the strides of a small one."""
        operand = torch.empty([2] * ndim, device="meta")
        strides = list(operand.stride())
        args, kwargs = map_leaves((view.args, dict(view.kwargs)), lambda leaf: operand)
        return [strides.index(stride) for stride in self._applied(view, args, kwargs).stride()]

    # Through positions --------------------------------------------------------------------------

    def _by_positions(self, root: fx.Node, steps: tuple[Step, ...], result: fx.Node) -> fx.Node:
        create = self._tracer.create_node
        above = self._tracer.value(root)
        op = op_of(steps[-1].view, self._tracer.program.module)
        how = f"through a view made by {op.name if op else steps[-1].view.name}"
        if not isinstance(above, TensorSpec) or any(isinstance(size, Dim) for size in above.shape):
            raise UnfollowableError(f"{how}, which cannot be followed back at dynamic sizes")
        positions = self._positions(root, above, steps)
        if positions is None:
            raise UnfollowableError(f"{how}, which cannot be followed back")
        if len(set(positions.flatten().tolist())) != positions.numel():
            raise UnfollowableError(f"{how}, which has one element in several places")
        flat = create("call_method", "reshape", (root, (-1,)), {})
        values = create("call_method", "reshape", (result, (-1,)), {})
        where = self._tracer.constant(positions.reshape(-1))
        written = create("call_function", with_item, (flat, (where,), values), {})
        return create("call_method", "reshape", (written, above.shape), {})

    def _positions(self, root: fx.Node, above: TensorSpec, steps: tuple[Step, ...]) -> torch.Tensor | None:
        """Which elements of the root its view shows; None where the views are not of whole elements."""
        numel = above.numel()
        like = self._memory.tensor(root)
        with self._tracer.computing():
            numbers = torch.arange(hint(numel)).reshape(tuple(map(hint, above.shape)))
            if isinstance(like, torch.Tensor) and like.shape == numbers.shape:
                numbers = torch.empty_strided(like.shape, like.stride(), dtype=torch.int64).copy_(numbers)
            found: Any = numbers
            for step in steps:
                op = op_of(step.view, self._tracer.program.module)
                if op is not None and op.name in _SAME:
                    continue
                if op is not None and op.name in _PARTS and any(map(self._is_tensor, _others(step))):
                    return None  # where the part begins is for the data to say
                taken = found

                def operand(leaf: fx.Node, taken: Any = taken, step: Step = step) -> Any:
                    return taken if leaf is step.operand else self._stand_in(leaf)

                args, kwargs = map_leaves((step.view.args, dict(step.view.kwargs)), operand)
                try:
                    found = self._applied(step.view, args, kwargs)
                except Exception:  # the view needs other data, or another dtype
                    return None
            return found if isinstance(found, torch.Tensor) and found.dtype == torch.int64 else None

    def _stand_in(self, leaf: fx.Node) -> Any:
        """Another operand of a view, which gives it no more than a shape. Raises ShapeError where that is dynamic."""

        def fixed(value: Any) -> Any:
            sizes = value.shape if isinstance(value, TensorSpec) else (value,)
            check(not any(isinstance(size, Dim) for size in sizes), "{} is dynamic", value)
            shape: Any = sizes
            return torch.zeros((), dtype=torch.int64).expand(shape) if isinstance(value, TensorSpec) else value

        return map_structure(self._tracer.value(leaf), fixed)

    def _applied(self, view: fx.Node, args: Any, kwargs: Any) -> Any:
        if view.op == "call_method":
            return getattr(args[0], str(view.target))(*args[1:], **kwargs)
        if view.op == "call_module":
            return self._tracer.program.module(str(view.target))(*args, **kwargs)
        assert callable(view.target)
        return view.target(*args, **kwargs)


def taken_again(
    tracer: Recorder, step: Step, operand: fx.Node, again: dict[tuple[fx.Node, fx.Node], fx.Node]
) -> fx.Node:
    """The same view of another operand; `again` has those that were taken already."""
    if step.operand is operand:
        return step.view
    known = again.get((step.view, operand))
    if known is None:
        args, kwargs = map_leaves(
            (step.view.args, dict(step.view.kwargs)), lambda leaf: operand if leaf is step.operand else leaf
        )
        known = again[(step.view, operand)] = tracer.create_node(step.view.op, step.view.target, args, kwargs)
    return known


# View operations by what undoes them.
_SAME = frozenset({"same", "to", "type", "identity", "dropout", "dropout1d", "positive", "conj", "tensor"})
_SAME_ORDER = frozenset({"view", "view_as", "flatten", "ravel", "unflatten", "squeeze", "unsqueeze"})
_SAME_ORDER_WHERE_AS_MANY = frozenset({"expand", "expand_as", "atleast_1d", "atleast_2d", "atleast_3d"})
_OTHER_ORDER = frozenset({"permute", "transpose", "movedim", "t", "attribute"})
_PIECES = frozenset({"split", "chunk", "tensor_split"})
_PARTS = frozenset({"getitem", "select", "narrow"})
_WITH_OPPOSITE = _SAME | _SAME_ORDER | _OTHER_ORDER | _PARTS


def _others(step: Step) -> list[fx.Node]:
    """The operands that the step's view is not one of."""
    return [operand for operand in step.view.all_input_nodes if operand is not step.operand]


__all__ = ["Step", "UnfollowableError", "WriteBack", "taken_again"]
