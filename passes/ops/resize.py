"""Resampling to another size: `F.interpolate` and the upsampling layers.

Every mode is linear in the input and works axis by axis. ONNX's Resize covers most of it. Where it does not,
or rounds its coordinates differently, a nearest mode becomes a Gather of the elements that torch picks, area is an
adaptive pool, and any other a product with the matrix of torch's own weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import UnsupportedOpError, check
from passes.ops.adaptive_pool import AdaptiveAvgPool, lower_adaptive_avg_pool
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.sizes.dimension import Size, hint, is_of_data, is_static
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

# The number of spatial axes that each mode takes.
SPATIAL_AXES: dict[str, tuple[int, ...]] = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "area": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
    "lanczos": (2,),
}
PICKING = ("nearest", "nearest-exact")
# The neighbours along each axis that a mode weights. Picking and averaging multiply nothing.
NEIGHBOURS = {"linear": 2, "bilinear": 2, "trilinear": 2, "bicubic": 4, "lanczos": 6}
ANTIALIASED = ("bilinear", "bicubic", "lanczos")
# Where elements are picked from: Resize's coordinates and rounding.
NEAREST_ATTRIBUTES = {
    "nearest": {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "nearest-exact": {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
}


@dataclass(frozen=True, slots=True)
class Interpolate(Record[T]):
    input: T
    size: PerAxis = None
    scale_factor: PerAxis = None
    mode: str = "nearest"
    align_corners: bool | None = None
    recompute_scale_factor: bool | None = None
    antialias: bool = False


interpolate = Op("interpolate", Interpolate, functions=(F.interpolate,))


@interpolate.module(nn.Upsample)
def bind_upsample(module: nn.Upsample, input: Any) -> Mapping[str, Any]:
    names = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
    return {"input": input, **{name: getattr(module, name) for name in names}}


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis: its sizes before and after, and the factor where coordinates follow it, not the sizes."""

    before: Size
    after: Size
    factor: float | None

    @property
    def is_static(self) -> bool:
        return is_static([self.before, self.after])


def _axes(
    input: TensorSpec | Value, size: Any, scale_factor: Any, mode: str, recompute_scale_factor: bool | None
) -> list[Axis]:
    before = input.shape[2:]
    if size is not None:
        return [Axis(old, new, None) for old, new in zip(before, _per_axis("size", size, before), strict=True)]
    factors = _per_axis("scale_factor", scale_factor, before)
    forgotten = recompute_scale_factor or mode == "area"
    return [
        Axis(old, _scaled(old, factor), None if forgotten else float(factor))
        for old, factor in zip(before, factors, strict=True)
    ]


_SCALE = "give a larger scale_factor, or the size itself"


def _per_axis(what: str, given: Any, spatial: Sequence[Size]) -> Sequence[Any]:
    if not isinstance(given, (tuple, list)):
        return [given] * len(spatial)
    check(
        len(given) == len(spatial),
        "{} has {} numbers, but the input {} spatial axes",
        what, len(given), len(spatial),
        remedy="give {0} a number for each of the {2} axes after batch and channels",
    )  # fmt: skip
    return given


def _scaled(size: Size, factor: float) -> Size:
    """The size times the factor, in double precision, rounded down."""
    scaled: Size = math.floor(size * factor)
    return scaled


# A number for each spatial axis, or one for all.
PerAxis: TypeAlias = Any


@interpolate.shape
def interpolate_shape(call: Interpolate[TensorSpec]) -> TensorSpec:
    """[N, C, *spatial] with the spatial sizes asked for."""
    input, mode = call.input, call.mode
    check(mode in SPATIAL_AXES, "the mode {!r} is none of {}", mode, ", ".join(SPATIAL_AXES))
    check((call.size is None) != (call.scale_factor is None), "either size or scale_factor must be given, and not both")
    check(call.size is None or not call.recompute_scale_factor, "recompute_scale_factor has no meaning with a size")
    check(
        input.ndim - 2 in SPATIAL_AXES[mode],
        "{} takes an input of {} axes, found {}",
        mode,
        " or ".join(str(axes + 2) for axes in SPATIAL_AXES[mode]),
        input,
    )
    if mode in PICKING or mode == "area":
        check(call.align_corners is None, "align_corners has no meaning for {}", mode)
    check(not call.antialias or mode in ANTIALIASED, "{} cannot be antialiased, only {}", mode, ", ".join(ANTIALIASED))
    if mode == "lanczos":
        check(call.antialias and not call.align_corners, "lanczos needs antialias=True, and no align_corners")
    axes = _axes(input, call.size, call.scale_factor, mode, call.recompute_scale_factor)
    after = [axis.after for axis in axes]
    check(
        all(new >= int(mode != "area") for new in after),
        "the result would have the spatial sizes {}, from {}",
        after,
        list(input.shape[2:]),
        remedy=_SCALE,
    )
    asked = [old for old in input.shape[1:] if isinstance(old, int) or is_of_data(old)]
    check(all(old != 0 for old in asked), "the input {} is empty", input)
    return input.with_shape(*input.shape[:2], *after)


@interpolate.identity("resize_to_its_size", why="At a factor of 1 every sample falls on an element, in all modes.")
def interpolate_is_identity(result: TensorSpec, call: Interpolate[TensorSpec]) -> bool:
    return all(
        _is_zero(axis.after - axis.before) and axis.factor in (None, 1.0)
        for axis in _axes(call.input, call.size, call.scale_factor, call.mode, call.recompute_scale_factor)
    )


@interpolate.cost
def interpolate_cost(result: TensorSpec, call: Interpolate[TensorSpec]) -> Size:
    """One multiply-add per neighbour; antialiasing, whose windows grow with the factor, is counted as if without."""
    return result.numel() * NEIGHBOURS[call.mode] ** (call.input.ndim - 2) if call.mode in NEIGHBOURS else 0


@interpolate.lower
def lower_interpolate(emit: Emitter, call: Interpolate[Value]) -> Value:
    input, mode, antialias = call.input, call.mode, call.antialias
    axes = _axes(input, call.size, call.scale_factor, mode, call.recompute_scale_factor)
    if mode in PICKING:
        channels = min(hint(input.shape[1]), 2)
        precision = torch.float64 if input.dtype == torch.float64 else torch.float32
        picked = [_picked(axes, place, channels, mode, precision) for place in range(len(axes))]
        if all(map(_agrees, axes, picked, [mode] * len(axes))) and not _is_taken_for_a_copy(axes):
            return _resize(emit, input, axes, mode="nearest", **NEAREST_ATTRIBUTES[mode])
        return _gather(emit, input, axes, picked, mode, precision)
    if not input.dtype.is_floating_point:
        emit.unsupported(f"ONNX does not round {mode} resampling of {input.dtype} as torch does")
    if mode == "area":
        return _average(emit, input, axes)
    if (
        mode == "lanczos"
        or (antialias and (call.align_corners or not emit.has_attribute("Resize", "antialias")))
        or _is_taken_for_a_copy(axes)
    ):
        return _product(emit, input, axes, mode, call.align_corners, antialias)
    cubic = mode == "bicubic"
    return _resize(
        emit,
        input,
        axes,
        mode="cubic" if cubic else "linear",
        coordinate_transformation_mode="align_corners" if call.align_corners else "half_pixel",
        # Torch takes the coefficient of PIL where it antialiases like PIL.
        cubic_coeff_a=(-0.5 if antialias else -0.75) if cubic else None,
        antialias=1 if antialias else None,
        exclude_outside=1 if antialias else None,
    )


def _resize(emit: Emitter, input: Value, axes: Sequence[Axis], **attributes: Any) -> Value:
    """Resize by factors where torch's coordinates follow them, else to sizes."""
    if axes[0].factor is not None:
        return emit.node("Resize", input, None, _scales(emit, axes), **attributes)
    after = [axis.after for axis in axes]
    if emit.has_attribute("Resize", "axes") and not is_static(input.shape[:2]):
        spatial = list(range(2, input.ndim))
        return emit.node("Resize", input, None, None, emit.sizes(after), axes=spatial, **attributes)
    return emit.node("Resize", input, None, None, emit.sizes([*input.shape[:2], *after]), **attributes)


def _scales(emit: Emitter, axes: Sequence[Axis]) -> Value:
    """The factors of all axes in float32, such that a runtime arrives at torch's sizes."""
    scales: list[float] = [1.0, 1.0]
    computed = {}
    for place, axis in enumerate(axes):
        if not axis.is_static and float(np.float32(axis.factor)) != axis.factor:
            computed[place] = _scale_in_graph(emit, axis)
        scales.append(_representable(axis))
    if not computed:
        return emit.constant(torch.tensor(scales, dtype=torch.float32))
    parts = [computed.get(place - 2) or emit.constant([scale], torch.float32) for place, scale in enumerate(scales)]
    return emit.node("Concat", *parts, axis=0)


def _scale_in_graph(emit: Emitter, axis: Axis) -> Value:
    """Of the factor in float32 and its neighbours, the one by which a runtime arrives at the size that is wanted."""
    nearest = np.float32(axis.factor)
    smaller, same, larger = (
        emit.constant([float(scale)], torch.float32)
        for scale in (np.nextafter(nearest, np.float32(0)), nearest, np.nextafter(nearest, np.float32(np.inf)))
    )
    product = emit.node("Mul", emit.cast(emit.size(axis.before), torch.float32), same)
    found, wanted = emit.node("Floor", product), emit.cast(emit.size(axis.after), torch.float32)
    lowered = emit.node("Where", emit.node("Greater", found, wanted), smaller, same)
    return emit.node("Where", emit.node("Less", found, wanted), larger, lowered)


def _representable(axis: Axis) -> float:
    """The factor as a float32 by which a runtime arrives at torch's size, in float32 and beyond: it or a neighbour."""
    assert axis.factor is not None
    nearest = np.float32(axis.factor)
    if not axis.is_static:
        return float(nearest)
    before, after = int(axis.before), int(axis.after)
    neighbours = [np.nextafter(nearest, np.float32(limit)) for limit in (np.inf, 0)]
    for candidate in (nearest, *neighbours):
        if int(before * float(candidate)) == after == int(np.float32(before) * candidate):
            return float(candidate)
    raise UnsupportedOpError(f"no float32 near {axis.factor} takes {before} to {after}")


def _is_taken_for_a_copy(axes: Sequence[Axis]) -> bool:
    """Whether a factor moves elements, but leaves every size: onnxruntime then takes the Resize for a copy.

    Only a factor between 1 and 2 can do that, so no other one is asked about.
    """
    small = [axis for axis in axes if axis.factor is not None and 1 <= axis.factor < 2]
    moving = [axis for axis in small if axis.factor != 1]
    return bool(moving) and len(small) == len(axes) and all(axis.after == axis.before for axis in moving)


# Nearest: which element ---------------------------------------------------------------------------


def _picked(axes: Sequence[Axis], place: int, channels: int, mode: str, precision: torch.dtype) -> torch.Tensor | None:
    """The indices that torch picks along one of the axes, if all are of fixed sizes.

    Torch is asked with the shapes of the call, since its kernels differ in how they round, and in the precision of
    its coordinates: float64 where the input is, else float32.
    """
    if not all(axis.is_static for axis in axes):
        return None
    before, after = [int(axis.before) for axis in axes], [int(axis.after) for axis in axes]
    along = [-1 if axis == place else 1 for axis in range(len(axes))]
    places = torch.arange(before[place], dtype=precision).reshape(along).expand(1, channels, *before).contiguous()
    factors = [axis.factor for axis in axes if axis.factor is not None]
    target: dict[str, Any] = {"scale_factor": factors} if factors else {"size": after}
    chosen = F.interpolate(places, mode=mode, **target)[0, 0].movedim(place, 0)
    return chosen.flatten(1)[:, 0].to(torch.int64) if chosen.ndim > 1 else chosen.to(torch.int64)


def _agrees(axis: Axis, picked: torch.Tensor | None, mode: str) -> bool:
    """Whether ONNX's coordinate `x / scale` picks what torch's `x * (1 / scale)` picks, both in float32."""
    if picked is None:
        return _is_power_of_two(_ratio(axis))
    before, after = int(axis.before), int(axis.after)
    scale = np.float32(_representable(axis)) if axis.factor is not None else np.float32(after) / np.float32(before)
    x, half = np.arange(after, dtype=np.float32), np.float32(0.5)
    exact = mode == "nearest-exact"
    coordinate = (x + half) / scale - half if exact else x / scale
    nearest = np.floor(coordinate.astype(np.float64) + (0.5 if exact else 0.0))
    return np.array_equal(np.clip(nearest, 0, before - 1), picked.numpy())


def _ratio(axis: Axis) -> Fraction | None:
    """The factor, or sizes' ratio where their formulas are multiples of each other."""
    if axis.factor is not None:
        return Fraction(axis.factor)
    up, down = axis.after // axis.before, axis.before // axis.after
    if isinstance(up, int) and _is_zero(axis.after - up * axis.before):
        return Fraction(up)
    if isinstance(down, int) and _is_zero(axis.before - down * axis.after):
        return Fraction(1, down)
    return None


def _is_power_of_two(ratio: Fraction | None) -> bool:
    return ratio is not None and math.log2(ratio.numerator) % 1 == 0 and math.log2(ratio.denominator) % 1 == 0


def _is_zero(difference: Size) -> bool:
    """Whether two formulas are the same; asks nothing that would have to be recorded."""
    return isinstance(difference, int) and difference == 0


def _gather(
    emit: Emitter,
    input: Value,
    axes: Sequence[Axis],
    picked: Sequence[torch.Tensor | None],
    mode: str,
    precision: torch.dtype,
) -> Value:
    """One Gather per axis that changes, by indices that are constant, or computed as torch computes them."""
    result = input
    for place, (axis, chosen) in enumerate(zip(axes, picked, strict=True)):
        if _is_zero(axis.after - axis.before) and axis.factor in (None, 1.0):
            continue
        indices = emit.constant(chosen) if chosen is not None else _computed_indices(emit, axes, axis, mode, precision)
        result = emit.node("Gather", result, indices, axis=place + 2)
    return result


# Torch has a kernel of its own for planes whose sides are together at most so long.
_LARGEST_SMALL_PLANE = 128


def _computed_indices(emit: Emitter, axes: Sequence[Axis], axis: Axis, mode: str, precision: torch.dtype) -> Value:
    """`min(floor((x + offset) * (before / after)), before - 1)`, rounded as the kernel of torch does that runs then."""
    picked = _floored(emit, _coordinates(emit, axis, mode, precision))
    unscaled = mode == "nearest" and axis.factor is not None and 1 < axis.factor < 3 and 0 < axis.factor % 1 < 0.5
    if len(axes) == 2 and (unscaled or (precision, mode) != _ROUNDED_ALIKE):
        of_small = _floored(emit, _coordinates_in_float32(emit, axis, mode))
        if unscaled:  # where the factor happens to leave the size, or to double it, that kernel forgets the factor
            steps, before, after = _steps(emit, axis), emit.size(axis.before), emit.size(axis.after)
            two = emit.scalar(2, torch.int64)
            for size, wanted in ((before, steps), (emit.node("Mul", before, two), emit.node("Div", steps, two))):
                of_small = emit.node("Where", emit.node("Equal", after, size), wanted, of_small)
        together = emit.node("Add", *(emit.size(each.after) for each in axes))
        is_small = emit.node("Less", together, emit.scalar(_LARGEST_SMALL_PLANE + 1, torch.int64))
        picked = emit.node("Where", is_small, of_small, picked)
    return emit.node("Min", picked, emit.size(axis.before - 1))


def _floored(emit: Emitter, coordinates: Value) -> Value:
    return emit.cast(emit.node("Floor", coordinates), torch.int64)


def _steps(emit: Emitter, axis: Axis) -> Value:
    """The places along an axis of the result."""
    end = emit.squeeze(emit.size(axis.after), 0)
    return emit.node("Range", emit.scalar(0, torch.int64), end, emit.scalar(1, torch.int64))


# What all kernels compute in float32, step by step.
_ROUNDED_ALIKE = (torch.float32, "nearest")


def _coordinates(emit: Emitter, axis: Axis, mode: str, precision: torch.dtype) -> Value:
    """Where elements are picked from, as torch's kernel for any number of axes has it: a float32 in the end."""
    if (precision, mode) == _ROUNDED_ALIKE:
        return _coordinates_in_float32(emit, axis, mode)
    wide = torch.float64
    product = emit.node(
        "Mul", _centres(emit, axis, mode, wide), emit.cast(_ratio_in_graph(emit, axis, precision), wide)
    )
    if precision == wide:
        return emit.cast(product, torch.float32)
    half = emit.scalar(0.5, wide)
    fused = emit.cast(emit.node("Sub", product, half), torch.float32)  # rounded once, as one instruction does both
    return emit.cast(emit.node("Add", emit.cast(emit.node("Relu", fused), wide), half), torch.float32)


def _coordinates_in_float32(emit: Emitter, axis: Axis, mode: str) -> Value:
    """The same, as torch's kernel for small planes has it, whatever the dtype."""
    return emit.node("Mul", _centres(emit, axis, mode, torch.float32), _ratio_in_graph(emit, axis, torch.float32))


def _centres(emit: Emitter, axis: Axis, mode: str, precision: torch.dtype) -> Value:
    """0, 1, 2, ... for each element of the result; half an element on for nearest-exact."""
    x = emit.cast(_steps(emit, axis), precision)
    return emit.node("Add", x, emit.scalar(0.5, precision)) if mode == "nearest-exact" else x


def _ratio_in_graph(emit: Emitter, axis: Axis, precision: torch.dtype) -> Value:
    """How many elements of the input one of the result steps on."""
    if axis.factor is not None:
        return emit.scalar(1 / axis.factor, precision)
    return emit.node("Div", *(emit.cast(emit.size(size), precision) for size in (axis.before, axis.after)))


# Weighted sums ------------------------------------------------------------------------------------


def _average(emit: Emitter, input: Value, axes: Sequence[Axis]) -> Value:
    """An adaptive pool; AveragePool where the windows are of one size, as they are if the result's size divides the
    input's."""
    if any(_is_zero(axis.after) for axis in axes):
        emit.unsupported("there is no average over nothing")
    ratios = [_ratio(axis) for axis in axes]
    if all(ratio is not None and ratio.numerator == 1 for ratio in ratios):
        window = [ratio.denominator for ratio in ratios if ratio is not None]
        return emit.node("AveragePool", input, kernel_shape=window, strides=window)
    return lower_adaptive_avg_pool(emit, AdaptiveAvgPool(input, len(axes), [axis.after for axis in axes]))


def _product(
    emit: Emitter, input: Value, axes: Sequence[Axis], mode: str, align_corners: bool | None, antialias: bool
) -> Value:
    """A product with torch's weights along each axis that changes."""
    if not all(axis.is_static for axis in axes):
        emit.unsupported(f"{mode} resampling of a dynamic size needs weights that ONNX cannot compute")
    # A plane of one row: all modes but the cubic ones are the same over any number of axes.
    planar = "bilinear" if mode in ("linear", "trilinear") else mode
    result = input
    for place, axis in enumerate(axes, start=2 - input.ndim):
        if axis.after == axis.before and axis.factor in (None, 1.0):
            continue
        one_hot = torch.eye(int(axis.before), dtype=torch.float64)[None, :, None, :]
        target: dict[str, Any] = {"size": (1, int(axis.after))}
        if axis.factor is not None:
            target = {"scale_factor": (1.0, axis.factor)}
        weights = F.interpolate(one_hot, mode=planar, align_corners=align_corners, antialias=antialias, **target)
        result = _times(emit, result, weights[0, :, 0, :].to(input.dtype), place, input.ndim)
    return result


def _times(emit: Emitter, value: Value, weights: torch.Tensor, place: int, ndim: int) -> Value:
    """The product over the axis `place` (from the end) with weights of [before, after]."""
    if place == -1:
        return emit.node("MatMul", value, emit.constant(weights))
    if place == -2:
        return emit.node("MatMul", emit.constant(weights.T), value)
    swap = list(range(ndim))
    swap[place], swap[-1] = swap[-1], swap[place]
    product = emit.node("MatMul", emit.node("Transpose", value, perm=swap), emit.constant(weights))
    return emit.node("Transpose", product, perm=swap)
