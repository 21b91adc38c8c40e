"""What went wrong when a forward raised, or caught, an error while it was traced."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from passes.errors import CaptureError, TracerError
from passes.program.dataflow import latest_steps
from passes.sizes.guards import Location
from tracer.edge.source_lines import COMPILER_FOLDER, is_user_code, source_line
from tracer.memory.recorder import Recorder

# Where torch's native code tells in an error's text how Python came to it.
_NATIVE_TRACE = "\n\nAt:\n"


def caught(signals: Sequence[TracerError], known: BaseException | None = None) -> TracerError | None:
    """The first of our errors that the forward caught: what followed is not what the model does.

    `known` is what it raised, which is not caught, nor is what that came from.
    """
    raised = set()
    while known is not None and id(known) not in raised:
        raised.add(id(known))
        known = known.__cause__ or known.__context__
    for error in signals:
        places = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if id(error) not in raised and any(is_user_code(frame.f_code) for frame in places):
            if not error.caught:
                error.caught = True
                error.message += "; and the forward catches the error that says so"
            return error
    return None


def explained(error: BaseException, recorder: Recorder) -> TracerError:
    """The error as one of ours, placed: what the forward raised while it was traced is a capture error.

    Where shapes do not fit before it, that is the first error. A bug inside the compiler is raised as it is.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    inside = [place for place in frames if is_user_code(place[0].f_code)]
    here = recorder.here()
    location = Location(here.path, source_line(*inside[-1]) if inside else here.source)
    if isinstance(error, TracerError):
        fault = error
    elif frames[-1][0].f_code.co_filename.startswith(COMPILER_FOLDER):
        raise error
    else:
        fault = CaptureError(
            f"the forward raises {type(error).__name__}: {str(error).partition(_NATIVE_TRACE)[0]}",
            remedy="call the model with real data of this shape to see whether it fails in the same way",
        )
    if fault.location is not None:
        return fault
    fault.decisions = fault.decisions or recorder.program.log.decisions
    with recorder.computing():
        recorder.propagator.complete()
    fault.placed(location, chain=latest_steps(recorder.program))
    before = recorder.program.fault()
    if before is None:
        return fault
    if not isinstance(fault, CaptureError):
        before.others = [*before.others, fault]
    return before
