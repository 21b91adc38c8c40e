"""Layers whose sizes do not fit what they are fed."""

from __future__ import annotations

import torch
from torch import nn

from passes.errors import LazyResolutionError, ShapeError
from tests.errors.case import Net, broken

# mypy: disable-error-code="no-any-return, override"


@broken(
    "Nx3x32x32", ShapeError, "fc", "in_features is 400", "last axis is 12544",
    chain=("input x float32[N, 3, 32, 32]", "conv -> float32[N, 16, 28, 28]", "flatten -> float32[N, 12544]"),
    remedy="make in_features 12544",
)  # fmt: skip
class WidthAfterFlatten(Net):
    def build(self) -> None:
        self.conv, self.fc = nn.Conv2d(3, 16, 5), nn.Linear(400, 120)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).flatten(1))  # here


@broken(
    "Nx3x9x9", ShapeError, "fc", "in_features is 400", "last axis is 5",
    chain=("conv -> float32[N, 16, 5, 5]",), remedy="flatten the input before it: x.flatten(1)",
)  # fmt: skip
class ForgottenFlatten(Net):
    def build(self) -> None:
        self.conv, self.fc = nn.Conv2d(3, 16, 5), nn.Linear(400, 120)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x))  # here


@broken(
    "Nx64x50", ShapeError, "fc", "in_features is 64", "last axis is 50",
    chain=("input x float32[N, 64, 50]",), remedy="x.transpose(1, -1)",
)  # fmt: skip
class LinearOnWrongAxis(Net):
    def build(self) -> None:
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)  # here


@broken(
    "Nx3x32x32", ShapeError, "net.3", "in_features is 400", "last axis is 1176",
    chain=("net.0 -> float32[N, 6, 28, 28]", "net.1 -> float32[N, 6, 14, 14]", "net.2 -> float32[N, 1176]"),
    remedy="nn.LazyLinear",
)  # fmt: skip
class InsideSequential(Net):
    def build(self) -> None:
        self.net = nn.Sequential(nn.LazyConv2d(6, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)  # here


@broken(
    "Nx3", ShapeError, "fc", "at least 1 axis", "0-d", chain=("mean -> float32[]",), remedy="keep the axis of features",
)  # fmt: skip
class LinearOnScalar(Net):
    def build(self) -> None:
        self.fc = nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean())  # here


@broken(
    "Nx64x16", ShapeError, "conv", "in_channels is 8", "the input has 16 channels",
    chain=("input x float32[N, 64, 16]", "reshape -> float32[N, 16, 8, 8]"), remedy="make in_channels 16",
)  # fmt: skip
class ChannelsAfterReshape(Net):
    def build(self) -> None:
        self.conv = nn.Conv2d(8, 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.reshape(x.shape[0], 16, 8, 8))  # here


@broken(
    "Nx32x32x3", ShapeError, "conv", "in_channels is 3", "the input has 32 channels",
    chain=("input x float32[N, 32, 32, 3]",), remedy="x.permute(0, 3, 1, 2)",
)  # fmt: skip
class ChannelsLast(Net):
    def build(self) -> None:
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)  # here


@broken(
    "Nx8x4x4", ShapeError, "up", "in_channels is 3", "the input has 8 channels",
    chain=("input x float32[N, 8, 4, 4]",), remedy="make in_channels 8",
)  # fmt: skip
class TransposedChannels(Net):
    def build(self) -> None:
        self.up = nn.ConvTranspose2d(3, 8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(x)  # here


@broken(
    "Nx3x6x6", ShapeError, "conv", "reaches over 7 elements", "spatial axis 0 has 6",
    chain=("input x float32[N, 3, 6, 6]",), remedy="at most 6 elements",
)  # fmt: skip
class KernelLargerThanInput(Net):
    def build(self) -> None:
        self.conv = nn.LazyConv2d(8, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)  # here


@broken(
    "Nx1x4x4", ShapeError, "pool", "the window of 3 elements", "spatial axis 0, which has 2",
    chain=("conv -> float32[N, 2, 2, 2]",), remedy="make kernel_size smaller",
)  # fmt: skip
class PoolLargerThanInput(Net):
    def build(self) -> None:
        self.conv, self.pool = nn.LazyConv2d(2, 3), nn.MaxPool2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.conv(x))  # here


@broken(
    "Nx6x8x8", ShapeError, "conv", "6 channels do not divide into 4 groups",
    chain=("input x float32[N, 6, 8, 8]",), remedy="groups that divide 6",
)  # fmt: skip
class LazyGroups(Net):
    def build(self) -> None:
        self.conv = nn.LazyConv2d(8, 3, groups=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)  # here


@broken(
    "3x32", ShapeError, "conv", "input of 4 axes, or of 3 without a batch", "found float32[3, 32]",
    chain=("input x float32[3, 32]",), remedy="[batch, channels, and 2 spatial axes]",
)  # fmt: skip
class SampleOfWrongRank(Net):
    def build(self) -> None:
        self.conv = nn.LazyConv2d(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)  # here


@broken(
    "Nx3x8x8", ShapeError, "conv", "stride is (0, 0)", "at least 1",
    chain=("input x float32[N, 3, 8, 8]",), remedy="a stride of 1",
)  # fmt: skip
class StrideOfZero(Net):
    def build(self) -> None:
        self.conv = nn.LazyConv2d(8, 3, stride=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)  # here


@broken(
    "Nx3x8x8:int64", ShapeError, "conv", "the input is torch.int64", "the weight is torch.float32",
    chain=("input x int64[N, 3, 8, 8]",), remedy="x.to(torch.float32)",
)  # fmt: skip
class ConvOnIntegers(Net):
    def build(self) -> None:
        self.conv = nn.LazyConv2d(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)  # here


@broken(
    "Nx8:float16", ShapeError, "fc", "the input is torch.float16", "the weight is torch.float32",
    chain=("input x float16[N, 8]",), remedy="x.to(torch.float32)",
)  # fmt: skip
class LinearOnHalf(Net):
    def build(self) -> None:
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)  # here


@broken(
    "Nx12", ShapeError, "emb", "indexed by int64 or int32", "found torch.float32",
    chain=("input tokens float32[N, 12]",), remedy="int64",
)  # fmt: skip
class EmbeddingOfFloats(Net):
    def build(self) -> None:
        self.emb = nn.Embedding(100, 16)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.emb(tokens)  # here


@broken(
    "Nx32x8x8", ShapeError, "norm", "num_features is 64", "the input has 32 channels",
    chain=("input x float32[N, 32, 8, 8]",), remedy="make num_features 32",
)  # fmt: skip
class BatchNormFeatures(Net):
    def build(self) -> None:
        self.norm = nn.BatchNorm2d(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)  # here


@broken(
    "Nx3x8x8", ShapeError, "norm", "input of 4 axes, found 3", "float32[3, 8, 8]",
    chain=("input x float32[N, 3, 8, 8]", "getitem -> float32[3, 8, 8]"), remedy="[batch, channels, ...]",
)  # fmt: skip
class LostBatchAxis(Net):
    def build(self) -> None:
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x[0])  # here


@broken(
    "Nx10x32", ShapeError, "norm", "normalized_shape is [64]", "last axes are [32]",
    chain=("input x float32[N, 10, 32]",), remedy="make normalized_shape [32]",
)  # fmt: skip
class LayerNormShape(Net):
    def build(self) -> None:
        self.norm = nn.LayerNorm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)  # here


@broken(
    "Nx30x8x8", ShapeError, "norm", "30 channels do not divide into 4 groups",
    chain=("input x float32[N, 30, 8, 8]",), remedy="num_groups that divides 30",
)  # fmt: skip
class GroupNormChannels(Net):
    def build(self) -> None:
        self.norm = nn.GroupNorm(4, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)  # here


@broken(
    "Nx10x32", ShapeError, "attention", "embed_dim is 64", "query's last axis is 32",
    chain=("input x float32[N, 10, 32]",), remedy="make embed_dim 32",
)  # fmt: skip
class AttentionWidth(Net):
    def build(self) -> None:
        self.attention = nn.MultiheadAttention(64, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]  # here


@broken(
    "Nx10x32", ShapeError, "encoder.layers.0.self_attn", "embed_dim is 64", "last axis is 32",
    chain=("input x float32[N, 10, 32]",), remedy="project the query to 64 features",
)  # fmt: skip
class TransformerWidth(Net):
    def build(self) -> None:
        layer = nn.TransformerEncoderLayer(64, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)  # here


@broken(
    "Nx10x32", ShapeError, "lstm", "input_size is 64", "the input has 32 features",
    chain=("input x float32[N, 10, 32]",), remedy="make input_size 32",
)  # fmt: skip
class RecurrentInputSize(Net):
    def build(self) -> None:
        self.lstm = nn.LSTM(64, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]  # here


@broken(
    "Nx10x8", ShapeError, "fc", "takes a tensor, but is given a tuple", "float32[N, 10, 8]",
    chain=("lstm -> (float32[N, 10, 8]",), remedy="output, state = self.lstm(x)",
)  # fmt: skip
class TupleIntoLayer(Net):
    def build(self) -> None:
        self.lstm, self.fc = nn.LSTM(8, 8), nn.LazyLinear(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.lstm(x))  # here


@broken(
    "Nx3x4", ShapeError, "act", "num_parameters is 4", "the input has 3 channels",
    chain=("input x float32[N, 3, 4]",), remedy="make num_parameters 3",
)  # fmt: skip
class ActivationParameters(Net):
    def build(self) -> None:
        self.act = nn.PReLU(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x)  # here


@broken(
    "Nx8", ShapeError, "bilinear", "in2_features is 8", "input2 has 4",
    chain=("getitem -> float32[N, 4]",), remedy="make in2_features 4",
)  # fmt: skip
class BilinearFeatures(Net):
    def build(self) -> None:
        self.bilinear = nn.Bilinear(8, 8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bilinear(x, x[:, :4])  # here


# Lazy layers ----------------------------------------------------------------------------------------


@broken(
    "Nx8", LazyResolutionError, "fc", "fc.in_features = 8 from its call at layers.py:", "fc.in_features = 4 from this",
    chain=("input x float32[N, 8]", "fc -> float32[N, 4]"), remedy="use two layers",
)  # fmt: skip
class OneLayerAtTwoWidths(Net):
    def build(self) -> None:
        self.fc = nn.LazyLinear(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.fc(x))  # here


@broken(
    "Nx8", LazyResolutionError, "second", "second.weight would be [4, 4]", "has made [4, 8]",
    chain=("input x float32[N, 8]", "first -> float32[N, 4]"), remedy="do not share the parameter",
)  # fmt: skip
class TiedAtTwoWidths(Net):
    def build(self) -> None:
        self.first, self.second = nn.LazyLinear(4), nn.LazyLinear(4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))  # here


@broken(
    "Nx3xHx32", LazyResolutionError, "fc", "fc.in_features = 96*H", "depends on H",
    chain=("input x float32[N, 3, H, 32]", "flatten -> float32[N, 96*H]"), remedy="give a fixed size for H",
)  # fmt: skip
class WidthOverDynamicSize(Net):
    def build(self) -> None:
        self.fc = nn.LazyLinear(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))  # here


@broken(
    "Nx8", LazyResolutionError, "fc", "fc.weight would have the shape [2.5, 8]",
    chain=("input x float32[N, 8]",), remedy="whole numbers",
)  # fmt: skip
class HalfAFeature(Net):
    def build(self) -> None:
        self.fc = nn.LazyLinear(2.5)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)  # here


@broken(
    "Nx8", LazyResolutionError, "", "fc.weight is read before its layer is called",
    remedy="call the lazy layer first",
)  # fmt: skip
class WeightBeforeItsLayer(Net):
    def build(self) -> None:
        self.fc = nn.LazyLinear(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x @ self.fc.weight)  # here


# Several at once ------------------------------------------------------------------------------------


@broken(
    "Nx3x16x16", ShapeError, "head", "in_features is 10", "last axis is 2048",
    chain=("stem -> float32[N, 8, 16, 16]", "flatten -> float32[N, 2048]"), remedy="make in_features 2048",
    also=(("side", "in_channels is 3, but the input has 8 channels"), ("norm", "num_features is 9")),
)  # fmt: skip
class ThreeIndependentFaults(Net):
    def build(self) -> None:
        self.stem = nn.LazyConv2d(8, 3, padding=1)
        self.head, self.side, self.norm = nn.Linear(10, 4), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(9)
        self.after = nn.Linear(5, 3)  # fits neither, but nobody knows

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.stem(x)
        head = self.after(self.head(x.flatten(1)))  # here
        side = self.side(x)  # and here
        norm = self.norm(x)  # and here
        return torch.relu(head), side + norm, x


@broken(
    "Nx8", ShapeError, "first", "in_features is 9", "last axis is 8",
    chain=("input x float32[N, 8]",), remedy="make in_features 8",
    also=(("second", "in_features is 7, but the input's last axis is 8"),),
)  # fmt: skip
class QuestionAboutAFailedLayer(Net):
    def build(self) -> None:
        self.first, self.second, self.third = nn.Linear(9, 4), nn.Linear(7, 4), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)  # here
        second = self.second(x)  # and here
        if first.shape[0] > 1:  # nobody knows, so here the forward ends
            first = first + 1
        return first + second + self.third(x)
