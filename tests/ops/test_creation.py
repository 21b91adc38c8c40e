"""Tensors made from sizes against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passes.errors import CaptureError, UnsupportedOpError
from passes.program.notes import VALUE
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

sizes = st.lists(st.integers(0, 4), max_size=3)
dtypes = st.sampled_from([None, torch.float16, torch.float64, torch.int64, torch.int32, torch.bool])
Function = Callable[..., Any]


@given(size=sizes, dtype=dtypes, fill=st.sampled_from([0, 1.5, True]))
def test_filled_shape(size: list[int], dtype: torch.dtype | None, fill: Any) -> None:
    x = torch.empty(2, dtype=torch.int16, device="meta")
    for function in (
        lambda x: torch.zeros(size, dtype=dtype, device=x.device),
        lambda x: torch.ones(*size, dtype=dtype, device=x.device) if size else x,
        lambda x: torch.empty(size=size, dtype=dtype, device=x.device),
        lambda x: torch.full(size, fill, dtype=dtype, device=x.device),
        lambda x: torch.rand(size, device=x.device),
        lambda x: torch.randn(*size, 1, device=x.device),
        lambda x: torch.randint(0, 5, size, device=x.device),
        lambda x: torch.randint(5, tuple(size), dtype=torch.int32, device=x.device),
        lambda x: torch.zeros_like(x, dtype=dtype),
        lambda x: torch.ones_like(x),
        lambda x: torch.full_like(x, fill, dtype=dtype),
        lambda x: torch.empty_like(x),
        lambda x: torch.randn_like(x, dtype=torch.float32),
        lambda x: x.new_zeros(size),
        lambda x: x.new_ones(*size, dtype=dtype) if size else x,
        lambda x: x.new_empty(size),
        lambda x: x.new_full(size, fill, dtype=dtype),
    ):
        assert_shape_matches(function, x)


ends = st.integers(-4, 9) | st.sampled_from([0.5, 2.5, 7.25])


@given(start=ends, end=ends, step=st.sampled_from([1, 2, 3, -1, -2, 0.5, -1.5]), dtype=st.none() | st.just(torch.int32))
def test_row_shape(start: float, end: float, step: float, dtype: torch.dtype | None) -> None:
    x = torch.empty(1, device="meta")
    assert_shape_matches(lambda x: torch.arange(start, end, step, dtype=dtype, device=x.device), x)
    assert_shape_matches(lambda x: torch.arange(end, device=x.device), x)
    assert_shape_matches(lambda x: torch.arange(start=start, end=end, device=x.device), x)


@given(n=st.integers(0, 4), m=st.integers(0, 4))
def test_eye_and_linspace_shape(n: int, m: int) -> None:
    x = torch.empty(1, device="meta")
    assert_shape_matches(lambda x: torch.eye(n, m, device=x.device), x)
    assert_shape_matches(lambda x: torch.eye(n, dtype=torch.bool, device=x.device), x)
    assert_shape_matches(lambda x: torch.linspace(0, 1, n, device=x.device), x)


numbers = st.integers(0, 3) | st.booleans() | st.floats(0, 1) | st.sampled_from(["size", "element"])


@given(
    shape=st.sampled_from([(1,), (3,), (1, 2), (2, 1, 2)]),
    leaves=st.lists(numbers, min_size=4, max_size=4),
    dtype=st.sampled_from([None, torch.float64]),
)
def test_tensor_of_data_shape(shape: tuple[int, ...], leaves: list[Any], dtype: torch.dtype | None) -> None:
    """Lists of numbers, of sizes, and of what is in a tensor."""
    x = torch.ones(3, dtype=torch.float16)

    def made(x: torch.Tensor) -> torch.Tensor:
        known = {"size": x.shape[0], "element": x[0]}
        row: list[Any] = [known[leaf] if isinstance(leaf, str) else leaf for leaf in leaves]
        for size in reversed(shape):
            row = [row[start : start + size] for start in range(0, len(row) - size + 1, size)]
        return torch.tensor([row[0], row[0]], dtype=dtype)

    expected = made(x)
    if any(isinstance(leaf, str) for leaf in leaves[: expected.numel() // 2]):  # else it is made while tracing
        found = VALUE.of(propagated(made, x).output())
        assert (found.shape, found.dtype) == (tuple(expected.shape), expected.dtype)


def test_a_tensor_of_a_ragged_list_is_refused() -> None:
    with pytest.raises(CaptureError, match="expected sequence of length 1 at dim 1"):
        propagated(lambda x: torch.tensor([[x.shape[0]], [1, 2]]), torch.ones(2))


# Every one is added to the input, so that what is made takes part in the graph.
CREATIONS: dict[str, Function] = {
    "zeros": lambda x: torch.zeros(x.shape[0], 4),
    "ones": lambda x: torch.ones((x.shape[1], 4), dtype=torch.float64),
    "full": lambda x: torch.full((x.shape[0], 1, 1), float("-inf")),
    "full of a size": lambda x: torch.full((2,), x.shape[1]),
    "zeros_like": lambda x: torch.zeros_like(x, dtype=torch.int32),
    "ones_like": lambda x: torch.ones_like(x),
    "full_like": lambda x: torch.full_like(x, 2.5),
    "new_zeros": lambda x: x.new_zeros(x.shape[0], 2),
    "new_ones": lambda x: x.new_ones((x.shape[0], 2), dtype=torch.bool),
    "new_full": lambda x: x.new_full((x.shape[1],), 3),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "new_tensor of sizes": lambda x: x.new_tensor([x.shape[1], 2.5]),
    "tensor of a shape": lambda x: torch.tensor(x.shape),
    "tensor of a size": lambda x: torch.sqrt(torch.tensor(x.shape[1])),
    "tensor of sizes and numbers": lambda x: torch.tensor([[x.shape[0], 2.5], [True, x.size(1) // 2]]),
    "tensor of sizes in a dtype": lambda x: torch.tensor([x.shape[0], x.shape[1]], dtype=torch.float64),
    "tensor of elements": lambda x: torch.as_tensor([x[0, 0, 0], 1.5, x.sum()]),
    "as_tensor": lambda x: torch.as_tensor(x, dtype=torch.float64) + torch.asarray(x),
    "scalar_tensor": lambda x: torch.scalar_tensor(x.shape[0] - 1),
    "arange": lambda x: torch.arange(x.shape[1]),
    "arange from": lambda x: torch.arange(1, x.shape[1] + 1, 2),
    "arange backwards": lambda x: torch.arange(x.shape[1], 0, -1),
    "arange of floats": lambda x: torch.arange(0, x.shape[0], dtype=torch.float32),
    "arange fixed": lambda x: torch.arange(0.0, 2.0, 0.25),
    "linspace": lambda x: torch.linspace(-1, 1, x.shape[1]),
    "linspace of one": lambda x: torch.linspace(-1, 1, x.shape[0] // x.shape[0]),
    "eye": lambda x: torch.eye(x.shape[0], x.shape[1]),
    "eye of flags": lambda x: torch.eye(x.shape[0], dtype=torch.bool),
    "causal mask": lambda x: torch.ones(x.shape[1], x.shape[1]).tril(),
    "causal flags": lambda x: torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1),
    "causal infinities": lambda x: torch.triu(torch.full((x.shape[1], x.shape[1]), float("-inf")), diagonal=1),
}


@pytest.mark.parametrize("name", CREATIONS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_lowering(name: str, dynamic: bool) -> None:
    assert_lowering_matches(
        lambda x: (x.flip(0), CREATIONS[name](x)),
        torch.randn(2, 3, 4),
        dynamic={0: {0: "N", 1: "T"}} if dynamic else None,
        also=(torch.randn(6, 7, 4),) if dynamic else None,
    )


@pytest.mark.parametrize("opset", [13, 14, 23])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.int32, torch.bool, torch.uint8])
def test_lowering_keeps_the_dtype(dtype: torch.dtype, opset: int) -> None:
    assert_lowering_matches(
        lambda x: (
            torch.ones(x.shape[0], x.shape[1], dtype=dtype).tril(),
            torch.eye(x.shape[1], dtype=dtype),
            x.flip(0),
        ),
        torch.randn(2, 3),
        dynamic={0: {0: "N", 1: "T"}},
        opset=opset,
        also=(torch.randn(6, 7),),
    )


def test_random_numbers_are_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="random numbers"):
        assert_lowering_matches(lambda x: torch.randn_like(x), torch.randn(2))
