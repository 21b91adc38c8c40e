"""Dtype and device conversion, and questions about a tensor that are answered with numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from passes.errors import check
from passes.ops.axes import axis_of
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.sizes.dimension import Size
from passes.torch_private import assertions
from passes.values.spec import TensorSpec, device_of

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class To(Record[T]):
    input: T
    dtype: torch.dtype | T | None = None
    device: torch.device | str | None = None


to = Op("to", To, view=True)

# Methods that convert to the dtype of their name.
DTYPE_METHODS = {
    "float": torch.float32,
    "double": torch.float64,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "long": torch.int64,
    "int": torch.int32,
    "short": torch.int16,
    "char": torch.int8,
    "byte": torch.uint8,
    "bool": torch.bool,
    "cfloat": torch.complex64,
    "cdouble": torch.complex128,
}


@to.method("to")
def bind_to(input: Any, *targets: Any, **named: Any) -> Mapping[str, Any]:
    """`to(dtype)`, `to(device, dtype)`, `to(tensor)`, each also with `non_blocking` and `copy`."""
    given = [*targets, *(named[name] for name in ("dtype", "device", "tensor") if name in named)]
    dtypes = [target for target in given if isinstance(target, (torch.dtype, fx.Node))]
    devices = [target for target in given if isinstance(target, (torch.device, str))]
    return {"input": input, "dtype": dtypes[0] if dtypes else None, "device": devices[0] if devices else None}


def _named_dtype(dtype: torch.dtype) -> Callable[..., Mapping[str, Any]]:
    return lambda input, memory_format=None: {"input": input, "dtype": dtype}


for _method, _dtype in DTYPE_METHODS.items():
    to.method(_method)(_named_dtype(_dtype))


@to.method("type_as")
def bind_type_as(input: Any, other: Any) -> Mapping[str, Any]:
    return {"input": input, "dtype": other}


@to.method("cpu")
def bind_cpu(input: Any, memory_format: torch.memory_format | None = None) -> Mapping[str, Any]:
    return {"input": input, "device": "cpu"}


@to.method("cuda")
def bind_cuda(input: Any, device: Any = None, *_: Any, **__: Any) -> Mapping[str, Any]:
    return {"input": input, "device": f"cuda:{device}" if isinstance(device, int) else device or "cuda"}


@to.shape
def to_shape(call: To[TensorSpec]) -> TensorSpec:
    input, dtype = call.input, call.dtype
    place = device_of(call.device) if call.device is not None else input.device
    if isinstance(dtype, TensorSpec):
        return TensorSpec(input.shape, dtype.dtype, dtype.device)
    return TensorSpec(input.shape, dtype or input.dtype, place)


@to.identity("to_its_own_kind", why="A tensor of this dtype on this device already is what is asked for.")
def to_identity(result: TensorSpec, call: To[TensorSpec]) -> bool:
    return result == call.input


@to.lower
def lower_to(emit: Emitter, call: To[Value]) -> Value:
    if emit.result.dtype.is_complex:
        emit.unsupported(f"ONNX has no {emit.result.dtype} arithmetic")
    return emit.cast(call.input, emit.result.dtype)


@dataclass(frozen=True, slots=True)
class AsType(Record[T]):
    input: T
    dtype: torch.dtype | str | None = None


type_ = Op("type", AsType, methods=("type",), view=True)


@type_.shape
def type_shape(call: AsType[TensorSpec]) -> TensorSpec | str:
    """The tensor in another dtype, or where none is asked for, its dtype's name as a string."""
    dtype = call.dtype
    if dtype is None:
        return torch.empty(0, dtype=call.input.dtype).type()
    if isinstance(dtype, str):
        names = {torch.empty(0, dtype=known).type(): known for known in DTYPE_METHODS.values()}
        check(dtype in names, "{!r} is not the name of a tensor type", dtype)
        return call.input.with_dtype(names[dtype])
    return call.input.with_dtype(dtype)


@type_.identity("type_of_its_own", why="A tensor of this dtype already is what is asked for.")
def type_identity(result: TensorSpec, call: AsType[TensorSpec]) -> bool:
    return result == call.input


@type_.lower
def lower_type(emit: Emitter, call: AsType[Value]) -> Value:
    return lower_to(emit, To(call.input))


# Numbers: these results are sizes, so there is nothing to lower ---------------------------------------


@dataclass(frozen=True, slots=True)
class SizeOf(Record[T]):
    input: T
    dim: int | None = None


size = Op("size", SizeOf, methods=("size",))


@size.shape
def size_shape(call: SizeOf[TensorSpec]) -> Size | tuple[Size, ...]:
    input = call.input
    if call.dim is None:
        return input.shape
    check(input.ndim >= 1, "a 0-d tensor has no axis {}", call.dim)
    return input.shape[axis_of(call.dim, input.ndim)]


@dataclass(frozen=True, slots=True)
class Numel(Record[T]):
    input: T


numel = Op("numel", Numel, functions=(torch.numel,), methods=("numel", "nelement"))


@numel.shape
def numel_shape(call: Numel[TensorSpec]) -> Size:
    return call.input.numel()


@dataclass(frozen=True, slots=True)
class Ndim(Record[T]):
    input: T


ndim = Op("dim", Ndim, methods=("dim", "ndimension"))


@ndim.shape
def ndim_shape(call: Ndim[TensorSpec]) -> int:
    return call.input.ndim


# A check of data at run time computes nothing: it is dropped -----------------------------------------


@dataclass(frozen=True, slots=True)
class Assertion(Record[T]):
    condition: Any
    message: str = ""


assertion = Op("assert", Assertion, functions=assertions)


@assertion.shape
def assertion_shape(call: Assertion[TensorSpec]) -> None:
    return None
