"""Values that do not depend on the input: a forward may branch on its own parameters, and gets the real answer.

Such a value is computed by torch itself, from the model's tensors and from sizes that guards leave one value, when
something asks for its data. What an operation writes into in place is copied first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from passes.modules.lazy import is_uninitialized
from passes.ops.op import BoundCall, map_leaves
from passes.program.notes import CALL
from passes.program.regions import is_of_regions
from passes.sizes.floating import DynamicNumber
from tracer.capture.values.aliasing import unfollowed
from tracer.memory.real_tensors import written_place
from tracer.memory.recorder import Recorder


class KnownValues:
    """Computes what nodes are, as far as they follow from the model's own tensors."""

    def __init__(self, tracer: Recorder):
        self._tracer = tracer
        self._values: dict[fx.Node, Any] = {}

    def tensor(self, node: fx.Node) -> torch.Tensor | None:
        """The node's data, or None where it depends on an input, on chance, or on weights that are not drawn yet."""
        needed = self._needed(node)
        if needed is None:
            return None
        with self._tracer.computing(), torch.no_grad():
            for known in needed:
                self._values[known] = self._compute(known)
        found = self._values[node]
        return found if isinstance(found, torch.Tensor) else None

    def _needed(self, node: fx.Node) -> list[fx.Node] | None:
        """The nodes to compute for this one, operands first."""
        found: dict[fx.Node, None] = {}
        waiting = [node]
        while waiting:
            current = waiting.pop()
            if current in found or current in self._values or self._is_pinned(current):
                continue
            if not self._is_known(current):
                return None
            found[current] = None
            waiting.extend(current.all_input_nodes)
        return [known for known in self._tracer.graph.nodes if known in found]

    def _is_pinned(self, node: fx.Node) -> bool:
        """Whether a node is a number over named sizes which guards leave one value; that is its value then."""
        number = self._tracer.value(node) if node.op in ("call_function", "call_method") else None
        if not isinstance(number, DynamicNumber) or not number.is_pinned():
            return False
        self._values[node] = number.hint
        return True

    def _is_known(self, node: fx.Node) -> bool:
        if node.op == "get_attr":
            tensor = self._tracer.program.tensor(str(node.target))
            drawn_later = is_uninitialized(tensor) or id(tensor) in self._tracer.written
            return not drawn_later and tensor.device.type != "meta"
        if node.target is unfollowed or is_of_regions(node):
            return False
        self._tracer.value(node)
        call: BoundCall | None = CALL.get(node)
        return node.op in ("call_function", "call_method") and not (call is not None and call.op.random)

    def _compute(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            tensor = self._tracer.program.tensor(str(node.target)).detach()
            self._tracer.program.read[str(node.target)] = tensor
            return tensor
        args, kwargs = map_leaves((node.args, dict(node.kwargs)), self._values.__getitem__)
        name = str(node.target)
        function: Any = getattr(torch.Tensor, name) if node.op == "call_method" else node.target
        place = written_place(function, args, kwargs)
        if isinstance(place, int):
            args = (*args[:place], args[place].clone(), *args[place + 1 :])
        elif place is not None:
            kwargs = {**kwargs, place: kwargs[place].clone()}
        if node.op == "call_method":
            return getattr(args[0], name)(*args[1:], **kwargs)
        return function(*args, **kwargs)
