"""Memory for the tensors of a model that have none yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from passes.modules.lazy import is_uninitialized
from passes.torch_private import tensor_of_class


def give_memory(
    module: nn.Module, device_of: Callable[[torch.Tensor], torch.device], marked: bool = False
) -> dict[str, torch.Tensor]:
    """Gives the tensors of the module's state that stand on the meta device memory where `device_of` says.

    What is in that memory is undefined; or, with `marked`, what `holds_nothing` knows. Returns the tensors by key.
    """

    def real(tensor: torch.Tensor) -> torch.Tensor | None:
        device = device_of(tensor)
        if not tensor.is_meta or device.type == "meta":
            return None
        made = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)
        return made.fill_(_mark(made)) if marked else made

    return dict(_replaced(module, real, persistent=True))


def holds_nothing(tensor: torch.Tensor) -> bool:
    """Whether a tensor still is as `give_memory` has marked it."""
    mark = _mark(tensor)
    return bool((tensor.isnan() if mark != mark else tensor == mark).all()) and tensor.numel() > 0


def _mark(tensor: torch.Tensor) -> float:
    """A value that no weights have."""
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        return torch.nan
    return 0 if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).min


def _replaced(
    model: nn.Module, replace: Callable[[torch.Tensor], torch.Tensor | None], persistent: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    """Puts other tensors into the tables of the model's modules, where `replace` gives one; ties stay ties."""
    done: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for path, module in model.named_modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            for name, tensor in list(table.items()):
                if tensor is None or is_uninitialized(tensor):
                    continue
                if persistent and table is module._buffers and name in module._non_persistent_buffers_set:
                    continue
                if id(tensor) not in done:
                    data = replace(tensor)
                    if data is None:
                        continue
                    done[id(tensor)] = tensor, _like(tensor, data)
                    yield f"{path}.{name}" if path else name, done[id(tensor)][1]
                table[name] = done[id(tensor)][1]


def _like(tensor: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """The data as what the tensor is: a parameter of its class, with its attributes."""
    made: torch.Tensor = data
    if isinstance(tensor, nn.Parameter):
        if type(data) is torch.Tensor:
            made = tensor_of_class(type(tensor), data, tensor.requires_grad)
        else:
            made = nn.Parameter(data, tensor.requires_grad)
    made.__dict__.update(tensor.__dict__)
    return made
