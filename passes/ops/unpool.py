"""Max unpooling: each maximum back in the place where a pool found it, zeros elsewhere.

Size along one spatial axis, with the pool's kernel k, stride s and padding p: `out = (in - 1)s + k - 2p`, unless
another one is asked for that the pool would have taken to the same size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.ops.repetition import expanded
from passes.ops.windows import Sizes, per_axis
from passes.sizes.dimension import Size, product
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value


@dataclass(frozen=True, slots=True)
class MaxUnpool(Record[T]):
    rank: int
    input: T
    indices: T
    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0
    output_size: Sequence[Size] | None = None


max_unpool = Op("max_unpool", MaxUnpool)


def unpool_arguments(
    rank: int, input: Any, indices: Any, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
    output_size: Any = None,
) -> Mapping[str, Any]:  # fmt: skip
    return {
        "rank": rank, "input": input, "indices": indices, "kernel_size": kernel_size, "stride": stride,
        "padding": padding, "output_size": output_size,
    }  # fmt: skip


def bind_unpool(rank: int, module: Any, input: Any, indices: Any, output_size: Any = None) -> Mapping[str, Any]:
    return unpool_arguments(rank, input, indices, module.kernel_size, module.stride, module.padding, output_size)


_RANKS: list[tuple[Callable[..., Any], type[nn.Module]]] = [
    (F.max_unpool1d, nn.MaxUnpool1d),
    (F.max_unpool2d, nn.MaxUnpool2d),
    (F.max_unpool3d, nn.MaxUnpool3d),
]
for _rank, (_function, _layer) in enumerate(_RANKS, start=1):
    max_unpool.function(_function)(partial(unpool_arguments, _rank))
    max_unpool.module(_layer)(partial(bind_unpool, _rank))


@max_unpool.shape
def max_unpool_shape(call: MaxUnpool[TensorSpec]) -> TensorSpec:
    rank, input, indices = call.rank, call.input, call.indices
    check(
        input.ndim in (rank + 1, rank + 2),
        "a {}d unpool needs an input of {} or {} axes, found {}",
        rank, rank + 1, rank + 2, input,
    )  # fmt: skip
    check(0 not in [size for size in input.shape[1:] if isinstance(size, int)], "the input {} is empty", input)
    check(indices.dtype == torch.int64, "the indices must be int64, found {}", indices.dtype)
    check(
        indices.shape == input.shape,
        "there must be one index per element of {}, found indices of shape {}",
        input,
        shape_text(indices.shape),
    )
    steps = per_axis("stride", call.kernel_size if call.stride is None else call.stride, rank)
    check(min(steps) > 0, "stride must be positive, found {}", call.stride)
    usual = [
        (size - 1) * step + kernel - 2 * pad
        for size, step, kernel, pad in zip(
            input.shape[-rank:],
            steps,
            per_axis("kernel_size", call.kernel_size, rank),
            per_axis("padding", call.padding, rank),
            strict=True,
        )
    ]
    sizes = usual if call.output_size is None else _asked(rank, call.output_size, usual, steps)
    check(all(size >= 0 for size in sizes), "the result would have the spatial sizes {}", shape_text(tuple(sizes)))
    return input.with_shape(*input.shape[:-rank], *sizes)


def _asked(rank: int, output_size: Sequence[Size], usual: Sequence[Size], steps: Sequence[int]) -> Sequence[Size]:
    """The sizes asked for, with or without those of batch and channels; each less than a stride off the usual."""
    check(
        len(output_size) in (rank, rank + 2),
        "output_size needs {} or {} numbers, found {}",
        rank,
        rank + 2,
        len(output_size),
    )
    asked = output_size[-rank:]
    for axis, (size, own, step) in enumerate(zip(asked, usual, steps, strict=True)):
        check(
            own - step < size and size < own + step,
            "output_size of spatial axis {} is {}, but must be between {} and {}",
            axis, size, own - step, own + step,
        )  # fmt: skip
    return asked


@max_unpool.lower
def lower_max_unpool(emit: Emitter, call: MaxUnpool[Value]) -> Value:
    """ScatterElements into planes of zeros. ONNX's MaxUnpool counts indices through the whole tensor, torch in a plane.

    An input's planes are taken together as the rows of a matrix.
    """
    shape: tuple[Size, ...] = emit.result.shape
    count, before, after = (
        product(shape[: -call.rank]),
        product(call.input.shape[-call.rank :]),
        product(shape[-call.rank :]),
    )
    empty = expanded(emit, emit.scalar(0, call.input), [count, after])
    places, maxima = (emit.reshape(value, [count, before]) for value in (call.indices, call.input))
    planes = emit.node("ScatterElements", empty, places, maxima, axis=1)
    return emit.reshape(replace(planes, spec=emit.result.with_shape(count, after)), shape)
