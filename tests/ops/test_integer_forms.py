"""Products, sums and scatters of integers and bool: a form that onnxruntime runs, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tracer
from tests.ops.oracle import as_module

DTYPES = (torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)
Shapes = tuple[tuple[int, ...], ...]
PLACES = torch.tensor([[0, 1, 0]])

FORMS: dict[str, tuple[Callable[..., Any], Shapes]] = {
    "linear": (F.linear, ((3, 4), (5, 4), (5,))),
    "linear over more axes": (F.linear, ((2, 3, 4), (5, 4))),
    "matmul": (torch.matmul, ((2, 3, 4), (4, 5))),
    "outer": (torch.outer, ((4,), (3,))),
    "addr": (torch.addr, ((4, 3), (4,), (3,))),
    "addmm": (lambda a, b, c: torch.addmm(a, b, c, alpha=2, beta=3), ((3, 2), (3, 4), (4, 2))),
    "kron": (torch.kron, ((2, 2), (3, 2))),
    "einsum that sums": (lambda a: torch.einsum("ij->i", a), ((3, 4),)),
    "einsum that multiplies": (lambda a, b: torch.einsum("ij,jk->ik", a, b), ((3, 4), (4, 2))),
    "einsum of an outer product": (lambda a, b: torch.einsum("i,j->ij", a, b), ((3,), (4,))),
    "einsum that does both": (lambda a, b: torch.einsum("ij,k->ik", a, b), ((3, 4), (5,))),
    "tensordot": (lambda a, b: torch.tensordot(a, b, 1), ((3, 4), (4, 2))),
    "inner": (torch.inner, ((4,), (4,))),
    "sum in its dtype": (lambda a: a.sum(0, dtype=a.dtype), ((4, 3),)),
    "prod in its dtype": (lambda a: a.prod(0, dtype=a.dtype), ((4, 3),)),
    "cumsum in its dtype": (lambda a: a.cumsum(0, dtype=a.dtype), ((4, 3),)),
    "cumprod in its dtype": (lambda a: a.cumprod(0, dtype=a.dtype), ((4, 3),)),
    "avg_pool": (lambda a: F.avg_pool2d(a, 2), ((1, 2, 4, 4),)),
    "scatter_add": (lambda a, s: a.scatter_add(0, PLACES, s), ((4, 3), (4, 3))),
    "scatter_reduce": (lambda a, s: a.scatter_reduce(0, PLACES, s, "prod"), ((4, 3), (4, 3))),
    "scatter_reduce of others": (
        lambda a, s: a.scatter_reduce(0, PLACES, s, "amax", include_self=False),
        ((4, 3), (4, 3)),
    ),
    "index_add": (lambda a, s: a.index_add(0, torch.tensor([0, 1]), s), ((4, 3), (2, 3))),
    "index_put": (lambda a, s: a.index_put((torch.tensor([0, 1]),), s, accumulate=True), ((4, 3), (2, 3))),
    "a number to a power": (lambda a: 3 ** a.clamp(max=3), ((3, 4),)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_runs_or_a_refusal(name: str, dtype: torch.dtype) -> None:
    function, shapes = FORMS[name]
    low, high = (0, 2) if dtype == torch.bool else (0, 20) if dtype == torch.uint8 else (-20, 20)
    tensors = tuple(torch.randint(low, high, shape).to(dtype) for shape in shapes)
    try:
        function(*(tensor.clone() for tensor in tensors))
    except (RuntimeError, NotImplementedError):
        return  # torch itself has none
    try:
        tracer.convert(as_module(function), tensors, route="direct")
    except tracer.UnsupportedOpError as refusal:
        assert "avg_pool" in name or dtype == torch.bool
        assert refusal.blockers[0].reason  # noqa: PT017


def test_factors_that_float32_does_not_hold() -> None:
    a, b, c = (torch.randn(shape, dtype=torch.float64) for shape in ((3, 2), (3, 4), (4, 2)))
    tracer.convert(as_module(lambda a, b, c: torch.addmm(a, b, c, alpha=0.6, beta=0.2)), (a, b, c), route="direct")
