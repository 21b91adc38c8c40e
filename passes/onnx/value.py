"""A value of an ONNX graph, as lowerings see it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from passes.sizes.dimension import Size
from passes.values.spec import TensorSpec


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the ONNX graph. `spec` is known for an op's operands, not for values inside a lowering."""

    name: str
    spec: TensorSpec | None = None

    @property
    def known(self) -> TensorSpec:
        """The spec of a value that has one."""
        assert self.spec is not None, f"the spec of the intermediate value {self.name} is not known"
        return self.spec

    @property
    def shape(self) -> tuple[Size, ...]:
        return self.known.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.known.dtype

    @property
    def ndim(self) -> int:
        return len(self.known.shape)


__all__ = ["Value"]
