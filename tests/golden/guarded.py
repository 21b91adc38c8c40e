"""The model of `guarded_program.txt`: named sizes that branches ask about, lazy layers, a parameter of its own."""

import math

import torch
from torch import Tensor, nn


class Guarded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(4, 3, stride=2, padding=1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.fc = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % 4 == 0 and x.shape[3] > 2:
            x = torch.relu(self.conv(x)) * self.scale
        x = torch.where(x > 0, x, -math.inf)
        return self.fc(x[..., :1].amax(dim=(2,)).flatten(1))
