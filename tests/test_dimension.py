"""Named dimensions against plain integers: every formula, at many sizes."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from passes.dimension import Dim, DynamicSizeError, Size, hint, product
from passes.guards import GuardLog

SIZES = {"N": 5, "H": 28, "W": 31}


def symbols() -> dict[str, Dim]:
    log = GuardLog()
    return {name: Dim.symbol(name, size, log) for name, size in SIZES.items()}


@st.composite
def formulas(draw: st.DrawFn) -> str:
    """A Python expression over N, H and W."""
    leaf = st.sampled_from(["N", "H", "W", "1", "2", "3", "7"])
    grow = lambda inner: st.one_of(  # noqa: E731
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, st.sampled_from(["//", "%"]), st.integers(1, 6)).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    )
    return draw(st.recursive(leaf, grow, max_leaves=8))


@given(formula=formulas(), sizes=st.fixed_dictionaries({name: st.integers(1, 300) for name in SIZES}))
def test_a_formula_has_the_value_of_the_integers(formula: str, sizes: dict[str, int]) -> None:
    size: Size = eval(formula, dict(symbols()))
    assert hint(size) == eval(formula, dict(SIZES))
    expected = eval(formula, dict(sizes))
    assert (size.at(sizes) if isinstance(size, Dim) else size) == expected


@given(formula=formulas(), sizes=st.fixed_dictionaries({name: st.integers(1, 300) for name in SIZES}))
def test_the_text_is_python_with_the_same_value(formula: str, sizes: dict[str, int]) -> None:
    size = eval(formula, dict(symbols()))
    assert eval(str(size), dict(sizes)) == eval(formula, dict(sizes))


@given(formula=formulas(), sizes=st.fixed_dictionaries({name: st.integers(1, 300) for name in SIZES}))
def test_the_lower_bound_holds(formula: str, sizes: dict[str, int]) -> None:
    size = eval(formula, dict(symbols()))
    if isinstance(size, Dim):
        assert size.at(sizes) >= size.lower_bound()


@given(left=formulas(), right=formulas(), relation=st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
def test_an_answer_without_a_guard_holds_for_all_sizes(left: str, right: str, relation: str) -> None:
    names = symbols()
    log = names["N"].log
    answer = bool(eval(f"({left}) {relation} ({right})", dict(names)))
    assert answer == eval(f"({left}) {relation} ({right})", dict(SIZES))
    assume(not log.guards)
    for n in (1, 2, 9):
        for h in (1, 6, 40):
            assert answer == eval(f"({left}) {relation} ({right})", {"N": n, "H": h, "W": n + h})


def test_the_size_formulas_of_networks_are_short() -> None:
    h = symbols()["H"]
    after_conv = (h + 2 * 2 - 5) // 1 + 1
    after_pool = (after_conv - 2) // 2 + 1
    assert str(after_conv) == "H"
    assert str(after_pool) == "H//2"
    assert str((after_pool - 2) // 2 + 1) == "H//4"
    assert str(16 * ((after_pool - 2) // 2 + 1) * symbols()["W"]) == "16*(H//4)*W"


def test_products_divide_exactly() -> None:
    names = symbols()
    numel = product([names["N"], 16, names["H"], names["W"]])
    assert numel // names["N"] == 16 * names["H"] * names["W"]
    assert numel % (names["N"] * 8) == 0
    assert not names["N"].log.guards


def test_an_open_question_is_answered_at_the_sample_and_recorded() -> None:
    h = symbols()["H"]
    assert h % 2 == 0
    assert h > 7
    assert [guard.condition for guard in h.log.guards] == ["H % 2 == 0", "H >= 8"]


def test_a_dynamic_size_is_no_integer() -> None:
    with pytest.raises(DynamicSizeError, match="H is a dynamic dimension"):
        range(symbols()["H"])
