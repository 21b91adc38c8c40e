"""For which sizes torchvision's classification models hold, with N, H and W free: `python -m tests.zoo.free_sizes`.

Writes docs/free_sizes.md. Each statement is solved from one trace, on the meta device; then eager PyTorch is asked at
the border, and one step outside of it, for the height with the width as sampled.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

import tracer
from tests.zoo.torchvision_models import ZooModel, classification

PAGE = Path(__file__).parents[2] / "docs" / "free_sizes.md"

HEAD = """\
# Free sizes

For which sizes the file of each classification model of torchvision holds when it is converted with
`spec("N", 3, "H", "W")`: the sentence that the report ends in, and how many guards stand behind it. *Border* says what
eager PyTorch does at the last height that is said to work, and one step outside, on the meta device; where it runs
outside too, its forward takes another branch there, which is another program. Written by
`python -m tests.zoo.free_sizes`.

| model | sizes | guards | border |
|---|---|---|---|
"""


def row(model: ZooModel) -> str:
    """A line of the table."""
    module = model.on_meta()
    side = model.shape[-1]
    free, dims = tracer.spec("N", 3, "H", "W", device="meta"), {"H": side, "W": side}
    try:
        report = tracer.inspect(module, free, dims=dims)
        height = tracer.sizes(module, free, dims=dims)["H"]
    except tracer.TracerError as error:
        return f"| {model.name} | {error.message.splitlines()[0]} | | |\n"
    guards = sum(guard.dynamic for guard in report.guards)
    borders = [(border.size, step) for border, step in ((height.lower, -1), (height.upper, 1)) if border is not None]
    said = [
        f"{size} {_outcome(module, size, side)}, {size + step} {_outcome(module, size + step, side)}"
        for size, step in dict.fromkeys(borders)
    ]
    return (
        f"| {model.name} | {report.statement.removeprefix('valid for ')} | {guards} | {'; '.join(said) or 'none'} |\n"
    )


def _outcome(module: nn.Module, height: int, width: int) -> str:
    try:
        with torch.no_grad():
            module(torch.empty(2, 3, height, width, device="meta"))
    except (RuntimeError, ValueError, AssertionError):  # torch's, and what torchvision's own models raise
        return "fails"
    return "runs"


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tracer.TracerWarning)
        PAGE.write_text(HEAD + "".join(map(row, classification())))


if __name__ == "__main__":
    main()
