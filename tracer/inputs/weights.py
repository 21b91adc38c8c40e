"""A checkpoint, from wherever the caller has it, as a state_dict."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from passes.errors import LoadError
from passes.modules.lazy import is_uninitialized

Weights = Mapping[str, Any] | str | Path


def read_weights(source: Weights) -> dict[str, Any]:
    """The entries of a state_dict, a `.safetensors` file or a `.pt` file: tensors, and extra states of any kind.

    A `.pt` file is read with `weights_only=True`: nothing in it is executed. One that holds the state_dict under
    the key `state_dict` or `model` is understood. Files are memory-mapped, and the tensors of a mapping its own:
    they may only be read. Uninitialised ones are left out. The versions of modules that torch writes beside the
    entries stay. Raises LoadError.
    """
    if isinstance(source, Mapping):
        return _entries(source, "the given mapping")
    if not isinstance(source, (str, os.PathLike)):
        raise LoadError(f"the weights are a {type(source).__name__}", remedy="give a state_dict or the path of a file")
    path = Path(source)
    if not path.is_file():
        raise LoadError(f"the weights file {path} does not exist", remedy="give the path of a .safetensors or .pt file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        mapped = zipfile.is_zipfile(path)  # torch's format before 1.6 cannot be
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocol of pickles that are refused in any case
            return _entries(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped), str(path))
    except LoadError:
        raise
    except Exception as error:  # safetensors, pickle, zipfile and torch each raise their own
        said = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        if path.suffix != ".safetensors" and not _may_be_pickled(path):
            said = "it is no file that torch.save wrote"
        elif isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in said:
            said = "it holds other Python objects than tensors, and unpickling those could run code"
        raise LoadError(
            f"{path} cannot be read as weights: {said}",
            remedy="save the tensors alone, with safetensors or torch.save(model.state_dict(), ...)",
        ) from error


def _may_be_pickled(path: Path) -> bool:
    """Whether a file begins as torch's formats do: with an archive, or with a pickle of protocol 2 or later."""
    try:
        with path.open("rb") as file:
            return zipfile.is_zipfile(path) or file.read(1) == pickle.PROTO
    except (OSError, zipfile.BadZipFile):  # what is wrong with it was said before
        return True


def _entries(found: object, origin: str) -> dict[str, Any]:
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found) or not _has_state(found):
        raise LoadError(f"{origin} holds no state_dict", remedy="save model.state_dict()")
    entries: Any = OrderedDict((name, value) for name, value in found.items() if not is_uninitialized(value))
    metadata = getattr(found, "_metadata", None)
    if isinstance(metadata, Mapping):
        entries._metadata = metadata
    state: dict[str, Any] = entries
    return state


def _has_state(found: Mapping[str, object]) -> bool:
    """Whether any entry is what a state_dict holds; of a model without weights it is empty."""
    return not found or any(
        isinstance(value, torch.Tensor) or key.rpartition(".")[2] == "_extra_state" for key, value in found.items()
    )
