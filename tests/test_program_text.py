"""The text of a program: what it says, that nothing gets lost in it, and what is said of a text that is none."""

from __future__ import annotations

import math
import operator
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

import tracer
from passes.errors import LoadError
from passes.lowering.interface_names import interface_names
from passes.lowering.onnx_lowering import OnnxLowering
from passes.program.notes import CALL, ORDINAL, PLACE, VALUE
from passes.program.pipeline import run_pass
from passes.program.program import Program
from passes.program.stages import Captured, Eager, Shaped
from passes.sizes.dimension import Dim, Size, hint
from passes.sizes.floating import computed
from passes.sizes.guards import GuardLog, Location
from passes.text.formulas import read_formula
from passes.text.grammar import BEFORE_ITS_HOOK, DRAWS_IN_PYTHON, SECTIONS
from passes.text.parsing import parse_program
from passes.text.printing import print_program
from passes.text.scanner import Scanner
from passes.text.values import ValueReader, value_text
from passes.values.nested import map_structure
from passes.values.spec import TensorSpec
from tests.test_examples import MODELS, Example
from tracer.cli.loading import load_model

GOLDEN = Path(__file__).parent / "golden"
GUARDED = f"{GOLDEN / 'guarded.py'}:Guarded"


class Pair(NamedTuple):
    left: Any
    right: Any


class Of(nn.Module):
    """A module with the forward it is given, and layers to use in it."""

    def __init__(self, forward: Callable[..., Any]):
        super().__init__()
        self.fc = nn.LazyLinear(4)
        self.conv = nn.LazyConv1d(4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(1))
        self.add_module("odd name (1)", nn.Linear(6, 6))
        self.call = forward

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


def counts(m: Any, x: Any) -> Any:
    m.calls += 1
    return m.fc(x)


def untraceable(m: Any, x: Any) -> Any:
    if isinstance(x, fx.Proxy):
        raise RuntimeError("only\nreal tensors")
    return m.fc(x)


class Hooked(nn.Module):
    """A lazy layer with a hook of the caller's before its own, a number read from a buffer, one drawn in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(3)
        self.fc.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        self.register_buffer("times", torch.tensor(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * int(self.times) + 0 * random.random()


FORWARDS: dict[str, Callable[[Any, Any], Any]] = {
    "indexing": lambda m, x: x[..., 1:, None, ::2][:, [0, 1]] + x[0, 0, 0],
    "literals": lambda m, x: torch.where(x > math.inf, -math.inf, x) + torch.tensor([1.0, 2, 3, 4, 5, 6]),
    "types": lambda m, x: (x.to(torch.float64), x.to(device="cpu", dtype=torch.half), x.bool().long()),
    "results": lambda m, x: {"pair": Pair(x + 1, [x - 1]), "chunks": x.chunk(2, -1), "size": x.shape[0]},
    "text": lambda m, x: torch.einsum("ntc,nsc->nts", x, x).softmax(dim=-1).view(x.shape[0], -1),
    "sizes": lambda m, x: x.reshape(x.size(0) * 2, -1).sum() * (x.shape[0] / 2) + x.shape[0],
    "lstm": lambda m, x: m.lstm(x)[1][0],
    "attention": lambda m, x: m.attention(x, x, x, need_weights=False)[0],
    "folded": lambda m, x: m.drop(m.norm(m.conv(x.transpose(1, 2)))),
    "random": lambda m, x: m.fc(x + torch.randn_like(x)) + torch.rand(1),
    "counts": counts,
    "quoted": lambda m, x: getattr(m, "odd name (1)")(getattr(m, "odd name (1)")(x)),
    "functions": lambda m, x: F.pad(F.gelu(x), (1, 1), value=-1.0) + torch.special.expit(x).sum(),
    "untraced": untraceable,
}


def traced(model: nn.Module, *args: Any, **options: Any) -> Program:
    """A model's program with its shapes."""
    kept: list[Program] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tracer.TracerWarning)  # of lazy layers that the forward does not call
        tracer.inspect(model, args, passes=[kept.append], **options)
    return kept[0]


def content(program: Program) -> dict[str, Any]:
    """All that a text keeps of a program, in which formulas, nodes and numbers are told apart by their type."""
    log = program.log
    nodes = list(program.graph.nodes)
    return {
        "nodes": [
            (node.op, node.name, node.target, repr(node.args), repr(dict(node.kwargs)), repr(VALUE.get(node)))
            for node in nodes
        ],
        "places": [PLACE.get(node) for node in nodes],
        "calls": [(CALL.of(node).op, repr(CALL.of(node).record)) for node in nodes if CALL.on(node)],
        "ordinals": [ORDINAL.get(node) or 0 for node in nodes],
        "guards": log.guards,
        "constraints": log.facts.given,
        "facts": [(repr(fact.formula), fact.relation, fact.condition) for fact in log.facts.assumed],
        "sampled": (log.sampled, log.given),
        "lazies": [(layer.path, repr(layer), layer.location) for layer in program.lazies.values()],
        "lists": (program.rungs, program.whole, program.left_behind, program.kept, list(program.read)),
        "stage": Eager
        if isinstance(program, Eager)
        else type(program),  # what is lowered has the text of its eager one
        **content_of_stage(program),
    }


def content_of_stage(program: Program) -> dict[str, Any]:
    if isinstance(program, Shaped):
        return {
            "inferred": list(map(repr, program.inferred.values())),
            "draws": (list(map(repr, program.draws)), program.draws_in_python),
            "unreached": program.unreached,
        }
    return {"unreached": program.unreached, "folds": program.folds} if isinstance(program, Eager) else {}


def added(program: Program) -> dict[str, nn.Module]:
    return program.added if isinstance(program, Eager) else {}


def assert_round_trip(program: Program) -> None:
    text = print_program(program)
    parsed = parse_program(text, program.root, program.constants, added(program))
    assert print_program(parsed) == text
    assert content(parsed) == content(program)
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize("example", MODELS, ids=lambda example: example.name)
def test_examples(example: Example) -> None:
    assert_round_trip(traced(example.load(), tracer.spec("N", *example.sizes)))
    assert_round_trip(tracer.convert(example.load(), tracer.spec("N", *example.sizes), verify=False).program)


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("batch", [3, "N"])
def test_models_of_many_operations(name: str, batch: int | str) -> None:
    assert_round_trip(traced(Of(FORWARDS[name]), tracer.spec(batch, 4, 6)))


def test_named_sizes_keep_what_guards_decide() -> None:
    program = traced(load_model(GUARDED, {}), tracer.spec("N", 3, "H", "W"))
    assert [guard.condition for guard in program.log.guards if guard.dynamic] == ["H % 4 == 0", "W >= 3"]
    assert_round_trip(program)


def test_constraints_keep_what_they_promise() -> None:
    sample = tracer.spec("N", 3, "H", "W", "H % 4 == 0", "3 <= W, N*H <= 512")
    program = traced(load_model(GUARDED, {}), sample)
    assert "constraints\n  H % 4 == 0\n  W >= 3\n  N*H <= 512\n" in print_program(program).replace("H*N", "N*H")
    assert not [guard for guard in program.log.guards if guard.dynamic]
    assert_round_trip(program)


def test_hooks_random_numbers_and_sizes_of_the_callers_data() -> None:
    program = traced(Hooked(), torch.rand(1, 4), dynamic_shapes={"x": {0: "N"}})
    assert_round_trip(program)
    text = print_program(program)
    assert "sizes\n  N = 2, given 1\n" in text
    assert f"fc: LazyLinear(float32[N, 4])  {BEFORE_ITS_HOOK}  in_features=4" in text
    assert text.endswith(f"\n{DRAWS_IN_PYTHON}\n")


@pytest.mark.filterwarnings("ignore::tracer.TracerWarning")
def test_every_section_is_tried() -> None:
    programs = [traced(Of(forward), tracer.spec("N", 4, 6)) for forward in FORWARDS.values()]
    programs += [traced(Hooked(), tracer.spec("N", 4)), traced(load_model(GUARDED, {}), tracer.spec("N", 3, "H", "W"))]
    programs.append(traced(Of(FORWARDS["folded"]), tracer.spec("N", 4, 6, "2 <= N <= 64")))
    programs.append(traced(Of(counts), tracer.spec("N", 4, 6), state="explicit"))
    assert_round_trip(programs[-1])
    programs.append(tracer.convert(Of(FORWARDS["folded"]), tracer.spec("N", 4, 6), verify=False).program)
    found = {line for program in programs for line in print_program(program).splitlines() if not line.startswith(" ")}
    assert set(SECTIONS) <= found


@pytest.mark.filterwarnings("ignore::tracer.TracerWarning")
def test_a_parsed_program_is_lowered_as_its_original() -> None:
    """Also where a layer is one that a pass has made."""
    conversion = tracer.convert(Of(FORWARDS["folded"]), tracer.spec("N", 4, 6), verify=False)
    program = conversion.program
    parsed = parse_program(print_program(program), program.root, program.constants, added(program))
    assert isinstance(parsed, Eager)
    lowered = run_pass(OnnxLowering(20, interface_names(parsed, None, None)), parsed)[0].model
    assert lowered.proto.graph == conversion.lowered.proto.graph
    assert list(lowered.weights) == list(conversion.lowered.weights) == ["conv_norm.weight", "conv_norm.bias"]


@pytest.mark.parametrize(
    ("path", "sample"),
    [("examples/lenet.py:model", tracer.spec("N", 1, 28, 28)), (GUARDED, tracer.spec("N", 3, "H", "W"))],
)
def test_golden_text(path: str, sample: Any) -> None:
    """`LAZYTRACER_GOLDEN=1` writes it anew."""
    model = load_model(path, {})
    text = tracer.inspect(model, sample).program_text()
    golden = GOLDEN / f"{Path(path).name.partition('.')[0]}_program.txt"
    if os.environ.get("LAZYTRACER_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    assert print_program(parse_program(text, model)) == text


# Values and formulas ------------------------------------------------------------------------------

NAMES = ["N", "H", "None", "inf", "torch", "slice", "at", "größe"]
LOG = GuardLog()
SYMBOLS = [Dim.symbol(name, size, LOG) for name, size in zip(NAMES, (2, 32, 5, 7, 3, 4, 6, 9), strict=True)]


def combined(left: Size, right: Size, combine: Callable[[Any, Any], Any]) -> Size:
    assume(combine in (operator.add, operator.sub, operator.mul) or hint(right) > 0)
    result: Size = combine(left, right)
    return result


OPERATORS = st.sampled_from([operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod])
FORMULAS = st.recursive(
    st.sampled_from(SYMBOLS) | st.integers(-9, 99),
    lambda parts: st.builds(combined, parts, parts, OPERATORS),
    max_leaves=6,
)


@given(FORMULAS)
def test_a_formula_is_read_in_the_normal_form_it_was_written_in(formula: Size) -> None:
    found = read_formula(Scanner(str(formula)), LOG.sampled)
    assert found == (formula.formula if isinstance(formula, Dim) else formula)


def test_a_divisor_of_several_factors_stands_in_parentheses() -> None:
    n, h, *_ = SYMBOLS
    assert str(h * h // (2 * n)) == "H*H//(2*N)"
    assert str(h // (n // 2)) == "H//(N//2)"
    assert str(h % (n * h + 1)) == "H % (H*N + 1)"


PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers(allow_nan=False) | st.text(max_size=6)
    | st.sampled_from([..., torch.float32, torch.bool, torch.device("cuda:1"), torch.preserve_format, torch.strided])
    | st.builds(torch.Size, st.lists(st.integers(0, 9), max_size=3)) | st.builds(range, st.integers(0, 9))
)  # fmt: skip
SPECS = st.builds(
    TensorSpec,
    st.lists(FORMULAS, max_size=3).map(tuple),
    st.sampled_from([torch.float32, torch.int8, torch.complex64]),
    st.sampled_from([torch.device("cpu"), torch.device("meta"), torch.device("cuda", 0)]),
)
FLOATS = st.recursive(
    st.builds(computed, st.sampled_from("+-*/"), st.sampled_from(SYMBOLS), st.sampled_from([0.7, -0.5, 1e-05, 2.5e30]))
    | st.builds(computed, st.sampled_from(["/", "-"]), st.sampled_from([0.7, -0.5, 3.0]), st.sampled_from(SYMBOLS))
    | st.builds(computed, st.just("/"), FORMULAS, st.sampled_from(SYMBOLS))
    | st.builds(computed, st.just("**"), st.sampled_from(SYMBOLS), st.sampled_from([-1, 0.5, -2.25])),
    lambda inner: (
        st.builds(computed, st.sampled_from(["+", "*", "/", "-", "max"]), inner, inner)
        | st.builds(computed, st.sampled_from(["neg", "sqrt", "abs", "log", "float", "tanh"]), inner)
        | st.builds(computed, st.sampled_from(["*", "**", "min"]), inner, st.sampled_from([0.1, 3.0]))
        | st.builds(lambda real: (SYMBOLS[0].rounded("floor", real.real) + SYMBOLS[1]) * 0.3, inner)
    ),
    max_leaves=4,
)


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.text(max_size=4) | st.integers()
    return st.recursive(
        leaves,
        lambda parts: (
            st.lists(parts, max_size=3) | st.lists(parts, max_size=3).map(tuple) | st.builds(slice, parts, parts)
            | st.dictionaries(keys, parts, max_size=3) | st.builds(Pair, parts, parts)
        ),
        max_leaves=8,
    )  # fmt: skip


@given(nested(PLAIN | SPECS | FORMULAS | FLOATS))
def test_a_value_is_read_as_it_was_written(value: Any) -> None:
    text = value_text(value)
    scanner = Scanner(text)
    found = ValueReader(LOG).value(scanner)
    scanner.end()
    assert text.isprintable()
    assert repr(found) == repr(value)


@given(nested(PLAIN | st.sampled_from(["%x", "%y"])), st.text(), st.text(), st.text(min_size=1))
def test_arguments_and_places_come_back(argument: Any, keyword: str, source: str, path: str) -> None:
    """Whatever a model calls its modules and arguments."""
    graph = fx.Graph()
    nodes = {f"%{name}": graph.placeholder(name) for name in ("x", "y")}
    argument = map_structure(argument, lambda leaf: nodes.get(leaf, leaf) if isinstance(leaf, str) else leaf)
    node = graph.create_node("call_function", torch.cat, (argument, nodes["%x"]), {keyword: argument})
    PLACE.put(node, Location(path, source))
    PLACE.put(graph.output(node), Location())
    for placeholder in nodes.values():
        PLACE.put(placeholder, Location())
    log = GuardLog()
    log.location = Location(path)
    log.record(f"{source} == {path}", dynamic=True)
    log.record(path, dynamic=False)
    assert_round_trip(Captured(graph, nn.Module(), log, left_behind=[path]))


# What is no program -------------------------------------------------------------------------------

TEXT = """\
shaped program Sequential
sizes
  N = 2
inputs
  %x = input x  : float32[N, 6]
guards
  N % 2 == 0  at net.py:3
lazies
  0: LazyLinear(float32[N, 6])  in_features=6, weight[4, 6], bias[4]
nodes
  %first = module 0(%x)  : float32[N, 4]
  %cat = function torch.cat([%first, %first], dim=1)  : float32[N, 8]  at net.py:7
  output %cat
"""
MISSED = 'expected "program", found modul Sequential'
UNKNOWN_STAGE = "expected captured, shaped, eager, found sharp program Sequential"
NOTHING_BEFORE = "expected the stage, 'program' and the name of the model's class, found %x"
BAD = [
    ("shaped program Sequential", "shaped modul Sequential", f"line 1: column 8: {MISSED}"),
    ("shaped program Sequential", "sharp program Sequential", f"line 1: column 1: {UNKNOWN_STAGE}"),
    ("shaped program Sequential", "  %x", f"line 1: column 3: {NOTHING_BEFORE}"),
    ("sizes\n  N = 2", "sizes\n  N = two", "line 3: column 7: expected a size, found two"),
    ("sizes\n  N = 2\n", "", "line 3: column 27: expected a size, found N, 6]"),
    ("sizes\n", "", "line 2: column 3: expected a section, found N = 2"),
    ("inputs", "input", "line 4: column 1: expected 'constraints' or 'inputs' or 'guards' or"),
    ("guards", "sizes", "line 6: column 1: expected 'guards' or 'lazies' or"),
    ("float32[N, 6]", "float33[N, 6]", "line 5: column 19: expected a value, found float33[N, 6]"),
    ("float32[N, 6]", "float32[M, 6]", "line 5: column 27: expected one of the named sizes, found M, 6]"),
    ("float32[N, 6]", "float32[N//0]", "line 5: column 30: expected a positive divisor, found 0]"),
    ("0: Lazy", "7: Lazy", "line 9: column 3: expected the path of a module of the model, found 7: LazyLinear"),
    ("bias[4]", "bias(4)", "line 9: column 66: expected \"[\", found (4)"),
    ("module 0", "module first", "line 11: column 19: expected the path of a module of the model, found first(%x)"),
    ("module 0(%x)", "module 0(%y)", "line 11: column 21: expected a node of a line above, found %y)"),
    ("module 0(%x)", "module 0(%x", "line 11: column 25: expected \",\", found : float32[N, 4]"),
    ("module 0(%x)", "modules 0(%x)", "line 11: column 12: expected input, attribute, module, function"),
    ("%first =", "%x =", "line 11: column 3: expected a name that torch.fx gives, such as %x_1, found %x = module"),
    ("torch.cat", "torch.dog", "line 12: column 19: expected a function of a module that is loaded, found torch.dog"),
    ("torch.cat", "torch.pi", "line 12: column 19: expected a function of a module that is loaded, found torch.pi"),
    ("dim=1", "dim=1, %x", "line 12: column 54: expected a named argument, found %x)"),
    ("dim=1", "dim=<Foo>", "line 12: column 51: expected a value, found <Foo>)"),
    ("dim=1", 'dim="\\x"', "line 12: column 51: expected a string with Python's escapes, found"),
    ("dim=1", 'dim="', "line 12: column 51: expected a quoted string, found"),
    ("dim=1", "dim=", "line 12: column 51: expected a value, found )"),
    ("dim=1", "dim={[1]: 2}", "line 12: column 52: expected a key that is hashable, found [1]: 2})"),
    ("dim=1", "dim=" + "9" * 5000, "line 12: "),
    ("dim=1", "dim=" + "(" * 5000, "line 12: "),
    ("at net.py:7", "at", "line 12: column 74: expected a source line, found the end of the line"),
    ("at net.py:7", "by me", "line 12: column 72: expected the end of the line, found by me"),
    ("  output %cat\n", "", "line 12: expected an output below, found the end of the text"),
    (TEXT, "", "line 0: expected an output below, found the end of the text"),
]  # fmt: skip


def test_the_text_that_the_bad_ones_are_made_of_is_good() -> None:
    assert print_program(parse_program(TEXT, nn.Sequential(nn.LazyLinear(4)))) == TEXT


@pytest.mark.parametrize(("good", "bad", "message"), BAD)
def test_what_is_wrong_is_said_with_its_line(good: str, bad: str, message: str) -> None:
    with pytest.raises(LoadError) as caught:
        parse_program(TEXT.replace(good, bad, 1), nn.Sequential(nn.LazyLinear(4)))
    assert str(caught.value).startswith(message), str(caught.value)
    assert "remedy: give the text as print_program writes it" in str(caught.value)


@given(st.integers(0, len(TEXT) - 1), st.integers(0, 9), st.sampled_from([*'%()[]{}#:,="\\/*-+<> .0N\n\té', ""]))
def test_a_damaged_text_is_refused_or_that_of_another_program(start: int, length: int, sign: str) -> None:
    root = nn.Sequential(nn.LazyLinear(4))
    try:
        program = parse_program(TEXT[:start] + sign + TEXT[start + length :], root)
    except LoadError:
        return
    text = print_program(program)
    assert print_program(parse_program(text, root)) == text
