"""The files that a model and its weights come from: what is written may not take their place."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from passes.errors import InputError
from passes.files.output_file import check_target


def checked_target(f: Any, model: Any = None, weights: Any = None) -> Path:
    """Where to write: `f` as a path.

    Raises InputError where `f` is no path, and ExportError where no file can be written there, or one that the model
    or its weights come from would be lost.
    """
    if not isinstance(f, (str, os.PathLike)) or not isinstance(os.fspath(f), str):
        raise InputError(f"the output is a {type(f).__name__}, not a path", remedy="give the path of a file")
    target = Path(f)
    check_target(target, [*_sources(model), *_files(weights)])
    return target


def _sources(model: Any) -> Iterable[Path]:
    """The files of the model's classes, and of the program that runs."""
    if not isinstance(model, nn.Module):
        return []
    classes = {base for kind in set(map(type, model.modules())) for base in kind.__mro__}
    modules = (sys.modules.get(name) for name in {"__main__", *(kind.__module__ for kind in classes)})
    places = (getattr(module, "__file__", None) for module in modules)
    return [Path(place) for place in places if isinstance(place, str)]


def _files(weights: Any) -> Iterable[Path]:
    return [Path(weights)] if isinstance(weights, (str, os.PathLike)) else []
