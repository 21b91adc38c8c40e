"""What is known of named sizes: tables of answers, and every answer on generated questions confirmed by z3."""

from __future__ import annotations

import itertools
import random

import pytest
import z3

from passes.sizes.facts import Answer, Fact, Facts, Origin, solved
from passes.sizes.formulas.extremes import maximum, minimum, sign
from passes.sizes.formulas.formula import Formula, Whole, divided, whole
from passes.text.constraints import parse_constraint
from tests.generated_questions import ALL_SEEDS, confirmed, in_z3

YES, NO, UNKNOWN = Answer.YES, Answer.NO, Answer.UNKNOWN
N, H, W = (Formula.symbol(name) for name in "NHW")


def facts(text: str) -> list[Fact]:
    return parse_constraint(text)


def absolute(value: Whole) -> Whole:
    return maximum(value, -value)


def over(numerator: Whole, denominator: Whole) -> Whole:
    return divided(numerator, denominator)[0]


def rest(numerator: Whole, denominator: Whole) -> Whole:
    return divided(numerator, denominator)[1]


# Answers --------------------------------------------------------------------------------------------

ZERO: list[tuple[Whole, list[Fact], Answer]] = [
    (0, [], YES),
    (3, [], NO),
    (N, [], NO),  # at least 1
    (N - 1, [], UNKNOWN),
    (N - H, [], UNKNOWN),
    (2 * N - 3, [], NO),  # no even number is 3
    (6 * N + 4 * H - 5, [], NO),
    (-N - H, [], NO),
    (rest(H, 4), [], UNKNOWN),
    (rest(H, 4) + 1, [], NO),
    (N - 4, [Fact(N - 4, "==", "N == 4")], YES),
    (4 - N, [Fact(N - 4, "==", "N == 4")], YES),
    (N - 4, [Fact(N - 4, "!=", "N != 4")], NO),
    (N - 5, [Fact(N - 4, "!=", "N != 4")], UNKNOWN),
    (rest(H, 4) - 4, [], NO),
    (N - 3, facts("N <= 2"), NO),
    (N - H, facts("N == H"), YES),
    (N * W - H * W, facts("N == H"), YES),
    (N - H - 2, facts("N == H + 1"), NO),
    (N - H, facts("N == W, W == H"), YES),
    (rest(H, 2), facts("H % 4 == 0"), YES),
    (rest(H, 2), facts("H % 4 == 2"), YES),
    (rest(H, 2), facts("H % 4 == 3"), NO),
    (rest(H, 8), facts("H % 4 == 0"), UNKNOWN),
    (4 * over(H, 4) - H, facts("H % 4 == 0"), YES),
    (over(H, 4) - over(H + 3, 4), facts("H % 4 == 0"), YES),
    (over(H + 3, 4) - 7 * over(H + 3, 28), facts("(H + 3)//4 % 7 == 0"), YES),
    (rest(H, 6), facts("H % 2 == 0, H % 3 == 0"), YES),
    (rest(2 * H, 4), facts("2*H % 4 == 0"), YES),
    (maximum(H, W) - H, facts("H >= W"), YES),
    (maximum(H, 0) - H, [], YES),
    (N * over(H, 40), facts("H <= 39"), YES),
    (over(H, 2) * over(W, 4), facts("H >= 2, W >= 4"), NO),
    (over(H, 2) * over(W, 4), facts("H >= 2, W >= 3"), UNKNOWN),
    (over(H + 31, 32) * over(W + 31, 32) - 64, facts("241 <= H <= 256, 241 <= W <= 256"), YES),
    (over(H + 31, 32) * over(W + 31, 32) - 64, facts("241 <= H <= 256, 224 <= W <= 256"), UNKNOWN),
    (over(H + 31, 32) - 4 * over(H + 15, 128), facts("(H + 15)//16 % 8 == 0"), YES),
    (over(H + 31, 32) - 4 * over(H + 15, 128), facts("(H + 15)//16 % 4 == 0"), UNKNOWN),
    (over(H + 15, 128) * over(W + 15, 128), facts("(H + 15)//16 % 8 == 0, (W + 15)//16 % 8 == 0"), NO),
    (over(H + 36, 32) - over(H + 34, 32), facts("(H + 7) % 8 <= 2"), YES),
    (over(H + 38, 32) - over(H + 36, 32), facts("(H + 7) % 8 <= 2"), UNKNOWN),
    (N * over(H + 36, 32) - N * over(H + 34, 32), facts("(H + 7) % 8 <= 2"), YES),
    (N * over(H + 38, 32) - N * over(H + 36, 32), facts("(H + 7) % 8 <= 2"), UNKNOWN),
    (rest(5 * H * W, H * W), facts("H*W == 196"), YES),
    (rest(Formula({(): 392}), H * W), facts("H*W == 196"), YES),
    (rest(Formula({(): 393}), H * W), facts("H*W == 196"), NO),
    (over(H, 16) * N - over(W, 8) * N, facts("H//16 == W//8"), YES),
    (over(W, 16) - 14, facts("(H//16)*(W//16) == 196, H == 224"), YES),
    (W - 224, facts("(H//16)*(W//16) == 196, H == 224, W % 16 == 0"), YES),
    (W - 224, facts("(H//16)*(W//16) == 196, 224 <= H <= 239, W % 16 == 0"), YES),
    (W - 224, facts("(H//16)*(W//16) == 196, 224 <= H <= 240, W % 16 == 0"), UNKNOWN),
    (4 * N - 4 * H, facts("4*N == 4*H"), YES),
]
AT_LEAST_ZERO: list[tuple[Whole, list[Fact], Answer]] = [
    (0, [], YES),
    (-1, [], NO),
    (N - 1, [], YES),
    (N - 2, [], UNKNOWN),
    (-N, [], NO),
    (N * H - 1, [], YES),
    (over(H, 2), [], YES),
    (over(H - 3, 2), [], UNKNOWN),
    (-rest(H, 4) + 3, [], YES),
    (H - 29, [Fact(H - 33, ">=", "H >= 33")], YES),
    (H - 40, [Fact(H - 33, ">=", "H >= 33")], UNKNOWN),
    (29 - H, [Fact(H - 33, ">=", "H >= 33")], NO),
    (over(H, 8) - 1, [Fact(H - 8, ">=", "H >= 8")], YES),
    (H - over(H, 2), [], YES),
    (H - 2 * over(H, 2), [], YES),
    (H - over(H, 2) - 1, [], YES),
    (over(H, 2) - over(H, 3), [], YES),
    (over(H, 4) - 7, facts("H >= 29"), YES),
    (100 - H, facts("H <= 99"), YES),
    (100 - 2 * H, facts("H <= 50"), YES),
    (N * H - 10, facts("N >= 2, H >= 5"), YES),
    (4096 - N * H - 1, facts("N*H <= 4095"), YES),
    (H - N, facts("H >= W, W >= N"), YES),
    (2 * H - N - W, facts("H >= W, H >= N"), YES),
    (H - 5, facts("W >= 5, H == W"), YES),
    (H - 8, facts("H % 8 == 0"), YES),
    (7 - rest(N * H, 8), [], YES),
    (N, facts("N >= 0"), YES),
    (N - 1, facts("N >= 0"), UNKNOWN),
    (maximum(H, W) - H, [], YES),
    (H + W - maximum(H, W), [], YES),
    (maximum(H, W) - minimum(H, W), [], YES),
    (H - minimum(H, W, 7), [], YES),
    (7 - minimum(H, W, 7), [], YES),
    (absolute(H - W), [], YES),
    (H - absolute(H - W), facts("W <= H"), YES),
    (sign(H), [], YES),
    (over(H + 3, 28) - 1, facts("(H + 3) % 28 <= 3"), YES),
    (over(H + 2, 28) - 1, facts("(H + 3) % 28 <= 3"), UNKNOWN),
    (over(H + 3, 28) * over(W, 4) - 5, facts("(H + 3) % 28 <= 3, W >= 20"), YES),
    (H * W - 64, facts("H % 8 == 0, W % 8 == 0"), YES),
    (16 - W, facts("H*W == 196, H >= 14"), UNKNOWN),
    (14 - W, facts("H*W == 196, H == 14"), YES),
]


@pytest.mark.parametrize(("formula", "known", "answer"), ZERO, ids=str)
def test_is_zero(formula: Whole, known: list[Fact], answer: Answer) -> None:
    assert Facts(given=tuple(known)).decide(formula, "==").answer is answer
    if Fact(N, ">=", "N >= 0", Origin.GIVEN) not in known:  # only a promise replaces a default
        assert Facts(known).decide(formula, "==").answer is answer


@pytest.mark.parametrize(("formula", "known", "answer"), AT_LEAST_ZERO, ids=str)
def test_is_at_least_zero(formula: Whole, known: list[Fact], answer: Answer) -> None:
    assert Facts(given=tuple(known)).decide(formula, ">=").answer is answer
    assert Facts(known).decide(formula, ">=").answer is answer


RESTS_ON: list[tuple[Whole, str, str, list[str]]] = [
    (H, ">=", "", ["H >= 1"]),
    (H + 3, "==", "", ["H >= 1"]),
    (H - 29, ">=", "H >= 33", ["H >= 33"]),
    (H - 29 + W, ">=", "H >= 33", ["H >= 33", "W >= 1"]),
    (40 - H, ">=", "H >= 33, H <= 39", ["H <= 39"]),
    (N - H, "==", "W >= 3, N == H", ["N == H"]),
    (rest(H, 2), "==", "N >= 2, H % 4 == 0", ["H % 4 == 0"]),
    (H - W + 5, ">=", "H >= W, N >= 2", ["H >= W"]),
    (2 * N - 5, "==", "N >= 2", []),
    (N * H - H, ">=", "", []),  # unknown to this search
    (maximum(H, 33) - 33, ">=", "", []),
    (rest(H, 4), ">=", "", []),
    (over(H, 2) - 2 * over(H, 4), "==", "H >= 9, W >= 2, H % 4 <= 1", ["H % 4 <= 1"]),
    (H - 4, ">=", "W >= 2, H % 4 == 0", ["H % 4 == 0", "H >= 1"]),
    (N * W - 12 * N, "==", "H*W == 60, H == 5, N >= 2", ["H == 5", "H*W == 60", "W >= 1"]),
]


@pytest.mark.parametrize(("formula", "relation", "known", "used"), RESTS_ON, ids=str)
def test_an_answer_says_what_it_rests_on(formula: Whole, relation: str, known: str, used: list[str]) -> None:
    decision = Facts(given=tuple(facts(known) if known else ())).decide(formula, relation)
    assert sorted(fact.condition for fact in decision.used) == used


@pytest.mark.parametrize("origin", [Origin.GIVEN, Origin.GUARD])
def test_only_a_promise_replaces_the_default_least_size(origin: Origin) -> None:
    known = Fact(N, ">=", "N >= 0", origin)
    decision = (Facts(given=(known,)) if origin is Origin.GIVEN else Facts([known])).decide(N - 1, ">=")
    assert decision.answer is (UNKNOWN if origin is Origin.GIVEN else YES)


DIVISIONS: list[tuple[Whole, Whole, str, str]] = [
    (49 * over(H + 3, 28) * N, over(H + 3, 4), "(H + 3) % 28 <= 3", "7*N"),
    (H * W, over(H, 2), "H % 2 == 0", "2*W"),
    (N * H, W, "N*H == 12, W == 4", "3"),
    (N * H, over(W, 2), "N == W, W % 2 == 0", "2*H"),
]


@pytest.mark.parametrize(("above", "below", "known", "quotient"), DIVISIONS, ids=str)
def test_what_is_known_to_be_divisible_is_divided(above: Whole, below: Whole, known: str, quotient: str) -> None:
    found, left, used = Facts(facts(known)).divided(above, below)
    assert (str(found), left) == (quotient, 0)
    assert {fact.condition for fact in used} >= {fact.condition for fact in facts(known)}
    plain = divided(above, below)
    assert Facts().divided(above, below) == (*plain, [])
    assert plain[1] != 0


def test_a_fact_added_in_place_is_seen() -> None:
    known = Facts()
    assert known.decide(N - 4, "==").answer is UNKNOWN
    known.assumed += facts("N == 4")
    assert known.decide(N - 4, "==").answer is YES


def test_a_question_assumes_nothing() -> None:
    facts = Facts()
    assert facts.decide(N - 4, "==").answer is UNKNOWN
    assert facts.decide(N - 4, ">=").answer is UNKNOWN
    assert facts.assumed == []


def test_an_answer_is_no_condition() -> None:
    with pytest.raises(TypeError, match="unknown is neither true nor false"):
        bool(Facts().decide(N - 4, "==").answer)


def test_a_stronger_bound_replaces_the_weaker() -> None:
    weak, strong = Fact(formula(H - 8), ">=", "H >= 8"), Fact(formula(H - 33), ">=", "H >= 33")
    facts = Facts()
    assert facts.assume(weak) == []
    assert facts.assume(strong) == [weak]
    assert facts.assumed == [strong]


def formula(value: Whole) -> Formula:
    assert isinstance(value, Formula)
    return value


# Formulas are values --------------------------------------------------------------------------------


def test_equal_formulas_are_one_value() -> None:
    twice = over(over(H - 1, 2) + 1, 2)
    assert len({N + H, H + N, N * 2 - N + H}) == 1
    assert twice == over(H + 1, 4)
    assert N != H
    assert N + 1 != N
    assert N - N == 0


@pytest.mark.parametrize("operator", ["__lt__", "__le__", "__gt__", "__ge__"])
def test_formulas_have_no_order(operator: str) -> None:
    assert getattr(N, operator)(H) is NotImplemented


# Confirmed by z3 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seeds",
    [range(150), *(pytest.param(seeds, marks=pytest.mark.slow) for seeds in ALL_SEEDS)],
    ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}",
)
def test_z3_contradicts_no_answer(seeds: range) -> None:
    tally = confirmed(seeds)
    assert not tally.wrong
    assert tally.confirmed > 0.9 * tally.answered
    assert tally.answered > len(seeds) / 2


@pytest.mark.parametrize("seed", range(60))
def test_a_solved_bound_says_the_same(seed: int) -> None:
    draw = random.Random(seed)
    quotient = over(draw.randint(1, 3) * H + draw.randint(-9, 9), draw.randint(1, 8))
    slack = formula(draw.randint(1, 4) * quotient - draw.randint(0, 9))
    names = {"H": z3.Int("H")}
    solver = z3.Solver()
    before, after = (in_z3(value, names, []) >= 0 for value in (slack, solved(slack)))
    solver.add(before != after)
    assert solver.check() == z3.unsat


def test_lower_bounds_hold() -> None:
    for h, w in itertools.product((1, 2, 7, 30), repeat=2):
        for value in (H * W, over(H + W, 3), rest(H, 5) + W, whole({(): 4}), H + 2 * W - 3):
            number = value if isinstance(value, int) else value.at({"H": h, "W": w})
            assert Facts().low(value) <= number
