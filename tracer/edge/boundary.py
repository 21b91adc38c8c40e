"""The edge of the tool: what people call takes only what it understands, and raises nothing but TracerErrors.

`public` is the last net, not the place where faults are told: what a model or a caller can do wrong has an error
of its own, where it is found. Here, an argument of the wrong kind is an InputError, an exception out of the model's
own code a CaptureError at the caller's line, and any other a bug of ours: an InternalError that says where, with the
exception as its cause. An interrupt passes. `of_result` is the same net below the methods of what they return.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar, cast

from torch import fx

from passes.errors import CaptureError, InputError, InternalError, TracerError, TracerWarning
from passes.program.notes import location_of
from passes.program.program import operation_of
from passes.sizes.guards import Location
from tracer.edge.argument_kinds import check_arguments, check_model
from tracer.edge.source_lines import is_user_code, our_line, source_line

Function = TypeVar("Function", bound=Callable[..., Any])

# Tracing takes several frames of Python for one of the eager model's, so that a model near the limit would pass it.
RECURSION_LIMIT = 6000


def public(function: Function) -> Function:
    """The function as people call it (see the module's docstring)."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            arguments = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InputError(f"{function.__name__}: {error}", remedy=f"see help(tracer.{function.__name__})") from error

        def work() -> Any:
            check_arguments(arguments)
            if "model" in arguments:
                check_model(arguments["model"])
            return function(*args, **kwargs)

        return _inside(work)

    return cast(Function, guarded)


def of_result(method: Function) -> Function:
    """The method of a result, which raises as the public functions do."""

    @functools.wraps(method)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return _inside(lambda: method(*args, **kwargs))

    return cast(Function, guarded)


def _inside(work: Callable[[], Any]) -> Any:
    """What the work gives, done with a higher recursion limit; it raises nothing but errors of ours."""
    limit = sys.getrecursionlimit()
    try:
        try:
            _set_recursion_limit(max(limit, RECURSION_LIMIT))
            return work()
        except (TracerError, TracerWarning):  # the latter where the caller made errors of warnings
            raise
        except Exception as error:
            raise translated(error) from error
        finally:
            _set_recursion_limit(limit)
    finally:
        _set_recursion_limit(limit)  # once more, where an interrupt met the first


def translated(error: Exception) -> TracerError:
    """What to raise in place of an exception that nobody expected."""
    text = _text(error)
    frames = list(_frames(error.__traceback__))
    if isinstance(error, RecursionError):
        return CaptureError(
            f"the model, or what it takes or returns, is nested too deeply: {text}",
            remedy="nest it less, or raise sys.setrecursionlimit",
        ).placed(_place(frames))
    if isinstance(error, MemoryError):
        return TracerError(f"memory ran out: {text}", remedy="use a smaller sample or model, or more memory")
    # Whose code raised: the innermost frame that is the caller's or ours, torch's and Python's own left out.
    place = _place(frames)
    for frame, line in reversed(frames):
        ours = our_line(frame, line)
        if ours is not None:
            return InternalError(
                f"this is a bug in lazytracer: {text} at {ours}",
                remedy="report it, together with the model and the traceback",
            ).placed(place, _operation(frames))
        if is_user_code(frame.f_code) and not _is_library(frame):
            return CaptureError(
                f"the model's own code raises {text}", remedy="mend it at that line, which runs while the model is read"
            ).placed(Location(place.path, source_line(frame, line)))
    return InternalError(f"this is a bug in lazytracer: {text}", remedy="report it, together with the model")


def _text(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own text may be what is broken
        return type(error).__name__


def _frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _is_library(frame: FrameType) -> bool:
    """Whether a frame is Python's own code or an installed package's."""
    name = frame.f_code.co_filename
    return "site-packages" in name or name.startswith((sys.base_prefix, sys.prefix))


def _node(frames: list[tuple[FrameType, int]]) -> fx.Node | None:
    """The node that was worked on."""
    for frame, _ in reversed(frames):
        node = frame.f_locals.get("node")
        if our_line(frame, 0) is not None and isinstance(node, fx.Node):
            return node
    return None


def _place(frames: list[tuple[FrameType, int]]) -> Location:
    """The place in the model: that of the node that was worked on, else the caller's innermost line below ours."""
    node = _node(frames)
    if node is not None:
        return location_of(node)
    inside = False
    source = None
    for frame, line in frames:
        inside = inside or our_line(frame, line) is not None
        if inside and is_user_code(frame.f_code) and not _is_library(frame):
            source = source_line(frame, line)
    return Location("", source)


def _operation(frames: list[tuple[FrameType, int]]) -> str:
    node = _node(frames)
    return operation_of(node) if node is not None else ""


def _set_recursion_limit(limit: int) -> None:
    """Sets Python's recursion limit where this is the main thread: others have smaller stacks."""
    if threading.current_thread() is threading.main_thread() and sys.getrecursionlimit() != limit:
        sys.setrecursionlimit(limit)


__all__ = ["of_result", "public", "translated"]
