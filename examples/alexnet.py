"""AlexNet in one tower: large kernels first, three fully connected layers last.

python -m tracer convert examples/alexnet.py:AlexNet -i Nx3x224x224 -o alexnet.onnx
python -m tracer convert examples/alexnet.py:AlexNet -i Nx1x96x96 --kwarg width=256 -o small_alexnet.onnx
"""

import torch
from torch import nn


class AlexNet(nn.Module):
    """`width` is the size of the two hidden fully connected layers, which hold nearly all weights."""

    def __init__(self, classes: int = 1000, width: int = 4096):
        super().__init__()
        self.features = nn.Sequential(
            nn.LazyConv2d(96, kernel_size=11, stride=4, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.LazyConv2d(256, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.LazyConv2d(384, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.LazyConv2d(384, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.LazyConv2d(256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.LazyLinear(width),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.LazyLinear(width),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.LazyLinear(classes),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image))
