"""The frames that an error came through, made to let go of what their local variables hold."""

from __future__ import annotations

import traceback
from types import FrameType


def forget_frames(*errors: BaseException | None) -> None:
    """Clears the local variables of where errors and what led to them came through, and of the frames that called
    those and are done, too: they hold traced values."""
    seen: set[int] = set()
    waiting = list(errors)
    while waiting:
        current = waiting.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            for frame, _ in traceback.walk_tb(current.__traceback__):
                _forget_frame(frame)
            waiting += [current.__cause__, current.__context__]


def _forget_frame(frame: FrameType | None) -> None:
    while frame is not None:
        try:
            frame.clear()
        except RuntimeError:  # it runs, and so do those that called it
            return
        frame = frame.f_back
