"""What is known of named sizes: tables of answers, and every answer on generated questions confirmed by z3."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import z3

from passes.sizes.facts import LEAST_SIZE, Answer, Fact, Facts, lower_bound, solved
from passes.sizes.formula import FloorDiv, Formula, Max, Min, Symbol, Whole, divided, parts_of, whole

YES, NO, UNKNOWN = Answer.YES, Answer.NO, Answer.UNKNOWN
N, H, W = (Formula.symbol(name) for name in "NHW")
RELATIONS = ("==", "!=", ">=")


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
]


@pytest.mark.parametrize(("formula", "known", "answer"), ZERO, ids=str)
def test_is_zero(formula: Whole, known: list[Fact], answer: Answer) -> None:
    assert Facts(known).is_zero(formula) is answer


@pytest.mark.parametrize(("formula", "known", "answer"), AT_LEAST_ZERO, ids=str)
def test_is_at_least_zero(formula: Whole, known: list[Fact], answer: Answer) -> None:
    assert Facts(known).is_at_least_zero(formula) is answer


def test_a_question_assumes_nothing() -> None:
    facts = Facts()
    assert facts.is_zero(N - 4) is UNKNOWN
    assert facts.is_at_least_zero(N - 4) is UNKNOWN
    assert facts.assumed == []


def test_an_answer_is_no_condition() -> None:
    with pytest.raises(TypeError, match="unknown is neither true nor false"):
        bool(Facts().is_zero(N - 4))


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
        self.sides: list[Any] = [name >= LEAST_SIZE for name in self.names.values()]
        sizes = {name: self.draw.randint(1, 40) for name in self.names}
        self.facts = Facts()
        for _ in range(self.draw.randrange(3)):
            known = self.grown(2)
            relation = self.draw.choice(RELATIONS)
            if isinstance(known, Formula) and Fact(known, relation, str(known)).holds(sizes):
                self.facts.assume(Fact(known, relation, f"{known} {relation} 0"))
        self.formula = self.grown(3)
        if self.facts.assumed and self.draw.random() < 0.4:  # near to what is known
            self.formula = self.draw.choice([1, -1, 2]) * self.facts.assumed[0].formula + self.draw.randint(-2, 2)

    def grown(self, depth: int) -> Whole:
        draw = self.draw
        if depth == 0 or draw.random() < 0.2:
            return draw.choice([N, H, W, draw.randint(-9, 9)])
        left = self.grown(depth - 1)
        kind = draw.choice(["+", "-", "*", "//", "%"])
        if kind in "//%":
            quotient, remainder = divided(left, draw.randint(1, 6))
            return quotient if kind == "//" else remainder
        right = draw.randint(-4, 4) if kind == "*" and draw.random() < 0.8 else self.grown(depth - 1)
        return left + right if kind == "+" else left - right if kind == "-" else left * right

    def contradicted(self, claim: str, answer: Answer) -> bool | None:
        """Whether z3 finds sizes at which the answer is wrong; None where it cannot tell in time."""
        solver = z3.Solver()
        solver.set("timeout", 200)
        stated = related(in_z3(self.formula, self.names, self.sides), claim)
        for fact in self.facts.assumed:
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
            ("==", question.facts.is_zero(question.formula)),
            (">=", question.facts.is_at_least_zero(question.formula)),
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
            assert lower_bound(value) <= number
