"""torch's own functions of control flow beside the plain ones, which everything else here is compared with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tracer
from passes.values.nested import leaves
from tests.control_flow.oracle import expected
from tests.control_flow.test_branches import DOWN, UP, LazySides, Sides
from tests.control_flow.test_generation import FIRST, Generator
from tests.control_flow.test_loops import Leaky, Mapped, Repeated
from tests.control_flow.test_programs import Everything

X = torch.randn(3, 4, 5)
CASES: list[tuple[Callable[[], nn.Module], list[tuple[Tensor, ...]]]] = [
    (Sides, [(UP,), (DOWN,)]),
    (lambda: LazySides(1), [(UP,), (DOWN,)]),
    (Repeated, [(UP, torch.tensor(count)) for count in (0, 1, 5)]),
    *((partial(Leaky, dim, reverse), [(X,)]) for dim in (0, 1, -1) for reverse in (False, True)),
    (Mapped, [(UP, torch.randn(3))]),
    (Everything, [(torch.randn(2, 4),), (torch.randn(5, 4),)]),
    (Generator, [(FIRST,)]),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("case", range(len(CASES)))
def test_plain_control_flow_is_torchs(case: int) -> None:
    make, runs = CASES[case]
    model: Any = tracer.resolve(make(), runs[0], seed=0).eval()
    for data in runs:
        with torch.no_grad():
            found = list(leaves(model(*data)))
        for ours, theirs in zip(expected(model, data), found, strict=True):
            torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs))
