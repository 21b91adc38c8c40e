"""Tensors made from sizes alone. A large one is not stored in the file: it is expanded when the model runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from passes.errors import NeedsDataError, check
from passes.ops.op import Op
from passes.ops.promotion import as_value, number_dtype, promote_types
from passes.ops.record import Record, T, star
from passes.sizes.dimension import Dim, Size, is_of_data, is_static, minimum, same_size
from passes.values.nested import leaves
from passes.values.numbers import is_dynamic
from passes.values.spec import CPU, TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

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


@dataclass(frozen=True, slots=True)
class NewConstant(Record[T]):
    size: tuple[Size, ...] = star()
    dtype: torch.dtype | None = None
    device: Device = None


@dataclass(frozen=True, slots=True)
class ConstantLike(Record[T]):
    input: T
    dtype: torch.dtype | None = None
    device: Device = None


@dataclass(frozen=True, slots=True)
class NewLike(Record[T]):
    input: T
    size: tuple[Size, ...] = star()
    dtype: torch.dtype | None = None
    device: Device = None


def _constant(name: str, number: int) -> None:
    new = Op(name, NewConstant, functions=(getattr(torch, name),))
    like = Op(f"{name}_like", ConstantLike, functions=(getattr(torch, f"{name}_like"),))
    new_like = Op(f"new_{name}", NewLike, methods=(f"new_{name}",))

    @new.shape
    def new_shape(call: NewConstant[TensorSpec]) -> TensorSpec:
        return created(call.size, call.dtype, call.device)

    @new.lower
    def lower_new(emit: Emitter, call: NewConstant[Value]) -> Value:
        return filled(emit, number)

    @like.shape
    def like_shape(call: ConstantLike[TensorSpec]) -> TensorSpec:
        return created(call.input.shape, call.dtype, call.device, call.input)

    @like.lower
    def lower_like(emit: Emitter, call: ConstantLike[Value]) -> Value:
        return filled(emit, number)

    @new_like.shape
    def new_like_shape(call: NewLike[TensorSpec]) -> TensorSpec:
        return created(call.size, call.dtype, call.device, call.input)

    @new_like.lower
    def lower_new_like(emit: Emitter, call: NewLike[Value]) -> Value:
        return filled(emit, number)


for _name, _number in CONSTANTS.items():
    _constant(_name, _number)


@dataclass(frozen=True, slots=True)
class Full(Record[T]):
    size: Sequence[Size]
    fill_value: Any
    dtype: torch.dtype | None = None
    device: Device = None


full = Op("full", Full, functions=(torch.full,))


@full.shape
def full_shape(call: Full[TensorSpec]) -> TensorSpec:
    own = call.fill_value.dtype if isinstance(call.fill_value, TensorSpec) else number_dtype(call.fill_value)
    return created(call.size, call.dtype or own, call.device)


@full.lower
def lower_full(emit: Emitter, call: Full[Value]) -> Value:
    return filled(emit, call.fill_value)


@dataclass(frozen=True, slots=True)
class FullLike(Record[T]):
    input: T
    fill_value: Any
    dtype: torch.dtype | None = None
    device: Device = None


full_like = Op("full_like", FullLike, functions=(torch.full_like,))


@full_like.shape
def full_like_shape(call: FullLike[TensorSpec]) -> TensorSpec:
    return created(call.input.shape, call.dtype, call.device, call.input)


@full_like.lower
def lower_full_like(emit: Emitter, call: FullLike[Value]) -> Value:
    return filled(emit, call.fill_value)


@dataclass(frozen=True, slots=True)
class NewFull(Record[T]):
    input: T
    size: Sequence[Size]
    fill_value: Any
    dtype: torch.dtype | None = None
    device: Device = None


new_full = Op("new_full", NewFull, methods=("new_full",))


@new_full.shape
def new_full_shape(call: NewFull[TensorSpec]) -> TensorSpec:
    return created(call.size, call.dtype, call.device, call.input)


@new_full.lower
def lower_new_full(emit: Emitter, call: NewFull[Value]) -> Value:
    return filled(emit, call.fill_value)


# From data ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewFromData(Record[T]):
    data: Any
    dtype: torch.dtype | None = None
    device: Device = None


tensor = Op("tensor", NewFromData, functions=(torch.tensor, torch.as_tensor, torch.asarray), view=True)


@dataclass(frozen=True, slots=True)
class NewLikeFromData(Record[T]):
    input: T
    data: Any
    dtype: torch.dtype | None = None
    device: Device = None


new_tensor = Op("new_tensor", NewLikeFromData, methods=("new_tensor",))


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
    return reduce(promote_types, dtypes) if dtypes else torch.get_default_dtype()


@tensor.function(torch.scalar_tensor)
def bind_scalar_tensor(s: Any, dtype: torch.dtype | None = None, device: Device = None, **_: Any) -> Mapping[str, Any]:
    return {"data": s, "dtype": dtype or torch.get_default_dtype(), "device": device}


@tensor.shape
def tensor_shape(call: NewFromData[TensorSpec]) -> TensorSpec:
    """A tensor of numbers, sizes and 0-d tensors, nested as they are; or of a tensor."""
    data = call.data
    if isinstance(data, TensorSpec):
        return created(data.shape, call.dtype, call.device, data)
    return created(_listed_shape(data), call.dtype or _listed_dtype(data), call.device)


@tensor.identity(
    "tensor_of_a_tensor", why="A tensor made of a tensor, of its dtype and on its device, has its elements."
)
def tensor_identity(result: TensorSpec, call: NewFromData[TensorSpec]) -> bool:
    return isinstance(call.data, TensorSpec) and result == call.data


@new_tensor.shape
def new_tensor_shape(call: NewLikeFromData[TensorSpec]) -> TensorSpec:
    input, data = call.input, call.data
    if isinstance(data, TensorSpec):
        return created(data.shape, call.dtype or data.dtype, call.device, input)
    if is_dynamic(data):
        return created((), call.dtype or number_dtype(data), call.device, input)
    return created(_listed_shape(data), call.dtype or input.dtype, call.device, input)


@tensor.lower
def lower_tensor(emit: Emitter, call: NewFromData[Value]) -> Value:
    """Numbers that are known are a constant. Others are computed one by one, and laid in a row."""
    data = call.data
    kind: torch.dtype = emit.result.dtype
    if not isinstance(data, (tuple, list)):
        return as_value(emit, data, kind)
    numbers = list(leaves(data))
    if all(isinstance(number, (int, float)) for number in numbers):
        return emit.constant(torch.tensor(data, dtype=kind))
    row = emit.node("Concat", *(emit.unsqueeze(as_value(emit, number, kind), 0) for number in numbers), axis=0)
    return emit.reshape(replace(row, spec=emit.result.with_shape(len(numbers))), emit.result.shape)


@new_tensor.lower
def lower_new_tensor(emit: Emitter, call: NewLikeFromData[Value]) -> Value:
    return lower_tensor(emit, NewFromData(call.data))


# Numbers in a row -----------------------------------------------------------------------------------

# Where a range begins or ends: a number, a size, or a fraction of sizes.
Bound: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Arange(Record[T]):
    start: Bound
    end: Bound
    step: Bound = 1
    dtype: torch.dtype | None = None
    device: Device = None


arange = Op("arange", Arange)


@arange.function(torch.arange)
def bind_arange(*bounds: Any, start: Any = 0, end: Any = None, step: Any = 1, **options: Any) -> Mapping[str, Any]:
    """`arange(end)`, `arange(start, end)`, `arange(start, end, step)`."""
    if len(bounds) == 1 and end is None:
        bounds = (start, *bounds)
    given = dict(zip(("start", "end", "step"), bounds, strict=False))
    chosen: dict[str, Any] = {name: options[name] for name in ("dtype", "device") if name in options}
    return {"start": start, "end": end, "step": step, **given, **chosen}


@arange.shape
def arange_shape(call: Arange[TensorSpec]) -> TensorSpec:
    start, end, step, dtype = call.start, call.end, call.step, call.dtype
    whole = _is_whole(start, end, step)
    if any(isinstance(bound, TensorSpec) for bound in (start, end, step)):
        raise NeedsDataError("the length of a range between tensors depends on data")
    if dtype == torch.int64 and not whole:
        start, end, step, whole = math.trunc(start), math.trunc(end), math.trunc(step), True
    truncated = dtype is not None and not dtype.is_floating_point and not is_dynamic(step)
    if is_of_data(step):
        check(step != 0, "a range cannot move by {}", step)
    check(is_dynamic(step) or (int(step) if truncated else step) != 0, "a range cannot move by {}", step)
    forward = (is_dynamic(step) and not is_of_data(step)) or step > 0
    check(
        start <= end if forward else end <= start,
        "a range from {} to {} cannot be walked in steps of {}",
        start,
        end,
        step,
    )
    span, stride = (end - start, step) if forward else (start - end, -step)
    length = (span + stride - 1) // stride if whole else math.ceil(span / stride)
    return created((length,), dtype or (torch.int64 if whole else torch.get_default_dtype()), call.device)


@arange.lower
def lower_arange(emit: Emitter, call: Arange[Value]) -> Value:
    """A constant where everything is known, else a Range of integers, or in double precision, in the result's dtype."""
    bounds = (call.start, call.end, call.step)
    if not any(map(is_dynamic, bounds)):
        return emit.constant(torch.arange(call.start, call.end, call.step, dtype=emit.result.dtype))
    kind: torch.dtype = emit.result.dtype
    if kind.is_floating_point and not _is_whole(*bounds):
        return _floats_in_a_row(emit, *bounds)
    start, end, step = map(math.trunc, bounds)
    if not is_dynamic(step) and step > 0 and same_size(minimum(start, 0), 0):
        found = emit.node("Range", *(emit.operand(bound, torch.int64) for bound in (start, end, step)))
    else:  # as bounds of a slice, which onnxruntime makes of a range that is gathered by, negative ones mean the end
        found = emit.node("Mul", _places(emit), emit.scalar(step, torch.int64))
        found = emit.node("Add", found, emit.scalar(start, torch.int64))
    return emit.cast(replace(found, spec=emit.result.with_dtype(torch.int64)), kind)


def _is_whole(*bounds: Bound) -> bool:
    return all(isinstance(bound, (int, Dim)) for bound in bounds)


def _places(emit: Emitter) -> Value:
    """The numbers 0, 1, …, as many as the result has elements."""
    count = emit.squeeze(emit.size(emit.result.shape[0]), 0)
    return emit.node("Range", emit.scalar(0, torch.int64), count, emit.scalar(1, torch.int64))


def _floats_in_a_row(emit: Emitter, start: Bound, end: Bound, step: Bound) -> Value:
    """`start + i*step`, as torch computes it, for as many steps as the result has elements."""
    steps = emit.node("Mul", emit.cast(_places(emit), torch.float64), emit.scalar(step, torch.float64))
    found = emit.node("Add", steps, emit.scalar(start, torch.float64))
    return emit.cast(replace(found, spec=emit.result.with_dtype(torch.float64)), emit.result.dtype)


@dataclass(frozen=True, slots=True)
class Linspace(Record[T]):
    start: Any
    end: Any
    steps: Size
    dtype: torch.dtype | None = None
    device: Device = None


linspace = Op("linspace", Linspace, functions=(torch.linspace,))


@linspace.shape
def linspace_shape(call: Linspace[TensorSpec]) -> TensorSpec:
    return created((call.steps,), call.dtype, call.device)


@linspace.lower
def lower_linspace(emit: Emitter, call: Linspace[Value]) -> Value:
    """In steps of (end - start) / (steps - 1) from both ends to the middle; a single number is the start."""
    steps = call.steps
    kind = emit.result.dtype
    if is_static((steps,)) and all(isinstance(bound, (int, float)) for bound in (call.start, call.end)):
        return emit.constant(torch.linspace(call.start, call.end, int(steps), dtype=kind))
    if not kind.is_floating_point:
        emit.unsupported("evenly spaced integers over a dynamic number of steps are not known")
    first, last = as_value(emit, call.start, kind), as_value(emit, call.end, kind)
    count = emit.operand(steps, torch.int64)
    spec = TensorSpec((steps,), torch.int64)
    numbers = replace(emit.node("Range", emit.scalar(0, torch.int64), count, emit.scalar(1, torch.int64)), spec=spec)
    gaps = emit.node("Max", emit.node("Sub", count, emit.scalar(1, torch.int64)), emit.scalar(1, torch.int64))
    stride = emit.node("Div", emit.node("Sub", last, first), emit.cast(gaps, kind))
    behind = replace(emit.node("Sub", gaps, numbers), spec=spec)
    forwards = emit.node("Add", first, emit.node("Mul", emit.cast(numbers, kind), stride))
    backwards = emit.node("Sub", last, emit.node("Mul", emit.cast(behind, kind), stride))
    half = emit.node("Div", emit.node("Add", gaps, emit.scalar(1, torch.int64)), emit.scalar(2, torch.int64))
    return emit.node("Where", emit.node("Less", numbers, half), forwards, backwards)


@dataclass(frozen=True, slots=True)
class Eye(Record[T]):
    n: Size
    m: Size | None = None
    dtype: torch.dtype | None = None
    device: Device = None


eye = Op("eye", Eye, functions=(torch.eye,))


@eye.shape
def eye_shape(call: Eye[TensorSpec]) -> TensorSpec:
    return created((call.n, call.n if call.m is None else call.m), call.dtype, call.device)


@eye.lower
def lower_eye(emit: Emitter, call: Eye[Value]) -> Value:
    """EyeLike of a matrix of that shape; onnxruntime has it for float32, float64, int32 and int64."""
    kind = emit.result.dtype
    known = (torch.float32, torch.float64, torch.int32, torch.int64)
    computed = kind if kind in known else torch.float32
    matrix = emit.node("Expand", emit.scalar(0, computed), emit.sizes(emit.result.shape))
    return emit.cast(replace(emit.node("EyeLike", matrix), spec=emit.result.with_dtype(computed)), kind)
