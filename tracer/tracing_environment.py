"""What torch is while a forward is traced: everything that is patched, and how it is put back.

fx itself patches `Module.__call__` and `Module.__getattr__`. What it leaves to native code, or keeps out of the graph,
is patched here. All of it is global to the process, and is as it was after the block, whatever happens in it.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import BuiltinFunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.fx import _symbolic_trace as symbolic_trace
from torch.nn import functional as F
from torch.nn.modules import module as calling
from torch.utils._device import _device_constructors

from passes.errors import NeedsDataError
from passes.model_copy import ModelCopy
from passes.plain_attention import plain_attention
from passes.torch_state import TORCH_STATE
from tracer.real_tensors import FollowingReal
from tracer.source_lines import is_user_code
from tracer.traced_values import TracedTensor, has_traced

if TYPE_CHECKING:
    from tracer.capture import CapturingTracer

# Calls that make a tensor from sizes alone. They are recorded like any op, so that nothing is allocated.
CREATION = (
    "zeros", "ones", "full", "empty", "arange", "linspace", "eye",
    "rand", "randn", "randint", "randperm", "normal",
)  # fmt: skip


# The tracers at work, the innermost last.
_at_work: list[CapturingTracer] = []


def _recordable(native: Callable[..., Any], makes_a_tensor: bool) -> Callable[..., Any]:
    """The function, recorded where something traced is among its arguments, or always where it `makes_a_tensor`.

    torch hands over tensors by itself, but takes no traced number for a number, and makes a tensor of data at once.
    """

    @wraps(native)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not (_at_work and _at_work[-1].recording):
            return native(*args, **kwargs)
        if any(type(argument) is TracedTensor for argument in args) or has_traced((args, kwargs)):
            return TracedTensor.__torch_function__(native, (), args, kwargs)
        return (
            _at_work[-1].create_proxy("call_function", native, args, kwargs)
            if makes_a_tensor
            else native(*args, **kwargs)
        )

    return call


# Every native function of torch by where it is found, with what stands in for it.
NATIVE = [
    (home, name, native, _recordable(native, home is torch and name in CREATION))
    for home in (torch, torch.special, torch.linalg, F)
    for name, native in vars(home).items()
    if isinstance(native, BuiltinFunctionType) and (home is not torch or hasattr(torch._C._VariableFunctions, name))
]


@contextmanager
def tracing_environment(tracer: CapturingTracer) -> Iterator[None]:
    """Inside the block a forward can be traced: no gradients, no fused attention, and nothing escapes the tracer."""
    with (
        TORCH_STATE,
        torch.no_grad(),
        plain_attention(),
        _hooks_of_all(tracer.hooks_of_all),
        _passing_for_tensors(),
        _recorded_natives(tracer),
        _recorded_training(tracer),
        _traced_native_calls(tracer),
        _traced_wrapped_functions(),
        _undecided_branches(),
        FollowingReal(tracer, TracedTensor.__torch_function__),
    ):
        yield


Hooks = dict[int, Any]
_HOOKS_OF_ALL: tuple[Hooks, ...] = (calling._global_forward_hooks, calling._global_forward_pre_hooks)


def copied_hooks_of_all(copy: ModelCopy) -> list[Hooks]:
    """The forward hooks and pre-hooks of all modules, acting on the copy of a model."""
    return [dict(copy.hooks(hooks)) for hooks in _HOOKS_OF_ALL]


@contextmanager
def _hooks_of_all(copied: list[Hooks]) -> Iterator[None]:
    """Inside the block the hooks of all modules are copies: what they keep is not the caller's."""
    before = [dict(hooks) for hooks in _HOOKS_OF_ALL]
    try:
        for hooks, copies in zip(_HOOKS_OF_ALL, copied, strict=True):
            hooks.update(copies)
        yield
    finally:
        for hooks, kept in zip(_HOOKS_OF_ALL, before, strict=True):
            hooks.clear()
            hooks.update(kept)


@contextmanager
def _passing_for_tensors() -> Iterator[None]:
    """Inside the block, `isinstance` takes a traced tensor for what it stands for.

    A `__class__` that says so would be simpler, but torch's native code would believe it too, and read the memory of a
    tensor that is not there.
    """
    sys.meta_path.insert(0, _CompilerFinder)
    try:
        with _isinstance(_recognising):
            yield
    finally:
        sys.meta_path.remove(_CompilerFinder)


@contextmanager
def as_ever() -> Iterator[None]:
    """Inside the block, within that of `tracing_environment`, Python's own `isinstance`."""
    with _isinstance(_GENUINE):
        yield


class _CompilerFinder(MetaPathFinder):
    """Loads torch's compiler, which much of torch does on first use, with Python's own `isinstance`: it keeps a
    reference to it, and would not know it after the block."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == "torch._dynamo" else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_as_ever(module: ModuleType) -> None:
                with as_ever():
                    execute(module)

            spec.loader.exec_module = execute_as_ever  # type: ignore[method-assign]
        return spec


_GENUINE = builtins.isinstance


def _recognising(instance: Any, kind: Any) -> bool:
    return _GENUINE(instance, kind) or (type(instance) is TracedTensor and issubclass(instance.type_for(), kind))


@contextmanager
def _isinstance(answer: Callable[[Any, Any], bool]) -> Iterator[None]:
    before, builtins.isinstance = builtins.isinstance, answer
    try:
        yield
    finally:
        builtins.isinstance = before


@contextmanager
def _recorded_natives(tracer: CapturingTracer) -> Iterator[None]:
    """While tracing, torch's creation functions become graph nodes, and so do others that something traced reaches."""
    # torch caches its functions when it first enters a device or overrides one; it must find its own.
    _device_constructors()
    torch.overrides.is_tensor_method_or_property(torch.add)
    if not _at_work:
        for home, name, _, stand_in in NATIVE:
            setattr(home, name, stand_in)
    _at_work.append(tracer)
    try:
        yield
    finally:
        _at_work.pop()
        if not _at_work:
            for home, name, native, _ in NATIVE:
                setattr(home, name, native)


@contextmanager
def _recorded_training(tracer: CapturingTracer) -> Iterator[None]:
    """While tracing, reading a module's `training` in the caller's code is recorded as a guard."""

    def read(module: nn.Module) -> bool:
        mode = bool(module.__dict__["training"])
        if tracer.recording and is_user_code(sys._getframe(1).f_code):
            tracer.record_guard(f"self.training is {mode}")
        return mode

    def write(module: nn.Module, mode: bool) -> None:
        module.__dict__["training"] = mode

    nn.Module.training = property(read, write)  # type: ignore[assignment]
    try:
        yield
    finally:
        del nn.Module.training


@contextmanager
def _traced_native_calls(tracer: CapturingTracer) -> Iterator[None]:
    """While tracing, what runs native code on a traced tensor, which that would take for one of its own, does not.

    A custom `torch.autograd.Function` is traced through, a scripted function becomes one node.
    """
    base = torch.autograd.function._SingleLevelFunction
    unwrap = torch._functorch.utils.unwrap_dead_wrappers

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not has_traced((args, kwargs)):
            return super(base, cls).apply(*args, **kwargs)
        if cls.setup_context is not torch.autograd.function._SingleLevelFunction.setup_context:
            return cls.forward(*args, **kwargs)
        context: Any = torch.autograd.function.FunctionCtx()
        context.needs_input_grad = (False,) * len(args)
        return cls.forward(context, *args, **kwargs)

    script_call = torch._C.ScriptFunction.__call__

    def call_script(function: Any, *args: Any, **kwargs: Any) -> Any:
        if not has_traced((args, kwargs)):
            return script_call(function, *args, **kwargs)
        return tracer.create_proxy("call_function", function, args, kwargs)

    torch._C.ScriptFunction.__call__ = call_script  # type: ignore[assignment, method-assign]
    base.apply = classmethod(apply)  # type: ignore[attr-defined]
    torch._functorch.utils.unwrap_dead_wrappers = lambda args: args if has_traced(args) else unwrap(args)
    try:
        yield
    finally:
        del base.apply  # type: ignore[attr-defined]
        torch._functorch.utils.unwrap_dead_wrappers = unwrap
        torch._C.ScriptFunction.__call__ = script_call  # type: ignore[method-assign]


@contextmanager
def _traced_wrapped_functions() -> Iterator[None]:
    """While tracing, functions that their authors kept from fx (`torch.fx.wrap`) are traced through.

    They were kept for what plain fx cannot trace; questions about shapes, mostly.
    """
    wrapped = symbolic_trace._wrapped_fns_to_patch, symbolic_trace._wrapped_methods_to_patch
    symbolic_trace._wrapped_fns_to_patch, symbolic_trace._wrapped_methods_to_patch = {}, []
    try:
        yield
    finally:
        symbolic_trace._wrapped_fns_to_patch, symbolic_trace._wrapped_methods_to_patch = wrapped


@contextmanager
def _undecided_branches() -> Iterator[None]:
    """While tracing, `torch.cond` on a traced tensor needs data, as `if` does.

    torch would compile it; and its compiler, first loaded inside the block, would never again know Python's own
    `isinstance`.
    """
    cond = torch.cond

    def undecided(*args: Any, **kwargs: Any) -> Any:
        if has_traced((args, kwargs)):
            raise NeedsDataError(
                "the forward needs data for torch.cond", remedy="use torch.where, which computes both sides"
            )
        return cond(*args, **kwargs)

    torch.cond = undecided
    try:
        yield
    finally:
        torch.cond = cond
