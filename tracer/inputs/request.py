"""The sample as the caller gives it, which can be bound to a model more than once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from passes.sizes.guards import GuardLog
from tracer.inputs.sample import Sample, bind_sample


@dataclass(frozen=True, slots=True)
class Request:
    """What the caller gives beside the model, in the words of `tracer.convert`.

    `strict` refuses a sample that misses a lazy layer, `file_names` are those of the exported file's inputs, and
    `state` says what becomes of the tensors of the model that its forward writes.
    """

    args: Any
    kwargs: Mapping[str, Any] | None = None
    dynamic_shapes: Any = None
    dims: Mapping[str, int] | None = None
    strict: bool = False
    file_names: Sequence[str] | None = None
    state: str | None = None

    def bound(self, model: nn.Module, log: GuardLog) -> Sample:
        """The sample bound to the model's forward. Raises InputError (`bind_sample`)."""
        return bind_sample(model, self.args, self.kwargs, self.dynamic_shapes, self.dims, log, self.file_names)

    def sampled_at(self, sizes: Mapping[str, int]) -> Request:
        """The same with other sizes of some names."""
        return replace(self, dims={**(self.dims or {}), **sizes})


__all__ = ["Request"]
