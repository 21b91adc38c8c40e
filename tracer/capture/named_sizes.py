"""A model followed with names in place of a sample's fixed sizes, to see what follows from each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from passes.errors import TracerError
from passes.program.stages import Shaped
from passes.sizes.dimension import Dim, Size
from passes.sizes.facts import Facts
from passes.sizes.guards import GuardLog
from passes.values.nested import map_structure
from passes.values.spec import TensorSpec
from tracer.capture.ladder import trace
from tracer.inputs.sample import Leaf, Sample

# What the axes of an input are called, by their number; where that says too little, by their place.
AXIS_NAMES = {1: "N", 2: "NC", 4: "NCHW", 5: "NCDHW"}
TOKENS = "NT"

# An axis of an input: the input's name, and its place.
Axis = tuple[str, int]


def with_names(model: nn.Module, sample: Sample, plain: Shaped) -> Shaped:
    """The program with as many of the sample's sizes named as can be: all, or those that work one by one, or none.

    `plain` is the program without names, which stands where the model itself could not be traced.
    """
    if plain.whole is not None and plain.rungs:
        return plain
    names = _names_of_axes(sample)

    def attempt(chosen: Collection[str]) -> Shaped | None:
        log = GuardLog(facts=Facts(given=plain.log.facts.given), explains=True)
        try:
            program, _ = trace(model, _named(sample, names, chosen, log), log)
        except TracerError:
            return None
        return program if len(program.rungs) == len(plain.rungs) else None

    everything = set(names.values())
    found = attempt(everything)
    if found is None:
        found = attempt({name for name in everything if attempt({name}) is not None})
    return found or plain


def _names_of_axes(sample: Sample) -> dict[Axis, str]:
    """A name for every axis of at least 2 elements; axes of different inputs that agree in name and size share it."""
    names: dict[Axis, str] = {}
    known = sample.dimensions()
    sizes: dict[str, int] = {}
    for leaf in sample.leaves():
        usual = _usual_names(leaf.spec)
        for axis, size in enumerate(leaf.spec.shape):
            if isinstance(size, Dim) or size < 2:
                continue
            name = usual[axis]
            if name in known or sizes.get(name, size) != size:
                name = f"{name}_{leaf.name}"
            sizes[name] = size
            names[leaf.name, axis] = name
    return names


def _usual_names(spec: TensorSpec) -> Sequence[str]:
    if spec.ndim == len(TOKENS) and not spec.dtype.is_floating_point:
        return TOKENS
    return AXIS_NAMES.get(spec.ndim, ["N", *(f"d{axis}" for axis in range(1, spec.ndim))])


def _named(sample: Sample, names: Mapping[Axis, str], chosen: Collection[str], log: GuardLog) -> Sample:
    """The sample with chosen names in place of its sizes."""

    def named(leaf: Any) -> Any:
        if not isinstance(leaf, Leaf):
            return leaf
        shape: list[Size] = []
        for axis, size in enumerate(leaf.spec.shape):
            name = _chosen(names.get((leaf.name, axis)), chosen)
            if isinstance(size, Dim):
                log.sampled.update((symbol, size.log.sampled[symbol]) for symbol in size.symbols())
                shape.append(Dim(size.formula, log))
            else:
                shape.append(size if name is None else Dim.symbol(name, size, log))
        return Leaf(leaf.name, leaf.spec.with_shape(*shape), leaf.tensor)

    args, kwargs = map_structure((sample.args, sample.kwargs), named)
    return Sample(args, kwargs, sample.names)


def _chosen(name: str | None, chosen: Collection[str]) -> str | None:
    return name if name in chosen else None
