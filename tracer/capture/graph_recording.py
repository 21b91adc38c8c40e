"""What fx records of a forward: operations as nodes, and the answers to questions about what they give."""

from __future__ import annotations

import enum
import re
import sys
import threading
import weakref
from collections.abc import Iterator
from itertools import chain, count
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn.utils.rnn import PackedSequence

from passes.errors import SideEffectError
from passes.isolation.model_copy import ModelCopy
from passes.modules.explicit_state import call_with_state, held_at
from passes.modules.lazy import is_uninitialized, rank_to_be
from passes.ops.data_numbers import real_number, whole_number
from passes.ops.op import given_as_numbers, has_rule, is_of_tensor, map_leaves
from passes.ops.packed_sequences import packed_sequence
from passes.program.notes import PLACE, VALUE
from passes.program.stages import Captured
from passes.sizes.guards import GuardLog, Location
from passes.stages.shape_propagation import Propagator
from passes.values.nested import ATOMS, map_structure, opened
from passes.values.spec import TensorSpec
from tracer.capture.environment import as_ever, as_traced, copied_hooks_of_all
from tracer.capture.traced_model import TracedModel
from tracer.capture.values.aliasing import Aliases
from tracer.capture.values.known_values import KnownValues
from tracer.capture.values.memory_layout import MemoryLayouts
from tracer.capture.values.namespaces import Namespaces, genuine
from tracer.capture.values.number import TracedNumber
from tracer.capture.values.packed_sequences import rows_of
from tracer.capture.values.real_calls import following_real
from tracer.capture.values.regions import Regions
from tracer.capture.values.tensor import TracedTensor
from tracer.inputs.sample import Sample
from tracer.memory.names_in_code import name_in_code
from tracer.memory.real_tensors import FollowingReal, RealTensors
from tracer.memory.recorder import Recorder

_LITERALS = (str, int, float, bool, complex, torch.dtype, torch.device, torch.memory_format, torch.layout, enum.Enum)


class Computing(as_ever):
    """The block of `GraphRecorder.computing`."""

    def __init__(self, tracer: GraphRecorder):
        self._tracer = tracer

    def __enter__(self) -> None:
        self._recording, self._tracer._recording = self._tracer._recording, False
        super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._tracer._recording = self._recording


class GraphRecorder(Recorder):
    """fx's tracer with values that answer `bool/int/len/iter/.shape` from propagated shapes."""

    def __init__(self, model: nn.Module, sample: Sample, log: GuardLog, namespaces: Namespaces) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]
        self.log = log
        self.namespaces = namespaces
        self.graph = fx.Graph()  # until there is one of the trace
        self._recording = True
        self._thread = threading.get_ident()
        self._sample = sample
        whole = ModelCopy(model)
        self.hooks_of_all = copied_hooks_of_all(whole)
        self._model = TracedModel(whole, model, lambda: self.recording)
        self.written = self._model.written
        self.constants: list[str] = []
        self._attributes: dict[str, TracedTensor] = {}
        self._rebound: list[tuple[TracedTensor, fx.Node]] = []
        self.unpacked: list[tuple[TracedTensor, Any]] = []
        self.made: list[weakref.ref[Any]] = []
        self.regions: Regions = Regions(self)
        self.aliases: Aliases = Aliases(self)
        self.real: RealTensors = RealTensors(self)
        self.known: KnownValues = KnownValues(self)
        self.layouts: MemoryLayouts = MemoryLayouts(self)
        self._program: Captured | None = None
        self._found_propagator: Propagator | None = None

    @property
    def program(self) -> Captured:
        if self._program is None:
            self._program = Captured(self.graph, self._model.copy, self.log, _modules=self._model.modules)
        return self._program

    @property
    def propagator(self) -> Propagator:
        if self._found_propagator is None:
            self._found_propagator = Propagator(self.program)
        return self._found_propagator

    # Questions ----------------------------------------------------------------------------------

    def value(self, node: fx.Node) -> Any:
        """What propagation knows of a node; the answer to every question."""
        if VALUE.on(node):
            return VALUE.of(node)
        with self.computing():
            return self.propagator.value(node)

    def computing(self) -> Computing:
        """Nothing is recorded while values are computed: what patches torch for tracing lets everything pass."""
        return Computing(self)

    def miss(self, frame: FrameType) -> None:
        if self.recording:
            self.namespaces.miss(frame)

    def following_real(self) -> FollowingReal:
        """Inside the block, torch's operations on real tensors are followed where the graph must know of them."""
        return following_real(self)

    def computes_on(self, device: str) -> bool:
        """Whether the model has anything on a kind of device."""
        specs = [VALUE.of(node) for node in self.graph.nodes if node.op == "placeholder"]
        return any(spec.device.type == device for spec in specs) or any(
            tensor.device.type == device for tensor in self._model.copy.state_dict(keep_vars=True).values()
        )

    @property
    def recording(self) -> bool:
        """Whether what happens now belongs to the forward: other threads see fx's patches, too."""
        return self._recording and threading.get_ident() == self._thread

    def awaited(self, node: fx.Node) -> torch.Tensor | None:
        """The tensor of a lazy layer that a node names, where it has no shape yet."""
        if node.op != "get_attr":
            return None
        tensor = self._model.tensors.get(str(node.target))
        return tensor if is_uninitialized(tensor) and id(tensor) not in self.program.inferred else None

    def awaited_rank(self, node: fx.Node) -> int | None:
        """How many axes such a tensor will have, where its layer's class says so."""
        if self.awaited(node) is None:
            return None
        owner, _, name = str(node.target).rpartition(".")
        return rank_to_be(self.program.modules[owner], name)

    def requires_grad(self, node: fx.Node) -> bool:
        """What a tensor of the model says of itself; nothing that is computed has a gradient here."""
        return node.op == "get_attr" and getattr(self._model.tensors.get(str(node.target)), "requires_grad", False)

    def specs(self, value: Any) -> Any:
        """The arguments of a call as specs and plain values."""
        with as_traced():  # a registered class opens itself with code of its own
            return map_structure(value, self._spec)

    def _spec(self, value: Any) -> Any:
        if type(value) is TracedTensor:
            return self.value(value.node)
        if type(value) is TracedNumber:
            return value.value
        return TensorSpec.of(value) if isinstance(value, torch.Tensor) else value

    def record_guard(self, condition: str) -> None:
        self.locate()
        self.log.record(condition, dynamic=False)

    def locate(self, place: Location | None = None) -> None:
        """Notes a place in the caller's code, for guards: that where we are, unless another is given."""
        self.log.location = self.here() if place is None else place

    # What fx calls ------------------------------------------------------------------------------

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        given = self._sample.replace_leaves(self._placeholder, keep_classes=False)
        with as_traced():  # a registered class is put together by code of its own
            args, kwargs = map_structure(given, lambda leaf: leaf, keep_classes=True)

        state = {path: self._placeholder(leaf.name, leaf.spec) for path, leaf in self._sample.state.items()}
        for path in state:
            for model in (self._model.original, self._model.copy):
                self.real.replace(path, held_at(model, path))
        self.program.kept = list(state)

        def forward(root: nn.Module, *given: Any) -> Any:
            with as_traced():
                if not state:
                    return root(*given, **kwargs)
                result, left = call_with_state(root, [*state], [*state.values()], lambda: root(*given, **kwargs))
            found = dict(zip(state, left, strict=True))
            self._check_left(state, found)
            return result, found

        return forward, [self.root, *args]

    def _check_left(self, state: dict[str, TracedTensor], left: dict[str, Any]) -> None:
        """Raises SideEffectError where a state that is written in place is left in memory that others have: the next
        write would reach them."""
        memory = {path: self.aliases.memory(value) for path, value in left.items() if type(value) is TracedTensor}
        for path, tensor in state.items():
            if tensor.node.op == "placeholder" or path not in memory:
                continue
            others = {other for other, roots in memory.items() if other != path and roots & memory[path]}
            others |= {str(root.target) for root in memory[path] if root.op == "get_attr"}
            if others:
                raise SideEffectError(
                    f"the forward writes {path} in place, and leaves it in the memory of {', '.join(sorted(others))}: "
                    "the next call would write there too",
                    remedy="leave a copy there, by .clone()",
                ).placed(self.here())

    def _placeholder(self, name: str, spec: TensorSpec) -> TracedTensor:
        proxy = self.proxy(self.create_node("placeholder", name, (), {}))
        VALUE.put(proxy.node, spec)
        return proxy

    def proxy(self, node: fx.Node) -> TracedTensor:
        tensor = TracedTensor(node, self)
        self.made.append(weakref.ref(tensor))
        self.aliases.add(tensor)
        return tensor

    def create_proxy(self, *args: Any, **kwargs: Any) -> Any:
        with as_ever():
            return super().create_proxy(*args, **kwargs)

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        if kind in ("call_function", "call_method"):
            args, kwargs = self._with_numbers(kind, target, args, kwargs)
        if target in ("to", "type_as") and len(args) > 1 and isinstance(args[1], fx.Node):
            awaited = self.awaited(args[1])
            if awaited is not None:  # its type is known, and that is all that is asked for
                target, args = "to", (args[0], awaited.device, awaited.dtype, *args[2:])
        if kind == "output":  # a number that is returned was read from a tensor, which the file gives
            args = map_leaves(args, lambda leaf: leaf.args[0] if leaf.target in (whole_number, real_number) else leaf)
        node = self.graph.create_node(kind, target, args, kwargs, name, type_expr)
        PLACE.put(node, self._model.place() if kind == "output" else self.here())
        self.regions.note(node)
        if kind in ("call_function", "call_method") and not has_rule(node):
            with self.computing():
                self.propagator.advance(node)  # it may need data, and must fail here, where another rung can take over
        return node

    def _with_numbers(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with the number itself for each tensor where the operation takes a number.

        Raises CaptureError where that depends on an input: another rung can take over.
        """
        numbers: dict[fx.Node, Any] = {}
        for name, node, required in given_as_numbers(kind, target, args, kwargs):
            spec = self.value(node)
            if not isinstance(spec, TensorSpec) or not all(type(size) is int and size == 1 for size in spec.shape):
                continue
            if required or self.known.tensor(node) is not None:
                operation = target if kind == "call_method" else getattr(target, "__name__", str(target))
                numbers[node] = self._number_in(node, f"{name} of {operation}")
        if not numbers:
            return args, kwargs
        kept = int(is_of_tensor(kind, target))
        rest, named = map_leaves((args[kept:], kwargs), lambda leaf: numbers.get(leaf, leaf))
        return (*args[:kept], *rest), named

    def _number_in(self, node: fx.Node, use: str) -> Any:
        """The number that a tensor of one element holds: itself where it is known, else a node that gives it."""
        tensor = TracedTensor(node, self)
        return tensor.number_within().as_argument() if tensor.holds_unknown_number() else tensor.read(use).item()

    def create_arg(self, a: Any) -> Any:
        kind = type(a)
        if kind is TracedTensor:
            return a.node if a.is_as_it_was() else self.create_arg(a.unpacked())
        if kind in ATOMS:
            return a
        if kind is tuple:  # as the arguments themselves are
            return tuple([self.create_arg(item) for item in a])
        if kind is list:
            return [self.create_arg(item) for item in a]
        if kind is TracedNumber:
            return a.as_argument()
        if isinstance(a, fx.Proxy):
            return a.node
        if a is ... or isinstance(a, _LITERALS):
            return a
        if kind is PackedSequence:
            packed = (*a, rows_of(self, a.batch_sizes))
            return self.create_node("call_function", packed_sequence, tuple(map(self.create_arg, packed)), {})
        if isinstance(a, tuple):
            items = [self.create_arg(item) for item in a]
            return kind(*items) if hasattr(a, "_fields") else tuple(items)
        with as_traced():  # a registered class opens itself with code of its own
            parts = opened(a)
        if parts is not None or isinstance(a, dict):
            return {key: self.create_arg(item) for key, item in (a if parts is None else parts).items()}
        if isinstance(a, list):
            return [self.create_arg(item) for item in a]
        if isinstance(a, slice):
            return slice(self.create_arg(a.start), self.create_arg(a.stop), self.create_arg(a.step))
        if isinstance(a, torch.Tensor):
            return self.real.traced(a).node
        if isinstance(a, np.generic):
            return a.item()
        return super().create_arg(genuine(a))

    def constant(self, tensor: torch.Tensor) -> fx.Node:
        """A node that gives a real tensor, which is none of the model's own."""
        path: str | None = self.tensor_attrs.get(tensor)
        if path is None:
            path = self._named_constant(tensor)
        self.program.held.setdefault(path, tensor)
        return self.create_node("get_attr", path, (), {})

    def _named_constant(self, tensor: torch.Tensor) -> str:
        """A new attribute that has the tensor; its name says where the model holds it, or what its code calls it. What
        was cut out of another is called as that one is."""
        held = [tensor] if tensor._base is None else [tensor, tensor._base]
        with self.computing():
            place = next(filter(None, map(self._model.place_of, held)), None)
            if place is None:
                place = name_in_code(held, sys._getframe(1), GraphRecorder.trace.__code__, self._model.classes())
        if place is None:
            names: Iterator[str] = (f"_tensor_constant{number}" for number in count())
        else:
            base = "_".join(re.findall(r"\w+", place))
            names = chain([base], (f"{base}_{number}" for number in count(1)))
        name = next(name for name in names if getattr(self.root, name, tensor) is tensor)
        with self.computing():
            setattr(self.root, name, tensor.detach() if isinstance(tensor, nn.Parameter) else tensor)
        self.constants.append(name)
        return name

    def path_of_tensor(self, tensor: torch.Tensor) -> str | None:
        """Where the model has the tensor, as itself."""
        return self._model.path_of_tensor(tensor)

    def path_of_module(self, mod: nn.Module) -> str:
        """Where the model has the module; of one that is not registered, where it is held, or its class."""
        path = self._model.path_of_module(mod)
        return path if path is not None else self._model.place_of(mod) or type(mod).__name__

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.recording and isinstance(attr_val, torch.Tensor):
            path = self._model.path_of_tensor(attr_val)
            if path is not None:
                return self.attribute(path, attr_val)
        return attr_val

    def attribute(self, path: str, tensor: torch.Tensor) -> TracedTensor:
        tensor = self._model.tensors.get(path, tensor)  # not the caller's, which functions outside the model may know
        if path not in self._attributes:
            self.real.check_in_place(tensor)
            self.program.held.setdefault(path, tensor)
            self._attributes[path] = self.proxy(self.create_node("get_attr", path, (), {}))
            self.real.enter(tensor, self._attributes[path])
        return self._attributes[path]

    def rebind(self, tensor: TracedTensor, node: fx.Node) -> None:
        """From here on `tensor` stands for `node`, what a write in place left in its memory."""
        self._rebound.append((tensor, tensor.node))
        tensor.node = node
        self.real.moved(tensor)
