"""A batch norm in the weight and bias of the layer before it.

Per output channel y = (w*x + b - mean) * gamma / sqrt(var + eps) + beta, which is the layer again, with the weight
w * scale and the bias (b - mean) * scale + beta, where scale = gamma / sqrt(var + eps).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Fold:
    """A layer and the batch norm that is folded into it, by module path; everything else follows from their tensors.

    `groups` is given of a transposed convolution, whose weight is [in, out/groups, ...] with the groups laid along
    the first axis. The tensors are those of a state_dict; the scale is computed in float64.
    """

    layer: str
    norm: str
    eps: float
    groups: int | None = None

    def sources(self) -> list[str]:
        """The state_dict keys of all tensors that the fold is made of; some models have no bias, or no affine norm."""
        of_norm = ("weight", "bias", "running_mean", "running_var")
        return [f"{self.layer}.weight", f"{self.layer}.bias", *(f"{self.norm}.{name}" for name in of_norm)]

    def needed(self) -> list[str]:
        """The keys among the sources that every such fold has."""
        return [f"{self.layer}.weight", f"{self.norm}.running_mean", f"{self.norm}.running_var"]

    def check(self) -> None:
        """Raises ValueError unless the fields are what they are declared to be, for one read from a file."""
        numbers = type(self.eps) in (int, float) and (self.groups is None or type(self.groups) is int)
        if not (isinstance(self.layer, str) and isinstance(self.norm, str) and numbers):
            raise ValueError("it is no fold")

    def weight(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        weight = tensors[f"{self.layer}.weight"].detach()
        scale = self._scale(tensors).to(weight.dtype)
        trailing = [1] * (weight.ndim - 2)
        if self.groups is None:
            return weight * scale.view(-1, 1, *trailing)
        grouped = weight.view(self.groups, -1, *weight.shape[1:])
        return (grouped * scale.view(self.groups, 1, -1, *trailing)).flatten(0, 1)

    def bias(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        scale = self._scale(tensors)
        shift = -tensors[f"{self.norm}.running_mean"].double() * scale
        if f"{self.layer}.bias" in tensors:
            shift = shift + tensors[f"{self.layer}.bias"].detach().double() * scale
        if f"{self.norm}.bias" in tensors:
            shift = shift + tensors[f"{self.norm}.bias"].detach().double()
        return shift.to(tensors[f"{self.layer}.weight"].dtype)

    def _scale(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        scale = torch.rsqrt(tensors[f"{self.norm}.running_var"].double() + self.eps)
        if f"{self.norm}.weight" in tensors:
            scale = scale * tensors[f"{self.norm}.weight"].detach().double()
        return scale
