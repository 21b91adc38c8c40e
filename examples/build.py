"""A build step that uses the library: checks two models and writes their ONNX files to a folder.

python examples/build.py FOLDER
"""

import argparse
from pathlib import Path

import lenet
import two_layer
from torch import nn

import tracer

# The sizes that the rest of a product relies on: a change of architecture that moves them stops the build.
EXPECTED = {
    "two_layer": {"hidden": {"in_features": 20}, "output": {"in_features": 256}},
    "lenet": {
        "0": {"in_channels": 1},
        "3": {"in_channels": 6},
        "7": {"in_features": 400},
        "9": {"in_features": 120},
        "11": {"in_features": 84},
    },
}


def build(name: str, model: nn.Module, sample: object, folder: Path) -> None:
    """Converts one model, and writes its file once its report is as expected."""
    conversion = tracer.convert(model, (sample,), seed=0, metadata={"model": name})
    if conversion.report.resolved != EXPECTED[name]:
        raise SystemExit(f"{name}: expected {EXPECTED[name]}, but found {conversion.report.resolved}")
    path = conversion.save(folder / f"{name}.onnx")
    assert conversion.verification is not None
    print(f"{path}: {conversion.report.params:,} params, differs by {conversion.verification.largest_difference:.1g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    build("two_layer", two_layer.TwoLayer(), tracer.spec("N", 20), folder)
    build("lenet", lenet.model, tracer.spec("N", 1, 28, 28), folder)


if __name__ == "__main__":
    main()
