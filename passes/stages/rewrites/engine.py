"""Rewrites applied to a program, as often as one holds.

Every node is visited once, in the graph's order, and again when a replacement has changed what it is of, or left it the
only user of its operand. Each replacement removes a node, so that this ends. All that is to be kept in order around a
replacement is here: the users' arguments, what is erased, how often a module is called.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import fx

from passes.ops.rewrite import Layer, Rewrite, Site
from passes.program.notes import CALL, ORDINAL, VALUE
from passes.program.stages import Eager
from passes.values.nested import leaves


def apply_rewrites(program: Eager, rows: Iterable[Rewrite]) -> None:
    """Applies the rows until none holds. Of two that hold at a node, it is the first."""
    by_last: dict[str, list[Rewrite]] = {}
    for row in rows:
        by_last.setdefault(row.pattern[-1], []).append(row)
    engine = _Engine(program)
    while engine.waiting:
        node, _ = engine.waiting.popitem(last=False)
        call = CALL.get(node)
        for row in by_last.get(call.op.name, ()) if call is not None else ():
            if engine.try_at(node, row):
                break


class _Engine:
    def __init__(self, program: Eager):
        self.program = program
        self.waiting: OrderedDict[fx.Node, None] = OrderedDict.fromkeys(program.graph.nodes)
        self._calls = Counter(str(node.target) for node in program.graph.nodes if node.op == "call_module")

    def try_at(self, node: fx.Node, row: Rewrite) -> bool:
        """Applies a row where its pattern ends at the node and its condition holds; whether it did."""
        chain = _chain(node, row.pattern)
        if chain is None:
            return False
        sites = [self._site(link) for link in chain]
        if not row.condition(*sites):
            return False
        stands = row.replacement(self.program, *sites)
        if isinstance(stands, Layer):
            self._call_instead(chain, stands)
            stands = chain[0]
        self._replace(chain, stands)
        return True

    def _site(self, node: fx.Node) -> Site:
        call = CALL.get(node)
        assert call is not None
        specs = call.record.map(lambda leaf: VALUE.of(leaf) if isinstance(leaf, fx.Node) else leaf)
        path = str(node.target)
        sole, folded = self._calls[path] == 1, path in self.program.folds
        return Site(VALUE.of(node), specs, call.record, call.module, path, sole, folded)

    def _call_instead(self, chain: Sequence[fx.Node], layer: Layer) -> None:
        """Makes the chain's first call one of another module, which counts as the call of the last one's."""
        first, last = chain[0], chain[-1]
        self._calls[str(first.target)] -= 1
        self._calls[layer.path] += 1
        first.target = layer.path
        if ORDINAL.on(last):
            ORDINAL.put(first, ORDINAL.of(last))
        CALL.put(first, replace(CALL.of(first), record=layer.nodes, module=layer.module, path=layer.path))
        self.waiting[first] = None

    def _replace(self, chain: Sequence[fx.Node], stands: fx.Node) -> None:
        """Gives the users of the chain's last node another operand, and erases what has no user then."""
        last, users = chain[-1], list(chain[-1].users)
        last.replace_all_uses_with(stands)
        for user in users:
            call = CALL.get(user)
            if call is not None:
                call.record = call.record.map(lambda leaf: stands if leaf is last else leaf)
            self.waiting[user] = None
        for node in reversed(chain):
            if node is stands or node.users:
                break
            operands = node.all_input_nodes
            self.program.graph.erase_node(node)
            self.waiting.pop(node, None)
            self.waiting.update(
                (user, None) for operand in operands if len(operand.users) == 1 for user in operand.users
            )


def _chain(node: fx.Node, pattern: Sequence[str]) -> list[fx.Node] | None:
    """The calls of a pattern's ops that end at the node, each the only use of the one before; None where one is not.

    A result that is handed on by keyword is not followed.
    """
    chain = [node]
    for name in reversed(pattern[:-1]):
        user = CALL.get(chain[-1])
        before = chain[-1].args[0] if chain[-1].args else None
        if user is None or before is not user.record.subject or not isinstance(before, fx.Node):
            return None
        call = CALL.get(before)
        if call is None or call.op.name != name or len(before.users) != 1 or _uses(before) != 1:
            return None
        chain.append(before)
    return chain[::-1]


def _uses(node: fx.Node) -> int:
    """How often the node is an argument: one user may take it twice."""
    return sum(leaf is node for user in node.users for leaf in leaves((user.args, user.kwargs)))
