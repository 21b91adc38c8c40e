"""Which line of the caller's code we are in."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import logging
import os
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch

import passes
from passes.printable import printable

# With the separator behind it: beside torch's folder lies that of torchvision.
COMPILER_FOLDER = str(Path(passes.__file__).parent) + os.sep
_TOOL_FOLDER = str(Path(__file__).parents[1]) + os.sep
_NOT_THE_CALLERS = (str(Path(torch.__file__).parent) + os.sep, _TOOL_FOLDER, COMPILER_FOLDER, "<")
_PYTHONS_FOLDER, _NUMPYS_FOLDER = (str(Path(inspect.getfile(module)).parent) + os.sep for module in (os, np))
_LOGGING = inspect.getfile(logging)
_INSTALLED = ("site-packages", "dist-packages")  # within Python's own folder


@functools.lru_cache(maxsize=4096)
def _is_callers(file: str) -> bool:
    """Whether a file of code is the caller's (cached by its name: a code object's hash is that of all its parts)."""
    return not file.startswith(_NOT_THE_CALLERS)


def is_user_code(code: CodeType) -> bool:
    """Whether code is the caller's: neither torch's nor ours."""
    return _is_callers(code.co_filename)


@functools.lru_cache(maxsize=4096)
def _says_where(file: str) -> bool:
    """Whether people know by a line of a file where they are: it is the caller's, and not numpy's or Python's own."""
    if not _is_callers(file) or file.startswith(_NUMPYS_FOLDER):
        return False
    return not file.startswith(_PYTHONS_FOLDER) or any(folder in file for folder in _INSTALLED)


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


def only_tells(frame: FrameType | None, in_numbers: bool = False) -> bool:
    """Whether the caller's statement at work only says something: an error, a warning, a line of a log.

    A check says what is wrong in a text, and decides by numbers: with `in_numbers` it is none.
    """
    at_work: FrameType | None = None
    while frame is not None:
        file = frame.f_code.co_filename
        if file == _LOGGING:  # which makes the text of what it is given, also through handlers of the caller's
            return True
        at_work = at_work or (frame if _says_where(file) else None)
        frame = frame.f_back
    return at_work is not None and at_work.f_lineno in _telling_lines(at_work.f_code.co_filename, in_numbers)


@functools.lru_cache(maxsize=64)
def _telling_lines(filename: str, in_numbers: bool) -> frozenset[int]:
    """The lines of a file that belong to statements which only say something."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return frozenset()
    saying = _SAYING if in_numbers else _SAYING | _CHECKING
    telling: set[int] = set()
    deciding: set[int] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Raise)
            or (isinstance(node, ast.Assert) and not in_numbers)
            or (isinstance(node, ast.Expr) and _calls(node.value, saying))
        ):
            telling.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.stmt) and not hasattr(node, "body"):
            deciding.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return frozenset(telling - deciding)


def _calls(expression: ast.expr, names: frozenset[str]) -> bool:
    """Whether an expression calls a function of one of these names."""
    if not isinstance(expression, ast.Call):
        return False
    function = expression.func
    name = (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
    return name in names


_SAYING = frozenset({"print", "warn", "warning", "warning_once", "info", "debug", "error", "log"})
_CHECKING = frozenset({"_assert", "_check"})


def current_source(boundary: CodeType) -> str | None:
    """The innermost line of the caller's on the stack above the call of `boundary`, None where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (code := frame.f_code) is not boundary:
        if _says_where(code.co_filename):
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
