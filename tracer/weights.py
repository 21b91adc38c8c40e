"""A checkpoint, from wherever the caller has it, as a state_dict."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from passes.errors import LoadError
from passes.lazy_modules import is_uninitialized

Weights = Mapping[str, torch.Tensor] | str | Path


def read_weights(source: Weights, *, copy: bool = True) -> dict[str, torch.Tensor]:
    """The tensors of a state_dict, a `.safetensors` file or a `.pt` file.

    A `.pt` file is read with `weights_only=True`: nothing in it is executed. One that holds the state_dict under
    the key `state_dict` or `model` is understood. Files are memory-mapped, and tensors of a mapping copied, unless
    `copy` says that they need not be. Uninitialised ones are left out. Raises LoadError.
    """
    if isinstance(source, Mapping):
        tensors = _tensors(source, "the given mapping")
        return {name: tensor.detach().clone() for name, tensor in tensors.items()} if copy else tensors
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
            return _tensors(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped), str(path))
    except LoadError:
        raise
    except Exception as error:  # safetensors, pickle, zipfile and torch each raise their own
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
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
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == pickle.PROTO


def _tensors(found: object, origin: str) -> dict[str, torch.Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise LoadError(f"{origin} holds no state_dict", remedy="save model.state_dict()")
    return {name: tensor for name, tensor in found.items() if not is_uninitialized(tensor)}
