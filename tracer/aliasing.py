"""Writes in place, followed through views: every traced tensor that shares memory sees them.

A graph has values, not memory. So a write to a tensor makes a new value; where the tensor is a view, the value is put
back into what it is a view of, step by step (`setitem` for a slice, the opposite permutation for a transpose), and the
other views of the same memory are taken again from there. Nothing of this costs anything before the first write.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import cat, fx, stack  # as they are: while tracing, those of the module are recorded

from passes.dimension import hint
from passes.errors import CaptureError
from passes.nested import map_structure
from passes.ops.assignment import with_item
from passes.ops.elementwise import written_into
from passes.ops.op import FUNCTIONS, Op, bind_node, find_method, is_inplace
from passes.spec import TensorSpec

if TYPE_CHECKING:
    from tracer.capture import CapturingTracer
    from tracer.traced_values import TracedTensor


@dataclass(frozen=True, slots=True)
class Alias:
    """What a node is a view of: the node that has the memory, and the view nodes that lead from there, in order."""

    root: fx.Node
    views: tuple[fx.Node, ...] = ()


class Aliases:
    """Which traced tensors share memory, and what a write to one does to the others."""

    def __init__(self, tracer: CapturingTracer):
        self._tracer = tracer
        self._aliases: dict[fx.Node, Alias] = {}
        self._tensors: dict[fx.Node, list[weakref.ref[Any]]] = {}

    def add(self, tensor: TracedTensor) -> None:
        """Notes a new traced tensor."""
        self._join(tensor, self.alias(tensor.node))

    def alias(self, node: fx.Node) -> Alias:
        """What the node is a view of; of itself, where it has memory of its own."""
        found = self._aliases.get(node)
        if found is None:
            operand = node.args[0] if node.args else None
            op = _op_of(node)
            if op is not None and op.view and isinstance(operand, fx.Node):
                above = self.alias(operand)
                found = Alias(above.root, (*above.views, node))
            else:
                found = Alias(node)
            self._aliases[node] = found
        return found

    def write(self, tensor: TracedTensor, written: fx.Proxy) -> None:
        """From here on `tensor`, and all that share its memory, stand for what the operation `written` left there.

        Raises CaptureError where the write goes through a view that cannot be followed back.
        """
        result = self._as_before(tensor.node, written.node)
        alias = self._in_memory(self.alias(tensor.node))
        others = [other for other in self._sharing(self.alias(tensor.node).root) if other is not tensor]
        sharing = [(other, view) for other in others if (view := self._seen_from(alias.root, other.node)) is not None]
        root = result
        if alias.views and sharing:
            root = self._put_back(alias, result)
        self._aliases[result] = Alias(root, alias.views if root is not result else ())
        self._move(tensor, result)
        self._join(written, self.alias(result))  # the operation's own result is the tensor, too
        for other, views in sharing:
            taken = self._take(views, root)
            self._aliases[taken] = Alias(root, views)
            self._move(other, taken)

    def become(self, tensor: TracedTensor, node: fx.Node) -> None:
        """From here on `tensor` alone is what another node is, in that one's memory: `tensor.data = other`."""
        self._move(tensor, node)

    # What shares memory -------------------------------------------------------------------------

    def _sharing(self, root: fx.Node) -> list[TracedTensor]:
        """The tensors in use that are views of a node, as far as the kinds of their operations say."""
        found = {id(tensor): tensor for known in self._tensors.get(root, ()) if (tensor := known()) is not None}
        return [tensor for tensor in found.values() if self.alias(tensor.node).root is root]

    def _in_memory(self, alias: Alias) -> Alias:
        """The alias without what turns out to be a copy: a `reshape` across strides, a `to` another dtype."""
        root, views = alias.root, alias.views
        with self._tracer.computing():
            memory = self._meta(root) if views else None
            for index, view in enumerate(alias.views):
                operand = memory
                memory = self._viewed(view, operand)
                if not _same_memory(memory, operand):
                    root, views, memory = view, alias.views[index + 1 :], self._meta(view)
        return Alias(root, views)

    def _seen_from(self, root: fx.Node, node: fx.Node) -> tuple[fx.Node, ...] | None:
        """The views that lead from `root` to `node`, or None where the node has other memory."""
        alias = self._in_memory(self.alias(node))
        return alias.views if alias.root is root else None

    def _meta(self, node: fx.Node) -> Any:
        return map_structure(
            self._tracer.value(node), lambda leaf: leaf.meta_tensor() if isinstance(leaf, TensorSpec) else leaf
        )

    def _viewed(self, view: fx.Node, operand: Any) -> Any:
        """The view of a meta tensor, at the sampled sizes; None where it cannot be one, since it depends on data."""
        args, kwargs = map_structure((view.args[1:], view.kwargs), self._sampled)
        try:
            return _apply(view, operand, args, kwargs)
        except (NotImplementedError, RuntimeError):
            return None

    def _sampled(self, leaf: Any) -> Any:
        if not isinstance(leaf, fx.Node):
            return leaf
        value = self._tracer.value(leaf)
        return value.meta_tensor() if isinstance(value, TensorSpec) else hint(value)

    # From a view back to what it is a view of, and from there to the other views ----------------

    def _as_before(self, target: fx.Node, result: fx.Node) -> fx.Node:
        """The result in the dtype of the tensor that is written to, which a write does not change.

        Raises ShapeError where torch would not write it there.
        """
        before, after = self._tracer.value(target), self._tracer.value(result)
        if not isinstance(before, TensorSpec) or not isinstance(after, TensorSpec):
            return result
        op = _op_of(result)
        # A view in place, like `squeeze_`, may have another shape, and torch resizes an `out` that has.
        if op is not None and not op.view and "out" not in result.kwargs:
            written_into(before, after)
        if before.dtype != after.dtype:
            return self._tracer.create_node("call_method", "to", (result, before.dtype), {})
        return result

    def _put_back(self, alias: Alias, result: fx.Node) -> fx.Node:
        """The root's new value, where the last of the views has become `result`."""
        parents = [alias.root]
        for view in alias.views[:-1]:
            parents.append(self._taken(view, parents[-1]))
        new: Any = result
        for parent, view in zip(reversed(parents), reversed(alias.views), strict=True):
            new = self._undo(view, parent, new)
        root: fx.Node = new
        return root

    def _take(self, views: tuple[fx.Node, ...], root: fx.Node) -> fx.Node:
        node = root
        for view in views:
            node = self._taken(view, node)
        return node

    def _taken(self, view: fx.Node, operand: fx.Node) -> fx.Node:
        if view.args[0] is operand:
            return view
        return self._tracer.create_node(view.op, view.target, (operand, *view.args[1:]), dict(view.kwargs))

    def _undo(self, view: fx.Node, parent: fx.Node, new: Any) -> Any:
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
        call = bind_node(view, None)
        assert call is not None
        name, given = call.op.name, call.arguments
        if name in _SAME:
            return new
        if name in _SAME_ORDER:
            return create("call_method", "reshape_as", (new, parent), {})
        if name in _OTHER_ORDER:
            with self._tracer.computing():
                axes = _axes(view, above.ndim)
            order = [axes.index(axis) for axis in range(above.ndim)]
            return create("call_method", "permute", (new, *order), {})
        if name == "unbind":
            return create("call_function", stack, (new, given["dim"]), {})
        if name in _PIECES:
            return create("call_function", cat, (new, given["dim"]), {})
        subscript = _subscript(name, given, above.ndim)
        return create("call_function", with_item, (parent, subscript, new), {})

    def _move(self, tensor: TracedTensor, node: fx.Node) -> None:
        self._tracer.rebind(tensor, node)
        self._join(tensor, self.alias(node))

    def _join(self, tensor: fx.Proxy, alias: Alias) -> None:
        self._tensors.setdefault(alias.root, []).append(weakref.ref(tensor))


# View operations by what undoes them.
_SAME = frozenset({"same", "to", "type"})
_SAME_ORDER = frozenset({"view", "view_as", "flatten", "ravel", "unflatten", "squeeze", "unsqueeze"})
_OTHER_ORDER = frozenset({"permute", "transpose", "movedim", "t", "attribute"})
_PIECES = frozenset({"split", "chunk", "tensor_split"})


def _subscript(name: str, given: Mapping[str, Any], ndim: int) -> Any:
    """The subscript that stands for a view of a part of its operand. Raises CaptureError where there is none."""
    if name == "getitem":
        return given["index"]
    if name not in ("select", "narrow") or any(isinstance(value, fx.Node) for value in list(given.values())[1:]):
        raise CaptureError(
            f"the forward writes in place through a view made by {name}, which cannot be followed back",
            remedy="write to the tensor itself, or compute a new one",
        )
    entry: Any = given.get("index")
    if name == "narrow":
        end = given["start"] + given["length"]
        entry = slice(given["start"], end if end or given["start"] >= 0 else None)
    return (*[slice(None)] * (given["dim"] % ndim), entry)


def _axes(view: fx.Node, ndim: int) -> list[int]:
    """For each axis of a view in another order, the axis of its operand: read off the strides of a small one."""
    operand = torch.empty([2] * ndim, device="meta")
    strides = list(operand.stride())
    return [strides.index(stride) for stride in _apply(view, operand, view.args[1:], view.kwargs).stride()]


def _apply(view: fx.Node, operand: Any, args: Any, kwargs: Any) -> Any:
    if view.op == "call_method":
        return getattr(operand, str(view.target))(*args, **kwargs)
    assert callable(view.target)
    return view.target(operand, *args, **kwargs)


def _same_memory(view: Any, operand: Any) -> bool:
    """Whether what an operation gave (a tensor, or several) lies in its operand's memory."""
    if isinstance(operand, (tuple, list)):  # one of several pieces: decided where they were cut
        return True
    pieces = view if isinstance(view, (tuple, list)) else (view,)
    memory = operand.untyped_storage()._cdata
    return all(piece is not None and piece.untyped_storage()._cdata == memory for piece in pieces)


def _op_of(node: fx.Node) -> Op | None:
    if node.op == "call_method":
        found = find_method(str(node.target))
        return found[0] if found is not None and not is_inplace(str(node.target)) else None
    known = FUNCTIONS.get(node.target) if node.op == "call_function" else None  # type: ignore[arg-type]
    return known[0] if known is not None else None
