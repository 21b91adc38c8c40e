"""Checks in torch's own code that only raise keep no model from being traced; the caller's own branches do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, Laplace, Normal, kl_divergence

import tracer
from tests.ops.oracle import Call
from tracer.edge import torchs_checks

LIKELIHOODS: dict[str, Callable[..., torch.Tensor]] = {
    "normal": lambda x, scale: Normal(x, scale).log_prob(x * 2),
    "independent": lambda x, scale: Independent(Normal(x, scale), 1).log_prob(x * 2),
    "divergence": lambda x, scale: kl_divergence(Normal(x, scale), Normal(0.0, 1.0)),
    "laplace": lambda x, scale: Laplace(x, scale).log_prob(x * 2),
    "entropy": lambda x, scale: Categorical(logits=x).entropy(),
    "probabilities": lambda x, scale: Categorical(probs=scale).log_prob(torch.tensor([0, 2])),
    "bernoulli": lambda x, scale: Bernoulli(logits=x).log_prob((scale > 0.5).float()),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_distributions_are_traced(name: str) -> None:
    """Their parameters are held against their constraints, which takes data."""
    conversion = tracer.convert(Call(LIKELIHOODS[name]), (torch.randn(2, 3), torch.rand(2, 3) + 0.1), route="direct")
    assert conversion.verification is not None


def test_a_check_of_what_is_known_is_made() -> None:
    with pytest.raises(tracer.CaptureError, match=r"scale .* to satisfy the constraint"):
        tracer.convert(
            Call(lambda x: Normal(0.0, torch.tensor(-1.0), validate_args=True).log_prob(x)), (torch.randn(3),)
        )


def positive(x: torch.Tensor) -> torch.Tensor:
    if (x < 0).any():
        raise ValueError("negative")
    return x.sqrt()


def test_the_callers_own_branches_are_no_checks_of_torchs() -> None:
    with pytest.raises(tracer.UnsupportedOpError, match=r"needs the data of any_1 bool\[\] for control flow"):
        tracer.convert(Call(positive), (torch.rand(3),), route="direct")


def test_torchs_check_of_a_tensor() -> None:
    def checked(x: torch.Tensor) -> torch.Tensor:
        torch._check_tensor_all(x > -9)
        return x + 1

    assert tracer.convert(Call(checked), (torch.rand(3),), route="direct").verification is not None
    with pytest.raises(tracer.CaptureError, match="Expected cond to be True"):
        tracer.convert(Call(lambda x: (torch._check_tensor_all(torch.tensor([1, 2]) > 1), x)[1]), (torch.rand(3),))


SOURCE = """
def check(value):
    if value:
        raise ValueError("plain")
    if not value:
        text = "negated"
        raise ValueError(text)
    if not (
        other and value
    ):
        raise ValueError("both, over lines")
    assert value, "asserted"
    if other:
        pass
    elif value or other:
        raise ValueError("either")
    if value and not other:
        raise ValueError("of unlike parts")
    if value:
        print("something else")
        raise ValueError
    if value:
        return 1
    while value:
        pass
    if (value if other else not value):
        raise ValueError("one of two")
"""


def test_which_answers_pass(tmp_path: Path) -> None:
    """By line: what a value must be for the check there to pass; no answer where there is no check."""
    file = tmp_path / "library.py"
    file.write_text(SOURCE)
    assert torchs_checks._answers(str(file)) == {3: False, 5: True, 8: True, 9: True, 10: True, 12: True, 15: False}
