"""Which sizes of its inputs a model takes, and the layer that ends them: solved from its facts, not tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from passes.errors import InputError
from passes.isolation.torch_state import undisturbed
from passes.program.notes import VALUE
from passes.program.stages import Shaped
from passes.sizes.dimension import Dim
from passes.sizes.fact import Fact
from passes.sizes.guards import Guard, Location
from passes.sizes.solving import EVERY_SIZE
from passes.sizes.statement import Admissible, admissible, words
from passes.values.nested import leaves
from passes.values.spec import TensorSpec
from tracer.capture.fitting_sizes import follow_where_it_fits
from tracer.capture.named_sizes import with_names
from tracer.edge.boundary import public
from tracer.edge.collection_pause import without_collection
from tracer.inputs.dynamic_shapes import without_dynamic_axes
from tracer.inputs.request import Request


@dataclass(frozen=True, slots=True)
class Border:
    """Where the sizes end: the last one that works, what ends them there, and where that is asked for.

    `condition` is the guard or the constraint; `layer` the class of the module at the place, where one is known.
    """

    size: int
    condition: str
    location: Location
    layer: str = ""

    def __str__(self) -> str:
        if self.location == Location():  # no line of the model asks for it
            return f"{self.condition}  as promised"
        return f"{self.condition}  at {f'{self.layer} ' if self.layer else ''}{self.location}"


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """The sizes that one name may have, where every other has the sampled size.

    `axes` are the axes of the inputs that are called so (`x.shape[2]`); `condition` says which sizes work, `lower` and
    `upper` what ends them, None where nothing does but the least size that a dimension has, or where there is no end.
    `joint` are conditions that could not be solved for this name.
    """

    name: str
    axes: tuple[str, ...]
    sampled: int
    condition: str
    lower: Border | None
    upper: Border | None
    joint: tuple[str, ...]

    def __contains__(self, size: int) -> bool:
        """Whether a size lies between the borders; `condition` may leave out some that do."""
        return (self.lower is None or size >= self.lower.size) and (self.upper is None or size <= self.upper.size)

    def __str__(self) -> str:
        borders = dict.fromkeys(border for border in (self.lower, self.upper) if border is not None)
        ends = [f"  ends at {border.size}: {border}" for border in borders]
        together = [f"  together: {condition}" for condition in self.joint]
        return "\n".join([f"{', '.join(self.axes)} = {self.name}: {self.condition}", *ends, *together])

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "axes": list(self.axes),
            "sampled": self.sampled,
            "condition": self.condition,
            "lower": _border_dict(self.lower),
            "upper": _border_dict(self.upper),
            "joint": list(self.joint),
        }


@dataclass(frozen=True, slots=True)
class Sizes:
    """Which sizes a model works at, by the names of its inputs' axes. `unknown` are modules that could not be traced,
    of which it is not known what they ask."""

    model: str
    limits: tuple[SizeLimits, ...]
    unknown: tuple[str, ...]

    def __getitem__(self, name: str) -> SizeLimits:
        return next(limit for limit in self.limits if limit.name == name)

    def __iter__(self) -> Iterator[SizeLimits]:
        return iter(self.limits)

    def __str__(self) -> str:
        unknown = [f"what {path} asks of sizes is not known" for path in self.unknown]
        return "\n".join([*map(str, self.limits), *unknown])

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "sizes": [limit.to_dict() for limit in self.limits],
            "unknown": list(self.unknown),
        }


@public
@undisturbed
@without_collection
@without_dynamic_axes
def sizes(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    dims: Mapping[str, int] | None = None,
) -> Sizes:
    """Which sizes `model` takes, on the way through its forward that the sample takes: for each input size all that
    work, and at the border the layer that ends them.

    Sizes that the sample leaves fixed are named (N, C, H, W), as far as the forward allows that. Allocates no weight,
    runs nothing and changes nothing. Raises TracerError.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the model is a {type(model).__name__}, not a torch.nn.Module",
            remedy="pass an instance of your model class",
        )
    followed = follow_where_it_fits(model, Request(args, kwargs, dynamic_shapes, dims), explains=True)
    program = with_names(model, followed.sample, followed.program)
    named = _axes(program)
    return Sizes(
        type(model).__name__,
        tuple(_limits(name, axes, program) for name, axes in named.items()),
        tuple(rung.path or type(model).__name__ for rung in program.rungs),
    )


def _axes(program: Shaped) -> dict[str, tuple[str, ...]]:
    """The axes of the inputs that have each name, or a formula of it."""
    found: dict[str, tuple[str, ...]] = {}
    for node in program.inputs():
        for leaf in leaves(VALUE.of(node)):
            for axis, size in enumerate(leaf.shape if isinstance(leaf, TensorSpec) else ()):
                for name in size.symbols() if isinstance(size, Dim) else ():
                    found[name] = (*found.get(name, ()), f"{node.target}.shape[{axis}]")
    return found


def _limits(name: str, axes: tuple[str, ...], program: Shaped) -> SizeLimits:
    log = program.log
    found = admissible(log.facts, name, {other: size for other, size in log.sampled.items() if other != name})
    guards = {guard.condition: guard for guard in log.recorded}
    said = f"{name} >= 0" if found.sizes == EVERY_SIZE else words(name, found.sizes)
    own = [fact.condition for fact in log.facts.known() if fact.formula.symbols() == [name]]
    return SizeLimits(
        name,
        axes,
        log.sampled[name],
        said if said is not None else ", ".join(own),
        _border(found.lower, found.lower_by, found, guards, program),
        _border(found.upper, found.upper_by, found, guards, program),
        tuple(fact.condition for fact in found.open if fact.formula.symbols() != [name]),
    )


def _border(
    size: int | None, fact: Fact | None, found: Admissible, guards: Mapping[str, Guard], program: Shaped
) -> Border | None:
    """The end of the sizes, where a guard or a promise ends them."""
    if size is None or fact is None or (fact.condition not in guards and fact not in program.log.facts.given):
        return None
    guard = guards.get(fact.condition)
    location = guard.location if guard is not None else Location()
    layer = program.kind(location.path) if location.path in program.modules and location.path else ""
    return Border(size, fact.condition, location, layer)


def _border_dict(border: Border | None) -> dict[str, Any] | None:
    if border is None:
        return None
    return {
        "size": border.size,
        "condition": border.condition,
        "path": border.location.path,
        "source": border.location.source,
        "layer": border.layer,
    }


__all__ = ["Border", "SizeLimits", "Sizes", "sizes"]
