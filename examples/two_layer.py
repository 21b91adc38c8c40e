"""The textbook network: two linear layers that find their own input sizes.

python -m tracer convert examples/two_layer.py:TwoLayer -i 2x20 -o two_layer.onnx
python -m tracer convert examples/two_layer.py:TwoLayer -i Nx20 --kwarg hidden=64 -o two_layer.onnx
"""

import torch
from torch import nn


class TwoLayer(nn.Module):
    def __init__(self, hidden: int = 256, classes: int = 10):
        super().__init__()
        self.hidden = nn.LazyLinear(hidden)
        self.activation = nn.ReLU()
        self.output = nn.LazyLinear(classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.activation(self.hidden(x)))
