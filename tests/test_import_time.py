"""What is imported when: nothing heavy before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

STATIC = "tracer.convert(nn.Sequential(nn.LazyLinear(3), nn.ReLU()), tracer.spec({}), verify=False)"
HEAVY = {"sympy", "networkx", "onnxruntime", "onnxscript", "rich", "torch._dynamo"}
OF_VERIFICATION = {"tracer.checking.verification", "tracer.checking.localisation"}
UNNEEDED = HEAVY | OF_VERIFICATION | {"passes.lowering.torch_exporter"}
PRELUDE = "import sys, tracer; from torch import nn; "


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import sys, tracer", {"torch", "onnx", "rich", "click"}),
        ("import sys, tracer.cli.command_line", {"torch", "onnx", "rich"}),
        (PRELUDE + STATIC.format("2, 5"), UNNEEDED),
        (PRELUDE + STATIC.format("'N', 5"), UNNEEDED),
    ],
)
def test_nothing_heavy_is_imported(code: str, absent: set[str]) -> None:
    script = f"{code}; print(*(name for name in {sorted(absent)!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
