"""ResNet-50 (the variant that strides in the 3x3 convolution), every convolution and batch norm lazy.

Only output channels are written down; 25.6 million parameters with 1000 classes.

    python -m tracer convert examples/resnet50.py:ResNet50 -i Nx3x224x224 -o resnet50.onnx
    python -m tracer inspect examples/resnet50.py:ResNet50 -i Nx3xHxW
"""

import torch
from torch import nn

EXPANSION = 4
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))


def convolution(channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (but for its stride), normalised."""
    return nn.Sequential(
        nn.LazyConv2d(channels, kernel_size, stride, padding=kernel_size // 2, bias=False), nn.LazyBatchNorm2d()
    )


class Bottleneck(nn.Module):
    """Narrow, convolve, widen, and add to what came in; `projects` where what came in has another shape."""

    def __init__(self, channels: int, stride: int, projects: bool):
        super().__init__()
        self.narrow = convolution(channels, 1)
        self.spatial = convolution(channels, 3, stride)
        self.widen = convolution(channels * EXPANSION, 1)
        self.shortcut = convolution(channels * EXPANSION, 1, stride) if projects else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.narrow(x))
        y = self.relu(self.spatial(y))
        return self.relu(self.widen(y) + self.shortcut(x))


def stage(depth: int, channels: int, stride: int) -> nn.Sequential:
    """Bottlenecks at one resolution; the first one changes the shape."""
    return nn.Sequential(
        Bottleneck(channels, stride, projects=True),
        *[Bottleneck(channels, 1, projects=False) for _ in range(depth - 1)],
    )


class ResNet50(nn.Module):
    def __init__(self, classes: int = 1000):
        super().__init__()
        self.stem = nn.Sequential(
            convolution(64, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        )
        self.stages = nn.Sequential(*[stage(*sizes) for sizes in STAGES])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.LazyLinear(classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.pool(self.stages(self.stem(image)))
        return self.classifier(torch.flatten(features, 1))
