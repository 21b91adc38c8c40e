"""Tensors of random numbers: a shape is all that can be said of them.

None is lowered, since the exported model could not be compared with this one. That they are drawn is noted, so
that lazy layers after them get the weights of a dry run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from passes.dimension import Dim, Size
from passes.errors import check
from passes.ops.axes import axis_of
from passes.ops.creation import Device, created
from passes.ops.op import Op
from passes.ops.promotion import broadcast
from passes.ops.windows import per_axis
from passes.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx_emitter import Emitter, Value

Rule = Callable[..., Any]


def refuse(emit: Emitter, *_: Any, **__: Any) -> Value:
    emit.unsupported("it draws random numbers, so the exported model could not be compared with this one")


def _random(name: str, rule: Rule, *functions: Callable[..., Any], methods: tuple[str, ...] = ()) -> Op:
    op = Op(name, functions=functions, methods=methods, random=True)
    op.shape(rule)
    op.lowering = refuse
    return op


# In the shape of a tensor, or of sizes ----------------------------------------------------------------


def sizes_shape(
    *size: Size, dtype: torch.dtype | None = None, device: Device = None, generator: Any = None
) -> TensorSpec:
    return created(size, dtype, device)


def like_shape(
    input: TensorSpec, dtype: torch.dtype | None = None, device: Device = None, generator: Any = None
) -> TensorSpec:
    return created(input.shape, dtype, device, input)


_random("rand", sizes_shape, torch.rand)
_random("randn", sizes_shape, torch.randn)
_random("rand_like", like_shape, torch.rand_like)
_random("randn_like", like_shape, torch.randn_like)


def randint_shape(size: Sequence[Size], dtype: torch.dtype | None = None, device: Device = None) -> TensorSpec:
    return created(size, dtype or torch.int64, device)


def _named(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


@_random("randint", randint_shape).function(torch.randint)
def bind_randint(*bounds: Any, low: int = 0, high: Any = None, size: Any = None, **options: Any) -> Mapping[str, Any]:
    """`randint(high, size)` and `randint(low, high, size)`."""
    sizes = [bound for bound in bounds if isinstance(bound, (tuple, list))]
    return {"size": sizes[0] if sizes else size, **_named(options, "dtype", "device")}


@_random("randint_like", like_shape).function(torch.randint_like)
def bind_randint_like(input: Any, *bounds: Any, **options: Any) -> Mapping[str, Any]:
    return {"input": input, **_named(options, "dtype", "device")}


def randperm_shape(
    n: Size, generator: Any = None, dtype: torch.dtype | None = None, device: Device = None
) -> TensorSpec:
    check(isinstance(n, Dim) or n >= 0, "there is no permutation of {} numbers", n)
    return created((n,), dtype or torch.int64, device)


_random("randperm", randperm_shape, torch.randperm)


# Written into a tensor --------------------------------------------------------------------------------


def fill_shape(input: TensorSpec) -> TensorSpec:
    return input


for _name in ("uniform_", "normal_", "exponential_", "log_normal_", "geometric_", "cauchy_", "random_", "bernoulli_"):
    _random(_name, fill_shape).method(_name)(lambda input, *_, **__: {"input": input})


# By the numbers of a tensor ---------------------------------------------------------------------------


def normal_shape(
    mean: Any, std: Any = 1.0, size: Sequence[Size] | None = None, dtype: torch.dtype | None = None,
    device: Device = None, generator: Any = None,
) -> TensorSpec:  # fmt: skip
    """Of the mean's dtype where that is a tensor, whatever the deviation's is."""
    if size is not None:
        return created(size, dtype, device)
    first = mean if isinstance(mean, TensorSpec) else std
    check(isinstance(first, TensorSpec), "normal needs a tensor or a size, found {} and {}", mean, std)
    check(first.dtype.is_floating_point, "normal numbers are floating-point, found {}", first.dtype)
    return broadcast(mean, std, dtype=first.dtype)


def bernoulli_shape(input: TensorSpec, p: float | None = None, generator: Any = None) -> TensorSpec:
    return input


def multinomial_shape(
    input: TensorSpec, num_samples: Size, replacement: bool = False, generator: Any = None
) -> TensorSpec:
    check(input.ndim in (1, 2), "multinomial takes a vector or a matrix of weights, found {}", input)
    check(num_samples > 0, "multinomial is asked for {} samples", num_samples)
    check(
        replacement or num_samples <= input.shape[-1],
        "{} samples are drawn from {} without replacement",
        num_samples,
        input.shape[-1],
    )
    return input.with_shape(*input.shape[:-1], num_samples).with_dtype(torch.int64)


def gumbel_softmax_shape(
    logits: TensorSpec, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> TensorSpec:
    axis_of(dim, logits.ndim)
    check(logits.dtype.is_floating_point, "gumbel_softmax needs floating-point logits, found {}", logits)
    return logits


_random("normal", normal_shape, torch.normal)
_random("bernoulli", bernoulli_shape, torch.bernoulli, methods=("bernoulli",))
_random("multinomial", multinomial_shape, torch.multinomial, methods=("multinomial",))
_random("gumbel_softmax", gumbel_softmax_shape, F.gumbel_softmax)


# Pools over windows at random places ------------------------------------------------------------------


def fractional_pool_shape(
    input: TensorSpec, rank: int, kernel_size: Any, output_size: Any = None, output_ratio: Any = None,
    indices: bool = False,
) -> TensorSpec | tuple[TensorSpec, TensorSpec]:  # fmt: skip
    """[*, C, *spatial] to the spatial sizes asked for, or to that part of the input's."""
    check(
        input.ndim in (rank + 1, rank + 2), "a {}d pool takes {} or {} axes, found {}", rank, rank + 1, rank + 2, input
    )
    spatial = input.shape[-rank:]
    check(output_size is not None or output_ratio is not None, "either output_size or output_ratio must be given")
    if output_size is not None:
        sizes: tuple[Size, ...] = per_axis("output_size", output_size, rank)
    else:
        check(len(output_ratio) == rank, "output_ratio needs {} numbers, found {}", rank, len(output_ratio))
        sizes = tuple(int(int(size) * ratio) for size, ratio in zip(spatial, output_ratio, strict=True))
    for size, before, kernel in zip(sizes, spatial, per_axis("kernel_size", kernel_size, rank), strict=True):
        # torch leaves one element to spare in 3d.
        check(size + kernel - (rank == 2) <= before, "{} windows of {} do not fit a size of {}", size, kernel, before)
    result = input.with_shape(*input.shape[:-rank], *sizes)
    return (result, result.with_dtype(torch.int64)) if indices else result


def _fractional_pool(rank: int, indices: bool, function: Callable[..., Any]) -> None:
    @_random(f"fractional_max_pool{rank}d", fractional_pool_shape).function(function)
    def bind(
        input: Any, kernel_size: Any, output_size: Any = None, output_ratio: Any = None,
        return_indices: bool = False, _random_samples: Any = None,
    ) -> Mapping[str, Any]:  # fmt: skip
        return {
            "input": input, "rank": rank, "kernel_size": kernel_size, "output_size": output_size,
            "output_ratio": output_ratio, "indices": indices or return_indices,
        }  # fmt: skip


_fractional_pool(2, False, F.fractional_max_pool2d)
_fractional_pool(2, True, F.fractional_max_pool2d_with_indices)
_fractional_pool(3, False, F.fractional_max_pool3d)
_fractional_pool(3, True, F.fractional_max_pool3d_with_indices)
