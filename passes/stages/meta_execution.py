"""Shapes without a rule: the operation or module itself, run on meta tensors.

Meta tensors have fixed sizes. Where a dimension is dynamic, the operation is run at several sizes and each
result size is taken for the formula through them that is affine in each dimension (`3*N*T + 2*N`), confirmed at further
points: odd and even ones, smaller and larger ones, each dimension by itself and all together. What does not confirm is
refused, never guessed.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, TypeAlias

import torch
from torch import fx, nn

from passes.errors import NeedsDataError, ShapeError, UnsupportedOpError
from passes.isolation.control_flow import plain_control_flow
from passes.isolation.copy_on_write import CopyOnWrite
from passes.isolation.holders import nothing_left_on_meta
from passes.isolation.model_copy import copy_model
from passes.isolation.plain_attention import plain_attention
from passes.modules.explicit_state import held_at
from passes.modules.lazy import LazyLayer
from passes.modules.leftovers import changes, state_of
from passes.modules.watching import as_specs, watch_lazies
from passes.ops.op import Inference
from passes.sizes.dimension import Dim, Size, hint
from passes.sizes.guards import GuardLog, Location
from passes.values.nested import holds_the_same, leaves, map_structure
from passes.values.spec import TensorSpec, describe

# How far from its sample a dynamic dimension is probed to find a formula, and to confirm it.
_PROBE, _CONFIRM = 4, 6
# How many dimensions are multiplied with each other in a size of an operation's result, at most.
_MOST_FACTORS = 3

Names: TypeAlias = tuple[str, ...]


def _confirming_sizes(size: int) -> list[int]:
    """Other sizes of a dimension at which a formula found near its sample must hold, if the operation runs there."""
    return sorted({other for other in (2, 3, size // 2, size - 1, size + 1, 2 * size + 1) if other > 1} - {size})


@dataclass(slots=True)
class MetaResult:
    """What a run on meta tensors gave: the value, the lazy layers that it reached, in order, the paths of the buffers
    and attributes that it wrote, and whether it wrote to what it was given: to a tensor, or into a container."""

    value: Any
    lazies: list[LazyLayer] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    writes_arguments: bool = False


class MetaRunError(Exception):
    """The operation cannot run on meta tensors, or not with these operands; the cause is torch's own error."""


def run_op(node: fx.Node, operation: str, args: Any, kwargs: Any, log: GuardLog) -> Any:
    """The value of a function or method node.

    Raises ShapeError with torch's own words where torch refuses the operands, NeedsDataError where the result's
    shape depends on data.
    """

    def call(*args: Any, **kwargs: Any) -> MetaResult:
        if node.op == "call_method":
            return MetaResult(getattr(args[0], str(node.target))(*args[1:], **kwargs))
        assert callable(node.target)
        return MetaResult(node.target(*args, **kwargs))

    try:
        return _at_all_sizes(call, operation, args, kwargs, log).value
    except MetaRunError as error:
        if isinstance(error.__cause__, NotImplementedError) or "meta" in str(error.__cause__).lower():
            raise NeedsDataError(
                f"the result of {operation} depends on data: {_first_line(error.__cause__)}"
            ) from error
        raise ShapeError(f"torch refuses {operation}: {_first_line(error.__cause__)}") from error.__cause__


def run_module(
    module: nn.Module,
    path: str,
    args: Any,
    kwargs: Any,
    log: GuardLog,
    location: Location,
    kept: Sequence[str] = (),
) -> MetaResult:
    """The value of a module's call, its own forward run on meta tensors; the module itself is not touched.

    Lazy layers in it are resolved on the way as their own code does it; their paths begin with `path`. Of a program
    with tensors that are `kept`, the value is its output's.
    Raises MetaRunError where the forward cannot run without data.
    """

    def call(*args: Any, **kwargs: Any) -> MetaResult:
        probe = on_meta(module)
        lazies: list[LazyLayer] = []
        watch_lazies(probe, path, lazies, location)
        before, given = state_of(probe, path), _as_given((args, kwargs))
        with CopyOnWrite((), undone=True):
            value = probe(*args, **kwargs)
            value = (value, {place: held_at(probe, place) for place in kept}) if kept else value
        left_behind = changes(before, state_of(probe, path), {layer.path for layer in lazies})
        return MetaResult(value, lazies, left_behind, not holds_the_same(given, _as_given((args, kwargs))))

    with nothing_left_on_meta():
        return _at_all_sizes(call, path or type(module).__name__, args, kwargs, log)


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of the module with every tensor on the meta device, lazy ones still lazy; in eval mode."""
    probe = copy_model(module, device=torch.device("meta"))
    return probe.eval()


def _at_all_sizes(call: Callable[..., MetaResult], operation: str, args: Any, kwargs: Any, log: GuardLog) -> MetaResult:
    symbols = sorted(_symbols((args, kwargs)))
    base = dict(log.numbers)
    at_base = _run(call, args, kwargs, base)
    if not symbols:
        return at_base
    corners = {
        together: _outcome(_run(call, args, kwargs, {**base, **{name: base[name] + _PROBE for name in together}}))
        for together in _corners(symbols)
    }
    moved = {**base, **{name: base[name] + _CONFIRM for name in symbols}}
    fit = _Fit(base, symbols, log, operation)
    found = fit.value(_outcome(at_base), corners)
    fit.check(found, _outcome(_run(call, args, kwargs, moved)), moved)
    for sizes in fit.sizes_to_confirm():
        try:
            other = _run(call, args, kwargs, sizes)
        except MetaRunError:  # no size of the model's own either
            continue
        fit.check(found, _outcome(other), sizes)
    for name in symbols:
        try:
            alone = _outcome(_run(call, args, kwargs, {**base, name: 1}))
        except MetaRunError:
            continue
        if not _equal(_at(found, {**base, name: 1}), alone):
            _ = Dim.named(name, log) > 1  # a single one is often a case of its own: a guard
    value, inferences = found
    lazies = [
        replace(layer, inference=Inference(attributes, shapes))
        for layer, (_, attributes, shapes) in zip(at_base.lazies, inferences, strict=True)
    ]
    return MetaResult(value, lazies, at_base.left_behind, at_base.writes_arguments)


def _as_given(arguments: Any) -> list[Any]:
    """The leaves of a call's arguments, with how often each tensor was written to."""
    return [held for leaf in leaves(arguments) for held in (leaf, leaf._version if _is_tensor(leaf) else None)]


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)


def _outcome(result: MetaResult) -> Any:
    """Everything of a run that may depend on sizes: its value, and what the lazy layers on the way became."""
    lazies = [(layer.path, layer.inference.attributes, layer.inference.shapes) for layer in result.lazies]
    return result.value, tuple(lazies)


def _run(call: Callable[..., MetaResult], args: Any, kwargs: Any, sizes: Mapping[str, int]) -> MetaResult:
    try:
        with torch.no_grad(), torch.device("meta"), plain_attention(), plain_control_flow():
            result = call(*_to_meta(args, sizes), **_to_meta(kwargs, sizes))
    except (Exception, SystemExit) as error:  # the caller's own code and torch's may raise anything here
        traceback.clear_frames(error.__traceback__)  # whose local variables hold the tensors
        raise MetaRunError from error
    result.value = as_specs(result.value)
    return result


@dataclass(frozen=True, slots=True)
class _Fit:
    """Finds size formulas from runs at `base` and at a step along each symbol, alone and together with others, and
    checks them at other sizes."""

    base: Mapping[str, int]
    symbols: list[str]
    log: GuardLog
    operation: str

    def sizes_to_confirm(self) -> Iterator[dict[str, int]]:
        """Each symbol at other sizes by itself, then all at others together."""
        others = {name: _confirming_sizes(self.base[name]) for name in self.symbols}
        for name, sizes in others.items():
            yield from ({**self.base, name: size} for size in sizes)
        if len(self.symbols) > 1:
            yield {**self.base, **{name: self.base[name] + 1 + i for i, name in enumerate(self.symbols)}}

    def value(self, base: Any, corners: Mapping[Names, Any]) -> Any:
        """The value with a formula for every size that changes; `corners` are those a step along some symbols away."""
        for together, corner in corners.items():
            if not _alike(base, corner):
                raise self._refusal(base, corner, self._moved(together))
        if isinstance(base, TensorSpec):
            return base.with_shape(
                *(
                    self._size(hint(size), {names: corner.shape[axis] for names, corner in corners.items()})
                    for axis, size in enumerate(base.shape)
                )
            )
        if isinstance(base, (tuple, list)):
            return tuple(
                self.value(item, {names: corner[index] for names, corner in corners.items()})
                for index, item in enumerate(base)
            )
        if isinstance(base, dict):
            return {
                key: self.value(item, {names: corner[key] for names, corner in corners.items()})
                for key, item in base.items()
            }
        return self._size(base, corners) if type(base) is int else base

    def _size(self, base: int, corners: Mapping[Names, int]) -> Size:
        """The polynomial of degree 1 in each symbol through the corners, by their differences."""
        formula: Size = base
        values = {(): base, **corners}
        for together in corners:
            signed = (
                (-1) ** (len(together) - count) * values[part]
                for count in range(len(together) + 1)
                for part in combinations(together, count)
            )
            slope, rest = divmod(sum(signed), _PROBE ** len(together))
            if rest:
                raise self._refusal(base, corners[together], self._moved(together))
            for name in together if slope else ():
                slope = slope * (Dim.named(name, self.log) - self.base[name])
            formula = formula + slope
        return formula

    def _moved(self, together: Names) -> dict[str, int]:
        return {**self.base, **{name: self.base[name] + _PROBE for name in together}}

    def check(self, found: Any, run: Any, sizes: Mapping[str, int]) -> None:
        """Raises UnsupportedOpError where a run at some sizes gave something else than the formulas do."""
        if not _equal(_at(found, sizes), run):
            raise self._refusal(_at(found, self.base)[0], run[0], sizes)

    def _refusal(self, base: Any, other: Any, sizes: Mapping[str, int]) -> UnsupportedOpError:
        names = ", ".join(self.symbols)
        return UnsupportedOpError(
            f"{self.operation} has no shape rule, and how its result depends on {names} is no simple formula: "
            f"{describe(base)} at {dict(self.base)}, {describe(other)} at {dict(sizes)}",
            remedy=f"give fixed sizes for {names}",
        )


def _corners(symbols: Sequence[str]) -> Iterator[Names]:
    """The symbols by themselves, and by twos and threes: more are not multiplied with each other in one size."""
    for count in range(1, min(len(symbols), _MOST_FACTORS) + 1):
        yield from combinations(symbols, count)


def _alike(one: Any, other: Any) -> bool:
    """Whether two results differ in sizes alone."""
    if isinstance(one, TensorSpec):
        return isinstance(other, TensorSpec) and (one.ndim, one.dtype) == (other.ndim, other.dtype)
    if isinstance(one, (tuple, list)):
        return isinstance(other, (tuple, list)) and len(one) == len(other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys()
    return type(one) is type(other) and (type(one) not in (bool, float, str) or bool(one == other))


def _equal(one: Any, other: Any) -> bool:
    """Whether two results without formulas are the same."""
    if not _alike(one, other):
        return False
    if isinstance(one, (tuple, list)):
        return all(map(_equal, one, other))
    if isinstance(one, dict):
        return all(_equal(item, other[key]) for key, item in one.items())
    if isinstance(one, TensorSpec):
        return bool(one.shape == other.shape)
    return type(one) is not int or bool(one == other)


def _at(value: Any, sizes: Mapping[str, int]) -> Any:
    """A value at given sizes: no formula is left in it."""
    if isinstance(value, TensorSpec):
        return value.with_shape(*(_at(size, sizes) for size in value.shape))
    if isinstance(value, (tuple, list)):
        return tuple(_at(item, sizes) for item in value)
    if isinstance(value, dict):
        return {key: _at(item, sizes) for key, item in value.items()}
    return value.at(sizes) if isinstance(value, Dim) else value


def _symbols(value: Any) -> set[str]:
    found: set[str] = set()
    for leaf in leaves(value):
        for size in leaf.shape if isinstance(leaf, TensorSpec) else (leaf,):
            found |= set(size.symbols()) if isinstance(size, Dim) else set()
    return found


def _to_meta(value: Any, sizes: Mapping[str, int]) -> Any:
    def at_sizes(leaf: Any) -> Any:
        if isinstance(leaf, Dim):
            return leaf.at(sizes)
        if isinstance(leaf, TensorSpec):
            shape = [size.at(sizes) if isinstance(size, Dim) else size for size in leaf.shape]
            return torch.empty(shape, dtype=leaf.dtype, device="meta")
        return leaf

    return map_structure(value, at_sizes, keep_classes=True)


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
