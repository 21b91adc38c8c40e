"""Results that torch leaves open, so that a right file may give others.

Which position a sort gives of equal elements is not specified, and elements that differ by rounding alone are equal as
far as another computation can tell. `cdist` takes Euclidean distances of many rows from a matrix product, whose
rounding the root of a small number magnifies: those of a row from itself may be 1e-3 in place of 0.

Where a file differs, the module runs again with such choices made in other ways, each as right as torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from passes.isolation.dispatch_mode import DispatchMode
from tracer.checking.agreement import Array, fault_of

aten = torch.ops.aten

POSITIONS = "which position is given of values that are equal within rounding"
DISTANCES = "how small distances are rounded that cdist takes from a matrix product"

# How far apart values are at most that count as equal, relative to the largest.
_ROUNDING = 1e-5

# By how many units in the last place of the largest term a sum of squares may be off.
_ROUNDINGS = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to choose among equal elements: those within `rounding` of each other count as equal, and the first of
    them in the order of positions is taken, or the last."""

    rounding: float = 0.0
    last: bool = False

    def order(self, values: torch.Tensor, dim: int, descending: bool) -> torch.Tensor:
        """The positions along an axis in the order of the values."""
        if not values.ndim:
            return torch.zeros_like(values, dtype=torch.int64)
        keys = self._keys(values)
        if not self.last:
            return torch.sort(keys, dim=dim, descending=descending, stable=True).indices
        backwards = torch.sort(keys.flip(dim), dim=dim, descending=descending, stable=True).indices
        return values.shape[dim] - 1 - backwards

    def place(self, values: torch.Tensor, wanted: torch.Tensor, dim: int) -> torch.Tensor:
        """The position along an axis of a value that is there."""
        if not values.ndim:
            return torch.zeros_like(values, dtype=torch.int64)
        keys = self._keys(torch.cat([values, wanted.unsqueeze(dim)], dim))
        keys, target = keys.narrow(dim, 0, values.shape[dim]), keys.narrow(dim, values.shape[dim], 1)
        found = (keys == target) | (keys.isnan() & target.isnan())
        if not self.last:
            return found.int().argmax(dim)
        return values.shape[dim] - 1 - found.flip(dim).int().argmax(dim)

    def _keys(self, values: torch.Tensor) -> torch.Tensor:
        if not self.rounding or not values.is_floating_point():
            return values
        finite = values[values.isfinite()]
        step = self.rounding * max(float(finite.abs().max()) if finite.numel() else 0.0, 1e-30)
        return torch.where(values.isfinite(), (values.double() / step).round(), values.double())


def _topk(choice: Choice, x: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    positions = choice.order(x, dim, largest)
    positions = positions.narrow(dim, 0, k) if x.ndim else positions
    return torch.gather(x, dim, positions), positions


def _sort(choice: Choice, x: torch.Tensor, dim: int = -1, descending: bool = False) -> Any:
    positions = choice.order(x, dim, descending)
    return torch.gather(x, dim, positions), positions


def _stable_sort(
    choice: Choice, x: torch.Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> Any:
    if stable and choice.last:
        choice = Choice(choice.rounding)
    return _sort(choice, x, dim, descending)


def _extreme(largest: bool) -> Callable[..., Any]:
    def positions(choice: Choice, x: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
        flat = x.flatten() if dim is None else x
        axis = 0 if dim is None else dim
        found = choice.order(flat, axis, largest)
        found = found.select(axis, 0) if flat.ndim else found
        if not keepdim:
            return found
        return found.reshape([1] * x.ndim) if dim is None else found.unsqueeze(axis) if flat.ndim else found

    return positions


def _extreme_with_value(largest: bool) -> Callable[..., Any]:
    positions = _extreme(largest)

    def both(choice: Choice, x: torch.Tensor, dim: int, keepdim: bool = False) -> Any:
        found = positions(choice, x, dim, True)
        values = torch.gather(x, dim, found)
        return (values, found) if keepdim or not x.ndim else (values.squeeze(dim), found.squeeze(dim))

    return both


def _placed(function: Any) -> Callable[..., Any]:
    def both(choice: Choice, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        values, positions = function(x, *args, **kwargs)
        if not x.ndim:
            return values, positions
        dim = _axis(function, (x, *args), kwargs)
        wanted = values.squeeze(dim) if values.ndim == x.ndim else values
        return values, choice.place(x, wanted, dim).reshape(positions.shape)

    return both


_WITH_CHOICE: dict[Any, Callable[..., Any]] = {
    aten.topk.default: _topk,
    aten.sort.default: _sort,
    aten.sort.stable: _stable_sort,
    aten.argmax.default: _extreme(True),
    aten.argmin.default: _extreme(False),
    aten.max.dim: _extreme_with_value(True),
    aten.min.dim: _extreme_with_value(False),
    aten.median.dim: _placed(aten.median.dim),
    aten.nanmedian.dim: _placed(aten.nanmedian.dim),
    aten.mode.default: _placed(aten.mode.default),
    aten.kthvalue.default: _placed(aten.kthvalue.default),
}


# Where these functions take their axis, among their arguments; -1 is the axis where none is given.
_AXIS_AT = {aten.topk.default: 2, aten.kthvalue.default: 2}


def _axis(function: Any, args: Any, kwargs: Any) -> Any:
    place = _AXIS_AT.get(function, 1)
    missing = None if function in (aten.argmax.default, aten.argmin.default) else -1
    return kwargs["dim"] if "dim" in kwargs else args[place] if len(args) > place else missing


@dataclass(frozen=True, slots=True)
class Positions:
    """What an operation gave: positions along an axis of some values, or among all of them where there is no axis."""

    values: torch.Tensor
    found: torch.Tensor
    axis: int | None

    def at(self, positions: torch.Tensor) -> torch.Tensor | None:
        """The values at other positions in the same places; None where these are no choice of positions at all: out of
        range, or one of them twice where torch gives none twice."""
        values = self.values.flatten() if self.axis is None else self.values
        axis = 0 if self.axis is None else self.axis
        if not values.ndim:
            return values if not positions.any() else None
        kept = self.found.ndim == values.ndim and self.axis is not None
        alone = positions.reshape(1) if self.axis is None else positions.unsqueeze(axis)
        places = positions if kept else alone
        if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < values.shape[axis]:
            return None
        ordered = torch.sort(places, dim=axis).values
        if places.shape[axis] > 1 and bool((ordered.diff(dim=axis) == 0).any()):
            return None
        return torch.gather(values, axis, places)


class Noting(DispatchMode):  # type: ignore[no-untyped-call]
    """Notes the positions that a module computes."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: list[Positions] = []

    def seen(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if func in _WITH_CHOICE:
            found = result[-1] if isinstance(result, (tuple, list)) else result
            self.positions.append(Positions(args[0].clone(), found.clone(), _axis(func, args, kwargs)))
        return result

    def equally_good(self, expected: torch.Tensor, found: torch.Tensor, tolerance: float) -> bool:
        """Whether an output is the positions of an operation, and others lead to values as close as rounding goes."""
        if found.dtype != torch.int64 or found.shape != expected.shape:
            return False
        for noted in self.positions:
            if noted.found.shape == expected.shape and torch.equal(noted.found, expected):
                values, others = noted.at(expected), noted.at(found)
                if values is not None and others is not None:
                    return fault_of(others.numpy(), values, tolerance) is None
        return False


class _Choosing(DispatchMode):  # type: ignore[no-untyped-call]
    """Chooses among equal elements in one way, wherever torch gives positions."""

    def __init__(self, choice: Choice):
        super().__init__()
        self.choice = choice

    def seen(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        chosen = _WITH_CHOICE.get(func)
        return func(*args, **kwargs) if chosen is None else chosen(self.choice, *args, **kwargs)


class _Distances(TorchFunctionMode):
    """Takes Euclidean distances from squares that are off by what a matrix product may round: below, or above."""

    def __init__(self, sign: int):
        super().__init__()
        self.sign = sign

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        return self._off(result, *args, **(kwargs or {})) if function is torch.cdist else result

    def _off(
        self, result: torch.Tensor, x1: torch.Tensor, x2: torch.Tensor, p: float = 2.0, compute_mode: str | None = None
    ) -> torch.Tensor:
        if p != 2:
            return result
        exact = torch.cdist(x1, x2, p, "donot_use_mm_for_euclid_dist")
        rounding = _ROUNDINGS * torch.finfo(x1.dtype).eps
        off = rounding * (x1.square().sum(-1).unsqueeze(-1) + x2.square().sum(-1).unsqueeze(-2))
        return (exact.square() + self.sign * off).relu().sqrt()


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another right way to run a module: what it leaves open, and a block inside which it is decided in another way."""

    about: str
    inside: Callable[[], Any]


ALTERNATIVES = (
    Alternative(POSITIONS, partial(_Choosing, Choice())),
    Alternative(POSITIONS, partial(_Choosing, Choice(_ROUNDING))),
    Alternative(POSITIONS, partial(_Choosing, Choice(_ROUNDING, last=True))),
)

# Between the results of these two, a value is as right as either.
DISTANCES_FROM, DISTANCES_TO = (Alternative(DISTANCES, partial(_Distances, sign)) for sign in (-1, 1))


def between(found: Array, results: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """What lies nearest to the elements found, between the least and the greatest of several results."""
    if not results[0].is_floating_point() or any(tuple(result.shape) != found.shape for result in results):
        return None
    several = torch.stack(list(results))
    return torch.from_numpy(found.copy()).to(results[0].dtype).clamp(several.amin(0), several.amax(0))
