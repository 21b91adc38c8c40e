"""Tensors of random numbers: a shape is all that can be said of them.

None is lowered, since the exported model could not be compared with this one. That they are drawn is noted, so
that lazy layers after them get the weights of a dry run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from passes.errors import check
from passes.ops.axes import axis_of
from passes.ops.creation import Device, created
from passes.ops.op import Op
from passes.ops.promotion import broadcast
from passes.ops.record import Record, T, star
from passes.ops.windows import per_axis
from passes.sizes.dimension import Dim, Size
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

Rule = Callable[..., Any]


def refuse(emit: Emitter, *_: Any, **__: Any) -> Value:
    emit.unsupported("it draws random numbers, so the exported model could not be compared with this one")


def _random(
    name: str, record: type[Record[Any]], rule: Rule, *functions: Callable[..., Any], methods: tuple[str, ...] = ()
) -> Op:
    op = Op(name, record, functions=functions, methods=methods, random=True)
    op.shape(rule)
    op.lowering = refuse
    return op


# In the shape of a tensor, or of sizes ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OfSizes(Record[T]):
    size: tuple[Size, ...] = star()
    dtype: torch.dtype | None = None
    device: Device = None
    generator: Any = None


def sizes_shape(call: OfSizes[TensorSpec]) -> TensorSpec:
    return created(call.size, call.dtype, call.device)


@dataclass(frozen=True, slots=True)
class Like(Record[T]):
    input: T
    dtype: torch.dtype | None = None
    device: Device = None
    generator: Any = None


def like_shape(call: Like[TensorSpec]) -> TensorSpec:
    return created(call.input.shape, call.dtype, call.device, call.input)


_random("rand", OfSizes, sizes_shape, torch.rand)
_random("randn", OfSizes, sizes_shape, torch.randn)
_random("rand_like", Like, like_shape, torch.rand_like)
_random("randn_like", Like, like_shape, torch.randn_like)


@dataclass(frozen=True, slots=True)
class Randint(Record[T]):
    size: Sequence[Size]
    dtype: torch.dtype | None = None
    device: Device = None


def randint_shape(call: Randint[TensorSpec]) -> TensorSpec:
    return created(call.size, call.dtype or torch.int64, call.device)


def _named(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


@_random("randint", Randint, randint_shape).function(torch.randint)
def bind_randint(*bounds: Any, low: int = 0, high: Any = None, size: Any = None, **options: Any) -> Mapping[str, Any]:
    """`randint(high, size)` and `randint(low, high, size)`."""
    sizes = [bound for bound in bounds if isinstance(bound, (tuple, list))]
    return {"size": sizes[0] if sizes else size, **_named(options, "dtype", "device")}


@_random("randint_like", Like, like_shape).function(torch.randint_like)
def bind_randint_like(input: Any, *bounds: Any, **options: Any) -> Mapping[str, Any]:
    return {"input": input, **_named(options, "dtype", "device")}


@dataclass(frozen=True, slots=True)
class Randperm(Record[T]):
    n: Size
    generator: Any = None
    dtype: torch.dtype | None = None
    device: Device = None


def randperm_shape(call: Randperm[TensorSpec]) -> TensorSpec:
    check(isinstance(call.n, Dim) or call.n >= 0, "there is no permutation of {} numbers", call.n)
    return created((call.n,), call.dtype or torch.int64, call.device)


_random("randperm", Randperm, randperm_shape, torch.randperm)


# Written into a tensor --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FillRandomly(Record[T]):
    input: T


def fill_shape(call: FillRandomly[TensorSpec]) -> TensorSpec:
    return call.input


for _name in ("uniform_", "normal_", "exponential_", "log_normal_", "geometric_", "cauchy_", "random_", "bernoulli_"):
    _random(_name, FillRandomly, fill_shape).method(_name)(lambda input, *_, **__: {"input": input})


# By the numbers of a tensor ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Normal(Record[T]):
    mean: Any
    std: Any = 1.0
    size: Sequence[Size] | None = None
    dtype: torch.dtype | None = None
    device: Device = None
    generator: Any = None


def normal_shape(call: Normal[TensorSpec]) -> TensorSpec:
    """Of the mean's dtype where that is a tensor, whatever the deviation's is."""
    if call.size is not None:
        return created(call.size, call.dtype, call.device)
    first = call.mean if isinstance(call.mean, TensorSpec) else call.std
    check(isinstance(first, TensorSpec), "normal needs a tensor or a size, found {} and {}", call.mean, call.std)
    check(first.dtype.is_floating_point, "normal numbers are floating-point, found {}", first.dtype)
    return broadcast(call.mean, call.std, dtype=first.dtype)


@dataclass(frozen=True, slots=True)
class Bernoulli(Record[T]):
    input: T
    p: float | None = None
    generator: Any = None


def bernoulli_shape(call: Bernoulli[TensorSpec]) -> TensorSpec:
    return call.input


@dataclass(frozen=True, slots=True)
class Multinomial(Record[T]):
    input: T
    num_samples: Size
    replacement: bool = False
    generator: Any = None


def multinomial_shape(call: Multinomial[TensorSpec]) -> TensorSpec:
    check(call.input.ndim in (1, 2), "multinomial takes a vector or a matrix of weights, found {}", call.input)
    check(call.num_samples > 0, "multinomial is asked for {} samples", call.num_samples)
    check(
        call.replacement or call.num_samples <= call.input.shape[-1],
        "{} samples are drawn from {} without replacement",
        call.num_samples,
        call.input.shape[-1],
    )
    return call.input.with_shape(*call.input.shape[:-1], call.num_samples).with_dtype(torch.int64)


@dataclass(frozen=True, slots=True)
class GumbelSoftmax(Record[T]):
    logits: T
    tau: float = 1
    hard: bool = False
    eps: float = 1e-10
    dim: int = -1


def gumbel_softmax_shape(call: GumbelSoftmax[TensorSpec]) -> TensorSpec:
    axis_of(call.dim, call.logits.ndim)
    check(call.logits.dtype.is_floating_point, "gumbel_softmax needs floating-point logits, found {}", call.logits)
    return call.logits


_random("normal", Normal, normal_shape, torch.normal)
_random("bernoulli", Bernoulli, bernoulli_shape, torch.bernoulli, methods=("bernoulli",))
_random("multinomial", Multinomial, multinomial_shape, torch.multinomial, methods=("multinomial",))
_random("gumbel_softmax", GumbelSoftmax, gumbel_softmax_shape, F.gumbel_softmax)


# Pools over windows at random places ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FractionalPool(Record[T]):
    input: T
    rank: int
    kernel_size: Any
    output_size: Any = None
    output_ratio: Any = None
    indices: bool = False


def fractional_pool_shape(call: FractionalPool[TensorSpec]) -> TensorSpec | tuple[TensorSpec, TensorSpec]:
    """[*, C, *spatial] to the spatial sizes asked for, or to that part of the input's."""
    check(
        call.input.ndim in (call.rank + 1, call.rank + 2),
        "a {}d pool takes {} or {} axes, found {}",
        call.rank,
        call.rank + 1,
        call.rank + 2,
        call.input,
    )
    spatial = call.input.shape[-call.rank :]
    check(
        call.output_size is not None or call.output_ratio is not None,
        "either output_size or output_ratio must be given",
    )
    if call.output_size is not None:
        sizes: tuple[Size, ...] = per_axis("output_size", call.output_size, call.rank)
    else:
        check(
            len(call.output_ratio) == call.rank,
            "output_ratio needs {} numbers, found {}",
            call.rank,
            len(call.output_ratio),
        )
        sizes = tuple(int(int(size) * ratio) for size, ratio in zip(spatial, call.output_ratio, strict=True))
    for size, before, kernel in zip(sizes, spatial, per_axis("kernel_size", call.kernel_size, call.rank), strict=True):
        # torch leaves one element to spare in 3d.
        check(
            size + kernel - (call.rank == 2) <= before, "{} windows of {} do not fit a size of {}", size, kernel, before
        )
    result = call.input.with_shape(*call.input.shape[: -call.rank], *sizes)
    return (result, result.with_dtype(torch.int64)) if call.indices else result


def _fractional_pool(rank: int, indices: bool, function: Callable[..., Any]) -> None:
    @_random(f"fractional_max_pool{rank}d", FractionalPool, fractional_pool_shape).function(function)
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
