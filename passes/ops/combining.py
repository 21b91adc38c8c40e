"""Several tensors combined: lifted to a number of axes, every pair of their elements, blocks along a diagonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import check
from passes.ops.joining import Meshgrid, lifted, lifted_shape, meshgrid_shape
from passes.ops.op import Op
from passes.ops.pad import Pad, lower_pad
from passes.ops.promotion import promote_types
from passes.ops.record import Record, T, star
from passes.ops.repetition import expanded
from passes.sizes.dimension import Size, product
from passes.torch_private import native_functions
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


# At least so many axes ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AtLeast(Record[T]):
    tensors: T | Sequence[T]


def _at_least(least: int) -> None:
    op = Op(f"atleast_{least}d", AtLeast, view=True)

    # The second is what the first calls on a list of tensors.
    @op.function(*(getattr(home, f"atleast_{least}d") for home in (torch, native_functions)))
    def bind(*tensors: Any) -> Mapping[str, Any]:
        return {"tensors": tensors[0] if len(tensors) == 1 else tensors}

    @op.shape
    def shape(call: AtLeast[TensorSpec]) -> Any:
        """One tensor for one, several for several."""
        tensors = call.tensors
        if isinstance(tensors, TensorSpec):
            return tensors.with_shape(*lifted_shape(tensors.shape, least))
        return tuple(shape(AtLeast(tensor)) for tensor in tensors)

    @op.lower
    def lower(emit: Emitter, call: AtLeast[Value]) -> Any:
        if isinstance(call.tensors, (tuple, list)):
            return tuple(lifted(emit, tensor, least) for tensor in call.tensors)
        return lifted(emit, call.tensors, least)  # type: ignore[arg-type]


for _least in (1, 2, 3):
    _at_least(_least)


# Every pair -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CartesianProd(Record[T]):
    tensors: tuple[T, ...] = star()


cartesian_prod = Op("cartesian_prod", CartesianProd, functions=(torch.cartesian_prod,), view=True)


@cartesian_prod.shape
def cartesian_prod_shape(call: CartesianProd[TensorSpec]) -> TensorSpec:
    """Every choice of one element from each vector, in a row: [product of the sizes, number of vectors]."""
    tensors = call.tensors
    for tensor in tensors:
        check(tensor.ndim == 1, "cartesian_prod takes vectors, found {}", tensor)
    if len(tensors) == 1:
        return tensors[0]
    grid = meshgrid_shape(Meshgrid(tensors))[0]
    return grid.with_shape(grid.numel(), len(tensors))


@cartesian_prod.lower
def lower_cartesian_prod(emit: Emitter, call: CartesianProd[Value]) -> Value:
    """Each vector along an axis of its own, expanded over the others'."""
    tensors = call.tensors
    if len(tensors) == 1:
        return tensors[0]
    shape = [tensor.shape[0] for tensor in tensors]
    columns = []
    for axis, tensor in enumerate(tensors):
        along: list[Size] = [1] * len(shape)
        along[axis] = shape[axis]
        column = expanded(emit, emit.reshape(tensor, along), shape)
        columns.append(emit.reshape(column, [product(shape), 1]))
    return emit.node("Concat", *columns, axis=1)


# Blocks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockDiag(Record[T]):
    tensors: tuple[T, ...] = star()


block_diag = Op("block_diag", BlockDiag, functions=(torch.block_diag,))


def _block(shape: tuple[Size, ...]) -> tuple[Size, Size]:
    """A vector is a row, and a number a matrix of one."""
    check(len(shape) <= 2, "a block has at most 2 axes, found {}", len(shape))
    return lifted_shape(shape, 2)  # type: ignore[return-value]


@block_diag.shape
def block_diag_shape(call: BlockDiag[TensorSpec]) -> TensorSpec:
    tensors = call.tensors
    check(len(tensors) >= 1, "block_diag is given no blocks")
    blocks = [_block(tensor.shape) for tensor in tensors]
    dtype = reduce(promote_types, (tensor.dtype for tensor in tensors))
    total = [sum(sizes, start=0) for sizes in zip(*blocks, strict=True)]
    return tensors[0].with_shape(*total).with_dtype(dtype)


@block_diag.lower
def lower_block_diag(emit: Emitter, call: BlockDiag[Value]) -> Value:
    """Each block with zeros left and right of it, one below the other."""
    width = emit.result.shape[1]
    left: Size = 0
    rows = []
    for tensor in call.tensors:
        block = emit.cast(lifted(emit, tensor, 2), emit.result.dtype)
        columns = _block(tensor.shape)[1]
        rows.append(lower_pad(emit, Pad(block, (left, width - left - columns))))
        left = left + columns
    return rows[0] if len(rows) == 1 else emit.node("Concat", *rows, axis=0)
