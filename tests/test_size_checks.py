"""A file that refuses sizes for which it does not hold, with the guard in the runtime's message."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import tracer
from tests.reading import names, properties, run


class Halves(nn.Module):
    """Down and up again, so that both sizes must be even; and two inputs that share a name."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.LazyConv2d(4, 3, 2, 1), nn.LazyConvTranspose2d(3, 2, 2)

    def forward(self, image: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(image).relu()) + image + shift[:, None, None, None]


HALVES = (tracer.spec("N", 3, "H", "W"), tracer.spec("N"))


@pytest.mark.parametrize("opset", [13, 18, 20, 23])
def test_a_file_refuses_what_its_guards_exclude(opset: int, tmp_path: Path) -> None:
    file = tmp_path / "halves.onnx"
    converted = tracer.convert(Halves(), HALVES, file, guards="checked", opset_version=opset)
    for n, h, w in ((1, 2, 4), (3, 6, 2)):
        image, shift = torch.randn(n, 3, h, w), torch.randn(n)
        expected = converted.module(image, shift).detach()
        torch.testing.assert_close(
            torch.from_numpy(run(file, image=image, shift=shift)["output"]), expected, rtol=1e-4, atol=1e-5
        )
    guards = [guard.condition for guard in converted.report.guards]
    assert len(guards) == 2
    assert guards == ["W % 2 == 0", "H % 2 == 0"]
    for (n, h, w), said in {
        (2, 7, 8): "H % 2 == 0",
        (2, 8, 5): "W % 2 == 0",
        (3, 8, 8): "shift.shape[0] == N",
        (2, 0, 8): "H >= 1",
    }.items():
        with pytest.raises(Exception, match=re.escape(f"Name:'{said}'")):
            run(file, image=torch.zeros(n, 3, h, w), shift=torch.zeros(2))


def test_each_guard_is_the_name_of_a_node_and_stands_in_the_properties_too(tmp_path: Path) -> None:
    converted = tracer.convert(Halves(), HALVES, guards="checked", verify=False)
    model = converted.onnx_model
    guards = [guard.condition for guard in converted.report.guards]
    checks = names(node for node in model.graph.node if node.op_type == "Gather")
    assert set(checks) == {*guards, "shift.shape[0] == N", "N >= 1", "H >= 1", "W >= 1"}
    assert [guard["condition"] for guard in properties(model)["lazytracer.guards"]] == guards


def bound(x: torch.Tensor) -> torch.Tensor:
    return x * 2 if x.shape[1] > 3 else x


def different(x: torch.Tensor) -> torch.Tensor:
    return x * 2 if x.shape[0] != x.shape[1] + 1 else x


def fixed(x: torch.Tensor) -> torch.Tensor:
    return x * 2 if x.shape[1] == 64 else x


class Of(nn.Module):
    """A module with the forward it is given."""

    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.call = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(x)


@pytest.mark.parametrize(
    ("forward", "within", "outside"),
    [(bound, (1, 4), (1, 3)), (different, (3, 3), (4, 3)), (fixed, (2, 64), (2, 63))],
)
@pytest.mark.filterwarnings("ignore:.* is fixed at")
def test_relations(
    forward: Callable[[torch.Tensor], torch.Tensor], within: tuple[int, int], outside: tuple[int, int], tmp_path: Path
) -> None:
    file = tmp_path / "of.onnx"
    tracer.convert(Of(forward), tracer.spec("N", "T"), file, guards="checked")
    x = torch.randn(within)
    torch.testing.assert_close(torch.from_numpy(run(file, x=x)["output"]), forward(x))
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT|InvalidArgument|Got invalid dimensions"):
        run(file, x=torch.randn(outside))


def test_a_file_of_fixed_sizes_is_the_same_either_way() -> None:
    plain, checked = (
        tracer.convert(nn.ReLU(), tracer.spec(2, 3), guards=guards, verify=False).onnx_model
        for guards in ("metadata", "checked")
    )
    assert plain.graph == checked.graph
    assert onnx.checker.check_model(checked) is None


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(tracer.InputError, match="there is no guards='graph'"):
        tracer.convert(nn.ReLU(), tracer.spec("N", 3), guards="graph")
    with pytest.raises(tracer.InputError, match="only the direct route"):
        tracer.convert(nn.ReLU(), tracer.spec("N", 3), guards="checked", route="torch")
    with pytest.raises(tracer.UnsupportedOpError, match="leave out guards=checked"):
        tracer.convert(Of(lambda x: torch.linalg.eigh(x @ x.mT)[0]), tracer.spec("N", 3, 3), guards="checked")
