"""GoogLeNet: four branches side by side, concatenated along the channels.

Counting the channels that arrive at each branch is what the lazy layers save.

    python -m tracer convert examples/inception.py:GoogLeNet -i Nx3x96x96 -o googlenet.onnx
"""

import torch
from torch import nn


def convolution(channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (but for its stride), and its activation."""
    return nn.Sequential(nn.LazyConv2d(channels, kernel_size, stride, padding=kernel_size // 2), nn.ReLU())


def pooling() -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size=3, stride=2, padding=1)


class Inception(nn.Module):
    """Four views of one input: a pointwise one, two of growing reach, and a pooled one.

    A pair is (channels of the pointwise reduction, channels of the convolution behind it).
    """

    def __init__(self, pointwise: int, medium: tuple[int, int], wide: tuple[int, int], pooled: int):
        super().__init__()
        self.pointwise = convolution(pointwise, 1)
        self.medium = nn.Sequential(convolution(medium[0], 1), convolution(medium[1], 3))
        self.wide = nn.Sequential(convolution(wide[0], 1), convolution(wide[1], 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(kernel_size=3, stride=1, padding=1), convolution(pooled, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.pointwise(x), self.medium(x), self.wide(x), self.pooled(x)], dim=1)


class GoogLeNet(nn.Module):
    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem = nn.Sequential(
            convolution(64, 7, stride=2), pooling(), convolution(64, 1), convolution(192, 3), pooling()
        )
        self.inceptions = nn.Sequential(
            Inception(64, (96, 128), (16, 32), 32),
            Inception(128, (128, 192), (32, 96), 64),
            pooling(),
            Inception(192, (96, 208), (16, 48), 64),
            Inception(160, (112, 224), (24, 64), 64),
            Inception(128, (128, 256), (24, 64), 64),
            Inception(112, (144, 288), (32, 64), 64),
            Inception(256, (160, 320), (32, 128), 128),
            pooling(),
            Inception(256, (160, 320), (32, 128), 128),
            Inception(384, (192, 384), (48, 128), 128),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(classes))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.inceptions(self.stem(image)))
