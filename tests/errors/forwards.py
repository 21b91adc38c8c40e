"""Forwards that fail, or that cannot be followed, and samples that do not fit them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from passes.errors import CaptureError, ExportError, InputError, UnsupportedOpError
from tests.errors.case import Net, broken

# mypy: disable-error-code="no-any-return, override"

ROWS = ("input x float32[N, 8]",)
ON_DATA = "make that line run"


@broken("Nx8", CaptureError, "", "raises KeyError: 'missing'", chain=(*ROWS, "fc -> float32[N, 4]"), remedy=ON_DATA)
class PythonError(Net):
    def build(self) -> None:
        self.fc = nn.LazyLinear(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes: dict[str, float] = {}
        return self.fc(x) * sizes["missing"]  # here


@broken("Nx8", CaptureError, "part", "raises ValueError: width 8 is not 9", "on data", chain=ROWS, remedy=ON_DATA)
class ErrorOfTheModelsOwn(Net):
    class Part(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[1] != 9:
                raise ValueError(f"width {x.shape[1]} is not 9")  # here
            return x

    def build(self) -> None:
        self.part = self.Part()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x)


@broken("Nx8", CaptureError, "", "no attribute 'fc2'", chain=ROWS, remedy=ON_DATA)
class MissingLayer(Net):
    def build(self) -> None:
        self.fc = nn.LazyLinear(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(x)  # here


@broken("Nx8", CaptureError, "", "'Tensor' object has no attribute 'length'", chain=ROWS, remedy=ON_DATA)
class MissingTensorAttribute(Net):
    def forward(self, x: Any) -> torch.Tensor:
        return x * x.length  # here


@broken(
    "Nx9", CaptureError, "", "too many values to unpack (expected 2)",
    chain=("input x float32[N, 9]", "getitem -> float32[N, 3]"), remedy=ON_DATA,
)  # fmt: skip
class UnpackingOfThreeChunks(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(3, 1)  # here
        return a + b


@broken("Nx8", CaptureError, "", "expected 3, got 2", chain=ROWS, remedy=ON_DATA)
class UnpackingOfTwoSizes(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, width = x.shape  # here
        return x.reshape(n, width)


@broken("Nx8", CaptureError, "layers", "Module [ModuleList] is missing the required", chain=ROWS, remedy=ON_DATA)
class CallOfAModuleList(Net):
    def build(self) -> None:
        self.layers = nn.ModuleList([nn.Linear(8, 3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # here


@broken("Nx3x8x8", CaptureError, "conv", "forward(input) does not", "2 by position", remedy=ON_DATA)
class LayerWithTwoArguments(Net):
    def build(self) -> None:
        self.conv = nn.LazyConv2d(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x, x)  # here


@broken("Nx8", CaptureError, "", "unexpected keyword argument 'steps'", chain=ROWS, remedy=ON_DATA)
class UnknownKeyword(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.max_pool1d(x, 2, steps=2)  # type: ignore[call-arg]  # here


# What cannot be followed without data ---------------------------------------------------------------


@broken(
    "Nx8", UnsupportedOpError, "", "needs the data of gt bool[] for control flow",
    remedy="use torch.cond in place of if", exports_only=True,
)  # fmt: skip
class ControlFlowOnData(Net):
    def build(self) -> None:
        self.fc = nn.LazyLinear(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # here
            x = x + 1
        return self.fc(x)


@broken(
    "Nx8", UnsupportedOpError, "", "needs the data of x float32[N, 8] for numpy()",
    remedy="torch's operations", exports_only=True,
)  # fmt: skip
class ThirdPartyCall(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.tanh(x.numpy()))  # here


@broken(
    "Nx8", UnsupportedOpError, "", "calls a LazyLinear that is not a submodule of the model, but held in layers[0]",
    remedy="assign it to an attribute of the model", exports_only=True,
)  # fmt: skip
class LazyModuleInAList(Net):
    def build(self) -> None:
        self.layers = [nn.LazyLinear(3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x)  # here


# Outputs and inputs ---------------------------------------------------------------------------------


@broken("Nx8", ExportError, "", "returns no tensor", remedy="at least one tensor", exports_only=True)
class ReturnsNothing(Net):
    def forward(self, x: torch.Tensor) -> None:  # here
        x.relu()


@broken("Nx8", ExportError, "", "returns yes, which is no tensor", remedy="tensors only", exports_only=True)
class ReturnsText(Net):
    def forward(self, x: torch.Tensor) -> str:  # here
        return "yes"


@broken(
    "Nx8",
    InputError,
    "",
    "forward(image, mask)",
    "1 positional",
    "missing a required argument: 'mask'",
    remedy="image, mask",
)
class MissingInput(Net):
    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return image * mask


@broken("Nx8 Nx8 N", InputError, "", "3 positional", "too many positional arguments", remedy="image, mask")
class ExtraInput(Net):
    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return image * mask


@broken("image=Nx8 masks=Nx8", InputError, "", "missing a required argument: 'mask'", remedy="image, mask")
class MisspeltInput(Net):
    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return image * mask
