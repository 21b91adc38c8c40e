"""Normalisation layers against torch: shapes on meta, values in onnxruntime, lazy sizes against a dry run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

sizes = st.integers(1, 4)
few = st.integers(0, 3)
shapes = st.lists(sizes, min_size=1, max_size=5).map(tuple)
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
LAZY = {
    nn.LazyBatchNorm1d: (3, 4, 5), nn.LazyBatchNorm2d: (3, 4, 5, 6), nn.LazyBatchNorm3d: (3, 4, 5, 6, 2),
    nn.LazyInstanceNorm1d: (3, 4, 5), nn.LazyInstanceNorm2d: (3, 4, 5, 6), nn.LazyInstanceNorm3d: (3, 4, 5, 6, 2),
}  # fmt: skip
SPATIAL = {1: (7,), 2: (5, 6), 3: (3, 4, 2)}
OPSETS = (13, 14, 17, 18, 20, 21, 23)


def trained(module: Any) -> Any:
    """The module with parameters and statistics that differ from their initial ones."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return module


# Batch norm ---------------------------------------------------------------------------------------


@given(shape=shapes, features=sizes, rank=st.integers(1, 3), affine=st.booleans(), stats=st.booleans())
def test_batch_norm_module_shape(shape: Any, features: int, rank: int, affine: bool, stats: bool) -> None:
    norm = BATCH[rank](features, affine=affine, track_running_stats=stats)
    assert_shape_matches(norm, torch.empty(shape))


@given(
    shape=shapes, stats=st.sampled_from([None, 1, 2, 3]), weight=st.sampled_from([None, 1, 2, 3]),
    training=st.booleans(), eps=st.sampled_from([1e-5, 0.0, -1.0]),
)  # fmt: skip
def test_batch_norm_function_shape(shape: Any, stats: Any, weight: Any, training: bool, eps: float) -> None:
    if len(shape) == 1:
        shape = (*shape, 2)
    mean, scale = (torch.ones(n) if n is not None else None for n in (stats, weight))
    assert_shape_matches(
        lambda x, *p: F.batch_norm(
            x, p[0] if stats else None, p[0] if stats else None, p[-1] if weight else None, training=training, eps=eps
        ),
        torch.empty(shape),
        *(t for t in (mean, scale) if t is not None),
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("stats", [True, False])
def test_batch_norm(rank: int, affine: bool, stats: bool) -> None:
    norm = trained(BATCH[rank](3, affine=affine, track_running_stats=stats, eps=1e-3))
    model = assert_lowering_matches(norm, torch.randn(2, 3, *SPATIAL[rank]))
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == int(stats)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("stats", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_batch_norm_opsets(opset: int, stats: bool, dtype: torch.dtype) -> None:
    norm = trained(nn.BatchNorm1d(4, track_running_stats=stats)).to(dtype)
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.float16 else {"rtol": 1e-9, "atol": 1e-10}
    assert_lowering_matches(norm, torch.randn(6, 4).to(dtype), opset=opset, **tolerance)


@pytest.mark.parametrize("stats", [True, False])
def test_batch_norm_dynamic(stats: bool) -> None:
    norm = trained(nn.BatchNorm2d(3, track_running_stats=stats))
    dynamic = {0: {0: "N", 2: "H", 3: "W"}}
    assert_lowering_matches(norm, torch.randn(2, 3, 4, 5), dynamic=dynamic, also=(torch.randn(1, 3, 7, 2),))


def test_batch_norm_spellings() -> None:
    x, c, d = torch.randn(2, 3, 4), torch.rand(3), torch.rand(3)
    assert_lowering_matches(lambda x, c, d: F.batch_norm(x, c, d, d, c, eps=0.1), x, c, d)
    assert_lowering_matches(lambda x, c, d: F.batch_norm(x, c, d, bias=c), x, c, d)
    assert_lowering_matches(lambda x, c, d: F.batch_norm(x, None, None, c, d, True), x, c, d)
    assert_lowering_matches(lambda x, c, d: torch.batch_norm(x, c, d, d, c, False, 0.1, 1e-3, True), x, c, d)
    assert_lowering_matches(trained(nn.SyncBatchNorm(3)), x)
    assert_lowering_matches(trained(nn.BatchNorm1d(3, bias=False)), x)


@pytest.mark.parametrize("opset", [14, 15, 21])
def test_half_input_with_float_parameters(opset: int) -> None:
    """Mixed precision, as torch takes it: the layer in float32, its input in float16."""
    x = torch.randn(4, 6, 5).half()
    for norm in (nn.BatchNorm1d(6), nn.LayerNorm(5), nn.GroupNorm(2, 6), nn.InstanceNorm1d(6, affine=True)):
        assert_lowering_matches(trained(norm), x, opset=opset, rtol=1e-2, atol=1e-2)


# Instance norm ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:input's size at dim")
@given(shape=shapes, features=sizes, rank=st.integers(1, 3), affine=st.booleans(), stats=st.booleans())
def test_instance_norm_module_shape(shape: Any, features: int, rank: int, affine: bool, stats: bool) -> None:
    norm = INSTANCE[rank](features, affine=affine, track_running_stats=stats)
    assert_shape_matches(norm, torch.empty(shape))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("stats", [True, False])
@pytest.mark.parametrize("lead", [(2,), ()])
def test_instance_norm(rank: int, affine: bool, stats: bool, lead: tuple[int, ...]) -> None:
    norm = trained(INSTANCE[rank](3, affine=affine, track_running_stats=stats))
    assert_lowering_matches(norm, torch.randn(*lead, 3, *SPATIAL[rank]), atol=5e-5)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_instance_norm_opsets(opset: int, dtype: torch.dtype) -> None:
    tolerance = {"atol": 5e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
    norm = trained(nn.InstanceNorm2d(3, affine=True)).to(dtype)
    assert_lowering_matches(norm, torch.randn(2, 3, 4, 4, dtype=dtype), opset=opset, **tolerance)


def test_instance_norm_dynamic() -> None:
    dynamic = {0: {0: "N", 2: "L"}}
    also = (torch.randn(1, 3, 9),)
    norm = trained(nn.InstanceNorm1d(3, affine=True))
    assert_lowering_matches(norm, torch.randn(2, 3, 4), dynamic=dynamic, also=also, atol=5e-5)
    every = {0: {0: "N", 1: "C", 2: "L"}}
    assert_lowering_matches(F.instance_norm, torch.randn(2, 3, 4), dynamic=every, also=(torch.randn(3, 5, 6),))
    unbatched = nn.InstanceNorm2d(3)
    also = (torch.randn(3, 6, 2),)
    assert_lowering_matches(unbatched, torch.randn(3, 4, 5), dynamic={0: {1: "H", 2: "W"}}, also=also, atol=5e-5)


def test_instance_norm_spellings() -> None:
    x, c, d = torch.randn(2, 3, 4), torch.rand(3), torch.rand(3)
    assert_lowering_matches(lambda x, c, d: F.instance_norm(x, weight=c, bias=d), x, c, d, atol=5e-5)
    assert_lowering_matches(lambda x, c, d: F.instance_norm(x, c, d, use_input_stats=False), x, c, d)
    assert_lowering_matches(
        lambda x, c, d: torch.instance_norm(x, c, d, None, None, True, 0.1, 1e-3, True), x, c, d, atol=5e-5
    )


# Lazy classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", LAZY)
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}, {"bias": False}])
def test_lazy_state_is_a_dry_runs(cls: Any, options: dict[str, bool]) -> None:
    def build() -> nn.Module:
        return nn.Sequential(cls(**options), nn.Flatten(), nn.LazyLinear(3)).eval()

    x = torch.randn(LAZY[cls])
    expected = build()
    torch.manual_seed(5)
    with torch.no_grad():
        expected(x)
    found = tracer.resolve(build(), (x,), seed=5)
    assert [type(module) for module in found] == [type(module) for module in expected]  # type: ignore[arg-type]
    assert found[0].num_features == expected[0].num_features == LAZY[cls][1]  # type: ignore[index]
    assert found.state_dict().keys() == expected.state_dict().keys()
    for key, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], tensor), key
        assert found.state_dict()[key].dtype == tensor.dtype
    assert_lowering_matches(found, x, atol=5e-5)


@pytest.mark.parametrize("cls", LAZY)
def test_lazy_inference_names_the_shapes(cls: Any) -> None:
    x = torch.empty(LAZY[cls])
    program = propagated(cls(), x)
    (layer,) = program.lazies.values()
    with torch.no_grad():
        dry = cls().eval()
        dry(x)
    uninitialized = {name: tuple(t.shape) for name, t in dry.state_dict().items() if name != "num_batches_tracked"}
    assert layer.inference.attributes == {"num_features": dry.num_features}
    assert layer.inference.shapes == uninitialized


@pytest.mark.filterwarnings("ignore:LazyInstanceNorm")
@given(shape=shapes, cls=st.sampled_from(list(LAZY)))
def test_lazy_refusals(shape: Any, cls: Any) -> None:
    """torch counts an unbatched input's features on the wrong axis, and so refuses most of them."""
    x = torch.randn(shape)
    dry = cls().eval()
    try:
        with torch.no_grad():
            dry(x)
    except (ValueError, RuntimeError, IndexError):
        with pytest.raises(tracer.TracerError):
            tracer.resolve(cls().eval(), (x,))
    else:
        assert tracer.resolve(cls().eval(), (x,)).state_dict().keys() == dry.state_dict().keys()


# Layer, group and RMS norm ------------------------------------------------------------------------


@given(shape=shapes, normalized=st.lists(sizes, max_size=3).map(tuple), weight=st.booleans(), bias=st.booleans())
def test_layer_norm_shape(shape: Any, normalized: Any, weight: bool, bias: bool) -> None:
    w, b = torch.empty(normalized), torch.empty(normalized)
    assert_shape_matches(
        lambda x, w, b: F.layer_norm(x, normalized, w if weight else None, b if bias else None),
        torch.empty(shape), w, b,
    )  # fmt: skip
    assert_shape_matches(lambda x, w: F.rms_norm(x, normalized, w if weight else None), torch.empty(shape), w)
    tail = shape[-max(len(normalized), 1) :]
    assert_shape_matches(lambda x, w: F.layer_norm(x, tail, w), torch.empty(shape), torch.empty(tail))
    assert_shape_matches(lambda x, w: F.rms_norm(x, tail, w), torch.empty(shape), torch.empty(tail))


@given(shape=shapes, groups=st.integers(-1, 4), channels=sizes, per_group=sizes)
def test_group_norm_shape(shape: Any, groups: int, channels: int, per_group: int) -> None:
    if groups:
        assert_shape_matches(lambda x, w: F.group_norm(x, groups, w), torch.empty(shape), torch.empty(channels))
        assert_shape_matches(
            lambda x: F.group_norm(x, groups),
            torch.empty((*shape[:1], groups * per_group, *shape[1:])) if groups > 0 else torch.empty(shape),
        )


def test_integer_input_is_refused() -> None:
    for function in (lambda x: F.layer_norm(x, (4,)), lambda x: F.group_norm(x, 1), F.instance_norm, F.normalize):
        assert_shape_matches(function, torch.ones(2, 3, 4, dtype=torch.int64))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("affine", [True, False])
def test_within_a_sample(opset: int, dtype: torch.dtype, affine: bool) -> None:
    tight = {"rtol": 1e-9, "atol": 1e-10} if dtype == torch.float64 else {"atol": 5e-5}
    x = torch.randn(2, 6, 4, 5, dtype=dtype)
    for norm in (
        nn.LayerNorm((4, 5), elementwise_affine=affine),
        nn.LayerNorm(5, elementwise_affine=affine, bias=False, eps=0.1),
        nn.GroupNorm(3, 6, affine=affine),
        nn.RMSNorm(5, elementwise_affine=affine),
        nn.RMSNorm((4, 5), elementwise_affine=affine, eps=0.1),
    ):
        assert_lowering_matches(trained(norm).to(dtype), x, opset=opset, **tight)


@pytest.mark.parametrize("opset", [13, 17, 23])
def test_half(opset: int) -> None:
    x = torch.randn(2, 6, 5).half() / 64
    for norm in (nn.LayerNorm(5), nn.GroupNorm(3, 6), nn.RMSNorm(5), nn.InstanceNorm1d(6, affine=True)):
        assert_lowering_matches(trained(norm).half(), x, opset=opset, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("opset", "norm", "operator"),
    [(17, nn.LayerNorm(5), "LayerNormalization"), (21, nn.GroupNorm(2, 4), "GroupNormalization"),
     (23, nn.RMSNorm(5), "RMSNormalization"), (13, nn.InstanceNorm1d(4), "InstanceNormalization"),
     (13, nn.LocalResponseNorm(3), "LRN")],
)  # fmt: skip
def test_is_one_operator(opset: int, norm: nn.Module, operator: str) -> None:
    shape = (2, 4, 3, 5) if operator == "LRN" else (2, 4, 5)
    model = assert_lowering_matches(norm, torch.randn(shape), opset=opset, atol=5e-5)
    assert [node.op_type for node in model.graph.node] == [operator]


@pytest.mark.parametrize("opset", [13, 20, 21, 23])
def test_within_a_sample_dynamic(opset: int) -> None:
    dynamic, also = {0: {0: "N", 2: "L"}}, (torch.randn(3, 4, 7),)
    assert_lowering_matches(
        trained(nn.GroupNorm(2, 4)), torch.randn(2, 4, 5), dynamic=dynamic, also=also, opset=opset, atol=5e-5
    )
    lead = {0: {0: "N", 1: "T"}}
    for norm in (nn.LayerNorm(5), nn.RMSNorm(5)):
        assert_lowering_matches(
            trained(norm), torch.randn(2, 4, 5), dynamic=lead, also=(torch.randn(1, 2, 5),), opset=opset
        )
    last = {0: {2: "D"}}
    for function in (lambda x: F.layer_norm(x, x.shape[2:]), lambda x: F.rms_norm(x, x.shape[2:])):
        assert_lowering_matches(
            function, torch.randn(2, 4, 5), dynamic=last, also=also[:0] or (torch.randn(2, 4, 3),), opset=opset
        )


def test_within_a_sample_spellings() -> None:
    x, c = torch.randn(2, 4, 4), torch.rand(4)
    assert_lowering_matches(lambda x, c: torch.layer_norm(x, [4], c, c, 1e-3, False), x, c, atol=5e-5)
    assert_lowering_matches(lambda x, c: torch.group_norm(x, 2, c, c, 1e-3, False), x, c, atol=5e-5)
    assert_lowering_matches(lambda x, c: torch.rms_norm(x, (4,), c), x, c)
    assert_lowering_matches(lambda x: F.group_norm(x, 4), torch.randn(3, 8), atol=5e-5, opset=21)
    assert_lowering_matches(lambda x: F.group_norm(x, 4), torch.randn(3, 8), atol=5e-5, opset=20)


# By channels --------------------------------------------------------------------------------------


@given(shape=shapes, size=few)
def test_response_norm_shape(shape: Any, size: int) -> None:
    assert_shape_matches(lambda x: F.local_response_norm(x, size), torch.empty(shape))
    if size:
        assert_shape_matches(nn.CrossMapLRN2d(size), torch.empty(shape))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32])
def test_response_norm(size: int, rank: int, dtype: torch.dtype) -> None:
    x = torch.randn(2, 7, *[3] * (rank - 2), dtype=dtype) * 3
    assert_lowering_matches(nn.LocalResponseNorm(size, alpha=0.5, beta=0.6, k=2), x)
    assert_lowering_matches(
        lambda x: F.local_response_norm(x, size, 0.5), x,
        dynamic={0: {0: "N", rank - 1: "W"}}, also=(torch.randn(1, *x.shape[1:-1], 5),), opset=13,
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_cross_map_response_norm(size: int) -> None:
    assert_lowering_matches(nn.CrossMapLRN2d(size, alpha=0.5, beta=0.6, k=2), torch.randn(2, 7, 3, 4) * 3)


P = st.sampled_from([0.0, 1.0, 2.0, 2.5, -1.0, float("inf"), float("-inf")])


@given(shape=st.lists(few, max_size=4).map(tuple), p=P, dim=st.integers(-4, 4) | st.none() | st.tuples(few, few))
def test_normalize_shape(shape: Any, p: float, dim: Any) -> None:
    dims = [dim] if isinstance(dim, int) else dim or ()
    if len({axis % max(len(shape), 1) for axis in dims}) < len(dims):
        return  # meta tensors let an axis be named twice; kernels and the rule do not
    if (p < 0 or p == float("inf")) and 0 in shape:
        return  # meta tensors refuse even where the axis itself is not empty; kernels and the rule do not
    assert_shape_matches(lambda x: F.normalize(x, p, dim), torch.empty(shape))


@pytest.mark.parametrize("p", [0.0, 1.0, 2, 2.5, 3, -1.0, float("inf"), float("-inf")])
@pytest.mark.parametrize("dim", [1, -1, (0, 2), None, ()])
@pytest.mark.parametrize("opset", [13, 18])
def test_normalize(p: float, dim: Any, opset: int) -> None:
    x = torch.randn(2, 3, 4)
    x[:, :, 0] = 0
    dynamic = {0: {0: "N", 1: "T"}}
    assert_lowering_matches(
        lambda x: F.normalize(x, p, dim), x, dynamic=dynamic, opset=opset, also=(torch.randn(3, 2, 4),)
    )


def test_normalize_of_zero_and_scalar() -> None:
    assert_lowering_matches(lambda x: F.normalize(x, dim=0), torch.tensor(-3.0))
    assert_lowering_matches(lambda x: F.normalize(x, eps=0.5, dim=-1), torch.tensor([[0.0, 0.0], [0.1, 0.1], [3, 4]]))


def test_an_unbatched_lazy_instance_norm_is_a_surprise() -> None:
    with pytest.warns(tracer.TracerWarning, match="on its second axis, 8, as torch does; give the sample a batch axis"):
        assert tracer.resolve(nn.Sequential(nn.LazyInstanceNorm2d()), tracer.spec(8, 8, 8))[0].num_features == 8
    with pytest.raises(tracer.ShapeError, match="second axis, 8, as torch does, but its channels are the first, 3"):
        tracer.resolve(nn.Sequential(nn.LazyInstanceNorm2d()), tracer.spec(3, 8, 8))
