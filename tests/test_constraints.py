"""What the caller promises of sizes: how it is written, what it says, and what is refused."""

from __future__ import annotations

import itertools

import pytest

from passes.errors import InputError
from passes.sizes.facts import Origin
from passes.text.constraints import parse_constraint, parse_constraints

READ = {
    "H>=33": ["H >= 33"],
    "H > 32": ["H >= 33"],
    "W%32==0": ["W % 32 == 0"],
    "W % 32 == 1": ["W % 32 == 1"],
    "P>=0": ["P >= 0"],
    "29<=H<=512": ["H >= 29", "H <= 512"],
    "5 < H < 9": ["H >= 6", "H <= 8"],
    "H==W": ["H == W"],
    "N*T<=4096": ["N*T <= 4096"],
    "H!=7": ["H != 7"],
    "2*H>W": ["2*H > W"],
    "H//4 >= 8": ["H >= 32"],
    "64 == H": ["H == 64"],
    "T == U + 1": ["T == U + 1"],
    "H>=33, W%32==0,N*T<=4096": ["H >= 33", "W % 32 == 0", "N*T <= 4096"],
    "2 <= H <= W < 2*H": ["H >= 2", "W >= H", "2*H > W"],
}


@pytest.mark.parametrize("text", READ)
def test_a_constraint_is_read_and_said_in_words(text: str) -> None:
    facts = parse_constraint(text)
    assert [fact.condition for fact in facts] == READ[text]
    assert {fact.origin for fact in facts} == {Origin.GIVEN}


@pytest.mark.parametrize("text", READ)
def test_a_constraint_means_what_python_makes_of_it(text: str) -> None:
    facts, words = parse_constraint(text), " and ".join(fact.condition for fact in parse_constraint(text))
    for n, h, w in itertools.product((1, 5, 6, 7, 31, 33, 64, 100), (1, 2, 8, 29, 40, 64, 512, 513), (0, 1, 33, 64)):
        sizes = {"N": n, "H": h, "W": w, "P": w, "T": h, "U": h - 1}
        wanted = all(bool(eval(part, dict(sizes))) for part in text.split(","))
        assert all(fact.holds(sizes) for fact in facts) == wanted == bool(eval(words, dict(sizes)))


REFUSED = {
    "": "expected a size",
    "H": "expected a comparison, found the end",
    "H = 3": "expected a comparison",
    "H >= ": "expected a size",
    "H >= 3 W": "expected the end of the line, found W",
    "H >= 3,": "expected a size",
    "H >= 3.5": "expected the end of the line, found .5",
    "H % 0 == 1": "expected a positive divisor",
    "3 >= 2": "expected a comparison that depends on a named size",
    "H >= H": "expected a comparison that depends on a named size",
    "H >= 3 and W >= 2": "expected the end of the line, found and",
    "__import__('os')": "expected a comparison",
    "(" * 500 + "H": "cannot be read",
    "H" * 2000: "is longer than 1000 characters",
    "H >= " + "9" * 900: None,  # a large number is a number
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_anything_else_is_refused_with_the_text_and_a_remedy(text: str) -> None:
    if REFUSED[text] is None:
        assert parse_constraint(text)
        return
    with pytest.raises(InputError) as raised:
        parse_constraint(text)
    assert REFUSED[text] in raised.value.message
    assert text[:40] in raised.value.message
    assert "write comparisons of named sizes" in raised.value.remedy


def test_names_are_those_of_the_sample_where_they_are_known() -> None:
    assert parse_constraint("H >= 33", ["N", "H"])
    with pytest.raises(InputError, match="expected one of the named sizes, found h >= 33") as raised:
        parse_constraint("h >= 33", ["N", "H"])
    assert "the named sizes are N, H" in raised.value.remedy


def test_no_text_is_no_constraint() -> None:
    with pytest.raises(InputError, match="a constraint on sizes is a text, not 33"):
        parse_constraint(33)  # type: ignore[arg-type]


def test_several_texts_give_each_fact_once() -> None:
    assert [fact.condition for fact in parse_constraints(["H >= 3", "H>2, W >= 2"])] == ["H >= 3", "W >= 2"]
