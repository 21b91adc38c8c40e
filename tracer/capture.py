"""torch.fx tracing that can answer questions about shapes."""

from __future__ import annotations

import enum
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx, nn

import passes
from passes.errors import CaptureError, TracerError
from passes.guards import GuardLog, Location
from passes.ops.op import find_module
from passes.program import LOCATION, SPEC, Program, is_lazy
from passes.shape_propagation import Propagator
from passes.spec import TensorSpec
from tracer.sample import Sample
from tracer.traced_values import TracedNumber, TracedTensor

# Calls that make a tensor from sizes alone. They are recorded like any op, so that nothing is allocated.
CREATION = ("zeros", "ones", "full", "empty", "arange", "linspace", "eye", "rand", "randn", "randint")

_COMPILER_FOLDER = str(Path(passes.__file__).parent)
_OUR_FOLDERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), _COMPILER_FOLDER)
_LITERALS = (str, int, float, bool, complex, torch.dtype, torch.device, torch.memory_format, torch.layout, enum.Enum)


def capture(model: nn.Module, sample: Sample, log: GuardLog) -> Program:
    """Traces `model` (a working copy, in eval mode) from the sample's specs.

    Raises CaptureError where the forward depends on data, and any error of shape propagation that
    a question in the forward brings to light.
    """
    return CapturingTracer(log).capture(model, sample)


class CapturingTracer(fx.Tracer):
    """fx's tracer with values that answer `bool/int/len/iter/.shape` from propagated shapes.

    Leaves are the modules that an op covers, lazy modules, and what fx itself takes for a leaf. A covered
    module with hooks of the caller's is traced through, so that the hooks take part.
    """

    def __init__(self, log: GuardLog) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]
        self.proxy_buffer_attributes = True
        self.log = log
        self.recording = True
        self._paths: list[str] = [""]
        self._attributes: dict[str, TracedTensor] = {}
        self._user_code: dict[CodeType, bool] = {}

    def capture(self, model: nn.Module, sample: Sample) -> Program:
        self._sample = sample
        self._module_paths = {
            id(module): path for path, module in reversed(list(model.named_modules(remove_duplicate=False)))
        }
        self._tensor_paths = {
            id(tensor): path
            for path, tensor in reversed(
                [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
            )
        }
        self._program: Program | None = None
        self._root = model
        try:
            with _recorded_creation(self):
                self.trace(model)
        except TracerError as error:
            raise error.placed(self._here()) from error
        except Exception as error:
            if _is_ours(error):
                raise
            raise self._user_error(error) from error
        program = self.program
        program.unreached = self._unreached(model)
        program.constants = {
            str(node.target): program.tensor(str(node.target))
            for node in self.graph.nodes
            if node.op == "get_attr" and str(node.target).startswith("_tensor_constant")
        }
        return program

    @property
    def program(self) -> Program:
        if self._program is None:
            self._program = Program(self.graph, self._root, self.log)
            self._propagator = Propagator(self._program)
        return self._program

    def value(self, node: fx.Node) -> Any:
        """What propagation knows of a node; the answer to every question."""
        found = node.meta.get(SPEC, self)
        if found is not self:
            return found
        _ = self.program
        with self._computing():
            return self._propagator.value(node)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """What patches torch for tracing is out of the way while values are computed, or they would be traced too."""
        from torch.fx._symbolic_trace import _maybe_revert_all_patches

        recording, self.recording = self.recording, False
        try:
            with _maybe_revert_all_patches():
                yield
        finally:
            self.recording = recording

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
            return root.forward(*given, **kwargs)

        return forward, [self.root, *args]

    def _placeholder(self, name: str, spec: TensorSpec) -> TracedTensor:
        proxy = self.create_proxy("placeholder", name, (), {})
        proxy.node.meta[SPEC] = spec
        assert type(proxy) is TracedTensor
        return proxy

    def proxy(self, node: fx.Node) -> TracedTensor:
        return TracedTensor(node, self)

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        node = self.graph.create_node(kind, target, args, kwargs, name, type_expr)
        node.meta[LOCATION] = self._here()
        return node

    def create_arg(self, a: Any) -> Any:
        kind = type(a)
        if kind is TracedTensor:
            return a.node
        if kind is TracedNumber:
            return a.as_argument()
        if isinstance(a, fx.Proxy):
            return a.node
        if a is None or a is ... or isinstance(a, _LITERALS):
            return a
        if isinstance(a, tuple):
            items = [self.create_arg(item) for item in a]
            return kind(*items) if hasattr(a, "_fields") else tuple(items)
        if isinstance(a, list):
            return [self.create_arg(item) for item in a]
        if isinstance(a, dict):
            return {key: self.create_arg(item) for key, item in a.items()}
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
        if is_lazy(m):
            return True
        if m._forward_hooks or m._forward_pre_hooks:
            return False
        return find_module(type(m)) is not None or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        self._paths.append(path)
        try:
            if not self.is_leaf_module(m, path):
                return forward(*args, **kwargs)
            result = self.create_proxy("call_module", path, args, kwargs)
            if getattr(m, "inplace", False) and args and type(args[0]) is TracedTensor:
                args[0].node = result.node
            return result
        finally:
            self._paths.pop()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if isinstance(attr_val, torch.Tensor):
            path = self._tensor_paths.get(id(attr_val))
            if path is not None:
                return self._attribute(path)
        return attr_val

    def _attribute(self, path: str) -> TracedTensor:
        if path not in self._attributes:
            self._attributes[path] = self.create_proxy("get_attr", path, (), {})  # type: ignore[assignment]
        return self._attributes[path]

    # Places -------------------------------------------------------------------------------------

    def _here(self) -> Location:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and not self._is_user_code(frame.f_code):
            frame = frame.f_back
        return Location(self._paths[-1], _source_line(frame) if frame is not None else None)

    def _is_user_code(self, code: CodeType) -> bool:
        known = self._user_code.get(code)
        if known is None:
            known = self._user_code[code] = not code.co_filename.startswith((*_OUR_FOLDERS, "<"))
        return known

    def _user_error(self, error: Exception) -> CaptureError:
        """An exception of the caller's forward (or of torch, called from it) as a capture error."""
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if self._is_user_code(frame.f_code)]
        inside = [frame for frame in frames if frame.f_code.co_name != "capture"]
        location = Location(self._paths[-1], _source_line(inside[-1]) if inside else None)
        placed = CaptureError(
            f"the forward raises {type(error).__name__}: {error}",
            remedy="call the model with real data of this shape to see it fail in the same way, or rewrite that line for tracing",
        ).placed(location)
        assert isinstance(placed, CaptureError)
        return placed

    def _unreached(self, model: nn.Module) -> list[str]:
        called = {str(node.target) for node in self.graph.nodes if node.op == "call_module"}
        paths = {self._module_paths[id(module)] for module in model.modules() if is_lazy(module)}
        return [path for path in (p for p, _ in model.named_modules()) if path in paths - called]


def _is_ours(error: Exception) -> bool:
    """Whether the exception arose inside the compiler: a bug of ours, not of the caller's forward."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return frames[-1][0].f_code.co_filename.startswith(_COMPILER_FOLDER)


def _source_line(frame: FrameType) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


@contextmanager
def _recorded_creation(tracer: CapturingTracer) -> Iterator[None]:
    """While tracing, torch's creation functions become graph nodes."""
    originals = {name: getattr(torch, name) for name in CREATION}

    def recorded(original: Callable[..., Any]) -> Callable[..., Any]:
        def create(*args: Any, **kwargs: Any) -> Any:
            if not tracer.recording:
                return original(*args, **kwargs)
            return tracer.create_proxy("call_function", original, args, kwargs)

        return create

    for name, original in originals.items():
        setattr(torch, name, recorded(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)
