"""Products of matrices against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.errors import ShapeError
from passes.program.notes import CALL, VALUE
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

shapes = st.lists(st.integers(1, 3), max_size=4)
Function = Callable[..., Any]

PRODUCTS: list[Function] = [
    torch.matmul,
    operator.matmul,
    lambda a, b: a.matmul(b),
    lambda a, b: torch.mm(a, mat2=b),
    lambda a, b: a.bmm(b),
    torch.mv,
    lambda a, b: a.dot(b),
    torch.outer,
    torch.inner,
    lambda a, b: torch.tensordot(a, b, dims=1),
    lambda a, b: torch.tensordot(a, b, ([0], [-1])),
    lambda a, b: torch.linalg.multi_dot([a, b]),
    lambda a, b: torch.einsum("...ij,...jk->...ik", a, b),
    lambda a, b: torch.einsum("ab,bc", a, b),
    lambda a, b: torch.einsum("i...,...i->...", [a, b]),
]


@given(a=shapes, b=shapes)
def test_any_operands_shape(a: list[int], b: list[int]) -> None:
    for function in PRODUCTS:
        assert_shape_matches(function, torch.empty(a), torch.empty(b))


@pytest.mark.parametrize("function", [torch.matmul, torch.mm, lambda a, b: torch.einsum("ij,jk->ik", a, b)])
def test_unlike_dtypes_are_refused(function: Function) -> None:
    """As torch does on real tensors; on the meta device it does not look."""
    a, b = torch.ones(2, 3), torch.ones(3, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        function(a, b)
    with pytest.raises(ShapeError, match="one dtype"):
        propagated(function, a, b)


@given(batch=st.lists(st.integers(1, 3), max_size=2), n=st.integers(1, 3), k=st.integers(1, 3), m=st.integers(1, 3))
def test_operands_that_fit_shape(batch: list[int], n: int, k: int, m: int) -> None:
    for function in PRODUCTS:
        assert_shape_matches(function, torch.empty(*batch, n, k), torch.empty(*batch, k, m))
        assert_shape_matches(function, torch.empty(*batch, n, k), torch.empty(k, m))
        assert_shape_matches(function, torch.empty(*batch, n, k), torch.empty(k))


@given(lead=st.integers(0, 3), b=st.integers(1, 3), n=st.integers(1, 3), k=st.integers(1, 3), m=st.integers(1, 3))
def test_product_and_sum_shape(lead: int, b: int, n: int, k: int, m: int) -> None:
    for ranks, functions in {
        (2, 2): [torch.addmm, lambda c, x, y: c.addmm(x, y, beta=2, alpha=0.5)],
        (3, 3): [torch.baddbmm, torch.addbmm],
        (2, 1): [torch.addmv],
        (1, 1): [torch.addr],
    }.items():
        left, right = [b, n, k][-ranks[0] :], [b, k, m][1 if ranks[1] < 3 else 0 :][: ranks[1]]
        for function in functions:
            whole = {(2, 1): [n], (1, 1): [k, k]}.get(ranks, [n, m])
            assert_shape_matches(function, torch.empty(whole[lead:]), torch.empty(left), torch.empty(right))
            with pytest.raises(ShapeError):
                propagated(function, torch.empty(9), torch.empty(left), torch.empty(right))


EQUATIONS: dict[str, list[tuple[int, ...]]] = {
    "ij,jk->ik": [(2, 3), (3, 4)],
    "bhqd,bhkd->bhqk": [(2, 2, 3, 4), (2, 2, 5, 4)],
    "ij,jk": [(2, 3), (3, 4)],
    "i,j->ji": [(2,), (3,)],
    "ii->i": [(3, 3)],
    "ii": [(3, 3)],
    "ba": [(2, 3)],
    "...ij,...jk->...ik": [(2, 3, 4), (4, 5)],
    "...ij,jk": [(2, 3, 4), (4, 5)],
    "b...,b...->...": [(2, 3, 4), (2, 3, 4)],
    "...i,i->i": [(2, 3, 4), (4,)],
    "i...->...i": [(2, 3, 4)],
    "Ab,bC->AC": [(2, 3), (3, 4)],
    "ij,j,jk->ik": [(2, 3), (3,), (3, 4)],
    "ij->": [(2, 3)],
    "ij,kj->ik": [(2, 1), (3, 4)],
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(equation: str) -> None:
    tensors = [torch.randn(shape) for shape in EQUATIONS[equation]]
    assert_shape_matches(lambda *t: torch.einsum(equation, *t), *tensors)
    assert_lowering_matches(lambda *t: torch.einsum(equation, *t), *tensors)


@pytest.mark.parametrize("equation", ["ij,jk->il", "ij->iij", "i->i", "ijk,jk", "ij,jk,k", "ij,ij->i"])
def test_einsum_refusals(equation: str) -> None:
    assert_shape_matches(lambda *t: torch.einsum(equation, *t), torch.empty(2, 3), torch.empty(3, 4))


def test_einsum_stretches_axes_of_one() -> None:
    a, b, other = torch.randn(1, 3, 4), torch.randn(2, 4, 5), torch.randn(6, 4, 5)
    for equation in ("bij,bjk->bik", "bij,bjk", "...ij,...jk->...ki"):
        assert_lowering_matches(
            lambda a, b: torch.einsum(equation, a, b),  # noqa: B023
            a,
            b,
            dynamic={1: {0: "N"}},
            also=(a, other),
        )
        assert_lowering_matches(lambda a, b: torch.einsum(equation, a, b), a, b[:, :, :1])  # noqa: B023
    assert_lowering_matches(lambda a, b: torch.einsum("bij,bjk->bik", a[..., :1], b), a, b)


def test_einsum_by_axis_numbers() -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(4, 5)
    assert_lowering_matches(lambda a, b: torch.einsum(a, [0, 1, 2], b, [2, 3], [3, 0, 1]), a, b)


LOWERINGS: dict[str, tuple[Function, list[tuple[int, ...]]]] = {
    "matrices": (torch.matmul, [(2, 3), (3, 4)]),
    "batch": (lambda a, b: a @ b, [(2, 2, 3), (2, 3, 4)]),
    "broadcast": (lambda a, b: a @ b, [(2, 1, 2, 3), (5, 3, 4)]),
    "vectors": (torch.matmul, [(3,), (3,)]),
    "row": (torch.matmul, [(3,), (2, 3, 4)]),
    "column": (torch.matmul, [(2, 3, 4), (4,)]),
    "mm": (torch.mm, [(2, 3), (3, 4)]),
    "bmm": (torch.bmm, [(2, 2, 3), (2, 3, 4)]),
    "mv": (torch.mv, [(2, 3), (3,)]),
    "dot": (torch.dot, [(3,), (3,)]),
    "outer": (torch.outer, [(2,), (3,)]),
    "inner": (torch.inner, [(2, 3), (4, 3)]),
    "inner with number": (torch.inner, [(2, 3), ()]),
    "multi_dot": (lambda *t: torch.linalg.multi_dot(t), [(3,), (3, 4), (4, 2)]),
    "tensordot": (lambda a, b: torch.tensordot(a, b, ([1, 0], [0, 2])), [(2, 3, 4), (3, 5, 2)]),
    "addmm": (lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=2), [(4,), (2, 3), (3, 4)]),
    "addmm without": (lambda c, a, b: torch.addmm(c, a, b, beta=0), [(4,), (2, 3), (3, 4)]),
    "baddbmm": (lambda c, a, b: torch.baddbmm(c, a, b, beta=3, alpha=2), [(1, 4), (2, 2, 3), (2, 3, 4)]),
    "addbmm": (lambda c, a, b: c.addbmm(a, b), [(2, 4), (2, 2, 3), (2, 3, 4)]),
    "addmv": (lambda c, a, b: torch.addmv(c, a, vec=b), [(2,), (2, 3), (3,)]),
    "addr": (lambda c, a, b: torch.addr(c, a, b, alpha=2), [(2, 3), (2,), (3,)]),
}


@pytest.mark.parametrize("name", LOWERINGS)
def test_lowering(name: str) -> None:
    function, tensors = LOWERINGS[name]
    assert_lowering_matches(function, *map(torch.randn, tensors))


@pytest.mark.parametrize("name", LOWERINGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("opset", [13, 23])
def test_lowering_keeps_the_dtype(name: str, dtype: torch.dtype, opset: int) -> None:
    function, shapes = LOWERINGS[name]
    if "beta=0.5" in name or (name == "addmm" and dtype != torch.float64):
        return
    assert_lowering_matches(function, *((torch.rand(shape) * 9).to(dtype) for shape in shapes), opset=opset)


def test_half_precision() -> None:
    a, b = torch.randn(2, 3).half(), torch.randn(3, 4).half()
    assert_lowering_matches(torch.matmul, a, b, rtol=1e-3, atol=1e-3)


def test_attention_scores_with_dynamic_axes() -> None:
    def scores(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            q @ k.transpose(-2, -1),
            torch.einsum("bqd,bkd->bqk", q, k),
            torch.bmm(q, k.mT),
            torch.einsum("...d->...", k),
        )

    q, k = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    dynamic = {0: {0: "N", 1: "Q"}, 1: {0: "N", 1: "K"}}
    assert_lowering_matches(scores, q, k, dynamic=dynamic, also=(torch.randn(6, 7, 4), torch.randn(6, 2, 4)))


def test_the_sizes_are_named_where_they_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="the first has rows of 3, the second columns of 4"):
        propagated(torch.matmul, torch.empty(2, 3), torch.empty(4, 5))


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (torch.matmul, [(2, 3, 4), (4, 5)], 2 * 3 * 4 * 5),
        (torch.einsum, [(2, 3, 4), (4, 5)], 2 * 3 * 4 * 5),
        (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        (torch.outer, [(2,), (3,)], 6),
    ],
)
def test_cost(function: Function, shapes: list[tuple[int, ...]], macs: int) -> None:
    called = (lambda *t: torch.einsum("abc,cd->abd", *t)) if function is torch.einsum else function
    node = list(propagated(called, *map(torch.empty, shapes)).graph.nodes)[-2]
    call = CALL.of(node)
    assert call.op.cost_rule is not None
    assert call.op.cost_rule(VALUE.of(node), call.record.map(lambda leaf: VALUE.of(leaf))) == macs
