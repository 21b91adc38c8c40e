"""A rewrite as a row: what a chain of calls becomes, and why that computes the same.

The rows by which an op's result is its operand stand beside the op (`Op.identity`), those over several ops in
`passes/stages/rewrites`, whose engine applies them all. docs/rewrites.md is the list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from passes.ops.record import Record


@dataclass(frozen=True, slots=True)
class Site:
    """A call that a pattern has found, as conditions and replacements see it.

    `result` is the spec of its value; its arguments are once with specs in them, once with the graph's nodes. Of a
    module, `sole` says that this is its only call, `folded` that another has been folded into it before.
    """

    result: Any
    specs: Record[Any]
    nodes: Record[Any]
    module: nn.Module | None = None
    path: str = ""
    sole: bool = False
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """A module, by its path in the program, that is called in place of the first call's, with `nodes` as arguments."""

    path: str
    module: nn.Module
    nodes: Record[Any]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One rewrite, which holds for eval mode.

    `pattern` names ops in the order of the data: each result is what the next op is of, and goes nowhere else. Where
    `condition` says so of their `Site`s, `replacement` is asked for what stands there afterwards, in words `becomes`:
    it takes the program and the same sites, and gives a node that is there already, or a `Layer`. Neither of them
    touches the graph. `since` is the first opset that it is meant for, None if it is for all; `why` says in one
    sentence why the values are the same.
    """

    name: str
    pattern: tuple[str, ...]
    condition: Callable[..., bool]
    replacement: Callable[..., fx.Node | Layer]
    becomes: str
    why: str
    since: int | None = None

    def is_for(self, opset: int) -> bool:
        return self.since is None or opset >= self.since


def identity_of(op: str, rule: Callable[..., bool], name: str, why: str) -> Rewrite:
    """The row of an op whose result is its first operand, where `rule` says so of the result and the arguments."""

    def condition(site: Site) -> bool:
        return isinstance(site.nodes.subject, fx.Node) and rule(site.result, site.specs)

    return Rewrite(name, (op,), condition, _first_operand, "its first operand", why)


def _first_operand(program: object, site: Site) -> fx.Node:
    operand: fx.Node = site.nodes.subject
    return operand


__all__ = ["Layer", "Rewrite", "Site", "identity_of"]
