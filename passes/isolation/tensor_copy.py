"""The tensors of a model's copy: tensor objects of its own, on the memory of the original's.

What is done to such an object (`.data = …`, `requires_grad_`, `zero_grad`) does not reach the original's; what is
written into its memory does, and `passes/isolation/copy_on_write.py` keeps that from happening. Tensors that share
memory go on sharing it, on another device too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from passes.modules.lazy import is_uninitialized
from passes.torch_private import tensor_of_class, without_classes, without_dispatch


class TensorCopies:
    """Makes what a copy has in place of each tensor, and remembers the pairs.

    With `device`, the memory is not shared but copied to that device, once where several tensors share it. `kept` has,
    by id, the tensors that are replaced by a certain other one; `shared`, the memory that is shared all the same where
    `kept` is given: all other memory is copied then.
    """

    def __init__(
        self,
        device: torch.device | None = None,
        kept: Mapping[int, torch.Tensor] | None = None,
        shared: Iterable[int] = (),
    ):
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.device = device
        self._kept = kept
        self._shared = frozenset(shared)
        self._moved: dict[int, torch.UntypedStorage] = {}

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """The copy's tensor in place of this one. Asked once for each tensor: who asks remembers the answer."""
        if self._kept is not None and id(tensor) in self._kept:
            return self._kept[id(tensor)]
        with without_classes():  # lazy tensors answer every question about them through Python
            if is_uninitialized(tensor):
                return fresh(tensor, self.device)
            data = self._data(tensor)
            kind = type(tensor)
            if kind is not torch.Tensor:
                data = tensor_of_class(kind, data, tensor.requires_grad and tensor.is_leaf)
            elif tensor.requires_grad and tensor.is_leaf:
                data.requires_grad_()
            if tensor.__dict__:
                data.__dict__.update(tensor.__dict__)
            self.pairs.append((tensor, data))
            if tensor.is_leaf and tensor.grad is not None and self.device is None:
                data.grad = self.copy(tensor.grad)
            return data

    def _data(self, tensor: torch.Tensor) -> torch.Tensor:
        if not shares_memory(tensor):  # its memory cannot be watched
            copied = tensor.detach().clone()
            return copied if self.device is None else copied.to(self.device)
        if self.device is None and (self._kept is None or storage_key(tensor) in self._shared):
            with without_dispatch():  # nothing that a mode would have to see
                return tensor.data
        key = storage_key(tensor)
        if key not in self._moved:
            self._moved[key] = cloned(tensor.untyped_storage(), self.device or tensor.device)
        return on_storage(tensor, self._moved[key])


def fresh(tensor: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    """An uninitialised tensor like this one: `copy.deepcopy` refuses lazy buffers."""
    kind: Any = type(tensor)
    with without_dispatch():  # nothing that a mode would have to see
        fresh: torch.Tensor = kind(
            requires_grad=tensor.requires_grad, device=device or tensor.device, dtype=tensor.dtype
        )
    fresh.__dict__.update(tensor.__dict__)
    return fresh


def cloned(storage: torch.UntypedStorage, device: torch.device | None = None) -> torch.UntypedStorage:
    """A copy of the memory, on the device; on meta, its size."""
    made: Any = torch.UntypedStorage
    copied: torch.UntypedStorage = made(storage.nbytes(), device=device or storage.device)
    return copied if copied.device.type == "meta" else copied.copy_(storage)


def shares_memory(tensor: torch.Tensor) -> bool:
    """Whether the tensor is numbers in a memory that others may share and that can be told from any other."""
    plain = type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__
    return plain and tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())


def storage_key(tensor: torch.Tensor) -> int:
    """What tells the memory of a tensor from all other, as long as it is there."""
    key: int = tensor.untyped_storage()._cdata
    return key


def on_storage(tensor: torch.Tensor, storage: torch.UntypedStorage) -> torch.Tensor:
    """A tensor that is in `storage` what `tensor` is in its own."""
    empty = torch.empty(0, dtype=tensor.dtype, device=storage.device)
    return empty.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())
