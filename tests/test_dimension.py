"""Named dimensions against plain integers: every formula, at many sizes."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from passes.sizes.dimension import Dim, DynamicSizeError, Size, hint, product
from passes.sizes.facts import Facts
from passes.sizes.floating import Floating
from passes.sizes.guards import GuardLog, Location
from tracer.capture.values.number import TracedNumber

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
        assert size.at(sizes) >= Facts().low(size.formula)


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


# Everything that Python computes with two integers N and H, where the result is a number.
PYTHON = """
N**2; N**0; N**-1; N**-2; N**2.0; pow(N, 3); pow(N, 2, 7); (N/2)**-1; (N/H)**2
N//-3; -N//3; -N//2; 10//N; (-10)//N; N//H; -N//H; N//-H; (N-H)//3; (N-H)//(H+1); (H-N)//N
N//2.5; N/2//3; N//(N-H); (N-H)//(N-2*H)
N%-3; -N%3; (-N)%-3; 10%N; -10%N; N%H; -N%H; N%-H; (2-N)%3; (N-H)%H; N%2.5; (N/2)%1; N%(N-H)
divmod(N, -3)[0]; divmod(N, 3)[1]; divmod(-10, N)[1]; divmod(10, N)[0]; divmod(N, 0.5)[1]
abs(N-H); abs(5-N); abs(-N//2); abs(N/2-5); abs((N-H)/2); -(N/2); +N; ~N
round(N); round(N, 1); round(N/2); round(N/4); round(N/6); round((N-H)/4); round(-N/2); round(N*0.5)
math.floor(N); math.ceil(N/2); math.floor(-N/2); math.trunc(-N/2); math.trunc((N-H)/3)
N+0.5; 0.5-N; N-0.25; 2*N-1.5; 1/N; N/H; 3/(N-H); (N/2)+H; H-(N/2); N*0.75; N*True; True+N; N*1.0
N==5; N==5.0; N==5.5; N!=5.0; N<2.5; N>=2.5; N<=-0.5; 5.5>N; N<float("inf"); N==float("nan")
N/2==2.5; 1/(N-H)<0.5; H/(N-H)>1; N/2==0.1; N/2<1.2; N*0.3>1; 2.5<N**0.5; N*0.1==0.5
N**0.5; N*0.3; N+0.1; 0.1-N; 0.3/N; 0.3*N; (N/2)**0.5; N**-0.5; 0.5**N; N*0.1+H*0.1; 2.5//N; (N/3)*3; N/3+H/3; N/3/5
math.floor(N*0.7); math.ceil(N*0.7); round(N*0.7); math.trunc((N-H)*0.7); round(N*0.6); math.ceil(N*0.6); round(N/H)
math.floor(N**0.5); round(N*0.3+H*0.3); math.floor((N/7)*7); math.floor(90*N*0.7); math.trunc((H-N)/2)
N>>1; N<<2; -N>>1; N&1; N&3; (N+7)&~7; 3&N; (N-H)>>2; (N/2)**2; abs(N*0.3-H); round(N*1.5); round((N-H)*0.5)
round(H/12); math.trunc(-N*0.7)
N==None; N in (5, 6); N in [H]; max(N, H); min(N, 3); max((H-N)//N, -2); ((H-N)//N)*N >= 0; (H-N)%N >= 0; sum([N, H])
np.int64(3)*N; N*np.int64(3); N//np.int64(2); np.int64(17)//N; N==np.int64(5); np.int64(3)<N; np.float64(0.5)*N
"""
# What is no formula of sizes, nor a float that is computed from some: Python computes it from the sampled sizes.
FIXED = "2**N; N**N; round(N, -1); round(N/3, 2); N*1j; N//0.3; N%0.3; N<<H; 1<<N; N&5; N|5; N^5; N**99"


class Asking:
    """What a traced number asks of its tracer."""

    recording = True

    def __init__(self, log: GuardLog) -> None:
        self.made: list[Any] = []
        self.program = SimpleNamespace(log=log)

    def here(self) -> Location:
        return Location()

    def locate(self, place: Location | None = None) -> None:
        pass

    def record_guard(self, condition: str) -> None:
        pass


def evaluated(expression: str, n: Any, h: Any) -> Any:
    return eval(expression, {"N": n, "H": h, "math": math, "np": np})


def sampled(n: int, h: int) -> tuple[GuardLog, TracedNumber, TracedNumber]:
    log = GuardLog()
    tracer = Asking(log)
    sizes = (Dim.symbol(name, size, log) for name, size in (("N", n), ("H", h)))
    return (log, *(TracedNumber(tracer, size, "size", ("x", axis)) for axis, size in enumerate(sizes)))  # type: ignore


def at(value: Any, sizes: dict[str, int]) -> Any:
    return value.at(sizes) if isinstance(value, (Dim, Floating)) else value


@pytest.mark.parametrize("expression", [text.strip() for text in PYTHON.replace("\n", ";").split(";") if text.strip()])
@pytest.mark.parametrize("sample", [(5, 4), (4, 6), (8, 3)])
def test_a_number_is_pythons_wherever_the_guards_hold(expression: str, sample: tuple[int, int]) -> None:
    log, n, h = sampled(*sample)
    found = evaluated(expression, n, h)
    found = found.value if type(found) is TracedNumber else found  # a comparison is decided, and guarded, here
    tried = 0
    for sizes in ({"N": n, "H": h} for n in range(1, 12) for h in range(1, 9)):
        if not log.facts.hold(sizes):
            continue
        with contextlib.suppress(ZeroDivisionError):
            wanted = evaluated(expression, sizes["N"], sizes["H"])
            tried += 1
            assert at(found, sizes) == pytest.approx(wanted, rel=1e-12, abs=1e-12)
            assert isinstance(at(found, sizes), float) == isinstance(wanted, float)
    assert tried


@pytest.mark.parametrize("expression", FIXED.split("; "))
def test_what_is_no_formula_is_a_number_that_fixes_its_sizes(expression: str) -> None:
    log, n, h = sampled(5, 4)
    assert evaluated(expression, n, h).value == evaluated(expression, 5, 4)
    assert [guard.condition for guard in log.guards] == ["N == 5", "H == 4"][: 1 + ("H" in expression)]


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
