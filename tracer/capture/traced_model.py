"""The model under a trace: a copy of the caller's, with the paths of its modules and tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from passes.errors import CaptureError, InputError, TracerError
from passes.isolation.copy_on_write import CopyOnWrite
from passes.isolation.model_copy import ModelCopy, moved, set_eval_mode, sets_mode_itself
from passes.modules.held_apart import places, tensors_by_attribute
from passes.modules.lazy import LazyLayer, own_tensors
from passes.modules.leftovers import traced_changes, traced_state
from passes.sizes.guards import Location
from tracer.capture.values.native_number import hidden
from tracer.capture.values.number import TracedNumber
from tracer.edge.source_lines import definition


class _Unwritten(CopyOnWrite):  # type: ignore[no-untyped-call]
    """Refuses the operations, too, that compute with a traced number, which was hidden from the tracer."""

    def seen(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        if any(type(argument) is TracedNumber for argument in (*args, *kwargs.values())):
            raise hidden()
        return super().seen(func, args, kwargs)


class TracedModel:
    """A copy of a model in eval mode, what in it is where, and what becomes of it while its forward is traced.

    `written` are the ids of the tensors of the copy that were written while nothing was recorded, as by lazy modules
    that initialise them; a write that is seen while `recording` holds is refused.
    """

    def __init__(self, whole: ModelCopy, original: nn.Module, recording: Callable[[], bool]):
        self.original = original
        self.copy = whole.module
        self.made = whole.made
        self.written: set[int] = set()
        self._recording = recording
        self._pairs = whole.pairs
        self._started = False
        self._places: dict[int, tuple[str, Any]] | None = None
        self._classes: list[type] | None = None
        if sets_mode_itself(self.copy):
            with self.unwritten():
                self.copy.eval()
            self.check_untouched()
            self.modules = dict(self.copy.named_modules(remove_duplicate=False))
        else:
            self.modules = dict(self.copy.named_modules(remove_duplicate=False))
            set_eval_mode(self.modules.values())
        self._started = True
        self._module_paths: dict[int, str] = {}
        for path, module in self.modules.items():
            self._module_paths.setdefault(id(module), path)
        self.unique_modules = {path: self.modules[path] for path in self._module_paths.values()}
        self._before = traced_state(self.unique_modules)
        self._tensor_paths: dict[int, str] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        for path, module in self.unique_modules.items():
            self.note(path, module)
        for original_tensor, own in self._pairs:  # which a function outside of the model may know
            if id(own) in self._tensor_paths:
                self._tensor_paths[id(original_tensor)] = self._tensor_paths[id(own)]

    def unwritten(self) -> CopyOnWrite:
        """Inside the block, nothing writes to the model; what the forward writes to it out of our sight is refused."""
        return _Unwritten(self._pairs, self._before_write)

    def _before_write(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        if self._recording():
            raise self._changed(pairs[0][0])
        self.written.update(id(own) for _, own in pairs)

    def _changed(self, original: torch.Tensor) -> TracerError:
        """The refusal of a model that changes one of its tensors other than by traced operations."""
        paths = (*self.original.named_parameters(), *self.original.named_buffers())
        name = next((path for path, tensor in paths if tensor is original), "a tensor of the model")
        if not self._started:
            return InputError(
                f"{type(self.original).__name__}.eval() changes {name}, and eval mode is what is exported",
                remedy="call model.eval() first",
            )
        return CaptureError(
            f"the forward changes {name} itself, not only what it computes from it",
            remedy="compute with a copy of it, or change it in place by an operation on self's attribute",
        )

    def check_untouched(self) -> None:
        """Raises what the change of a tensor deserves that no operation wrote to, but that is another one now."""
        for original, own in self._pairs:
            if moved(original, own) and id(own) not in self.written:
                raise self._changed(original)

    def note(self, path: str, module: nn.Module) -> None:
        """Notes by which path the graph names a module's own tensors; a shared one has its first."""
        for name, tensor in own_tensors(module):
            known = self._tensor_paths.setdefault(id(tensor), f"{path}.{name}" if path else name)
            self.tensors[known] = tensor

    def path_of_tensor(self, tensor: torch.Tensor) -> str | None:
        """Where the model has the tensor, as itself."""
        return self._tensor_paths.get(id(tensor))

    def path_of_module(self, module: nn.Module) -> str | None:
        """Where the model has the module, as one of its own; None for any other."""
        return self._module_paths.get(id(module))

    def place_of(self, held: Any) -> str | None:
        """Where the model holds a module or tensor that is not registered: `layers[0].weight`."""
        if self._places is None:
            self._places = places(self.unique_modules)
        place, known = self._places.get(id(held), (None, None))
        return place if known is held else None

    def holders(self, is_meant: Callable[[torch.Tensor], bool]) -> list[str]:
        """The attributes of the model that hold a tensor which is meant, and is none of its registered ones."""
        found = tensors_by_attribute(self.unique_modules)
        return list(dict.fromkeys(path for path, tensor in found if is_meant(tensor)))

    def classes(self) -> list[type]:
        """The classes of the modules, with those above them."""
        if self._classes is None:
            kinds = {type(module): None for module in self.unique_modules.values()}
            self._classes = list(dict.fromkeys(above for kind in kinds for above in kind.__mro__))
        return self._classes

    def changes(self, lazies: dict[str, LazyLayer]) -> list[str]:
        """The attributes that are others now; our own inference sets the sizes of lazy layers."""
        return traced_changes(self._before, traced_state(self.unique_modules), lazies)

    def place(self) -> Location:
        """Where the model's own forward is defined."""
        return Location("", definition(type(self.copy).forward))

    def put_back(self, held: dict[str, torch.Tensor]) -> None:
        """Gives the traced copy the tensors again in whose place its forward has put others."""
        for path, tensor in held.items():
            owner, _, name = path.rpartition(".")
            module = self.modules[owner]
            for own in (module._parameters, module._buffers, module.__dict__):
                if name in own:
                    own[name] = tensor
