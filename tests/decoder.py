"""A small decoder of Llama's form, for the tests of caches: RMS norms, rotary positions, grouped queries, SwiGLU.

Its cache is any object with `update(layer, keys, values)`; `Cache` grows by concatenation, as Hugging Face's dynamic
cache does, and is registered with torch's pytree. `StaticDecoder` keeps it in buffers, and counts what it has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

VOCABULARY, WIDTH, HEADS, GROUPS, LAYERS = 50, 32, 4, 2, 2
HEAD = WIDTH // HEADS


class Cache:
    """Keys and values by layer, each `[N, GROUPS, P, HEAD]`."""

    def __init__(self, keys: Sequence[Any] = (), values: Sequence[Any] = ()):
        self.keys, self.values = list(keys), list(values)

    def length(self) -> Any:
        return self.keys[0].shape[-2] if self.keys else 0

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if layer == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], keys], -2)
            self.values[layer] = torch.cat([self.values[layer], values], -2)
        return self.keys[layer], self.values[layer]


def _flatten(cache: Cache) -> tuple[list[Any], None]:
    return [cache.keys, cache.values], None


def _flatten_with_keys(cache: Cache) -> tuple[list[Any], None]:
    return [(pytree.MappingKey("keys"), cache.keys), (pytree.MappingKey("values"), cache.values)], None


pytree.register_pytree_node(Cache, _flatten, lambda parts, _: Cache(*parts), flatten_with_keys_fn=_flatten_with_keys)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


def rotated(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    frequencies = 1.0 / 100.0 ** (torch.arange(0, HEAD, 2).float() / HEAD)
    angles = positions.to(x.dtype)[:, None] * frequencies
    angles = torch.cat([angles, angles], -1)
    left, right = x[..., : HEAD // 2], x[..., HEAD // 2 :]
    return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()


class Attention(nn.Module):
    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.q, self.o = nn.Linear(WIDTH, HEADS * HEAD, bias=False), nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        self.k, self.v = (nn.Linear(WIDTH, GROUPS * HEAD, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor, cache: Any, positions: torch.Tensor) -> torch.Tensor:
        batch, steps, _ = x.shape
        q, k, v = (layer(x).view(batch, steps, -1, HEAD).transpose(1, 2) for layer in (self.q, self.k, self.v))
        keys, values = cache.update(self.layer, rotated(k, positions), v)
        keys, values = (part.repeat_interleave(HEADS // GROUPS, dim=1) for part in (keys, values))
        seen = torch.arange(keys.shape[-2]) <= positions[:, None]
        found = F.scaled_dot_product_attention(rotated(q, positions), keys, values, attn_mask=seen)
        return self.o(found.transpose(1, 2).reshape(batch, steps, -1))


class Block(nn.Module):
    def __init__(self, layer: int) -> None:
        super().__init__()
        self.before, self.after, self.attention = Norm(), Norm(), Attention(layer)
        self.gate, self.up = (nn.Linear(WIDTH, 2 * WIDTH, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor, cache: Any, positions: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.before(x), cache, positions)
        normed = self.after(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Decoder(nn.Module):
    """Logits of the next tokens, and the cache with these in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block(layer) for layer in range(LAYERS))
        self.norm, self.head = Norm(), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def run(self, tokens: torch.Tensor, cache: Any, positions: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, cache, positions)
        return self.head(self.norm(x))

    def forward(self, tokens: torch.Tensor, past: Cache) -> tuple[torch.Tensor, Cache]:
        positions = past.length() + torch.arange(tokens.shape[1])
        return self.run(tokens, past, positions), past


class Kept(nn.Module):
    """The keys and values of a layer, with room for as many tokens as ever come."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.register_buffer("k", torch.zeros(1, GROUPS, longest, HEAD))
        self.register_buffer("v", torch.zeros(1, GROUPS, longest, HEAD))


class StaticDecoder(nn.Module):
    """Logits of the next tokens; the cache, and how many tokens are in it, stay in the module."""

    def __init__(self, decoder: Decoder, longest: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.cache = nn.ModuleList(Kept(longest) for _ in range(LAYERS))
        self.register_buffer("seen", torch.tensor(0))

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept: Any = self.cache[layer]
        positions = self.positions(keys.shape[-2])
        kept.k[:, :, positions] = keys
        kept.v.index_copy_(2, positions, values)
        return kept.k, kept.v

    def positions(self, steps: int) -> torch.Tensor:
        return self.seen + torch.arange(steps)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = self.decoder.run(tokens, self, self.positions(tokens.shape[1]))
        self.seen += tokens.shape[1]
        return logits


def tokens_of(step: Callable[[torch.Tensor, Any], tuple[Any, Any]], past: Any) -> list[int]:
    """32 tokens, each the likeliest; the first step takes five."""
    tokens, found = torch.tensor([[3, 1, 4, 1, 5]]), list[int]()
    while len(found) < 32:
        logits, past = step(tokens, past)
        tokens = torch.as_tensor(logits)[:, -1:].argmax(-1)
        found.append(int(tokens))
    return found
