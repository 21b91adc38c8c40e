"""Random forwards over sizes that only the data say agree with eager PyTorch, at no element, at one and at many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tracer
from passes.errors import TracerError
from passes.values.nested import leaves
from tests.data_programs import Straight, random_program
from tests.reading import run

# Sums of such numbers are exact, so that no rounding decides what is found.
torch.manual_seed(1)
X = (torch.randn(6, 3) * 4).round() / 4


def flags(text: str) -> torch.Tensor:
    return torch.tensor([flag == "1" for flag in text])


DATA = {
    "some": (X, flags("101100")),
    "none": (X, flags("000000")),
    "one": (-X.abs(), flags("000100")),
    "all": (X.abs() + 0.25, flags("111111")),
    "others": (X * 2, flags("011001")),
}
SHORTER = {"four": (X[:4], flags("0110")), "two": (X[:2] * 2, flags("01"))}


def eager(model: Straight, data: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor] | None:
    """What the program gives, or None where its sizes do not fit."""
    try:
        with torch.no_grad():
            return list(leaves(model(*data)))
    except (RuntimeError, IndexError):
        return None


def agrees(seed: int, free: bool, folder: Path, opset: int = 20) -> bool | None:
    """Whether the file gives what the program gives, at all data that the program itself runs on; False where the
    program is refused, None where it runs nowhere."""
    program = random_program(seed, 8)
    model = Straight(program).eval()
    every = {**DATA, **(SHORTER if free else {})}
    expected = {name: (data, found) for name, data in every.items() if (found := eager(model, data)) is not None}
    if not expected:
        return None
    shapes = ({0: "N"}, {0: "N"}) if free else None
    options: dict[str, Any] = {"dynamic_shapes": shapes, "opset_version": opset, "route": "direct", "verify": False}
    try:
        report = tracer.convert(model, DATA["some"], folder / "net.onnx", **options).report
    except TracerError:
        return False
    guards = [guard.condition for guard in report.guards if guard.dynamic]
    for name, ((x, m), theirs) in expected.items():
        if not all(eval(guard, {"N": len(x)}) for guard in guards):
            continue
        ours = list(run(folder / "net.onnx", x=x, m=m).values())
        assert len(ours) == len(theirs)
        for result, found, value in zip(program.results, ours, theirs, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(found), value, rtol=1e-4, atol=1e-5, equal_nan=True,
                msg=lambda text, at=f"{result} at {name}": f"{at}: {text}\n{program}",
            )  # fmt: skip
    return True


@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("seed", range(8))
def test_random_program_agrees(seed: int, free: bool, tmp_path: Path) -> None:
    assert agrees(seed, free, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("opset", [17, 20, 23])
def test_many_random_programs_agree(opset: int, free: bool, tmp_path: Path) -> None:
    found = [agrees(seed, free, tmp_path, opset) for seed in range(100, 400)]
    ran = [outcome for outcome in found if outcome is not None]
    assert len(ran) > 250
    assert ran.count(False) <= len(ran) // 20
