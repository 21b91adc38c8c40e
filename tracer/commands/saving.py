"""A module's weights into a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from passes.errors import ExportError, InputError
from passes.files.output_file import check_target, staged
from passes.modules.lazy import is_uninitialized

FORMATS = (".safetensors", ".pt", ".pth")


def check_weights_target(path: Path) -> None:
    """Raises InputError unless the file's suffix names a format, and ExportError unless it can be written."""
    if path.suffix not in FORMATS:
        raise InputError(f"the output {path} ends in none of {', '.join(FORMATS)}", remedy="name a .safetensors file")
    check_target(path)


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes the state_dict to a .safetensors or .pt file, whole or not at all; what is uninitialised is left out.

    Raises InputError for another suffix, and ExportError where it cannot be written.
    """
    check_weights_target(path)
    entries = {name: value for name, value in module.state_dict().items() if not is_uninitialized(value)}
    is_safetensors = path.suffix == ".safetensors"
    with staged(path, named=is_safetensors) as staging:  # its writer takes a path, beside which it writes
        if not is_safetensors:
            torch.save(entries, staging.file)
            return
        from safetensors.torch import save_file

        save_file(_unshared(entries), staging.path)


def _unshared(entries: dict[str, object]) -> dict[str, torch.Tensor]:
    """The tensors, each contiguous and in memory of its own; tied ones are repeated, so that every key is there."""
    seen: set[int] = set()
    tensors: dict[str, torch.Tensor] = {}
    for name, value in entries.items():
        if not isinstance(value, torch.Tensor):
            raise ExportError(
                f"the state_dict's {name} is a {type(value).__name__}, which a .safetensors file cannot hold",
                remedy="write a .pt file",
            )
        storage = value.untyped_storage().data_ptr()
        tensors[name] = value.detach().clone() if storage in seen else value.detach().contiguous()
        seen.add(storage)
    return tensors
