"""Multi-head attention against torch: shapes on meta, values in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import ShapeError, UnsupportedOpError
from passes.program.notes import CALL, VALUE
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated
from tracer import spec

OPSETS = [13, 18, 23]
E, HEADS = 8, 2


class Attend(nn.Module):
    """A call of multi-head attention: the masks by name are its further inputs."""

    def __init__(self, masks: Sequence[str] = (), layer: dict[str, Any] | None = None, **options: Any):
        super().__init__()
        self.attention = nn.MultiheadAttention(E, HEADS, **(layer or {}))
        for name, parameter in self.attention.named_parameters():
            if "bias" in name:
                nn.init.normal_(parameter)
        self.masks, self.options = masks, options

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *masks: torch.Tensor) -> Any:
        return self.attention(query, key, value, **dict(zip(self.masks, masks, strict=True)), **self.options)


class SelfAttend(Attend):
    def forward(self, x: torch.Tensor, *masks: torch.Tensor) -> Any:
        return super().forward(x, x, x, *masks)


LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "bias_kv": {"add_bias_kv": True},
    "zero_attn": {"add_zero_attn": True},
    "both added": {"add_bias_kv": True, "add_zero_attn": True},
    "other widths": {"kdim": 5, "vdim": 7},
    "other widths, no bias": {"kdim": 5, "bias": False, "add_bias_kv": True},
}


def sequences(layer: dict[str, Any], queries: int = 3, keys: int = 5, batch: int | None = 2) -> list[torch.Tensor]:
    """Query, key and value as the layer takes them."""
    widths, lengths = (E, layer.get("kdim", E), layer.get("vdim", E)), (queries, keys, keys)
    made = [
        torch.randn(length, *([] if batch is None else [batch]), width)
        for length, width in zip(lengths, widths, strict=True)
    ]
    return [sequence.transpose(0, 1).contiguous() for sequence in made] if layer.get("batch_first") and batch else made


lengths = st.integers(1, 3)
layers = st.fixed_dictionaries({
    "bias": st.booleans(), "add_bias_kv": st.booleans(), "add_zero_attn": st.booleans(), "batch_first": st.booleans(),
    "kdim": st.sampled_from([None, 3]), "vdim": st.sampled_from([None, 5]),
})  # fmt: skip


@given(
    layer=layers, batch=st.sampled_from([None, 1, 2]), queries=lengths, keys=lengths, need_weights=st.booleans(),
    average=st.booleans(), padding=st.booleans(), mask=st.sampled_from(["", "plain", "per head"]),
    bool_masks=st.booleans(),
)  # fmt: skip
def test_shape(
    layer: dict[str, Any], batch: int | None, queries: int, keys: int, need_weights: bool, average: bool,
    padding: bool, mask: str, bool_masks: bool,
) -> None:  # fmt: skip
    layer = {name: value for name, value in layer.items() if value is not None}
    made = sequences(layer, queries, keys, batch)
    names = []
    if padding:
        names.append("key_padding_mask")
        made.append(torch.zeros(*([] if batch is None else [batch]), keys))
    if mask:
        names.append("attn_mask")
        made.append(torch.zeros(*([(batch or 1) * HEADS] if mask == "per head" else []), queries, keys))
    made[3:] = [given_mask.bool() if bool_masks else given_mask for given_mask in made[3:]]
    target = Attend(names, layer, need_weights=need_weights, average_attn_weights=average)
    assert_shape_matches(target, *made)


two_or_three = st.sampled_from([2, 3])
shapes = st.one_of(st.tuples(two_or_three, two_or_three), st.tuples(two_or_three), st.lists(lengths, max_size=3))
mask_shapes = st.lists(st.sampled_from([2, 3, 4]), max_size=3)


@given(
    query=shapes, key=shapes, value=shapes, batch_first=st.booleans(), widths=st.tuples(*[st.sampled_from([E, 4])] * 3)
)
def test_any_operands_shape(
    query: list[int], key: list[int], value: list[int], batch_first: bool, widths: tuple[int, int, int]
) -> None:
    made = [torch.zeros(*shape, width) for shape, width in zip((query, key, value), widths, strict=True)]
    for layer in ({"batch_first": batch_first}, {"batch_first": batch_first, "kdim": 4, "vdim": 4}):
        assert_shape_matches(Attend(layer=layer), *made)


@given(queries=two_or_three, keys=two_or_three, batch=st.sampled_from([None, 2]), mask=mask_shapes, padding=mask_shapes)
def test_any_masks_shape(queries: int, keys: int, batch: int | None, mask: list[int], padding: list[int]) -> None:
    masks = {"attn_mask": torch.zeros(mask), "key_padding_mask": torch.zeros(padding)}
    for names in (["attn_mask"], ["key_padding_mask"], ["attn_mask", "key_padding_mask"]):
        for need_weights in (True, False):
            target = Attend(names, need_weights=need_weights)
            assert_shape_matches(target, *sequences({}, queries, keys, batch), *(masks[name] for name in names))


def test_refusals() -> None:
    q, k, v = sequences({})
    with pytest.raises(ShapeError, match="embed_dim is 8, but the query's last axis is 7"):
        propagated(Attend(), q[..., :7], k, v)
    with pytest.raises(ShapeError, match="a hint about a mask, but there is no mask"):
        propagated(Attend(is_causal=True), q, k, v)
    with pytest.raises(ShapeError, match=r"attn_mask must be \[3, 5\] or \[4, 3, 5\], found float32\[5, 3\]"):
        propagated(Attend(["attn_mask"]), q, k, v, torch.zeros(5, 3))
    with pytest.raises(ShapeError, match="the query has a batch of 2, the key of 1"):
        propagated(Attend(), q, k[:, :1], v[:, :1])
    with pytest.raises(ShapeError, match="a mask is bool"):
        propagated(Attend(["key_padding_mask"]), q, k, v, torch.zeros(2, 5, dtype=torch.int64))


# Values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_lowering(layer: dict[str, Any], opset: int, batch_first: bool) -> None:
    layer = {**layer, "batch_first": batch_first}
    for batch in (2, None):
        for options in ({}, {"average_attn_weights": False}, {"need_weights": False}):
            assert_lowering_matches(Attend(layer=layer, **options), *sequences(layer, batch=batch), opset=opset)


@pytest.mark.parametrize("layer", [{}, {"batch_first": True}, {"bias": False}, {"add_bias_kv": True}])
@pytest.mark.parametrize("opset", OPSETS)
def test_self_attention_is_one_projection(layer: dict[str, Any], opset: int) -> None:
    model = assert_lowering_matches(SelfAttend(layer=layer, need_weights=False), torch.randn(3, 2, E), opset=opset)
    readers = [node for node in model.graph.node if "attention.in_proj_weight" in node.input]
    assert [node.op_type for node in readers] == ["Transpose"]


@pytest.mark.parametrize("layer", [{}, {"batch_first": True}, {"add_bias_kv": True, "add_zero_attn": True}])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", ["bool", "float", "infinite"])
@pytest.mark.parametrize("batch", [2, None])
def test_masks(layer: dict[str, Any], need_weights: bool, kind: str, batch: int | None) -> None:
    def mask(*shape: int) -> torch.Tensor:
        hidden = torch.rand(shape) > 0.5
        hidden[..., 0] = False
        return {
            "bool": hidden,
            "float": torch.randn(shape),
            "infinite": torch.zeros(shape).masked_fill(hidden, -torch.inf),
        }[kind]

    padding = mask(*([] if batch is None else [batch]), 5)
    for attn_mask in (mask(3, 5), mask((batch or 1) * HEADS, 3, 5)):
        for masks in ({"attn_mask": attn_mask}, {"key_padding_mask": padding, "attn_mask": attn_mask}):
            target = Attend(list(masks), layer, need_weights=need_weights)
            assert_lowering_matches(target, *sequences(layer, batch=batch), *masks.values())


@pytest.mark.parametrize("need_weights", [True, False])
def test_a_query_that_may_attend_to_nothing(need_weights: bool) -> None:
    """Zeros before the projection back where only the result is asked for, NaN in the result and the weights else."""
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1] = True
    target = Attend(["key_padding_mask"], need_weights=need_weights)
    assert_lowering_matches(target, *sequences({}), padding)
    assert target(*sequences({}), padding)[0].isnan().any() == need_weights


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("layer", [{}, {"add_bias_kv": True, "add_zero_attn": True}])
def test_the_hint_takes_the_masks_place(opset: int, layer: dict[str, Any]) -> None:
    causal = nn.Transformer.generate_square_subsequent_mask(4)
    x = torch.randn(4, 2, E)
    for options in ({"need_weights": False}, {"need_weights": True}):
        hinted = SelfAttend(["attn_mask"], layer, is_causal=True, **options)
        assert_lowering_matches(hinted, x, causal, opset=opset)
        assert_lowering_matches(hinted, x, torch.randn(4, 4), opset=opset)
    hinted.options["need_weights"] = False
    assert_lowering_matches(hinted, x, torch.randn(9, 9), opset=opset)
    padding = torch.tensor([[False, False, False, True], [False, False, True, True]])
    both = SelfAttend(["attn_mask", "key_padding_mask"], layer, is_causal=True, need_weights=False)
    assert_lowering_matches(both, x, causal != 0, padding, opset=opset)


@pytest.mark.parametrize("layer", [{}, {"batch_first": True}, {"add_bias_kv": True, "add_zero_attn": True, "kdim": 5}])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("opset", OPSETS)
def test_dynamic_sizes(layer: dict[str, Any], need_weights: bool, opset: int) -> None:
    along, across = (1, 0) if layer.get("batch_first") else (0, 1)
    query, key = {along: "L", across: "N"}, {along: "S", across: "N"}
    dynamic = {0: query, 1: key, 2: key, 3: {0: "N", 1: "S"}, 4: {0: "L", 1: "S"}}

    def operands(queries: int, keys: int, batch: int) -> tuple[torch.Tensor, ...]:
        padding = torch.rand(batch, keys) > 0.5
        padding[:, 0] = False
        return (
            *sequences(layer, queries, keys, batch),
            padding,
            (torch.rand(queries, keys) > 0.5) & (torch.arange(keys) > 0),
        )

    target = Attend(["key_padding_mask", "attn_mask"], layer, need_weights=need_weights)
    assert_lowering_matches(target, *operands(3, 5, 2), dynamic=dynamic, also=operands(7, 2, 3), opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 4e-3), (torch.float64, 1e-12)])
def test_other_dtypes(opset: int, dtype: torch.dtype, tolerance: float) -> None:
    layer = {"add_bias_kv": True, "add_zero_attn": True}
    padding = torch.tensor([[False, True, False, False, True], [False, False, True, True, True]])
    for need_weights in (True, False):
        target = Attend(["key_padding_mask"], layer, need_weights=need_weights).to(dtype)
        operands = [operand.to(dtype) for operand in sequences(layer)]
        assert_lowering_matches(target, *operands, padding, opset=opset, rtol=tolerance, atol=tolerance)


class Functional(nn.Module):
    """The function that the module calls, with weights of its own."""

    def __init__(self, separate: bool = False, **options: Any):
        super().__init__()
        self.in_weight, self.in_bias = nn.Parameter(torch.randn(3 * E, E)), nn.Parameter(torch.randn(3 * E))
        self.out_weight = nn.Parameter(torch.randn(E, E))
        self.separate, self.options = separate, options

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Any:
        apart = dict(zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), self.in_weight.chunk(3), strict=True))
        return F.multi_head_attention_forward(
            query, key, value, E, HEADS, None if self.separate else self.in_weight, self.in_bias, None, None, False,
            0.5, self.out_weight, None, training=self.training, use_separate_proj_weight=self.separate,
            **(apart if self.separate else {}), **self.options,
        )  # fmt: skip


@pytest.mark.parametrize("separate", [True, False])
def test_the_function(separate: bool) -> None:
    for batch in (2, None):
        assert_shape_matches(Functional(separate), *sequences({}, batch=batch))
        assert_lowering_matches(Functional(separate, average_attn_weights=False), *sequences({}, batch=batch))
    with pytest.raises(UnsupportedOpError, match="static_k"):
        propagated(Functional(static_k=torch.zeros(4, 5, 4)), *sequences({}))


def test_weights_that_are_not_asked_for_are_none_while_tracing() -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(E, HEADS)

        def forward(self, x: torch.Tensor) -> Any:
            result, weights = self.attention(x, x, x, need_weights=False)
            assert weights is None
            return {"result": result, "weights": weights}

    conversion = tracer.convert(Strict(), (spec("T", "N", E),), route="direct")
    assert [entry.name for entry in conversion.onnx_model.graph.output] == ["result"]


class Scaled(nn.MultiheadAttention):
    """A subclass with a forward of its own."""

    def forward(self, query: torch.Tensor, *args: Any, **options: Any) -> Any:
        result, weights = super().forward(query * 2, *args, **options)
        return result + 1, weights


@pytest.mark.parametrize("layer", [{}, {"batch_first": True}, {"kdim": 5}])
@pytest.mark.parametrize("mask", [torch.bool, torch.float32])
def test_hooks_parametrizations_and_subclasses_take_part(layer: dict[str, Any], mask: torch.dtype) -> None:
    padding = torch.tensor([[0, 0, 0, 1, 0], [0, 1, 1, 1, 1]]).to(mask)
    hooked = Attend(["key_padding_mask"], layer)
    hooked.attention.register_forward_hook(lambda module, args, result: (result[0] * 3, result[1]))
    assert_lowering_matches(hooked, *sequences(layer), padding)
    normed = Attend(["key_padding_mask"], layer)
    nn.utils.parametrizations.weight_norm(normed.attention.out_proj)
    assert_lowering_matches(normed, *sequences(layer), padding)
    derived = Attend(["key_padding_mask"], layer)
    derived.attention = Scaled(E, HEADS, **layer)
    assert_lowering_matches(derived, *sequences(layer), padding)


def test_without_a_batch_dynamic_masks() -> None:
    dynamic = {0: {0: "L"}, 1: {0: "S"}, 2: {0: "S"}, 3: {0: "S"}, 4: {1: "L", 2: "S"}}

    def operands(queries: int, keys: int) -> tuple[torch.Tensor, ...]:
        return *sequences({}, queries, keys, None), torch.randn(keys), torch.randn(HEADS, queries, keys)

    for need_weights in (True, False):
        target = Attend(["key_padding_mask", "attn_mask"], need_weights=need_weights)
        assert_lowering_matches(target, *operands(3, 5), dynamic=dynamic, also=operands(6, 2))


def test_weights_keep_their_names() -> None:
    for layer in LAYERS.values():
        target = Attend(layer=layer)
        conversion = tracer.convert(target, tuple(sequences(layer)), route="direct")
        names = {entry.name for entry in conversion.onnx_model.graph.initializer}
        assert set(target.state_dict()) <= names
        assert {node.name.split("/")[0] for node in conversion.onnx_model.graph.node} == {"attention"}


@pytest.mark.parametrize("layer", [{}, {"batch_first": True}, {"add_bias_kv": True, "kdim": 5}])
def test_cost(layer: dict[str, Any]) -> None:
    target = Attend(layer=layer)
    program = propagated(target, *sequences(layer))
    (node,) = (node for node in program.graph.nodes if node.op == "call_module")
    (report,) = tracer.inspect(target, tuple(sequences(layer))).layers
    keys = 5 + ("add_bias_kv" in layer)
    projections = 2 * 3 * E * E + 2 * 5 * layer.get("kdim", E) * E + 2 * 5 * E * E + 2 * 3 * E * E
    assert report.macs == projections + 2 * 3 * keys * E * 2
    assert report.type == "MultiheadAttention"
    assert report.params == sum(parameter.numel() for parameter in target.parameters())
    assert CALL.of(node).op.name == "multihead_attention"
    assert VALUE.of(node)[0].shape == VALUE.of(program.output())[0].shape
