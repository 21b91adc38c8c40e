"""Sizes that only the data say: what is computed with them, at none, one and many elements, beside eager PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tests.reading import run
from tracer import TracerError

FREE, FIXED = tracer.spec("N", 6), tracer.spec(5, 6)


class Calling(nn.Module):
    """A function as a module, with a lazy layer for it to call."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function, self.layer = function, nn.LazyLinear(4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.layer, x)


def rows(x: torch.Tensor) -> torch.Tensor:
    """The rows with a positive sum: how many there are is for the data to say."""
    return x[x.sum(-1) > 0]


def two_masks(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    positive, negative = rows(x), -rows(-x)
    return torch.cat([layer(positive), layer(negative)])


def one_mask_twice(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    mask = x.sum(-1) > 0
    return torch.cat([layer(x[mask]), (x * 2)[mask], x[mask] - x[mask][:, :1]], 1)


def written(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y, mask = x.clone(), x > 0.5
    y[mask] = x[mask] * 2
    y[:, 1:3][y[:, 1:3] < 0] *= 3
    return layer(y)


def scattered(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    mask = x > 0
    return layer(torch.zeros_like(x).masked_scatter(mask, x.masked_select(mask) + 1))


def attended(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = layer(rows(x))
    return F.softmax(y @ y.T, -1) @ y


def counted(layer: nn.Module, x: torch.Tensor) -> Any:
    n = (x > 0).sum()
    return torch.arange(n.item()) * 2, torch.zeros(n, 3) + layer(x).sum(), rows(x).shape[0] * layer(x)


def averaged(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = rows(x)
    return layer(y).sum(0) / max(y.shape[0], 1)


def by_pairs(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = rows(torch.cat([x, x]))
    return layer(y).reshape(-1, 2, 4).flatten(1)


def filtered_twice(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = layer(rows(x))
    return y[y[:, 0] > 0].view(-1, 2, 2).transpose(1, 2)


PROGRAMS = [
    lambda layer, x: layer(rows(x)),
    lambda layer, x: (layer(x), x.nonzero(), torch.where(x > 1), torch.argwhere(x[:, 0] > 0)),
    lambda layer, x: layer(x)[x[:, 0] > 0, 1:3],
    lambda layer, x: (x[:, x[0] > 0], layer(x)),
    lambda layer, x: x[None, x > 0][..., None] + layer(x).sum(),
    lambda layer, x: torch.cat([rows(x), x])[:, :2].sum() + layer(x),
    lambda layer, x: layer(rows(x)).unsqueeze(0) * x[:, None, :4],
    lambda layer, x: F.pad(layer(rows(x)), (0, 0, 1, 2)).cumsum(0),
    two_masks, one_mask_twice, written, scattered, attended, counted, averaged, by_pairs, filtered_twice,
]  # fmt: skip

torch.manual_seed(0)
_SAMPLE = torch.randn(5, 6)
_ONE = -_SAMPLE.abs()
_ONE[2] *= -1
DATA = {"many": _SAMPLE, "all": _SAMPLE.abs(), "none": -_SAMPLE.abs(), "one": _ONE}


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("sample", [FREE, FIXED], ids=["free", "fixed"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_file_agrees_at_none_one_and_many(program: Any, sample: Any, opset: int, tmp_path: Path) -> None:
    model = Calling(program).eval()
    eager = tracer.resolve(model, (sample,), seed=0)
    file = tmp_path / "net.onnx"
    tracer.convert(model, (sample,), file, seed=0, opset_version=opset, route="direct", verify=False)
    data = [*DATA.values(), *([torch.cat([_SAMPLE, _ONE])] if sample is FREE else [])]
    for x in data:
        expected = torch.utils._pytree.tree_leaves(eager(x))
        for ours, theirs in zip(run(file, x=x).values(), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-5)


def test_what_is_known_of_them_is_told(tmp_path: Path) -> None:
    model = Calling(lambda layer, x: layer(rows(x)).reshape(-1, 8))
    report = tracer.inspect(model, (FREE,))
    assert report.outputs == ["float32[u0//2, 8]"]
    (size,) = report.from_data
    assert size.startswith("u0 is the number of elements that are not zero, at the model's forward (test_unknown_sizes")
    assert size.endswith("; 0 <= u0 <= N")
    assert [guard.condition for guard in report.required] == ["u0 % 2 == 0"]
    assert report.guards == []
    assert report.statement == "valid for N >= 1"
    tracer.convert(model, (FREE,), tmp_path / "net.onnx")
    stored = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert json.loads(stored["lazytracer.from_data"]) == report.from_data == report.to_dict()["from_data"]
    assert json.loads(stored["lazytracer.required"])[0]["condition"] == "u0 % 2 == 0"


def test_what_must_agree_is_required_of_the_data() -> None:
    """One answer to a question ends in torch's refusal, so that the other one holds wherever the model runs."""
    report = tracer.inspect(Calling(lambda layer, x: torch.cat([layer(rows(x)), rows(-x)], 1)), (FIXED,))
    assert [guard.condition for guard in report.required] == ["u1 == u0"]
    assert report.outputs == ["float32[u0, 10]"]


def branching(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x, y = layer(x), rows(x)
    return y if y.shape[0] > 0 else x


def keyed(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer(x) * {0: 1.0}.get(rows(x).shape[0], 2.0)


def looping(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for _ in range(rows(x).shape[0]):
        x = x + 1
    return layer(x)


@pytest.mark.parametrize("program", [branching, keyed, looping])
def test_python_cannot_decide_by_them(program: Any, tmp_path: Path) -> None:
    with pytest.raises(TracerError, match="u0") as caught:
        tracer.convert(Calling(program), (FREE,), tmp_path / "net.onnx", route="direct")
    assert "test_unknown_sizes.py" in str(caught.value)
    assert "torch.cond" in str(caught.value) or "fixed" in str(caught.value)
    assert not (tmp_path / "net.onnx").exists()


def test_lazy_layer_of_unknown_width_is_refused() -> None:
    with pytest.raises(TracerError, match="u0") as caught:
        tracer.resolve(Calling(lambda layer, x: layer(x[:, x[0] > 0])), (FREE,))
    assert "layer" in str(caught.value)
    assert "number of elements that are not zero" in str(caught.value)


def test_none_of_it_where_nothing_is_unknown() -> None:
    report = tracer.inspect(Calling(lambda layer, x: layer(x)), (FREE,))
    assert report.from_data == report.required == []


def test_verification_tries_other_numbers_of_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is wrong only where nothing is found is found out, though something is found in the sample."""
    from passes.ops import nonzero

    def wrong_of_none(emit: Any, call: Any) -> Any:
        found = lower(emit, call)
        count = emit.node("ReduceSum", emit.cast(emit.cast(call.mask, torch.bool), torch.float32), keepdims=0)
        none = emit.cast(emit.node("Not", emit.node("Cast", count, to=onnx.TensorProto.BOOL)), torch.float32)
        return emit.node(
            "Pad",
            found,
            emit.node(
                "Reshape",
                emit.cast(
                    emit.node(
                        "Concat",
                        emit.node("Reshape", none, emit.ints(1)),
                        emit.node("Reshape", none, emit.ints(1)),
                        axis=0,
                    ),
                    torch.int64,
                ),
                emit.ints(2),
            ),
        )

    lower = nonzero.masked_select.lowering
    assert lower is not None
    model = Calling(lambda layer, x: x.masked_select(x > 0) + layer(x).sum() * 0)
    sample = (_SAMPLE,)
    assert {c.difference for c in tracer.convert(model, sample).verification.comparisons} == {0.0}
    monkeypatch.setattr(nonzero.masked_select, "lowering", wrong_of_none)
    with pytest.raises(tracer.VerificationError, match="on other data"):
        tracer.convert(model, sample)
