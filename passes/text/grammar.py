"""The text of a program: what `printing` writes and `parsing` reads.

    shaped program Net
    sizes
      N = 2
    constraints
      N <= 64
    inputs
      %x = input x  : float32[N, 3, 8, 8]
    guards
      N % 2 == 0  at net.py:31 in blocks.0
    lazies
      fc: LazyLinear(float32[N, 192])  in_features=192, weight[10, 192], bias[10]  at net.py:12
    nodes
      %relu = function torch.relu(%x)  : float32[N, 3, 8, 8]  at net.py:11
      %flatten = method flatten(%relu, 1)  : float32[N, 192]  at net.py:12
      %fc = module fc(%flatten)  : float32[N, 10]  at net.py:12
      output %fc  at net.py:10

What a branch or a loop runs stands between the nodes that begin and end it (`passes/ops/regions.py`), further in:

      %then = function passes.ops.regions.enter()  : ()
        %relu = function torch.relu(%x)  : float32[N, 3]
      %then_end = function passes.ops.regions.leave(%then, (%relu,))  : (float32[N, 3],)
      %cond = function passes.ops.control_flow.cond(%gt, %then_end, %otherwise_end)  : (float32[N, 3],)

The first line names the stage (`passes/program/stages.py`): captured, shaped or eager.

Behind a node's call stand its propagated value and its place: the caller's line, and the module whose forward it is in
(`in blocks.0`; of a call of a module, that module itself where no other is named). `module fc#1(%x)` is the second call
of `fc`, where the first one may be gone. Values are those of `value_text`. A section without entries is left out; what
begins with `#` is a comment.

A name that is no plain one, such as a path with a blank, stands in quotes. Nothing in the text is a control character,
and nothing depends on the run: no ids, no addresses, no folders.

The text names modules, tensors and functions, and does not hold them. It leaves out what only matters while a program
is made: faults, what a forward's dry run needs, and guards that the sample as given refutes.
"""

from __future__ import annotations

import re

from passes.program.program import Program
from passes.program.stages import Captured, Eager, Shaped

# The words for torch.fx's kinds of nodes. An output is written without its name, where that is `output`.
OPERATIONS = {
    "placeholder": "input",
    "get_attr": "attribute",
    "call_module": "module",
    "call_function": "function",
    "call_method": "method",
    "output": "output",
}

# The stages that have a text; what is lowered has that of its eager program.
STAGES: dict[str, type[Program]] = {"captured": Captured, "shaped": Shaped, "eager": Eager}

# The sections in their order.
SIZES = "sizes"  # N = 2, given 1: the size at which a dimension is sampled, and that of the caller's own data
CONSTRAINTS = "constraints"  # N <= 64: what the caller promised of the sizes
INPUTS = "inputs"
GUARDS = "guards"
LAZIES = "lazies"
UNREACHED = "unreached"  # paths of lazy modules that the sample never calls
UNTRACED = "untraced"  # blocks.0: meta "why" "what to do"
WHOLE = "whole"  # the target that stands for the model itself
FOLDS = "folds"  # conv_norm: conv, norm, eps=1e-05, groups=2
LEFT_BEHIND = "left behind"  # what the forward writes and a file does not keep
KEPT = "kept"  # paths of tensors of the model that are its last inputs, and what its output has beside the result
READ = "read"  # tensors of the model whose values the forward asked for
NODES = "nodes"
DRAWS = "draws"  # lazies and nodes in the order in which they draw random numbers, where there are such nodes
DRAWS_IN_PYTHON = "draws in Python"  # without entries: the forward draws random numbers of Python's or numpy's

SECTIONS = (
    SIZES, CONSTRAINTS, INPUTS, GUARDS, LAZIES, UNREACHED, UNTRACED, WHOLE, FOLDS, LEFT_BEHIND, KEPT, READ, NODES,
    DRAWS, DRAWS_IN_PYTHON,
)  # fmt: skip

# A guard's condition that stands as it is, up to two blanks; any other is quoted.
PLAIN_CONDITION = re.compile(r"[!$-~](?:[!-~]| (?! |$))*")
OF_THE_SAMPLE = "of the sample"  # behind a guard that is a fact about the sample's fixed sizes
BY_ITS_OWN_CODE = "by its own code"  # behind a lazy layer whose sizes its own code gave, and no rule of an op
BEFORE_ITS_HOOK = "before its hook"  # behind a lazy layer whose arguments are those that reach its initialising hook
