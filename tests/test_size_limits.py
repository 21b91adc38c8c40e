"""Which sizes a model takes, and what ends them; every border is held against eager PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tracer import Sizes
from tracer.cli import main


class Of(nn.Module):
    """Some layers, and a forward with them."""

    def __init__(self, forward: Callable[[Of, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 7)
        self.up, self.head = nn.ConvTranspose2d(4, 3, 2, stride=2), nn.Linear(4 * 9, 5)
        self.call = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(self, x)


MODELS: dict[str, tuple[Callable[[Of, torch.Tensor], torch.Tensor], int]] = {
    "a kernel that reaches too far": (lambda m, x: m.second(m.first(x)), 32),
    "pooled away": (lambda m, x: F.max_pool2d(F.max_pool2d(m.first(x), 4), 2), 32),
    "down and up again": (lambda m, x: m.up(m.first(x)) + x, 32),
    "reflected": (lambda m, x: F.pad(m.first(x), (5, 5, 5, 5), mode="reflect"), 32),
    "a view of eights": (lambda m, x: x.view(x.shape[0], x.shape[1], -1, 8, x.shape[3]), 32),
    "a head for one size": (lambda m, x: m.head(m.first(x).flatten(1)), 6),
    "any": (lambda m, x: m.first(x).relu(), 32),
}


def runs(model: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        model(torch.zeros(shape))
    except (RuntimeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("kind", MODELS)
def test_the_sizes_that_are_said_to_work_are_those_that_work(kind: str) -> None:
    forward, side = MODELS[kind]
    model = Of(forward).eval()
    limits = tracer.sizes(model, torch.zeros(1, 3, side, side))["H"]
    first = 2 if kind == "down and up again" else 1  # one row is broadcast, which is another program
    said = {size for size in range(first, 70) if eval_condition(limits.condition, size)}
    assert said == {size for size in range(first, 70) if runs(model, (1, 3, size, side))}
    for border in (limits.lower, limits.upper):
        assert border is None or border.size in said


def eval_condition(condition: str, size: int) -> bool:
    """Whether a condition on H, in the words of a report, holds."""
    return all(eval(part, {"H": size}) for part in condition.split(", ") if part)


def test_the_layer_that_ends_them_is_named_with_its_line() -> None:
    limits = tracer.sizes(Of(MODELS["a kernel that reaches too far"][0]), torch.zeros(1, 3, 32, 32))
    lower = limits["H"].lower
    assert lower is not None
    assert (lower.size, lower.layer, lower.location.path) == (13, "Conv2d", "second")
    assert str(lower).startswith("H >= 13  at Conv2d second (test_size_limits.py:")
    assert 13 in limits["H"]
    assert 12 not in limits["H"]


def test_fixed_sizes_are_named_and_those_that_weights_decide_have_one_size() -> None:
    limits = tracer.sizes(Of(MODELS["any"][0]), torch.zeros(2, 3, 32, 32))
    assert [limit.axes for limit in limits] == [(f"x.shape[{axis}]",) for axis in range(4)]
    assert limits["C"].condition == "C == 3"
    assert str(limits).splitlines()[0] == "x.shape[0] = N: N >= 1"


def test_lazy_layers_leave_their_sizes_open() -> None:
    limits = tracer.sizes(nn.Sequential(nn.LazyConv2d(4, 5), nn.Flatten(), nn.LazyLinear(3)), tracer.spec(1, 3, "H", 9))
    assert limits["H"].condition == "H >= 5"


def test_promises_are_borders_too_and_plain_data_says_all() -> None:
    limits: Sizes = tracer.sizes(Of(MODELS["any"][0]), tracer.spec("N", 3, "H", 32, "8 <= H <= 64"))
    assert limits["H"].condition == "8 <= H <= 64"
    found = next(entry for entry in limits.to_dict()["sizes"] if entry["name"] == "H")
    assert (found["lower"]["size"], found["upper"]["size"], found["sampled"]) == (8, 64, 64)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(tracer.InputError, match=r"not a torch\.nn\.Module"):
        tracer.sizes(int, tracer.spec("N", 3))  # type: ignore[arg-type]


def test_inspect_shows_them_after_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\nnet = nn.Sequential(nn.LazyConv2d(4, 5), nn.ReLU())\n")
    said: dict[str, str] = {}
    for command in ("sizes", "inspect", "inspect --sizes", "inspect --program", "inspect --program --sizes"):
        name, *options = command.split()
        assert main([name, f"{file}:net", "-i", "Nx3xHxW", *options]) == 0
        said[command] = capsys.readouterr().out
    assert "H: H >= 5" in said["sizes"]
    for table in ("inspect", "inspect --program"):
        assert said[f"{table} --sizes"] == f"{said[table]}\n{said['sizes']}"
    facts = []
    for command in (["sizes"], ["inspect"], ["inspect", "--sizes"]):
        assert main([command[0], f"{file}:net", "-i", "Nx3xHxW", "--json", "-", *command[1:]]) == 0
        facts.append(json.loads(capsys.readouterr().out))
    assert facts[2] == {**facts[1], **facts[0]}
    assert main(["inspect", f"{file}:net", "-i", "1x3x8x8", "-i", "1x3x9x9", "--compare", "--sizes"]) == 2
    assert "--sizes is of one sample, --compare of several" in capsys.readouterr().err
