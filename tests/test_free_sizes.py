"""Models in the manner of well-known ones, converted once with free sizes and run at others, beside eager PyTorch."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tests.reading import run


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed: torch.Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))
        return mixed


class VisionTransformer(nn.Module):
    """As DINOv2: a class token, position embeddings resized to the patches that there are, heads by a view of T + 1."""

    def __init__(self, width: int = 16, patch: int = 4, side: int = 6):
        super().__init__()
        self.patch, self.side = patch, side
        self.embed = nn.LazyConv2d(width, patch, stride=patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, side * side + 1, width))
        self.attention, self.norm, self.head = Attention(width, 4), nn.LayerNorm(width), nn.LazyLinear(5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        n, _, height, width = image.shape
        x = self.embed(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(n, -1, -1), x), dim=1)
        first, rest = self.positions[:, :1], self.positions[:, 1:]
        grid = rest.reshape(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(height // self.patch, width // self.patch), mode="bilinear")
        x = x + torch.cat((first, grid.permute(0, 2, 3, 1).reshape(1, -1, x.shape[-1])), dim=1)
        x = self.norm(x + self.attention(x))
        heads = x.view(n, x.shape[1], -1, 8)
        head: torch.Tensor = self.head(heads.flatten(2)[:, 0])
        return head


class SpeechEncoder(nn.Module):
    """As wav2vec 2.0: a stack of strided convolutions over the waveform, a convolution for positions, attention."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.features = nn.ModuleList(
            nn.LazyConv1d(width, kernel, stride) for kernel, stride in ((10, 5), (3, 2), (3, 2), (2, 2))
        )
        self.positions = nn.Conv1d(width, width, 8, padding=4, groups=4)
        self.attention, self.norm = Attention(width, 4), nn.LayerNorm(width)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        x = wave[:, None]
        for convolution in self.features:
            x = F.gelu(convolution(x))
        x = x + F.gelu(self.positions(x)[:, :, :-1])  # an even kernel gives one too many
        x = x.transpose(1, 2)
        mixed: torch.Tensor = self.norm(x + self.attention(x) / math.sqrt(x.shape[1]))
        return mixed


class ImageTokens(nn.Module):
    """As Flux: latents packed by twos into tokens, text before them, rotary positions, unpacked again."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.pack, self.unpack, self.attention = nn.LazyLinear(width), nn.LazyLinear(12), Attention(width, 2)

    def forward(self, latent: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        n, c, h, w = latent.shape
        x = latent.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, (h // 2) * (w // 2), c * 4)
        x = torch.cat([text, self.pack(x)], dim=1)
        angles = torch.arange(x.shape[1])[:, None] / 100 ** (torch.arange(0, x.shape[2], 2) / x.shape[2])
        even, odd = x[..., 0::2], x[..., 1::2]
        x = torch.stack([even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()], -1)
        x = self.attention(x.flatten(2))[:, text.shape[1] :]
        x = self.unpack(x).view(n, h // 2, w // 2, c, 2, 2)
        return x.permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)


class PaddedAsNeeded(nn.Module):
    """As TensorFlow pads, and so EfficientNet's first weights: by what a convolution lacks; activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.LazyConv2d(8, kernel, stride=2) for kernel in (3, 5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image
        for layer in self.layers:
            lacks = [
                max((math.ceil(size / 2) - 1) * 2 + kernel - size, 0)
                for size, kernel in zip(x.shape[-2:], layer.kernel_size, strict=True)
            ]
            height, width = lacks
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
            x = F.silu(F.dropout(layer(x), training=False), inplace=True)  # whose memory is asked for
        return x


class TableOfPairs(nn.Module):
    """As LeViT: patches of any shape, but so many as the table of biases between two has."""

    def __init__(self, width: int = 8, patches: int = 12):
        super().__init__()
        self.embed, self.bias = nn.LazyConv2d(width, 4, stride=4), nn.Parameter(torch.randn(2, patches, patches))
        self.qkv, self.out = nn.LazyLinear(3 * width), nn.LazyLinear(3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(image).flatten(2).transpose(1, 2)
        n, t, c = x.shape
        q, k, v = self.qkv(x).view(n, t, 2, -1).split([c // 2] * 3, dim=3)
        scores = q.permute(0, 2, 1, 3) @ k.permute(0, 2, 3, 1) + self.bias
        mixed = (scores.softmax(-1) @ v.permute(0, 2, 1, 3)).transpose(1, 2).reshape(n, t, c)
        found: torch.Tensor = self.out(mixed)
        return found


CASES = {
    "table": (TableOfPairs, {"image": ("N", 3, "H", "W")}, [(1, 12, 16), (2, 24, 8), (3, 5, 49)]),
    "same padding": (PaddedAsNeeded, {"image": ("N", 3, "H", "W")}, [(1, 1, 2), (3, 20, 7), (2, 33, 50)]),
    "vision": (VisionTransformer, {"image": ("N", 3, "H", "W")}, [(1, 16, 24), (3, 20, 8), (2, 33, 50)]),
    "speech": (SpeechEncoder, {"wave": ("N", "T")}, [(1, 400), (3, 801), (2, 1237)]),
    "tokens": (
        ImageTokens,
        {"latent": ("N", 3, "H", "W"), "text": ("N", "T", 16)},
        [(1, 4, 6, 5), (2, 8, 2, 1), (3, 6, 10, 7)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_free_sizes(name: str, tmp_path: Path) -> None:
    kind, inputs, trials = CASES[name]
    file = tmp_path / "model.onnx"
    dims = {"speech": {"T": 800}, "table": {"H": 12, "W": 16}}.get(name)
    converted = tracer.convert(kind(), tuple(tracer.spec(*shape) for shape in inputs.values()), file, seed=0, dims=dims)
    assert converted.route == "direct"
    names = list(dict.fromkeys(size for shape in inputs.values() for size in shape if isinstance(size, str)))
    for trial in trials:
        sizes = dict(zip(names, trial, strict=True))
        tensors = {
            key: torch.randn([sizes[size] if isinstance(size, str) else size for size in shape])
            for key, shape in inputs.items()
        }
        expected = converted.module(*tensors.values()).detach()
        torch.testing.assert_close(torch.from_numpy(run(file, **tensors)["output"]), expected, rtol=1e-4, atol=1e-5)
