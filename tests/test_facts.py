"""What is known of named sizes: tables of answers, and every answer on generated questions confirmed by z3."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import z3

from passes.sizes.facts import LEAST_SIZE, Answer, Fact, Facts, Origin, solved
from passes.sizes.formulas.extremes import maximum, minimum, sign
from passes.sizes.formulas.formula import FloorDiv, Formula, Max, Min, Symbol, Whole, divided, parts_of, whole
from passes.text.constraints import parse_constraint

YES, NO, UNKNOWN = Answer.YES, Answer.NO, Answer.UNKNOWN
N, H, W = (Formula.symbol(name) for name in "NHW")
RELATIONS = ("==", "!=", ">=")


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


def in_z3(value: Whole, names: dict[str, Any], sides: list[Any]) -> Any:
    """The formula as z3 reads it; `sides` gets what it takes for granted: that its divisors are positive."""
    if isinstance(value, int):
        return z3.IntVal(value)
    total: Any = z3.IntVal(0)
    for monomial, coefficient in value.terms.items():
        term: Any = z3.IntVal(coefficient)
        for atom in monomial:
            if isinstance(atom, Symbol):
                term = term * names[atom.name]
                continue
            parts = [in_z3(part, names, sides) for part in parts_of(atom)]
            if isinstance(atom, (Max, Min)):
                best = parts[0]
                for part in parts[1:]:
                    best = z3.If(part > best if isinstance(atom, Max) else part < best, part, best)
                term = term * best
                continue
            above, below = parts
            sides.append(below > 0)
            term = term * (above / below if isinstance(atom, FloorDiv) else above % below)
        total = total + term
    return total


def related(value: Any, relation: str) -> Any:
    return {"==": value == 0, "!=": value != 0, ">=": value >= 0}[relation]


class Question:
    """A generated question: a formula, facts that hold at some sizes, and what z3 makes of them."""

    def __init__(self, seed: int):
        self.draw = random.Random(seed)
        self.names = {name: z3.Int(name) for name in "NHW"}
        self.sizes = {name: self.draw.randint(1, 40) for name in self.names}
        zero_too = self.draw.random() < 0.2
        self.sides: list[Any] = [
            name >= (0 if zero_too and key == "N" else LEAST_SIZE) for key, name in self.names.items()
        ]
        given = [Fact(N, ">=", "N >= 0", Origin.GIVEN)] if zero_too else []
        given += [fact for _ in range(self.draw.choice([0, 0, 1, 2])) for fact in self.known(Origin.GIVEN)]
        self.facts = Facts(given=tuple(given))
        for _ in range(self.draw.randrange(3)):
            for fact in self.known(Origin.GUARD):
                self.facts.assume(fact)
        self.formula = self.grown(3)
        near = [fact.formula for fact in self.facts.known() if isinstance(fact.formula, Formula)]
        if near and self.draw.random() < 0.4:
            self.formula = self.draw.choice([1, -1, 2]) * self.draw.choice(near) + self.draw.randint(-2, 2)
            if self.draw.random() < 0.5:
                self.formula = self.formula + self.grown(1)

    def known(self, origin: Origin) -> list[Fact]:
        """A fact that holds at the sampled sizes: of one name by itself, or of anything."""
        draw, name = self.draw, self.draw.choice("NHW")
        symbol, size = Formula.symbol(name), self.sizes[name]
        simple: list[tuple[Whole, str]] = [
            (symbol - draw.randint(max(size - 3, 1), size), ">="),
            (size + draw.randint(0, 30) - symbol, ">="),
            (rest(symbol, by := draw.randint(2, 12)) - size % by, "=="),
            (symbol - Formula.symbol(other := draw.choice("NHW")) - (size - self.sizes[other]), "=="),
            (symbol - Formula.symbol(other) - draw.randint(-40, size - self.sizes[other]), ">="),
        ]
        formula, relation = draw.choice(simple) if draw.random() < 0.6 else (self.grown(2), draw.choice(RELATIONS))
        fact = Fact(formula, relation, f"{formula} {relation} 0", origin)  # type: ignore[arg-type]
        if origin is Origin.GIVEN and isinstance(formula, Formula) and formula.terms.keys() <= {(Symbol("N"),), ()}:
            return []  # a promise of its own least size may take the default away, which z3 is told of by itself
        return [fact] if isinstance(formula, Formula) and fact.holds(self.sizes) else []

    def grown(self, depth: int) -> Whole:
        draw = self.draw
        if depth == 0 or draw.random() < 0.2:
            return draw.choice([N, H, W, draw.randint(-9, 9)])
        left = self.grown(depth - 1)
        kind = draw.choice(["+", "-", "*", "//", "%", "+", "-", "*", "//", "%", "max", "min"])
        if kind in "//%":
            divisor: Whole = draw.randint(1, 6)
            if draw.random() < 0.15:
                divisor = draw.choice([H, W, H + 1, H * W, 2 * W, H + W])
            quotient, remainder = divided(left, divisor)
            return quotient if kind == "//" else remainder
        right = draw.randint(-4, 4) if kind == "*" and draw.random() < 0.8 else self.grown(depth - 1)
        if kind in ("max", "min"):
            return maximum(left, right) if kind == "max" else minimum(left, right)
        return left + right if kind == "+" else left - right if kind == "-" else left * right

    def contradicted(self, claim: str, answer: Answer) -> bool | None:
        """Whether z3 finds sizes at which the answer is wrong; None where it cannot tell in time."""
        solver = z3.Solver()
        solver.set("timeout", 200)
        stated = related(in_z3(self.formula, self.names, self.sides), claim)
        for fact in self.facts.known():
            assert isinstance(fact.formula, Formula)
            solver.add(related(in_z3(fact.formula, self.names, self.sides), fact.relation))
        solver.add(*self.sides, z3.Not(stated) if answer is YES else stated)
        found = solver.check()
        return None if found == z3.unknown else found == z3.sat


@pytest.mark.parametrize("count", [300, pytest.param(100_000, marks=pytest.mark.slow)])
def test_z3_contradicts_no_answer(count: int) -> None:
    answered = told = 0
    for seed in range(count):
        question = Question(seed)
        for claim, answer in (
            ("==", question.facts.decide(question.formula, "==").answer),
            (">=", question.facts.decide(question.formula, ">=").answer),
        ):
            if answer is UNKNOWN:
                continue
            answered += 1
            wrong = question.contradicted(claim, answer)
            told += wrong is not None
            assert wrong is not True, f"seed {seed}: {question.formula} {claim} 0 is not {answer}"
    assert told > answered * 0.9
    assert answered > count / 2


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
