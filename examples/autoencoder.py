"""A convolutional autoencoder: halves the image three times, and doubles it as often.

python -m tracer convert examples/autoencoder.py:Autoencoder -i Nx3x64x64 -o autoencoder.onnx
"""

import torch
from torch import nn


def halve(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.LazyConv2d(channels, kernel_size=4, stride=2, padding=1), nn.GELU())


def double(channels: int) -> nn.LazyConvTranspose2d:
    return nn.LazyConvTranspose2d(channels, kernel_size=4, stride=2, padding=1)


class Autoencoder(nn.Module):
    """Gives back the reconstruction and the code; the sides of the image are multiples of 8."""

    def __init__(self, channels: int = 3, width: int = 16):
        super().__init__()
        self.encoder = nn.Sequential(halve(width), halve(width * 2), halve(width * 4))
        self.decoder = nn.Sequential(
            double(width * 2), nn.GELU(), double(width), nn.GELU(), double(channels), nn.Sigmoid()
        )

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        code = self.encoder(image)
        return self.decoder(code), code
