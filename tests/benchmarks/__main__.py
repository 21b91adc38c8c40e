"""The speed and memory of a conversion beside its peers, in one run: `python -m tests.benchmarks [ROW…]`.

Prints the table that the README shows. Each row is a ratio of what was measured in the same run, on whatever machine it
is; none is a test.
"""

from __future__ import annotations

import importlib.util
import logging
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

import tracer
from passes.isolation.model_copy import copy_model
from tests.benchmarks.measuring import REPOSITORY, in_turns, peak_bytes, process_seconds

IMAGE = (1, 3, 224, 224)
LARGE = "nn.Sequential(*(nn.LazyLinear(10_000) for _ in range(10)))"  # 4 GB of weights


@dataclass(frozen=True)
class Row:
    """One comparison: what was measured of ours, beside what, and the target for the ratio."""

    what: str
    beside: str
    ours: str
    theirs: str
    ratio: str
    target: str

    def __str__(self) -> str:
        return f"| {self.what} | {self.beside} | {self.ours} | {self.theirs} | {self.ratio} | {self.target} |"


def example(name: str, attribute: str) -> Callable[[], nn.Module]:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, attribute)
    return found if isinstance(found, type) else lambda: copy_model(found)


def dry_run_and_export(build: Callable[[], nn.Module], shape: tuple[int, ...], dynamo: bool) -> None:
    model, sample = build().eval(), torch.zeros(shape)
    with torch.no_grad():
        model(sample)
    with tempfile.TemporaryDirectory() as folder:
        torch.onnx.export(model, (sample,), f"{folder}/model.onnx", dynamo=dynamo)


def convert(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tracer.convert(build(), tracer.spec(*shape), f"{folder}/model.onnx", seed=0, verify=False)


def chain(layers: int) -> nn.Module:
    return nn.Sequential(*(part for _ in range(layers) for part in (nn.LazyLinear(64), nn.ReLU())))


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def faster(what: str, beside: str, ours: float, theirs: float, target: str) -> Row:
    return Row(what, beside, milliseconds(ours), milliseconds(theirs), f"{theirs / ours:.1f} times faster", target)


def times(what: str, beside: str, ours: float, theirs: float, target: str) -> Row:
    return Row(what, beside, milliseconds(ours), milliseconds(theirs), f"{ours / theirs:.2f} times", target)


def resnet_conversion() -> list[Row]:
    build = example("resnet50", "ResNet50")
    resolved: Any = tracer.resolve(build(), tracer.spec(*IMAGE))

    def draw_and_write() -> None:
        torch.manual_seed(0)
        for module in resolved.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        with tempfile.TemporaryFile() as file:
            for tensor in resolved.state_dict().values():
                file.write(tensor.numpy().tobytes() if tensor.ndim == 0 else tensor.numpy().data)

    what = "`convert` ResNet-50, in process, warm, no verification"
    found = in_turns(
        {
            what: lambda: convert(build, IMAGE),
            "limit": draw_and_write,
            "dynamo": lambda: dry_run_and_export(build, IMAGE, True),
            "script": lambda: dry_run_and_export(build, IMAGE, False),
        }
    )
    ours = found[what]
    return [
        faster(what, "dry run + `torch.onnx.export(dynamo=True)`", ours, found["dynamo"], "25 times faster"),
        faster("the same", "dry run + `torch.onnx.export(dynamo=False)`", ours, found["script"], "6 times faster"),
        times("the same", "drawing the weights + writing their bytes", ours, found["limit"], "at most 1.5 times"),
    ]


def lenet() -> list[Row]:
    build = example("lenet", "model")
    found = in_turns(
        {
            "ours": lambda: convert(build, (1, 1, 28, 28)),
            "script": lambda: dry_run_and_export(build, (1, 1, 28, 28), False),
        },
        repeats=20,
    )
    return [faster("`convert` LeNet, warm", "dry run + TorchScript export", found["ours"], found["script"], "faster")]


def thousand_layers() -> list[Row]:
    build, shape = (lambda: chain(1000)), (2, 64)
    found = in_turns(
        {
            "ours": lambda: convert(build, shape),
            "script": lambda: dry_run_and_export(build, shape, False),
            "dynamo": lambda: dry_run_and_export(build, shape, True),
        },
        repeats=2,
    )
    what = "`convert` 1,000 x (LazyLinear + ReLU)"
    return [
        faster(what, "dry run + dynamo export", found["ours"], found["dynamo"], "100 times faster"),
        faster("the same", "dry run + TorchScript export", found["ours"], found["script"], "8 times faster"),
    ]


def linear_growth() -> list[Row]:
    found = in_turns(
        {
            "many": lambda: convert(lambda: chain(10_000), (2, 64)),
            "few": lambda: convert(lambda: chain(1_000), (2, 64)),
        },
        repeats=3,
    )
    return [times("10,000 layers", "1,000 layers", found["many"], found["few"], "at most 12 times")]


def resolution() -> list[Row]:
    build = example("resnet50", "ResNet50")
    shape = (32, *IMAGE[1:])

    def dry_run() -> None:
        with torch.no_grad():
            build().eval()(torch.zeros(shape))

    found = in_turns({"ours": lambda: tracer.resolve(build(), tracer.spec(*shape)), "theirs": dry_run}, repeats=3)
    what = f"`resolve` ResNet-50 at `{'x'.join(map(str, shape))}`"
    return [faster(what, "dry run on the same sample", found["ours"], found["theirs"], "10 times faster")]


def inspection() -> list[Row]:
    model = example("resnet50", "ResNet50")()
    sample = tracer.spec(*IMAGE)
    found = in_turns(
        {"ours": lambda: tracer.inspect(model, sample), "theirs": lambda: fx.symbolic_trace(model)}, repeats=20
    )
    return [
        times(
            "`inspect` ResNet-50, warm",
            "`torch.fx.symbolic_trace`",
            found["ours"],
            found["theirs"],
            "at most 1.5 times",
        )
    ]


def memory() -> list[Row]:
    resnet = "from examples.resnet50 import ResNet50\nmodel = ResNet50()"
    peak = peak_bytes(resnet, "found = tracer.resolve(model, tracer.spec(256, 3, 224, 224))")
    resolved = tracer.resolve(example("resnet50", "ResNet50")(), tracer.spec(*IMAGE))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in resolved.state_dict().values())
    allowed = 1.1 * weights + 50e6
    rows = [
        Row(
            "peak memory of `resolve` at batch 256", "bytes of the weights", f"{peak / 1e6:.0f} MB",
            f"{weights / 1e6:.0f} MB", f"{peak / weights:.2f} times", f"at most {allowed / 1e6:.0f} MB",
        )
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        peak = peak_bytes(
            f"from torch import nn\nmodel = {LARGE}",
            f"tracer.convert(model, tracer.spec(1, 10_000), {folder + '/large.onnx'!r}, seed=0, verify=False)",
        )
    rows.append(
        Row(
            "peak memory of `convert` with 4 GB of weights", "the imported process", f"{peak / 1e9:.2f} GB", "",
            "", "at most 1 GB",
        )
    )  # fmt: skip
    return rows


def processes() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "tracer", "convert", "examples/lenet.py:model", "-o", f"{folder}/lenet.onnx"]
        found = process_seconds(
            {
                "static": [*command, "-i", "1x1x28x28"],
                "dynamic": [*command, "-i", "Nx1x28x28"],
                "torch": ["-c", "import torch"],
            }
        )
    for batch in ("static", "dynamic"):
        what = f"`python -m tracer convert` LeNet, verified, whole process, {batch} batch"
        rows.append(times(what, '`python -c "import torch"`', found[batch], found["torch"], "at most 1.6 times"))
    return rows


ROWS: dict[str, Callable[[], list[Row]]] = {
    "resnet": resnet_conversion,
    "lenet": lenet,
    "thousand": thousand_layers,
    "linear": linear_growth,
    "resolve": resolution,
    "inspect": inspection,
    "memory": memory,
    "process": processes,
}


def main(names: list[str]) -> None:
    """Measures the named groups of rows, or all, and prints the table."""
    logging.disable(logging.WARNING)
    sys.setrecursionlimit(100_000)
    print(f"torch {torch.__version__} on {platform.machine()}, {torch.get_num_threads()} threads\n")
    print("| what | beside | lazytracer | beside it | ratio | target |\n|---|---|--:|--:|--:|---|")
    for name in names or ROWS:
        for row in ROWS[name]():
            print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
