"""Writes in place, followed through views: every traced tensor that shares memory sees them.

A graph has values, not memory. So a write to a tensor makes a new value; where the tensor is a view, the value is put
back into what it is a view of (`write_back`), and the other views of the same memory are taken again from there.
Which operations give views is declared with the ops, whether one did is torch's to say (`memory`). Nothing of this
costs anything before the first write, nor where nothing else in use can share memory with what is written.

What cannot be followed is refused only where it matters: the tensors that the write may have reached stand for
`unfollowed` from there on, and an output that depends on it is refused.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from passes.errors import CaptureError
from passes.ops.elementwise import written_into
from passes.ops.layout import COPIES
from passes.ops.op import is_inplace
from passes.program.notes import location_of
from passes.program.regions import ends_region, runs_region
from passes.values.spec import TensorSpec, describe
from tracer.memory.recorder import Recorder
from tracer.memory.storage import Memory, UndecidedError, first_operand, op_of
from tracer.memory.write_back import Step, UnfollowableError, WriteBack, taken_again

if TYPE_CHECKING:
    from tracer.capture.values.tensor import TracedTensor


@dataclass(frozen=True, slots=True)
class Alias:
    """What a node is a view of: the node that has the memory, and the views that lead from there, in order."""

    root: fx.Node
    views: tuple[Step, ...] = ()


class Aliases:
    """Which traced tensors share memory, and what a write to one does to the others."""

    def __init__(self, tracer: Recorder):
        self._tracer = tracer
        self._memory = Memory(tracer)
        self._settled: dict[fx.Node, Alias] = {}
        self._found: dict[fx.Node, Alias] = {}
        self._possible: dict[fx.Node, frozenset[fx.Node]] = {}
        self._tensors: dict[int, weakref.ref[Any]] = {}

    def add(self, tensor: TracedTensor) -> None:
        """Notes a new traced tensor."""
        key = id(tensor)
        self._tensors[key] = weakref.ref(tensor, lambda _: self._tensors.pop(key, None))

    def write(self, tensor: TracedTensor, written: fx.Node, resizes: bool = False) -> None:
        """From here on `tensor`, and all that share its memory, stand for what the operation `written` left there.

        An operation that `resizes` may leave another shape. Raises ShapeError where torch would not write it there.
        """
        before = tensor.node
        self._check_inside(before)
        self._tracer.real.before_write(self._roots(before))
        result = self._as_before(before, written, resizes)
        others = list(self._others(tensor))
        try:
            alias = self._alias(before)
            sharing = [(other, view) for other in others if (view := self._seen_from(alias.root, other)) is not None]
            root = result
            if sharing and self._shape(result) != self._shape(before):
                raise UnfollowableError("gives it another size")
            if sharing and alias.views:
                root = WriteBack(self._tracer, self._memory).put_back(alias.root, alias.views, result)
            stays = before if root is result else alias.root
            one = [other for other, steps in sharing if not steps and self._memory.are_one(other.node, stays)]
        except (UndecidedError, UnfollowableError) as refusal:
            self._give_up(others, before, refusal)
            self._settle(tensor, result, Alias(result), before)
            return
        views = alias.views if root is not result else ()
        if root is not result:
            self._memory.keep(root, alias.root)
        apart: dict[int, fx.Node] = {}
        again: dict[tuple[fx.Node, fx.Node], fx.Node] = {}
        self._settle(tensor, result, Alias(root, views), before)
        for other, steps in sharing:
            node = root
            for step in steps:
                node = taken_again(self._tracer, step, node, again)
            if node is root and not any(other is same for same in one):  # the same elements, but not the same tensor
                which = id(self._memory.tensor(other.node))
                if which not in apart:
                    apart[which] = self._tracer.create_node("call_function", getattr, (root, "data"), {})
                node = apart[which]
            self._settle(other, node, Alias(root, steps), other.node)

    def replace(self, tensor: TracedTensor, view: fx.Node) -> None:
        """From here on `tensor` stands for a view of itself, or for another tensor; those it shares memory with stay.

        What torch gave back for it as it was (`x.contiguous()`, `x.float()`) is the same tensor.
        """
        if self._tracer.regions.is_outside(tensor.node):
            raise self._written_from_within(tensor.node)
        others = list(self._others(tensor))
        try:
            one = [other for other in others if self._memory.are_one(other.node, tensor.node)]
        except UndecidedError as refusal:
            self._give_up(others, tensor.node, refusal)
            one = []
        for same in (tensor, *one):
            self._tracer.rebind(same, view)

    def are_same(self, node: fx.Node, view: fx.Node) -> None:
        """Notes that `node` lies where `view` lies: it is a constant that turned out to share memory with another."""
        self._found.clear()
        self._possible.clear()
        self._settled[node] = self._alias(view)

    def memory(self, tensor: TracedTensor) -> frozenset[fx.Node]:
        """The nodes in whose memory a tensor may lie, as far as the kinds of operations say."""
        return self._roots(tensor.node)

    def _check_inside(self, written: fx.Node) -> None:
        """Raises CaptureError for a write in a branch or a loop to what lies in memory from outside of it, or may."""
        if not any(map(self._tracer.regions.is_outside, self._roots(written))):
            return
        try:
            inside = not self._tracer.regions.is_outside(self._alias(written).root)
        except UndecidedError:
            inside = False
        if not inside:
            raise self._written_from_within(written)

    def _written_from_within(self, node: fx.Node) -> CaptureError:
        return CaptureError(
            f"{node.name} {describe(self._tracer.value(node))} is written in place within a branch or a loop, which is "
            "given it or finds it outside",
            remedy="write to a clone of it, and return that",
        )

    # What shares memory -------------------------------------------------------------------------

    def _others(self, tensor: TracedTensor) -> Iterator[TracedTensor]:
        """The tensors in use that may share memory with one, as far as the kinds of operations say."""
        possible = self._roots(tensor.node)
        in_use = [other for known in list(self._tensors.values()) if (other := known()) is not None]
        for other in in_use:
            if other is tensor or not possible & self._roots(other.node):
                continue
            if isinstance(self._tracer.value(other.node), TensorSpec):
                yield other
            elif self._gives_views(other.node):  # several tensors: from here on each by itself
                yield from (member for member in other.members() if member is not tensor)

    def _roots(self, node: fx.Node) -> frozenset[fx.Node]:
        """The nodes in whose memory this one's may lie."""
        known = self._possible.get(node)
        if known is not None:
            return known
        waiting = [node]
        while waiting:
            current = waiting[-1]
            if current not in self._possible:
                alias = self._settled.get(current)
                if alias is not None:
                    self._possible[current] = frozenset({alias.root})
                elif not self._gives_views(current):
                    self._possible[current] = frozenset({current})
                elif missing := [above for above in current.all_input_nodes if above not in self._possible]:
                    waiting.extend(missing)
                    continue
                else:
                    above = (self._possible[above] for above in current.all_input_nodes)
                    self._possible[current] = frozenset({current}).union(*above)
            waiting.pop()
        return self._possible[node]

    def _gives_views(self, node: fx.Node) -> bool:
        """Whether the node's operation may give views of its operands; what no op covers may do anything."""
        if node.op not in ("call_function", "call_method", "call_module") or node.target is unfollowed:
            return False
        if node.target in COPIES:
            return False
        if runs_region(node):
            return self._hands_on(node)
        op = op_of(node, self._tracer.program.module)
        return op.view if op is not None else not _writes(node)

    def _hands_on(self, node: fx.Node) -> bool:
        """Whether what a branch or a loop gives may lie in memory from outside of it, or two results in one."""
        for end in filter(ends_region, node.all_input_nodes):
            begin, results = end.args
            seen: set[fx.Node] = set()
            for result in results:  # type: ignore[union-attr]
                roots = self._roots(result) if isinstance(result, fx.Node) else frozenset()
                if roots & seen or not all(self._tracer.regions.is_within(root, begin) for root in roots):  # type: ignore[arg-type]
                    return True
                seen |= roots
        return False

    def _alias(self, node: fx.Node) -> Alias:
        """What the node is a view of; of itself, where it has memory of its own. Raises UndecidedError."""
        found = self._settled.get(node) or self._found.get(node)
        if found is None:
            found = self._found[node] = self._find(node)
        return found

    def _find(self, node: fx.Node) -> Alias:
        if not self._gives_views(node):
            return Alias(node)
        steps: tuple[Step, ...] = ()
        maker = node
        while maker.target is operator.getitem and not self._is_tensor(whole := first_operand(maker)):
            steps = (Step(maker, whole), *steps)  # a member of several
            maker = whole
        if not self._gives_views(maker):
            return Alias(node)
        if runs_region(maker):  # which of them, is for data to say
            raise UndecidedError
        seen = self._memory.viewed(maker, tuple(step.view.args[1] for step in steps))
        if seen is None:
            return Alias(node)
        above = self._alias(seen)
        return Alias(above.root, (*above.views, Step(maker, seen), *steps))

    def _seen_from(self, root: fx.Node, other: TracedTensor) -> tuple[Step, ...] | None:
        """The views that lead from `root` to a tensor, or None where that has other memory."""
        alias = self._alias(other.node)
        return alias.views if alias.root is root else None

    # What becomes of them -----------------------------------------------------------------------

    def _as_before(self, target: fx.Node, result: fx.Node, resizes: bool) -> fx.Node:
        """The result in the dtype of the tensor that is written to, which a write does not change."""
        before, after = self._tracer.value(target), self._tracer.value(result)
        if not isinstance(before, TensorSpec) or not isinstance(after, TensorSpec):
            return result
        if not resizes:
            written_into(before, after)
        if before.dtype != after.dtype:
            return self._tracer.create_node("call_method", "to", (result, before.dtype), {})
        return result

    def _settle(self, tensor: TracedTensor, node: fx.Node, alias: Alias, before: fx.Node) -> None:
        self._settled[node] = alias
        self._possible[node] = frozenset({alias.root})
        if node is not before:
            self._memory.keep(node, before)
        self._tracer.rebind(tensor, node)

    def _give_up(self, others: list[TracedTensor], written: fx.Node, reason: Exception) -> None:
        for other in others:
            text = (
                f"the forward writes in place to {written.name}, {reason}"
                if str(reason)
                else f"whether a write in place to {written.name} reaches {other.node.name} depends on how they lie in "
                "memory, which is not known"
            )
            node = self._tracer.create_node("call_function", unfollowed, (other.node, text), {})
            self._settle(other, node, Alias(node), other.node)

    def _is_tensor(self, node: fx.Node) -> bool:
        return isinstance(self._tracer.value(node), TensorSpec)

    def _shape(self, node: fx.Node) -> Any:
        value = self._tracer.value(node)
        return value.shape if isinstance(value, TensorSpec) else None


def unfollowed(input: Any, reason: str) -> Any:
    """What stands for a tensor that a write in place may have reached in a way that cannot be followed."""
    return input


def refuse_unfollowed(output: fx.Node) -> None:
    """Raises CaptureError where the output depends on a tensor whose value could not be followed."""
    seen: set[fx.Node] = set()
    waiting = [output]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.target is unfollowed:
            raise CaptureError(
                str(node.args[1]), remedy="write to the tensor itself before it is used otherwise, or compute a new one"
            ).placed(location_of(node))
        waiting.extend(node.all_input_nodes)


def _writes(node: fx.Node) -> bool:
    """Whether it is an in-place operation, whose result has been noted as what it leaves."""
    return node.op == "call_method" and is_inplace(str(node.target))


__all__ = ["Alias", "Aliases", "refuse_unfollowed", "unfollowed"]
