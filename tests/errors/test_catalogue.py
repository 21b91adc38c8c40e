"""Every broken model of the catalogue: what its error says, in the library and on the command line."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tracer
from tests.errors import forwards, layers, shapes
from tests.errors.case import Case, cases_of
from tracer.cli import main
from tracer.cli.loading import load_inputs

REPOSITORY = Path(__file__).parent.parent.parent
CASES = cases_of(layers, shapes, forwards)
USAGE = 2


def named(case: Case) -> str:
    return case.model.__name__


def check_text(text: str, case: Case) -> None:
    """The message with its parts: place, numbers, chain, remedy; the other faults after it."""
    first, *others = text.split("\nalso: ")
    marks = case.lines("here")
    assert len(marks) == (0 if issubclass(case.error, tracer.InputError) else 1)
    place = case.path or "the model's forward"
    for line in marks:
        assert f"{place} ({Path(case.file).name}:{line})" in first
    for part in case.says:
        assert part in first.partition("\n  inputs:")[0]
    steps = "\n".join(line for line in first.splitlines() if line.startswith("  from: "))
    position = 0
    for part in case.chain:
        position = steps.find(part, position)
        assert position >= 0, f"{part!r} is not in its place in:\n{steps}"
    remedies = [line for line in first.splitlines() if line.startswith("  remedy: ")]
    assert len(remedies) == 1
    assert case.remedy in remedies[0]
    assert len(others) == len(case.also)
    for other, line, (path, part) in zip(others, case.lines("and here"), case.also, strict=True):
        assert other.startswith(f"{path} ({Path(case.file).name}:{line})")
        assert part in other


def test_there_are_enough() -> None:
    assert len(CASES) >= 40
    assert all(case.says for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_the_library_says_what_is_wrong(case: Case) -> None:
    args, kwargs = load_inputs(case.sample.split())
    model = case.model()
    with pytest.raises(tracer.TracerError) as info:
        tracer.convert(model, args, kwargs=kwargs, route="direct")
    assert type(info.value) is case.error
    check_text(str(info.value), case)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_the_command_line_says_the_same_and_writes_nothing(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    subject = [f"{case.file}:{case.model.__name__}", *(word for text in case.sample.split() for word in ("-i", text))]
    commands = [["convert", *subject, "-o", "net.onnx", "--route", "direct"]]
    if not case.exports_only:
        commands.append(["inspect", *subject])
    for command in commands:
        status = main(command)
        _, err = capsys.readouterr()
        assert status == (USAGE if issubclass(case.error, tracer.InputError) else 1)
        assert err.startswith("error: ")
        assert err.count("error: ") == 1
        assert "Traceback" not in err
        assert "bug" not in err
        check_text(err, case)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", [CASES[0], CASES[-1]], ids=named)
def test_a_process_ends_with_the_status(case: Case, tmp_path: Path) -> None:
    inputs = [word for text in case.sample.split() for word in ("-i", text)]
    model = f"{case.file}:{case.model.__name__}"
    command = [sys.executable, "-m", "tracer", "convert", model, *inputs, "-o", "net.onnx"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (USAGE if issubclass(case.error, tracer.InputError) else 1)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    check_text(done.stderr, case)
    assert list(tmp_path.iterdir()) == []


# What is known in spite of the fault ----------------------------------------------------------------

THREE = f"{inspect.getsourcefile(layers)}:ThreeIndependentFaults"


def test_inspect_prints_the_table_up_to_the_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", THREE, "-i", "Nx3x16x16"]) == 1
    out, _ = capsys.readouterr()
    flat = " ".join(out.split())
    assert "ThreeIndependentFaults, as far as it is known" in flat
    assert "stem" in flat
    assert not any(path in flat for path in ("head", "side", "norm"))


def test_json_has_every_fault_and_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", THREE, "-i", "Nx3x16x16", "--json", "-"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert [error["path"], *(other["path"] for other in error["others"])] == ["head", "side", "norm"]
    assert [layer["path"] for layer in error["report"]["layers"]] == ["stem"]


def test_the_library_has_the_report_of_what_is_known() -> None:
    with pytest.raises(tracer.ShapeError) as info:
        tracer.inspect(layers.ThreeIndependentFaults(), tracer.spec("N", 3, 16, 16))
    report = info.value.report
    assert report.resolved == {"stem": {"in_channels": 3}}
    assert report.inputs == {"x": "float32[N, 3, 16, 16]"}
    assert report.outputs == []


def test_a_layer_that_cannot_be_known_is_not_blamed() -> None:
    """What depends on a fault is no fault: not the layer after it, nor the weight of a lazy layer that failed."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wrong, self.lazy, self.after = nn.Linear(9, 4), nn.LazyLinear(4), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.after(self.lazy(self.wrong(x))) + self.lazy.weight

    with pytest.raises(tracer.ShapeError) as info:
        tracer.inspect(Net(), tracer.spec("N", 8))
    assert not info.value.others


def test_a_fault_before_one_that_needs_data_is_the_error() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wrong = nn.Linear(9, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wrong = self.wrong(x)
            return wrong if x.sum() > 0 else -wrong

    with pytest.raises(tracer.ShapeError, match=r"wrong .*in_features is 9"):
        tracer.inspect(Net(), tracer.spec("N", 8))


# Checkpoints ----------------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.LazyLinear(4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.fc(x))  # type: ignore[no-any-return]


def weights(**changed: Any) -> dict[str, torch.Tensor]:
    state = {"fc.weight": (4, 8), "fc.bias": (4,), "out.weight": (2, 4), "out.bias": (2,)}
    state |= {name.replace("_", "."): shape for name, shape in changed.items()}
    return {name: torch.zeros(shape) for name, shape in state.items() if shape is not None}


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": print}))


def write_text(path: Path) -> None:
    path.write_text("not a checkpoint")


CHECKPOINTS: list[tuple[str, Callable[[Path], object], type[Exception], list[str]]] = [
    ("a.safetensors", lambda p: save_file(weights(out_bias=None), p), tracer.LoadError, ["out.bias is missing"]),
    ("a.safetensors", lambda p: save_file(weights(extra=(1,)), p), tracer.LoadError, ["extra is not in the model"]),
    ("a.safetensors", lambda p: save_file(weights(out_weight=(3, 4)), p), tracer.LoadError,
     ["out.weight is [3, 4]", "the model's is [2, 4]"]),
    ("a.safetensors", lambda p: save_file(weights(fc_weight=(4, 7)), p), tracer.LazyResolutionError,
     ["fc (test_catalogue.py:", "fc.weight is [4, 7]", "makes it [4, 8]", "in_features = 8"]),
    ("a.safetensors", write_text, tracer.LoadError, ["a.safetensors cannot be read"]),
    ("a.pt", write_text, tracer.LoadError, ["a.pt cannot be read as weights: it is no file that torch.save wrote"]),
    ("a.pt", pickled, tracer.LoadError, ["a.pt cannot be read", "could run code"]),
    ("a.pt", lambda p: torch.save(nn.Linear(2, 2), p), tracer.LoadError, ["a.pt cannot be read", "could run code"]),
    ("a.pt", lambda p: torch.save([1, 2], p), tracer.LoadError, ["a.pt holds no state_dict"]),
    ("a.pt", lambda p: None, tracer.LoadError, ["a.pt does not exist"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write", "error", "parts"), CHECKPOINTS)
def test_a_bad_checkpoint(
    name: str, write: Callable[[Path], object], error: type[Exception], parts: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / name
    write(path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error) as info:
        tracer.convert(Model(), tracer.spec("N", 8), tmp_path / "net.onnx", weights=path)
    text = str(info.value)
    assert all(part in text for part in parts), text
    assert text.count("\n  remedy: ") == 1
    arguments = ["-i", "Nx8", "--weights", str(path), "-o", str(tmp_path / "net.onnx")]
    assert main(["convert", f"{__file__}:Model", *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert all(part in err for part in parts)
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before
