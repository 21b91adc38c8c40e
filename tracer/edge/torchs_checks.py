"""Checks of torch's own that only raise: `if not torch._is_all_true(valid): raise ValueError(…)`.

What data would make one raise, no file need tell: the check computes nothing, so that an answer which passes it is as
good as the data. That is so of torch's code alone, whose checks are of what its callers give; the caller's own branches
are what they want to know.
"""

from __future__ import annotations

import ast
import functools
import linecache
import os
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch

_TORCH = str(Path(torch.__file__).parent) + os.sep


def passing_answer(frame: FrameType) -> bool | None:
    """What a tensor must be whose truth the statement at work asks for, to pass that check; None where it is none."""
    file = frame.f_code.co_filename
    return _answers(file).get(frame.f_lineno) if file.startswith(_TORCH) else None


@functools.lru_cache(maxsize=64)
def _answers(file: str) -> dict[int, bool]:
    """The answers that pass the checks of a file, by the lines of their conditions."""
    found: dict[int, bool] = {}
    for node in ast.walk(ast.parse("".join(linecache.getlines(file)))):
        if isinstance(node, ast.If) and _only_raises(node.body):
            answers = set(_passing(node.test, passes=False))
        elif isinstance(node, ast.Assert):
            answers = set(_passing(node.test, passes=True))
        else:
            continue
        if len(answers) == 1:
            lines = range(node.test.lineno, (node.test.end_lineno or node.test.lineno) + 1)
            found.update(dict.fromkeys(lines, answers.pop()))
    return found


def _only_raises(body: list[ast.stmt]) -> bool:
    """Whether statements make a message at most, and raise."""
    return isinstance(body[-1], ast.Raise) and all(isinstance(statement, ast.Assign) for statement in body[:-1])


def _passing(condition: ast.expr, passes: bool) -> Iterator[bool]:
    """What each part of a condition must be for the whole to be `passes`, where that is the same for each of them."""
    if isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
        yield from _passing(condition.operand, not passes)
    elif isinstance(condition, ast.BoolOp):
        for part in condition.values:
            yield from _passing(part, passes)
    elif isinstance(condition, ast.IfExp):
        yield from (True, False)  # which of its parts is asked is not known
    else:
        yield passes


__all__ = ["passing_answer"]
