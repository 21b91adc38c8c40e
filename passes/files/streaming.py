"""The weights of a lowered model one at a time: each drawn when the file needs it, and dropped after its last use.

The model is lowered with its lazy layers resolved on the meta device, which holds nothing. Then its layers are drawn
on a copy of the caller's model, in execution order and so with the same weights as ever, only as far as the next
initializer asks for. What is held at a time is one layer, and the layers that wait for the batch norm folded into them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn

from passes.modules.batchnorm_folding import Fold
from passes.modules.lazy import LazyLayer, own_tensors
from passes.onnx.lowered_model import LoweredModel
from passes.program.stages import Eager, Lowered, Shaped
from passes.stages.lazy_resolution import draw_layers


def lazy_bytes(program: Shaped) -> int:
    """How many bytes the weights of the program's lazy layers take."""
    specs = program.inferred.values()
    return sum(size * spec.dtype.itemsize for spec in specs if isinstance(size := spec.numel(), int))


def streamed(draws: Sequence[LazyLayer | fx.Node], lowered: Lowered, target: nn.Module) -> Iterator[torch.Tensor]:
    """The tensors of the model's weights in their order, drawn on `target`, a copy of the caller's model.

    `draws` are those of the program before its lazy layers were resolved. All of them are drawn from torch's global
    random state, as in a dry run, whether the file needs them or not.
    """
    return _Stream(draws, lowered, target).tensors(lowered.model)


class _Stream:
    """What has been drawn and is still needed, by state_dict key."""

    def __init__(self, draws: Sequence[LazyLayer | fx.Node], program: Eager, target: nn.Module):
        self._target = target
        self._state = program.state()
        self._first_key = {id(tensor): key for key, tensor in reversed(self._state.items())}
        self._layers = draw_layers(draws, target)
        self._held: dict[str, torch.Tensor] = {}
        self._folded: dict[int, tuple[Fold, str]] = {
            id(tensor): (fold, name)
            for path, fold in program.folds.items()
            for name, tensor in own_tensors(program.added[path])
        }

    def tensors(self, lowered: LoweredModel) -> Iterator[torch.Tensor]:
        sources = [self._sources(tensor) if tensor.is_meta else [] for tensor in lowered.weights.values()]
        self._uses = Counter(self._first(key) for keys in sources for key in keys)
        for stand_in, keys in zip(lowered.weights.values(), sources, strict=True):
            if not stand_in.is_meta:
                yield stand_in
                continue
            yield self._made(stand_in, {key: self._value(key) for key in keys})
            for first in map(self._first, keys):
                self._uses[first] -= 1
                if not self._uses[first]:
                    self._held.pop(first, None)
        for _ in self._layers:
            pass  # the random state is left where a dry run leaves it

    def _sources(self, stand_in: torch.Tensor) -> list[str]:
        """The entries of the state_dict that an initializer is made of; a tied one by its first key."""
        folded = self._folded.get(id(stand_in))
        keys = [self._first_key[id(stand_in)]] if folded is None else folded[0].sources()
        return [key for key in keys if key in self._state]

    def _first(self, key: str) -> str:
        """The first key of the tensor that a key names: tied entries are one."""
        return self._first_key[id(self._state[key])]

    def _made(self, stand_in: torch.Tensor, values: dict[str, torch.Tensor]) -> torch.Tensor:
        folded = self._folded.get(id(stand_in))
        if folded is None:
            (value,) = values.values()
            return value
        fold, name = folded
        made: torch.Tensor = getattr(fold, name)(values)
        return made

    def _value(self, key: str) -> torch.Tensor:
        own = self._state[key]
        if not own.is_meta:
            return own
        first = self._first(key)
        while first not in self._held:
            self._hold(next(self._layers).path)
        return self._held[first]

    def _hold(self, path: str) -> None:
        """Keeps the tensors of a layer that was just drawn, those that are needed, and takes them from the copy."""
        module = self._target.get_submodule(path)
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for name, tensor in own_tensors(module):
            key = f"{path}.{name}" if path else name
            if key in self._state and self._uses[self._first(key)]:
                self._held[self._first(key)] = tensor
            for table in tables:
                if name in table:
                    table[name] = None
