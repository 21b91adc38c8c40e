"""Sampling at the points of a grid, and the grid of an affine map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from passes.errors import check
from passes.onnx.opsets import VOLUMES, since
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.sizes.dimension import Size, is_static
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter, Value

PADDING_MODES = ("zeros", "border", "reflection")
# Torch's modes, with ONNX's names for them before and since opset 20.
MODES = {"bilinear": ("bilinear", "linear"), "nearest": ("nearest", "nearest"), "bicubic": ("bicubic", "cubic")}

# The neighbours along each axis that a mode weights.
NEIGHBOURS = {"bilinear": 2, "bicubic": 4}


@dataclass(frozen=True, slots=True)
class GridSample(Record[T]):
    input: T
    grid: T
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool | None = None


grid_sample = Op("grid_sample", GridSample, functions=(F.grid_sample,))


@dataclass(frozen=True, slots=True)
class AffineGrid(Record[T]):
    theta: T
    size: Sequence[Size]
    align_corners: bool | None = None


affine_grid = Op("affine_grid", AffineGrid, functions=(F.affine_grid, torch.affine_grid_generator))


@grid_sample.shape
def grid_sample_shape(call: GridSample[TensorSpec]) -> TensorSpec:
    """[N, C, *spatial] at a grid [N, *points, len(spatial)]: [N, C, *points]."""
    input, grid = call.input, call.grid
    check(call.mode in MODES, "mode is {!r}, but can only be {}", call.mode, ", ".join(MODES))
    check(
        call.padding_mode in PADDING_MODES,
        "padding_mode is {!r}, but can only be {}",
        call.padding_mode,
        ", ".join(PADDING_MODES),
    )
    check(input.ndim in (4, 5), "the input needs 4 or 5 axes, found {}", input)
    check(grid.ndim == input.ndim, "the grid needs {} axes as the input has, found {}", input.ndim, grid)
    check(input.dtype == grid.dtype, "the input is {}, but the grid is {}", input.dtype, grid.dtype)
    check(
        input.shape[0] == grid.shape[0], "the input's batch is {}, but the grid's is {}", input.shape[0], grid.shape[0]
    )
    rank = input.ndim - 2
    check(grid.shape[-1] == rank, "a point of the grid needs {} coordinates, found {}", rank, grid.shape[-1])
    check(0 not in [size for size in input.shape[2:] if isinstance(size, int)], "the input {} is empty", input)
    check(call.mode != "bicubic" or rank == 2, "bicubic sampling needs an input of 4 axes, found {}", input)
    return input.with_shape(*input.shape[:2], *grid.shape[1:-1])


@grid_sample.cost
def grid_sample_cost(result: TensorSpec, call: GridSample[TensorSpec]) -> Size:
    """One multiply-add per neighbour of each point."""
    return result.numel() * NEIGHBOURS[call.mode] ** (call.input.ndim - 2) if call.mode in NEIGHBOURS else 0


@grid_sample.lower
def lower_grid_sample(emit: Emitter, call: GridSample[Value]) -> Value:
    volume = call.input.ndim == 5
    if not emit.has("GridSample") or (volume and not emit.allows(VOLUMES)):
        needed = VOLUMES.since if volume else since("GridSample")
        emit.unsupported(f"GridSample of an input of {call.input.ndim} axes needs opset {needed}")
    name = MODES[call.mode][emit.allows(VOLUMES)]
    return emit.node(
        "GridSample",
        call.input,
        call.grid,
        mode=name,
        padding_mode=call.padding_mode,
        align_corners=int(bool(call.align_corners)),
    )


@affine_grid.shape
def affine_grid_shape(call: AffineGrid[TensorSpec]) -> TensorSpec:
    """Maps [N, r, r + 1] for a result [N, C, *spatial] of r spatial axes: a grid [N, *spatial, r]."""
    theta, size = call.theta, call.size
    check(theta.dtype.is_floating_point, "theta needs a floating point type, found {}", theta.dtype)
    check(len(size) in (4, 5), "the size needs 4 or 5 numbers, found {}", len(size))
    rank = len(size) - 2
    check(theta.ndim == 3, "theta needs 3 axes, found {}", theta)
    check(
        theta.shape[1] == rank and theta.shape[2] == rank + 1,
        "theta needs maps of {} x {} for {} spatial axes, found {}",
        rank, rank + 1, rank, theta,
    )  # fmt: skip
    check(theta.shape[0] == size[0], "theta holds {} maps, but the batch is {}", theta.shape[0], size[0])
    check(all(length >= 1 for length in size), "the size {} is not positive", tuple(size))
    return theta.with_shape(size[0], *size[2:], rank)


@affine_grid.cost
def affine_grid_cost(result: TensorSpec, call: AffineGrid[TensorSpec]) -> Size:
    """A product of the map with each point, in homogeneous coordinates."""
    return result.numel() * call.theta.shape[-1]


@affine_grid.lower
def lower_affine_grid(emit: Emitter, call: AffineGrid[Value]) -> Value:
    """AffineGrid since opset 20; before, the maps of a constant grid of homogeneous points."""
    if emit.has("AffineGrid"):
        return emit.node("AffineGrid", call.theta, emit.sizes(call.size), align_corners=int(bool(call.align_corners)))
    spatial = [length for length in call.size[2:] if isinstance(length, int)]
    if not is_static(call.size[2:]):
        emit.unsupported("affine_grid of a dynamic size needs opset 20")
    rank = len(spatial)
    identity = torch.eye(rank, rank + 1, dtype=torch.float64)[None]
    points = F.affine_grid(identity, [1, 1, *spatial], align_corners=bool(call.align_corners)).reshape(-1, rank)
    homogeneous = torch.cat([points, torch.ones(len(points), 1, dtype=torch.float64)], dim=1)
    mapped = emit.node(
        "MatMul", emit.constant(homogeneous, call.theta.dtype), emit.node("Transpose", call.theta, perm=[0, 2, 1])
    )
    return emit.reshape(mapped, emit.result.shape)
