"""What a report tells: where sizes come from, the route, what could not be followed, and its table in a notebook."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections import OrderedDict
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import tracer
from tracer.cli.rendering import conversion_summary, inspection
from tracer.cli.report_table import LayerTable, fitted
from tracer.reports.data import Layer
from tracer.reports.report import Report
from tracer.reports.text import shape


class Branches(nn.Module):
    """Lazy layers after an input, a layer, an operation, and one of several results."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LazyLinear(4)
        self.second = nn.LazyLinear(6)
        self.recurrent = nn.LSTM(6, 3)
        self.third = nn.LazyLinear(2)
        self.fourth = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.first(x))
        sequence, _ = self.recurrent(h)
        return self.third(sequence) + self.fourth(torch.cat([sequence, h], dim=-1))


def test_where_sizes_come_from() -> None:
    report = tracer.inspect(Branches(), tracer.spec(5, 2, 7))
    found = {layer.path: (layer.resolved, layer.inferred_from) for layer in report.layers if layer.resolved}
    assert found["first"] == ({"in_features": 7}, "input x")
    assert found["second"] == ({"in_features": 4}, "first")
    assert found["third"] == ({"in_features": 3}, "recurrent")
    resolved, origin = found["fourth"]
    assert resolved == {"in_features": 9}
    assert origin is not None
    assert origin.startswith("cat (test_report.py:")


def test_a_copy_has_the_text_of_the_program() -> None:
    report = tracer.inspect(Branches(), tracer.spec(5, 2, 7))
    for copied in (pickle.loads(pickle.dumps(report)), copy.deepcopy(report)):
        assert copied == report
        assert copied.program_text() == report.program_text()


class Bounded(nn.Module):
    """A lazy layer in a module that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, torch.fx.Proxy):
            raise RuntimeError("only real tensors")
        return self.inner(x)


def test_layers_inside_what_cannot_be_traced() -> None:
    model = nn.Sequential(nn.LazyLinear(4), Bounded(), nn.LazyLinear(5))
    report = tracer.inspect(model, tracer.spec(2, 6))
    assert [rung.path for rung in report.rungs] == ["1"]
    assert [step.path for step in report.steps] == ["0", "1", "1.inner", "2"]
    assert report.resolved == {"0": {"in_features": 6}, "1.inner": {"in_features": 4}, "2": {"in_features": 3}}


class TestRoute:
    def test_direct(self) -> None:
        report = tracer.inspect(nn.Linear(3, 4), tracer.spec(2, 3))
        assert (report.route, report.blockers) == ("direct", [])

    def test_blockers_are_those_of_a_conversion(self) -> None:
        class Decomposed(nn.Module):
            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                torch.linalg.qr(x + 1)  # not needed for the outputs
                return torch.linalg.eigvals(x), torch.linalg.svdvals(x)

        report = tracer.inspect(Decomposed(), tracer.spec(3, 3))
        assert report.route == "torch"
        with pytest.raises(tracer.UnsupportedOpError) as refused:
            tracer.convert(Decomposed(), tracer.spec(3, 3), route="direct", verify=False)
        assert list(map(str, report.blockers)) == [
            str(blocker) for blocker in refused.value.blockers if "direct lowering" in blocker.reason
        ]
        assert [blocker.operation for blocker in report.blockers] == ["linalg_eigvals", "linalg_svdvals"]
        assert "linalg_svdvals at the model's forward (test_report.py:" in report.route_reason

    def test_needs_no_onnx(self) -> None:
        program = (
            "import sys, tracer; from torch import nn; tracer.inspect(nn.LazyLinear(2), tracer.spec(3, 4)).route; "
            "assert not {'onnx', 'networkx', 'sympy'} & sys.modules.keys(), sys.modules.keys()"
        )
        subprocess.run([sys.executable, "-c", program], check=True)


class TestTable:
    def rendered(self, report: Report, width: int) -> str:
        console = Console(file=StringIO(), width=width, color_system=None)
        with console.capture() as captured:
            console.print(LayerTable(report.steps))
        return captured.get()

    def test_one_line_a_layer_where_there_is_room(self) -> None:
        report = tracer.inspect(Branches(), tracer.spec("N", 2, 7))
        assert len(self.rendered(report, 200).splitlines()) == 1 + len(report.steps)
        narrow = self.rendered(report, 80)
        assert len(narrow.splitlines()) >= 2 + 2 * len(report.steps)
        assert narrow.split()[:4] == ["layer", "input", "params", "inferred"]

    @pytest.mark.parametrize("width", [60, 80, 100, 300])
    def test_never_wider_than_the_terminal(self, width: int) -> None:
        inner = nn.Sequential(nn.Sequential(nn.LazyConv2d(4096, 3), nn.LazyBatchNorm2d()))
        model = nn.Sequential(OrderedDict(a_module_with_quite_a_long_name=inner))
        report = tracer.inspect(model, tracer.spec("N", 3, "H", "W"))
        assert max(map(len, self.rendered(report, width).splitlines())) <= width

    def test_widths(self) -> None:
        assert fitted([5, 30, 10], 100) == [5, 30, 10]
        assert fitted([5, 30, 20], 45) == [5, 20, 20]
        assert fitted([30, 30], 10) == [11, 11]

    def test_shapes(self) -> None:
        assert shape([]) == "scalar"
        assert shape(["N", 64, "H//2", "2*W"]) == "N x 64 x H//2 x 2*W"
        assert shape([2, "H - 4", "(H + 3)//4"]) == "2 x (H-4) x (H+3)//4"
        assert shape([[2, 3], [4]]) == "2 x 3, 4"


class Cells(HTMLParser):
    """The texts of a page, and whether its tags close."""

    def __init__(self, page: str):
        super().__init__()
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


class TestNotebook:
    def test_report(self) -> None:
        report = tracer.inspect(Branches(), tracer.spec("N", 2, 7))
        cells = Cells(report._repr_html_()).texts
        assert {"Branches", "first", "LazyLinear", "N x 2 x 7", "in_features=7", "input x", "mult-adds"} <= set(cells)
        assert f"{report.params:,}" in cells

    def test_everything_is_escaped(self) -> None:
        odd = Layer("<b>&", "<script>", [[1]], [1], 0, 0, {}, None, '"')
        page = Report("<i>", {"<x>": "<y>"}, ["<z>"], [odd])._repr_html_()
        assert {"<b>&", "<script>", "<i>", "<x> <y>", "<z>", '"'} <= set(Cells(page).texts)
        assert "<script" not in page

    def test_conversion(self, tmp_path: Path) -> None:
        conversion = tracer.convert(Branches(), tracer.spec(5, 2, 7), tmp_path / "net.onnx", seed=0)
        cells = Cells(conversion._repr_html_()).texts
        assert "direct (every operation has a direct lowering)" in cells
        assert any(text.startswith("largest difference") for text in cells)
        assert any("net.onnx" in text for text in cells)
        unwritten = tracer.convert(Branches(), tracer.spec(5, 2, 7), verify=False, seed=0)
        assert "largest difference" not in unwritten._repr_html_()


class Opaque(nn.Module):
    """Cannot be traced, and keeps its input's sizes."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, torch.fx.Proxy):
            raise RuntimeError("only real tensors")
        return x * 2


class Cautious(nn.Module):
    """A forward that asks for one size, writes a buffer, and has a part that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.part = Opaque()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 6:
            raise ValueError("six only")
        self.seen.copy_(x.sum())
        return self.part(x)


CAUTIONS = (
    "T = 6: the guards hold at no other size",
    "the forward writes seen: the file does not keep that, but state=explicit (--state explicit) makes it an input",
)
OPAQUE = "what it asks of named sizes is not known"


@pytest.mark.filterwarnings("ignore:.* is fixed at")
def test_cautions_are_told_everywhere() -> None:
    """In data, on a terminal, in a notebook, and on the page."""
    sample = tracer.spec("N", "T")
    report = tracer.inspect(Cautious(), sample, dims={"T": 6})
    facts = report.to_dict()
    assert (facts["pinned"], facts["left_behind"], facts["guards_unknown"]) == ({"T": 6}, ["seen"], ["part"])
    console = Console(file=StringIO(), width=1000, color_system=None)
    with console.capture() as captured:
        console.print(inspection(report))
    for told in (captured.get(), report._repr_html_()):
        assert all(text in told for text in (*CAUTIONS, OPAQUE))
    drawing = tracer.draw(Cautious(), sample, dims={"T": 6})
    data = json.loads(drawing.text.partition('id="data">')[2].partition("</script>")[0])
    assert {name: data[name] for name in ("pinned", "left_behind", "guards_unknown")} == {
        "pinned": {"T": 6},
        "left_behind": ["seen"],
        "guards_unknown": ["part"],
    }


@pytest.mark.filterwarnings("ignore:.* is fixed at")
def test_cautions_of_a_conversion(tmp_path: Path) -> None:
    conversion = tracer.convert(Cautious(), tracer.spec("N", "T"), tmp_path / "net.onnx", dims={"T": 6})
    assert conversion.verification is not None
    conversion.verification.notes.append("what else there is")
    console = Console(file=StringIO(), width=1000, color_system=None)
    with console.capture() as captured:
        console.print(conversion_summary(conversion, tmp_path / "net.onnx", 20, 1.0, False))
    for told in (captured.get(), conversion._repr_html_()):
        assert all(text in told for text in (*CAUTIONS, "what else there is"))


def test_json_has_everything_that_the_table_has() -> None:
    report = tracer.inspect(Branches(), tracer.spec("N", 2, 7))
    facts = json.loads(json.dumps(report.to_dict()))
    assert {
        "route",
        "route_reason",
        "weight_bytes",
        "peak_bytes",
        "peak_at",
        "macs_sampled",
        "sampled",
    } <= facts.keys()
    assert facts["sampled"] == {"N": 2}
    assert {"inferred_from", "step", "macs_sampled", "source"} <= facts["layers"][0].keys()
