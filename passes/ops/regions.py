"""Regions: a part of a program's graph that runs zero, one or many times, as an operation of the program says.

A region is all that lies between two nodes of the one graph, in the graph's order:

    %enter = function passes.ops.regions.enter((%state,), (%sequence,), 0)   what the region is given
      %item = function operator.getitem(%enter, 0)
      ...
    %leave = function passes.ops.regions.leave(%enter, (%sum,))              what it gives
    %loop = function passes.ops.control_flow.scan(%leave, ...)               the operation that runs it

Its nodes may use every node before it, but nothing outside uses one of them, except by way of `leave`, which only the
operation that runs the region takes. So whatever goes over a graph's nodes goes over those of regions, in the order in
which they are traced, and operands, users and names are what they are everywhere. `passes/program/regions.py` finds
the regions of a graph; a lowering gets a region as a function (`Region`) that emits it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from passes.errors import ShapeError, check
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.sizes.dimension import Dim
from passes.values.spec import TensorSpec, describe

if TYPE_CHECKING:
    from passes.onnx.value import Value

# A region as a lowering sees it: emits its operations where the emitter is now, on what it is given. What it gives are
# values, or numbers.
Region: TypeAlias = "Callable[[Sequence[Value]], Sequence[Any]]"


NOT_BY_ITSELF = "a region is run by the operation that it belongs to: see Program.graph_module"


def enter(carried: tuple[Any, ...] = (), sliced: tuple[Any, ...] = (), dim: int = 0) -> tuple[Any, ...]:
    """The begin of a region, whose value is what the region is given: tensors like those `carried`, and slices of those
    `sliced` along an axis. A number is given as a tensor without axes."""
    raise NotImplementedError(NOT_BY_ITSELF)


def leave(entered: Any, results: tuple[Any, ...]) -> tuple[Any, ...]:
    """The end of the region that `entered` begins, whose value is what the region gives."""
    raise NotImplementedError(NOT_BY_ITSELF)


@dataclass(frozen=True, slots=True)
class Enter(Record[T]):
    carried: tuple[T, ...] = ()
    sliced: tuple[T, ...] = ()
    dim: int = 0


@dataclass(frozen=True, slots=True)
class Leave(Record[T]):
    entered: T
    results: tuple[T, ...]


region_enter = Op("region", Enter, functions=(enter,))
region_leave = Op("region_result", Leave, functions=(leave,), view=True)


@region_enter.shape
def enter_shape(call: Enter[Any]) -> tuple[TensorSpec, ...]:
    check(all(isinstance(spec, TensorSpec) for spec in call.sliced), "only tensors have slices")
    return (*map(as_tensor, call.carried), *(spec.without_axis(call.dim) for spec in call.sliced))


@region_leave.shape
def leave_shape(call: Leave[Any]) -> tuple[Any, ...]:
    return call.results


def as_tensor(value: Any) -> TensorSpec:
    """The spec of a tensor, or of a number as a tensor without axes."""
    if isinstance(value, TensorSpec):
        return value
    if isinstance(value, bool):
        return TensorSpec((), torch.bool)
    if isinstance(value, (int, Dim)):
        return TensorSpec((), torch.int64)
    raise ShapeError(f"a tensor or a whole number is expected here, found {describe(value)}")


__all__ = ["NOT_BY_ITSELF", "Region", "as_tensor", "enter", "leave"]
