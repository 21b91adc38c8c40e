"""New weights in an exported file: what convert gives with these weights, to the byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tracer
from passes.files.writer import write_model
from tests.reading import names, run
from tracer import ExportError, LoadError


class Net(nn.Module):
    """Batch norms to fold, in each kind of layer, one under a name that a module has; ties, constants, idle layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.LazyConv2d(8, 3, bias=False), nn.LazyBatchNorm2d()
        self.up, self.upper = nn.LazyConvTranspose2d(6, 2, groups=2), nn.BatchNorm2d(6, affine=False)
        self.fc, self.flat = nn.LazyLinear(5), nn.BatchNorm1d(5, eps=1e-3)
        self.conv_norm, self.tied = nn.Linear(5, 5), nn.Linear(5, 5)
        self.tied.weight = self.conv_norm.weight
        self.alone = nn.BatchNorm1d(5)
        self.register_buffer("mask", torch.linspace(0, 1, 5), persistent=False)
        self.register_buffer("steps", torch.arange(5))
        self.unused = nn.Linear(2, 2)
        self.x = nn.Parameter(torch.ones(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.upper(self.up(self.norm(self.conv(x))))
        x = self.flat(self.fc(x.mean((2, 3))))
        return self.alone(self.tied(self.conv_norm(x)) * self.mask + self.steps) + self.x


SAMPLE = tracer.spec("N", 3, 8, 8)


def trained(seed: int, **cast: Any) -> dict[str, torch.Tensor]:
    """The state_dict of a model that has learned something."""
    model = tracer.resolve(Net(), SAMPLE, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1, generator=generator)
        for name, tensor in model.named_buffers():
            if "running" in name:
                tensor.uniform_(0.5, 2, generator=generator)
    return dict(model.to(**cast).state_dict())


def convert(weights: dict[str, torch.Tensor], path: Path, limit: int | None = None, **options: Any) -> Path:
    dtype = weights["fc.weight"].dtype
    conversion = tracer.convert(
        Net().to(dtype), tracer.spec("N", 3, 8, 8, dtype=dtype), weights=weights, verify=False, **options
    )
    write_model(conversion.lowered, path, **({} if limit is None else {"limit": limit}))
    return path


@pytest.mark.parametrize("options", [{}, {"fold_batchnorm": False}, {"route": "torch"}, {"opset_version": 13}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_is_what_converting_gives(options: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    old, new = trained(1, dtype=dtype), trained(2, dtype=dtype)
    source, expected = convert(old, tmp_path / "old.onnx", **options), convert(new, tmp_path / "new.onnx", **options)
    assert tracer.refresh(source, new, tmp_path / "refreshed.onnx") == tmp_path / "refreshed.onnx"
    assert (tmp_path / "refreshed.onnx").read_bytes() == expected.read_bytes() != source.read_bytes()


def test_external_data_stays_external(tmp_path: Path) -> None:
    old, new = trained(1), trained(2)
    source = convert(old, tmp_path / "model.onnx", limit=16)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / "there").mkdir()
    expected = convert(new, tmp_path / "there" / "model.onnx", limit=16)
    (tmp_path / "here").mkdir()
    tracer.refresh(source, new, tmp_path / "here" / "model.onnx")
    assert {file.name: file.read_bytes() for file in (tmp_path / "here").iterdir()} == {
        file.name: file.read_bytes() for file in expected.parent.iterdir()
    }
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


@pytest.mark.parametrize("limit", [None, 16])
def test_in_place(limit: int | None, tmp_path: Path) -> None:
    new = trained(2)
    path = convert(trained(1), tmp_path / "model.onnx", limit=limit)
    assert tracer.refresh(path, new) == path
    model = tracer.resolve(Net(), weights=new).eval()
    x = torch.randn(3, 3, 8, 8)
    np.testing.assert_allclose(run(path, x=x)["output"], model(x).detach(), rtol=1e-3, atol=1e-4)
    onnx.checker.check_model(str(path), full_check=True)


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_weights_from_a_file(form: str, tmp_path: Path) -> None:
    new = trained(2)
    weights = tmp_path / f"weights.{form}"
    torch.save(new, weights) if form == "pt" else save_file(
        {key: tensor.clone() for key, tensor in new.items()}, weights
    )
    source, expected = convert(trained(1), tmp_path / "old.onnx"), convert(new, tmp_path / "new.onnx")
    tracer.refresh(str(source), str(weights), str(tmp_path / "refreshed.onnx"))
    assert (tmp_path / "refreshed.onnx").read_bytes() == expected.read_bytes()


def test_the_callers_weights_are_not_copied_and_stay(tmp_path: Path) -> None:
    new = trained(2)
    copies = {key: tensor.clone() for key, tensor in new.items()}
    tracer.refresh(convert(trained(1), tmp_path / "model.onnx"), new)
    assert all(torch.equal(tensor, copies[key]) for key, tensor in new.items())


def test_what_the_file_does_not_hold_may_be_there_or_not(tmp_path: Path) -> None:
    path, new = convert(trained(1), tmp_path / "model.onnx"), trained(2)
    tracer.refresh(path, new, tmp_path / "one.onnx")
    counters = [key for key in new if key.endswith("num_batches_tracked")]
    for key in ("unused.weight", "unused.bias", *counters):
        del new[key]
    tracer.refresh(path, new, tmp_path / "two.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def without(key: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda weights: weights.pop(key)


def with_entry(key: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda weights: weights.update({key: tensor})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (without("conv.weight"), "do not fit the file: conv.weight is missing from it"),
        (without("upper.running_var"), "upper.running_var is missing"),
        (without("x"), "x is missing"),
        (with_entry("other", torch.ones(2)), "other is not in the file"),
        (with_entry("fc.bias", torch.ones(6)), r"fc\.bias is float32\[6\], but the file's is float32\[5\]"),
        (with_entry("x", torch.ones(5).double()), r"x is float64\[5\], but the file's is float32\[5\]"),
        (with_entry("norm.weight", torch.ones(1)), r"norm\.weight is float32\[1\], but the file's is float32\[8\]"),
        (with_entry("tied.weight", torch.ones(5, 5)), "conv_norm.weight and tied.weight are one tensor in the file"),
    ],
)
def test_weights_that_do_not_fit(change: Callable[..., Any], fault: str, tmp_path: Path) -> None:
    path, new = convert(trained(1), tmp_path / "model.onnx"), trained(2)
    before = path.read_bytes()
    change(new)
    with pytest.raises(LoadError, match=fault):
        tracer.refresh(path, new)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


class Deciding(nn.Module):
    def __init__(self, limit: float):
        super().__init__()
        self.register_buffer("limit", torch.tensor(limit))
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) if self.limit > 1 else x


def test_a_value_that_decided_something_cannot_change(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    tracer.convert(Deciding(2.0), tracer.spec("N", 3), path)
    tracer.refresh(path, Deciding(2.0).state_dict())
    with pytest.raises(LoadError, match="the value of limit is built into the file, but is another in the weights"):
        tracer.refresh(path, Deciding(0.0).state_dict())
    with pytest.raises(LoadError, match="limit are missing"):
        tracer.refresh(path, nn.Sequential().state_dict())
    with pytest.raises(LoadError, match="the forward reads the value of limit, which is another in the weights"):
        tracer.convert(Deciding(2.0), tracer.spec("N", 3), weights=Deciding(0.0).state_dict())


class Rotation(nn.Module):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.register_buffer("turns", torch.polar(torch.ones(4), torch.arange(4.0) + start))
        self.fc = nn.Linear(3, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned = torch.view_as_complex(self.fc(x).reshape(-1, 4, 2)) * self.turns
        return torch.view_as_real(turned).flatten(1)


def test_complex_entries_of_the_torch_route_cannot_change(tmp_path: Path) -> None:
    model, path = Rotation(0), tmp_path / "model.onnx"
    assert tracer.convert(model, tracer.spec("N", 3), path).route == "torch"
    tracer.refresh(path, model.state_dict())
    with pytest.raises(LoadError, match="the value of turns is built into the file"):
        tracer.refresh(path, Rotation(1).state_dict())


def test_a_folded_tensor_has_a_name_of_its_own(tmp_path: Path) -> None:
    weights = trained(1)
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(convert(weights, tmp_path / "model.onnx")).graph.initializer
    }
    folded = {f"{path}.{name}" for path in ("conv_norm_", "up_upper", "fc_flat") for name in ("weight", "bias")}
    assert folded < set(stored)
    assert not folded & set(weights)
    for key in set(weights) & set(stored):
        np.testing.assert_array_equal(stored[key], weights[key], err_msg=key)
    assert {"x", "x_1"} & set(stored) == {"x_1"}  # an input is called x


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def renamed(path: Path) -> None:
    model = onnx.load(path)
    model.graph.initializer[-1].name = "z"
    onnx.save(model, path)


def halved(path: Path) -> None:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.raw_data = tensor.raw_data[::2]
    onnx.save(model, path)


def foreign(path: Path) -> None:
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)


def edited(path: Path) -> None:
    model = onnx.load(path)
    for entry in model.metadata_props:
        entry.value = json.dumps([1])
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (damaged, "cannot be read as an ONNX model: it is not whole"),
        (lambda path: path.write_bytes(b""), "cannot be read as an ONNX model"),
        (lambda path: path.write_text("no model"), "cannot be read as an ONNX model"),
        (Path.unlink, "does not exist"),
        (renamed, "has no initializer .* any more"),
        (halved, "takes .* bytes in the file"),
        (foreign, "does not say where its weights come from"),
        (edited, "does not say where its weights come from"),
    ],
)
def test_a_file_that_is_not_ours(spoil: Callable[[Path], Any], fault: str, tmp_path: Path) -> None:
    path = convert(trained(1), tmp_path / "model.onnx")
    spoil(path)
    with pytest.raises(LoadError, match=fault):
        tracer.refresh(path, trained(2), tmp_path / "refreshed.onnx")
    assert {file.name for file in tmp_path.iterdir()} <= {"model.onnx"}


def test_numbers_without_axes_among_the_constants(tmp_path: Path) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) + torch.arange(x.shape[0]).unsqueeze(1)

    model, sample = Counts(), tracer.spec("N", 3)
    tracer.convert(model, sample, tmp_path / "old.onnx", verify=False)
    weights = {name: tensor * 2 for name, tensor in model.state_dict().items()}
    tracer.refresh(tmp_path / "old.onnx", weights, tmp_path / "new.onnx")
    model.load_state_dict(weights)
    tracer.convert(model, sample, tmp_path / "again.onnx", verify=False)
    assert (tmp_path / "new.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


def test_a_file_that_was_written_again_by_onnx_still_serves(tmp_path: Path) -> None:
    path, new = convert(trained(1), tmp_path / "model.onnx"), trained(2)
    onnx.save(onnx.load(path), path)
    tracer.refresh(path, new)
    expected = onnx.load(convert(new, tmp_path / "new.onnx"))
    found = onnx.load(path)
    assert names(found.graph.node) == names(expected.graph.node)
    assert {t.name: t.raw_data for t in found.graph.initializer} == {
        t.name: t.raw_data for t in expected.graph.initializer
    }


@pytest.mark.parametrize("spoil", ["shorter", "elsewhere", "gone"])
def test_external_data_that_is_not_there(spoil: str, tmp_path: Path) -> None:
    path = convert(trained(1), tmp_path / "model.onnx", limit=16)
    (data,) = tmp_path.glob("*.data")
    if spoil == "shorter":
        data.write_bytes(data.read_bytes()[:-1])
    elif spoil == "gone":
        data.unlink()
    else:
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = f"../{tmp_path.name}/{data.name}"
        path.write_bytes(model.SerializeToString())
    before = {file.name for file in tmp_path.iterdir()}
    with pytest.raises(LoadError, match="cannot be read as an ONNX model"):
        tracer.refresh(path, trained(2))
    assert {file.name for file in tmp_path.iterdir()} == before


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    path = convert(trained(1), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="does not exist"):
        tracer.refresh(path, trained(2), tmp_path / "missing" / "model.onnx")


@pytest.mark.parametrize("limit", [None, 16])
def test_a_failure_leaves_the_old_file(limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = convert(trained(1), tmp_path / "model.onnx", limit=limit)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("passes.files.rewriting.raw_bytes", full)
    with pytest.raises(ExportError, match="No space left on device"):
        tracer.refresh(path, trained(2))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_weight_without_axes(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    path = tmp_path / "scaled.onnx"
    tracer.convert(Scaled(), torch.ones(3), path)
    tracer.refresh(path, {"scale": torch.tensor(3.0)})
    assert run(path, x=torch.ones(3))["output"].tolist() == [3.0] * 3
