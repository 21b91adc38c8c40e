"""Tensors made from sizes alone. A large one is not stored in the file: it is expanded when the model runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from passes.dimension import Dim, Size, is_static
from passes.errors import NeedsDataError, check
from passes.nested import leaves
from passes.ops.op import Op
from passes.ops.promotion import as_value, number_dtype
from passes.spec import CPU, TensorSpec

if TYPE_CHECKING:
    from passes.onnx_emitter import Emitter, Value

Device = torch.device | str | int | None


def created(
    shape: Sequence[Size], dtype: torch.dtype | None, device: Device, like: TensorSpec | None = None
) -> TensorSpec:
    """The spec of a new tensor; what is not said is as in `like`, or torch's default."""
    check(all(isinstance(size, Dim) or size >= 0 for size in shape), "a tensor cannot have the sizes {}", tuple(shape))
    kind = dtype or (like.dtype if like is not None else torch.get_default_dtype())
    place = torch.device(device) if device is not None else like.device if like is not None else CPU
    return TensorSpec(tuple(shape), kind, place)


def filled(emit: Emitter, number: Any) -> Value:
    """The result's shape filled with one number."""
    scalar = as_value(emit, number, emit.result.dtype)
    if not emit.result.shape:
        return scalar
    return emit.node("Expand", scalar, emit.sizes(emit.result.shape))


# One number everywhere: the number, and the spellings `torch.<name>`, `torch.<name>_like`, `x.new_<name>`. What
# an empty tensor holds is not defined; zeros are as good as any.
CONSTANTS = {"zeros": 0, "ones": 1, "empty": 0}


def _constant(name: str, number: int) -> None:
    new = Op(name, functions=(getattr(torch, name),))
    like = Op(f"{name}_like", functions=(getattr(torch, f"{name}_like"),))
    new_like = Op(f"new_{name}", methods=(f"new_{name}",))

    @new.shape
    def new_shape(*size: Size, dtype: torch.dtype | None = None, device: Device = None) -> TensorSpec:
        return created(size, dtype, device)

    @new.lower
    def lower_new(emit: Emitter, *size: Size, dtype: torch.dtype | None = None, device: Device = None) -> Value:
        return filled(emit, number)

    @like.shape
    def like_shape(input: TensorSpec, dtype: torch.dtype | None = None, device: Device = None) -> TensorSpec:
        return created(input.shape, dtype, device, input)

    @like.lower
    def lower_like(emit: Emitter, input: Value, dtype: Any = None, device: Device = None) -> Value:
        return filled(emit, number)

    @new_like.shape
    def new_like_shape(
        input: TensorSpec, *size: Size, dtype: torch.dtype | None = None, device: Device = None
    ) -> TensorSpec:
        return created(size, dtype, device, input)

    @new_like.lower
    def lower_new_like(
        emit: Emitter, input: Value, *size: Size, dtype: torch.dtype | None = None, device: Device = None
    ) -> Value:
        return filled(emit, number)


for _name, _number in CONSTANTS.items():
    _constant(_name, _number)

full = Op("full", functions=(torch.full,))


@full.shape
def full_shape(
    size: Sequence[Size], fill_value: Any, dtype: torch.dtype | None = None, device: Device = None
) -> TensorSpec:
    own = fill_value.dtype if isinstance(fill_value, TensorSpec) else number_dtype(fill_value)
    return created(size, dtype or own, device)


@full.lower
def lower_full(emit: Emitter, size: Sequence[Size], fill_value: Any, dtype: Any = None, device: Device = None) -> Value:
    return filled(emit, fill_value)


full_like = Op("full_like", functions=(torch.full_like,))


@full_like.shape
def full_like_shape(
    input: TensorSpec, fill_value: Any, dtype: torch.dtype | None = None, device: Device = None
) -> TensorSpec:
    return created(input.shape, dtype, device, input)


@full_like.lower
def lower_full_like(emit: Emitter, input: Value, fill_value: Any, dtype: Any = None, device: Device = None) -> Value:
    return filled(emit, fill_value)


new_full = Op("new_full", methods=("new_full",))


@new_full.shape
def new_full_shape(
    input: TensorSpec, size: Sequence[Size], fill_value: Any, dtype: torch.dtype | None = None, device: Device = None
) -> TensorSpec:
    return created(size, dtype, device, input)


@new_full.lower
def lower_new_full(
    emit: Emitter, input: Value, size: Sequence[Size], fill_value: Any, dtype: Any = None, device: Device = None
) -> Value:
    return filled(emit, fill_value)


# From data ------------------------------------------------------------------------------------------

tensor = Op("tensor", functions=(torch.tensor, torch.as_tensor, torch.asarray), view=True)
new_tensor = Op("new_tensor", methods=("new_tensor",))


def _listed_shape(data: Any) -> tuple[int, ...]:
    """The shape of nested lists."""
    if not isinstance(data, (tuple, list)):
        check(not isinstance(data, TensorSpec) or data.ndim == 0, "a list of numbers holds the tensor {}", data)
        return ()
    shapes = {_listed_shape(item) for item in data}
    check(len(shapes) <= 1, "a list of numbers holds parts of unequal shapes: {}", data)
    return (len(data), *(shapes.pop() if shapes else ()))


def _listed_dtype(data: Any) -> torch.dtype:
    """What holds every number of nested lists; the default float dtype for none."""
    dtypes = [leaf.dtype if isinstance(leaf, TensorSpec) else number_dtype(leaf) for leaf in leaves(data)]
    return reduce(torch.promote_types, dtypes) if dtypes else torch.get_default_dtype()


@tensor.function(torch.scalar_tensor)
def bind_scalar_tensor(s: Any, dtype: torch.dtype | None = None, device: Device = None, **_: Any) -> Mapping[str, Any]:
    return {"data": s, "dtype": dtype or torch.get_default_dtype(), "device": device}


@tensor.shape
def tensor_shape(data: Any, dtype: torch.dtype | None = None, device: Device = None) -> TensorSpec:
    """A tensor of numbers, sizes and 0-d tensors, nested as they are; or of a tensor."""
    if isinstance(data, TensorSpec):
        return created(data.shape, dtype, device, data)
    return created(_listed_shape(data), dtype or _listed_dtype(data), device)


@tensor.identity
def tensor_identity(result: TensorSpec, data: Any, dtype: torch.dtype | None = None, device: Device = None) -> bool:
    return isinstance(data, TensorSpec) and result == data


@new_tensor.shape
def new_tensor_shape(
    input: TensorSpec, data: Any, dtype: torch.dtype | None = None, device: Device = None
) -> TensorSpec:
    if isinstance(data, TensorSpec):
        return created(data.shape, dtype or data.dtype, device, input)
    if isinstance(data, Dim):
        return created((), dtype or torch.int64, device, input)
    return created(_listed_shape(data), dtype or input.dtype, device, input)


@tensor.lower
def lower_tensor(emit: Emitter, data: Any, dtype: Any = None, device: Device = None) -> Value:
    """Numbers that are known are a constant. Others are computed one by one, and laid in a row."""
    kind: torch.dtype = emit.result.dtype
    if not isinstance(data, (tuple, list)):
        return as_value(emit, data, kind)
    numbers = list(leaves(data))
    if all(isinstance(number, (int, float)) for number in numbers):
        return emit.constant(torch.tensor(data, dtype=kind))
    row = emit.node("Concat", *(emit.unsqueeze(as_value(emit, number, kind), 0) for number in numbers), axis=0)
    return emit.reshape(replace(row, spec=emit.result.with_shape(len(numbers))), emit.result.shape)


@new_tensor.lower
def lower_new_tensor(emit: Emitter, input: Value, data: Any, dtype: Any = None, device: Device = None) -> Value:
    return lower_tensor(emit, data)


# Numbers in a row -----------------------------------------------------------------------------------

# Where a range begins or ends: a number, a size, or a fraction of sizes.
Bound: TypeAlias = Any

arange = Op("arange")


@arange.function(torch.arange)
def bind_arange(*bounds: Any, start: Any = 0, end: Any = None, step: Any = 1, **options: Any) -> Mapping[str, Any]:
    """`arange(end)`, `arange(start, end)`, `arange(start, end, step)`."""
    if len(bounds) == 1 and end is None:
        bounds = (start, *bounds)
    given = dict(zip(("start", "end", "step"), bounds, strict=False))
    chosen: dict[str, Any] = {name: options[name] for name in ("dtype", "device") if name in options}
    return {"start": start, "end": end, "step": step, **given, **chosen}


@arange.shape
def arange_shape(
    start: Bound, end: Bound, step: Bound = 1, dtype: torch.dtype | None = None, device: Device = None
) -> TensorSpec:
    whole = all(isinstance(bound, (int, Dim)) for bound in (start, end, step))
    if any(isinstance(bound, TensorSpec) for bound in (start, end, step)):
        raise NeedsDataError("the length of a range between tensors depends on data")
    if dtype == torch.int64 and not whole:
        start, end, step, whole = int(start), int(end), int(step), True
    truncated = dtype is not None and not dtype.is_floating_point and not isinstance(step, Dim)
    check(isinstance(step, Dim) or (int(step) if truncated else step) != 0, "a range cannot move by {}", step)
    forward = isinstance(step, Dim) or step > 0
    check(
        start <= end if forward else end <= start,
        "a range from {} to {} cannot be walked in steps of {}",
        start,
        end,
        step,
    )
    span, stride = (end - start, step) if forward else (start - end, -step)
    length = (span + stride - 1) // stride if whole else math.ceil(span / stride)
    return created((length,), dtype or (torch.int64 if whole else torch.get_default_dtype()), device)


@arange.lower
def lower_arange(
    emit: Emitter, start: Any, end: Any, step: Any = 1, dtype: torch.dtype | None = None, device: Device = None
) -> Value:
    """A constant where everything is known, else a Range of integers in the result's dtype."""
    if not any(isinstance(bound, Dim) for bound in (start, end, step)):
        return emit.constant(torch.arange(start, end, step, dtype=emit.result.dtype))
    bounds = [emit.operand(bound, torch.int64) for bound in (start, end, step)]
    return emit.cast(replace(emit.node("Range", *bounds), spec=emit.result.with_dtype(torch.int64)), emit.result.dtype)


linspace = Op("linspace", functions=(torch.linspace,))


@linspace.shape
def linspace_shape(
    start: Any, end: Any, steps: Size, dtype: torch.dtype | None = None, device: Device = None
) -> TensorSpec:
    return created((steps,), dtype, device)


@linspace.lower
def lower_linspace(
    emit: Emitter, start: Any, end: Any, steps: Size, dtype: torch.dtype | None = None, device: Device = None
) -> Value:
    """start + i * (end - start) / (steps - 1); a single step is the start."""
    kind = emit.result.dtype
    if is_static((steps,)) and all(isinstance(bound, (int, float)) for bound in (start, end)):
        return emit.constant(torch.linspace(start, end, int(steps), dtype=kind))
    if not kind.is_floating_point:
        emit.unsupported("evenly spaced integers over a dynamic number of steps are not known")
    first, last = as_value(emit, start, kind), as_value(emit, end, kind)
    count = emit.operand(steps, torch.int64)
    spec = TensorSpec((steps,), torch.int64)
    numbers = replace(emit.node("Range", emit.scalar(0, torch.int64), count, emit.scalar(1, torch.int64)), spec=spec)
    gaps = emit.node("Max", emit.node("Sub", count, emit.scalar(1, torch.int64)), emit.scalar(1, torch.int64))
    stride = emit.node("Div", emit.node("Sub", last, first), emit.cast(gaps, kind))
    return emit.node("Add", first, emit.node("Mul", emit.cast(numbers, kind), stride))


eye = Op("eye", functions=(torch.eye,))


@eye.shape
def eye_shape(n: Size, m: Size | None = None, dtype: torch.dtype | None = None, device: Device = None) -> TensorSpec:
    return created((n, n if m is None else m), dtype, device)


@eye.lower
def lower_eye(emit: Emitter, n: Size, m: Size | None = None, dtype: Any = None, device: Device = None) -> Value:
    """EyeLike of a matrix of that shape; onnxruntime has it for float32, float64, int32 and int64."""
    kind = emit.result.dtype
    known = (torch.float32, torch.float64, torch.int32, torch.int64)
    computed = kind if kind in known else torch.float32
    matrix = emit.node("Expand", emit.scalar(0, computed), emit.sizes(emit.result.shape))
    return emit.cast(replace(emit.node("EyeLike", matrix), spec=emit.result.with_dtype(computed)), kind)
