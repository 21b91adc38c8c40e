"""For which sizes a result holds: few guards, each as plain as can be, and one sentence."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from passes.sizes import dimension
from passes.sizes.dimension import Dim
from passes.sizes.guards import GuardLog, Location
from passes.text.constraints import parse_constraints


def sized(given: str = "", **sizes: int) -> tuple[GuardLog, list[Any]]:
    log = GuardLog()
    log.facts.given = parse_constraints([given] if given else [])
    return log, [Dim.symbol(name, size, log) for name, size in sizes.items()]


def conditions(log: GuardLog) -> list[str]:
    return [guard.condition for guard in log.guards]


def pooled(size: Any, kernel: int = 2, stride: int = 2, padding: int = 0) -> Any:
    """What a pooling's rule asks and gives."""
    assert size + 2 * padding >= kernel
    out = (size + 2 * padding - kernel) // stride + 1
    assert out != 0
    return out


# Chains of formulas, as networks have them ------------------------------------------------------------


def test_a_chain_of_poolings_needs_one_bound() -> None:
    log, (n, h, w) = sized(N=2, H=64, W=64)
    for size in (h, w):
        stage = pooled((size + 6 - 7) // 2 + 1, 3, 2, 1)
        for _ in range(3):
            stage = pooled(stage)
        assert str(stage) == f"({size} + 3)//32"
    assert conditions(log) == ["H >= 29", "W >= 29"]
    assert log.statement() == "valid for N >= 1, H >= 29, W >= 29"
    assert n > 0


def test_a_net_that_halves_and_doubles_needs_divisible_sizes() -> None:
    log, sizes = sized(N=2, H=64, W=64)
    for size in sizes[1:]:
        down = [size]
        for _ in range(2):
            down.append(pooled(down[-1]))
        up = down[-1]
        for before in reversed(down[:-1]):
            up = 2 * up
            assert up == before  # torch.cat along channels
    assert log.statement() == "valid for N >= 1, H >= 4, H % 4 == 0, W >= 4, W % 4 == 0"
    assert conditions(log) == ["H % 4 == 0", "W % 4 == 0"]


def test_padded_windows_leave_bounds_only() -> None:
    log, (h,) = sized(H=64)
    size, window = h // 4, 7
    for _ in range(4):
        padded = size + (window - size % window) % window
        assert padded // window * window == padded
        assert (window < padded) in (True, False)
        size = (size + size % 2) // 2
    assert conditions(log) == ["H >= 60", "H <= 115"]
    assert log.statement() == "valid for 60 <= H <= 115"


def test_windows_that_must_fit_are_divisible() -> None:
    log, (n, h) = sized(N=2, H=56)
    patches = (h + 3) // 4
    assert patches % 7 == 0
    assert n * patches == n * 7 * (patches // 7)
    assert conditions(log) == ["H % 28 in (0, 25, 26, 27)"]


def test_a_product_of_windows_is_one_condition_for_each_size() -> None:
    log, (n, h, w) = sized(N=2, H=224, W=224)
    grid = [(size + 3) // 28 for size in (h, w)]
    assert 64 * n * ((h + 3) // 4) * ((w + 3) // 4) == 3136 * n * grid[0] * grid[1]
    assert conditions(log) == ["H % 28 in (0, 25, 26, 27)", "W % 28 in (0, 25, 26, 27)"]
    assert 4096 * n == 64 * n * grid[0] * grid[1]
    assert conditions(log)[2:] == ["((H + 3)//28)*((W + 3)//28) == 64"]


def test_windows_are_counted_and_put_together_again() -> None:
    """As transformers over windows do, with the number of images found by a division."""
    log, (n, h, w) = sized(N=2, H=224, W=224)
    for patch in (4, 8):
        rows, columns = ((size + patch - 1) // patch for size in (h, w))
        assert rows % 7 == 0
        assert columns % 7 == 0
        windows = n * rows * columns * 16 // (7 * 7 * 16)
        assert windows != 0
        assert n * rows * columns * 16 % (rows // 7 * (columns // 7) * 49 * 16) == 0
        images = windows // (rows // 7 * (columns // 7))
        assert str(images) == "N"
    assert conditions(log) == [
        "H % 28 in (0, 25, 26, 27)",
        "W % 28 in (0, 25, 26, 27)",
        "(H + 7) % 56 <= 7",
        "(W + 7) % 56 <= 7",
    ]
    assert log.statement() == "valid for N >= 1, H >= 53, H % 56 in (0, 53, 54, 55), W >= 53, W % 56 in (0, 53, 54, 55)"


def test_one_window_in_all_is_one_each_way() -> None:
    log, (h, w) = sized(H=224, W=224)
    for size in (h, w):
        assert (size + 31) // 32 % 7 == 0
    assert ((h + 31) // 32) * ((w + 31) // 32) == 49
    assert log.statement() == "valid for 193 <= H <= 224, 193 <= W <= 224"


def test_a_product_of_one_with_what_may_be_zero_is_not_taken_apart() -> None:
    log, (h, w) = sized("P >= 0", H=224, W=224)
    assert (h // 224) * (w // 224) == 1
    assert conditions(log) == ["(H//224)*(W//224) == 1"]


def test_a_table_of_fixed_length_leaves_a_product() -> None:
    log, (h, w) = sized(H=224, W=224)
    patches = ((h + 15) // 16) * ((w + 15) // 16)
    assert patches == 196
    assert 25088 % patches == 0
    assert 25088 // patches == 128
    assert log.statement() == "valid for H >= 1, W >= 1, ((H + 15)//16)*((W + 15)//16) == 196"


def test_what_fixes_one_size_may_fix_the_other() -> None:
    log, (h, w) = sized(H=224, W=224)
    assert h % 16 == 0
    assert w % 16 == 0
    assert (h // 16) * (w // 16) + 1 == 197
    assert log.statement().endswith("(H//16)*(W//16) == 196")
    assert h // 16 == 14
    assert w // 16 == 14
    assert log.statement() == "valid for H == 224, W == 224"


def test_a_size_that_fixes_another_may_lie_between_borders() -> None:
    log, (h, w) = sized(H=224, W=224)
    tokens = ((h + 31) // 32) * ((w + 31) // 32)
    assert tokens == 49
    assert (h + 31) // 32 == 7
    assert 49 * ((17 * tokens + 48) // 49) == 17 * tokens
    assert log.statement() == "valid for 193 <= H <= 224, 193 <= W <= 224"


@pytest.mark.parametrize(
    ("given", "condition"),
    [
        ("", "49*(H//28)*(W//28) == (H//4)*(W//4)"),
        ("H >= 4, W >= 4", None),
        ("P >= 0", "49*(H//28)*(W//28) == (H//4)*(W//4)"),
    ],
)
def test_a_product_that_may_be_zero_is_not_taken_apart(given: str, condition: str | None) -> None:
    log, (h, w) = sized(given, H=56, W=56)
    assert 49 * (h // 28) * (w // 28) == (h // 4) * (w // 4)
    assert conditions(log)[0] == (condition or "H % 28 in (0, 1, 2, 3)")


def test_a_product_of_what_may_be_negative_is_not_taken_apart() -> None:
    log, (h, w) = sized(H=8, W=8)
    assert h * w == ((h - 6) // 2) * ((w + 120) // 2)
    (said,) = conditions(log)
    assert said == f"{h * w} == {((h - 6) // 2) * ((w + 120) // 2)}"


@pytest.mark.parametrize("given", ["", "N >= 0"])
def test_a_factor_is_left_out_where_it_is_never_zero(given: str) -> None:
    log, (n, h) = sized(given, N=2, H=5)
    assert n * h == 5 * n
    assert conditions(log) == (["H*N == 5*N"] if given else ["H == 5"])
    assert ("N >= 1" in log.relied) == (not given)


# Guards ---------------------------------------------------------------------------------------------


def test_the_place_of_a_guard_that_is_kept_is_its_own() -> None:
    log, (h,) = sized(H=64)
    for line, least in enumerate((8, 29, 16)):
        log.location = Location("net", f"net.py:{line}")
        assert (h - least) // 2 >= 0
        assert h != 7
    (guard,) = log.guards
    assert (guard.condition, guard.location.source) == ("H >= 29", "net.py:1")
    assert len(log.recorded) >= 1


@pytest.mark.parametrize(
    ("given", "asked", "left"),
    [
        ("", lambda n, h, w: h % 4 == 0 and h % 2 == 0, ["H % 4 == 0"]),
        ("", lambda n, h, w: h % 2 == 0 and h % 4 == 0, ["H % 4 == 0"]),
        ("H % 8 == 0", lambda n, h, w: h % 4 == 0, []),
        ("H >= 33", lambda n, h, w: h >= 29, []),
        ("H >= 33", lambda n, h, w: h >= 40, ["H >= 40"]),
        ("", lambda n, h, w: h == w and 2 * h == 2 * w, ["H == W"]),
        ("H == W", lambda n, h, w: n * h == n * w, []),
        ("H == W, W >= 40", lambda n, h, w: h >= 33, []),
        ("", lambda n, h, w: h == 64 and h >= 3, ["H == 64"]),
        ("", lambda n, h, w: h >= 3 and h == 64, ["H == 64"]),
        ("", lambda n, h, w: n * h <= 4096 and n * h <= 9999, ["H*N <= 4096"]),
        ("", lambda n, h, w: h * h <= 5000, ["H <= 70"]),
        ("", lambda n, h, w: h > w - 1, ["H > W - 1"]),
        ("", lambda n, h, w: h != 7 and h >= 5, ["H != 7", "H >= 5"]),
        ("", lambda n, h, w: abs(h - w) <= 3, ["abs(H - W) <= 3"]),
        ("", lambda n, h, w: n * h - 16 >= 4, ["H*N >= 20"]),
        ("", lambda n, h, w: n * h + 1 == 193, ["H*N == 192"]),
    ],
)
def test_what_is_implied_is_no_guard(given: str, asked: Any, left: list[str]) -> None:
    log, sizes = sized(given, N=3, H=64, W=64)
    assert asked(*sizes)
    assert conditions(log) == left


def test_a_guard_that_is_no_formula_stays_as_it_is() -> None:
    log, (h,) = sized(H=64)
    log.record("x is a scalar", dynamic=False)
    assert h >= 8
    log.record("Mod(H, 3) < Abs(H)", dynamic=True)
    assert conditions(log) == ["x is a scalar", "H >= 8", "Mod(H, 3) < Abs(H)"]
    assert log.statement() == "valid for H >= 8, Mod(H, 3) < Abs(H)"


ASKED: list[Callable[[Any, int, int], bool]] = [
    lambda size, by, least: bool(size >= least),
    lambda size, by, least: bool(size // by >= 2),
    lambda size, by, least: bool(size % by == 0),
    lambda size, by, least: bool((size + least) // by != 3),
    lambda size, by, least: bool(size - size // by <= least),
    lambda size, by, least: bool(dimension.maximum(size, least) // by == 4),
    lambda size, by, least: bool(abs(size - least) < 9),
]


@pytest.mark.parametrize("seed", range(80))
def test_few_words_say_what_all_the_facts_say(seed: int) -> None:
    """Against the facts as they were assumed, at many sizes."""
    draw = random.Random(seed)
    sample = {"H": draw.randint(2, 60), "W": draw.randint(2, 60)}
    promised = draw.choice(["", f"H <= {sample['H'] + 9}", f"W % 3 == {sample['W'] % 3}", "H >= 0", "H*W >= 3"])
    log, (h, w) = sized(promised, **sample)
    for _ in range(draw.randint(1, 5)):
        size = draw.choice([h, h, w, w, h + w, h * w])
        by, least = draw.randint(2, 9), draw.randint(0, 40)
        if draw.random() < 0.1:
            assert (h == w + (least - 20)) in (True, False)
        draw.choice(ASKED)(size, by, least)
    said = log.statement().removeprefix("valid for ")
    kept = ", ".join(["True", *conditions(log)])
    for sizes in ({"H": h, "W": w} for h in range(130) for w in (0, 1, 2, 3, 5, 12, 20, 21, 33, 40, 47, 60, 100)):
        holds = log.facts.hold(sizes) and (sizes["H"] >= 1 or promised == "H >= 0") and sizes["W"] >= 1
        assert all(eval(f"({said},)", dict(sizes))) == holds, (said, sizes)
        if sizes["W"] >= 1 and sizes["H"] >= 1 and all(fact.holds(sizes) for fact in log.facts.given):
            assert all(eval(f"({kept},)", dict(sizes))) == holds, (kept, sizes)


# The sentence ---------------------------------------------------------------------------------------


def test_a_sentence_has_promises_guards_and_defaults() -> None:
    log, (n, h, w) = sized("29 <= W <= 512, P >= 0, N*H <= 4096", N=2, H=64, W=64)
    Dim.symbol("P", 5, log)
    assert h % 32 == 0
    assert h >= 29
    assert w % 2 == 0
    assert n >= 1
    assert log.statement() == (
        "valid for N >= 1, H >= 32, H % 32 == 0, 30 <= W <= 512, W % 2 == 0, P >= 0, H*N <= 4096"
    )


def test_fixed_sizes_need_no_sentence() -> None:
    assert GuardLog().statement() == ""


def test_a_guard_that_cuts_a_promise_is_told() -> None:
    log, (p, h) = sized("P >= 0, H >= 8", P=5, H=64)
    assert h >= 4
    assert log.guards == []
    assert p > 0
    (guard,) = log.guards
    assert (log.constraints()[0], guard.condition) == ("P >= 0", "P >= 1")


def test_what_answers_rested_on_is_kept() -> None:
    log, (n, h) = sized("H >= 33", N=2, H=64)
    assert n >= 1
    assert h > 7
    assert [(fact.condition, fact.origin.value) for fact in log.relied.values()] == [
        ("N >= 1", "default"),
        ("H >= 33", "given"),
    ]
    log.forget()
    assert not log.relied
    assert [fact.condition for fact in log.facts.given] == ["H >= 33"]
