"""Where a file is written: whole or not at all, in place of nothing but a file, and as what was there."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import tracer
from passes.files.output_file import check_target, staged
from passes.files.writer import write_model
from tracer import ExportError, InputError
from tracer.cli import main
from tracer.commands.saving import save_weights

WEIGHTS = nn.Linear(5, 3).state_dict()

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(3)

    def forward(self, x):
        return self.fc(x)

model = nn.Sequential(nn.LazyLinear(3))
"""


def converted(path: Path) -> None:
    tracer.convert(nn.Sequential(nn.LazyLinear(3)), tracer.spec(2, 5), path)


def saved(path: Path) -> None:
    tracer.convert(nn.LazyLinear(3), tracer.spec(2, 5), verify=False).save(path)


def external(path: Path) -> None:
    write_model(tracer.convert(nn.LazyLinear(3), tracer.spec(2, 5), verify=False).lowered, path, limit=16)


def refreshed(path: Path) -> None:
    source = path.parent / "other.onnx"
    tracer.convert(nn.LazyLinear(3), tracer.spec(2, 5), source, verify=False)
    try:
        tracer.refresh(source, WEIGHTS, path)
    finally:
        source.unlink()


def drawn(path: Path) -> None:
    tracer.draw(nn.LazyLinear(3), tracer.spec(2, 5), path, format="svg")


def drawing_saved(path: Path) -> None:
    tracer.draw(nn.LazyLinear(3), tracer.spec(2, 5)).save(path)


def weights_saved(path: Path) -> None:
    save_weights(nn.Linear(5, 3), path)


def command(*options: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        net = path.parent.parent / "net.py"
        net.write_text(NET)
        status = main([options[0], f"{net}:Net", "-i", "2x5", *options[1:], str(path)])
        if status:
            raise ExportError(f"exit status {status}")

    return run


WRITERS: list[tuple[Callable[[Path], None], str]] = [
    (converted, "f.onnx"),
    (saved, "f.onnx"),
    (external, "f.onnx"),
    (refreshed, "f.onnx"),
    (drawn, "f.svg"),
    (drawing_saved, "f.html"),
    (weights_saved, "f.safetensors"),
    (weights_saved, "f.pt"),
    (command("convert", "-q", "-o"), "f.onnx"),
    (command("resolve", "-q", "-o"), "f.safetensors"),
    (command("report", "-q", "-o"), "f.html"),
    (command("inspect", "-q", "--json"), "f.json"),
]
every_writer = pytest.mark.parametrize(
    ("write", "name"), WRITERS, ids=[f"{getattr(write, '__name__', '')}-{name}" for write, name in WRITERS]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@every_writer
def test_a_link_stays_and_what_it_leads_to_is_replaced(write: Callable[[Path], None], name: str, folder: Path) -> None:
    real, link, chain = folder / f"real-{name}", folder / name, folder / f"chain-{name}"
    real.write_bytes(b"old")
    real.chmod(0o640)
    inode = real.stat().st_ino
    link.symlink_to(real.name)
    chain.symlink_to(link)
    write(chain)
    assert chain.is_symlink()
    assert link.is_symlink()
    assert not real.is_symlink()
    assert real.read_bytes() != b"old"
    assert real.stat().st_ino != inode, "in one step, and not byte by byte"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


@every_writer
def test_a_link_to_what_is_not_there_yet(write: Callable[[Path], None], name: str, folder: Path) -> None:
    (folder / name).symlink_to(f"new-{name}")
    write(folder / name)
    assert (folder / name).is_symlink()
    assert (folder / f"new-{name}").stat().st_size


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def nowhere(path: Path) -> None:
    path.symlink_to("missing/file")


@pytest.mark.parametrize("place", [pipe, bound_socket, Path.mkdir, link_to_pipe, circle, nowhere])
@every_writer
def test_what_is_no_file_is_refused_and_stays(
    write: Callable[[Path], None], name: str, place: Callable[[Path], Any], folder: Path
) -> None:
    path = folder / name
    place(path)
    before = {entry.name: entry.lstat().st_mode for entry in folder.iterdir()}
    with pytest.raises(ExportError):
        write(path)
    assert {entry.name: entry.lstat().st_mode for entry in folder.iterdir()} == before


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR])
def test_a_device_is_refused(kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "device"
    path.write_bytes(b"")
    real = os.stat

    def pretended(place: Any, **options: Any) -> os.stat_result:
        found = real(place, **options)
        if Path(place) != path:
            return found
        return os.stat_result([kind | 0o666, *list(found)[1:]])

    monkeypatch.setattr(os, "stat", pretended)
    with pytest.raises(ExportError, match=r"is a (device|pipe|socket|folder)"):
        check_target(path)
    with pytest.raises(ExportError), staged(path):
        pytest.fail("nothing is written")


def test_it_is_refused_before_any_work(folder: Path) -> None:
    class Heavy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pytest.fail("the model is not looked at")

    os.mkfifo(folder / "pipe")
    with pytest.raises(ExportError, match="is a pipe"):
        tracer.convert(Heavy(), tracer.spec(2), folder / "pipe")
    with pytest.raises(ExportError, match="is a pipe"):
        tracer.draw(Heavy(), tracer.spec(2), folder / "pipe", format="svg")


@pytest.mark.parametrize("name", ["a\0b", "n" * 300, "\ud800"])
def test_names_that_no_file_has(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        tracer.convert(nn.Linear(2, 2), tracer.spec(1, 2), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("f", [3, b"bytes.onnx", object(), ["a"]])
def test_what_is_no_path(f: Any) -> None:
    for write in (tracer.convert, tracer.draw):
        with pytest.raises(InputError, match="not a path"):
            write(nn.Linear(2, 2), tracer.spec(1, 2), f)


@pytest.mark.parametrize("length", [200, 237, 238, 241, 242, 250, 255])
@pytest.mark.parametrize("character", ["n", "ü"])
@every_writer
def test_long_names(write: Callable[[Path], None], name: str, length: int, character: str, folder: Path) -> None:
    suffix = Path(name).suffix
    room = length - len(suffix)
    long = character * (room // len(character.encode())) + suffix
    write(folder / long)
    assert (folder / long).stat().st_size
    if write is external:
        onnx.load(folder / long)
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755, 0o444])
@every_writer
def test_permissions_of_a_file_stay(write: Callable[[Path], None], name: str, mode: int, folder: Path) -> None:
    path = folder / name
    path.write_bytes(b"old")
    path.chmod(mode)
    if not os.access(path, os.W_OK):
        with pytest.raises(ExportError):
            write(path)
        return
    write(path)
    modes = {entry.name: oct(stat.S_IMODE(entry.stat().st_mode)) for entry in folder.iterdir()}
    assert set(modes.values()) == {oct(mode)}, modes


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="another owner takes root")
@every_writer
def test_the_owner_of_a_file_stays(write: Callable[[Path], None], name: str, folder: Path) -> None:
    path = folder / name
    path.write_bytes(b"old")
    os.chown(path, 12345, 54321)
    path.chmod(0o604)
    write(path)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 54321, 0o604)


def test_a_file_of_another_user_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(ExportError, match="belongs to another user"):
        check_target(path)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
@pytest.mark.parametrize("unnamed", [True, False])
def test_a_new_file_is_what_the_umask_says(
    umask: int, unnamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    before = os.umask(umask)
    try:
        weights_saved(tmp_path / "f.safetensors")
        weights_saved(tmp_path / "f.pt")
        external(tmp_path / "f.onnx")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()} == {0o666 & ~umask}


def test_the_umask_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("it is the whole process's"))
    for write, name in WRITERS[:8]:
        write(tmp_path / name)


def test_threads_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "f"

    def write(content: bytes) -> None:
        for _ in range(20):
            with staged(path) as staging:
                staging.file.write(content)

    threads = [threading.Thread(target=write, args=(bytes([65 + index]) * 10_000,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(path.read_bytes())) == 1
    assert path.stat().st_size == 10_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_external_data_through_a_link_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.onnx").symlink_to("there/real.onnx")
    with pytest.raises(ExportError, match=r"(?s)is a link into another folder.*name the file itself: .*real\.onnx"):
        external(tmp_path / "link.onnx")
    assert not list((tmp_path / "there").iterdir())
    (tmp_path / "there" / "link.onnx").symlink_to("real.onnx")
    external(tmp_path / "there" / "link.onnx")
    onnx.load(tmp_path / "there" / "real.onnx")


class TestOutputsThatAreInputs:
    @pytest.fixture
    def net(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "net.py").write_text(NET)
        torch.save({f"fc.{key}": value for key, value in WEIGHTS.items()}, tmp_path / "w.pt")
        torch.save(WEIGHTS, tmp_path / "w0.pt")
        (tmp_path / "link").symlink_to("net.py")
        os.link(tmp_path / "net.py", tmp_path / "hard")
        return tmp_path

    @pytest.mark.parametrize(
        "arguments",
        [
            "convert net.py:Net -i 2x5 -o net.py",
            "convert net.py:Net -i 2x5 -o ./../{folder}/net.py",
            "convert net.py:Net -i 2x5 -o link",
            "convert net.py:Net -i 2x5 -o hard",
            "convert net.py:model -i 2x5 -o net.py",
            "convert net:model -i 2x5 -o net.py",
            "convert net.py:Net -i 2x5 --weights w.pt -o w.pt",
            "convert net.py:Net -i x=@x.npy -o x.npy",
            "resolve net.py:Net -i 2x5 --weights w.pt -o w.pt",
            "report net.py:Net -i 2x5 --format svg -o net.py",
            "inspect net.py:Net -i 2x5 --json net.py",
            "inspect net.py:model -i 2x5 --json net.py",
            "convert net.py:Net -i 2x5 -o f.onnx --json f.onnx",
            "convert net.py:Net -i 2x5 -o f.onnx --json net.py",
            "refresh f.onnx --weights w.pt -o w.pt",
            "refresh f.onnx --weights w.pt -o new.onnx --json f.onnx",
        ],
    )
    def test_on_the_command_line(self, net: Path, arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
        import numpy as np

        np.save("x.npy", np.zeros((2, 5), np.float32))
        assert main(["convert", "net.py:Net", "-i", "2x5", "-o", "f.onnx", "-q"]) == 0
        before = {file.name: file.read_bytes() for file in net.iterdir() if file.is_file()}
        assert main(arguments.format(folder=net.name).split()) in (1, 2)
        assert ("also read" in (err := capsys.readouterr().err)) or "output too" in err
        assert {file.name: file.read_bytes() for file in net.iterdir() if file.is_file()} == before

    def test_in_python(self, net: Path) -> None:
        from tracer.cli.loading import load_model

        model = load_model("net.py:Net")
        for write in (tracer.convert, tracer.draw):
            with pytest.raises(ExportError, match="also read"):
                write(model, tracer.spec(2, 5), "net.py", **({"format": "svg"} if write is tracer.draw else {}))
        with pytest.raises(ExportError, match="also read"):
            tracer.convert(model, tracer.spec(2, 5), "w.pt", weights="w.pt")
        conversion = tracer.convert(model, tracer.spec(2, 5), "f.onnx", weights=Path("w.pt"))
        with pytest.raises(ExportError, match="also read"):
            conversion.save(net / "net.py")
        with pytest.raises(ExportError, match="also read"):
            tracer.refresh("f.onnx", "w.pt", "w.pt")
        tracer.refresh("f.onnx", "w.pt", "f.onnx")

    def test_external_data_is_read(self, net: Path) -> None:
        external(net / "f.onnx")
        (data,) = net.glob("f.onnx.*.data")
        with pytest.raises(ExportError, match="also read"):
            tracer.refresh("f.onnx", WEIGHTS, data)
