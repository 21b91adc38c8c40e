"""tracer.draw and `python -m tracer report`: formats, files, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tracer
from tests.test_graph_formats import Small
from tracer.cli import main

SAMPLE = (tracer.spec("N", 4),)
STARTS = {
    "html": "<!doctype html>",
    "svg": "<svg ",
    "dot": "digraph ",
    "mermaid": "flowchart ",
    "json": "{",
}
NET = """
from torch import nn
model = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.Linear(3, 2))
"""


@pytest.mark.parametrize("format", STARTS)
def test_formats(format: str, tmp_path: Path) -> None:
    drawing = tracer.draw(Small(), SAMPLE, tmp_path / "out", format=format)
    assert drawing.format == format
    assert drawing.text.startswith(STARTS[format])
    assert (tmp_path / "out").read_text(encoding="utf-8") == drawing.text
    assert drawing.report == tracer.inspect(Small(), SAMPLE)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.html", "html"),
        ("a.HTM", "html"),
        ("a.svg", "svg"),
        ("a.gv", "dot"),
        ("a.mmd", "mermaid"),
        ("a.json", "json"),
    ],
)
def test_format_by_suffix(name: str, format: str, tmp_path: Path) -> None:
    assert tracer.draw(Small(), SAMPLE, str(tmp_path / name)).format == format


def test_nothing_is_run_or_changed() -> None:
    model = Small()
    state = torch.random.get_rng_state()
    assert tracer.draw(model, SAMPLE).format == "html"
    assert torch.equal(torch.random.get_rng_state(), state)
    assert nn.parameter.is_lazy(model.head.weight)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "png"}, tracer.InputError, "no format 'png'.*mermaid"),
        ({"f": "picture.png"}, tracer.InputError, "picture.png names no format"),
        ({"f": "none/report.html"}, tracer.ExportError, "none does not exist"),
        ({"args": (tracer.spec(2, 5),)}, tracer.ShapeError, "add"),
    ],
)
def test_what_goes_wrong(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        tracer.draw(Small(), **{"args": SAMPLE, **options})


class TestCommand:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "net.py").write_text(NET)
        monkeypatch.chdir(tmp_path)

    def test_page(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["report", "net.py:model", "-i", "Nx5", "-o", "report.html"]) == 0
        out = capsys.readouterr().out
        assert "Sequential: 1 lazy layer resolved" in out
        assert "report.html" in out
        assert Path("report.html").read_text(encoding="utf-8").startswith(STARTS["html"])

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        options = ["--format", "dot", "--json", "-"]
        assert main(["report", "net.py:model", "-i", "Nx5", "-o", "graph.txt", *options]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["file"], facts["format"]) == ("graph.txt", "dot")
        assert facts["bytes"] == Path("graph.txt").stat().st_size
        assert facts["layers"][0]["resolved"] == {"in_features": 5}

    @pytest.mark.parametrize(
        ("status", "arguments", "parts"),
        [
            (1, "net.py:model -i 2 -o none/report.html", ["none does not exist"]),
            (2, "net.py:model -i 2x5 -o report.png", ["report.png names no format", ".html"]),
            (2, "net.py:model -i 2x5 -o report.html --format png", ["--format", "mermaid"]),
            (2, "net.py:model -i 2x5", ["--output"]),
        ],
    )
    def test_failure(self, status: int, arguments: str, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["report", *arguments.split()]) == status
        err = capsys.readouterr().err
        assert all(part in err for part in parts)
        assert "Traceback" not in err
        assert [file.name for file in Path().iterdir() if file.name != "__pycache__"] == ["net.py"]
