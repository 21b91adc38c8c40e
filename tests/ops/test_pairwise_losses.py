"""Losses that compare element by element against torch: shapes and dtypes on real tensors, values in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from passes.errors import ShapeError
from passes.torch_private import native_nn
from tests.ops.oracle import assert_lowering_matches, assert_shape_matches, propagated

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a target size:UserWarning"),
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning"),
    pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning"),
    pytest.mark.filterwarnings("ignore:reduction='elementwise_mean':UserWarning"),
]

Loss = Callable[..., torch.Tensor]
REDUCTIONS = ("none", "mean", "sum")
LOOSE = {"rtol": 1e-2, "atol": 1e-2}
TIGHT = {"rtol": 1e-9, "atol": 1e-10}

# Each loss with its options; inputs are probabilities where it takes nothing else.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "l1_loss": [{}],
    "mse_loss": [{}],
    "smooth_l1_loss": [{}, {"beta": 0.3}, {"beta": 0}, {"beta": 2}],
    "huber_loss": [{}, {"delta": 0.3}, {"delta": 2}],
    "binary_cross_entropy": [{}],
    "binary_cross_entropy_with_logits": [{}],
    "kl_div": [{}, {"log_target": True}],
    "poisson_nll_loss": [{}, {"log_input": False}, {"full": True}, {"log_input": False, "full": True, "eps": 0.1}],
    "soft_margin_loss": [{}],
}
WEIGHTED = ["l1_loss", "mse_loss", "huber_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"]


def variants(name: str) -> list[Loss]:
    """The loss with each of its options and reductions."""
    return [
        partial(getattr(F, name), reduction=reduction, **options)
        for options in OPTIONS[name]
        for reduction in (*REDUCTIONS, *(["batchmean"] if name == "kl_div" else []))
    ]


def together(losses: list[Loss]) -> Callable[..., tuple[torch.Tensor, ...]]:
    return lambda *operands: tuple(loss(*operands) for loss in losses)


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(shape) * 0.8 + 0.1, torch.rand(shape) * 3 * 0.3 + 0.05


# Shapes and dtypes ----------------------------------------------------------------------------------

shapes = st.sampled_from([(2, 3), (3,), (), (1,), (2, 1), (0, 3), (2, 4)])
dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])
losses = st.sampled_from([loss for name in OPTIONS for loss in variants(name)])


def filled(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.full(shape, 0.5).to(dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype)


@settings(max_examples=15)
@given(loss=losses, input=shapes, target=shapes, a=dtypes, b=dtypes)
def test_shape_and_dtype(loss: Loss, input: Any, target: Any, a: torch.dtype, b: torch.dtype) -> None:
    assert_shape_matches(loss, filled(input, a), filled(target, b), device="cpu")
    assert_shape_matches(loss, filled(input, a), filled(input, a), device="cpu")
    assert_shape_matches(loss, filled(input, torch.float32), filled(target, torch.float64), device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_every_pair_of_dtypes(name: str) -> None:
    kinds = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool]
    for loss in variants(name):
        for a in kinds:
            for b in kinds:
                assert_shape_matches(loss, filled((2, 3), a), filled((2, 3), b), device="cpu")
                assert_shape_matches(loss, filled((2, 3), a), filled((), b), device="cpu")


@settings(max_examples=6)
@given(
    name=st.sampled_from(WEIGHTED),
    reduction=st.sampled_from(REDUCTIONS),
    weight=st.sampled_from([(2, 3), (3,), (1,), (), (2, 1), (2, 2, 3), (4,)]),
    kinds=st.tuples(dtypes, dtypes, dtypes),
)
def test_weighted_shape_and_dtype(name: str, reduction: str, weight: Any, kinds: Any) -> None:
    def loss(input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return getattr(F, name)(input, target, weight=weight, reduction=reduction)

    a, b, c = kinds
    assert_shape_matches(loss, filled((2, 3), a), filled((2, 3), b), filled((2, 3), c), device="cpu")
    assert_shape_matches(loss, filled((2, 3), a), filled((2, 3), a), filled((2, 3), c), device="cpu")
    assert_shape_matches(loss, filled((2, 3), a), filled((2, 3), a), filled(weight, a), device="cpu")


@given(
    shapes=st.tuples(shapes, shapes),
    var=st.sampled_from([0.5, 0.0, -1.0, (2, 3), (2,), (2, 1), (1, 3), (1,), (), (3,), (0, 1)]),
    full=st.booleans(),
    kinds=st.tuples(dtypes, dtypes, dtypes),
)
def test_gaussian_shape_and_dtype(shapes: Any, var: Any, full: bool, kinds: Any) -> None:
    for a, b, c in (kinds, (torch.float32, torch.float32, torch.float32)):
        operands = [filled(shapes[0], a), filled(shapes[1], b)]
        if isinstance(var, float):
            assert_shape_matches(lambda x, t: F.gaussian_nll_loss(x, t, var, full=full), *operands, device="cpu")
        else:
            operands.append(filled(var, c))
            assert_shape_matches(lambda x, t, v: F.gaussian_nll_loss(x, t, v, full=full), *operands, device="cpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: F.mse_loss(x, y[:, :2]), r"mse_loss do not broadcast: input \[2, 3\], target \[2, 2\]"),
        (lambda x, y: F.mse_loss(x, y, reduction="avg"), "reduction is 'avg', not one of 'none', 'mean', 'sum'"),
        (lambda x, y: F.binary_cross_entropy(x, y[0]), r"input and target of one shape, found \[2, 3\] and \[3\]"),
        (lambda x, y: F.binary_cross_entropy(x, y.double()), "of one dtype, found torch.float32 and torch.float64"),
        (lambda x, y: F.huber_loss(x, y, delta=0), "delta above 0, found 0"),
        (lambda x, y: F.smooth_l1_loss(x, y, beta=-1.0), "beta of at least 0, found -1.0"),
        (lambda x, y: F.kl_div(x, y.long()), "kl_div needs a floating-point target, found torch.int64"),
        (lambda x, y: F.mse_loss(x, y, weight=y[0]), r"input and weight of one shape, found \[2, 3\] and \[3\]"),
        (lambda x, y: F.gaussian_nll_loss(x, y, y[:1, :2]), r"the variance \[1, 2\] is neither of the input's shape"),
        (lambda x, y: F.gaussian_nll_loss(x, y, -0.5), "a variance is at least 0, found -0.5"),
        (lambda x, y: native_nn.mse_loss(x, y, 7), r"reduced by 0 \(not\), 1 \(mean\) or 2 \(sum\), not 7"),
    ],
)
def test_messages_name_the_operands(call: Loss, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        propagated(call, *pair(2, 3))


# Values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_values(name: str) -> None:
    """In every option and dtype; broadcast, where torch broadcasts."""
    x, y = pair(2, 3)
    loss = together(variants(name))
    assert_lowering_matches(loss, x, y if name.startswith("binary") else y[:1], opset=13)
    assert_lowering_matches(loss, x.double(), y.double(), opset=23, **TIGHT)


def test_half() -> None:
    """All of them at once."""
    x, y = pair(2, 3)
    losses = [loss for name in OPTIONS for loss in variants(name) if loss.keywords["reduction"] == "mean"]  # type: ignore[attr-defined]
    assert_lowering_matches(together(losses), x.half(), y.half(), **LOOSE)


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(13, 24))
@pytest.mark.parametrize("name", OPTIONS)
def test_opsets(name: str, opset: int) -> None:
    loss = together(variants(name))
    for x, y in (pair(2, 3), pair()):
        assert_lowering_matches(loss, x, y, opset=opset)
        assert_lowering_matches(loss, x.double(), y.double(), opset=opset, **TIGHT)
        assert_lowering_matches(loss, x.half(), y.half(), opset=opset, **LOOSE)


def test_mixed_dtypes() -> None:
    x, y = pair(2, 3)
    loss = together([loss for name in ("mse_loss", "huber_loss", "poisson_nll_loss") for loss in variants(name)[:3]])
    for target in ((y * 5).long(), y.double().mean()):
        assert_lowering_matches(loss, x, target)
    assert_lowering_matches(loss, x.half(), y, **LOOSE)


@pytest.mark.parametrize("name", OPTIONS)
def test_special_numbers(name: str) -> None:
    """Zeros, infinities and nan come out as in torch, but where it refuses them: what is no probability."""
    inf, nan = math.inf, math.nan
    numbers = (
        [0.0, 1.0, 0.5, 1e-30] if name == "binary_cross_entropy" else [0.0, 1.0, -2.0, inf, -inf, nan, 90.0, -120.0]
    )
    grid = torch.cartesian_prod(torch.tensor(numbers), torch.tensor(numbers))
    losses = [loss for loss in variants(name) if loss.keywords["reduction"] == "none"]  # type: ignore[attr-defined]
    assert_lowering_matches(together(losses), grid[:, 0], grid[:, 1])


@pytest.mark.parametrize("name", OPTIONS)
def test_dynamic_and_empty(name: str) -> None:
    """The mean of an empty batch is nan, its sum 0."""
    dynamic = {0: {0: "N", 1: "C"}, 1: {0: "N", 1: "C"}}
    assert_lowering_matches(together(variants(name)), *pair(2, 3), dynamic=dynamic, also=pair(0, 4))


def test_of_nothing() -> None:
    losses = [loss for name in OPTIONS for loss in variants(name)[:3]]
    assert_lowering_matches(together(losses), *pair(0, 3))
    assert_lowering_matches(together(losses), *pair())


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights(name: str) -> None:
    def all_of(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> Any:
        return tuple(getattr(F, name)(x, y, weight=w, reduction=reduction) for reduction in REDUCTIONS)

    x, y = pair(2, 3)
    weight = torch.rand(2, 3) * 4
    assert_lowering_matches(all_of, x.double(), y.double(), weight.double(), **TIGHT)
    dynamic = {place: {0: "N"} for place in range(3)}
    assert_lowering_matches(all_of, x, y, weight, dynamic=dynamic, also=(*pair(0, 3), torch.rand(0, 3)))
    if name.startswith("binary"):
        assert_lowering_matches(all_of, x, y, weight[0])


def test_weights_of_integers() -> None:
    x, y, w = torch.tensor([3, 1, 7]), torch.tensor([1, 5, 7]), torch.tensor([1, 2, 3])
    for loss in (F.l1_loss, F.mse_loss):

        def all_of(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, loss: Loss = loss) -> Any:
            return tuple(loss(x, y, weight=w, reduction=reduction) for reduction in REDUCTIONS)

        assert_lowering_matches(all_of, x, y, w)
    assert_lowering_matches(lambda x, y: F.l1_loss(x, y, reduction="sum"), x, y)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1,), ()])
def test_weights_of_the_positive(shape: tuple[int, ...]) -> None:
    layer = nn.BCEWithLogitsLoss(weight=torch.rand(3), pos_weight=torch.rand(shape) * 3)
    x, y = pair(2, 3)
    model = assert_lowering_matches(layer, x, y)
    assert {"weight", "pos_weight"} <= {initializer.name for initializer in model.graph.initializer}


@pytest.mark.parametrize("full", [False, True])
def test_gaussian(full: bool) -> None:
    """A variance for each number, for each row, for each column, for all, as a number, and one that is 0."""

    def all_of(x: torch.Tensor, y: torch.Tensor, *variances: torch.Tensor) -> Any:
        found = [F.gaussian_nll_loss(x, y, v, full, reduction=r) for v in variances for r in REDUCTIONS]
        return (*found, *(F.gaussian_nll_loss(x, y, v, full, 1e-3, r) for v in (0.3, 0.0) for r in REDUCTIONS))

    x, y = pair(2, 3)
    variances = [torch.rand(2, 3), torch.rand(2), torch.rand(2, 1), torch.rand(1, 3), torch.zeros(2, 3)]
    variances = [each for each in variances if each.shape != (1, 3)] if full else variances
    assert_lowering_matches(all_of, x, y, *variances)
    dynamic = {0: {0: "N", 1: "C"}, 1: {0: "N", 1: "C"}, 2: {0: "N", 1: "C"}}
    also = (*pair(0, 4), torch.rand(0, 4))
    assert_lowering_matches(all_of, x, y, variances[0], dynamic=dynamic, also=also)
    assert_lowering_matches(all_of, x.double(), y.double(), variances[0].double(), **TIGHT)


# Spellings ------------------------------------------------------------------------------------------

MODULES: list[nn.Module] = [
    nn.L1Loss(),
    nn.MSELoss(reduction="sum"),
    nn.SmoothL1Loss(beta=0.5),
    nn.HuberLoss(delta=0.5),
    nn.BCELoss(torch.rand(3)),
    nn.BCEWithLogitsLoss(reduction="none"),
    nn.KLDivLoss(reduction="batchmean", log_target=True),
    nn.PoissonNLLLoss(log_input=False, full=True, eps=0.1),
    nn.SoftMarginLoss(),
]


@pytest.mark.parametrize("layer", MODULES, ids=lambda layer: type(layer).__name__)
def test_modules(layer: nn.Module) -> None:
    assert_lowering_matches(layer, *pair(2, 3), dynamic={0: {0: "N"}, 1: {0: "N"}})


def test_gaussian_module() -> None:
    assert_lowering_matches(nn.GaussianNLLLoss(full=True, eps=0.1), *pair(2, 3), torch.rand(2, 3))


def test_what_once_asked_for_a_reduction() -> None:
    """Deprecated arguments, which come before any other reduction."""
    layers = [
        nn.MSELoss(reduce=False),
        nn.MSELoss(size_average=False),
        nn.KLDivLoss(size_average=False, reduce=True),
        nn.L1Loss(reduction="elementwise_mean"),
    ]
    calls = [
        lambda x, y: F.mse_loss(x, y, reduce=False),
        lambda x, y: F.mse_loss(x, y, False, reduction="mean"),
        lambda x, y: F.smooth_l1_loss(x, y, size_average=True, reduction="sum"),
        lambda x, y: F.kl_div(x, y, size_average=True, reduction="batchmean"),
        lambda x, y: F.soft_margin_loss(x, y, True, False),
    ]
    assert_lowering_matches(together([*layers, *calls]), *pair(2, 3))


NATIVE: dict[str, Callable[..., Any]] = {
    "l1_loss": lambda loss, x, y, *r: loss(x, y, *r),
    "mse_loss": lambda loss, x, y, *r: loss(x, y, *r),
    "smooth_l1_loss": lambda loss, x, y, *r: loss(x, y, *r, beta=0.5),
    "huber_loss": lambda loss, x, y, *r: loss(x, y, *r),
    "binary_cross_entropy": lambda loss, x, y, *r: loss(x, y, None, *r),
    "binary_cross_entropy_with_logits": lambda loss, x, y, *r: loss(x, y, None, x[0] * 2, *r),
    "kl_div": lambda loss, x, y, *r: loss(x, y, *r, log_target=True),
    "soft_margin_loss": lambda loss, x, y, *r: loss(x, y, *r),
    "poisson_nll_loss": lambda loss, x, y, *r: loss(x, y, False, True, 0.1, *(r or [0])),
}


@pytest.mark.parametrize("name", NATIVE)
def test_native_functions(name: str) -> None:
    """Their reduction is a number; where it is not given, torch's Python reduces nothing, and aten takes the mean."""
    losses = [getattr(home, name) for home in (torch, native_nn, torch.ops.aten) if hasattr(home, name)]
    assert len(losses) == 2

    def all_of(x: torch.Tensor, y: torch.Tensor) -> Any:
        return tuple(NATIVE[name](loss, x, y, *given) for loss in losses for given in ([], [0], [1], [2]))

    assert_lowering_matches(all_of, *pair(2, 3))


def test_native_functions_do_not_expand() -> None:
    """So that a tensor without axes does not widen the result."""
    x, y = pair(2, 3)
    both = together([F.mse_loss, native_nn.mse_loss, torch.ops.aten.mse_loss.default])
    assert_lowering_matches(both, x, y.double().mean())
