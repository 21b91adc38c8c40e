"""Shapes without a rule: the operation or module itself, run on meta tensors.

Meta tensors have fixed sizes. Where a dimension is dynamic, the operation is run at several sizes and each
result size is taken for the affine formula through them, confirmed at a further point; what does not
confirm is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn

from passes.dimension import Dim, Size
from passes.errors import NeedsDataError, ShapeError, UnsupportedOpError
from passes.guards import GuardLog, Location
from passes.lazy_modules import LazyLayer, as_specs, watch_lazies
from passes.model_copy import copy_model
from passes.nested import leaves, map_structure
from passes.ops.op import Inference
from passes.plain_attention import plain_attention
from passes.spec import TensorSpec, describe

# How far from its sample a dynamic dimension is probed to find a formula, and to confirm it.
_PROBE, _CONFIRM = 4, 6


@dataclass(slots=True)
class MetaResult:
    """What a run on meta tensors gave: the value, and the lazy layers that it reached, in order."""

    value: Any
    lazies: list[LazyLayer] = field(default_factory=list)


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


def run_module(module: nn.Module, path: str, args: Any, kwargs: Any, log: GuardLog, location: Location) -> MetaResult:
    """The value of a module's call, its own forward run on meta tensors; the module itself is not touched.

    Lazy layers in it are resolved on the way as their own code does it; their paths begin with `path`.
    Raises MetaRunError where the forward cannot run without data.
    """

    def call(*args: Any, **kwargs: Any) -> MetaResult:
        probe = on_meta(module)
        lazies: list[LazyLayer] = []
        watch_lazies(probe, path, lazies, location)
        return MetaResult(probe(*args, **kwargs), lazies)

    return _at_all_sizes(call, path or type(module).__name__, args, kwargs, log)


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of the module with every tensor on the meta device, lazy ones still lazy; in eval mode."""
    probe = copy_model(module, device=torch.device("meta"))
    return probe.eval()


def _at_all_sizes(call: Callable[..., MetaResult], operation: str, args: Any, kwargs: Any, log: GuardLog) -> MetaResult:
    symbols = sorted(_symbols((args, kwargs)))
    base = dict(log.sampled)
    at_base = _run(call, args, kwargs, base)
    if not symbols:
        return at_base
    steps = {name: _run(call, args, kwargs, {**base, name: base[name] + _PROBE}) for name in symbols}
    moved = {**base, **{name: base[name] + _CONFIRM for name in symbols}}
    confirmed = _run(call, args, kwargs, moved)
    fit = _Fit(base, moved, symbols, log, operation)
    value = fit.structure(at_base.value, [steps[name].value for name in symbols], confirmed.value)
    lazies = []
    for index, layer in enumerate(at_base.lazies):
        others = [steps[name].lazies[index].inference for name in symbols]
        last = confirmed.lazies[index].inference
        inferred = Inference(
            fit.structure(layer.inference.attributes, [other.attributes for other in others], last.attributes),
            fit.structure(layer.inference.shapes, [other.shapes for other in others], last.shapes),
        )
        lazies.append(replace(layer, inference=inferred))
    return MetaResult(value, lazies)


def _run(call: Callable[..., MetaResult], args: Any, kwargs: Any, sizes: Mapping[str, int]) -> MetaResult:
    try:
        with torch.no_grad(), torch.device("meta"), plain_attention():
            result = call(*_to_meta(args, sizes), **_to_meta(kwargs, sizes))
    except (Exception, SystemExit) as error:  # the caller's own code and torch's may raise anything here
        raise MetaRunError from error
    result.value = as_specs(result.value)
    return result


@dataclass(frozen=True, slots=True)
class _Fit:
    """Finds size formulas from runs at `base`, at a step along each symbol, and at `moved`."""

    base: Mapping[str, int]
    moved: Mapping[str, int]
    symbols: list[str]
    log: GuardLog
    operation: str

    def structure(self, base: Any, steps: list[Any], confirmed: Any) -> Any:
        """The value with a formula for every size that changes."""
        if isinstance(base, TensorSpec):
            if any(step.ndim != base.ndim for step in (*steps, confirmed)):
                raise self._refusal(base, confirmed)
            shape = [
                self.size(size, [step.shape[axis] for step in steps], confirmed.shape[axis])
                for axis, size in enumerate(base.shape)
            ]
            return base.with_shape(*shape)
        if isinstance(base, (tuple, list)):
            if any(len(step) != len(base) for step in (*steps, confirmed)):
                raise self._refusal(base, confirmed)
            return tuple(self.structure(item, [step[i] for step in steps], confirmed[i]) for i, item in enumerate(base))
        if isinstance(base, dict):
            return {
                key: self.structure(item, [step[key] for step in steps], confirmed[key]) for key, item in base.items()
            }
        if type(base) is int:
            return self.size(base, steps, confirmed)
        return base

    def size(self, base: Size, steps: list[Any], confirmed: Size) -> Size:
        formula: Size = base
        for name, step in zip(self.symbols, steps, strict=True):
            slope, rest = divmod(step - base, _PROBE)
            if rest:
                raise self._refusal(base, confirmed)
            formula = formula + slope * (Dim.symbol(name, self.base[name], self.log) - self.base[name])
        value = formula.at(self.moved) if isinstance(formula, Dim) else formula
        if value != confirmed:
            raise self._refusal(base, confirmed)
        return formula

    def _refusal(self, base: Any, confirmed: Any) -> UnsupportedOpError:
        sizes = ", ".join(self.symbols)
        return UnsupportedOpError(
            f"{self.operation} has no shape rule, and how its result depends on {sizes} is no simple formula: "
            f"{describe(base)} at {dict(self.base)}, {describe(confirmed)} at {dict(self.moved)}",
            remedy=f"give fixed sizes for {sizes}",
        )


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

    return map_structure(value, at_sizes)


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
