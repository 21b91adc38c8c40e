"""The declared rewrites as a table, and the engine that applies them, on rows that are made up for it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from passes.ops.op import FUNCTIONS, METHODS, MODULES
from passes.ops.rewrite import Rewrite, Site
from passes.program.notes import CALL
from passes.program.stages import Eager
from passes.stages import simplification
from passes.stages.rewrites.engine import apply_rewrites
from passes.stages.rewrites.registry import rewrites
from passes.stages.simplification import Simplification
from passes.text.parsing import parse_program
from passes.text.printing import print_program
from tests.rewrites_page import TARGET, page

HEADER = """\
eager program Sequential
inputs
  %x = input x  : float32[2, 3]
nodes
"""


def parsed(*lines: str) -> Eager:
    program = parse_program(HEADER + "".join(f"  {line}\n" for line in lines), nn.Sequential())
    assert isinstance(program, Eager)
    return program


def nodes(program: Eager) -> list[str]:
    text = print_program(program)
    assert text.startswith(HEADER)
    return [line.strip() for line in text.removeprefix(HEADER).splitlines()]


def unary(name: str, of: str, method: str = "neg") -> str:
    return f"%{name} = method {method}(%{of})  : float32[2, 3]"


def holds(*sites: Site) -> bool:
    return True


def operand(program: Eager, *sites: Site) -> Any:
    return sites[0].nodes.subject


DOUBLE_NEGATION = Rewrite("double_negation", ("neg", "neg"), holds, operand, "the operand", "-(-x) is x.")
NO_ABS = Rewrite("no_abs", ("abs",), holds, operand, "the operand", "It is not, this is a test.")


# The table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", rewrites(), ids=lambda row: row.name)
def test_a_row_says_what_it_is(row: Rewrite) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", row.name)
    assert re.fullmatch(r"[^\n|]+\.", row.why)
    assert re.fullmatch(r"[^\n|]+[^.]", row.becomes)


def test_names_are_unique_and_patterns_name_one_op_each() -> None:
    ops = {id(op): op for table in (FUNCTIONS, METHODS, MODULES) for op, _ in table.values()}
    known = Counter(op.name for op in ops.values())
    assert all(known[name] == 1 for row in rewrites() for name in row.pattern)
    assert len({row.name for row in rewrites()}) == len(rewrites())


def test_the_page_is_of_these_rows() -> None:
    assert TARGET.read_text(encoding="utf-8") == page(), "run python -m tests.rewrites_page"


# The engine -----------------------------------------------------------------------------------------


def test_a_chain_gives_way_to_what_it_is_of() -> None:
    program = parsed(unary("a", "x"), unary("b", "a"), unary("c", "b", "relu"), "output %c")
    apply_rewrites(program, [DOUBLE_NEGATION])
    assert nodes(program) == [unary("c", "x", "relu"), "output %c"]
    [relu] = [node for node in program.graph.nodes if CALL.on(node)]
    assert CALL.of(relu).record.subject is program.inputs()[0]


@pytest.mark.parametrize(("depth", "left"), [(4, ["output %x"]), (3, [unary("n0", "x"), "output %n0"])])
def test_one_replacement_makes_way_for_the_next(depth: int, left: list[str]) -> None:
    lines = [unary(f"n{step}", f"n{step - 1}" if step else "x") for step in range(depth)]
    program = parsed(*lines, f"output %n{depth - 1}")
    apply_rewrites(program, [DOUBLE_NEGATION])
    assert [re.sub(r"n\d", "n0", line) for line in nodes(program)] == left


def test_a_chain_is_seen_once_nothing_stands_between_or_looks_on() -> None:
    between = parsed(unary("a", "x"), unary("b", "a", "abs"), unary("c", "b"), "output %c")
    aside = parsed(unary("a", "x"), unary("c", "a"), unary("b", "a", "abs"), "output %c")
    for program in (between, aside):
        apply_rewrites(program, [DOUBLE_NEGATION, NO_ABS])
        assert nodes(program) == ["output %x"]


def test_a_result_with_another_user_is_no_link() -> None:
    lines = [unary("a", "x"), unary("b", "a"), "output (%a, %b)"]
    program = parsed(*lines)
    apply_rewrites(program, [DOUBLE_NEGATION])
    assert nodes(program) == lines


def test_a_result_that_is_taken_twice_is_no_link() -> None:
    lines = [unary("a", "x"), "%b = function torch.add(%a, %a)  : float32[2, 3]", "output %b"]
    program = parsed(*lines)
    apply_rewrites(program, [replace(DOUBLE_NEGATION, pattern=("neg", "add"))])
    assert nodes(program) == lines


def test_a_node_at_which_nothing_happens_is_visited_once() -> None:
    asked: list[int] = []
    asking = replace(NO_ABS, pattern=("neg",), condition=lambda site: bool(asked.append(1)))
    program = parsed(unary("a", "x"), unary("b", "x", "abs"), unary("c", "a"), "output (%b, %c)")
    apply_rewrites(program, [asking, NO_ABS])
    assert len(asked) == 2
    assert nodes(program) == [unary("a", "x"), unary("c", "a"), "output (%x, %c)"]


def test_of_two_rows_the_first_is_applied() -> None:
    refused = replace(NO_ABS, replacement=lambda program, site: pytest.fail("it comes second"))
    program = parsed(unary("a", "x", "abs"), "output %a")
    apply_rewrites(program, [NO_ABS, refused])
    assert nodes(program) == ["output %x"]


@pytest.mark.parametrize(("opset", "left"), [(17, 2), (18, 1), (23, 1)])
def test_a_row_holds_since_its_opset(opset: int, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplification, "identities", lambda: (replace(NO_ABS, since=18),))
    program = parsed(unary("a", "x", "abs"), "output %a")
    Simplification(opset=opset).run(program)
    assert len(nodes(program)) == left
