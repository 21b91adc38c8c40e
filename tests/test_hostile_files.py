"""Exported files that are damaged, or made to be misread: refused, or refreshed as if they were not."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import tracer
from passes.files.writer import write_model
from tracer import LoadError

SEED, FLIPS = 0, 250


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.bias = self.fc.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tied(self.fc(self.norm(self.conv(x)).mean((2, 3)))) + torch.arange(3)


def exported(path: Path, limit: int = 2**30, seed: int = 1) -> dict[str, torch.Tensor]:
    """A file, and the weights in it."""
    torch.manual_seed(seed)
    model = Net()
    conversion = tracer.convert(model, tracer.spec("N", 2, 8, 8), verify=False)
    write_model(conversion.lowered, path, limit=limit)
    return dict(model.state_dict())


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def damage(content: bytes, source: random.Random) -> bytes:
    """One bit, a few bytes, a part that is missing, or one that is there twice."""
    changed = bytearray(content)
    kind, place = source.randrange(10), source.randrange(len(changed))
    if kind < 6:
        changed[place] ^= 1 << source.randrange(8)
    elif kind < 8:
        for _ in range(3):
            changed[source.randrange(len(changed))] = source.randrange(256)
    elif kind == 8:
        del changed[place : place + source.randrange(1, 40)]
    else:
        changed[place:place] = changed[max(0, place - 20) : place]
    return bytes(changed)


def sweep(folder: Path, limit: int, count: int, of_weights: bool) -> int:
    """Damages a file again and again; returns how often it is refused. Nothing else than a LoadError is raised."""
    path, target = folder / "model.onnx", folder / "out" / "new.onnx"
    target.parent.mkdir()
    weights = exported(path, limit)
    damaged = next(folder.glob("*.data")) if of_weights else path
    whole, source, refused = damaged.read_bytes(), random.Random(SEED), 0
    for _ in range(count):
        damaged.write_bytes(damage(whole, source))
        before = names(folder)
        try:
            tracer.refresh(path, weights, target)
        except LoadError:
            refused += 1
            assert not names(target.parent)
        else:
            onnx.load(target)
            for file in target.parent.iterdir():
                file.unlink()
        assert names(folder) == before
    return refused


@pytest.mark.parametrize(("limit", "of_weights"), [(2**30, False), (16, False), (16, True)])
def test_damage(limit: int, of_weights: bool, tmp_path: Path) -> None:
    refused = sweep(tmp_path, limit, FLIPS, of_weights)
    assert refused > FLIPS // 4 or of_weights


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "of_weights"), [(2**30, False), (16, False), (16, True)])
def test_much_damage(limit: int, of_weights: bool, tmp_path: Path) -> None:
    sweep(tmp_path, limit, 2500, of_weights)


def test_every_length_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weights = exported(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(LoadError):
            tracer.refresh(path, weights, tmp_path / "new.onnx")
    assert names(tmp_path) == {"model.onnx"}


Edit = Callable[[onnx.ModelProto], Any]


def external(**entries: str | None) -> Edit:
    """Sets entries of the first weight's external data, or takes them away."""

    def edit(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
        found = {entry.key: entry.value for entry in tensor.external_data} | entries
        del tensor.external_data[:]
        for key, value in found.items():
            if value is not None:
                tensor.external_data.add(key=key, value=value)

    return edit


def everywhere(location: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location

    return edit


def entry_twice(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    tensor.external_data.add(key="offset", value="0")


def duplicate(model: onnx.ModelProto) -> None:
    model.graph.initializer.add().CopyFrom(model.graph.initializer[-1])


def resized(dims: list[int]) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return edit


def retyped(model: onnx.ModelProto) -> None:
    next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4).data_type = onnx.TensorProto.INT32


def unknown_operation(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Conw"


def cut_wire(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nothing"


def properties(key: str, change: Callable[[Any], Any]) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key == f"lazytracer.{key}":
                value = change(json.loads(entry.value))
                entry.value = value if isinstance(value, str) else json.dumps(value)

    return edit


def property_twice(model: onnx.ModelProto) -> None:
    model.metadata_props.add().CopyFrom(model.metadata_props[0])


def folds(**fields: Any) -> Edit:
    return properties("folds", lambda table: {path: fold | fields for path, fold in table.items()})


EDITS: dict[str, Edit] = {
    "negative offset": external(offset="-8"),
    "negative length": external(length="-8"),
    "offset beyond the file": external(offset="99999999"),
    "huge offset": external(offset="9" * 400),
    "offset in words": external(offset="ten"),
    "offset with a sign": external(offset="+0"),
    "offset with lines": external(offset="1_0"),
    "no length": external(length=None),
    "no location": external(location=None),
    "another length": external(length="4"),
    "shared bytes": external(offset="4"),
    "entry twice": entry_twice,
    "folder above": everywhere("../model.data"),
    "absolute": everywhere("/etc/passwd"),
    "the folder": everywhere("."),
    "parent": everywhere(".."),
    "nothing": everywhere(""),
    "zero": everywhere("a\0b"),
    "itself": everywhere("model.onnx"),
    "link": everywhere("link"),
    "pipe": everywhere("pipe"),
    "subfolder": everywhere("sub"),
    "duplicate": duplicate,
    "another shape": resized([4, 2, 3, 4]),
    "transposed shape": resized([2, 4, 3, 3]),
    "negative shape": resized([-4, -2, 3, 3]),
    "huge shape": resized([2**62, 2**62, 2**62, 3]),
    "another type": retyped,
    "unknown operation": unknown_operation,
    "cut wire": cut_wire,
    "property twice": property_twice,
    "deep": properties("state_dict", lambda _: "[" * 100_000),
    "list": properties("state_dict", lambda _: []),
    "number": properties("initializers", lambda _: 3),
    "numbers": properties("initializers", lambda table: dict.fromkeys(table, 3)),
    "null": properties("baked_in", lambda _: None),
    "unknown entry": properties("initializers", lambda table: {**table, "other": "fc.weight"}),
    "unknown initializer": properties("initializers", lambda table: dict.fromkeys(table, "other")),
    "unknown baked in": properties("baked_in", lambda table: {**table, "other": "00"}),
    "swapped": properties(
        "initializers", lambda table: dict(zip(table, reversed(table.values()), strict=True))
    ),
    "fold of numbers": folds(layer=3),
    "fold of lists": folds(norm=[]),
    "fold without eps": folds(eps=None),
    "fold of no groups": folds(groups=0),
    "fold of many groups": folds(groups=10**30),
    "fold of odd groups": folds(groups=-3),
    "fold with more": folds(other=1),
    "fold of other layers": folds(layer="fc"),
    "fold of unknown layers": folds(layer="other"),
    "fold at another place": properties("folds", lambda table: {f"{path}x": fold for path, fold in table.items()}),
    "fold over an entry": properties("folds", lambda table: {"fc": next(iter(table.values()))}),
    "names of nothing": properties("state_dict", lambda _: "nul"),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("limit", [2**30, 16])
def test_files_made_to_be_misread(edit: str, limit: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weights = exported(path, limit)
    model = onnx.load(path, load_external_data=False)
    before = model.SerializeToString()
    try:
        EDITS[edit](model)
    except StopIteration:
        pytest.skip("of external data alone")
    if model.SerializeToString() == before:
        pytest.skip("of external data alone")
    path.write_bytes(model.SerializeToString())
    for data in tmp_path.glob("*.data"):
        (tmp_path / "link").symlink_to(data.name)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "sub").mkdir()
    found = names(tmp_path)
    with pytest.raises(LoadError) as raised:
        tracer.refresh(path, weights, tmp_path / "new.onnx")
    assert str(raised.value).replace("\n", "").isprintable()
    assert names(tmp_path) == found


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


@pytest.mark.parametrize(
    "tail",
    [
        b"\xff" * 100,
        b"\x3a" + b"\xff" * 20,
        b"\x3a" + varint(2**63),
        b"\x3a" + varint(2**64 - 1),
        b"\x3a" + varint(2**70),
        b"\x38\x05",
        b"\x3b",
        b"\x3c",
        b"\x3f",
        b"\x00\x00",
        b"\x02\x00",
        b"\x3a\x05\x2a\x03\x4a\xff\x7f",
        b"\x3a\x06\x2a\x04\x4a\x00\x4a\x00",
        b"\x3a\x04\x2a\x02\x48\x01",
        b"\x3a\x02\x28\x01",
    ],
)
def test_odd_fields(tail: bytes, tmp_path: Path) -> None:
    """Fields behind the model: refused where protobuf refuses them, and never misread."""
    path = tmp_path / "model.onnx"
    weights = exported(path)
    path.write_bytes(path.read_bytes() + tail)
    try:
        onnx.load(path)
    except Exception:
        with pytest.raises(LoadError):
            tracer.refresh(path, weights, tmp_path / "new.onnx")
        return
    try:
        tracer.refresh(path, weights, tmp_path / "new.onnx")
    except LoadError:
        return
    assert onnx.load(tmp_path / "new.onnx") == onnx.load(path)


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3, requires_grad=True),
        torch._neg_view(torch.ones(3)),
        torch.ones(1).expand(3),
        [1, 2, 3],
        None,
        "text",
    ],
    ids=lambda value: str(getattr(value, "layout", type(value).__name__)),
)
def test_odd_tensors_are_written_as_they_are_or_refused(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weights: dict[str, Any] = exported(path)
    weights["fc.bias"] = weights["tied.bias"] = value
    try:
        tracer.refresh(path, weights)
    except LoadError:
        return
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    assert torch.equal(torch.tensor(stored["fc.bias"]), value.detach())


class Doubled(Net):
    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state, prefix, *rest)


def hooked() -> nn.Module:
    model = Net()
    model.register_load_state_dict_pre_hook(lambda *_: None)
    return model


def saving() -> nn.Module:
    model = Net()
    model.fc.register_state_dict_post_hook(lambda *_: None)  # type: ignore[no-untyped-call]
    return model


@pytest.mark.parametrize("make", [Doubled, hooked, saving])
def test_what_loads_with_code_of_its_own_is_not_refreshed(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    tracer.convert(make(), tracer.spec("N", 2, 8, 8), path, verify=False)
    before = path.read_bytes()
    with pytest.raises(LoadError, match=r"code of its own .*convert the model again|code of its own"):
        tracer.refresh(path, Net().state_dict())
    assert path.read_bytes() == before
