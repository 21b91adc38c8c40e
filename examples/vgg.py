"""VGG: blocks of 3x3 convolutions, each block at half the resolution of the one before.

python -m tracer convert examples/vgg.py:vgg11 -i Nx3x224x224 -o vgg11.onnx
python -m tracer convert examples/vgg.py:vgg16 -i Nx3x64x64 --kwarg width=512 -o small_vgg16.onnx
"""

from collections.abc import Sequence

from torch import nn

CHANNELS = (64, 128, 256, 512, 512)


def block(convolutions: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.LazyConv2d(channels, kernel_size=3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(kernel_size=2, stride=2))


def vgg(depths: Sequence[int], classes: int, width: int) -> nn.Sequential:
    """One block for each number of convolutions in `depths`, and a classifier with hidden layers of `width`."""
    return nn.Sequential(
        *[block(depth, channels) for depth, channels in zip(depths, CHANNELS, strict=True)],
        nn.Flatten(),
        nn.LazyLinear(width),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.LazyLinear(width),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.LazyLinear(classes),
    )


def vgg11(classes: int = 1000, width: int = 4096) -> nn.Sequential:
    return vgg((1, 1, 2, 2, 2), classes, width)


def vgg16(classes: int = 1000, width: int = 4096) -> nn.Sequential:
    return vgg((2, 2, 3, 3, 3), classes, width)
