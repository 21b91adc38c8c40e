"""What a forward reads of a lazy layer is what a dry run would have left there, or is refused before the first call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tests.leaf_condition.models import FLAT, IMAGE, SEED, Forward, after, data
from tracer import TracerError

READS_BEFORE: list[Callable[[Any, torch.Tensor], Any]] = [
    lambda self, x: self.layer(x.to(self.layer.weight.dtype)),
    lambda self, x: self.layer(x.to(self.layer.weight.device)),
    lambda self, x: self.layer(x.to(device=self.layer.weight.device, dtype=self.layer.weight.dtype)),
    lambda self, x: self.layer(x if self.layer.weight.dtype == torch.float32 else x * 2),
    lambda self, x: self.layer(x * self.layer.weight.ndim),
    lambda self, x: self.layer(x * self.layer.weight.dim()),
    lambda self, x: self.layer(x * 2 if self.layer.weight.requires_grad else x),
    lambda self, x: self.layer(x * 2 if self.layer.weight.is_cuda else x),
    lambda self, x: self.layer(x * 2 if self.layer.weight.is_floating_point() else x),
    lambda self, x: self.layer(x * 2 if isinstance(self.layer.weight, nn.Parameter) else x),
    lambda self, x: self.layer(x * 2 if isinstance(self.layer.weight, torch.Tensor) else x),
    lambda self, x: self.layer(x * 2 if self.layer.weight is not None else x),
    lambda self, x: self.layer(x * 2 if self.layer.weight.is_meta else x),
    lambda self, x: self.layer(x + torch.zeros(1, dtype=self.layer.weight.dtype, device=self.layer.weight.device)),
    lambda self, x: self.layer(x.to(next(self.layer.parameters()).dtype)),
    lambda self, x: (lambda weight: (self.layer(x), weight.sum()))(self.layer.weight),
    lambda self, x: (lambda weight: (self.layer(x), weight.shape[0]))(self.layer.weight)[0],
]
READS_AFTER: list[Callable[[Any, torch.Tensor], Any]] = [
    lambda self, x: self.layer(x) * getattr(self.layer, "in_features", 1),
    lambda self, x: self.layer(x) * getattr(self.layer, "in_channels", 1),
    lambda self, x: self.layer(x) * len(type(self.layer).__name__),
    lambda self, x: self.layer(x) * (2 if type(self.layer) in (nn.Linear, nn.Conv2d) else 1),
    lambda self, x: self.layer(x) * (2 if isinstance(self.layer, nn.modules.lazy.LazyModuleMixin) else 1),
    lambda self, x: self.layer(x) * self.layer.weight.shape[1],
    lambda self, x: self.layer(x) * self.layer.weight.numel(),
    lambda self, x: self.layer(x) * self.layer.weight.ndim,
    lambda self, x: self.layer(x) + self.layer.weight.sum(),
    lambda self, x: self.layer(x) * len(self.layer._forward_pre_hooks),
    lambda self, x: self.layer(x) * (2 if hasattr(self.layer, "_initialize_hook") else 1),
    lambda self, x: self.layer(x) * (2 if self.layer.weight.requires_grad else 1),
    lambda self, x: self.layer(x) * (2 if "in_" in repr(self.layer) else 1),
    lambda self, x: self.layer(x) * len(list(self.layer.parameters())),
]


def lazies(kind: str, place: str) -> dict[str, nn.Module]:
    layer = nn.LazyLinear(4) if kind == "linear" else nn.LazyConv2d(4, 1)
    if place == "hooked":
        after(layer)
    return {"layer": layer}


@pytest.mark.parametrize("place", ["plain", "hooked"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("read", [*READS_BEFORE, *READS_AFTER], ids=range(len(READS_BEFORE) + len(READS_AFTER)))
def test_reads_of_a_lazy_layer_are_those_of_the_resolved_one(read: Any, kind: str, place: str, tmp_path: Path) -> None:
    x = data(*(FLAT if kind == "linear" else IMAGE))
    torch.manual_seed(SEED)
    resolved = Forward(read, **lazies(kind, place)).eval()
    with torch.no_grad():
        resolved.layer(x)  # type: ignore[operator]
        expected = resolved(x)
    conversion = tracer.convert(Forward(read, **lazies(kind, place)), (x,), verify=False, seed=SEED)
    session = onnxruntime.InferenceSession(
        str(conversion.save(tmp_path / "model.onnx")), providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for ours, theirs in zip(found, [expected] if isinstance(expected, torch.Tensor) else expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "read",
    [
        lambda self, x: self.layer(x * self.layer.weight.shape[1]),
        lambda self, x: self.layer(x) + F.linear(x, self.layer.weight) if len(self.layer.weight) else x,
        lambda self, x: self.layer(x + self.layer.weight.sum()),
        lambda self, x: self.layer(x * self.layer.weight.numel()),
    ],
    ids=["shape", "len", "value", "numel"],
)
def test_what_is_not_known_of_a_lazy_layer_before_its_call_is_refused(read: Any) -> None:
    with pytest.raises(TracerError, match=r"layer\.weight is read before its layer is called"):
        tracer.convert(Forward(read, layer=nn.LazyLinear(4)), (data(*FLAT),), verify=False)
