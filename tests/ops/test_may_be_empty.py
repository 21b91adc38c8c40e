"""Operations over a size that only the data say, at no element, one and many, against torch in onnxruntime.

Each is of the rows that a mask lets through, `r` [*, 3], or of them as signals, `s` [1, 3, *].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.ops.oracle import assert_lowering_matches, propagated

Tensor = torch.Tensor
X = torch.tensor(
    [[1.5, -2.0, 0.5], [-1.0, 0.0, 3.0], [2.0, 2.5, -2.25], [0.0, 4.0, 1.0], [-3.0, 1.25, 0.25], [1.0, 1.75, 1.375]]
)
MASKS = {"some": "101100", "none": "000000", "one": "000100", "all": "111111", "two": "011000"}
DATA = {name: (X, torch.tensor([flag == "1" for flag in text])) for name, text in MASKS.items()}

torch.manual_seed(0)
LINEAR, NORM, TABLE, BAG = nn.Linear(3, 4), nn.LayerNorm(3), nn.Embedding(6, 3), nn.EmbeddingBag(6, 3, mode="sum")
CONV, STRIDED, UP, FLAT = (
    nn.Conv1d(3, 2, 3, padding=1),
    nn.Conv1d(3, 2, 2, 2),
    nn.ConvTranspose1d(3, 2, 2),
    nn.Conv2d(1, 1, 1),
)
LSTM, GRU = nn.LSTM(3, 2), nn.GRU(3, 2, batch_first=True, bidirectional=True)
ATTENTION, LAYER = nn.MultiheadAttention(3, 1, batch_first=True), nn.TransformerEncoderLayer(3, 1, 5, batch_first=True)
GROUPS, INSTANCES, BATCHES = nn.GroupNorm(1, 3), nn.InstanceNorm1d(3, affine=True), nn.BatchNorm1d(3)
for _module in (LAYER, INSTANCES, BATCHES, ATTENTION):
    _module.eval()

# Of any number of rows.
ROWS: dict[str, Callable[[Tensor], Any]] = {
    "arithmetic": lambda r: r * 2 - r.exp() / (r.abs() + 1),
    "outer": lambda r: r[None] - r[:, None],
    "lerp": lambda r: (torch.lerp(r, r * 2, 0.5), torch.addcmul(r, r, r), torch.maximum(r, r * 2)),
    "where": lambda r: (
        torch.where(r > 0, r, r * 2), torch.where(r > 0)[0], (r > 0).nonzero(), r.masked_fill(r > 1, 0),
    ),
    "nested": lambda r: (r[r[:, 0] > 0], r[(r > 0).all(1)].mean(0)),
    "sums": lambda r: (r.sum(), r.sum(0), r.sum(1, keepdim=True), r.nansum(0), r.prod(), r.count_nonzero(0)),
    "means": lambda r: (r.mean(), r.mean(0), r.mean(1), r.var(), r.std(0), torch.std_mean(r, 0), torch.var_mean(r, 1)),
    "truth": lambda r: ((r > 0).any(0), (r > 0).all(), (r > 0).any(1)),
    "extremes along rows": lambda r: (r.amax(1), r.argmin(1), r.max(1), r.aminmax(dim=1)),
    "logarithms": lambda r: (r.logsumexp(0), r.logsumexp(1), r.logcumsumexp(0)),
    "norms of rows": lambda r: (r.norm(), r.norm(p=1, dim=1), r.norm(dim=0), F.normalize(r), F.normalize(r, dim=0)),
    "medians": lambda r: (r.median(), r.long().median(), (r.abs() * 9).to(torch.uint8).median(), r.median(1)),
    "softmax": lambda r: (r.softmax(0), r.softmax(1), r.log_softmax(0), F.softmin(r, 1)),
    "running": lambda r: (r.cumsum(0), r.cumprod(1), r.cummax(0), r.cummin(1)),
    "order": lambda r: (r.sort(0), r.argsort(1, descending=True), r.msort(), r.topk(2, 1)),
    "first": lambda r: r.topk(min(2, r.shape[0]), 0),
    "turned": lambda r: (r.flip(0), r.roll(1, 0), r.roll(-5, 0), r.roll(2), r.flipud(), r.rot90(), r.T),
    "rolled by itself": lambda r: r.roll(r.shape[0] // 2, 0),
    "differences": lambda r: (r.diff(dim=0), r.diff(n=2, dim=0), r.diff(dim=1)),
    "slices": lambda r: (r[1:], r[:2], r[-2:], r[:-1], r[::2], r[1:, :2], r.tensor_split(2), r.tensor_split([1, 2])),
    "columns": lambda r: (r.unbind(1), r.split(2, 1), r.chunk(3, 1), r[:, 1], r[..., -1]),
    "joined": lambda r: (
        torch.cat([r, X]), torch.cat([r, r], 1), torch.stack([r, r * 2]), torch.vstack([r, X]), torch.hstack([r, r]),
    ),
    "laid out": lambda r: (
        r.view(-1), r.flatten(), r.reshape(-1, 1, 3), r[:, None].flatten(0, 1), r.reshape(1, r.shape[0], 3),
    ),
    "of pairs": lambda r: (
        (r[:, None] + r).reshape(-1, 3), (r[:, None] + r).flatten(1), (r[:, None] + r).reshape(r.shape[0] ** 2, 3),
    ),
    "repeated": lambda r: (
        r.repeat(2, 1), r.tile(2), r[:, None].expand(-1, 3, -1), r.repeat_interleave(2, 0), r[:1].expand_as(r),
    ),
    "made": lambda r: (
        torch.arange(r.shape[0]), r.new_zeros(r.shape[0], 2), torch.ones_like(r), torch.eye(r.shape[0]),
        torch.linspace(0, 1, r.shape[0]),
    ),
    "numbers": lambda r: (
        r * r.shape[0], r.sum(0) / max(r.shape[0], 1), X * len(r), X * r.numel(), torch.tensor(r.shape),
    ),
    "products": lambda r: (r @ r.T, r.T @ r, r[:, :, None] @ r[:, None], r @ X[0], torch.addmm(torch.ones(3), r.T, r)),
    "sums of products": lambda r: (
        torch.einsum("ni,nj->nij", r, r), torch.einsum("ni,mi->nm", r, X), torch.tensordot(r, r, dims=([0], [0])),
        torch.outer(r[:, 0], r[:, 1]),
    ),
    "distances": lambda r: (
        torch.cdist(r, r), torch.cdist(r, X, p=1), F.pdist(r), F.cosine_similarity(r[:, None], r[None], -1),
    ),
    "triangles": lambda r: (r.tril(), r.triu(1), r.diagonal(), (r @ r.T).trace(), torch.diag_embed(r[:, 0])),
    "causal": lambda r: r.T @ (r @ r.T).masked_fill(torch.ones(r.shape[0], r.shape[0]).triu(1) > 0, -9.0).softmax(-1),
    "grids": lambda r: (torch.meshgrid(r[:, 0], r[:, 1], indexing="xy"), torch.cartesian_prod(r[:, 0], r[:, 1])),
    "positions": lambda r: (
        r + torch.arange(r.shape[0])[:, None], r + TABLE(torch.arange(r.shape[0])), r + X[: r.shape[0]],
    ),
    "gathered": lambda r: (
        r.gather(1, r.argsort(1)), torch.arange(9.0).take(r.long().abs()), X[:, r.long().abs()[:, 0] % 3],
    ),
    "looked for": lambda r: (
        torch.isin(X, r), torch.isin(r, X[:2]), torch.searchsorted(r[:, 0].sort()[0], X[0]),
        torch.bucketize(r, X[0].sort()[0]),
    ),
    "padded": lambda r: (
        F.pad(r, (0, 1, 2, 0)), F.pad(r, (0, 0, 0, -r.shape[0] % 4)), F.pad(r, (0, 0, 0, 6 - r.shape[0])),
    ),
    "layers": lambda r: (LINEAR(r), NORM(r), BATCHES(r), F.rms_norm(r, (3,)), F.bilinear(r, r, torch.ones(2, 3, 3))),
    "activations": lambda r: (
        F.gelu(r), F.hardswish(r), F.prelu(r, torch.ones(1)), F.glu(r[:, :2]), F.dropout(r, 0.5, False),
    ),
    "lookups": lambda r: (
        TABLE(r.long().abs()), F.one_hot(r.long().abs(), 6), BAG(r.long().abs()[:, 0], torch.zeros(1).long()),
    ),
    "attention": lambda r: (
        ATTENTION(r[None], r[None], r[None])[0], F.scaled_dot_product_attention(X[None], r[None], r[None]),
    ),
    "attention of single ones": lambda r: ATTENTION(r[:, None], r[:, None], r[:, None])[0],
    "encoder": lambda r: (LAYER(r[None]), LAYER(r[:, None])),
    "recurrent batches": lambda r: (LSTM(r[None]), LSTM(r[None].expand(4, -1, -1)), GRU(r[:, None])),
    "convolved batches": lambda r: (
        CONV(r[:, :, None]), FLAT(r[:, None, None]), F.pixel_shuffle(r[:, :1, None, None].expand(-1, 4, 2, 2), 2),
    ),
    "pooled batches": lambda r: (
        F.max_pool1d(r[:, None], 2), F.avg_pool1d(r[:, None], 2), F.max_pool1d(r[:, None], 2, return_indices=True),
        F.adaptive_avg_pool1d(r[:, None], 1), F.adaptive_max_pool1d(r[:, None], 1),
    ),
    "normed batches": lambda r: (GROUPS(r[:, :, None]), F.interpolate(r[:, None], scale_factor=2)),
    "of any length": lambda r: (
        F.adaptive_avg_pool1d(r.T[None], 1), F.adaptive_avg_pool2d(r.T[None, :, None], 1),
        F.batch_norm(r.T[None], torch.zeros(3), torch.ones(3)),
    ),
}  # fmt: skip

# As many as there are must be, as torch has it: at least so many rows, which is required of the data.
FROM: dict[str, tuple[int, Callable[[Tensor], Any]]] = {
    "max": (1, lambda r: (r.max(0), r.amax(0), r.argmax(0), r.aminmax(dim=0), r.median(0), r.kthvalue(1, 0))),
    "max of all": (1, lambda r: (r.max(), r.min())),
    "quantile": (1, lambda r: r.quantile(0.5, 0)),
    "norm": (1, lambda r: r.norm(p=torch.inf, dim=0)),
    "element": (1, lambda r: (r[0], r[-1], r.select(0, 0))),
    "second element": (2, lambda r: (r[1], r[-2])),
    "topk": (2, lambda r: r.topk(2, 0)[0]),
    "kthvalue": (2, lambda r: r.kthvalue(2, 0)[0]),
    "narrow": (2, lambda r: r.narrow(0, 1, 1)),
    "split": (1, lambda r: r.split([1, r.shape[0] - 1])),
    "unfold": (2, lambda r: r.unfold(0, 2, 1)),
    "convolution": (2, lambda r: F.conv1d(r.T[None], torch.ones(2, 3, 2))),
    "padded convolution": (1, lambda r: CONV(r.T[None])),
    "strided convolution": (2, lambda r: STRIDED(r.T[None])),
    "pool": (2, lambda r: (F.max_pool1d(r.T[None], 2), F.avg_pool1d(r.T[None], 2))),
    "padded pool": (1, lambda r: F.avg_pool1d(r.T[None], 2, padding=1)),
    "adaptive pool": (1, lambda r: (F.adaptive_avg_pool1d(r.T[None], 2), F.adaptive_max_pool1d(r.T[None], 1))),
    "resized": (1, lambda r: (
        F.interpolate(r.T[None], size=3), F.interpolate(r.T[None], scale_factor=2, mode="linear")),
    ),
    "reflected": (2, lambda r: F.pad(r.T[None], (1, 1), mode="reflect")),
    "replicated": (1, lambda r: F.pad(r.T[None], (1, 1), mode="replicate")),
    "wrapped": (1, lambda r: F.pad(r.T[None], (1, 1), mode="circular")),
    "cropped": (1, lambda r: F.pad(r.T[None], (-1, 0))),
    "one_hot": (1, lambda r: F.one_hot(r.long().abs())),
    "LSTM": (1, lambda r: LSTM(r)),
    "GRU": (1, lambda r: GRU(r[None])),
    "view": (1, lambda r: r.view(r.shape[0], -1)),
}  # fmt: skip


def of_rows(function: Callable[[Tensor], Any]) -> Callable[[Tensor, Tensor], Any]:
    return lambda x, mask: function(x[mask])


def together(names: list[str]) -> Callable[[Tensor, Tensor], Any]:
    return lambda x, mask: [ROWS[name](x[mask]) for name in names]


NAMES = list(ROWS)


# torch says so of a spread of fewer than two elements
few = pytest.mark.filterwarnings(r"ignore:(var|std)\w*\(\). degrees of freedom")


@few
@pytest.mark.parametrize("start", range(0, len(NAMES), 5))
def test_at_none_one_and_many(start: int) -> None:
    """Several in one file: which of them differs, the slow test says."""
    (first, *others) = DATA.values()
    assert_lowering_matches(together(NAMES[start : start + 5]), *first, cases=others)


@few
@pytest.mark.slow
@pytest.mark.parametrize("opset", [13, 17, 20, 23])
@pytest.mark.parametrize("name", NAMES)
def test_each_at_none_one_and_many(name: str, opset: int) -> None:
    (first, *others) = DATA.values()
    assert_lowering_matches(of_rows(ROWS[name]), *first, cases=others, opset=opset)


@pytest.mark.parametrize("name", FROM)
def test_from_so_many_on(name: str) -> None:
    least, function = FROM[name]
    (first, *others) = (data for data in DATA.values() if data[1].sum() >= least)
    assert_lowering_matches(of_rows(function), *first, cases=others)


@pytest.mark.parametrize("name", FROM)
def test_that_is_required_of_the_data(name: str) -> None:
    """And torch refuses fewer."""
    least, function = FROM[name]
    for x, mask in DATA.values():
        if mask.sum() < least:
            with pytest.raises((RuntimeError, IndexError)):
                function(x[mask])
    log = propagated(of_rows(function), *DATA["all"]).log
    assert not any(guard.dynamic for guard in log.guards)
    sizes = [size for size in range(7) if all(eval(guard.condition, {"u0": size}) for guard in log.required)]
    assert sizes == list(range(least, 7))


@pytest.mark.slow
@pytest.mark.parametrize("opset", [13, 17, 23])
@pytest.mark.parametrize("name", FROM)
def test_from_so_many_on_at_other_opsets(name: str, opset: int) -> None:
    least, function = FROM[name]
    (first, *others) = (data for data in DATA.values() if data[1].sum() >= least)
    assert_lowering_matches(of_rows(function), *first, cases=others, opset=opset)


def test_one_spatial_element_is_too_few_for_an_instance_norm() -> None:
    cases = [DATA[name] for name in ("none", "all", "two")]
    assert_lowering_matches(lambda x, m: INSTANCES(x[m].T[None]), *DATA["some"], cases=cases)
    log = propagated(lambda x, m: INSTANCES(x[m].T[None]), *DATA["some"]).log
    assert [guard.condition for guard in log.required] == ["u0 != 1"]


def test_scattered_where_they_came_from() -> None:
    def back(x: Tensor, m: Tensor) -> list[Tensor]:
        places = m.nonzero()[:, 0]
        wide, zeros = places[:, None].expand(-1, 3), torch.zeros(6, 3)
        return [
            zeros.index_add(0, places, x[m]), zeros.index_copy(0, places, x[m]), x.index_fill(0, places, 2.0),
            zeros.scatter(0, wide, x[m]), zeros.scatter(0, wide, 1.0), zeros.scatter_add(0, wide, x[m]),
            zeros.masked_scatter(m[:, None], x[m]), x.masked_scatter(m[:, None], torch.arange(18.0)),
            torch.zeros(6).scatter_add(0, places, torch.ones(places.shape[0])), x.index_select(0, places),
            zeros.scatter_reduce(0, wide, x[m], "amax"), zeros.index_put((places,), x[m]),
            zeros[:, 0].put(places, x[m][:, 0]),
        ]  # fmt: skip

    (first, *others) = DATA.values()
    assert_lowering_matches(back, *first, cases=others)
