"""Shape and order of axes: the same elements seen in another shape, another order, or repeated along axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from passes.errors import UnsupportedOpError, check
from passes.ops.axes import axes_of, axis_of, moved
from passes.ops.op import Op
from passes.ops.record import Record, T, star
from passes.sizes.dimension import Dim, Size, is_of_data, product, same_size
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


def keeps_shape(result: TensorSpec, call: Record[TensorSpec]) -> bool:
    """An identity rule: same dtype and number of axes, every size equal by itself (no guard is asked for)."""
    input: TensorSpec = call.subject
    same_kind = result.dtype == input.dtype and result.ndim == input.ndim
    return same_kind and all(map(same_size, result.shape, input.shape))


def to_result(emit: Emitter, input: Value) -> Value:
    """The elements in order, in the result's shape."""
    return emit.reshape(input, emit.result.shape)


# Same elements, same order --------------------------------------------------------------------------


IN_ORDER = "Elements in the same order and the same shape are the same tensor."

_OPEN = "give every size as a number, or one of them as -1"


def filled_in(sizes: Sequence[Size], numel: Size) -> tuple[Size, ...]:
    """The sizes with a -1 among them replaced by what makes the whole `numel` elements."""
    fixed = [size for size in sizes if isinstance(size, int)]
    text = shape_text(tuple(sizes))
    least = [(size, 0 if is_of_data(size) else -1) for size in sizes if isinstance(size, int) or is_of_data(size)]
    check(all(size >= low for size, low in least), "{} is no shape: a size is negative", text, remedy=_OPEN)
    check(fixed.count(-1) <= 1, "{} leaves {} sizes open", text, fixed.count(-1), remedy=_OPEN)
    if -1 not in fixed:
        check(
            product(sizes) == numel,
            "{} has {} elements, but the input has {}",
            text, product(sizes), numel,
            remedy="give sizes whose product is {2}, or -1 for one of them",
        )  # fmt: skip
        return tuple(sizes)
    open_axis = next(axis for axis, size in enumerate(sizes) if isinstance(size, int) and size == -1)
    known = product([*sizes[:open_axis], *sizes[open_axis + 1 :]])
    is_asked = is_of_data(known) or not isinstance(known, Dim)
    check(not is_asked or known != 0, "{} leaves a size open that could be any", text)
    check(
        numel % known == 0,
        "the input has {} elements, which is no multiple of {}, as {} needs",
        numel, known, text,
        remedy="give sizes whose product divides {0}",
    )  # fmt: skip
    return (*sizes[:open_axis], numel // known, *sizes[open_axis + 1 :])


# The sizes of the view, one by one or as a sequence; or a dtype in which to read the same bytes.
NewShape: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class View(Record[T]):
    input: T
    shape: tuple[NewShape, ...] = star()


view = Op("view", View, functions=(torch.reshape,), methods=("view", "reshape"), view=True)
view.identity("reshape_to_its_shape", why=IN_ORDER)(keeps_shape)


@view.shape
def view_shape(call: View[TensorSpec]) -> TensorSpec:
    shape = call.shape
    if len(shape) == 1 and isinstance(shape[0], torch.dtype):
        return _reinterpreted(call.input, shape[0])
    return call.input.with_shape(*filled_in(shape, call.input.numel()))


def _reinterpreted(input: TensorSpec, dtype: torch.dtype) -> TensorSpec:
    if dtype.itemsize == input.dtype.itemsize:
        return input.with_dtype(dtype)
    check(input.ndim >= 1, "a 0-d tensor of {} cannot be seen as {}, which has another width", input.dtype, dtype)
    width = input.shape[-1] * input.dtype.itemsize
    check(width % dtype.itemsize == 0, "a last axis of {} bytes does not divide into {}", width, dtype)
    return input.with_shape(*input.shape[:-1], width // dtype.itemsize).with_dtype(dtype)


@view.lower
def lower_view(emit: Emitter, call: View[Value]) -> Value:
    if emit.result.dtype != call.input.dtype:
        emit.unsupported(f"ONNX cannot see the bytes of a {call.input.dtype} tensor as {emit.result.dtype}")
    return emit.reshape(call.input, emit.result.shape)


@dataclass(frozen=True, slots=True)
class ViewAs(Record[T]):
    input: T
    other: T


view_as = Op("view_as", ViewAs, methods=("view_as", "reshape_as"), view=True)
view_as.identity("reshape_as_its_shape", why=IN_ORDER)(keeps_shape)


@view_as.shape
def view_as_shape(call: ViewAs[TensorSpec]) -> TensorSpec:
    return call.input.with_shape(*filled_in(call.other.shape, call.input.numel()))


@view_as.lower
def lower_view_as(emit: Emitter, call: ViewAs[Value]) -> Value:
    return to_result(emit, call.input)


@dataclass(frozen=True, slots=True)
class Flatten(Record[T]):
    input: T
    start_dim: int = 0
    end_dim: int = -1


flatten = Op("flatten", Flatten, functions=(torch.flatten,), methods=("flatten",), view=True)
flatten.identity("flatten_one_axis", why=IN_ORDER)(keeps_shape)


@flatten.module(nn.Flatten)
def bind_flatten(module: nn.Flatten, input: Any) -> Mapping[str, Any]:
    return {"input": input, "start_dim": module.start_dim, "end_dim": module.end_dim}


@flatten.shape
def flatten_shape(call: Flatten[TensorSpec]) -> TensorSpec:
    input = call.input
    start, end = axis_of(call.start_dim, input.ndim), axis_of(call.end_dim, input.ndim)
    check(start <= end, "start_dim {} comes after end_dim {}", call.start_dim, call.end_dim)
    return input.with_shape(*input.shape[:start], product(input.shape[start : end + 1]), *input.shape[end + 1 :])


@flatten.lower
def lower_flatten(emit: Emitter, call: Flatten[Value]) -> Value:
    """ONNX's Flatten where everything but the first axis is flattened, else a Reshape."""
    input = call.input
    if axis_of(call.start_dim, input.ndim) == 1 and axis_of(call.end_dim, input.ndim) == input.ndim - 1:
        return emit.node("Flatten", input, axis=1)
    return emit.reshape(input, emit.result.shape)


@dataclass(frozen=True, slots=True)
class Ravel(Record[T]):
    input: T


ravel = Op("ravel", Ravel, functions=(torch.ravel,), methods=("ravel",), view=True)
ravel.identity("ravel_a_vector", why="A tensor of one axis is flat already.")(keeps_shape)


@ravel.shape
def ravel_shape(call: Ravel[TensorSpec]) -> TensorSpec:
    return call.input.with_shape(call.input.numel())


@ravel.lower
def lower_ravel(emit: Emitter, call: Ravel[Value]) -> Value:
    return to_result(emit, call.input)


@dataclass(frozen=True, slots=True)
class Unflatten(Record[T]):
    input: T
    dim: int
    sizes: Sequence[Size]


unflatten = Op("unflatten", Unflatten, functions=(torch.unflatten,), methods=("unflatten",), view=True)
unflatten.identity("unflatten_to_one_axis", why="An axis that is split into one is not split.")(keeps_shape)


@unflatten.module(nn.Unflatten)
def bind_unflatten(module: nn.Unflatten, input: Any) -> Mapping[str, Any]:
    return {"input": input, "dim": module.dim, "sizes": module.unflattened_size}


@unflatten.shape
def unflatten_shape(call: Unflatten[TensorSpec]) -> TensorSpec:
    input = call.input
    axis = axis_of(call.dim, input.ndim)
    check(input.ndim >= 1, "a 0-d tensor has no axis to unflatten")
    check(len(call.sizes) >= 1, "an axis cannot be unflattened to no sizes")
    return input.with_shape(*input.shape[:axis], *filled_in(call.sizes, input.shape[axis]), *input.shape[axis + 1 :])


@unflatten.lower
def lower_unflatten(emit: Emitter, call: Unflatten[Value]) -> Value:
    return to_result(emit, call.input)


@dataclass(frozen=True, slots=True)
class Squeeze(Record[T]):
    input: T
    dim: int | Sequence[int] | None = None


squeeze = Op("squeeze", Squeeze, functions=(torch.squeeze,), methods=("squeeze",), view=True)
squeeze.identity("squeeze_no_axis", why="Where no axis that is named has size 1, none is taken away.")(keeps_shape)


@squeeze.shape
def squeeze_shape(call: Squeeze[TensorSpec]) -> TensorSpec:
    input = call.input
    asked = range(input.ndim) if call.dim is None else axes_of(call.dim, input.ndim)
    return input.with_shape(
        *(size for axis, size in enumerate(input.shape) if not (axis in asked and size == 1)),
    )


@squeeze.lower
def lower_squeeze(emit: Emitter, call: Squeeze[Value]) -> Value:
    input = call.input
    asked = range(input.ndim) if call.dim is None else axes_of(call.dim, input.ndim)
    removed = [axis for axis in asked if axis < input.ndim and input.shape[axis] == 1]
    return emit.squeeze(input, *sorted(removed)) if removed else input


@dataclass(frozen=True, slots=True)
class Unsqueeze(Record[T]):
    input: T
    dim: int


unsqueeze = Op("unsqueeze", Unsqueeze, functions=(torch.unsqueeze,), methods=("unsqueeze",), view=True)


@unsqueeze.shape
def unsqueeze_shape(call: Unsqueeze[TensorSpec]) -> TensorSpec:
    input = call.input
    axis = axis_of(call.dim, input.ndim + 1)
    return input.with_shape(*input.shape[:axis], 1, *input.shape[axis:])


@unsqueeze.lower
def lower_unsqueeze(emit: Emitter, call: Unsqueeze[Value]) -> Value:
    return emit.unsqueeze(call.input, axis_of(call.dim, call.input.ndim + 1))


@dataclass(frozen=True, slots=True)
class Same(Record[T]):
    input: T
    memory_format: torch.memory_format | None = None


same = Op(
    "same", Same, functions=(torch.clone, torch.detach, torch.resolve_conj, torch.resolve_neg), view=True,
    methods=("contiguous", "clone", "detach", "alias", "resolve_conj", "resolve_neg"),
)  # fmt: skip
# Spellings of it that always give a tensor with memory of its own.
COPIES = (torch.clone, "clone")

same.identity("copy", why="In a graph without writes, a copy cannot be told from its original.")(
    lambda result, call: True
)


@same.shape
def same_shape(call: Same[TensorSpec]) -> TensorSpec:
    return call.input


@same.lower
def lower_same(emit: Emitter, call: Same[Value]) -> Value:
    return call.input


@dataclass(frozen=True, slots=True)
class Conj(Record[T]):
    input: T


conj = Op("conj", Conj, functions=(torch.conj, torch.conj_physical), methods=("conj", "conj_physical"), view=True)


@conj.shape
def conj_shape(call: Conj[TensorSpec]) -> TensorSpec:
    return call.input


@conj.lower
def lower_conj(emit: Emitter, call: Conj[Value]) -> Value:
    if call.input.dtype.is_complex:
        emit.unsupported("ONNX has no complex arithmetic")
    return call.input


@conj.identity("conjugate_of_a_real", why="A real number is its own conjugate.")
def conj_identity(result: TensorSpec, call: Conj[TensorSpec]) -> bool:
    return not call.input.dtype.is_complex


# Another order of axes ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Permute(Record[T]):
    input: T
    dims: tuple[int, ...] = star()


permute = Op("permute", Permute, functions=(torch.permute,), methods=("permute",), view=True)


@permute.shape
def permute_shape(call: Permute[TensorSpec]) -> TensorSpec:
    input = call.input
    order = axes_of(call.dims, input.ndim)
    check(
        len(order) == input.ndim,
        "{} axes are given an order, but the tensor has {}",
        len(order), input.ndim, input.ndim - 1,
        remedy="name every axis from 0 to {2} once",
    )  # fmt: skip
    return input.with_shape(*(input.shape[axis] for axis in order))


@permute.lower
def lower_permute(emit: Emitter, call: Permute[Value]) -> Value:
    return transposed(emit, call.input, axes_of(call.dims, call.input.ndim))


@permute.identity("permute_in_order", why="The axes keep the order that they have.")
def permute_identity(result: TensorSpec, call: Permute[TensorSpec]) -> bool:
    return axes_of(call.dims, call.input.ndim) == tuple(range(call.input.ndim))


def transposed(emit: Emitter, value: Value, order: Sequence[int]) -> Value:
    """The value with its axes in the given order; the value itself where that is the order they have."""
    order = list(order)
    if order == sorted(order):
        return value
    result = emit.node("Transpose", value, perm=order)
    return result if value.spec is None else replace(result, spec=permute_shape(Permute(value.spec, tuple(order))))


@dataclass(frozen=True, slots=True)
class Transpose(Record[T]):
    input: T
    dim0: int
    dim1: int


transpose = Op("transpose", Transpose, functions=(torch.transpose,), methods=("transpose",), view=True)


@transpose.function(torch.swapaxes)
@transpose.method("swapaxes")
def bind_swapaxes(input: Any, axis0: int, axis1: int) -> Mapping[str, Any]:
    return {"input": input, "dim0": axis0, "dim1": axis1}


@transpose.function(torch.swapdims)
@transpose.method("swapdims")
def bind_swapdims(input: Any, dim0: int, dim1: int) -> Mapping[str, Any]:
    return {"input": input, "dim0": dim0, "dim1": dim1}


def swapped(ndim: int, dim0: int, dim1: int) -> tuple[int, ...]:
    first, second = axis_of(dim0, ndim), axis_of(dim1, ndim)
    return tuple({first: second, second: first}.get(axis, axis) for axis in range(ndim))


@transpose.shape
def transpose_shape(call: Transpose[TensorSpec]) -> TensorSpec:
    return call.input.with_shape(*(call.input.shape[axis] for axis in swapped(call.input.ndim, call.dim0, call.dim1)))


@transpose.lower
def lower_transpose(emit: Emitter, call: Transpose[Value]) -> Value:
    return transposed(emit, call.input, swapped(call.input.ndim, call.dim0, call.dim1))


@transpose.identity("transpose_with_itself", why="An axis that changes places with itself stays.")
def transpose_identity(result: TensorSpec, call: Transpose[TensorSpec]) -> bool:
    return axis_of(call.dim0, call.input.ndim) == axis_of(call.dim1, call.input.ndim)


@dataclass(frozen=True, slots=True)
class Movedim(Record[T]):
    input: T
    source: int | Sequence[int]
    destination: int | Sequence[int]


movedim = Op("movedim", Movedim, functions=(torch.movedim, torch.moveaxis), methods=("movedim", "moveaxis"), view=True)


def _movement(ndim: int, source: int | Sequence[int], destination: int | Sequence[int]) -> tuple[int, ...]:
    sources, destinations = axes_of(source, ndim), axes_of(destination, ndim)
    check(len(sources) == len(destinations), "{} axes are moved to {} places", len(sources), len(destinations))
    return moved(ndim, sources, destinations)


@movedim.shape
def movedim_shape(call: Movedim[TensorSpec]) -> TensorSpec:
    return call.input.with_shape(
        *(call.input.shape[axis] for axis in _movement(call.input.ndim, call.source, call.destination))
    )


@movedim.lower
def lower_movedim(emit: Emitter, call: Movedim[Value]) -> Value:
    return transposed(emit, call.input, _movement(call.input.ndim, call.source, call.destination))


@dataclass(frozen=True, slots=True)
class TransposeMatrix(Record[T]):
    input: T


t = Op("t", TransposeMatrix, functions=(torch.t,), methods=("t",), view=True)


@t.shape
def t_shape(call: TransposeMatrix[TensorSpec]) -> TensorSpec:
    input = call.input
    check(input.ndim <= 2, "t() takes a tensor of at most 2 axes, found {}", input.ndim)
    return input.with_shape(*reversed(input.shape))


@t.lower
def lower_t(emit: Emitter, call: TransposeMatrix[Value]) -> Value:
    return transposed(emit, call.input, range(call.input.ndim)[::-1])


# Attributes that are the tensor in another order of axes, or the tensor itself.
ORDERS = {
    "T": lambda ndim: tuple(range(ndim))[::-1],
    "H": lambda ndim: tuple(range(ndim))[::-1],
    "mT": lambda ndim: swapped(ndim, -2, -1) if ndim else (),
    "mH": lambda ndim: swapped(ndim, -2, -1) if ndim else (),
    "data": lambda ndim: tuple(range(ndim)),
    "real": lambda ndim: tuple(range(ndim)),
}


@dataclass(frozen=True, slots=True)
class Attribute(Record[T]):
    input: T
    name: str


attribute = Op("attribute", Attribute, functions=(getattr,), view=True)


@attribute.function(torch.adjoint)
@attribute.method("adjoint")
def bind_adjoint(input: Any) -> Mapping[str, Any]:
    return {"input": input, "name": "mT"}


@attribute.function(torch.real)
def bind_real(input: Any) -> Mapping[str, Any]:
    return {"input": input, "name": "real"}


@attribute.shape
def attribute_shape(call: Attribute[TensorSpec]) -> TensorSpec:
    input, name = call.input, call.name
    if name in ("real", "imag") and input.dtype.is_complex:
        return input.with_dtype(input.dtype.to_real())
    if name not in ORDERS:
        raise UnsupportedOpError(f"the attribute {name!r} of a {input.dtype} tensor is not known")
    check(name != "H" or input.ndim in (0, 2), ".H takes a tensor of 2 axes, found {}", input.ndim)
    check(name not in ("mT", "mH") or input.ndim != 1, ".{} takes 2 axes or more, found 1", name)
    return input.with_shape(*(input.shape[axis] for axis in ORDERS[name](input.ndim)))


@attribute.lower
def lower_attribute(emit: Emitter, call: Attribute[Value]) -> Value:
    if call.input.dtype.is_complex:
        emit.unsupported("ONNX has no complex numbers")
    return transposed(emit, call.input, ORDERS[call.name](call.input.ndim))


@attribute.identity(
    "data_or_real_part", why="`data` has the tensor's elements, and a real tensor is its own real part."
)
def attribute_identity(result: TensorSpec, call: Attribute[TensorSpec]) -> bool:
    return call.name in ("data", "real") and result == call.input
