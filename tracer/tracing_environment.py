"""What torch is while a forward is traced: everything that is patched, and how it is put back.

fx itself patches `Module.__call__` and `Module.__getattr__`. What it leaves to native code, or keeps out of the graph,
is patched here. All of it is global to the process, and is as it was after the block, whatever happens in it.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.fx import _symbolic_trace as symbolic_trace
from torch.utils._device import _device_constructors

from passes.plain_attention import plain_attention
from passes.torch_state import TORCH_STATE
from tracer.source_lines import is_user_code
from tracer.traced_values import TracedTensor, has_traced

if TYPE_CHECKING:
    from tracer.capture import CapturingTracer

# Calls that make a tensor from sizes alone. They are recorded like any op, so that nothing is allocated.
CREATION = (
    "zeros", "ones", "full", "empty", "arange", "linspace", "eye",
    "rand", "randn", "randint", "randperm", "normal",
)  # fmt: skip

# Calls that torch itself would not hand over to be recorded: it turns their sizes into plain integers first, or takes
# what passes for a tensor for one of its own.
SIZED = (
    "reshape", "tile", "broadcast_to", "narrow", "select", "roll", "full_like", "unflatten", "repeat_interleave",
    "tensor", "as_tensor", "scalar_tensor",
)  # fmt: skip


@contextmanager
def tracing_environment(tracer: CapturingTracer) -> Iterator[None]:
    """Inside the block a forward can be traced: no gradients, no fused attention, and nothing escapes the tracer."""
    with (
        TORCH_STATE,
        torch.no_grad(),
        plain_attention(),
        _passing_for_tensors(),
        _recorded_creation(tracer),
        _recorded_training(tracer),
        _traced_native_calls(tracer),
        _traced_wrapped_functions(),
    ):
        yield


@contextmanager
def _passing_for_tensors() -> Iterator[None]:
    """Inside the block, `isinstance` takes a traced tensor for what it stands for.

    A `__class__` that says so would be simpler, but torch's native code would believe it too, and read the memory of a
    tensor that is not there.
    """
    original = builtins.isinstance

    def answer(instance: Any, kind: Any) -> bool:
        return original(instance, kind) or (type(instance) is TracedTensor and issubclass(instance.type_for(), kind))

    builtins.isinstance = answer
    try:
        yield
    finally:
        builtins.isinstance = original


@contextmanager
def _recorded_creation(tracer: CapturingTracer) -> Iterator[None]:
    """While tracing, torch's creation functions become graph nodes, and so do the others that a traced size reaches."""
    originals = {name: getattr(torch, name) for name in (*CREATION, *SIZED)}
    _device_constructors()  # torch caches these functions when it first enters a device; it must find its own

    def recorded(original: Callable[..., Any]) -> Callable[..., Any]:
        def create(*args: Any, **kwargs: Any) -> Any:
            made_from_sizes = original.__name__ in CREATION or has_traced((args, kwargs))
            if not (tracer.recording and made_from_sizes):
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
