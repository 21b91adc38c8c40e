"""Writes docs/zoo.md: every model of torchvision, converted and compared (`python -m tests.zoo`)."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.zoo.test_torchvision import ALL, TOLERANCE, agree

TARGET = Path(__file__).parents[2] / "docs" / "zoo.md"
HEADING = f"""# The models of torchvision

Each model's layers are made lazy, it is converted with the weights of the original and a dynamic batch, and the
file is compared with the original at two batch sizes, in onnxruntime. Largest differences are relative to the output's
range; up to {TOLERANCE:g} counts as agreement. Seconds are of one run, for the steps in turn. Written by
`python -m tests.zoo`.

| model | parameters | nodes | route | difference | capture | resolve | simplify | lower | write | verify |
|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|
"""
STEPS = (
    ("capture", "shape propagation"),
    ("weight loading",),
    ("simplification",),
    ("lowering",),
    ("writing",),
    ("verification",),
)


def main(names: list[str]) -> None:
    """Writes the table, of the named models or of all."""
    rows = []
    for zoo in ALL:
        if names and zoo.name not in names:
            continue
        with TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            conversion = agree(zoo, Path(folder) / "model.onnx")
        assert conversion.verification is not None
        difference = max(c.difference / c.scale for c in conversion.verification.comparisons)
        seconds = [sum(conversion.timings.get(name, 0.0) for name in step) for step in STEPS]
        nodes = len(conversion.lowered.proto.graph.node)
        cells = [zoo.name, f"{conversion.report.params / 1e6:.1f} M", str(nodes), conversion.route, f"{difference:.0e}"]
        rows.append("| " + " | ".join([*cells, *(f"{value:.2f}" for value in seconds)]) + " |")
        print(rows[-1], file=sys.stderr, flush=True)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(HEADING + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
