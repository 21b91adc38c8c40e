"""MODEL and INPUT strings: what they load, and what they say when they cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from passes.values.spec import InputSpec
from tracer import InputError, LoadError
from tracer.cli.loading import (
    dimension_names,
    load_input,
    load_inputs,
    load_model,
    parse_assignments,
    parse_literals,
    parse_sizes,
)

NET = """
from torch import nn

SIZE = 3

class Settings:
    pass

class Net(nn.Module):
    def __init__(self, width, depth=2):
        super().__init__()
        self.layer = nn.LazyLinear(width)
        if depth > 5:
            raise ValueError("too deep")

    def forward(self, x):
        return self.layer(x)

def build(**kwargs):
    return Net(4, **kwargs)

def count():
    return 5

model = Net(7)
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return str(path)


class TestModels:
    @pytest.mark.parametrize(
        ("name", "kwargs", "width"), [("model", {}, 7), ("Net", {"width": 3}, 3), ("build", {"depth": 1}, 4)]
    )
    def test_module_class_and_function(self, net: str, name: str, kwargs: dict[str, int], width: int) -> None:
        assert load_model(f"{net}:{name}", kwargs).layer.out_features == width

    def test_module_path(self) -> None:
        assert isinstance(load_model("torch.nn:ReLU"), nn.ReLU)

    def test_module_in_the_working_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "model_of_this_folder.py").write_text("from torch import nn\nmodel = nn.ReLU()")
        monkeypatch.chdir(tmp_path)
        assert isinstance(load_model("model_of_this_folder:model"), nn.ReLU)

    def test_functions_know_their_file(self, net: str) -> None:
        assert type(load_model(f"{net}:model")).forward.__code__.co_filename == net

    def test_siblings_load_and_nothing_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "dont_write_bytecode", False)
        (tmp_path / "blocks_of_the_net.py").write_text("from torch import nn\nBlock = nn.ReLU")
        (tmp_path / "uses.py").write_text(
            "from blocks_of_the_net import Block\ndef build():\n    import blocks_of_the_net\n    return Block()"
        )
        before = list(sys.path)
        assert isinstance(load_model(f"{tmp_path / 'uses.py'}:build"), nn.ReLU)
        assert sys.path == before
        assert not list(tmp_path.glob("__pycache__/uses*"))

    def test_same_name_in_two_folders(self, tmp_path: Path) -> None:
        for number in (1, 2):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "net.py").write_text(f"from torch import nn\nclass Net(nn.Module):\n    number = {number}")
        first, second = (load_model(f"{tmp_path}/{number}/net.py:Net") for number in (1, 2))
        assert (first.number, second.number) == (1, 2)
        assert type(first).__module__ in sys.modules
        assert type(first).__module__ != type(second).__module__

    def test_a_changed_file_is_read_again(self, tmp_path: Path) -> None:
        path = tmp_path / "net.py"
        for size in (3, 4):
            path.write_text(f"from torch import nn\nmodel = nn.LazyLinear({size})")
            assert load_model(f"{path}:model").out_features == size

    @pytest.mark.parametrize(
        ("name", "kwargs", "parts"),
        [
            ("Nett", {}, ["nothing called 'Nett'", "did you mean Net?"]),
            ("zzz", {}, ["nothing called 'zzz'", "it has Net, build, count, model"]),
            ("SIZE", {}, ["type int", "no model"]),
            ("Settings", {}, ["class Settings", "no model"]),
            ("count", {}, ["returns a value of the type int"]),
            ("Net", {}, ["needs values for width", "--kwarg width=VALUE"]),
            ("Net", {"width": 3, "dept": 2}, ["no argument 'dept'", "width, depth", "did you mean depth?"]),
            ("Net", {"width": 3, "depth": 9}, ["net.py:14", "ValueError: too deep", 'raise ValueError("too deep")']),
        ],
    )
    def test_names_that_give_no_model(self, net: str, name: str, kwargs: dict[str, int], parts: list[str]) -> None:
        with pytest.raises(LoadError) as raised:
            load_model(f"{net}:{name}", kwargs)
        assert all(part in str(raised.value) for part in parts), str(raised.value)

    @pytest.mark.parametrize(
        ("source", "parts"),
        [
            ("x = 1\nimport no_such_thing", ["bad.py:2", "import no_such_thing", "install no_such_thing"]),
            ("def f(:", ["bad.py:1", "SyntaxError", "def f(:"]),
            ("import sys\nsys.exit(3)", ["bad.py:2", "SystemExit: 3", "__main__"]),
            ("from .blocks import Block", ["bad.py:1", "package.module:NAME"]),
            ("def f():\n    1 / 0\nf()", ["bad.py:2", "ZeroDivisionError", "1 / 0"]),
        ],
    )
    def test_files_that_fail(self, tmp_path: Path, source: str, parts: list[str]) -> None:
        (tmp_path / "bad.py").write_text(source)
        before = list(sys.path), set(sys.modules)
        with pytest.raises(LoadError) as raised:
            load_model(f"{tmp_path / 'bad.py'}:model")
        assert all(part in str(raised.value) for part in parts), str(raised.value)
        assert (list(sys.path), set(sys.modules)) == before

    def test_missing_file(self, net: str) -> None:
        with pytest.raises(LoadError, match=r"nte\.py cannot be read.*\n.*did you mean net\.py\?"):
            load_model(f"{Path(net).with_name('nte.py')}:Net")

    @pytest.mark.parametrize("text", ["no_such_package:model", "no_such_package.inner:model"])
    def test_missing_module(self, text: str) -> None:
        with pytest.raises(LoadError, match="no module 'no_such_package'"):
            load_model(text)

    @pytest.mark.parametrize("text", ["net.py", "net.py:", ":Net", "net.py:a b", ""])
    def test_malformed(self, text: str) -> None:
        with pytest.raises(InputError, match="does not name a model"):
            load_model(text)

    def test_a_ready_module_takes_no_arguments(self, net: str) -> None:
        with pytest.raises(InputError, match="a module already"):
            load_model(f"{net}:model", {"width": 3})


class TestInputs:
    @pytest.mark.parametrize(
        ("text", "name", "shape", "dtype"),
        [
            ("2x20", "", (2, 20), torch.float32),
            ("7", "", (7,), torch.float32),
            ("0x3", "", (0, 3), torch.float32),
            ("Nx3x224x224", "", ("N", 3, 224, 224), torch.float32),
            ("tokens=NxT:int64", "tokens", ("N", "T"), torch.int64),
            ("batch_1x4", "", ("batch_1", 4), torch.float32),
            ("scalar", "", (), torch.float32),
            ("step=scalar:int64", "step", (), torch.int64),
        ],
    )
    def test_shapes(self, text: str, name: str, shape: tuple[int | str, ...], dtype: torch.dtype) -> None:
        assert load_input(text) == (name, InputSpec(shape, dtype))

    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("", "an empty dimension"),
            ("2x", "an empty dimension"),
            ("2x-3", "'-3'"),
            ("2 x 3", "'2 '"),
            ("2,3", "'2,3'"),
            ("2x1.5", "'1.5'"),
            ("3N", "'3N'"),
            ("2x3:flot32", "did you mean float32"),
            ("2x3:", "dtype ''"),
            ("2x3:Tensor", "dtype 'Tensor'"),
            ("=2x3", "name ''"),
            ("1a=2x3", "name '1a'"),
            ("x=@data.csv", ".csv"),
        ],
    )
    def test_malformed(self, text: str, part: str) -> None:
        with pytest.raises(InputError) as raised:
            load_input(text)
        assert part in str(raised.value)

    def test_positional_and_named(self) -> None:
        args, kwargs = load_inputs(["Nx3", "mask=NxT:bool", "4"])
        assert args == (InputSpec(("N", 3)), InputSpec((4,)))
        assert kwargs == {"mask": InputSpec(("N", "T"), torch.bool)}
        assert dimension_names(args, kwargs) == ["N", "T"]
        with pytest.raises(InputError, match="x is given twice"):
            load_inputs(["x=3", "x=4"])

    def test_data_files(self, tmp_path: Path) -> None:
        x, y = torch.randn(2, 3), torch.tensor(4)
        np.save(tmp_path / "x.npy", x.numpy())
        np.save(tmp_path / "big_endian.npy", x.numpy().astype(">f4"))
        np.save(tmp_path / "y.npy", y.numpy())
        np.savez(tmp_path / "both.npz", x=x.numpy(), y=y.numpy())
        save_file({"x": x, "y": y}, tmp_path / "both.safetensors")
        save_file({"other": x}, tmp_path / "one.safetensors")
        for text, expected in [
            ("x=@{}/x.npy", x),
            ("@{}/big_endian.npy", x),
            ("y=@{}/y.npy", y),
            ("y=@{}/both.npz", y),
            ("x=@{}/both.safetensors", x),
            ("x=@{}/one.safetensors", x),
        ]:
            name, loaded = load_input(text.format(tmp_path))
            assert isinstance(loaded, torch.Tensor)
            assert name == text.partition("@")[0].rstrip("=")
            assert loaded.dtype == expected.dtype
            assert torch.equal(loaded, expected)

    def test_bad_data_files(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "both.npz", a=np.zeros(2), b=np.zeros(2))
        np.save(tmp_path / "text.npy", np.array(["a", "b"]))
        np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
        for name in ("junk.npy", "junk.npz", "junk.safetensors"):
            (tmp_path / name).write_bytes(b"no data at all")
        for text, part in [
            ("x=@{}/none.npy", "No such file"),
            ("x=@{}/none.npz", "No such file"),
            ("x=@{}/none.safetensors", "cannot be read"),
            ("x=@{}/both.npz", "holds a, b, but nothing called 'x'"),
            ("@{}/both.npz", "the input has no name"),
            ("x=@{}/text.npy", "holds no tensor"),
            ("x=@{}/objects.npy", "holds no tensor"),
            ("x=@{}/junk.npy", "holds no tensor"),
            ("x=@{}/junk.npz", "is no .npz archive"),
            ("x=@{}/junk.safetensors", "holds no tensor"),
        ]:
            with pytest.raises(LoadError) as raised:
                load_input(text.format(tmp_path))
            assert part in str(raised.value)


class TestOptions:
    def test_literals(self) -> None:
        texts = ["a=3", "b=[1, 2]", "c=same", "d=None", "e=x=y", "f=", "g='3'"]
        expected = {"a": 3, "b": [1, 2], "c": "same", "d": None, "e": "x=y", "f": "", "g": "3"}
        assert parse_literals(texts, "--kwarg") == expected

    def test_sizes(self) -> None:
        assert parse_sizes(["N=4", "T=8"], "--dim", ["N", "T"]) == {"N": 4, "T": 8}
        with pytest.raises(InputError, match="the dynamic dimensions are N"):
            parse_sizes(["M=4"], "--dim", ["N"])
        with pytest.raises(InputError, match="no input has a dynamic dimension"):
            parse_sizes(["M=4"], "--dim", [])
        with pytest.raises(InputError, match="size 'four'"):
            parse_sizes(["N=four"], "--dim", ["N"])

    @pytest.mark.parametrize("texts", [["a"], ["=3"], ["a=1", "a=2"]])
    def test_malformed(self, texts: list[str]) -> None:
        with pytest.raises(InputError, match="--meta"):
            parse_assignments(texts, "--meta")
        with pytest.raises(InputError, match="--kwarg"):
            parse_literals(texts, "--kwarg")
        with pytest.raises(InputError, match="no word"):
            parse_literals(["1a=2"], "--kwarg")
