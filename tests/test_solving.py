"""All sizes of one name, against trying every size; and what is said of them."""

from __future__ import annotations

import random
import re

import pytest

from passes.sizes.facts import Facts
from passes.sizes.formulas.extremes import maximum, minimum
from passes.sizes.formulas.formula import Formula, Whole, divided
from passes.sizes.solving import LARGEST_PERIOD, solutions
from passes.sizes.statement import admissible, words
from passes.text.constraints import parse_constraint

H = Formula.symbol("H")
TRIED = range(700)


def given(text: str) -> Facts:
    return Facts(given=tuple(parse_constraint(text)))


def grown(draw: random.Random, depth: int) -> Whole:
    if depth == 0 or draw.random() < 0.2:
        return draw.choice([H, H, draw.randint(-30, 30)])
    left, kind = grown(draw, depth - 1), draw.choice(["+", "-", "*", "//", "%", "//", "max", "min"])
    if kind in "//%":
        return divided(left, draw.randint(1, 8))[kind == "%"]
    right = draw.randint(-3, 3) if kind == "*" and draw.random() < 0.7 else grown(draw, depth - 1)
    if kind in ("max", "min"):
        return maximum(left, right) if kind == "max" else minimum(left, right)
    return left + right if kind == "+" else left - right if kind == "-" else left * right


@pytest.mark.parametrize("seed", range(150))
def test_solutions_are_the_sizes_at_which_it_holds(seed: int) -> None:
    draw = random.Random(seed)
    formula = grown(draw, 3)
    if not isinstance(formula, Formula):
        return
    found = {relation: solutions(formula, relation) for relation in ("==", "!=", ">=")}
    if found[">="] is None:
        return
    for relation, sizes in found.items():
        assert sizes is not None
        holds = {"==": int.__eq__, "!=": int.__ne__, ">=": int.__ge__}[relation]
        assert [size for size in TRIED if size in sizes] == [h for h in TRIED if holds(formula.at({"H": h}), 0)]


def test_most_formulas_are_solved() -> None:
    formulas = [formula for seed in range(150) if isinstance(formula := grown(random.Random(seed), 3), Formula)]
    assert sum(solutions(formula, ">=") is not None for formula in formulas) > 0.9 * len(formulas)


@pytest.mark.parametrize("seed", range(100))
def test_sets_meet_and_turn_over(seed: int) -> None:
    draw = random.Random(seed)
    sets = []
    while len(sets) < 2:
        formula = grown(draw, 2)
        found = solutions(formula, draw.choice(["==", "!=", ">="])) if isinstance(formula, Formula) else None
        if found is not None:
            sets.append(found)
    left, right = sets
    inside = [{size for size in TRIED if size in found} for found in sets]
    assert {size for size in TRIED if size in left & right} == inside[0] & inside[1]
    assert {size for size in TRIED if size in ~left} == set(TRIED) - inside[0]
    assert (left <= right) == (inside[0] <= inside[1]) or not left <= right  # beyond what is tried too


def test_what_repeats_itself_too_late_is_left_open() -> None:
    assert solutions(parse_constraint(f"H % {LARGEST_PERIOD + 1} == 0")[0].formula, "==") is None  # type: ignore[arg-type]


WORDS = {
    "H >= 29": "H >= 29",
    "H >= 1": "H >= 1",
    "H >= 0": "H >= 0",
    "H % 4 == 0": "H >= 4, H % 4 == 0",
    "H >= 29, H % 32 == 0": "H >= 32, H % 32 == 0",
    "29 <= H <= 512": "29 <= H <= 512",
    "H//4 == 7": "28 <= H <= 31",
    "H//4*4 == H, H <= 40": "4 <= H <= 40, H % 4 == 0",
    "H == 224": "H == 224",
    "H % 4 != 0": "H >= 1, H % 4 != 0",
    "(H + 1)//2 % 2 == 1": "H >= 1, H % 4 in (1, 2)",
    "H != 7": "H >= 1, H != 7",
    "H != 1": "H >= 2",
    "(H - 4)*(H - 9) == 0": "H in (4, 9)",
    "(H - 4)*(H - 9) >= 0": "H >= 1, H != 5, H != 6, H != 7, H != 8",
    "H*H <= 5000": "1 <= H <= 70",
    "max(H, 40) - H <= 11": "H >= 29",
    "abs(H - 40) <= 3": "37 <= H <= 43",
    "7*((H + 220)//224) <= 7": "1 <= H <= 227",
    "(H + 24)//28 > 1": "H >= 32",
    "H % 2 == 0, H % 3 == 0": "H >= 6, H % 6 == 0",
    "(H + 15)//16 % 2 == 0": "H >= 17, (H + 15) % 32 <= 15",
    "H//16 % 2 == 0": "H >= 1, H % 32 <= 15",
    "H//16 % 2 == 1": "H >= 16, H % 32 >= 16",
}


@pytest.mark.parametrize("text", WORDS)
def test_sizes_are_said_in_words_that_mean_them(text: str) -> None:
    found = admissible(given(text), "H")
    said = words("H", found.sizes)
    assert said == WORDS[text]
    wanted = [h for h in TRIED if h in found.sizes]
    assert [h for h in TRIED if all(eval(part, {"H": h}) for part in _parts(said))] == wanted


def _parts(said: str) -> list[str]:
    return re.split(r", (?=\(?H)", said)


def test_what_has_no_short_words_has_none() -> None:
    assert words("H", admissible(given("(H*H)//7 % 5 == 2"), "H").sizes) is None


def test_borders_come_with_the_fact_that_ends_them() -> None:
    found = admissible(given("H >= 5, H >= 29, H % 4 == 1, H <= 512, H <= 600"), "H")
    assert (found.lower, found.upper, found.modulus, found.residues) == (29, 509, 4, (1,))
    assert found.lower_by is not None
    assert found.upper_by is not None
    assert (found.lower_by.condition, found.upper_by.condition) == ("H >= 29", "H <= 512")


def test_a_default_ends_the_sizes_where_nothing_else_does() -> None:
    found = admissible(given("W >= 3"), "H")
    assert found.lower == 1
    assert found.lower_by is not None
    assert (found.lower_by.condition, found.lower_by.origin.value) == ("H >= 1", "default")
    assert (found.upper, found.upper_by) == (None, None)
    assert admissible(given("H >= 0"), "H").lower == 0


def test_other_names_may_be_given_a_size() -> None:
    facts = given("N*T <= 4096, T >= 2*N")
    alone, beside = admissible(facts, "T"), admissible(facts, "T", {"N": 10})
    assert (alone.lower, alone.upper, len(alone.open)) == (1, None, 2)
    assert (beside.lower, beside.upper, beside.open) == (20, 409, ())
    assert beside.upper_by is not None
    assert beside.upper_by.condition == "N*T <= 4096"
