"""A capture as what belongs to it sees it: the values that it makes, and the accounts of them that it keeps.

Those ask it questions and have it record operations, and it has them: what each may ask of the other is said here, so
that none of their modules needs another's.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, Protocol

import torch
from torch import fx, nn

from passes.modules.lazy import LazyLayer
from passes.program.stages import Captured
from passes.sizes.guards import Location
from passes.stages.shape_propagation import Propagator


class WriteAccount(Protocol):
    """Who sees a write to a traced tensor (`tracer/capture/values/aliasing.py`)."""

    def write(self, tensor: Any, written: fx.Node, resizes: bool = False) -> None: ...

    def replace(self, tensor: Any, view: fx.Node) -> None: ...

    def are_same(self, node: fx.Node, view: fx.Node) -> None: ...

    def memory(self, tensor: Any) -> frozenset[fx.Node]: ...


class RealAccount(Protocol):
    """What real tensors are in the graph (`real_tensors.py`)."""

    def await_data(self, module: nn.Module) -> None: ...

    def replace(self, path: str, tensor: torch.Tensor) -> None: ...

    @property
    def writes_any(self) -> bool: ...

    def is_written(self, tensor: torch.Tensor) -> bool: ...

    def check_in_place(self, tensor: torch.Tensor) -> None: ...

    def traced(self, tensor: torch.Tensor) -> fx.Proxy: ...

    def before_write(self, roots: Iterable[fx.Node]) -> None: ...

    def followed(self, value: Any) -> Any: ...

    def follows_any(self, value: Any) -> bool: ...

    def forget(self, nodes: Iterable[fx.Node]) -> None: ...


class RegionAccount(Protocol):
    """What is computed in a branch or a loop (`tracer/capture/values/regions.py`)."""

    def inside(self, begin: fx.Node) -> AbstractContextManager[None]: ...

    def end(self, results: Any) -> fx.Node: ...

    def sees(self, node: fx.Node) -> bool: ...

    def is_outside(self, node: fx.Node) -> bool: ...

    def is_within(self, node: fx.Node, begin: fx.Node) -> bool: ...


class ValueAccount(Protocol):
    """What nodes are, as far as that follows from the model's own tensors (`known_values.py`)."""

    def tensor(self, node: fx.Node) -> torch.Tensor | None: ...


class LayoutAccount(Protocol):
    """How traced tensors lie in memory (`memory_layout.py`)."""

    def stride(self, tensor: Any, dim: int | None = None) -> Any: ...

    def is_contiguous(self, tensor: Any, memory_format: torch.memory_format = ...) -> bool: ...

    def storage_offset(self, tensor: Any) -> int: ...


class Recorder(fx.Tracer, ABC):
    """What a capture (`tracing.py`) does for its values and accounts.

    `made` are its values, `unpacked` those whose members are taken one by one; `written` are the ids of the tensors of
    its copy of the model that lazy modules initialise anew, and `hooks_of_all` the hooks that every module has.
    """

    graph: fx.Graph
    made: list[weakref.ref[Any]]
    unpacked: list[tuple[Any, Any]]
    written: set[int]
    hooks_of_all: list[Any]
    regions: RegionAccount
    aliases: WriteAccount
    real: RealAccount
    known: ValueAccount
    layouts: LayoutAccount

    # Questions ----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def program(self) -> Captured:
        """The program as far as it is captured."""

    @property
    @abstractmethod
    def propagator(self) -> Propagator:
        """What computes the program's specs."""

    @property
    @abstractmethod
    def recording(self) -> bool:
        """Whether what happens now belongs to the forward."""

    @abstractmethod
    def computing(self) -> AbstractContextManager[None, None]:
        """Inside the block nothing is recorded."""

    @abstractmethod
    def following_real(self) -> AbstractContextManager[Any]:
        """Inside the block, torch's operations on real tensors are followed where the graph must know of them."""

    @abstractmethod
    def value(self, node: fx.Node) -> Any:
        """What propagation knows of a node."""

    @abstractmethod
    def specs(self, value: Any) -> Any:
        """The arguments of a call as specs and plain values."""

    @abstractmethod
    def awaited(self, node: fx.Node) -> torch.Tensor | None:
        """The tensor of a lazy layer that a node names, where it has no shape yet."""

    @abstractmethod
    def awaited_rank(self, node: fx.Node) -> int | None:
        """How many axes such a tensor will have, where that is known."""

    @abstractmethod
    def computes_on(self, device: str) -> bool:
        """Whether the model has anything on a kind of device."""

    @abstractmethod
    def miss(self, frame: FrameType) -> None:
        """Notes that this code has asked a number over named sizes for an int, a float, a length or a hash."""

    @abstractmethod
    def here(self) -> Location:
        """The place in the model and in the caller's code where we are."""

    @abstractmethod
    def path_of_tensor(self, tensor: torch.Tensor) -> str | None:
        """Where the model has the tensor."""

    # What is recorded ---------------------------------------------------------------------------

    @abstractmethod
    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        """A new node of the graph."""

    @abstractmethod
    def constant(self, tensor: torch.Tensor) -> fx.Node:
        """A node that gives a real tensor, which is none of the model's own."""

    @abstractmethod
    def attribute(self, path: str, tensor: torch.Tensor) -> fx.Proxy:
        """What stands for a tensor of the model."""

    @abstractmethod
    def rebind(self, tensor: Any, node: fx.Node) -> None:
        """From here on the traced `tensor` stands for `node`."""

    @abstractmethod
    def record_guard(self, condition: str) -> None:
        """Notes that the forward has decided something by a condition."""

    @abstractmethod
    def locate(self, place: Location | None = None) -> None:
        """Notes a place in the caller's code, for guards: that where we are, unless another is given."""

    @abstractmethod
    def meet(self, layer: LazyLayer) -> None:
        """Notes a lazy layer whose sizes are known now."""

    @abstractmethod
    def note(self, path: str, module: nn.Module) -> None:
        """Notes what a module of the model is, and which tensors are its own."""


__all__ = ["LayoutAccount", "RealAccount", "Recorder", "RegionAccount", "ValueAccount", "WriteAccount"]
