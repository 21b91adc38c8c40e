"""What a verification runs on: data for the sizes that it runs at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from passes.program.packed_lengths import LengthsInput
from passes.sizes.dimension import Dim
from tracer.inputs.sample import Leaf, Sample, random_tensor

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def attempts(
    sample: Sample, sizes: Mapping[str, int], lengths: Mapping[str, LengthsInput] | None = None
) -> Iterator[Callable[[], Arguments]]:
    """What makes the sample's arguments tensors at some sizes: first the data given, random where there is none; then,
    where any was made up, other data, for a module that takes not just any.

    The caller's own data is tiled or cut to size. Integers that were made up may be indices or divisors: ones, zeros,
    small numbers. Of inputs that are known to be `lengths`, they are lengths. What is random is another each time. It
    raises InputError where torch can make none.
    """
    leaves = sample.leaves()
    all_given = all(leaf.tensor is not None and tuple(leaf.tensor.shape) == _shape(leaf, sizes) for leaf in leaves)
    if lengths and not all_given:
        yield partial(_with_lengths, sample, sizes, lengths)
    yield partial(sample.data, sizes)
    if all_given:
        return

    def filled(make: Callable[..., torch.Tensor], *options: Any) -> Arguments:
        return sample.filled([make(leaf, sizes, *options) for leaf in leaves])

    yield partial(filled, _fitted, 0, 2)
    for low, high in _RANGES:
        yield partial(filled, _fitted, low, high, True)
    if any(leaf.tensor is not None for leaf in leaves):
        for low, high in _RANGES:
            yield partial(filled, _made_up, low, high)


_RANGES = ((1, 2), (0, 1), (1, 8), (2, 3), (3, 4), (4, 5), (5, 6), (8, 9), (10, 11), (16, 17), (32, 33), (100, 101))


def _shape(leaf: Leaf, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(size.at(sizes) if isinstance(size, Dim) else size for size in leaf.spec.shape)


def _with_lengths(sample: Sample, sizes: Mapping[str, int], lengths: Mapping[str, LengthsInput]) -> Arguments:
    """The sample's arguments at some sizes, those that are lengths such as may be packed."""
    return sample.data(
        sizes,
        {each.name: _lengths(each, sizes, lengths[each.name]) for each in sample.leaves() if each.name in lengths},
    )


def _lengths(leaf: Leaf, sizes: Mapping[str, int], lengths: LengthsInput) -> torch.Tensor:
    """Lengths that may be packed: the leaf's own as far as there are so many steps, random ones where it has none."""
    shape = _shape(leaf, sizes)
    most = max(1, lengths.most.at(sizes) if isinstance(lengths.most, Dim) else lengths.most)
    if leaf.tensor is not None and tuple(leaf.tensor.shape) == shape:
        return leaf.tensor.detach().clamp(max=most)
    made = torch.randint(1, most + 1, shape).to(leaf.spec.dtype)
    return made.sort(descending=True).values if lengths.falls else made


def _fitted(leaf: Leaf, sizes: Mapping[str, int], low: int, high: int, positive: bool = False) -> torch.Tensor:
    """The leaf's own data, repeated and cut to size; made up where it has none."""
    shape = _shape(leaf, sizes)
    if leaf.tensor is None or (leaf.tensor.numel() == 0 and 0 not in shape):
        return _made_up(leaf, sizes, low, high, positive)
    repeats = [-(-wanted // max(had, 1)) for wanted, had in zip(shape, leaf.tensor.shape, strict=True)]
    tiled = leaf.tensor.detach().repeat(repeats) if shape else leaf.tensor.detach()
    return tiled[tuple(slice(0, wanted) for wanted in shape)].clone()


def _made_up(leaf: Leaf, sizes: Mapping[str, int], low: int, high: int, positive: bool = False) -> torch.Tensor:
    shape, dtype = _shape(leaf, sizes), leaf.spec.dtype
    if dtype.is_floating_point or dtype.is_complex:
        made = random_tensor(shape, leaf.spec)
        return made.abs() if positive and dtype.is_floating_point else made
    return torch.randint(low, high, shape).to(dtype)
