"""`dynamic_shapes`: which axes of which input are named, in every spelling that `torch.export` and callers use.

One entry for each argument: by its name, by the names that the exported file gives its inputs, or in the order of the
forward's signature. An entry is `{axis: name}` or a name for each axis; that of a nested argument is nested like it.
Bounds of torch's `Dim` are promises about its name, and a derived one makes the axis a formula of its root's name.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from passes.errors import InputError
from passes.sizes.formulas.formula import Formula
from passes.text.constraints import parse_constraint
from tracer.inputs.specs import is_constraint

Function = TypeVar("Function", bound=Callable[..., Any])

_EXAMPLE = 'write dynamic_shapes={{"{}": {{0: "N"}}}}: for each input, its dynamic axes and a name for each'


class DynamicShapes:
    """The entries of `dynamic_shapes`: of an argument by its name, of a tensor by its place among all of them.

    `names` are the names of the arguments that are given, positional ones first, `declared` the forward's own in its
    order, `file_names` those of the exported file's inputs, one for each tensor.

    Raises InputError where an entry belongs to no input.
    """

    def __init__(
        self,
        given: Any,
        names: Sequence[str],
        positional: int,
        declared: Sequence[str],
        file_names: Sequence[str] | None = None,
    ):
        self._of_argument: dict[str, Any] = {}
        self._of_tensor: dict[int, Any] = {}
        self._met = 0
        if given is None:
            return
        if isinstance(given, Mapping):
            self._read_names(given, names, list(file_names or ()))
        elif isinstance(given, Sequence) and not isinstance(given, str):
            self._read_sequence(list(given), names, positional, declared)
        else:
            raise InputError(
                f"dynamic_shapes is {given!r}, no mapping and no sequence", remedy=_EXAMPLE.format(_first(names))
            )

    def _read_names(self, given: Mapping[Any, Any], names: Sequence[str], file_names: list[str]) -> None:
        unknown = [name for name in given if name not in names]
        if not unknown:
            self._of_argument = dict(given)
        elif all(name in file_names for name in given):
            self._of_tensor = {file_names.index(name): entry for name, entry in given.items()}
        else:
            also = f", in the file {', '.join(map(str, file_names))}" if file_names else ""
            raise InputError(
                f"dynamic_shapes names {unknown[0]!r}, but the inputs are {', '.join(names)}{also}",
                remedy="name one of the inputs",
            )

    def _read_sequence(self, given: list[Any], names: Sequence[str], positional: int, declared: Sequence[str]) -> None:
        in_order = [*names[:positional], *sorted(names[positional:], key=_place_in(declared))]
        if len(given) in (positional, len(names)):
            self._of_argument = dict(zip(in_order, given, strict=False))
        elif len(given) == len(declared) and all(
            entry is None for name, entry in zip(declared, given, strict=True) if name not in names
        ):
            self._of_argument = dict(zip(declared, given, strict=True))
        else:
            raise InputError(
                f"dynamic_shapes has {len(given)} entries, but the sample has {len(names)} inputs",
                remedy=f"give one entry per input, in this order: {', '.join(in_order)}",
            )

    def of(self, name: str) -> Any:
        """The entry of an argument."""
        return self._of_argument.get(name)

    def next_tensor(self, entry: Any) -> Any:
        """The entry of the next tensor of the sample, `entry` unless tensors have their own."""
        place = self._met
        self._met += 1
        return self._of_tensor.get(place, entry)


def _place_in(declared: Sequence[str]) -> Callable[[str], int]:
    """Where a name stands in the signature; what it does not declare (**kwargs) comes last, as it is given."""
    places = {name: place for place, name in enumerate(declared)}
    return lambda name: places.get(name, len(places))


@dataclass(frozen=True, slots=True)
class NamedAxis:
    """An axis that is not of one size: its size, a name or `a*name + b`, and what is promised of that name."""

    size: Formula
    constraints: tuple[str, ...] = ()

    @staticmethod
    def of(name: str) -> NamedAxis:
        """The axis whose size is a name."""
        return NamedAxis(Formula.symbol(name))


def named_axes(name: str, entry: Any, ndim: int) -> dict[int, NamedAxis]:
    """The named axes of one entry: `{0: "N"}`, `{0: Dim("N", max=64)}`, `("N", None)`, `{1: 8 * Dim("h")}`.

    A text that compares sizes (`{1: "P >= 0"}`, `{2: "29 <= H <= 512"}`) names the axis and says what holds of it.

    Raises InputError where the entry is none, or names an axis that the input does not have.
    """
    if entry is None:
        return {}
    if isinstance(entry, str) or not isinstance(entry, (Mapping, Sequence)):
        raise InputError(f"dynamic_shapes has {entry!r} for {name!r}", remedy=_EXAMPLE.format(name))
    pairs = entry.items() if isinstance(entry, Mapping) else enumerate(entry)
    axes: dict[int, NamedAxis] = {}
    for axis, dim in pairs:
        if dim is None or isinstance(dim, int) or _is_static(dim):
            continue
        if not isinstance(axis, int) or not -ndim <= axis < ndim:
            raise InputError(
                f"dynamic_shapes names axis {axis} of {name!r}, which has {ndim} axes", remedy="name an axis it has"
            )
        axes[axis % ndim] = _named_axis(dim, f"{name}_dim_{axis % ndim}")
    return axes


def _named_axis(dim: Any, otherwise: str) -> NamedAxis:
    """What one entry says of an axis, which is called `otherwise` where that is no word."""
    if isinstance(dim, str):
        if is_constraint(dim):
            return _constrained(dim)
        return NamedAxis.of(dim if dim.isidentifier() else otherwise)
    root, function = getattr(dim, "root", None), getattr(dim, "fn", None)
    if root is not None and callable(function):  # torch's derived ones: `8*Dim("h") - 1`
        axis = _named_axis(root, otherwise)
        more = function(0)
        size = axis.size * (function(1) - more) + more
        assert isinstance(size, Formula)
        return NamedAxis(size, axis.constraints)
    is_hint = type(dim).__name__ == "_DimHint"
    spelled = getattr(dim, "__name__", None)
    spelled = otherwise if is_hint or spelled is None or not spelled.isidentifier() else spelled
    low, high = getattr(dim, "min", None), getattr(dim, "max", None)
    # A named Dim without bounds has the same least size as one that is said to begin at 0.
    bounds = [f"{spelled} >= {low}"] if type(low) is int and (is_hint or low > 0) else []
    bounds += [f"{spelled} <= {high}"] if type(high) is int else []  # torch spells no bound as an infinity
    return NamedAxis(Formula.symbol(spelled), tuple(bounds))


def _constrained(text: str) -> NamedAxis:
    names = list(dict.fromkeys(name for fact in parse_constraint(text) for name in fact.formula.symbols()))
    if len(names) != 1:
        raise InputError(
            f"the constraint {text!r} in dynamic_shapes is of {', '.join(names)}, and an axis has one name",
            remedy="write what one size promises there, such as {0: 'N <= 64'}; more belongs into spec",
        )
    return NamedAxis(Formula.symbol(names[0]), (text,))


def _is_static(dim: object) -> bool:
    """Whether a `torch.export.Dim` hint says that an axis keeps its size."""
    if isinstance(dim, str):
        return False
    from torch.export import Dim as ExportDim

    return bool(dim == ExportDim.STATIC)


def without_dynamic_axes(function: Function) -> Function:
    """The function, of a model, with an answer to `dynamic_axes`, which torch's older exporter takes."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if "dynamic_axes" in kwargs:
            model = args[0] if args else kwargs.get("model")
            raise _other_spelling(kwargs["dynamic_axes"], model, kwargs.get("output_names"))
        return function(*args, **kwargs)

    return run  # type: ignore[return-value]


def _other_spelling(axes: Any, model: Any, outputs: Any) -> InputError:
    """The error that says how `dynamic_axes` is written as `dynamic_shapes`: without outputs, whose sizes follow."""
    given = axes if isinstance(axes, Mapping) else {}
    declared = declared_names(model) if hasattr(model, "forward") else []
    inputs = [name for name in given if name in declared] or [
        name for name in given if name not in (outputs or ()) and not str(name).startswith("output")
    ]
    shapes = {name: _as_names(str(name), given[name]) for name in inputs}
    spelled = repr(shapes) if shapes else f'{{"{_first(declared)}": {{0: "N"}}}}'
    return InputError(
        "dynamic_axes is not taken: the inputs' axes are named by dynamic_shapes, and the outputs' sizes follow",
        remedy=f"write dynamic_shapes={spelled}",
    )


def _as_names(name: str, entry: Any) -> dict[Any, str]:
    if isinstance(entry, Mapping):
        return {axis: re.sub(r"\W", "_", str(dim)) for axis, dim in entry.items()}
    return {axis: f"{name}_dim_{axis}" for axis in entry} if isinstance(entry, Sequence) else {0: "N"}


def declared_names(model: Any) -> list[str]:
    """The forward's parameters in their order, without *args and **kwargs; none where it has no signature."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _first(names: Sequence[str]) -> str:
    return names[0] if names else "x"


__all__ = ["DynamicShapes", "NamedAxis", "declared_names", "named_axes", "without_dynamic_axes"]
