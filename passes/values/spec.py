"""Abstract values: what is known of a tensor without its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from passes.errors import InputError, ShapeError
from passes.sizes.dimension import Size, product, sampled
from passes.torch_private import without_overrides

CPU = torch.device("cpu")
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's shape, dtype and device. A dimension is an `int`, or a `Dim` where it is dynamic."""

    shape: tuple[Size, ...]
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    @staticmethod
    def of(tensor: torch.Tensor) -> TensorSpec:
        if type(tensor) not in _PLAIN:
            return TensorSpec(tuple(tensor.shape), tensor.dtype, tensor.device)
        with without_overrides():  # nothing that a mode would have to see
            return TensorSpec(tuple(tensor.shape), tensor.dtype, tensor.device)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def numel(self) -> Size:
        return product(self.shape)

    def with_shape(self, *shape: Size) -> TensorSpec:
        return TensorSpec(shape, self.dtype, self.device)

    def without_axis(self, axis: int) -> TensorSpec:
        return self.with_shape(*self.shape[:axis], *self.shape[axis + 1 :])

    def with_dtype(self, dtype: torch.dtype) -> TensorSpec:
        return TensorSpec(self.shape, dtype, self.device)

    def meta_tensor(self) -> torch.Tensor:
        """A tensor on the meta device with this shape at the sampled sizes and this dtype."""
        sizes = sampled(self.shape)
        try:
            return torch.empty(sizes, dtype=self.dtype, device="meta")
        except (RuntimeError, OverflowError) as error:
            raise ShapeError(f"a tensor of {self} is larger than any memory", remedy="use smaller sizes") from error

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{shape_text(self.shape)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSpec(TensorSpec):
    """The data of a packed sequence of so many `rows`, as a part of it."""

    rows: Size


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A sample input without data: sizes, with a name where a dimension is dynamic.

    `constraints` are texts about named sizes, its own or other inputs': what `passes.text.constraints` reads.
    """

    shape: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU
    constraints: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f" where {', '.join(self.constraints)}" if self.constraints else ""
        return f"{str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, self.shape))}]{where}"


def device_of(device: str | torch.device | int) -> torch.device:
    """The device of that name. Raises InputError where there is none."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"there is no device {device!r}", remedy="name one such as 'cpu' or 'cuda:0'") from error


def shape_text(shape: tuple[Size, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def describe(value: Any) -> str:
    """A value of propagation in a few words, for messages: `float32[2, 3]`, `(float32[2], int64[2])`, `4`."""
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(describe, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {describe(item)}' for key, item in value.items())}}}"
    return str(value)
