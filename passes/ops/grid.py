"""Sampling at the points of a grid, and the grid of an affine map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from passes.dimension import Size, is_static
from passes.errors import check
from passes.ops.op import Op
from passes.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx_emitter import Emitter, Value

PADDING_MODES = ("zeros", "border", "reflection")
# Torch's modes, with ONNX's names for them before and since opset 20.
MODES = {"bilinear": ("bilinear", "linear"), "nearest": ("nearest", "nearest"), "bicubic": ("bicubic", "cubic")}

# The neighbours along each axis that a mode weights.
NEIGHBOURS = {"bilinear": 2, "bicubic": 4}

grid_sample = Op("grid_sample", functions=(F.grid_sample,))
affine_grid = Op("affine_grid", functions=(F.affine_grid, torch.affine_grid_generator))


@grid_sample.shape
def grid_sample_shape(
    input: TensorSpec,
    grid: TensorSpec,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> TensorSpec:
    """[N, C, *spatial] at a grid [N, *points, len(spatial)]: [N, C, *points]."""
    check(mode in MODES, "mode is {!r}, but can only be {}", mode, ", ".join(MODES))
    check(
        padding_mode in PADDING_MODES,
        "padding_mode is {!r}, but can only be {}",
        padding_mode,
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
    check(mode != "bicubic" or rank == 2, "bicubic sampling needs an input of 4 axes, found {}", input)
    return input.with_shape(*input.shape[:2], *grid.shape[1:-1])


@grid_sample.cost
def grid_sample_cost(result: TensorSpec, input: TensorSpec, grid: TensorSpec, mode: str, **_: Any) -> Size:
    """One multiply-add per neighbour of each point."""
    return result.numel() * NEIGHBOURS[mode] ** (input.ndim - 2) if mode in NEIGHBOURS else 0


@grid_sample.lower
def lower_grid_sample(
    emit: Emitter,
    input: Value,
    grid: Value,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Value:
    needed = 16 if input.ndim == 4 else 20
    if emit.opset < needed:
        emit.unsupported(f"GridSample of an input of {input.ndim} axes needs opset {needed}")
    name = MODES[mode][emit.opset >= 20]
    return emit.node(
        "GridSample", input, grid, mode=name, padding_mode=padding_mode, align_corners=int(bool(align_corners))
    )


@affine_grid.shape
def affine_grid_shape(theta: TensorSpec, size: Sequence[Size], align_corners: bool | None = None) -> TensorSpec:
    """Maps [N, r, r + 1] for a result [N, C, *spatial] of r spatial axes: a grid [N, *spatial, r]."""
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
def affine_grid_cost(
    result: TensorSpec, theta: TensorSpec, size: Sequence[Size], align_corners: bool | None = None
) -> Size:
    """A product of the map with each point, in homogeneous coordinates."""
    return result.numel() * theta.shape[-1]


@affine_grid.lower
def lower_affine_grid(emit: Emitter, theta: Value, size: Sequence[Size], align_corners: bool | None = None) -> Value:
    """AffineGrid since opset 20; before, the maps of a constant grid of homogeneous points."""
    if emit.opset >= 20:
        return emit.node("AffineGrid", theta, emit.sizes(size), align_corners=int(bool(align_corners)))
    spatial = [length for length in size[2:] if isinstance(length, int)]
    if not is_static(size[2:]):
        emit.unsupported("affine_grid of a dynamic size needs opset 20")
    rank = len(spatial)
    identity = torch.eye(rank, rank + 1, dtype=torch.float64)[None]
    points = F.affine_grid(identity, [1, 1, *spatial], align_corners=bool(align_corners)).reshape(-1, rank)
    homogeneous = torch.cat([points, torch.ones(len(points), 1, dtype=torch.float64)], dim=1)
    mapped = emit.node("MatMul", emit.constant(homogeneous, theta.dtype), emit.node("Transpose", theta, perm=[0, 2, 1]))
    return emit.reshape(mapped, emit.result.shape)
