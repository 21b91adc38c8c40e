"""The largest and the smallest of sizes, and divisions of polynomials: normal forms, texts, values, ONNX."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import tracer
from passes.sizes import dimension
from passes.sizes.dimension import Dim
from passes.sizes.formulas.extremes import maximum, minimum, sign
from passes.sizes.formulas.formula import Atom, Formula, Symbol, Whole, divided
from passes.sizes.formulas.replacement import rewritten
from passes.sizes.guards import GuardLog
from passes.text.constraints import parse_constraint
from passes.text.formulas import read_formula
from passes.text.scanner import Scanner
from tracer import spec

N, H, W, T = (Formula.symbol(name) for name in "NHWT")


def absolute(size: Whole) -> Whole:
    return maximum(size, -size)


EXTREMES: list[tuple[Whole, str]] = [
    (maximum(H, W), "max(H, W)"),
    (maximum(W, H), "max(H, W)"),
    (maximum(H, maximum(W, 3), 5), "max(H, W, 5)"),
    (maximum(H, H - 1), "H"),
    (maximum(H + 2, H, 3), "max(H + 2, 3)"),
    (minimum(H, 7, minimum(W, 9)), "min(H, W, 7)"),
    (maximum(H, minimum(H, W)), "H"),
    (maximum(3, 4), "4"),
    (absolute(H - W), "abs(H - W)"),
    (absolute(W - H), "abs(H - W)"),
    (2 * maximum(H, 4) - 1, "2*max(H, 4) - 1"),
    (N * minimum(H, 4), "N*min(H, 4)"),
    (divided(maximum(H, W) + 3, 4)[0], "(max(H, W) + 3)//4"),
    (divided(maximum(H, W), 4)[1], "max(H, W) % 4"),
    (sign(H - W), "min(max(H - W, -1), 1)"),
]
QUOTIENTS: list[tuple[Whole, Whole, str, str]] = [
    (32 * N + 32 * N * T, 8 * N + 8 * N * T, "4", "0"),
    (8 * N * T + 8 * N, T + 1, "8*N", "0"),
    (32 * N * T + 32 * N, 12 * N * T + 12 * N, "2", "8*N + 8*N*T"),
    (N * N - 1, N + 1, "N - 1", "0"),
    (N * H * W - N * H, W - 1, "H*N", "0"),
    (N * T + N + 1, T + 1, "(1//(T + 1)) + N", "1 % (T + 1)"),
    (N + 1, N, "(1//N) + 1", "1 % N"),
    (5 * N * H, 2 * N, "(H//2) + 2*H", "(H % 2)*N"),
    (2 * N * H, 4 * N * W, "H//(2*W)", "2*(H % (2*W))*N"),
    (16 * N * H * W, 8 * N * H, "2*W", "0"),
    (H, W, "H//W", "H % W"),
]
REMAINDERS: list[tuple[Whole, str]] = [
    (divided(H, 4)[1], "H % 4"),
    (H - divided(H, 4)[1], "4*(H//4)"),
    (H + divided(7 - divided(H, 7)[1], 7)[1], "7*((H + 6)//7)"),
    (H + divided(H, 2)[1], "2*((H + 1)//2)"),
    (H - divided(H, 2)[0], "(H + 1)//2"),
    (divided(H, 4)[0] - divided(H, 8)[0], "(H + 4)//8"),
    (N * divided(H, 4)[1] + 3, "(H % 4)*N + 3"),
    (3 - divided(H, 4)[1], "-(H % 4) + 3"),
]
NAMES = ("N", "H", "W", "T")


@pytest.mark.parametrize(("formula", "text"), EXTREMES + REMAINDERS, ids=str)
def test_formulas_have_a_normal_form_that_reads_well(formula: Whole, text: str) -> None:
    assert str(formula) == text
    assert read_formula(Scanner(text), NAMES) == formula


@pytest.mark.parametrize(("above", "below", "quotient", "rest"), QUOTIENTS, ids=str)
def test_polynomials_divide(above: Whole, below: Whole, quotient: str, rest: str) -> None:
    found = divided(above, below)
    assert tuple(map(str, found)) == (quotient, rest)
    assert read_formula(Scanner(rest), NAMES) == found[1]
    for sizes in at_sizes():
        if value(below, sizes) > 0:
            assert tuple(value(part, sizes) for part in found) == divmod(value(above, sizes), value(below, sizes))


@pytest.mark.parametrize(("formula", "text"), EXTREMES + REMAINDERS, ids=str)
def test_a_text_is_python_with_the_same_value(formula: Whole, text: str) -> None:
    for sizes in at_sizes():
        assert eval(text, dict(sizes)) == value(formula, sizes)


def at_sizes() -> list[dict[str, int]]:
    return [dict(zip(NAMES, sizes, strict=True)) for sizes in itertools.product((1, 3), (1, 6, 11), (2, 4, 9), (1, 5))]


def value(size: Whole, sizes: dict[str, int]) -> int:
    return size if isinstance(size, int) else size.at(sizes)


# In a capture ---------------------------------------------------------------------------------------


def sized(given: str = "", **sizes: int) -> tuple[GuardLog, list[Any]]:
    log = GuardLog()
    log.facts.given = tuple(parse_constraint(given)) if given else ()
    return log, [Dim.symbol(name, size, log) for name, size in sizes.items()]


def test_extremes_ask_for_no_guard() -> None:
    log, (h, w) = sized(H=8, W=5)
    assert str(dimension.maximum(h, w, 3)) == "max(H, W, 3)"
    assert str(dimension.minimum(h, 7)) == "min(H, 7)"
    assert str(abs(h - w)) == "abs(H - W)"
    assert str(abs(-h)) == "H"
    assert dimension.sign(h) == 1
    assert dimension.maximum(3, 4) == 4
    assert log.guards == []


def test_extremes_of_sizes_in_a_known_order_are_one_of_them() -> None:
    log, (h, w) = sized("H >= W, W >= 7", H=8, W=7)
    assert str(dimension.maximum(h, w, 3)) == "H"
    assert dimension.minimum(h, w, 7) == 7
    assert str(abs(w - h)) == "H - W"
    assert {fact.condition for fact in log.relied.values()} == {"H >= W", "W >= 7"}
    assert log.guards == []


def test_names_in_extremes_are_replaced() -> None:
    _, (h, w) = sized(H=8, W=5)
    sizes = {"H": 3, "W": 9}

    def of_name(atom: Atom) -> int | None:
        return sizes[atom.name] if isinstance(atom, Symbol) else None

    assert rewritten((dimension.maximum(h, w) // 2).formula, of_name) == 4
    assert rewritten(abs(h - w).formula, of_name) == 6


class Apart(nn.Module):
    """Pads by how far the sizes are apart."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.flatten(1), x.new_ones(x.shape[0], abs(x.shape[1] - x.shape[2]) * 2 + 1)], 1)


def test_extremes_are_computed_in_the_file() -> None:
    conversion = tracer.convert(Apart(), spec("N", "H", "W"))
    assert not [guard for guard in conversion.report.guards if guard.dynamic]
    assert conversion.verification is not None
    apart = {c.sizes["H"] - c.sizes["W"] > 0 for c in conversion.verification.comparisons}
    assert apart == {True, False}
    assert "Max" in {node.op_type for node in conversion.onnx_model.graph.node}
