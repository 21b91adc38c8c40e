"""The command line: exit statuses, what goes where, and that a failure writes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tracer
from tests.sabotage import spoil
from tracer.cli import main

REPOSITORY = Path(__file__).parent.parent

NET = """
import sys

import torch
from torch import nn

print("the file is loaded")

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Linear(20, width)
        self.hidden = nn.LazyLinear(width)
        self.output = nn.LazyLinear(3)

    def forward(self, x):
        return self.output(torch.relu(self.hidden(self.first(x))))

class Wide(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.hidden = nn.LazyLinear(width)

    def forward(self, x):
        return self.hidden(x)

class Spare(Net):
    def __init__(self):
        super().__init__()
        self.spare = nn.LazyLinear(2)

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.LazyLinear(4)
        self.again = self.first

    def forward(self, x):
        return self.again(self.first(x))

class Raises(nn.Module):
    def forward(self, x):
        raise LookupError("the user's own")

class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.LazyLinear(4)

    def forward(self, x, scale):
        return self.linear(x) * scale

def interrupted():
    raise KeyboardInterrupt
"""


class Shell:
    """Runs the command line in a folder that holds `net.py`."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder = folder
        self.capsys = capsys

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """The exit status, standard output and standard error."""
        self.capsys.readouterr()
        status = main(arguments)
        return (status, *self.capsys.readouterr())

    def files(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir())


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, capsys)


def contains(text: str, parts: Sequence[str]) -> bool:
    flat = " ".join(text.split())
    missing = [part for part in parts if part not in flat]
    assert not missing, f"{missing} not in {text}"
    return True


class TestConvert:
    def test_summary_and_file(self, shell: Shell) -> None:
        status, out, err = shell.run("convert", "net.py:Net", "-i", "Nx20", "-o", "net.onnx", "--meta", "author=me")
        assert (status, err) == (0, "the file is loaded\n")
        assert contains(
            out,
            [
                "Net: 2 lazy layers resolved",
                "hidden LazyLinear in_features=8",
                "input x float32[N, 20]",
                "float32[N, 3]",
                "net.onnx",
                "opset 20",
                "route direct (",
                "checked largest difference",
                "time",
            ],
        )
        assert out.isascii()
        assert "\x1b" not in out
        assert max(map(len, out.splitlines())) <= 80
        assert shell.files() == ["net.onnx", "net.py"]
        model = onnx.load("net.onnx")
        assert {entry.key: entry.value for entry in model.metadata_props}["author"] == "me"

    def test_seed_gives_the_weights_of_a_script_with_a_dry_run(self, shell: Shell) -> None:
        from tracer.cli.loading import load_model

        assert shell.run("convert", "net.py:Net", "-i", "2x20", "-o", "a.onnx", "--seed", "7", "-q")[0] == 0
        assert shell.run("resolve", "net.py:Net", "-i", "2x20", "-o", "a.safetensors", "--seed", "7", "-q")[0] == 0
        with torch.random.fork_rng():
            torch.manual_seed(7)
            model = load_model("net.py:Net").eval()
            x = torch.zeros(2, 20)
            with torch.no_grad():
                model(x)
        x = torch.randn(2, 20)
        expected = model(x).detach().numpy()
        found = onnxruntime.InferenceSession("a.onnx").run(None, {"x": x.numpy()})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        weights = load_file("a.safetensors")
        assert weights.keys() == model.state_dict().keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())

    def test_repeatable_and_leaves_random_state(self, shell: Shell) -> None:
        before = torch.random.get_rng_state()
        for name in ("a.onnx", "b.onnx"):
            assert shell.run("convert", "net.py:Net", "-i", "2x20", "-o", name, "-q")[0] == 0
        assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_options_reach_the_conversion(self, shell: Shell) -> None:
        options = "--kwarg width=5 --opset 18 --route direct --no-fold-batchnorm --no-verify --dim N=5 --json -"
        status, out, _ = shell.run("convert", "net.py:Net", "-i", "Nx20", "-o", "net.onnx", *options.split())
        facts = json.loads(out)
        assert status == 0
        assert facts["verification"] is None
        assert facts["route"] == "direct"
        assert [layer["resolved"] for layer in facts["layers"] if layer["resolved"]] == [{"in_features": 5}] * 2
        assert onnx.load("net.onnx").opset_import[0].version == 18

    def test_json(self, shell: Shell) -> None:
        status, out, err = shell.run("convert", "net.py:Spare", "-i", "Nx20", "-o", "net.onnx", "--json", "-")
        facts = json.loads(out)
        assert status == 0
        assert contains(err, ["the file is loaded", "warning: ", "spare"])
        assert facts["unreached"] == ["spare"]
        assert any("spare" in warning for warning in facts["warnings"])
        assert facts["bytes"] == Path("net.onnx").stat().st_size
        assert facts["verification"]["largest_difference"] < 1e-4
        assert facts["inputs"] == {"x": "float32[N, 20]"}
        assert facts["timings"]
        assert shell.run("convert", "net.py:Net", "-i", "Nx20", "-o", "net.onnx", "--json", "f.json", "-q")[1] == ""
        assert json.loads(Path("f.json").read_text())["file"] == "net.onnx"

    def test_constraints(self, shell: Shell) -> None:
        options = ["--where", "N<=8, N%2==0", "--where", "N!=4", "--no-verify", "--json", "-"]
        status, out, err = shell.run("convert", "net.py:Net", "-i", "Nx20,N>=2", "-o", "net.onnx", *options)
        assert status == 0, err
        assert json.loads(out)["constraints"] == ["N >= 2", "N <= 8", "N % 2 == 0", "N != 4"]
        for command in (["inspect"], ["resolve", "-o", "w.pt"], ["report", "-o", "n.svg"], ["why", "hidden"]):
            name, *rest = command
            status, out, err = shell.run(name, "net.py:Net", *rest, "-i", "Nx20", "--where", "N<=8")
            assert status == 0, err
            assert name != "inspect" or contains(out, ["made for", "N <= 8"])

    def test_constraints_of_several_samples(self, shell: Shell) -> None:
        samples = ["-i", "Nx20", "-i", "Mx20", "-i", "4x20"]
        status, out, err = shell.run("inspect", "net.py:Net", "--compare", *samples, "--where", "N>=3", "--json", "-")
        assert status == 0, err
        reports = [sample["report"] for sample in json.loads(out)["samples"]]
        assert [report["constraints"] for report in reports] == [["N >= 3"], [], []]

    def test_named_inputs_in_any_order(self, shell: Shell) -> None:
        inputs = ["-i", "scale=scalar", "-i", "x=Nx3"]
        assert shell.run("convert", "net.py:TwoInputs", *inputs, "-o", "two.onnx", "-q")[0] == 0
        assert {entry.name for entry in onnx.load("two.onnx").graph.input} == {"x", "scale"}

    def test_verbose_shows_stages(self, shell: Shell) -> None:
        _, out, _ = shell.run("convert", "net.py:Net", "-i", "Nx20", "-o", "net.onnx", "-v")
        assert contains(out, ["capture", "shape propagation", "verification", "ms"])


class TestInspect:
    def test_table(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("COLUMNS", raising=False)
        status, out, _ = shell.run("inspect", "net.py:Net", "-i", "Nx20")
        assert status == 0
        assert contains(out, ["layer type input output params mult-adds inferred from"])
        assert contains(out, ["hidden LazyLinear N x 8 N x 8 72 128 in_features=8 first"])
        assert contains(out, ["params 267", "mult-adds 248*N = 496 (N=2)", "weights 1.07 kB"])
        assert contains(out, ["peak 224 bytes of activations at first (N=2)", "followed traced", "route direct ("])
        assert contains(out, ["input x float32[N, 20]"])
        assert out.isascii()
        assert shell.files() == ["net.py"]

    def test_fits_80_columns(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        lenet = str(REPOSITORY / "examples" / "lenet.py") + ":model"
        _, out, _ = shell.run("inspect", lenet, "-i", "Nx1x28x28")
        assert out == (REPOSITORY / "tests" / "golden" / "lenet_inspect.txt").read_text()
        assert max(map(len, out.splitlines())) <= 80

    def test_paths_and_sizes_stay_whole_in_80_columns(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        resnet = str(REPOSITORY / "examples" / "resnet50.py") + ":ResNet50"
        _, out, _ = shell.run("inspect", resnet, "-i", "Nx3xHxW")
        words = out.split()
        assert {"stages.3.2.spatial.1", "num_features=2048", "1,048,576", "(H+31)//32"} <= set(words)
        assert max(map(len, out.splitlines())) <= 80

    def test_the_program_is_printed_as_it_is(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "20")
        status, out, err = shell.run("inspect", "net.py:Net", "-i", "Nx20", "--program")
        assert (status, err) == (0, "the file is loaded\n")
        assert out.startswith("shaped program Net\nsizes\n  N = 2\ninputs\n  %x = input x  : float32[N, 20]\nlazies\n")
        assert "\n  %first = module first(%x)  : float32[N, 8]  at net.py:17\n" in out
        facts = json.loads(shell.run("inspect", "net.py:Net", "-i", "Nx20", "--program", "--json", "-")[1])
        assert facts["program"] == out

    def test_the_program_ends_where_the_fault_is(self, shell: Shell) -> None:
        status, out, err = shell.run("inspect", "net.py:Net", "-i", "Nx21", "--program")
        assert status == 1
        assert "first (net.py:17)" in err
        assert out.endswith("nodes\n  %output_2 = output ()\n")

    def test_a_program_is_of_one_sample(self, shell: Shell) -> None:
        status, _, err = shell.run("inspect", "net.py:Net", "-i", "Nx20", "-i", "Nx40", "--compare", "--program")
        assert status == 2
        assert "--program is of one sample, --compare of several" in err

    def test_compares_samples(self, shell: Shell) -> None:
        inputs = ["-i", "2x20", "-i", "Nx20", "-i", "2x21"]
        status, out, _ = shell.run("inspect", "net.py:Wide", "--compare", *inputs)
        assert status == 0
        assert contains(out, ["Wide 2x20 Nx20 2x21", "hidden.in_features 20 20 21", "hidden params 168 168 176"])
        status, out, _ = shell.run("inspect", "net.py:Net", "--compare", *inputs)
        assert status == 0
        assert contains(out, ["works yes yes no", "output 2 x 3 N x 3 -", "2x21 does not work: first (net.py:17)"])
        facts = json.loads(shell.run("inspect", "net.py:Net", "--compare", *inputs, "--json", "-")[1])
        assert [list(sample) for sample in facts["samples"]] == [["sample", "report"]] * 2 + [["sample", "error"]]
        assert facts["samples"][2]["error"]["path"] == "first"

    def test_compares_samples_of_several_inputs(self, shell: Shell) -> None:
        inputs = ["-i", "x=2x3", "-i", "scale=scalar", "-i", "x=2x5", "-i", "scale=4"]
        status, out, _ = shell.run("inspect", "net.py:TwoInputs", "--compare", *inputs)
        assert status == 0
        assert contains(out, ["2x3, scalar 2x5, 4", "linear.in_features 3 5"])
        assert shell.run("inspect", "net.py:TwoInputs", *inputs)[0] == 2  # without --compare an input comes once
        status, _, err = shell.run("inspect", "net.py:TwoInputs", "--compare", *inputs[:4])
        assert (status, "takes two samples or more, found 1" in err) == (2, True)

    def test_json_is_the_report(self, shell: Shell) -> None:
        from tracer.cli.loading import load_model

        facts = json.loads(shell.run("inspect", "net.py:Net", "-i", "2x20", "--json", "-")[1])
        report = tracer.inspect(load_model("net.py:Net"), (tracer.spec(2, 20),)).to_dict()
        assert facts == {**report, "warnings": []}

    def test_a_reader_that_has_read_enough(self, shell: Shell) -> None:
        resnet = str(REPOSITORY / "examples" / "resnet50.py") + ":ResNet50"
        command = [sys.executable, "-m", "tracer", "inspect", resnet, "-i", "Nx3x224x224"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait() == 0


class TestWhy:
    def test_chain(self, shell: Shell) -> None:
        lenet = str(REPOSITORY / "examples" / "lenet.py") + ":model"
        status, out, _ = shell.run("why", lenet, "7", "-i", "1x1x28x36")
        assert status == 0
        assert contains(out, ["input input 1 x 1 x H x W", "= 1 x 1 x 28 x 36", "1 step keeps the shape"])
        assert contains(out, ["7.in_features = 16*((H//4) - 2)*((W//4) - 2) = 560", "where H=28, W=36"])
        assert out.isascii()

    def test_lines_and_layers_that_are_not_lazy(self, shell: Shell) -> None:
        status, out, _ = shell.run("why", "net.py:Net", "first", "-i", "2x20")
        assert status == 0
        assert contains(out, ["first Linear", "net.py:17", "first is not lazy: Linear(in_features=20, out_features=8"])

    def test_json(self, shell: Shell) -> None:
        facts = json.loads(shell.run("why", "net.py:Net", "hidden", "-i", "2x20", "--json", "-")[1])
        assert facts["sizes"] == [{"name": "hidden.in_features", "formula": "8", "value": 8}]
        assert [step["name"] for step in facts["steps"]] == ["input x", "first", "hidden"]

    def test_unknown_layer(self, shell: Shell) -> None:
        status, _, err = shell.run("why", "net.py:Net", "hiden", "-i", "2x20")
        assert status == 2
        assert contains(err, ["Net has no layer 'hiden'", "did you mean hidden?"])


class TestResolve:
    @pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
    def test_weights_load_into_the_model(self, shell: Shell, name: str) -> None:
        status, out, _ = shell.run("resolve", "net.py:Tied", "-i", "2x4", "-o", name)
        assert status == 0
        assert contains(out, ["Tied: 1 lazy layer resolved", "in_features=4", name])
        weights: dict[str, Any] = load_file(name) if name.endswith("tensors") else torch.load(name)
        model = nn.Module()
        model.first = model.again = nn.Linear(4, 4)
        model.load_state_dict(weights)
        assert shell.files() == sorted(["net.py", name])

    def test_unreached_layers_are_left_out(self, shell: Shell) -> None:
        status, _, err = shell.run("resolve", "net.py:Spare", "-i", "2x20", "-o", "w.safetensors")
        assert status == 0
        assert err.count("warning: ") == 1
        assert not any(name.startswith("spare") for name in load_file("w.safetensors"))


class TestRefresh:
    def test_new_weights_in_a_file(self, shell: Shell) -> None:
        for seed, name in (("1", "old"), ("2", "new")):
            given = ["net.py:Net", "-i", "Nx20", "--seed", seed, "-q"]
            assert shell.run("convert", *given, "-o", f"{name}.onnx")[0] == 0
            assert shell.run("resolve", *given, "-o", f"{name}.safetensors")[0] == 0
        command = ["refresh", "old.onnx", "--weights", "new.safetensors", "-o", "fresh.onnx"]
        status, out, err = shell.run(*command)
        assert (status, err) == (0, "")
        assert contains(out, ["file fresh.onnx,", "time"])
        assert Path("fresh.onnx").read_bytes() == Path("new.onnx").read_bytes() != Path("old.onnx").read_bytes()
        facts = json.loads(shell.run(*command, "--json", "-")[1])
        assert (facts["file"], facts["bytes"]) == ("fresh.onnx", Path("fresh.onnx").stat().st_size)

    @pytest.mark.parametrize(
        ("status", "arguments", "parts"),
        [
            (1, "refresh none.onnx --weights none.pt -o new.onnx", ["none.onnx does not exist"]),
            (1, "refresh net.py --weights none.pt -o new.onnx", ["net.py cannot be read as an ONNX model"]),
            (2, "refresh net.py -o new.onnx", ["--weights", "--help"]),
        ],
    )
    def test_failures(self, shell: Shell, status: int, arguments: str, parts: list[str]) -> None:
        found, out, err = shell.run(*arguments.split())
        assert contains(err, ["error: ", *parts])
        assert (found, out) == (status, "")
        assert shell.files() == ["net.py"]


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "arguments", "parts"),
        [
            (1, "convert net.py:Nett -i 2x20 -o net.onnx", ["nothing called 'Nett'", "did you mean Net?"]),
            (1, "convert none.py:Net -i 2x20 -o net.onnx", ["none.py cannot be read"]),
            (1, "convert net.py:Net -i 2x21 -o net.onnx", ["first", "net.py:17", "20", "21"]),
            (1, "convert net.py:Net -i 2x20 -o none/net.onnx", ["none does not exist"]),
            (1, "convert net.py:Net -i 2x20 -o .", ["is a folder"]),
            (1, "convert net.py:Net -i x=@none.npy -o net.onnx", ["none.npy cannot be read"]),
            (1, "convert net.py:Net -i 2x20 -o net.onnx --kwarg depth=2", ["no argument 'depth'"]),
            (1, "convert net.py:Spare -i 2x20 -o net.onnx --strict", ["never reaches", "spare"]),
            (1, "convert net.py:Raises -i 2x20 -o net.onnx", ["net.py:", "LookupError", "the user's own"]),
            (1, "inspect net.py:Net -i 2x21", ["first"]),
            (1, "resolve net.py:Net -i 2x21 -o w.pt", ["first"]),
            (1, "resolve net.py:Net -i 2x20 -o none/w.pt", ["none does not exist"]),
            (2, "convert net.py:Net -i 2x-20 -o net.onnx", ["'-20'", "DIMxDIM"]),
            (2, "convert net.py:Net -i 2x20:float31 -o net.onnx", ["did you mean float32"]),
            (2, "convert net.py:Net -i 2x20 -i y=3 -o net.onnx", ["y", "forward"]),
            (2, "convert net.py:Net -o net.onnx", ["0 positional", "input for each of: x"]),
            (2, "convert net.py -i 2x20 -o net.onnx", ["does not name a model"]),
            (2, "convert net.py:Net -i 2x20", ["--output", "--help"]),
            (2, "convert -i 2x20 -o net.onnx", ["MODEL", "--help"]),
            (2, "convert net.py:Net -i Nx20 --dim M=4 -o net.onnx", ["the dynamic dimensions are N"]),
            (2, "convert net.py:Net -i 2x20 --where N>=4 -o net.onnx", ["no input has one", "-i Nx3xHxW"]),
            (2, "convert net.py:Net -i Nx20 --where M>=4 -o net.onnx", ["found M>=4", "the named sizes are N"]),
            (2, "why net.py:Net hidden -i Nx20 --where N=4", ["'N=4' cannot be read", "'H >= 33'"]),
            (2, "inspect net.py:Net -i Nx20,N>=", ["'N>=' cannot be read"]),
            (2, "report net.py:Net -i Nx20,N>=9 --where N<=3 -o n.svg", ["no sizes fulfil N >= 9 and N <= 3"]),
            (2, "convert net.py:Net -i Nx20 --dim N=1 -o net.onnx", ["2 or more"]),
            (2, "convert net.py:Net -i Nx20 --dim N -o net.onnx", ["--dim", "K=V"]),
            (2, "convert net.py:Net -i 2x20 --kwarg width -o net.onnx", ["--kwarg", "K=V"]),
            (2, "convert net.py:Net -i 2x20 --meta author -o net.onnx", ["--meta", "K=V"]),
            (2, "convert net.py:Net -i 2x20 --meta lazytracer.x=1 -o net.onnx", ["lazytracer.x", "another key"]),
            (2, "convert net.py:Net -i 2x20 --opset 3 -o net.onnx", ["opset 3"]),
            (2, "convert net.py:Net -i 2x20 --opset x -o net.onnx", ["--opset"]),
            (2, "convert net.py:Net -i 2x20 --seed 99999999999999999999999 -o net.onnx", ["--seed"]),
            (2, "convert net.py:Net -i 2x20 --route fast -o net.onnx", ["--route", "direct"]),
            (2, "convert net.py:Net -i 2x20 --json none/f.json -o net.onnx", ["--json", "no folder none"]),
            (2, "convert net.py:Net -i 2x20 --colour -o net.onnx", ["--colour"]),
            (2, "resolve net.py:Net -i 2x20 -o w.onnx", [".safetensors"]),
            (2, "destroy net.py:Net", ["destroy"]),
            (2, "", ["Missing command", "--help"]),
            (1, "convert net.py:Net -i 2x20 -o net.onnx --kwarg width=wide", ["net.py:12", "type str"]),
            (1, "convert net.py:Wide -i 2x20 -o net.onnx --kwarg width=wide", ["hidden", "'wide'", "whole numbers"]),
            (2, "convert net.py:Net -i x=@net -o net.onnx", ["no suffix", ".npy"]),
            (1, "convert net.py:Net -i 2x20 -o net.onnx --weights net.py", ["net.py cannot be read as weights"]),
        ],
    )
    def test_status_message_and_nothing_written(
        self, shell: Shell, status: int, arguments: str, parts: list[str]
    ) -> None:
        found, out, err = shell.run(*arguments.split())
        assert contains(err, ["error: ", *parts])
        assert found == status
        assert out == "" or (arguments.startswith("inspect") and "as far as it is known" in out)
        assert err.count("error: ") == 1
        assert "Traceback" not in err
        assert "bug" not in err
        assert shell.files() == ["net.py"]

    def test_disagreement_is_status_3(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("net.onnx").write_bytes(b"what was there")
        spoil(monkeypatch, nn.Linear, call=2)
        status, out, err = shell.run("convert", "net.py:Net", "-i", "2x20", "-o", "net.onnx", "--json", "-")
        assert status == 3
        assert contains(err, ["error: hidden (net.py:17) (Linear): output output differs from the module's by "])
        assert "it begins here, where the file has " in err
        assert json.loads(out)["error"]["path"] == "hidden"
        assert Path("net.onnx").read_bytes() == b"what was there"
        assert shell.files() == ["net.onnx", "net.py"]

    def test_json_tells_the_error(self, shell: Shell) -> None:
        status, out, err = shell.run("convert", "net.py:Net", "-i", "2x21", "-o", "net.onnx", "--json", "-")
        error = json.loads(out)["error"]
        assert status == 1
        assert (error["kind"], error["path"], error["source"]) == ("ShapeError", "first", "net.py:17")
        assert "error: " in err
        assert shell.run("inspect", "net.py:Nett", "--json", "f.json")[0] == 1
        assert json.loads(Path("f.json").read_text())["error"]["kind"] == "LoadError"

    def test_a_bug_is_called_one(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("of our own")

        monkeypatch.setattr(tracer, "inspect", fail)
        command = ["inspect", "net.py:Net", "-i", "2x20"]
        status, out, err = shell.run(*command, "--json", "-")
        assert status == 1
        assert contains(err, ["error: this is a bug in lazytracer: RuntimeError: of our own at test_cli.py:"])
        assert "Traceback" not in err
        assert json.loads(out)["error"]["kind"] == "RuntimeError"
        assert "Traceback" in shell.run(*command, "-v")[2]

    def test_interrupt(self, shell: Shell) -> None:
        status, _, err = shell.run("inspect", "net.py:interrupted", "-i", "2x20")
        assert (status, err.splitlines()[-1]) == (130, "error: interrupted")


class TestProcess:
    def test_help_and_version_import_nothing_heavy(self) -> None:
        script = (
            "import sys; from tracer.cli import main; code = main([sys.argv[1]]);"
            "assert not {'torch', 'onnx', 'numpy', 'rich'} & set(sys.modules); sys.exit(code)"
        )
        for option, part in [("--help", "convert"), ("-h", "inspect"), ("--version", tracer.__version__)]:
            done = subprocess.run(
                [sys.executable, "-c", script, option], cwd=REPOSITORY, capture_output=True, text=True, check=True
            )
            assert part in done.stdout

    def test_module_and_exit_status(self, shell: Shell) -> None:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "ascii"}
        command = [sys.executable, "-m", "tracer", "inspect", "net.py:Nett", "-i", "2x20"]
        done = subprocess.run(command, cwd=shell.folder, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert contains(done.stderr, ["error: net.py has nothing called 'Nett'"])
