"""A small decoder that generates greedily: one `torch.while_loop` that carries a cache of fixed size."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tracer
from tests.control_flow.oracle import OPSETS, expected, load, operators

LENGTH, WORDS, WIDTH, HEADS = 32, 40, 16, 2
END = 0


class Attention(nn.Module):
    """Attention of one position to those before it, whose keys and values are in a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.LazyLinear(3 * WIDTH), nn.LazyLinear(WIDTH)

    def forward(self, x: Tensor, cache: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = self.project(x).chunk(3, -1)
        cache = cache.index_copy(2, place[None], torch.stack([key, value]).unsqueeze(2))
        keys, values = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in cache.unbind(0))
        scores = query.unflatten(-1, (HEADS, 1, -1)) @ keys.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        behind = torch.arange(cache.shape[2]) > place
        weights = scores.masked_fill(behind, -math.inf).softmax(-1)
        return self.out((weights @ values).flatten(1)), cache


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.LazyLinear(2 * WIDTH), nn.GELU(), nn.LazyLinear(WIDTH))

    def forward(self, x: Tensor, cache: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        found, cache = self.attention(self.before(x), cache, place)
        x = x + found
        return x + self.mlp(x), cache


class Generator(nn.Module):
    """Tokens from a first one to the end of all sequences, at most so many."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.LazyLinear(WORDS)

    def following(self, token: Tensor, cache: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        x = self.words(token) + self.places(place)
        caches = []
        for block, own in zip(self.blocks, cache.unbind(0), strict=True):
            x, own = block(x, own, place)
            caches.append(own)
        return self.head(x).argmax(-1), torch.stack(caches)

    def forward(self, first: Tensor) -> tuple[Tensor, Tensor]:
        batch = first.shape[0]

        def goes_on(place: Tensor, token: Tensor, tokens: Tensor, cache: Tensor) -> Tensor:
            return (place < LENGTH) & (token != END).any()

        def step(place: Tensor, token: Tensor, tokens: Tensor, cache: Tensor) -> tuple[Tensor, ...]:
            token, cache = self.following(token, cache, place)
            tokens = tokens.index_copy(1, place[None], token[:, None])
            return place + 1, token, tokens, cache

        cache = torch.zeros(len(self.blocks), 2, batch, LENGTH, WIDTH)
        tokens = torch.full((batch, LENGTH), END)
        place, _, tokens, _ = torch.while_loop(goes_on, step, (torch.tensor(0), first, tokens, cache))
        return tokens, place


def by_itself(model: Generator, first: Tensor) -> Tensor:
    """The tokens by Python's own loop."""
    tokens, token = torch.full((first.shape[0], LENGTH), END), first
    cache = torch.zeros(len(model.blocks), 2, first.shape[0], LENGTH, WIDTH)
    place = 0
    while place < LENGTH and bool((token != END).any()):
        token, cache = model.following(token, cache, torch.tensor(place))
        tokens[:, place] = token
        place += 1
    return tokens


@pytest.fixture(scope="module")
def model() -> Generator:
    model = tracer.resolve(Generator(), FIRST, seed=1, dynamic_shapes=[{0: "N"}]).eval()
    with torch.no_grad():
        model.head.bias[END] = -9  # so that it goes on
    return model


FIRST = torch.tensor([1, 7, 23])


@pytest.mark.parametrize("opset", OPSETS)
def test_a_file_generates_as_the_model_does(opset: int, model: Generator, tmp_path: Path) -> None:
    conversion = tracer.convert(
        model, FIRST, opset_version=opset, route="direct", dynamic_shapes=[{0: "N"}], verify=opset == OPSETS[-1]
    )
    assert operators(conversion.onnx_model.graph).count("Loop") == 1
    session = load(conversion.save(tmp_path / "generator.onnx"))
    for tokens in (FIRST, torch.tensor([5]), torch.zeros(2, dtype=torch.int64)):
        found, steps = session.run(None, {"first": tokens.numpy()})
        wanted, taken = expected(model, (tokens,))
        assert np.array_equal(found, wanted.numpy())
        assert steps == taken
    assert steps == 0


def test_the_loop_is_pythons_own(model: Generator) -> None:
    wanted, taken = expected(model, (FIRST,))
    with torch.no_grad():
        assert torch.equal(by_itself(model, FIRST), wanted)
    assert taken == LENGTH
    assert len(wanted.unique()) > 4  # no mere repetition


def test_lazy_layers_in_the_loop_and_the_work_of_a_step_are_told() -> None:
    report = tracer.inspect(Generator(), FIRST)
    assert report.resolved["blocks.0.attention.project"] == {"in_features": WIDTH}
    assert report.resolved["head"] == {"in_features": WIDTH}
    line = Generator.forward.__code__.co_firstlineno + 13
    assert report.counted == [f"while_loop (test_generation.py:{line}) counts as one step"]
    layers = 3 * WIDTH * WIDTH + WIDTH * WIDTH + 4 * WIDTH * WIDTH
    attention = 2 * LENGTH * WIDTH
    assert report.macs == 3 * (2 * (layers + attention) + WIDTH * WORDS)
