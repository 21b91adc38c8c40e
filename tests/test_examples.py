"""Every example through the real command line, in onnxruntime, and against a dry run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import tracer
from tracer.cli.loading import load_inputs, load_model, parse_literals

REPOSITORY = Path(__file__).parent.parent
EXAMPLES = REPOSITORY / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@dataclass(frozen=True)
class Example:
    """A model of the examples at sizes as small as its architecture allows."""

    name: str
    sizes: tuple[int, ...]
    settings: tuple[str, ...] = ()

    def load(self) -> nn.Module:
        return load_model(f"examples/{self.name}", parse_literals(self.settings, "--kwarg"))

    def sample(self, batch: int) -> torch.Tensor:
        return torch.randn(batch, *self.sizes, generator=torch.Generator().manual_seed(batch))

    def dry_run(self) -> nn.Module:
        """The model as a script makes it that sets the seed, builds it and runs it once."""
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            model = self.load().eval()
            model(self.sample(2))
        return model


SMALL = ("width=64", "classes=10")
MODELS = [
    Example("two_layer.py:TwoLayer", (20,)),
    Example("lenet.py:model", (1, 28, 28)),
    Example("alexnet.py:AlexNet", (3, 65, 65), SMALL),
    Example("vgg.py:vgg11", (3, 32, 32), SMALL),
    Example("vgg.py:vgg16", (3, 32, 32), SMALL),
    Example("inception.py:GoogLeNet", (3, 32, 32)),
    Example("resnet50.py:ResNet50", (3, 32, 32)),
    Example("autoencoder.py:Autoencoder", (3, 16, 16)),
]
each_model = pytest.mark.parametrize("example", MODELS, ids=lambda example: example.name)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@each_model
def test_converts_and_agrees_at_any_batch_size(example: Example, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    settings = [part for setting in example.settings for part in ("--kwarg", setting)]
    sample = "x".join(["N", *map(str, example.sizes)])
    command = ["convert", f"examples/{example.name}", "-i", sample, *settings, "-o", str(path), "--json", "-"]
    facts = json.loads(run("-m", "tracer", *command))
    assert facts["route"] == "direct", facts["route_reason"]
    assert facts["params"] == sum(parameter.numel() for parameter in example.dry_run().parameters())
    assert not [guard for guard in facts["guards"] if guard["dynamic"]]

    eager = example.dry_run()
    session = onnxruntime.InferenceSession(path)
    (name,) = [entry.name for entry in session.get_inputs()]
    for batch in (1, 3):
        x = example.sample(batch)
        with torch.no_grad():
            expected = eager(x)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for ours, theirs in zip(session.run(None, {name: x.numpy()}), expected, strict=True):
            scale = max(1.0, float(theirs.abs().max()))
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("opset", [13, 17, 18, 20, 23])
@each_model
def test_agrees_at_every_opset(example: Example, opset: int) -> None:
    conversion = tracer.convert(
        example.load(), tracer.spec("N", *example.sizes), seed=0, opset_version=opset, route="direct"
    )
    assert conversion.lowered.proto.opset_import[0].version == opset
    assert conversion.verification is not None
    assert max(comparison.relative for comparison in conversion.verification.comparisons) < 1e-5


@each_model
def test_resolves_to_the_weights_of_a_dry_run(example: Example) -> None:
    model = example.load()
    with torch.random.fork_rng():
        resolved = tracer.resolve(model, (example.sample(2),), seed=0)
    expected = example.dry_run().state_dict()
    found = resolved.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert type(resolved) is type(model)
    lazy = nn.parameter.UninitializedTensorMixin
    assert any(isinstance(parameter, lazy) for parameter in model.parameters())
    assert not any(isinstance(parameter, lazy) for parameter in resolved.parameters())


def test_resnet50_has_its_size() -> None:
    report = tracer.inspect(load_model("examples/resnet50.py:ResNet50"), (tracer.spec("N", 3, 224, 224),))
    assert report.params == 25_557_032
    assert report.macs == "4089184256*N"
    assert (
        tracer.inspect(load_model("examples/resnet50.py:ResNet50"), tracer.spec(1, 3, 224, 224)).macs == 4_089_184_256
    )
    assert report.outputs == ["float32[N, 1000]"]
    assert report.resolved["classifier"] == {"in_features": 2048}


def test_build_script(tmp_path: Path) -> None:
    printed = run("examples/build.py", str(tmp_path / "built"))
    assert sorted(file.name for file in (tmp_path / "built").iterdir()) == ["lenet.onnx", "two_layer.onnx"]
    assert "lenet.onnx: 61,706 params" in printed


def commands() -> list[str]:
    """The command lines that the examples show."""
    texts = [path.read_text() for path in (*EXAMPLES.glob("*.py"), EXAMPLES / "README.md")]
    return [line for text in texts for line in re.findall(r"^ +python -m tracer (.*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("command", commands())
def test_shown_commands_name_what_is_there(command: str) -> None:
    verb, model, *rest = shlex.split(command)
    given = _options(rest)
    assert verb in ("convert", "inspect", "resolve")
    assert isinstance(load_model(model, parse_literals(given.get("--kwarg", []), "--kwarg")), nn.Module)
    assert load_inputs(given["-i"])
    assert ("-o" in given) == (verb != "inspect")


def _options(arguments: Sequence[str]) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        options.setdefault(option, []).append(value)
    return options
