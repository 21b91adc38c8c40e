"""What torch is while a forward is traced: everything that is patched, and how it is put back.

fx itself patches `Module.__call__` and `Module.__getattr__`. What it leaves to native code, or keeps out of the graph,
is patched here. All of it is global to the process, and is as it was after the block, whatever happens in it.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from passes.errors import CaptureError
from passes.isolation.control_flow import standing_in
from passes.isolation.model_copy import ModelCopy
from passes.isolation.plain_attention import plain_attention
from passes.isolation.torch_state import Loan
from passes.torch_private import (
    COMPILER,
    CUSTOM_FUNCTION_ARGUMENTS,
    FX_NOTES,
    HOOKS_OF_ALL,
    CustomFunction,
    forget_wrapped_functions,
    note_device_functions,
)
from tracer.capture.awaited_sizes import SIZES, eager_class, guard_sizes
from tracer.capture.control_flow import TracedControlFlow
from tracer.capture.values.library_functions import library_functions, recorded
from tracer.capture.values.library_methods import library_methods
from tracer.capture.values.namespaces import Namespaces, as_seen_by
from tracer.capture.values.number import TracedNumber, TracedShape
from tracer.capture.values.python_functions import REPLACED
from tracer.capture.values.tensor import TracedTensor, has_traced
from tracer.edge.source_lines import is_user_code
from tracer.memory.recorder import Recorder

# What takes sizes one by one; a traced tensor that is the first of them torch takes for all.
TAKING_SIZES = ("zeros", "ones", "empty", "rand", "randn")


# Whatever is patched, by the module or class that has it; fx's own patches, too.
_PLACES: list[tuple[Any, str]] = [
    *((builtins, name) for name in ("isinstance", "callable", "type")),
    *((nn.Module, name) for name in ("training", "__call__", "__getattr__")),
    *((torch, name) for name in TAKING_SIZES),
    *((home, name) for home, name, _ in REPLACED),
    *SIZES,
    *FX_NOTES,
    (torch.autocast, "__enter__"),
    (torch.jit.ScriptFunction, "__call__"),
    (CustomFunction, "apply"),
    CUSTOM_FUNCTION_ARGUMENTS,
]


@contextmanager
def tracing_environment(tracer: Recorder, namespaces: Namespaces) -> Iterator[None]:
    """Inside the block a forward can be traced: no gradients, no fused attention, and nothing escapes the tracer."""
    # torch caches its functions when it first enters a device or overrides one; it must find its own.
    note_device_functions()
    torch.overrides.is_tensor_method_or_property(torch.add)
    finders = list(sys.meta_path)
    undo = (
        partial(sys.meta_path.__setitem__, slice(None), finders),
        namespaces.restore,
        partial(_set_hooks_of_all, [dict(hooks) for hooks in HOOKS_OF_ALL]),
    )
    functions, methods = list(library_functions()), list(library_methods())
    places = [*_PLACES, *((home, name) for home, name, _ in (*functions, *methods))]
    with Loan(places, *undo), torch.no_grad(), plain_attention(), tracer.following_real():
        _set_hooks_of_all(tracer.hooks_of_all)
        sys.meta_path.insert(0, _CompilerFinder())
        for home, name, stand_in in (*REPLACED, *methods):
            setattr(home, name, stand_in)
        for home, name, native in functions:
            setattr(home, name, recorded(tracer, native))
        namespaces.replace()
        _record_training(tracer)
        _trace_native_calls(tracer)
        _refuse_autocast(tracer)
        guard_sizes(tracer)
        # Functions that their authors kept from fx (`torch.fx.wrap`) are traced through: they were kept for what
        # plain fx cannot trace; questions about shapes, mostly.
        forget_wrapped_functions()
        _take_tensors_for_sizes(tracer)
        with standing_in(TracedControlFlow(tracer)):
            yield


Hooks = dict[int, Any]


def copied_hooks_of_all(copy: ModelCopy) -> list[Hooks]:
    """The forward hooks and pre-hooks of all modules, acting on the copy of a model."""
    return [dict(copy.hooks(hooks)) for hooks in HOOKS_OF_ALL]


def _set_hooks_of_all(wanted: list[Hooks]) -> None:
    for hooks, kept in zip(HOOKS_OF_ALL, wanted, strict=True):
        if hooks != kept:
            hooks.clear()
            hooks.update(kept)


class as_ever:  # noqa: N801
    """Inside the block, within that of `tracing_environment`, Python's own `isinstance`, `callable` and `type`.

    No generator, which an interrupt would leave half-way, to put the traced ones back at any time.
    """

    def __enter__(self) -> None:
        self._before = builtins.isinstance, builtins.callable, builtins.type
        builtins.isinstance, builtins.callable, builtins.type = _GENUINE  # type: ignore[misc]

    def __exit__(self, *_: object) -> None:
        builtins.isinstance, builtins.callable, builtins.type = self._before  # type: ignore[misc]


class as_traced(as_ever):  # noqa: N801
    """Inside the block, within that of `tracing_environment`, the same three know traced values."""

    def __enter__(self) -> None:
        super().__enter__()
        builtins.isinstance, builtins.callable, builtins.type = _TRACING  # type: ignore[misc, assignment]


class _CompilerFinder(MetaPathFinder):
    """Loads torch's compiler, which much of torch does on first use, with Python's own builtins: it keeps references to
    them, and would not know them after the block."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == COMPILER else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_as_ever(module: ModuleType) -> None:
                with as_ever():
                    execute(module)

            spec.loader.exec_module = execute_as_ever  # type: ignore[method-assign]
        return spec


_GENUINE = builtins.isinstance, builtins.callable, builtins.type
_isinstance, _callable, _type = _GENUINE


def _recognising(instance: Any, kind: Any) -> bool:
    """`isinstance`, which takes a traced tensor for what it stands for.

    A `__class__` that says so would be simpler, but torch's native code would believe it too, and read the memory of a
    tensor that is not there.
    """
    if _type(instance) is TracedNumber:
        return issubclass(instance.kind, kind) or kind is TracedNumber
    if _isinstance(instance, kind):
        if not _isinstance(instance, LazyModuleMixin):
            return True
        becomes = eager_class(instance)
        return becomes is None or issubclass(becomes, kind) or not is_user_code(sys._getframe(1).f_code)
    if _type(instance) not in _TRACED:
        return False
    stands_for = _stands_for(instance)
    return stands_for is not None and issubclass(stands_for, kind)


def _calling(thing: Any) -> bool:
    """`callable`, to which a traced tensor is none: fx's proxies can be called."""
    if _type(thing) is not TracedTensor:
        return _callable(thing)
    return any("__call__" in vars(kind) for kind in thing.type_for().__mro__)


def _stands_for(thing: Any) -> type | None:
    kind = _type(thing)
    if kind is TracedTensor:
        return thing.type_for()  # type: ignore[no-any-return]
    return torch.Size if kind is TracedShape else thing.kind if kind is TracedNumber else None


class _TypeOf:
    """`type`, which gives the caller's code the type of what a traced value stands for; in all else Python's own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kind = _type(*args, **kwargs)
        if len(args) != 1 or not is_user_code(sys._getframe(1).f_code):
            return kind
        if kind in _TRACED:
            kind = _stands_for(args[0]) or kind
        return eager_class(args[0]) or as_seen_by(sys._getframe(1), kind)

    def __instancecheck__(self, instance: Any) -> bool:
        return _isinstance(instance, _type)

    def __subclasscheck__(self, kind: Any) -> bool:
        return issubclass(kind, _type)

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return (_type,)

    def __getattr__(self, name: str) -> Any:
        return getattr(_type, name)

    def __getitem__(self, item: Any) -> Any:
        return _type[item]

    def __or__(self, other: Any) -> Any:
        return _type | other

    def __ror__(self, other: Any) -> Any:
        return other | _type

    def __eq__(self, other: object) -> bool:
        return other is self or other is _type

    def __hash__(self) -> int:
        return hash(_type)


_TRACED = frozenset({TracedTensor, TracedNumber, TracedShape})
_TRACING = _recognising, _calling, _TypeOf()


def _record_training(tracer: Recorder) -> None:
    """While tracing, reading a module's `training` in the caller's code is recorded as a guard."""

    def read(module: nn.Module) -> bool:
        mode = bool(module.__dict__["training"])
        if tracer.recording and is_user_code(sys._getframe(1).f_code):
            tracer.record_guard(f"self.training is {mode}")
        return mode

    def write(module: nn.Module, mode: bool) -> None:
        module.__dict__["training"] = mode

    nn.Module.training = property(read, write)  # type: ignore[assignment]


def _refuse_autocast(tracer: Recorder) -> None:
    """While tracing, a block that computes in other dtypes is refused: what it casts, no shape rule follows."""
    enter = torch.autocast.__enter__

    def refuse(block: Any) -> Any:
        if tracer.recording and block._enabled and tracer.computes_on(block.device):
            error = CaptureError(
                f"the forward computes in a block of torch.autocast({block.device!r}, dtype={block.fast_dtype})",
                remedy="convert the model without it: cast where it matters, or export the whole model in that dtype",
            )
            error.caught = True
            raise error
        return enter(block)  # type: ignore[no-untyped-call]

    torch.autocast.__enter__ = refuse  # type: ignore[method-assign]


def _trace_native_calls(tracer: Recorder) -> None:
    """While tracing, what runs native code on a traced tensor, which that would take for one of its own, does not.

    A custom `torch.autograd.Function` is traced through, a scripted function becomes one node.
    """
    base = CustomFunction
    unwrap = getattr(*CUSTOM_FUNCTION_ARGUMENTS)

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not has_traced((args, kwargs)):
            return super(base, cls).apply(*args, **kwargs)
        if cls.setup_context is not CustomFunction.setup_context:
            return cls.forward(*args, **kwargs)
        context: Any = torch.autograd.function.FunctionCtx()
        context.needs_input_grad = (False,) * len(args)
        return cls.forward(context, *args, **kwargs)

    script_call = torch.jit.ScriptFunction.__call__

    def call_script(function: Any, *args: Any, **kwargs: Any) -> Any:
        if not has_traced((args, kwargs)):
            return script_call(function, *args, **kwargs)
        return tracer.create_proxy("call_function", function, args, kwargs)

    torch.jit.ScriptFunction.__call__ = call_script  # type: ignore[assignment, method-assign]
    base.apply = classmethod(apply)
    setattr(*CUSTOM_FUNCTION_ARGUMENTS, lambda args: args if has_traced(args) else unwrap(args))


def _take_tensors_for_sizes(tracer: Recorder) -> None:
    """While tracing, a traced tensor is a size, where it comes first among several."""

    def taking(native: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(native)
        def call(*args: Any, **kwargs: Any) -> Any:
            if tracer.recording and args and type(args[0]) is TracedTensor:
                return TracedTensor.__torch_function__(native, (), args, kwargs)
            return native(*args, **kwargs)

        return call

    for name in TAKING_SIZES:
        setattr(torch, name, taking(getattr(torch, name)))
