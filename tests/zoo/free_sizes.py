"""For which sizes models hold, with N, H and W free: `python -m tests.zoo.free_sizes [timm] [MODEL ...]`.

Writes docs/free_sizes.md, of torchvision's classification models, or docs/free_sizes_timm.md. Each statement is solved
from one trace. Then the file is run beside eager PyTorch at the borders of the height and one step outside.
"""

from __future__ import annotations

import csv
import itertools
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from torch import nn

import tracer
from tests.zoo.test_torchvision import TOLERANCE
from tests.zoo.torchvision_models import ZooModel, classification

DOCS = Path(__file__).parents[2] / "docs"
BEFORE = Path(__file__).with_name("guards_before.tsv")

# Of larger models no file is written: that it holds is seen at the smaller ones of their families.
LARGEST = 30_000_000
HEAD = """\
# Free sizes of {zoo}'s models

For which sizes the files of {count} models hold when they are converted with
`spec("N", 3, "H", "W")`: the sentence that the report ends in; how many guards stand behind it; and how many a version
of lazytracer listed that did not solve them ({version}).

*Heights* are those at the borders and one step outside, at the sampled width, and, where there is no largest one, the
next that works beyond the sampled one. At each the file is run beside eager PyTorch: it *agrees* up to {tolerance:g} of
the output's range; it *differs*, or *ends*, as its forward takes another branch there, which is another program; or
eager PyTorch itself *fails*. Of models with more than {largest:g} million parameters no file is written: they *run* on
the meta device, or fail. Written by `{command}`.

| model | sizes | guards | before | heights |
|---|---|--:|--:|---|
"""


def row(model: ZooModel, before: str) -> str:
    """A line of the table."""
    height, width = model.shape[1:]
    on_meta = model.on_meta()
    free, dims = tracer.spec("N", 3, "H", "W", device="meta"), {"H": height, "W": width}
    try:
        limits = tracer.sizes(on_meta, free, dims=dims)["H"]
        with TemporaryDirectory() as folder:
            if sum(map(torch.Tensor.numel, on_meta.parameters())) > LARGEST:
                report, beside = tracer.inspect(on_meta, free, dims=dims), Beside(on_meta, None, width)
            else:
                module, file, free = model.with_weights(), Path(folder) / "model.onnx", tracer.spec("N", 3, "H", "W")
                report = tracer.convert(module, free, file, dims=dims, verify=False, route="direct").report
                beside = Beside(module, file, width)
            heights = "; ".join(dict.fromkeys(map(", ".join, _heights(beside, limits))))
    except tracer.TracerError as error:
        return f"| {model.name} | {error.message.splitlines()[0]} | | {before} | |\n"
    guards = sum(guard.dynamic for guard in report.guards)
    return f"| {model.name} | {report.statement.removeprefix('valid for ')} | {guards} | {before} | {heights} |\n"


def _heights(beside: Beside, limits: tracer.SizeLimits) -> Iterator[list[str]]:
    """What becomes of the heights at each border."""
    for border, step, beyond in ((limits.lower, -1, 0), (limits.upper, 1, limits.sampled)):
        if border is not None:
            yield [beside.said(border.size), beside.said(border.size + step)]
        else:
            yield [beside.said(_first_after(beyond, limits.condition))]


def _first_after(size: int, condition: str) -> int:
    return next(size for size in itertools.count(size + 1) if all(eval(f"({condition},)", {"H": size})))


class Beside:
    """A module, with its file beside it, if there is one."""

    def __init__(self, module: nn.Module, file: Path | None, width: int):
        self._module, self._width = module, width
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level, quiet.intra_op_num_threads = 4, torch.get_num_threads()
        self._session = (
            None if file is None else onnxruntime.InferenceSession(str(file), quiet, providers=["CPUExecutionProvider"])
        )

    def said(self, height: int) -> str:
        """What happens at a height: `221 agrees`."""
        return f"{height} {self._outcome(height)}"

    def _outcome(self, height: int) -> str:
        shape, draw = (1, 3, height, self._width), torch.Generator().manual_seed(height)
        image = torch.empty(shape, device="meta") if self._session is None else torch.randn(shape, generator=draw)
        try:
            with torch.no_grad():
                expected = self._module(image)
        except Exception:  # whatever torch or the model's own code raises
            return "fails"
        if self._session is None:
            return "runs"
        try:
            (found,) = self._session.run(None, {self._session.get_inputs()[0].name: image.numpy()})
        except Exception:  # onnxruntime's errors have no class of their own
            return "ends"
        if found.shape != tuple(expected.shape):
            return "differs"
        difference = (torch.from_numpy(found) - expected).abs().max()
        return "agrees" if difference <= TOLERANCE * (expected.max() - expected.min()) else "differs"


def guards_before() -> tuple[str, dict[str, str]]:
    """Which version listed how many guards, by the model and the sample's height and width."""
    version, *lines = BEFORE.read_text().splitlines()
    return version.removeprefix("# "), {
        f"{model} {height} {width}": guards for model, height, width, guards in csv.reader(lines, delimiter="\t")
    }


def main(zoo: str = "torchvision", *names: str) -> None:
    """Writes the page, of all models or with the lines of some made anew."""
    version, before = guards_before()
    if zoo == "timm":
        from tests.zoo.timm_models import timm_models

        models, page, command = timm_models(), DOCS / "free_sizes_timm.md", "python -m tests.zoo.free_sizes timm"
    else:
        models, page, command = classification(), DOCS / "free_sizes.md", "python -m tests.zoo.free_sizes"
    known = page.read_text().splitlines(keepends=True) if names and page.exists() else []
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in known}
    for model in models:
        if names and model.name not in names:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tracer.TracerWarning)
            lines[model.name] = row(model, before.get(f"{model.name} {model.shape[1]} {model.shape[2]}", ""))
        print(lines[model.name], end="", file=sys.stderr, flush=True)
        table = [lines[each.name] for each in models if each.name in lines]
        head = HEAD.format(
            zoo=zoo, count=len(table), version=version, tolerance=TOLERANCE, largest=LARGEST / 1e6, command=command
        )
        page.write_text(head + "".join(table))


if __name__ == "__main__":
    main(*sys.argv[1:])
