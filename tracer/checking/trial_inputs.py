"""What a verification runs on: at which sizes, and with which data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from typing import Any

import torch

from passes.lowering.pinned_sizes import pinned_sizes
from passes.program.packed_lengths import LengthsInput
from passes.sizes.dimension import Dim
from passes.sizes.facts import Fact
from passes.sizes.formulas.formula import Formula
from passes.sizes.guards import GuardLog
from tracer.inputs.promises import least_sizes, promised_names
from tracer.inputs.sample import Leaf, Sample, random_tensor
from tracer.inputs.size_search import nearest_sizes

Sizes = dict[str, int]

# How far sizes are moved, the nearest first, and how many sizes are moved by themselves at most.
_STEPS = (1, -1, 2, -2, 3, 4, -4, 8, -8, 16, -16, 32, -32, 64)
_MOST_ALONE = 6


@dataclass(frozen=True, slots=True)
class Trial:
    """Sizes to run at, the likeliest first, of which one is enough; `names` are those that are moved."""

    names: tuple[str, ...]
    sizes: tuple[Sizes, ...]


def trials(names: Sequence[str], log: GuardLog) -> list[Trial]:
    """The sampled sizes, and the caller's own where they differ; then, as far as guards and constraints allow, the
    least of those that were promised, all names moved together, and each by itself.

    One that guards tie to others takes these along.
    """
    pinned = pinned_sizes(log)
    free = [name for name in names if name not in pinned]
    found = [Trial((), (dict(log.sampled),)), *([Trial((), (log.as_given(),))] if log.given else [])]
    promised = tuple(name for name in promised_names(log) if name in free)
    if promised:
        found.append(Trial(promised, tuple(_least(promised, log))))
    if len(free) > 1:
        found.append(Trial(tuple(free), tuple(islice(_together(free, log), 3))))
    alone = free[:_MOST_ALONE]
    found += [Trial((name,), tuple(islice(_alone(name, free, log), 4))) for name in alone]
    return found


def _least(names: Sequence[str], log: GuardLog) -> Iterator[Sizes]:
    """The smallest sizes of these names that are allowed, the others as sampled where they can be."""
    least = least_sizes(log.sampled, log.facts.given)
    smallest = {**log.sampled, **{name: least[name] for name in names}}
    sizes = nearest_sizes(smallest, list(log.facts.known()), least)
    if sizes is not None:
        yield sizes


def _together(names: Sequence[str], log: GuardLog) -> Iterator[Sizes]:
    """All names by one step, else each by the first step that the guards allow."""
    for step in _STEPS:
        yield from _allowed(log, dict.fromkeys(names, step))
    moved = dict(log.sampled)
    for name in names:
        moved = next((sizes for step in _STEPS for sizes in _allowed(log, {name: step}, moved)), moved)
    if moved != log.sampled:
        yield moved
    yield from _elsewhere(names, log)


def other_sizes(names: Sequence[str], log: GuardLog) -> Iterator[Sizes]:
    """All sizes that guards and constraints allow where one name is moved by a step, or all together."""
    together = [names] if len(names) > 1 else []
    for step in _STEPS:
        for moved in (*together, *([name] for name in names)):
            yield from _allowed(log, dict.fromkeys(moved, step))


def _alone(name: str, names: Sequence[str], log: GuardLog) -> Iterator[Sizes]:
    for step in _STEPS:
        yield from _allowed(log, {name: step})
    for other in names:
        if other != name:
            for step, along in product(_STEPS, repeat=2):
                yield from _allowed(log, {name: step, other: along})
    yield from _elsewhere([name], log)


def _elsewhere(names: Sequence[str], log: GuardLog) -> Iterator[Sizes]:
    """The nearest sizes that are allowed and other ones of these names than the sampled: what no step reaches."""
    apart = [Formula.symbol(name) - log.sampled[name] for name in names]
    others = [Fact(formula, "!=", "") for formula in apart if isinstance(formula, Formula)]
    sizes = nearest_sizes(log.sampled, [*log.facts.known(), *others], least_sizes(log.sampled, log.facts.given))
    if sizes is not None:
        yield sizes


def _allowed(log: GuardLog, steps: Mapping[str, int], start: Mapping[str, int] | None = None) -> Iterator[Sizes]:
    """The sizes moved by these steps, if there are such and the guards and constraints hold."""
    moved = {name: size + steps.get(name, 0) for name, size in (start or log.sampled).items()}
    least = least_sizes(moved, log.facts.given)
    if all(size >= least[name] for name, size in moved.items()) and log.facts.hold(moved):
        yield moved


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
