"""torch.fx tracing that can answer questions about shapes."""

from __future__ import annotations

import enum
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx import _symbolic_trace as symbolic_trace
from torch.nn.utils.parametrize import is_parametrized

from passes.dataflow import latest_steps
from passes.errors import CaptureError, NeedsDataError, TracerError
from passes.guards import GuardLog, Location
from passes.lazy_modules import (
    LazyLayer,
    awaits_first_input,
    infer_by_running,
    is_torch_lazy,
    own_tensors,
    owns_uninitialized,
    stand_on,
)
from passes.meta_execution import MetaRunError, run_module
from passes.model_copy import copy_model, in_eval_mode
from passes.nested import ATOMS, fields_of, is_dataclass_value, map_structure
from passes.ops.op import find_module, has_rule
from passes.program import LOCATION, SPEC, Program, Rung
from passes.shape_propagation import Propagator
from passes.spec import TensorSpec
from tracer.aliasing import Aliases
from tracer.known_values import KnownValues
from tracer.sample import Sample
from tracer.source_lines import COMPILER_FOLDER, current_source, definition, is_user_code, source_line
from tracer.traced_values import TracedNumber, TracedTensor
from tracer.tracing_environment import as_ever, tracing_environment

_LITERALS = (str, int, float, bool, complex, torch.dtype, torch.device, torch.memory_format, torch.layout, enum.Enum)


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
    rungs: int
    attributes: frozenset[str]
    lazies: tuple[str, ...]
    inferred: tuple[int, ...]
    draws: int


class CapturingTracer(fx.Tracer):
    """fx's tracer with values that answer `bool/int/len/iter/.shape` from propagated shapes.

    Leaves are the modules that an op covers, and torch.nn's lazy modules. All others are traced through, those of
    torch.nn too: a transformer is its layers, and a layer its parts. So is a covered module with hooks of the
    caller's, so that the hooks take part, and a lazy module of the caller's own, once its own code has initialised it
    on shape-only inputs.
    """

    def __init__(self, model: nn.Module, sample: Sample, log: GuardLog) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]
        self.log = log
        self._recording = True
        self._thread = threading.get_ident()
        self._model = model
        self._sample = sample
        self._copy = in_eval_mode(copy_model(model))
        self._modules = dict(self._copy.named_modules(remove_duplicate=False))
        self._module_paths: dict[int, str] = {}
        self._tensor_paths: dict[int, str] = {}
        for path, module in self._modules.items():
            self._module_paths.setdefault(id(module), path)
            self._note_tensors(path, module)
        self._paths: list[str] = [""]
        self._attributes: dict[str, TracedTensor] = {}
        self._rebound: list[tuple[TracedTensor, fx.Node]] = []
        self.aliases = Aliases(self)
        self.known = KnownValues(self)
        self._program: Program | None = None
        self._found_propagator: Propagator | None = None

    def capture(self) -> Program:
        try:
            with tracing_environment(self):
                self.trace(self._copy)
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

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Nothing is recorded while values are computed: what patches torch for tracing lets everything pass."""
        recording, self._recording = self._recording, False
        try:
            with as_ever():
                yield
        finally:
            self._recording = recording

    @property
    def recording(self) -> bool:
        """Whether what happens now belongs to the forward: other threads see fx's patches, too."""
        return self._recording and threading.get_ident() == self._thread

    def record_guard(self, condition: str) -> None:
        self.locate()
        self.log.record(condition, dynamic=False)

    def locate(self) -> None:
        """Notes the place in the caller's code where we are, for guards."""
        self.log.location = self._here()

    # What fx calls ------------------------------------------------------------------------------

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        args, kwargs = self._sample.replace_leaves(self._placeholder)

        def forward(root: nn.Module, *given: Any) -> Any:
            if self.is_leaf_module(root, ""):
                self.program.whole = "model"
                return self._leaf_call(root, "model", given, kwargs)
            return symbolic_trace._orig_module_call(root, *given, **kwargs)

        return forward, [self.root, *args]

    def _placeholder(self, name: str, spec: TensorSpec) -> TracedTensor:
        proxy = self.proxy(self.create_node("placeholder", name, (), {}))
        proxy.node.meta[SPEC] = spec
        return proxy

    def proxy(self, node: fx.Node) -> TracedTensor:
        tensor = TracedTensor(node, self)
        self.aliases.add(tensor)
        return tensor

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        node = self.graph.create_node(kind, target, args, kwargs, name, type_expr)
        node.meta[LOCATION] = Location("", definition(type(self._copy).forward)) if kind == "output" else self._here()
        if kind in ("call_function", "call_method") and not has_rule(node):
            with self.computing():
                self.propagator.advance(node)  # it may need data, and must fail here, where another rung can take over
        return node

    def create_arg(self, a: Any) -> Any:
        kind = type(a)
        if kind is TracedTensor:
            return a.node
        if kind in ATOMS:
            return a
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
            path = self._tensor_paths.get(id(a))
            if path is not None:
                return self._attribute(path).node
        return super().create_arg(a)

    def path_of_module(self, mod: nn.Module) -> str:
        path: str | None = self._module_paths.get(id(mod))
        if path is None:
            raise CaptureError(
                f"the forward calls a {type(mod).__name__} that is not a submodule of the model",
                remedy="assign it to an attribute of the model in __init__",
            )
        return path

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if self._awaits(m):
            return True
        if find_module(type(m)) is None or m._forward_hooks or m._forward_pre_hooks:
            return False
        return not any(map(is_parametrized, m.modules()))  # a covered module may read the weights of its parts

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.recording and isinstance(attr_val, torch.Tensor):
            path = self._tensor_paths.get(id(attr_val))
            if path is not None:
                return self._attribute(path)
        return attr_val

    def _attribute(self, path: str) -> TracedTensor:
        if path not in self._attributes:
            self._attributes[path] = self.proxy(self.create_node("get_attr", path, (), {}))
        return self._attributes[path]

    def rebind(self, tensor: TracedTensor, node: fx.Node) -> None:
        """From here on `tensor` stands for `node`, what a write in place left in its memory."""
        self._rebound.append((tensor, tensor.node))
        tensor.node = node

    # Module calls -------------------------------------------------------------------------------

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not self.recording:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self._paths.append(path)
        try:
            if self._awaits(m) and not is_torch_lazy(m):
                self._initialise(m, path, args, kwargs)
            if self.is_leaf_module(m, path):
                return self._leaf_call(m, path, args, kwargs)
            return self._traced_call(path, forward, args, kwargs)
        finally:
            self._paths.pop()

    def _leaf_call(self, m: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = self.create_proxy("call_module", path, args, kwargs)
        if getattr(m, "inplace", False) and args and type(args[0]) is TracedTensor:
            self.aliases.write(args[0], result)
        return result

    def _awaits(self, m: nn.Module) -> bool:
        """Whether the module waits for its first input, now that everything before it is known."""
        if awaits_first_input(m):
            return True
        if not owns_uninitialized(m):
            return False
        with self.computing():
            self.propagator.complete()
        return self.program.awaits(m)

    def _initialise(self, m: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Gives a caller's own lazy module its sizes by its own code, so that its forward can be traced."""
        with self.computing():
            self.propagator.complete()  # lazy layers called before this one draw their weights before it
            specs, kwspecs = self._specs(args), self._specs(kwargs)
            stand_on(m, torch.device("meta"))
            self._meet(infer_by_running(m, path, specs, kwspecs, self._here()))
        self._note_tensors(path, m)

    def _note_tensors(self, path: str, module: nn.Module) -> None:
        """Notes by which path the graph names the module's own tensors; a shared one has its first."""
        for name, tensor in own_tensors(module):
            self._tensor_paths.setdefault(id(tensor), f"{path}.{name}" if path else name)

    def _meet(self, layer: LazyLayer) -> None:
        """Notes a lazy layer whose tensors have moved to the meta device in our copy of the model."""
        declared = {name: tensor.device for name, tensor in own_tensors(self._model.get_submodule(layer.path))}
        self.program.meet_lazy(layer, declared)

    def _traced_call(
        self, path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The submodule's forward, traced; or, where that fails, the submodule as one node on meta tensors."""
        before = self._mark()
        try:
            return forward(*args, **kwargs)
        except (Exception, SystemExit) as error:
            fault = self._explained(error)
            if type(fault) is not CaptureError:
                raise fault from error
        self._roll_back(before)
        return self._opaque_call(path, args, kwargs, fault)

    def _opaque_call(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], fault: CaptureError) -> Any:
        location = fault.location or self._here()
        original = self._model.get_submodule(path)
        with self.computing():
            try:
                result = run_module(original, path, self._specs(args), self._specs(kwargs), self.log, location)
            except MetaRunError as error:
                needs_data = NeedsDataError(fault.message, remedy=fault.remedy)
                raise needs_data.placed(location, chain=fault.chain) from error
        node = self.create_node("call_module", path, self.create_arg(args), self.create_arg(kwargs))
        node.meta[SPEC] = result.value
        for layer in result.lazies:
            self._meet(layer)
        self.program.rungs.append(Rung(path, "meta", fault.message, location, fault.remedy))
        return self.proxy(node)

    def _specs(self, value: Any) -> Any:
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
            len(program.rungs),
            frozenset(self._attributes),
            tuple(program.lazies),
            tuple(program.inferred),
            len(program.draws),
        )

    def _roll_back(self, mark: _Mark) -> None:
        """Forgets everything that was recorded since `mark`."""
        while len(self._rebound) > mark.rebound:
            tensor, node = self._rebound.pop()
            tensor.node = node
        for node in reversed(self.graph.nodes):
            if node is mark.last:
                break
            self.graph.erase_node(node)
        self._attributes = {path: value for path, value in self._attributes.items() if path in mark.attributes}
        program = self.program
        del program.rungs[mark.rungs :]
        program.lazies = {path: program.lazies[path] for path in mark.lazies}
        program.inferred = {tensor: program.inferred[tensor] for tensor in mark.inferred}
        del program.draws[mark.draws :]
        self._found_propagator = None

    # Places -------------------------------------------------------------------------------------

    def _here(self) -> Location:
        return Location(self._paths[-1], current_source(CapturingTracer.capture.__code__))

    def _explained(self, error: BaseException) -> TracerError:
        """The error as one of ours, placed: what the forward raised while it was traced is a capture error.

        Where shapes do not fit before it, that is the first error. A bug inside the compiler is raised as it is.
        """
        frames = list(traceback.walk_tb(error.__traceback__))
        inside = [place for place in frames if is_user_code(place[0].f_code)]
        location = Location(self._paths[-1], source_line(*inside[-1]) if inside else self._here().source)
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
