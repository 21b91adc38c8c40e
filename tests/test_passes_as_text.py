"""What the passes on graphs do, as text before and after: each row is a specification."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

import pytest
from torch import nn

from passes import ops  # noqa: F401  registers every op
from passes.program.notes import CALL
from passes.program.pipeline import Pass, run_pass
from passes.program.stages import Eager, Shaped
from passes.stages.eager_rewrite import EagerRewrite
from passes.stages.rewrites.engine import apply_rewrites
from passes.stages.rewrites.registry import rewrites
from passes.stages.simplification import Simplification
from passes.text.parsing import parse_program
from passes.text.printing import print_program

HEADER = """\
eager program Model
sizes
  N = 2
inputs
  %x = input x  : float32[N, 4, 6, 6]
  %y = input y  : float32[N, 4, 6, 6]
  %row = input row  : float32[N, 144]
  %column = input column  : float32[N, 1]
  %vector = input vector  : float32[6]
  %phase = input phase  : complex64[2, 2]
"""


class Model(nn.Module):
    """The modules that the rows name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.deconv, self.linear = nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 2, groups=2), nn.Linear(6, 6)
        self.norm, self.again, self.batch = (
            nn.BatchNorm2d(4),
            nn.BatchNorm2d(4),
            nn.BatchNorm2d(4, track_running_stats=False),
        )
        self.fc, self.norm1d = nn.Linear(144, 3), nn.BatchNorm1d(3)
        self.relu, self.identity, self.drop, self.drop1d = nn.ReLU(), nn.Identity(), nn.Dropout(), nn.Dropout1d()


def parsed(text: str, root: nn.Module) -> Eager:
    program = parse_program(HEADER + textwrap.dedent(text).lstrip("\n"), root)
    assert isinstance(program, Eager)
    return program


def after(step: Pass[Eager, Eager], program: Eager) -> str:
    """What follows the inputs in the text of a program that a pass has run on."""
    text = print_program(run_pass(step, program)[0])
    assert text.startswith(HEADER)
    return text.removeprefix(HEADER)


class Identity(NamedTuple):
    """An operation that returns its first operand, `gone` by a rewrite, and one of the same op that does not, `stays`.

    An op that always does has another one in its place.
    """

    rewrite: str
    gone: str
    stays: str | None


X = "float32[N, 4, 6, 6]"
ALWAYS = {"identity", "copy"}
IDENTITIES = [
    Identity("identity", "module identity(%x)", f"module relu(%x)  : {X}"),
    Identity("copy", "method contiguous(%x)", f"method abs(%x)  : {X}"),
    Identity("copy", "function torch.clone(%x)", None),
    Identity("dropout_of_none", "module drop(%x)", f"function torch.nn.functional.dropout(%x, 0.5, True)  : {X}"),
    Identity("dropout_of_none", "function torch.nn.functional.dropout(%x, 0.5, False)", None),
    Identity("dropout_of_none", "function torch.nn.functional.dropout(%x, 0.0, True)", None),
    Identity("dropout1d_of_none", "module drop1d(%x)", f"function torch.nn.functional.dropout1d(%x, 0.5, True)  : {X}"),
    Identity("add_zero", "function operator.add(%x, 0)", f"function operator.add(%x, 1)  : {X}"),
    Identity("add_zero", "function operator.add(%x, 0.0)", "function operator.add(%column, %vector)  : float32[N, 6]"),
    Identity("subtract_zero", "function operator.sub(%x, 0)", f"function operator.sub(0, %x)  : {X}"),
    Identity("multiply_by_one", "function operator.mul(%x, 1)", f"function operator.mul(%x, 0)  : {X}"),
    Identity("divide_by_one", "function operator.truediv(%x, 1)", f"function operator.truediv(1, %x)  : {X}"),
    Identity("power_of_one", "function operator.pow(%x, 1)", f"function operator.pow(%x, 2)  : {X}"),
    Identity("to_its_own_kind", "method to(%x, torch.float32)", "method to(%x, torch.float64)  : float64[N, 4, 6, 6]"),
    Identity("to_its_own_kind", "method float(%x)", "method half(%x)  : float16[N, 4, 6, 6]"),
    Identity("type_of_its_own", "method type(%x, torch.float32)", "method type(%x, torch.int32)  : int32[N, 4, 6, 6]"),
    Identity(
        "tensor_of_a_tensor",
        "function torch.as_tensor(%x)",
        "function torch.as_tensor(%x, dtype=torch.float64)  : float64[N, 4, 6, 6]",
    ),
    Identity("reshape_to_its_shape", "method view(%x, -1, 4, 6, 6)", "method view(%x, -1, 4, 36)  : float32[N, 4, 36]"),
    Identity(
        "reshape_to_its_shape", "function torch.reshape(%x, (-1, 4, 6, 6))", "method reshape(%x, -1)  : float32[144*N]"
    ),
    Identity("reshape_as_its_shape", "method view_as(%x, %y)", "method view_as(%x, %row)  : float32[N, 144]"),
    Identity("flatten_one_axis", "method flatten(%x, 1, 1)", "method flatten(%x, 1)  : float32[N, 144]"),
    Identity(
        "unflatten_to_one_axis",
        "method unflatten(%x, 1, (4,))",
        "method unflatten(%row, 1, (4, 36))  : float32[N, 4, 36]",
    ),
    Identity("ravel_a_vector", "method ravel(%vector)", "method ravel(%x)  : float32[144*N]"),
    Identity("squeeze_no_axis", "method squeeze(%x, 1)", "method squeeze(%column, 1)  : float32[N]"),
    Identity("permute_in_order", "method permute(%x, 0, 1, -2, -1)", f"method permute(%x, 0, 1, 3, 2)  : {X}"),
    Identity("transpose_with_itself", "method transpose(%x, 3, -1)", f"method transpose(%x, 2, 3)  : {X}"),
    Identity("expand_to_its_shape", "method expand(%x, -1, 4, 6, 6)", "method expand(%column, -1, 3)  : float32[N, 3]"),
    Identity("expand_as_its_shape", "method expand_as(%x, %y)", "method expand_as(%column, %row)  : float32[N, 144]"),
    Identity("repeat_once", "method repeat(%x, 1, 1, 1, 1)", "method repeat(%x, 2, 1, 1, 1)  : float32[2*N, 4, 6, 6]"),
    Identity("tile_once", "method tile(%x, (1, 1))", "method tile(%vector, (2,))  : float32[12]"),
    Identity(
        "index_all",
        "function operator.getitem(%x, (..., slice(None, None, None)))",
        "function operator.getitem(%x, (..., slice(1, None, None)))  : float32[N, 4, 6, 5]",
    ),
    Identity("conjugate_of_a_real", "method conj(%x)", "method conj(%phase)  : complex64[2, 2]"),
    Identity(
        "data_or_real_part", 'function builtins.getattr(%x, "data")', f'function builtins.getattr(%x, "mT")  : {X}'
    ),
    Identity(
        "pad_by_nothing",
        "function torch.nn.functional.pad(%x, (0, 0))",
        "function torch.nn.functional.pad(%x, (1, 0))  : float32[N, 4, 6, 7]",
    ),
    Identity(
        "resize_to_its_size",
        "function torch.nn.functional.interpolate(%x, scale_factor=1)",
        "function torch.nn.functional.interpolate(%x, scale_factor=2)  : float32[N, 4, 12, 12]",
    ),
    Identity(
        "average_of_single_elements",
        "function torch.nn.functional.adaptive_avg_pool2d(%x, 6)",
        "function torch.nn.functional.adaptive_avg_pool2d(%x, 3)  : float32[N, 4, 3, 3]",
    ),
]


ROWS = {row.name: row for row in rewrites()}


def by_row(name: str, program: Eager) -> str:
    """What follows the inputs in the text of a program to which a single rewrite has been applied."""
    apply_rewrites(program, [ROWS[name]])
    return print_program(program).removeprefix(HEADER)


@pytest.mark.parametrize("row", IDENTITIES, ids=lambda row: row.gone)
def test_identities(row: Identity) -> None:
    operand = row.gone.partition("(")[2].split(",")[0].rstrip(")")
    shape = {"%vector": "float32[6]"}.get(operand, X)
    text = f"nodes\n  %same = {row.gone}  : {shape}\n  output %same\n"
    assert op_names(parsed(text, Model())) == ROWS[row.rewrite].pattern
    assert by_row(row.rewrite, parsed(text, Model())) == f"nodes\n  output {operand}\n"
    assert after(Simplification(), parsed(text, Model())) == f"nodes\n  output {operand}\n"
    if row.stays is not None:
        text = f"nodes\n  %other = {row.stays}\n  output %other\n"
        assert (op_names(parsed(text, Model())) == ROWS[row.rewrite].pattern) is (row.rewrite not in ALWAYS)
        assert after(Simplification(), parsed(text, Model())) == text


def op_names(program: Eager) -> tuple[str, ...]:
    return tuple(CALL.of(node).op.name for node in program.graph.nodes if CALL.on(node))


class Case(NamedTuple):
    """What a program becomes; without `after`, it stays as it is. One that is about a single rewrite names it."""

    what: str
    before: str
    after: str = ""
    rewrite: str = ""


SIMPLIFIED = [
    Case(
        "users of an identity use its operand, wherever they name it",
        f"""
        nodes
          %drop = module drop(%x)  : {X}
          %add = function operator.add(%drop, 0)  : {X}
          %cat = function torch.cat([%add, %drop], dim=1)  : float32[N, 8, 6, 6]  at net.py:7
          output {{"both": (%cat, %drop)}}  at net.py:8
        """,
        """
        nodes
          %cat = function torch.cat([%x, %x], dim=1)  : float32[N, 8, 6, 6]  at net.py:7
          output {"both": (%cat, %x)}  at net.py:8
        """,
    ),
    Case(
        "what no output needs is gone, but not an input",
        f"""
        nodes
          %conv = module conv(%x)  : {X}
          %relu = module relu(%conv)  : {X}
          %neg = function torch.neg(%y)  : {X}
          output %neg
        """,
        f"""
        nodes
          %neg = function torch.neg(%y)  : {X}
          output %neg
        """,
    ),
    Case(
        "a batch norm is folded into the convolution before it",
        f"""
        nodes
          %conv = module conv(%x)  : {X}  at net.py:3
          %norm = module norm(%conv)  : {X}  at net.py:4
          %relu = module relu(%norm)  : {X}  at net.py:5
          output %relu
        """,
        f"""
        folds
          conv_norm: conv, norm, eps=1e-05
        nodes
          %conv = module conv_norm(%x)  : {X}  at net.py:3 in conv
          %relu = module relu(%conv)  : {X}  at net.py:5
          output %relu
        """,
        "batch_norm_into_conv",
    ),
    Case(
        "and into a transposed convolution",
        """
        nodes
          %deconv = module deconv(%x)  : float32[N, 4, 7, 7]
          %norm = module norm(%deconv)  : float32[N, 4, 7, 7]
          output %norm
        """,
        """
        folds
          deconv_norm: deconv, norm, eps=1e-05, groups=2
        nodes
          %deconv = module deconv_norm(%x)  : float32[N, 4, 7, 7]  in deconv
          output %deconv
        """,
        "batch_norm_into_conv_transpose",
    ),
    Case(
        "and into a linear layer",
        """
        nodes
          %fc = module fc(%row)  : float32[N, 3]
          %norm = module norm1d(%fc)  : float32[N, 3]
          output %norm
        """,
        """
        folds
          fc_norm1d: fc, norm1d, eps=1e-05
        nodes
          %fc = module fc_norm1d(%row)  : float32[N, 3]  in fc
          output %fc
        """,
        "batch_norm_into_linear",
    ),
    Case(
        "also through what is an identity",
        f"""
        nodes
          %conv = module conv(%x)  : {X}
          %drop = module drop(%conv)  : {X}
          %norm = module norm(%drop)  : {X}
          output %norm
        """,
        f"""
        folds
          conv_norm: conv, norm, eps=1e-05
        nodes
          %conv = module conv_norm(%x)  : {X}  in conv
          output %conv
        """,
    ),
    Case(
        "also before what is an identity of the convolution's result that nothing needs",
        f"""
        nodes
          %conv = module conv(%x)  : {X}
          %norm = module norm(%conv)  : {X}
          %drop = module drop(%conv)  : {X}
          output %norm
        """,
        f"""
        folds
          conv_norm: conv, norm, eps=1e-05
        nodes
          %conv = module conv_norm(%x)  : {X}  in conv
          output %conv
        """,
    ),
    Case(
        "of two batch norms, the first",
        f"""
        nodes
          %conv = module conv(%x)  : {X}
          %norm = module norm(%conv)  : {X}
          %again = module again(%norm)  : {X}
          output %again
        """,
        f"""
        folds
          conv_norm: conv, norm, eps=1e-05
        nodes
          %conv = module conv_norm(%x)  : {X}  in conv
          %again = module again(%conv)  : {X}
          output %again
        """,
    ),
    Case(
        "the folded call stands for the batch norm's call",
        f"""
        nodes
          %first = module norm(%y)  : {X}
          %conv = module conv(%first)  : {X}
          %second = module norm#1(%conv)  : {X}
          output %second
        """,
        f"""
        folds
          conv_norm: conv, norm, eps=1e-05
        nodes
          %first = module norm(%y)  : {X}
          %conv = module conv_norm#1(%first)  : {X}  in conv
          output %conv
        """,
    ),
]
KEPT = [
    Case(
        "a batch norm behind a convolution that another uses too",
        f"""
        nodes
          %conv = module conv(%x)  : {X}
          %norm = module norm(%conv)  : {X}
          %add = function operator.add(%conv, %norm)  : {X}
          output %add
        """,
        rewrite="batch_norm_into_conv",
    ),
    Case(
        "one behind a convolution that is called twice",
        f"""
        nodes
          %one = module conv(%x)  : {X}
          %two = module conv#1(%one)  : {X}
          %norm = module norm(%two)  : {X}
          output %norm
        """,
        rewrite="batch_norm_into_conv",
    ),
    Case(
        "one that computes its statistics of the batch",
        f"""
        nodes
          %conv = module conv(%x)  : {X}
          %batch = module batch(%conv)  : {X}
          output %batch
        """,
        rewrite="batch_norm_into_conv",
    ),
    Case(
        "one with something between it and the convolution",
        f"""
        nodes
          %conv = module conv(%x)  : {X}
          %relu = module relu(%conv)  : {X}
          %norm = module norm(%relu)  : {X}
          output %norm
        """,
        rewrite="batch_norm_into_conv",
    ),
    Case(
        "one whose channels are not the linear layer's features",
        f"""
        nodes
          %linear = module linear(%x)  : {X}
          %norm = module norm(%linear)  : {X}
          output %norm
        """,
        rewrite="batch_norm_into_linear",
    ),
    Case(
        "one behind a transposed convolution that another uses too",
        """
        nodes
          %deconv = module deconv(%x)  : float32[N, 4, 7, 7]
          %norm = module norm(%deconv)  : float32[N, 4, 7, 7]
          %add = function operator.add(%deconv, %norm)  : float32[N, 4, 7, 7]
          output %add
        """,
        rewrite="batch_norm_into_conv_transpose",
    ),
]


@pytest.mark.parametrize("case", [*SIMPLIFIED, *KEPT], ids=lambda case: case.what)
def test_simplification(case: Case) -> None:
    becomes = textwrap.dedent(case.after or case.before).lstrip("\n")
    assert after(Simplification(), parsed(case.before, Model())) == becomes
    if case.rewrite:
        assert by_row(case.rewrite, parsed(case.before, Model())) == becomes


def test_every_rewrite_has_rows_where_it_holds_and_where_it_does_not() -> None:
    holds = {row.rewrite for row in IDENTITIES} | {case.rewrite for case in SIMPLIFIED if case.rewrite}
    does_not = {row.rewrite for row in IDENTITIES if row.stays is not None} | {case.rewrite for case in KEPT}
    assert holds == does_not == set(ROWS)


def test_batch_norms_stay_where_they_are_not_to_be_folded() -> None:
    text = textwrap.dedent(SIMPLIFIED[2].before).lstrip("\n")
    assert after(Simplification(fold_batchnorm=False), parsed(text, Model())) == text


LAZY = """
lazies
  0: LazyLinear(float32[N, 144])  in_features=144, weight[8, 144], bias[8]  at net.py:3
nodes
  %first = module 0(%row)  : float32[N, 8]  at net.py:3
  %act = module 1(%first)  : float32[N, 8]  at net.py:4
  %second = module 0(%row)  : float32[N, 8]  at net.py:5
  %act_1 = module 1(%second)  : float32[N, 8]  at net.py:6
  output %act_1
"""


def test_eager_rewrite() -> None:
    """The calls of a module are numbered, and name the modules of the resolved model; nothing else is changed."""
    header = HEADER.replace("Model", "Sequential").replace("eager", "shaped")
    program = parse_program(header + LAZY.lstrip("\n"), nn.Sequential(nn.LazyLinear(8), nn.ReLU()))
    assert isinstance(program, Shaped)
    resolved = nn.Sequential(nn.Linear(144, 8), nn.ReLU())
    eager, changes = EagerRewrite(resolved).run(program)
    assert changes == 2  # calls of what was lazy
    numbered = LAZY.replace("%second = module 0(", "%second = module 0#1(").replace(
        "module 1(%second", "module 1#1(%second"
    )
    assert print_program(eager) == header.replace("shaped", "eager") + numbered.lstrip("\n")
    assert {id(CALL.of(node).module) for node in eager.graph.nodes if CALL.on(node)} == set(map(id, resolved))
