"""How fast `convert` is beside a dry run plus torch's exporters, in one run, as ratios.

    python tests/benchmarks/conversion_speed.py [--repeats 5]

Every contender starts from a fresh lazy ResNet-50 and ends with an ONNX file on disk; nobody verifies. The
contenders take turns, after one warm-up each, and the medians are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import tracer

SAMPLE = (1, 3, 224, 224)
EXAMPLE = Path(__file__).parents[2] / "examples" / "resnet50.py"


def load_example() -> Callable[[], nn.Module]:
    spec = importlib.util.spec_from_file_location("resnet50_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ResNet50


def convert(model: nn.Module, path: Path) -> None:
    tracer.convert(model, tracer.spec(*SAMPLE), path, verify=False)


def dry_run_and_export(model: nn.Module, path: Path, dynamo: bool) -> None:
    sample = torch.zeros(SAMPLE)
    model.eval()
    with torch.no_grad():
        model(sample)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (sample,), str(path), dynamo=dynamo)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    logging.disable(logging.WARNING)
    build = load_example()
    contenders: dict[str, Callable[[nn.Module, Path], None]] = {
        "tracer.convert": convert,
        "dry run + torch.onnx.export(dynamo=True)": lambda model, path: dry_run_and_export(model, path, True),
        "dry run + torch.onnx.export(dynamo=False)": lambda model, path: dry_run_and_export(model, path, False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):
            for name, run in contenders.items():
                model = build()
                started = time.perf_counter()
                run(model, Path(folder) / "model.onnx")
                if turn:
                    seconds[name].append(time.perf_counter() - started)
    ours = statistics.median(seconds["tracer.convert"])
    print(f"ResNet-50, lazy, {'x'.join(map(str, SAMPLE))}, median of {repeats}")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"  {name:44} {median * 1000:8.0f} ms   {median / ours:6.1f} x")


if __name__ == "__main__":
    main()
