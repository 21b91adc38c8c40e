"""Which line of the caller's code we are in."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

import passes

COMPILER_FOLDER = str(Path(passes.__file__).parent)
_NOT_THE_CALLERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), COMPILER_FOLDER, "<")


@functools.lru_cache(maxsize=4096)
def is_user_code(code: CodeType) -> bool:
    """Whether code is the caller's: neither torch's nor ours."""
    return not code.co_filename.startswith(_NOT_THE_CALLERS)


@functools.lru_cache(maxsize=4096)
def _file_name(code: CodeType) -> str:
    return Path(code.co_filename).name


def source_line(frame: FrameType, line: int | None = None) -> str:
    """`net.py:41`, for a frame of the caller's."""
    return f"{_file_name(frame.f_code)}:{line or frame.f_lineno}"


@functools.lru_cache(maxsize=4096)
def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith((str(Path(__file__).parent), COMPILER_FOLDER))


def our_line(frame: FrameType, line: int) -> str | None:
    """`pool.py:41`, for a frame of ours, None for any other."""
    return source_line(frame, line) if _is_ours(frame.f_code) else None


def definition(function: Any) -> str | None:
    """`net.py:12`, where a function of the caller's is defined, None for any other."""
    code = getattr(function, "__code__", None)
    if code is None or not is_user_code(code):
        return None
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}"


def current_source(boundary: CodeType) -> str | None:
    """The innermost line of the caller's on the stack above the call of `boundary`, None where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not boundary:
        if is_user_code(frame.f_code):
            return source_line(frame)
        frame = frame.f_back
    return None
