"""Which line of the caller's code we are in."""

from __future__ import annotations

import ast
import functools
import linecache
import os
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

import passes
from passes.printable import printable

# With the separator behind it: beside torch's folder lies that of torchvision.
COMPILER_FOLDER = str(Path(passes.__file__).parent) + os.sep
_TOOL_FOLDER = str(Path(__file__).parents[1]) + os.sep
_NOT_THE_CALLERS = (str(Path(torch.__file__).parent) + os.sep, _TOOL_FOLDER, COMPILER_FOLDER, "<")


@functools.lru_cache(maxsize=4096)
def _is_callers(file: str) -> bool:
    """Whether a file of code is the caller's (cached by its name: a code object's hash is that of all its parts)."""
    return not file.startswith(_NOT_THE_CALLERS)


def is_user_code(code: CodeType) -> bool:
    """Whether code is the caller's: neither torch's nor ours."""
    return _is_callers(code.co_filename)


@functools.lru_cache(maxsize=4096)
def _name(file: str) -> str:
    return Path(file).name


def source_line(frame: FrameType, line: int | None = None) -> str:
    """`net.py:41`, for a frame of the caller's."""
    return f"{_name(frame.f_code.co_filename)}:{line or frame.f_lineno}"


@functools.lru_cache(maxsize=4096)
def is_ours(code: CodeType) -> bool:
    """Whether code is the tool's or the compiler's."""
    return code.co_filename.startswith((_TOOL_FOLDER, COMPILER_FOLDER))


def our_line(frame: FrameType, line: int) -> str | None:
    """`pool.py:41`, for a frame of ours, None for any other."""
    return source_line(frame, line) if is_ours(frame.f_code) else None


def definition(function: Any) -> str | None:
    """`net.py:12`, where a function of the caller's is defined, None for any other."""
    code = getattr(function, "__code__", None)
    if code is None or not is_user_code(code):
        return None
    return f"{_name(code.co_filename)}:{code.co_firstlineno}"


def function_name(function: Any, path: str | None = None) -> str:
    """A function that the caller's code hands over, for messages: `<lambda> (net.py:12)`; a module by its path in the
    model, where it has one."""
    if path is not None:
        return printable(path)
    name = getattr(function, "__name__", type(function).__name__)
    place = definition(getattr(function, "__func__", function))
    return printable(f"{name} ({place})" if place else name)


def only_tells(frame: FrameType | None) -> bool:
    """Whether the caller's statement at work makes a text only to say it: an error, a warning, a line of a log."""
    while frame is not None and not is_user_code(frame.f_code):
        frame = frame.f_back
    return frame is not None and frame.f_lineno in _telling_lines(frame.f_code.co_filename)


@functools.lru_cache(maxsize=64)
def _telling_lines(filename: str) -> frozenset[int]:
    """The lines of a file that belong to statements which only say something."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return frozenset()
    telling: set[int] = set()
    deciding: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Raise, ast.Assert)) or (isinstance(node, ast.Expr) and _says(node.value)):
            telling.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.stmt) and not hasattr(node, "body"):
            deciding.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return frozenset(telling - deciding)


def _says(expression: ast.expr) -> bool:
    """Whether an expression calls a function that says something to people."""
    if not isinstance(expression, ast.Call):
        return False
    function = expression.func
    name = (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
    return name in _SAYING


_SAYING = frozenset({"print", "_assert", "_check", "warn", "warning", "warning_once", "info", "debug", "error", "log"})


def current_source(boundary: CodeType) -> str | None:
    """The innermost line of the caller's on the stack above the call of `boundary`, None where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (code := frame.f_code) is not boundary:
        if _is_callers(code.co_filename):
            return source_line(frame)
        frame = frame.f_back
    return None


def callers_level() -> int:
    """How far up the stack the caller's line is, as `stacklevel` of a warning that the function calling this gives."""
    level, frame = 1, sys._getframe(1).f_back
    while frame is not None:
        level += 1
        if is_user_code(frame.f_code):
            return level
        frame = frame.f_back
    return level
