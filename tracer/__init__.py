"""PyTorch models with lazy layers, resolved by tracing and exported to ONNX.

The public names are imported on first use, so that `import tracer` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracer.version import __version__ as __version__

if TYPE_CHECKING:
    from passes.errors import (
        CaptureError,
        ExportError,
        InputError,
        InternalError,
        LazyResolutionError,
        LoadError,
        ShapeError,
        SideEffectError,
        TracerError,
        TracerWarning,
        UnsupportedOpError,
        VerificationError,
    )
    from tracer.commands.comparison import Comparison, compare
    from tracer.commands.explanation import Explanation, why
    from tracer.commands.refreshing import refresh
    from tracer.commands.size_limits import Sizes, sizes
    from tracer.commands.step_lists import convert, draw, inspect, resolve
    from tracer.drawings.drawing import Drawing
    from tracer.inputs.specs import spec
    from tracer.reports.report import Report
    from tracer.steps.conversion import Conversion

_HOMES = {
    "passes.errors": (
        "CaptureError", "ExportError", "InputError", "InternalError", "LazyResolutionError", "LoadError", "ShapeError",
        "SideEffectError", "TracerError", "TracerWarning", "UnsupportedOpError", "VerificationError",
    ),
    "tracer.inputs.specs": ("spec",),
    "tracer.commands.step_lists": ("convert", "draw", "inspect", "resolve"),
    "tracer.commands.comparison": ("Comparison", "compare"),
    "tracer.steps.conversion": ("Conversion",),
    "tracer.drawings.drawing": ("Drawing",),
    "tracer.commands.explanation": ("Explanation", "why"),
    "tracer.commands.refreshing": ("refresh",),
    "tracer.commands.size_limits": ("Sizes", "sizes"),
    "tracer.reports.report": ("Report",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CaptureError", "Comparison", "Conversion", "Drawing", "Explanation", "ExportError", "InputError", "InternalError",
    "LazyResolutionError", "LoadError", "Report", "ShapeError", "SideEffectError", "Sizes", "TracerError",
    "TracerWarning", "UnsupportedOpError", "VerificationError", "compare", "convert", "draw", "inspect", "refresh",
    "resolve", "sizes", "spec", "why",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tracer' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME_OF]
