"""Where traced tensors lie in memory: asked of torch itself, on meta tensors, only once something is written in place.

Whether an operation gives a view or a copy may depend on strides, which no rule of ours knows. So the operations are
run on meta tensors of the sampled sizes, with the strides that torch gives their operands: what then has one storage
shares memory. What cannot be run is assumed to lie once in this order and once in the opposite, and an answer that
depends on it is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from passes.isolation.plain_attention import plain_attention
from passes.modules.lazy import is_uninitialized
from passes.ops.op import Op, find_function, find_method, find_module, is_inplace, map_leaves
from passes.program.notes import VALUE
from passes.sizes.dimension import hint, sampled
from passes.stages.meta_execution import on_meta
from passes.values.nested import leaves, map_structure
from passes.values.spec import TensorSpec
from tracer.memory.real_tensors import memory_of
from tracer.memory.recorder import Recorder


class UndecidedError(Exception):
    """Whether two tensors share memory depends on strides that are not known."""


class Memory:
    """Says of which operand the result of an operation is a view."""

    def __init__(self, tracer: Recorder):
        self._tracer = tracer
        self._same: dict[fx.Node, fx.Node] = {}
        self._rows, self._columns = _Layouts(tracer, self._same, rows=True), _Layouts(tracer, self._same, rows=False)

    def keep(self, node: fx.Node, before: fx.Node) -> None:
        """Notes that `node` is what a write left where `before` lay."""
        self._same[node] = before

    def tensor(self, node: fx.Node) -> Any:
        """The node's value as meta tensors with the strides that it has."""
        return self._rows.of(node)

    def viewed(self, node: fx.Node, places: tuple[Any, ...] = ()) -> fx.Node | None:
        """The operand in whose memory the node's value lies, or, of several values, that at `places`, one in another.

        None where it has memory of its own. Raises UndecidedError.
        """
        found = self._rows.viewed(node, places)
        if self._may_differ(node) and self._columns.viewed(node, places) is not found:
            raise UndecidedError
        return found

    def are_one(self, node: fx.Node, other: fx.Node) -> bool:
        """Whether two nodes give one tensor object, as `x` and `x.contiguous()` may. Raises UndecidedError."""
        found = self._rows.of(node) is self._rows.of(other)
        if self._may_differ(node) and (self._columns.of(node) is self._columns.of(other)) is not found:
            raise UndecidedError
        return found

    def _may_differ(self, node: fx.Node) -> bool:
        """Whether strides were assumed; in an order that torch refuses the operation for, they cannot lie."""
        return self._rows.assumes and self._columns.of(node) is not UNKNOWN


class _Layouts:
    """The meta tensors of nodes. Where strides are not known, axes lie in rows: the last has the smallest stride."""

    def __init__(self, tracer: Recorder, same: dict[fx.Node, fx.Node], rows: bool):
        self._tracer = tracer
        self._same = same
        self._in_rows = rows
        self._found: dict[fx.Node, Any] = {}
        self._storages: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.assumes = False

    def of(self, node: fx.Node) -> Any:
        """The node's value as meta tensors."""
        waiting = [node]
        while waiting:
            current = waiting[-1]
            if current in self._found:
                waiting.pop()
                continue
            before = self._same.get(current)
            needed = [before] if before is not None else current.all_input_nodes
            missing = [operand for operand in needed if operand not in self._found]
            if missing:
                waiting.extend(missing)
                continue
            self._found[current] = self._found[before] if before is not None else self._compute(current)
            waiting.pop()
        return self._found[node]

    def viewed(self, node: fx.Node, places: tuple[Any, ...]) -> fx.Node | None:
        if self.of(node) is UNKNOWN:
            raise UndecidedError
        storages = _storages(_member(self.of(node), places))
        found = [operand for operand in node.all_input_nodes if storages & _storages(self.of(operand))]
        return self._one_of(found, node, places) if len(found) > 1 else next(iter(found), None)

    def _one_of(self, operands: list[fx.Node], node: fx.Node, places: tuple[Any, ...]) -> fx.Node:
        """Of operands that share memory themselves, the one that the view is of: told apart by running it on others."""
        with self._tracer.computing(), torch.no_grad():
            apart = {operand: map_structure(self.of(operand), _elsewhere) for operand in operands}
            result = _member(self._run(node, op_of(node, self._tracer.program.module), apart), places)
        found = [operand for operand in operands if _storages(result) & _storages(apart[operand])]
        if len(found) != 1:
            raise UndecidedError
        return found[0]

    def _compute(self, node: fx.Node) -> Any:
        value = self._tracer.value(node)
        with self._tracer.computing(), torch.no_grad(), plain_attention():
            if node.op == "placeholder":
                return _sampled(value)
            if node.op == "get_attr":
                return self._own(self._tracer.program.tensor(str(node.target)), value)
            op = op_of(node, self._tracer.program.module)
            try:
                found = self._run(node, op, {})
            except Exception:  # the operation needs data, or does not take operands that lie like this
                found = None
            if _described(found) == _described(_sampled(value)):
                return found
            return UNKNOWN if op is not None and op.view and not _picks(op, node) else self._assumed(value)

    def _run(self, node: fx.Node, op: Op | None, instead: Mapping[fx.Node, Any]) -> Any:
        known = {**{operand: self._found[operand] for operand in node.all_input_nodes}, **instead}
        args, kwargs = map_leaves((node.args, dict(node.kwargs)), known.__getitem__)
        if op is not None and op.name in _AT_POSITIONS:
            args = (args[0], *map_structure(args[1:], _position))
            kwargs = map_structure(kwargs, _position)
        if op is not None and op.name in ("to", "type"):
            return self._converted(node, args, kwargs)
        with torch.device("meta"):
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            if node.op == "call_function":
                if op is not None and op.name in _BY_DEVICE:
                    return None
                function: Any = node.target
                return function(*args, **kwargs)
            module = self._tracer.program.module(str(node.target))
            if self._tracer.program.awaits(module) or any(map(is_uninitialized, module.parameters())):
                return None
            return on_meta(module)(*args, **kwargs)

    def _converted(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Another dtype or device; where it has both already, the tensor itself, unless a copy is asked for."""
        before, after = self._tracer.value(first_operand(node)), self._tracer.value(node)
        if (before.dtype, before.device) != (after.dtype, after.device) or kwargs.get("copy"):
            return self._assumed(after)
        like = kwargs.get("memory_format", torch.preserve_format)
        return args[0].to(after.dtype, memory_format=like)

    def _own(self, tensor: torch.Tensor, value: Any) -> Any:
        """A real tensor's like; real tensors that share a storage have likes that do."""
        if is_uninitialized(tensor) or tensor.layout is not torch.strided:
            return _sampled(value)
        storage, key = tensor.untyped_storage(), memory_of(tensor)
        assert key is not None
        if key not in self._storages:
            bytes_ = torch.empty(storage.nbytes(), dtype=torch.uint8, device="meta")
            self._storages[key] = tensor, bytes_
        like = torch.empty(0, dtype=tensor.dtype, device="meta")
        like.set_(self._storages[key][1].untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
        return like

    def _assumed(self, value: Any) -> Any:
        def lie(leaf: Any) -> Any:
            if not isinstance(leaf, TensorSpec):
                return hint(leaf)
            self.assumes = True
            sizes = sampled(leaf.shape)
            if self._in_rows:
                return torch.empty(sizes, dtype=leaf.dtype, device="meta")
            return torch.empty(sizes[::-1], dtype=leaf.dtype, device="meta").permute(tuple(reversed(range(leaf.ndim))))

        return map_structure(value, lie)


# What a view is of whose operation could not be run.
UNKNOWN = object()

# Views at a position: one that is a tensor without axes is read as a number.
_AT_POSITIONS = frozenset({"getitem", "select", "narrow"})


def _elsewhere(leaf: Any) -> Any:
    """A meta tensor with the same strides in memory of its own."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")


def _member(value: Any, places: tuple[Any, ...]) -> Any:
    for place in places:
        value = value[place]
    return value


def first_operand(node: fx.Node) -> fx.Node:
    """The node that a view operation is called on."""
    operand = node.args[0] if node.args else next(iter(node.kwargs.values()))
    assert isinstance(operand, fx.Node)
    return operand


def _position(leaf: Any) -> Any:
    is_number = isinstance(leaf, torch.Tensor) and not leaf.ndim and not leaf.dtype.is_floating_point
    return 0 if is_number and leaf.dtype not in (torch.bool, torch.uint8) else leaf


def _picks(op: Op, node: fx.Node) -> bool:
    """Whether it is a subscript with index tensors or masks, which copies."""
    if op.name != "getitem":
        return False
    found = map_structure(node.args[1:], lambda leaf: VALUE.get(leaf) if isinstance(leaf, fx.Node) else leaf)
    return any(
        isinstance(leaf, TensorSpec) and (leaf.ndim > 0 or leaf.dtype in (torch.bool, torch.uint8))
        for leaf in leaves(found)
    )


# Its result lies in another order on another device.
_BY_DEVICE = frozenset({"attention"})


def op_of(node: fx.Node, module: Callable[[str], nn.Module] | None = None) -> Op | None:
    """The op that covers a node; None where none does, and for in-place spellings, which are no views."""
    found: tuple[Op, Any] | None = None
    if node.op == "call_method":
        found = find_method(str(node.target)) if not is_inplace(str(node.target)) else None
    elif node.op == "call_function":
        found = find_function(node.target)
    elif node.op == "call_module" and module is not None:
        found = find_module(type(module(str(node.target))))
    return found[0] if found is not None else None


def _sampled(value: Any) -> Any:
    return map_structure(value, lambda leaf: leaf.meta_tensor() if isinstance(leaf, TensorSpec) else hint(leaf))


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, (tuple, list)):
        return tuple(map(_described, value))
    if isinstance(value, dict):
        return {key: _described(item) for key, item in value.items()}
    return value


def _storages(value: Any) -> set[int]:
    """The storages of every tensor in a value."""
    return {leaf.untyped_storage()._cdata for leaf in leaves(value) if isinstance(leaf, torch.Tensor)}
