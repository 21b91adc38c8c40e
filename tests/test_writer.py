"""The file: what is in it, that it is the same every time, and that it is whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import tracer
from passes.files.writer import weight_bytes, write_model
from tracer import ExportError


@pytest.fixture
def conversion() -> tracer.Conversion:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3), nn.LazyBatchNorm1d())
    return tracer.convert(model, tracer.spec("N", 5), seed=0, verify=False, fold_batchnorm=False)


def run(path: Path) -> np.ndarray:
    x = np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)
    return onnxruntime.InferenceSession(str(path)).run(None, {"input": x})[0]


def test_the_file_is_the_model(conversion: tracer.Conversion, tmp_path: Path) -> None:
    path = conversion.save(tmp_path / "model.onnx")
    loaded = onnx.load(path)
    assert loaded == conversion.onnx_model
    onnx.checker.check_model(loaded, full_check=True)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
    for name, tensor in conversion.module.state_dict().items():
        if name != "3.num_batches_tracked":
            np.testing.assert_array_equal(weights[name], tensor.numpy())


def test_large_weights_go_beside_the_file(conversion: tracer.Conversion, tmp_path: Path) -> None:
    single = conversion.save(tmp_path / "single.onnx")
    path = tmp_path / "model.onnx"
    write_model(conversion.lowered, path, limit=16)
    (data,) = tmp_path.glob("model.onnx.*.data")
    assert data.stat().st_size == weight_bytes(conversion.lowered)
    weights = onnx.load(path, load_external_data=False).graph.initializer
    assert all(not tensor.raw_data for tensor in weights if tensor.name in conversion.lowered.weights)
    onnx.checker.check_model(str(path), full_check=True)
    np.testing.assert_array_equal(run(path), run(single))


def test_the_same_bytes_on_every_run(tmp_path: Path) -> None:
    def convert(name: str) -> bytes:
        model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))
        tracer.convert(model, tracer.spec("N", 2, 8, 8), tmp_path / name, seed=0)
        return (tmp_path / name).read_bytes()

    assert convert("one.onnx") == convert("two.onnx")


def test_nothing_of_this_machine_is_in_the_file(conversion: tracer.Conversion, tmp_path: Path) -> None:
    content = conversion.save(tmp_path / "model.onnx").read_bytes()
    for trace in (str(tmp_path), str(Path.cwd()), str(Path(torch.__file__).parent), ".partial", ".py"):
        assert trace.encode() not in content


def test_a_failure_leaves_the_old_file(conversion: tracer.Conversion, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def refuse(_: Path) -> None:
        raise RuntimeError("no")

    for limit in (2**31, 16):
        with pytest.raises(RuntimeError, match="no"):
            write_model(conversion.lowered, path, refuse, limit=limit)
        assert path.read_bytes() == b"old"
        assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_a_failure_leaves_an_older_models_weights(conversion: tracer.Conversion, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_model(conversion.lowered, path, limit=16)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

    def refuse(_: Path) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        write_model(conversion.lowered, path, refuse, limit=16)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    run(path)


def test_without_unnamed_files_it_is_the_same(
    conversion: tracer.Conversion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = conversion.save(tmp_path / "one.onnx").read_bytes()
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert conversion.save("two.onnx").read_bytes() == whole
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["one.onnx", "two.onnx"]
    assert os.stat(tmp_path / "one.onnx").st_mode == os.stat(tmp_path / "two.onnx").st_mode


def test_a_full_disk_leaves_the_old_file(
    conversion: tracer.Conversion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("passes.files.writer.raw_bytes", full)
    with pytest.raises(ExportError, match="No space left on device"):
        conversion.save(path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_a_killed_run_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    script = (
        "import sys, time, tracer, passes.files.writer as writer; from torch import nn\n"
        "conversion = tracer.convert(nn.LazyLinear(3), tracer.spec(2, 5), verify=False)\n"
        "def wait(_):\n    print('written', flush=True); time.sleep(60)\n"
        "writer.write_model(conversion.lowered, __import__('pathlib').Path(sys.argv[1]), wait)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert path.read_bytes() == b"old"
    if hasattr(os, "O_TMPFILE"):
        assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("target", ["missing/model.onnx", "."])
def test_a_target_that_cannot_be_written(conversion: tracer.Conversion, tmp_path: Path, target: str) -> None:
    with pytest.raises(ExportError, match=r"does not exist|is a folder"):
        tracer.convert(nn.LazyLinear(3), tracer.spec(2, 5), tmp_path / target)
    assert not list(tmp_path.iterdir())


def test_writing_costs_no_copy_of_the_weights(tmp_path: Path) -> None:
    """Writing takes about as long as writing the bytes: it is bound by the disk, not by the model."""
    model = nn.Sequential(nn.Linear(1000, 1000, bias=False))
    conversion = tracer.convert(model, tracer.spec(2, 1000), verify=False)
    assert conversion.lowered.weights["0.weight"] is model[0].weight
    started = time.perf_counter()
    path = conversion.save(tmp_path / "model.onnx")
    assert time.perf_counter() - started < 5
    assert os.path.getsize(path) == pytest.approx(4_000_000, rel=0.01)
