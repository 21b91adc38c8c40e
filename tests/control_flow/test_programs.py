"""Regions in a program: its text, what is legal, what is told of it, and the graph as torch runs it."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._higher_order_ops.map import map as over_batch
from torch._higher_order_ops.scan import scan

import tracer
from passes.program.legality import ContractError, check_graph
from passes.program.liveness import peak_activation
from passes.program.program import Program
from passes.program.regions import outermost, regions
from passes.text.parsing import parse_program
from passes.text.printing import print_program
from passes.values.nested import leaves
from tests.control_flow.oracle import expected


class Everything(nn.Module):
    """Each kind of region, one within another, with layers that are called several times."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.flat = nn.Linear(4, 64), nn.Linear(64, 4), nn.LazyLinear(4)
        self.fc, self.lstm = nn.LazyLinear(4), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        scale = x.abs().mean()
        _, states = self.lstm(x[:, None])

        def body(i: Tensor, h: Tensor, n: int) -> Any:
            h = torch.cond(i % 2 == 0, lambda h: self.fc(h) * scale, lambda h: h.view(x.shape[0], -1) + 1, (h,))
            return i + 1, h, n + 1

        y = torch.cond(
            x.shape[0] > 3,
            lambda x: self.down(self.up(x)) * scale + x.shape[0] + states[0][0],
            lambda x: self.flat(x).relu(),
            (x,),
        )
        _, y, n = torch.while_loop(lambda i, h, n: i < 5, body, (torch.tensor(0), y, 0))
        last, rows = scan(lambda c, r: (c * 0.5 + r, (c + scale, r.sum())), torch.zeros(4), y + n, reverse=True)
        _, columns = scan(lambda c, r: (c + r, c * r), torch.zeros(x.shape[0]), y, dim=1)
        return over_batch(self.fc, y), last, rows, columns


SAMPLE = tracer.spec("N", 4)


@pytest.fixture(scope="module")
def conversion() -> Any:
    return tracer.convert(Everything(), SAMPLE, seed=0)


def test_a_program_with_regions_has_a_text(conversion: Any) -> None:
    model = Everything()
    zero = {"_tensor_constant0": torch.tensor(0)}
    text = tracer.inspect(model, SAMPLE).program_text()
    assert print_program(parse_program(text, model, zero)) == text
    text = print_program(conversion.program)
    assert print_program(parse_program(text, conversion.module, zero)) == text


TEXT = """\
eager program Net
inputs
  %x = input x  : float32[2, 4]
nodes
  %sum_1 = method sum(%x)  : float32[]
  %gt = function operator.gt(%sum_1, 0)  : bool[]
  %then = function passes.ops.regions.enter()  : ()
    %left = module left(%x)  : float32[2, 4]
  %then_end = function passes.ops.regions.leave(%then, (%left,))  : (float32[2, 4],)
  %otherwise = function passes.ops.regions.enter()  : ()
    %right = module right(%x)  : float32[2, 4]
  %otherwise_end = function passes.ops.regions.leave(%otherwise, (%right,))  : (float32[2, 4],)
  %cond = function passes.ops.control_flow.cond(%gt, %then_end, %otherwise_end)  : (float32[2, 4],)
  %getitem = function operator.getitem(%cond, 0)  : float32[2, 4]
  output %getitem
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)


def parsed(text: str = TEXT) -> Program:
    return parse_program(text, Net())


def test_regions_are_found() -> None:
    program = parsed()
    found = {end.name: [node.name for node in region.nodes] for end, region in regions(program.graph).items()}
    assert found == {"then_end": ["left"], "otherwise_end": ["right"]}
    names = [node.name for node in outermost(program.graph.nodes)]
    assert names == ["x", "sum_1", "gt", "cond", "getitem", "output"]
    check_graph(program, "reading")


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("output %getitem", "output %left", "output uses left, which is inside of a region that it is not in"),
        (
            "module right(%x)",
            "module right(%left)",
            "right uses left, which is inside of a region that it is not in",
        ),
        (
            "leave(%otherwise, (%right,))",
            "leave(%then, (%right,))",
            "otherwise_end ends a region that is not the last to begin",
        ),
        (
            "  %otherwise_end = function passes.ops.regions.leave(%otherwise, (%right,))  : (float32[2, 4],)\n",
            "  %otherwise_end = function builtins.tuple((%right,))  : (float32[2, 4],)\n",
            "the region that otherwise begins has no end",
        ),
        (
            "  output %getitem",
            "  %cond_1 = function passes.ops.control_flow.cond(%gt, %then_end, %otherwise_end)  : (float32[2, 4],)\n"
            "  output %getitem",
            "the region that then_end ends is run by 2 operations",
        ),
    ],
)
def test_what_is_computed_in_a_region_stays_in_it(before: str, after: str, fault: str) -> None:
    assert before in TEXT
    with pytest.raises(ContractError, match="after a pass, the program is not eager: ") as caught:
        check_graph(parsed(TEXT.replace(before, after)), "a pass")
    assert str(caught.value).endswith(fault)


def test_a_dead_branch_is_removed_with_its_regions() -> None:
    class Idle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x, (x,))
            return x * 2

    program = tracer.convert(Idle(), torch.ones(2)).program
    assert [node.op for node in program.graph.nodes] == ["placeholder", "call_function", "output"]


# What is told ------------------------------------------------------------------------------------


def test_a_branch_counts_as_its_larger_side_and_steps_as_often_as_there_are_slices(conversion: Any) -> None:
    report = tracer.inspect(Everything(), SAMPLE)
    lstm, sides, step, mapped = 128, 2 * 4 * 64, 16, 16
    assert report.macs == f"{lstm + sides + step + mapped}*N"
    first = Everything.forward.__code__.co_firstlineno
    assert report.counted == [
        f"cond (test_programs.py:{first + 8}) counts as the larger of its branches",
        f"cond (test_programs.py:{first + 5}) counts as the larger of its branches",
        f"while_loop (test_programs.py:{first + 14}) counts as one step",
    ]
    assert "counts as one step" in repr(report._repr_html_())
    assert report.blockers == []
    assert report.route == "direct"


def peak(text: str, **sizes: int) -> tuple[int, str]:
    found = peak_activation(parse_program(textwrap.dedent(text), Net()))
    return found.bytes, found.node.name


def test_of_two_branches_one_is_in_memory_at_a_time() -> None:
    # the input, the truth value and what one side gives; the other side's is gone
    assert peak(TEXT) == (2 * 32 + 1, "left")


def test_a_loop_keeps_what_it_uses_from_outside() -> None:
    text = """\
        eager program Net
        inputs
          %x = input x  : float32[2, 4]
        nodes
          %exp = method exp(%x)  : float32[2, 4]
          %step = function passes.ops.regions.enter((), (%x,))  : (float32[4],)
            %sliced = function operator.getitem(%step, 0)  : float32[4]
            %add = function operator.add(%sliced, %exp)  : float32[2, 4]
            %mul = function operator.mul(%add, 2)  : float32[2, 4]
            %neg = method neg(%mul)  : float32[2, 4]
          %step_end = function passes.ops.regions.leave(%step, (%neg,))  : (float32[2, 4],)
          %scan = function passes.ops.control_flow.scan(%step_end, (), (%x,))  : (float32[2, 2, 4],)
          %getitem = function operator.getitem(%scan, 0)  : float32[2, 2, 4]
          output %getitem
    """
    assert peak(text) == (4 * 32, "mul")  # with exp, though nothing behind add uses it


def test_a_layer_in_a_loop_is_explained_and_drawn() -> None:
    explanation = tracer.why(Everything(), SAMPLE, "fc")
    assert [step.name for step in explanation.steps][:1] == ["input x"]
    assert not [step for step in explanation.steps if step.type in ("enter", "leave")]
    report = tracer.inspect(Everything(), SAMPLE)
    line = Everything.forward.__code__.co_firstlineno + 14
    origins = [layer.inferred_from for layer in report.layers if layer.path == "fc"]
    assert origins[1] == f"while_loop (test_programs.py:{line})"
    graph = tracer.draw(Everything(), SAMPLE, format="json").text
    assert '"type": "carried"' in graph
    assert '"type": "slice"' in graph
    assert "enter" not in graph
    assert "leave" not in graph


# As torch runs it --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_graph_runs_in_torch(conversion: Any, size: int) -> None:
    x = torch.randn(size, 4)
    with torch.no_grad():
        found = list(leaves(conversion.graph_module(x)))
    for ours, theirs in zip(found, expected(conversion.module.eval(), (x,)), strict=True):
        torch.testing.assert_close(ours, theirs)
    graph: fx.GraphModule = conversion.graph_module.body_graph
    assert [name for name, _ in graph.named_children()] == ["then_1_graph", "otherwise_1_graph"]


def test_torchs_own_operators_are_followed() -> None:
    module = tracer.convert(Everything(), torch.randn(2, 4), seed=0).graph_module
    again = tracer.convert(module, torch.randn(2, 4), route="direct")
    assert again.route == "direct"
    operators = {node.op_type for node in again.onnx_model.graph.node}
    assert operators >= {"Loop", "Scan"}
