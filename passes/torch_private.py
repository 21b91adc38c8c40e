"""What torch keeps private and we use: each in one place, under a name of ours, with what it is for.

`tests/test_torch_private.py` checks what we rely on, so that a torch which does it in another way fails there. No other
file names anything private of torch's (`tests/test_private_names.py`). Attributes of its objects, `module._parameters`,
are read where they are needed, and checked in `tests/test_torch_attributes.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from traceback import FrameSummary
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn
from torch.autograd import function as autograd_function
from torch.fx import _symbolic_trace as fx_tracing
from torch.nn.modules import module as module_calls
from torch.nn.modules import padding, transformer
from torch.utils import _device as device_context
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

# A name in a module or class, to be patched and put back.
Place = tuple[Any, str]

# Blocks -------------------------------------------------------------------------------------------

# No class of a tensor answers in torch's place: lazy tensors answer every question about them through Python.
without_classes = torch._C.DisableTorchFunctionSubclass
# Nor does a mode that overrides functions, as that which follows real tensors in a trace.
without_overrides = torch._C.DisableTorchFunction
# No mode sees the operations: those in memory that nobody else has take several times as long under one.
without_dispatch = torch._C._DisableTorchDispatch

# What a thread has of torch, to go back to after an interrupt -------------------------------------

function_modes: Callable[[], int] = torch._C._len_torch_function_stack
overrides_are_off: Callable[[], bool] = torch._C._is_torch_function_all_disabled
leave_function_mode: Callable[[], Any] = torch._C._pop_torch_function_stack
dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
set_gradients: Callable[[bool], None] = torch._C._set_grad_enabled


def leave_dispatch_mode() -> None:
    torch._C._pop_torch_dispatch_stack(None)


# Tensors ------------------------------------------------------------------------------------------

# Exchanges what two tensors are, which stay the same objects; `torch.utils.swap_tensors` without its checks.
exchange_tensors: Callable[[torch.Tensor, torch.Tensor], None] = torch._C._swap_tensor_impl
# A tensor of a class, on the memory of another; no constructor runs.
tensor_of_class: Callable[[type, torch.Tensor, bool], torch.Tensor] = torch.Tensor._make_subclass
# The generator that everything on the CPU draws from, also where `torch.random` is made to name another.
cpu_generator = torch._C.default_generator

# Containers ---------------------------------------------------------------------------------------

# By class, how its objects come apart and together again: `flatten_fn`, `unflatten_fn`, `flatten_with_keys_fn`.
registered_containers: dict[type, Any] = pytree.SUPPORTED_NODES

# Operations ---------------------------------------------------------------------------------------

# An operation as modes see it, with the types of its arguments.
OpOverload = torch._ops.OpOverload
OpOverloadPacket = torch._ops.OpOverloadPacket
# The modules of native functions: torch's own, and those that `torch.nn.functional` calls.
native_functions: Any = torch._C._VariableFunctions
native_nn: Any = torch._C._nn
# Functions that have an op, and no public name.
assertions: tuple[Callable[..., Any], ...] = (torch._assert, torch._assert_async)
# What the functions of `torch.nn.utils.rnn` come down to.
pack_padded: Callable[..., Any] = torch._pack_padded_sequence
pad_packed: Callable[..., Any] = torch._pad_packed_sequence
pad_rows: Callable[..., Any] = torch._C._nn.pad_sequence
normed_weight: Callable[..., Any] = torch._weight_norm
# `torch.all` and `torch.any`, as torch's own checks ask for them.
all_true: Callable[..., Any] = torch._is_all_true
any_true: Callable[..., Any] = torch._is_any_true

# What the checks that `torch._check` ends in are called by, and what they do: raise where a condition does not hold.
CHECK: Place = (torch, "_check_with")
CHECK_OF_SIZE: Place = (torch, "_check_is_size")
check_holds: Callable[..., Any] = torch._check_with
check_size: Callable[..., Any] = torch._check_is_size

# Classes of modules -------------------------------------------------------------------------------

# The bases that all of a kind have: what is written for them holds for each rank.
ConvNd = nn.modules.conv._ConvNd
LazyConvMixin = nn.modules.conv._LazyConvXdMixin
NormBase = nn.modules.batchnorm._NormBase
LazyNormBase = nn.modules.batchnorm._LazyNormBase
BatchNorm = nn.modules.batchnorm._BatchNorm
ConstantPadNd = padding._ConstantPadNd
# What torch keeps of a hook on a module's loading.
WrappedHook = module_calls._WrappedHook
# The forward hooks and pre-hooks that every module has.
HOOKS_OF_ALL: tuple[dict[int, Any], ...] = (
    module_calls._global_forward_hooks,
    module_calls._global_forward_pre_hooks,
)

# What is patched ----------------------------------------------------------------------------------

# Decides by a mask's data whether it is causal.
CAUSAL_DETECTION: Place = (transformer, "_detect_is_causal_mask")
# What every custom function is called through: `apply` of the base, and what that passes its arguments through.
CustomFunction: Any = autograd_function._SingleLevelFunction
CUSTOM_FUNCTION_ARGUMENTS: Place = (torch._functorch.utils, "unwrap_dead_wrappers")
# What fx notes while it traces; not every version has the last two.
FX_NOTES: list[Place] = [
    (fx_tracing, name)
    for name in ("_wrapped_fns_to_patch", "_wrapped_methods_to_patch", "_is_fx_tracing_flag", "CURRENT_PATCHER")
    if hasattr(fx_tracing, name)
]


def forget_wrapped_functions() -> None:
    """From here on fx traces through what `torch.fx.wrap` keeps from it; `FX_NOTES` are to be put back."""
    fx_tracing._wrapped_fns_to_patch, fx_tracing._wrapped_methods_to_patch = {}, []


def note_device_functions() -> None:
    """torch caches the functions that a device context changes when it first enters one; it must find its own."""
    device_context._device_constructors()


# Control flow -------------------------------------------------------------------------------------


def control_flow_functions() -> dict[str, FunctionType]:
    """The functions by which callers branch and loop, those of them that there are."""
    return _of_control_flow({"cond": "cond", "while_loop": "while_loop", "scan": "scan", "map": "map"})


def control_flow_operators() -> dict[str, Any]:
    """The classes of the operators that these end in, and that a graph of torch's own has in their place."""
    return _of_control_flow({"cond": "CondOp", "while_loop": "WhileLoopOp", "scan": "ScanOp", "map": "MapImpl"})


def _of_control_flow(names: Mapping[str, str]) -> dict[str, Any]:
    homes = {name: sys.modules.get(f"torch._higher_order_ops.{name}") for name in names}
    return {name: getattr(home, names[name]) for name, home in homes.items() if hasattr(home, names[name])}


# The compiler -------------------------------------------------------------------------------------

# Its module, which takes seconds to load, and is left until something else has loaded it.
COMPILER = "torch._dynamo"
# Makes a function one that the compiler does not look into; loads it at the first call.
apart_from_compiler: Callable[[Callable[..., Any]], Any] = torch._disable_dynamo  # type: ignore[attr-defined]


def hide_from_compiler(code: CodeType) -> None:
    """Keeps the compiler, once it is loaded, from compiling this code where it is called."""
    frames: Any = torch._C._dynamo.eval_frame
    if hasattr(frames, "skip_code"):
        frames.skip_code(code)
    else:
        skipped = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.DEFAULT)
        frames.set_code_exec_strategy(code, skipped)


def registered_name(function: object) -> str | None:
    """By which name a function is registered with torch (`torchvision::nms`); None for one that is not."""
    if isinstance(function, OpOverload):
        name: str = function.name()  # type: ignore[no-untyped-call]
        return name.split(".")[0]
    return str(function._qualified_op_name) if isinstance(function, OpOverloadPacket) else None


# The exporter -------------------------------------------------------------------------------------


def decision_log() -> Place:
    """The method by which torch's exporter notes each of its decisions about sizes: `(self, prefix, condition, …)`."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    return ShapeEnv, "_log_guard"


def interpreted_frames() -> Sequence[FrameSummary]:
    """Where torch's bytecode interpreter is, which is no frame on the stack; nothing where it is not at work."""
    from torch._guards import TracingContext

    return [] if TracingContext.try_get() is None else TracingContext.extract_stack()


__all__ = [
    "CAUSAL_DETECTION", "CHECK", "CHECK_OF_SIZE", "COMPILER", "CUSTOM_FUNCTION_ARGUMENTS", "FX_NOTES", "HOOKS_OF_ALL",
    "BatchNorm", "ConstantPadNd", "ConvNd", "CustomFunction", "LazyConvMixin", "LazyNormBase", "NormBase",
    "OpOverload", "Place", "TorchDispatchMode", "WrappedHook", "all_true", "any_true", "apart_from_compiler",
    "assertions", "check_holds", "check_size", "control_flow_functions", "control_flow_operators", "cpu_generator",
    "decision_log", "dispatch_modes", "exchange_tensors", "forget_wrapped_functions", "function_modes",
    "hide_from_compiler", "interpreted_frames", "leave_dispatch_mode", "leave_function_mode", "native_functions",
    "native_nn", "normed_weight", "note_device_functions",
    "overrides_are_off", "pack_padded", "pad_packed", "pad_rows", "registered_containers", "registered_name",
    "set_gradients", "tensor_of_class", "without_classes", "without_dispatch", "without_overrides",
]  # fmt: skip
