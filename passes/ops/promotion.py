"""How operands of an elementwise op meet: torch's dtype promotion and broadcasting. Registers no op.

Promotion. Dtypes fall into categories, bool < integer < floating point. Operands come in three ranks: tensors with
axes, 0-d tensors, Python numbers. The highest rank decides the dtype within a category; a lower rank counts only
where its category is higher (`int32[2, 3] + 1.5` is the default float dtype, `float16[2, 3] + 1.5` stays float16).
See "Type promotion" in torch's `torch.Tensor` attributes documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from passes.errors import ShapeError, check
from passes.sizes.dimension import Dim, Size, are_equal, hint, is_of_data, maximum, same_size
from passes.sizes.floating import DynamicNumber, Floating
from passes.sizes.unknown import DataSize, is_data_size
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

Operand: TypeAlias = "TensorSpec | Value | Size | float"


def is_number(operand: Any) -> bool:
    """Whether an operand is a Python number or a dynamic size, rather than a tensor."""
    return isinstance(operand, (bool, int, float, complex, DynamicNumber))


def result_dtype(*operands: Any) -> torch.dtype:
    """The dtype in which the operands (specs, ONNX values, numbers, sizes) are computed, as `torch.result_type`.

    Operands that are None (absent) do not count.
    """
    ranks: tuple[list[torch.dtype], list[torch.dtype], list[torch.dtype]] = ([], [], [])
    for operand in operands:
        if operand is None:
            continue
        if is_number(operand):
            ranks[2].append(number_dtype(operand))
        else:
            ranks[0 if operand.ndim else 1].append(operand.dtype)
    promoted = [reduce(promote_types, dtypes) for dtypes in ranks if dtypes]
    return reduce(_prefer, promoted)


def promote_types(left: torch.dtype, right: torch.dtype) -> torch.dtype:
    """`torch.promote_types`, which is an operation that each mode at work has to see, where the two differ."""
    return left if left is right else torch.promote_types(left, right)


_FLOAT = "compute with a float instead: float({0})"


def number_dtype(number: Any) -> torch.dtype:
    """The dtype that a Python number or a size has on its own."""
    if isinstance(number, bool):
        return torch.bool
    if isinstance(number, (int, Dim)):
        check(isinstance(number, Dim) or -(2**63) <= number < 2**64, "{} has more than 64 bits", number, remedy=_FLOAT)
        return torch.int64
    default = torch.get_default_dtype()
    return default.to_complex() if isinstance(number, complex) else default


def _prefer(higher: torch.dtype, lower: torch.dtype) -> torch.dtype:
    """The dtype of a higher rank, or where a lower rank's category is higher, that category's."""
    if category(lower) > category(higher):
        return promote_types(higher, lower)
    return higher


def category(dtype: torch.dtype) -> int:
    """0 for bool, 1 for integers, 2 for floating point, 3 for complex."""
    if dtype.is_complex:
        return 3
    return 2 if dtype.is_floating_point else int(dtype != torch.bool)


def float_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself, or the default float dtype for integers and bool: what `sqrt`, `mean` and `/` compute in."""
    return dtype if category(dtype) >= 2 else torch.get_default_dtype()


def broadcast_shapes(*shapes: Sequence[Size]) -> tuple[Size, ...]:
    """The shape that the given ones broadcast to; ShapeError with the shapes and the axis where they do not.

    A size that is the fixed 1 takes the other's; two formulas that are not equal by themselves are compared at
    the sampled sizes, which records a guard.
    """
    result: list[Size] = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for axis, size in zip(reversed(range(len(result))), reversed(shape), strict=False):
            merged = _broadcast(result[axis], size)
            if merged is None:
                listed = " and ".join(shape_text(tuple(shape)) for shape in shapes)
                raise ShapeError(
                    f"the shapes {listed} do not broadcast: axis {axis - len(result)} has the sizes "
                    f"{result[axis]} and {size}, which are neither equal nor 1",
                    remedy="bring these two sizes together: pad or slice one, or change the layer that makes it",
                )
            result[axis] = merged
    return tuple(result)


def _broadcast(left: Any, right: Any) -> Any:
    if type(left) is int and type(right) is int:
        return right if left == 1 else left if right in (1, left) else None
    if is_of_data(left) or is_of_data(right):
        return _of_data(left, right)
    if isinstance(left, int) and left == 1:
        return right
    if isinstance(right, int) and right == 1:
        return left
    # A formula may come to 1 at the sampled sizes only; asking about 1 first leaves one guard instead of two.
    if hint(left) != hint(right):
        if hint(left) == 1 and left == 1:
            return right
        if hint(right) == 1 and right == 1:
            return left
    if left == right:
        return left if isinstance(left, int) else right
    return None


def _of_data(left: Any, right: Any) -> Any:
    """What two sizes broadcast to of which one comes from data: a fixed one from 2 on, as any other but 1 is refused by
    torch, and by the file; else a new size."""
    for size, other in ((left, right), (right, left)):
        if isinstance(size, int):
            return other if size == 1 else size
    unnamed = is_data_size(left) or is_data_size(right)
    if left is right or (not unnamed and (same_size(left, right) or are_equal(left, right))):
        return left
    limits: list[Any] = [size.most if isinstance(size, DataSize) else size for size in (left, right)]
    return DataSize("size that two others broadcast to", 0, None if None in limits else maximum(*limits))


def broadcast(*operands: Any, dtype: torch.dtype | None = None) -> TensorSpec:
    """The spec of an elementwise op's result, in the promoted dtype where none is given; at least one is a tensor."""
    tensors = [operand for operand in operands if isinstance(operand, TensorSpec)]
    shape = broadcast_shapes(*(tensor.shape for tensor in tensors))
    # A 0-d CPU tensor may meet tensors of another device; the result lives with the others.
    device = next((tensor.device for tensor in tensors if tensor.ndim), tensors[0].device)
    return TensorSpec(shape, dtype or result_dtype(*operands), device)


def check_weight_dtype(input: TensorSpec, weight: TensorSpec) -> None:
    """A layer's weight and input have one dtype: torch promotes neither."""
    check(
        input.dtype == weight.dtype,
        "the input is {}, but the weight is {}",
        input.dtype,
        weight.dtype,
        remedy="convert the input before the layer: x.to({1})",
    )


def promote(emit: Emitter, *operands: Any, dtype: torch.dtype | None = None) -> tuple[Value, ...]:
    """The operands (ONNX values, numbers, sizes) as values of one dtype, the promoted one where none is given."""
    target = dtype or result_dtype(*operands)
    return tuple(as_value(emit, operand, target) for operand in operands)


def as_value(emit: Emitter, operand: Any, dtype: torch.dtype) -> Value:
    """One operand as a value of a dtype; a number that an integer dtype cannot hold wraps, as in torch."""
    if isinstance(operand, (Dim, Floating)):
        value = emit.operand(operand, dtype)
        return type(value)(value.name, TensorSpec((), dtype))
    if is_number(operand):
        whole = torch.int64 if not isinstance(operand, float) and operand < 2**63 else torch.uint64
        exact = torch.float64 if isinstance(operand, float) else whole
        return emit.constant(torch.tensor(operand, dtype=exact).to(dtype))
    return emit.cast(operand, dtype)


__all__ = [
    "Operand",
    "as_value",
    "broadcast",
    "broadcast_shapes",
    "category",
    "float_dtype",
    "is_number",
    "number_dtype",
    "promote",
    "promote_types",
    "result_dtype",
]
