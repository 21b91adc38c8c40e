"""Sums and products of integers, exact and wrapping as torch's: runtimes reduce 64-bit integers in floating point.

Registers no op.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from passes.ops.layout import transposed
from passes.sizes.dimension import Size
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

# The bits that a number of these dtypes has at most, where that leaves room in a double for sums of very many.
NARROW = {torch.bool: 1, torch.uint8: 8, torch.int8: 8, torch.int16: 16, torch.uint16: 16, torch.int32: 32}
EXACT_BITS = 53


def is_inexact(op_type: str, given: torch.dtype, dtype: torch.dtype, count: Size) -> bool:
    """Whether a runtime's sum or product of so many elements, given in one dtype and reduced in another, may round."""
    if dtype.is_floating_point or dtype.is_complex or (isinstance(count, int) and count <= 1):
        return False
    if op_type == "ReduceProd":
        return given != torch.bool
    bits = NARROW.get(given, 64)
    if isinstance(count, int):
        return bits + count.bit_length() > EXACT_BITS
    return bits > 16


def exact_sum(emit: Emitter, value: Value, axes: Sequence[int], keepdim: bool) -> Value:
    """The last of the running sums, which runtimes take in the dtype itself, axis by axis.

    An axis that may have no elements gets a zero in front.
    """
    ndim, shape = value.ndim, list(value.shape)
    if len(axes) == ndim > 1:
        flat = emit.reshape(value, [value.known.numel()])
        total = exact_sum(emit, flat, (0,), False)
        return emit.reshape(total, [1] * ndim) if keepdim else total
    last = emit.ints(-1) if keepdim else emit.scalar(-1, torch.int64)
    for axis in sorted(axes, reverse=True):
        if not isinstance(shape[axis], int):
            before = [int(place == axis) for place in range(len(shape))]
            value = emit.node("Pad", value, emit.ints(*before, *[0] * len(shape)))
        running = emit.node("CumSum", value, emit.scalar(axis, torch.int64))
        value = emit.node("Gather", running, last, axis=axis)
        if not keepdim:
            del shape[axis]
    return value


def exact_product(emit: Emitter, value: Value, axes: Sequence[int], keepdim: bool) -> Value:
    """The product along one axis, or of all elements, factor by factor."""
    ndim = value.ndim
    if len(axes) == ndim:
        total, _ = running_products(emit, emit.reshape(value, [value.known.numel()]), 0)
        return emit.reshape(total, [1] * ndim) if keepdim else total
    (axis,) = axes
    total, _ = running_products(emit, value, axis)
    return emit.unsqueeze(total, axis) if keepdim else total


def running_products(emit: Emitter, value: Value, axis: int) -> tuple[Value, Value]:
    """The product along an axis, and those of its first elements in the axis's place."""
    order = [axis, *(place for place in range(value.ndim) if place != axis)]
    rest = [value.shape[place] for place in order[1:]]
    one = emit.scalar(1, value)
    start = emit.node("Expand", one, emit.sizes(rest)) if rest else one

    def step(product: Value, factor: Value) -> tuple[Value, Value]:
        moved = emit.node("Mul", product, factor)
        return moved, emit.node("Identity", moved)

    total, stacked = emit.scan(step, [start], [transposed(emit, value, order)])
    back = [order.index(place) for place in range(value.ndim)]
    products = type(value)(stacked.name, TensorSpec(tuple(value.shape[place] for place in order), value.dtype))
    return type(value)(total.name, TensorSpec(tuple(rest), value.dtype)), transposed(emit, products, back)
