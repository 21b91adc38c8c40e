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
    from passes.spec import spec
    from tracer.commands import convert, draw, inspect, resolve
    from tracer.comparison import Comparison, compare
    from tracer.conversion import Conversion
    from tracer.drawing import Drawing
    from tracer.explanation import Explanation, why
    from tracer.refreshing import refresh
    from tracer.report import Report

_HOMES = {
    "passes.errors": (
        "CaptureError", "ExportError", "InputError", "InternalError", "LazyResolutionError", "LoadError", "ShapeError",
        "SideEffectError", "TracerError", "TracerWarning", "UnsupportedOpError", "VerificationError",
    ),
    "passes.spec": ("spec",),
    "tracer.commands": ("convert", "draw", "inspect", "resolve"),
    "tracer.comparison": ("Comparison", "compare"),
    "tracer.conversion": ("Conversion",),
    "tracer.drawing": ("Drawing",),
    "tracer.explanation": ("Explanation", "why"),
    "tracer.refreshing": ("refresh",),
    "tracer.report": ("Report",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CaptureError", "Comparison", "Conversion", "Drawing", "Explanation", "ExportError", "InputError", "InternalError",
    "LazyResolutionError", "LoadError", "Report", "ShapeError", "SideEffectError", "TracerError", "TracerWarning",
    "UnsupportedOpError", "VerificationError", "compare", "convert", "draw", "inspect", "refresh", "resolve", "spec",
    "why",
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
