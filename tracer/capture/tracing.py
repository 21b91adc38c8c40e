"""torch.fx tracing that can answer questions about shapes."""

from __future__ import annotations

import enum
import gc
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from types import FrameType
from typing import Any

import torch
from torch import fx, nn

from passes.errors import CaptureError, InputError, NeedsDataError, SideEffectError, TracerError, noted_errors
from passes.isolation.copy_on_write import CopyOnWrite
from passes.isolation.holders import MISSING, release
from passes.isolation.model_copy import ModelCopy, moved, set_eval_mode, sets_mode_itself
from passes.isolation.torch_state import undisturbed
from passes.modules.lazy import LazyLayer, is_uninitialized, own_tensors, rank_to_be
from passes.modules.leftovers import traced_changes, traced_state
from passes.ops.op import given_as_numbers, has_rule, is_of_tensor, map_leaves
from passes.program.dataflow import latest_steps
from passes.program.program import FAULT, LOCATION, SPEC, Program, Rung
from passes.sizes.guards import GuardLog, Location
from passes.stages.meta_execution import MetaRunError, run_module
from passes.stages.shape_propagation import Propagator
from passes.values.nested import ATOMS, fields_of, is_dataclass_value, map_structure
from passes.values.spec import TensorSpec
from tracer.capture.aliasing import Aliases, refuse_unfollowed
from tracer.capture.environment import as_ever, as_traced, copied_hooks_of_all, tracing_environment
from tracer.capture.first_calls import FirstCalls
from tracer.capture.known_values import KnownValues
from tracer.capture.leaf_condition import LeafCondition
from tracer.capture.memory_layout import MemoryLayouts
from tracer.capture.traced_values import TracedNumber, TracedTensor
from tracer.edge.source_lines import COMPILER_FOLDER, current_source, definition, is_user_code, source_line
from tracer.inputs.sample import Sample
from tracer.memory.real_tensors import RealTensors, with_written
from tracer.memory.recorder import Recorder

_LITERALS = (str, int, float, bool, complex, torch.dtype, torch.device, torch.memory_format, torch.layout, enum.Enum)


@undisturbed
def capture(model: nn.Module, sample: Sample, log: GuardLog) -> Program:
    """Traces `model` symbolically from the sample's specs; the model itself is not touched.

    A submodule that cannot be traced becomes one opaque node, followed on meta tensors (`Program.rungs`).
    Raises CaptureError where the model's own forward cannot be traced, NeedsDataError where a submodule
    cannot run on meta tensors either, and any error of shapes that a question in the forward brings to light.
    """
    return CapturingTracer(model, sample, log).capture()


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far a capture had come, to go back to."""

    last: fx.Node | None
    rebound: int
    unpacked: int
    rungs: int
    attributes: int
    lazies: int
    inferred: int
    draws: int
    settled: int
    made: int
    signals: int


class _Computing(as_ever):
    """The block of `CapturingTracer.computing`."""

    def __init__(self, tracer: CapturingTracer):
        self._tracer = tracer

    def __enter__(self) -> None:
        self._recording, self._tracer._recording = self._tracer._recording, False
        super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._tracer._recording = self._recording


class CapturingTracer(Recorder):
    """fx's tracer with values that answer `bool/int/len/iter/.shape` from propagated shapes.

    Leaves are the modules that an op covers, while their call is their class's own (`leaf_condition.py`). All others
    are traced through, those of torch.nn too: a transformer is its layers, and a layer its parts. So is a covered
    module with hooks of the caller's, so that the hooks take part, and a lazy module, once it has its sizes.
    """

    def __init__(self, model: nn.Module, sample: Sample, log: GuardLog) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]
        self.log = log
        self.graph = fx.Graph()  # until there is one of the trace
        self._recording = True
        self._thread = threading.get_ident()
        self._model = model
        self._sample = sample
        whole = ModelCopy(model)
        self._pairs = whole.pairs
        self.written: set[int] = set()  # the ids of the tensors of our copy that lazy modules initialise anew
        self._copy = whole.module
        self.hooks_of_all = copied_hooks_of_all(whole)
        self._made = whole.made
        self._module_call = nn.Module.__call__
        self._started = False
        if sets_mode_itself(self._copy):
            with self._unwritten():
                self._copy.eval()
            self._check_untouched()
            self._modules = dict(self._copy.named_modules(remove_duplicate=False))
        else:
            self._modules = dict(self._copy.named_modules(remove_duplicate=False))
            set_eval_mode(self._modules.values())
        self._started = True
        self._module_paths: dict[int, str] = {}
        for path, module in self._modules.items():
            self._module_paths.setdefault(id(module), path)
        self._unique_modules = {path: self._modules[path] for path in self._module_paths.values()}
        self._before = traced_state(self._unique_modules)
        self._tensor_paths: dict[int, str] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        self.leaves = LeafCondition(self._any_written)
        self._first_calls = FirstCalls(self, self.leaves)
        for path, module in self._unique_modules.items():
            self.note(path, module)
        for original, own in self._pairs:  # which a function outside of the model may know
            if id(own) in self._tensor_paths:
                self._tensor_paths[id(original)] = self._tensor_paths[id(own)]
        self._paths: list[str] = [""]
        self._attributes: dict[str, TracedTensor] = {}
        self._rebound: list[tuple[TracedTensor, fx.Node]] = []
        self.unpacked: list[tuple[TracedTensor, Any]] = []
        self.made: list[weakref.ref[Any]] = []
        self._signals: list[TracerError] = []
        self.aliases: Aliases = Aliases(self)
        self.real: RealTensors = RealTensors(self)
        self.known: KnownValues = KnownValues(self)
        self.layouts: MemoryLayouts = MemoryLayouts(self)
        self._program: Program | None = None
        self._found_propagator: Propagator | None = None

    def _unwritten(self) -> CopyOnWrite:
        """Inside the block, nothing writes to the model; what the forward writes to it out of our sight is refused."""
        return CopyOnWrite(self._pairs, self._before_write)

    def _before_write(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        if self.recording:
            raise self._changed(pairs[0][0])
        self.written.update(id(own) for _, own in pairs)

    def _changed(self, original: torch.Tensor) -> TracerError:
        """The refusal of a model that changes one of its tensors other than by traced operations."""
        paths = (*self._model.named_parameters(), *self._model.named_buffers())
        name = next((path for path, tensor in paths if tensor is original), "a tensor of the model")
        if not self._started:
            return InputError(
                f"{type(self._model).__name__}.eval() changes {name}, and eval mode is what is exported",
                remedy="call model.eval() first",
            )
        return CaptureError(
            f"the forward changes {name} itself, not only what it computes from it",
            remedy="compute with a copy of it, or change it in place by an operation on self's attribute",
        )

    def _check_untouched(self) -> None:
        """Raises what the change of a tensor deserves that no operation wrote to, but that is another one now."""
        for original, own in self._pairs:
            if moved(original, own) and id(own) not in self.written:
                raise self._changed(original)

    def capture(self) -> Program:
        try:
            self._trace()
            self._first_calls.undo()
        except (Exception, SystemExit) as error:
            fault = self._explained(error)
            fault.program = self.program
            raise fault from error
        program = self.program
        program.constants = {
            str(node.target): program.tensor(str(node.target))
            for node in self.graph.nodes
            if node.op == "get_attr" and str(node.target).startswith("_tensor_constant")
        }
        return program

    def _trace(self) -> None:
        """Traces the copy, and leaves nothing traced behind, whatever happens."""
        holders: list[str] = []
        try:
            try:
                with self._unwritten(), tracing_environment(self), noted_errors() as self._signals:
                    self.trace(self._copy)
                    refuse_unfollowed(self.program.output())
                caught = self._caught(self._signals)
                if caught is not None:
                    raise caught
                self._forget_unused()
                self._check_untouched()
            except BaseException as error:
                _forget_frames(error)
                raise
            finally:
                self.program.left_behind = self._left_behind()
                _forget_frames(*self._signals, *(node.meta.get(FAULT) for node in self.graph.nodes))
                self._put_back()
                self._forget_values()
                read = dict(self.program.read)
                holders = self._let_go()
                self.program.read = read  # what is computed to let go of values decides nothing
        finally:
            self._let_go()  # once more, where an interrupt met the first
        if holders:
            raise SideEffectError(
                f"the forward leaves what it computes in {', '.join(holders)}, which outlives the call",
                remedy="keep it in an attribute of the model, or return it",
            ).placed(Location("", definition(type(self._copy).forward)))

    def _forget_values(self) -> None:
        """Lets go of the traced values that are kept here."""
        self._signals = []
        self._attributes, self._rebound, self.unpacked = {}, [], []
        self.real = RealTensors(self)

    def _left_behind(self) -> list[str]:
        """The tensors and attributes of the model that the forward has written."""
        written = [path for path, tensor in self._attributes.items() if tensor.node.op != "get_attr"]
        after = traced_state(self._unique_modules)
        written += traced_changes(self._before, after, self.program.lazies)  # our own inference sets the sizes of those
        return list(dict.fromkeys([*self.program.left_behind, *written]))

    def _put_back(self) -> None:
        """Gives the traced copy the tensors again in whose place its forward has put others."""
        for path, tensor in self.program.held.items():
            owner, _, name = path.rpartition(".")
            module = self._modules[owner]
            for own in (module._parameters, module._buffers, module.__dict__):
                if name in own:
                    own[name] = tensor
        self.program.held = {}

    def _caught(self, signals: Sequence[TracerError], known: BaseException | None = None) -> TracerError | None:
        """The first of our errors that the forward caught: what followed is not what the model does.

        `known` is what it raised, which is not caught, nor is what that came from.
        """
        raised = set()
        while known is not None and id(known) not in raised:
            raised.add(id(known))
            known = known.__cause__ or known.__context__
        for error in signals:
            places = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            if id(error) not in raised and any(is_user_code(frame.f_code) for frame in places):
                if not error.caught:
                    error.caught = True
                    error.message += "; and the forward catches the error that says so"
                return error
        return None

    def _let_go(self, since: int = 0) -> list[str]:
        """Takes the values made since then out of what still holds them; who held one that depends on an input.

        Raises SideEffectError where something is left that nobody can be made to let go.
        """
        alive = self._alive(since)
        if alive:
            alive.clear()
            gc.collect(0)  # the collector pauses while a model is worked on: all that is new is young
            alive = self._alive(since)
        if not alive:
            return []
        return release(alive, self._real, {id(own) for own in (*self._modules.values(), *self._made)})

    def _alive(self, since: int) -> list[Any]:
        return [value for made in self.made[since:] if (value := made()) is not None]

    def _real(self, value: Any) -> Any:
        """What eager PyTorch would have in the place of a traced value, or MISSING where that depends on an input."""
        if type(value) is TracedNumber:
            return MISSING if value.is_dynamic else value.value
        if type(value) is not TracedTensor:
            return MISSING
        try:
            if value.node.op == "get_attr":
                return self.program.tensor(str(value.node.target))
            found = self.known.tensor(value.node)
        except Exception:  # torch may refuse to compute it in any way
            return MISSING
        return MISSING if found is None else found

    @property
    def program(self) -> Program:
        if self._program is None:
            self._program = Program(self.graph, self._copy, self.log, _modules=self._modules)
        return self._program

    @property
    def propagator(self) -> Propagator:
        if self._found_propagator is None:
            self._found_propagator = Propagator(self.program)
        return self._found_propagator

    # Questions ----------------------------------------------------------------------------------

    def value(self, node: fx.Node) -> Any:
        """What propagation knows of a node; the answer to every question."""
        found = node.meta.get(SPEC, self)
        if found is not self:
            return found
        with self.computing():
            return self.propagator.value(node)

    def computing(self) -> _Computing:
        """Nothing is recorded while values are computed: what patches torch for tracing lets everything pass."""
        return _Computing(self)

    def computes_on(self, device: str) -> bool:
        """Whether the model has anything on a kind of device."""
        specs = [node.meta[SPEC] for node in self.graph.nodes if node.op == "placeholder"]
        return any(spec.device.type == device for spec in specs) or any(
            tensor.device.type == device for tensor in self._copy.state_dict(keep_vars=True).values()
        )

    @property
    def recording(self) -> bool:
        """Whether what happens now belongs to the forward: other threads see fx's patches, too."""
        return self._recording and threading.get_ident() == self._thread

    def record_guard(self, condition: str) -> None:
        self.locate()
        self.log.record(condition, dynamic=False)

    def locate(self) -> None:
        """Notes the place in the caller's code where we are, for guards."""
        self.log.location = self.here()

    # What fx calls ------------------------------------------------------------------------------

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        args, kwargs = self._sample.replace_leaves(self._placeholder)

        def forward(root: nn.Module, *given: Any) -> Any:
            with as_traced():
                return root(*given, **kwargs)

        return forward, [self.root, *args]

    def _placeholder(self, name: str, spec: TensorSpec) -> TracedTensor:
        proxy = self.proxy(self.create_node("placeholder", name, (), {}))
        proxy.node.meta[SPEC] = spec
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
        node = self.graph.create_node(kind, target, args, kwargs, name, type_expr)
        node.meta[LOCATION] = Location("", definition(type(self._copy).forward)) if kind == "output" else self.here()
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
                numbers[node] = TracedTensor(node, self).read(f"{name} of {operation}").item()
        if not numbers:
            return args, kwargs
        kept = int(is_of_tensor(kind, target))
        rest, named = map_leaves((args[kept:], kwargs), lambda leaf: numbers.get(leaf, leaf))
        return (*args[:kept], *rest), named

    def create_arg(self, a: Any) -> Any:
        kind = type(a)
        if kind is TracedTensor:
            return a.node if a.is_as_it_was() else self.create_arg(a.unpacked())
        if kind in ATOMS:
            return a
        if kind is tuple:  # as the arguments themselves are
            return tuple([self.create_arg(item) for item in a])
        if kind is TracedNumber:
            return a.as_argument()
        if isinstance(a, fx.Proxy):
            return a.node
        if a is ... or isinstance(a, _LITERALS):
            return a
        if isinstance(a, tuple):
            items = [self.create_arg(item) for item in a]
            return kind(*items) if hasattr(a, "_fields") else tuple(items)
        if isinstance(a, list):
            return [self.create_arg(item) for item in a]
        if isinstance(a, dict):
            return {key: self.create_arg(item) for key, item in a.items()}
        if is_dataclass_value(a):
            return self.create_arg(fields_of(a))
        if isinstance(a, slice):
            return slice(self.create_arg(a.start), self.create_arg(a.stop), self.create_arg(a.step))
        if isinstance(a, torch.Tensor):
            return self.real.traced(a).node
        return super().create_arg(a)

    def constant(self, tensor: torch.Tensor) -> fx.Node:
        """A node that gives a real tensor, which is none of the model's own."""
        node: Any = super().create_arg(tensor)
        self.program.held.setdefault(str(node.target), tensor)
        found: fx.Node = node
        return found

    def path_of_tensor(self, tensor: torch.Tensor) -> str | None:
        """Where the model has the tensor, as itself."""
        return self._tensor_paths.get(id(tensor))

    def path_of_module(self, mod: nn.Module) -> str:
        path: str | None = self._module_paths.get(id(mod))
        if path is None:
            raise CaptureError(
                f"the forward calls a {type(mod).__name__} that is not a submodule of the model",
                remedy="assign it to an attribute of the model in __init__",
            )
        return path

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.recording and isinstance(attr_val, torch.Tensor):
            path = self._tensor_paths.get(id(attr_val))
            if path is not None:
                return self.attribute(path, attr_val)
        return attr_val

    def attribute(self, path: str, tensor: torch.Tensor) -> TracedTensor:
        tensor = self._tensors.get(path, tensor)  # and not the caller's, which a function outside of the model may know
        if path not in self._attributes:
            self.program.held.setdefault(path, tensor)
            self._attributes[path] = self.proxy(self.create_node("get_attr", path, (), {}))
            self.real.enter(tensor, self._attributes[path])
        return self._attributes[path]

    def rebind(self, tensor: TracedTensor, node: fx.Node) -> None:
        """From here on `tensor` stands for `node`, what a write in place left in its memory."""
        self._rebound.append((tensor, tensor.node))
        tensor.node = node
        self.real.moved(tensor)

    # Module calls -------------------------------------------------------------------------------

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not self.recording:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self._paths.append(path)
        try:
            with as_ever():
                is_leaf = self.leaves.holds(m, args, kwargs)
            if is_leaf:
                return self._leaf_call(m, path, args, kwargs)
            with self._first_calls.initialising(m, path, args, kwargs):
                if m is self._copy:
                    return self._module_call(m, *args, **kwargs)
                return self._traced_call(m, path, args, kwargs)
        finally:
            self._paths.pop()

    def _leaf_call(self, m: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if m is self._copy:
            path = self.program.whole = "model"
        inplace = getattr(m, "inplace", False)
        if inplace:
            place: int | str = 0 if args else "input"
            args, kwargs = with_written(self, place, args, kwargs)
        result = self.create_proxy("call_module", path, args, kwargs)
        with self.computing():
            self.propagator.advance(result.node)  # with the attributes that the module has now
            self._first_calls.settle_leaf(m, result.node)
        if not inplace:
            return result
        written = args[0] if args else kwargs["input"]
        self.aliases.write(written, result.node)
        return written

    def note(self, path: str, module: nn.Module) -> None:
        """Notes what a module of the model is, and by which path the graph names its own tensors; a shared one has its
        first."""
        for name, tensor in own_tensors(module):
            known = self._tensor_paths.setdefault(id(tensor), f"{path}.{name}" if path else name)
            self._tensors[known] = tensor
        self.leaves.note(module)

    def _any_written(self, tensors: list[torch.Tensor]) -> bool:
        return bool(self._attributes) and any(map(self._is_written, tensors))

    def _is_written(self, tensor: torch.Tensor) -> bool:
        """Whether the forward has written to one of the model's tensors."""
        path = self._tensor_paths.get(id(tensor), "")
        value = self._attributes.get(path)
        return value is not None and (value.node.op, value.node.target) != ("get_attr", path)

    def awaited(self, node: fx.Node) -> torch.Tensor | None:
        """The tensor of a lazy layer that a node names, where it has no shape yet."""
        if node.op != "get_attr":
            return None
        tensor = self._tensors.get(str(node.target))
        return tensor if is_uninitialized(tensor) and id(tensor) not in self.program.inferred else None

    def awaited_rank(self, node: fx.Node) -> int | None:
        """How many axes such a tensor will have, where its layer's class says so."""
        if self.awaited(node) is None:
            return None
        owner, _, name = str(node.target).rpartition(".")
        return rank_to_be(self.program.modules[owner], name)

    def requires_grad(self, node: fx.Node) -> bool:
        """What a tensor of the model says of itself; nothing that is computed has a gradient here."""
        return node.op == "get_attr" and getattr(self._tensors.get(str(node.target)), "requires_grad", False)

    def _forget_unused(self) -> None:
        """Erases what was read of lazy layers before their call, and used for nothing but questions."""
        for node in reversed(self.graph.nodes):
            if node.op == "get_attr" and not node.users:
                self.graph.erase_node(node)

    def meet(self, layer: LazyLayer) -> None:
        """Notes a lazy layer whose tensors have moved to the meta device in our copy of the model."""
        declared = {name: tensor.device for name, tensor in own_tensors(self._model.get_submodule(layer.path))}
        self.program.meet_lazy(layer, declared)

    def _traced_call(self, m: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The submodule's forward, traced; or, where that fails, the submodule as one node on meta tensors."""
        before = self._mark()
        try:
            return self._module_call(m, *args, **kwargs)
        except (Exception, SystemExit) as error:
            caught = self._caught(self._signals[before.signals :], error)
            fault = self._explained(error) if caught is None else caught.placed(self.here())
            if type(fault) is not CaptureError or fault.caught:
                raise fault from error
            _forget_frames(error)
        self._roll_back(before)
        return self._opaque_call(path, args, kwargs, fault)

    def _opaque_call(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], fault: CaptureError) -> Any:
        location = fault.location or self.here()
        original = self._model.get_submodule(path)
        with self.computing():
            try:
                result = run_module(original, path, self.specs(args), self.specs(kwargs), self.log, location)
            except MetaRunError as error:
                needs_data = NeedsDataError(fault.message, remedy=fault.remedy)
                raise needs_data.placed(location, chain=fault.chain) from error
        node = self.create_node("call_module", path, self.create_arg(args), self.create_arg(kwargs))
        node.meta[SPEC] = result.value
        for layer in result.lazies:
            self.meet(layer)
            with self.computing():
                self._first_calls.settle(self._modules[layer.path], layer)
        self.program.left_behind += result.left_behind
        self.program.rungs.append(Rung(path, "meta", fault.message, location, fault.remedy))
        return self.proxy(node)

    def specs(self, value: Any) -> Any:
        """The arguments of a call as specs and plain values."""
        return map_structure(value, self._spec)

    def _spec(self, value: Any) -> Any:
        if type(value) is TracedTensor:
            return self.value(value.node)
        if type(value) is TracedNumber:
            return value.value
        return TensorSpec.of(value) if isinstance(value, torch.Tensor) else value

    def _mark(self) -> _Mark:
        program = self.program
        with self.computing():
            self.propagator.complete()  # so that what is met from here on belongs to what may be forgotten
        last = next(iter(reversed(self.graph.nodes)), None)
        return _Mark(
            last,
            len(self._rebound),
            len(self.unpacked),
            len(program.rungs),
            len(self._attributes),
            len(program.lazies),
            len(program.inferred),
            len(program.draws),
            len(self._first_calls),
            len(self.made),
            len(self._signals),
        )

    def _roll_back(self, mark: _Mark) -> None:
        """Forgets everything that was recorded since `mark`."""
        del self._signals[mark.signals :]
        self._attributes = _first(mark.attributes, self._attributes)
        for whole, place in self.unpacked[mark.unpacked :]:
            whole.forget(place)
        del self.unpacked[mark.unpacked :]
        since = list(takewhile(lambda node: node is not mark.last, reversed(self.graph.nodes)))
        self.real.forget(since)
        self._let_go(mark.made)
        while len(self._rebound) > mark.rebound:
            tensor, node = self._rebound.pop()
            tensor.node = node
        for node in since:
            self.graph.erase_node(node)
        program = self.program
        del program.rungs[mark.rungs :]
        program.lazies = _first(mark.lazies, program.lazies)
        program.inferred = _first(mark.inferred, program.inferred)
        del program.draws[mark.draws :]
        self._first_calls.undo(mark.settled)
        self._found_propagator = None

    # Places -------------------------------------------------------------------------------------

    def here(self) -> Location:
        return Location(self._paths[-1], current_source(CapturingTracer.capture.__code__))

    def _explained(self, error: BaseException) -> TracerError:
        """The error as one of ours, placed: what the forward raised while it was traced is a capture error.

        Where shapes do not fit before it, that is the first error. A bug inside the compiler is raised as it is.
        """
        frames = list(traceback.walk_tb(error.__traceback__))
        inside = [place for place in frames if is_user_code(place[0].f_code)]
        location = Location(self._paths[-1], source_line(*inside[-1]) if inside else self.here().source)
        if isinstance(error, TracerError):
            fault = error
        elif frames[-1][0].f_code.co_filename.startswith(COMPILER_FOLDER):
            raise error
        else:
            fault = CaptureError(
                f"the forward raises {type(error).__name__}: {error}",
                remedy="call the model with real data of this shape to see whether it fails in the same way",
            )
        if fault.location is not None:
            return fault
        with self.computing():
            self.propagator.complete()
        fault.placed(location, chain=latest_steps(self.program))
        before = self.program.fault()
        if before is None:
            return fault
        if not isinstance(fault, CaptureError):
            before.others = [*before.others, fault]
        return before


def _first(count: int, table: dict[Any, Any]) -> dict[Any, Any]:
    """The entries that were the first to be made in a table where none is taken out."""
    return dict(islice(table.items(), count))


def _forget_frames(*errors: BaseException | None) -> None:
    """Clears the local variables of where errors and what led to them came through, and of the frames that called
    those and are done, too: they hold traced values."""
    seen: set[int] = set()
    waiting = list(errors)
    while waiting:
        current = waiting.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            for frame, _ in traceback.walk_tb(current.__traceback__):
                _forget_frame(frame)
            waiting += [current.__cause__, current.__context__]


def _forget_frame(frame: FrameType | None) -> None:
    while frame is not None:
        try:
            frame.clear()
        except RuntimeError:  # it runs, and so do those that called it
            return
        frame = frame.f_back
