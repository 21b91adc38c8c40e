"""Padding at the borders, by a constant or by the tensor's own elements; negative amounts crop.

`pad` holds (before, after) pairs from the last axis backwards, as torch takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import check
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.sizes.dimension import Dim, Size, is_of_data
from passes.sizes.floating import is_exactly
from passes.torch_private import ConstantPadNd, native_nn
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

ONNX_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
MODES = (*ONNX_MODES, "circular")
TO_THE_END = 2**63 - 1

Pairs = list[tuple[Size, Size]]


@dataclass(frozen=True, slots=True)
class Pad(Record[T]):
    input: T
    pad: Sequence[Size]
    mode: str = "constant"
    value: float | None = None


pad = Op("pad", Pad, functions=(F.pad, native_nn.pad))


@pad.function(torch.constant_pad_nd)
def constant_arguments(input: Any, pad: Any, value: Any = 0) -> Mapping[str, Any]:
    return {"input": input, "pad": pad, "value": value}


@pad.module(ConstantPadNd)
def bind_constant(module: Any, input: Any) -> Mapping[str, Any]:
    return {"input": input, "pad": module.padding, "value": module.value}


def mode_arguments(mode: str, input: Any, padding: Any) -> Mapping[str, Any]:
    return {"input": input, "pad": padding, "mode": mode}


def bind_mode(mode: str, module: Any, input: Any) -> Mapping[str, Any]:
    return mode_arguments(mode, input, module.padding)


for _name, _mode in (("reflection", "reflect"), ("replication", "replicate"), ("circular", "circular")):
    for _rank in (1, 2, 3):
        pad.module(getattr(nn, f"{_name.capitalize()}Pad{_rank}d"))(partial(bind_mode, _mode))
        if _mode != "circular":
            pad.function(getattr(native_nn, f"{_name}_pad{_rank}d"))(partial(mode_arguments, _mode))


@pad.shape
def pad_shape(call: Pad[TensorSpec]) -> TensorSpec:
    """`before + size + after` on each axis, after the checks of the mode."""
    input, pad, mode = call.input, call.pad, call.mode
    check(mode in MODES, "padding mode {!r} is none of {}", mode, ", ".join(MODES))
    check(len(pad) % 2 == 0, "padding comes in pairs of (before, after), found {} numbers", len(pad))
    axes = len(pad) // 2
    check(axes <= input.ndim, "{} axes are padded, but the input has only {}", axes, input.ndim)
    if mode != "constant":
        check(call.value in (None, 0), "{} padding takes no value, found {}", mode, call.value)
        check(
            1 <= axes <= 3 and input.ndim - axes in (1, 2),
            "{} padding of {} axes needs an input of {} or {} axes, found {}",
            mode, axes, axes + 1, axes + 2, input.ndim,
            remedy="give a pair of numbers for each spatial axis of the input, the last axis first",
        )  # fmt: skip
    if mode in ("reflect", "replicate"):
        asked = [size for size in input.shape[-axes - 1 :] if isinstance(size, int) or is_of_data(size)]
        check(all(size != 0 for size in asked), "{} padding of an empty input {}", mode, input)
    pairs = _per_axis(pad, input.ndim)
    for axis, (size, (before, after)) in enumerate(zip(input.shape, pairs, strict=True)):
        _check_amounts(mode, axis, size, before, after)
    sizes = [before + size + after for size, (before, after) in zip(input.shape, pairs, strict=True)]
    if mode in ("reflect", "replicate"):
        check(
            any(size >= 1 for size in sizes[-axes:]), "{} padding by {} of {} leaves nothing", mode, tuple(pad), input
        )
    return input.with_shape(*sizes)


def _check_amounts(mode: str, axis: int, size: Size, before: Size, after: Size) -> None:
    text = f"{mode} padding by ({before}, {after}) of axis {axis}, which has size {size},"
    if mode == "reflect":
        check(
            before < size and after < size,
            "{} must be smaller than that size",
            text,
            remedy="pad less, or use mode replicate",
        )
    elif mode == "circular":
        check(before <= size and after <= size, "{} wraps around more than once", text)
    if mode != "constant":
        check(before + size + after >= 0, "{} crops more than there is", text)
    if mode in ("constant", "circular"):
        first = _crop(before, mode)
        for crop in (first, first + _crop(after, mode)):
            check((isinstance(crop, int) and crop == 0) or size + crop >= 0, "{} crops more than there is", text)


@pad.identity("pad_by_nothing", why="Where every amount is 0, nothing is added and nothing cropped.")
def pad_identity(result: TensorSpec, call: Pad[TensorSpec]) -> bool:
    return all(isinstance(amount, int) and amount == 0 for amount in call.pad)


@pad.lower
def lower_pad(emit: Emitter, call: Pad[Value]) -> Value:
    """Slice for what is cropped, Pad for what is added.

    Torch wraps around what cropping has left, but reflects and replicates what was there before it.
    """
    input, mode = call.input, call.mode
    pairs = _per_axis(call.pad, input.ndim)
    crops: Pairs = [(_crop(before, mode), _crop(after, mode)) for before, after in pairs]
    grows: Pairs = [(before - less, after - fewer) for (before, after), (less, fewer) in zip(pairs, crops, strict=True)]
    crop_first = mode in ("constant", "circular")
    result = _cropped(emit, input, crops) if crop_first else input
    if any(isinstance(amount, Dim) or amount for pair in grows for amount in pair):
        if mode == "circular":
            result = _wrapped(emit, result, grows)
        else:
            amounts = emit.sizes([before for before, _ in grows] + [after for _, after in grows])
            number = 0 if call.value is None or mode != "constant" else call.value
            fill = None if is_exactly(number, 0) else emit.scalar(number, input)
            result = emit.node("Pad", result, amounts, fill, mode=ONNX_MODES[mode])
    return result if crop_first else _cropped(emit, result, crops)


def _per_axis(pad: Sequence[Size], ndim: int) -> Pairs:
    """(before, after) of every axis, from the first on."""
    given = [(pad[index], pad[index + 1]) for index in range(0, len(pad), 2)]
    none: Pairs = [(0, 0)] * (ndim - len(given))
    return none + given[::-1]


def _crop(amount: Size, mode: str) -> Size:
    """The amount where it is negative, else 0. ONNX pads a constant by a formula of either sign, so it is not asked."""
    if mode == "constant" and isinstance(amount, Dim):
        return 0
    return amount if amount < 0 else 0


def _cropped(emit: Emitter, value: Value, crops: Pairs) -> Value:
    axes = [axis for axis, pair in enumerate(crops) if pair != (0, 0)]
    if not axes:
        return value
    starts = emit.sizes(-crops[axis][0] for axis in axes)
    ends = emit.sizes(TO_THE_END if crops[axis][1] == 0 else crops[axis][1] for axis in axes)
    return emit.node("Slice", value, starts, ends, emit.ints(*axes))


def _wrapped(emit: Emitter, value: Value, grows: Pairs) -> Value:
    """Axis by axis, the tail before and the head after. Pad has a mode for it, which not all kernels know."""
    for axis, (before, after) in enumerate(grows):
        tail = [emit.slice(value, axis, -before, TO_THE_END)] if before != 0 else []
        head = [emit.slice(value, axis, 0, after)] if after != 0 else []
        if tail or head:
            value = emit.node("Concat", *tail, value, *head, axis=axis)
    return value
