"""torch.nn's transformers, and attention as vision models write it, end to end through the direct route."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import transformer

import tracer
from tests.reading import moved
from tests.test_dry_run_identity import assert_same, dry_run
from tracer import spec

E, HEADS = 8, 2
OPSETS = [13, 20, 23]
# Torch says so once, when its fast path first takes nested tensors.
NESTED = "ignore:The PyTorch API of nested tensors:UserWarning"


def convert(model: nn.Module, *args: Any, **options: Any) -> tracer.Conversion:
    """Through the direct route, with nothing left untraced, and checked at several sets of sizes."""
    conversion = tracer.convert(model, args, route="direct", **options)
    assert conversion.route == "direct"
    assert conversion.report.rungs == []
    assert conversion.verification is not None
    assert moved(conversion.verification) >= {frozenset([name]) for name in conversion.report.sampled}
    assert conversion.verification.largest_difference < 1e-5
    return conversion


def run(conversion: tracer.Conversion, *inputs: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString())
    names = [entry.name for entry in session.get_inputs()]
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
    return torch.from_numpy(found)


def encoder_layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(E, HEADS, 16, **options)


def encoder(**options: Any) -> nn.TransformerEncoder:
    nested = options.get("batch_first", False) and not options.get("norm_first", False)
    return nn.TransformerEncoder(encoder_layer(**options), 2, norm=nn.LayerNorm(E), enable_nested_tensor=nested)


def decoder(**options: Any) -> nn.TransformerDecoder:
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(E, HEADS, 16, **options), 2)


def sequence(length: str, batch_first: bool, width: int = E, batch: str | int = "N") -> tracer.InputSpec:
    return spec(batch, length, width) if batch_first else spec(length, batch, width)


class Sandwich(nn.Module):
    """A layer between two lazy ones; further arguments are the layer's."""

    def __init__(self, layer: nn.Module, sequences: int = 1):
        super().__init__()
        self.before, self.layer, self.after, self.sequences = nn.LazyLinear(E), layer, nn.LazyLinear(3), sequences

    def forward(self, *args: Any, **options: Any) -> torch.Tensor:
        sequences = [self.before(x) for x in args[: self.sequences]]
        return self.after(self.layer(*sequences, *args[self.sequences :], **options))


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "norm first": {"norm_first": True, "batch_first": True},
    "no bias": {"bias": False},
    "gelu": {"activation": "gelu", "batch_first": True},
    "callable": {"activation": torch.tanh},
    "module": {"activation": nn.GELU(), "batch_first": True},
    "eps": {"layer_norm_eps": 1e-2},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_layers(options: dict[str, Any]) -> None:
    first = options.get("batch_first", False)
    convert(Sandwich(encoder_layer(**options)), sequence("T", first, 5))
    convert(
        Sandwich(nn.TransformerDecoderLayer(E, HEADS, 16, **options), 2),
        sequence("T", first, 5),
        sequence("S", first, 5),
    )


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("opset", OPSETS)
def test_stacks(options: dict[str, Any], opset: int) -> None:
    first = options.get("batch_first", False)
    convert(Sandwich(encoder(**options)), sequence("T", first, 5), opset_version=opset)
    two = sequence("T", first, 5), sequence("S", first, 5)
    convert(Sandwich(decoder(**options), 2), *two, opset_version=opset)


def whole(**options: Any) -> nn.Transformer:
    kept = {"custom_encoder": encoder(**options)}  # torch's own warns of nested tensors
    return nn.Transformer(E, HEADS, 1, 2, 16, **kept, **options)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_whole_transformer(options: dict[str, Any]) -> None:
    first = options.get("batch_first", False)
    convert(Sandwich(whole(**options), 2), sequence("S", first, 5), sequence("T", first, 5))


@pytest.mark.parametrize("opset", OPSETS)
def test_without_a_batch(opset: int) -> None:
    convert(Sandwich(encoder(batch_first=True)), spec("T", 5), opset_version=opset)
    convert(Sandwich(whole(), 2), spec("S", E), spec("T", E), opset_version=opset)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("opset", OPSETS)
def test_other_dtypes(dtype: torch.dtype, opset: int) -> None:
    x = spec("N", "T", E, dtype=dtype)
    conversion = tracer.convert(encoder(batch_first=True).to(dtype), (x,), route="direct", opset_version=opset)
    assert conversion.report.outputs == [str(x)]


# Masks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_masks_as_inputs(batch_first: bool, dtype: torch.dtype) -> None:
    x = sequence("T", batch_first, 5)
    square, padding = spec("T", "T", dtype=dtype), spec("N", "T", dtype=dtype)
    layer = Sandwich(encoder(batch_first=batch_first))
    convert(layer, x, square)
    convert(layer, x, None, padding)
    convert(layer, x, square, padding)
    convert(layer, sequence("T", batch_first, 5, batch=3), spec(3 * HEADS, "T", "T", dtype=dtype))
    masks = {
        "tgt_mask": square,
        "memory_mask": spec("T", "S", dtype=dtype),
        "tgt_key_padding_mask": padding,
        "memory_key_padding_mask": spec("N", "S", dtype=dtype),
    }
    convert(Sandwich(decoder(batch_first=batch_first), 2), x, sequence("S", batch_first, 5), kwargs=masks)


class Causal(nn.Module):
    """Masks the future by a mask made in the forward."""

    def __init__(self, is_causal: bool | None, batch_first: bool = True):
        super().__init__()
        self.stack, self.is_causal, self.along = encoder(batch_first=batch_first), is_causal, int(batch_first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[self.along], device=x.device, dtype=x.dtype)
        return self.stack(x, mask=mask, is_causal=self.is_causal)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("length", ["T", 6])
def test_a_hint_changes_nothing(opset: int, batch_first: bool, length: Any) -> None:
    x = torch.randn(2, 6, E)
    torch.manual_seed(0)
    model = Causal(None, batch_first).eval()
    expected = model(x if batch_first else x.transpose(0, 1))
    for hint in (None, True, False):
        model.is_causal = hint
        conversion = convert(model, sequence(length, batch_first), opset_version=opset)
        found = run(conversion, x if batch_first else x.transpose(0, 1).contiguous())
        torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


class Translator(nn.Module):
    """Token ids to scores, with the usual masks."""

    def __init__(self, **options: Any):
        super().__init__()
        self.embed = nn.Embedding(20, E, padding_idx=0)
        self.transformer = whole(batch_first=True, **options)
        self.head = nn.LazyLinear(20)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        future = torch.triu(torch.ones(target.shape[1], target.shape[1], dtype=torch.bool), diagonal=1)
        padding = source == 0
        return self.head(
            self.transformer(
                self.embed(source), self.embed(target), tgt_mask=future, src_key_padding_mask=padding,
                tgt_key_padding_mask=target == 0, memory_key_padding_mask=padding,
            )
        )  # fmt: skip


@pytest.mark.filterwarnings(NESTED)
def test_a_translator() -> None:
    model = Translator()
    conversion = convert(model, spec("N", "S", dtype=torch.int64), spec("N", "T", dtype=torch.int64))
    source, target = torch.tensor([[3, 7, 9, 0], [4, 0, 0, 0]]), torch.tensor([[1, 5, 2], [1, 6, 0]])
    with torch.no_grad():
        expected = conversion.module.eval()(source, target)
    torch.testing.assert_close(run(conversion, source, target), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings(NESTED)
def test_padded_positions_follow_the_plain_path() -> None:
    """Torch's fast path gives zeros there; every other position is the same on both."""
    model = encoder(batch_first=True).eval()
    nn.init.normal_(model.norm.bias)  # type: ignore[union-attr, arg-type]
    x, padding = torch.randn(2, 4, E), torch.tensor([[False, False, False, True], [False, False, True, True]])
    named = {"src": {0: "N", 1: "T"}, "src_key_padding_mask": {0: "N", 1: "T"}}
    conversion = convert(model, x, kwargs={"src_key_padding_mask": padding}, dynamic_shapes=named)
    found = run(conversion, x, padding)
    with torch.no_grad():
        fast = model(x, src_key_padding_mask=padding)
    plain = model(x, src_key_padding_mask=padding)  # with gradients
    torch.testing.assert_close(found, plain.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[~padding], fast[~padding], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[padding], fast[padding])


@pytest.mark.parametrize("enabled", [True, False])
def test_torchs_own_settings_are_left_as_they_were(enabled: bool) -> None:
    before, detect = torch.backends.mha.get_fastpath_enabled(), transformer._detect_is_causal_mask
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        convert(encoder(batch_first=True), spec("N", "T", E))
        with pytest.raises(tracer.ShapeError):
            tracer.inspect(encoder(batch_first=True), spec("N", "T", E + 1))
        assert torch.backends.mha.get_fastpath_enabled() == enabled
        assert transformer._detect_is_causal_mask is detect
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


# Names and weights --------------------------------------------------------------------------------


def test_names() -> None:
    conversion = convert(Sandwich(encoder(batch_first=True)), spec("N", "T", 5))
    graph = conversion.onnx_model.graph
    assert set(conversion.module.state_dict()) == {entry.name for entry in graph.initializer if "/" not in entry.name}
    paths = {node.name.split("/")[0] for node in graph.node}
    parts = ("", ".self_attn", ".norm1", ".linear1", ".linear2", ".norm2")
    assert paths == {f"layer.layers.{index}{part}" for index in (0, 1) for part in parts} | {
        "before", "layer.norm", "after",
    }  # fmt: skip
    assert conversion.report.resolved == {"before": {"in_features": 5}, "after": {"in_features": E}}
    attention = next(layer for layer in conversion.report.layers if layer.path == "layer.layers.0.self_attn")
    assert (attention.type, attention.output_shape) == ("MultiheadAttention", [["N", "T", E]])


def test_the_weights_are_a_dry_runs() -> None:
    model = Sandwich(encoder())
    assert_same(tracer.resolve(copy.deepcopy(model), spec(4, 2, 5), seed=3), dry_run(model, (4, 2, 5), 3))


def test_dropout_of_weights_draws_as_in_a_dry_run() -> None:
    class Drops(nn.Module):
        """Drops weights in eval mode too, as the function does whatever it is told."""

        def __init__(self, p: float):
            super().__init__()
            self.first, self.second, self.p = nn.LazyLinear(E), nn.LazyLinear(3), p

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x).unsqueeze(0)
            return self.second(F.scaled_dot_product_attention(x, x, x, dropout_p=self.p))

    for p in (0.0, 0.5):
        assert_same(tracer.resolve(Drops(p), spec(4, 5), seed=1), dry_run(Drops(p), (4, 5), 1))


# Vision transformers ------------------------------------------------------------------------------


class Attention(nn.Module):
    """Attention as vision models write it: one packed projection, unbound."""

    def __init__(self, fused: bool):
        super().__init__()
        self.qkv, self.proj, self.fused, self.scale = (
            nn.LazyLinear(3 * E),
            nn.LazyLinear(E),
            fused,
            (E // HEADS) ** -0.5,
        )
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.drop.p if self.training else 0.0)
        else:
            attention = (q * self.scale) @ k.transpose(-2, -1)
            x = self.drop(attention.softmax(dim=-1)) @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class Block(nn.Module):
    def __init__(self, fused: bool):
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(E), nn.LayerNorm(E), Attention(fused)
        self.mlp = nn.Sequential(nn.LazyLinear(16), nn.GELU(), nn.LazyLinear(E))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self, fused: bool):
        super().__init__()
        self.patches = nn.LazyConv2d(E, 4, stride=4)
        self.cls, self.position = nn.Parameter(torch.randn(1, 1, E)), nn.Parameter(torch.randn(1, 17, E))
        self.blocks = nn.Sequential(Block(fused), Block(fused))
        self.norm, self.head = nn.LayerNorm(E), nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("opset", OPSETS)
def test_vision(fused: bool, opset: int) -> None:
    assert not convert(Attention(fused), spec("N", "T", E), opset_version=opset).report.to_dict()["rungs"]
    convert(VisionTransformer(fused), spec("N", 3, 16, 16), opset_version=opset)


class CausalLanguageModel(nn.Module):
    """Attention as small language models write it: a triangle cut from a buffer, or made in the forward."""

    def __init__(self, made: bool):
        super().__init__()
        self.embed, self.qkv, self.head, self.made = nn.Embedding(20, E), nn.LazyLinear(3 * E), nn.LazyLinear(20), made
        self.register_buffer("triangle", torch.tril(torch.ones(1, 1, 32, 32)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        B, T = tokens.size()
        q, k, v = (part.view(B, T, HEADS, -1).transpose(1, 2) for part in self.qkv(self.embed(tokens)).chunk(3, dim=-1))
        scores = q @ k.transpose(-2, -1) / k.size(-1) ** 0.5
        triangle = torch.tril(torch.ones(T, T)) if self.made else self.triangle[:, :, :T, :T]
        weights = F.softmax(scores.masked_fill(triangle == 0, float("-inf")), dim=-1)
        return self.head((weights @ v).transpose(1, 2).contiguous().view(B, T, E))


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("opset", OPSETS)
def test_language(made: bool, opset: int) -> None:
    conversion = convert(
        CausalLanguageModel(made), spec("N", "T", dtype=torch.int64), opset_version=opset, dims={"T": 9}
    )
    assert [guard.condition for guard in conversion.report.guards] == ([] if made else ["T <= 32"])
    tokens = torch.randint(20, (1, 7))
    shorter = run(conversion, tokens[:, :4])
    np.testing.assert_allclose(run(conversion, tokens)[:, :4], shorter, rtol=1e-4, atol=1e-5)
