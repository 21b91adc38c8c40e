"""What a traced tensor answers by itself: from its spec, or from the model's own tensors, without a graph node.

A question whose answer decides something is recorded as a guard; one about the data of an input is refused.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from passes.errors import CaptureError
from passes.ops.data_numbers import real_number, whole_number
from passes.sizes.dimension import product
from passes.values.numbers import is_dynamic
from passes.values.spec import TensorSpec
from tracer.capture.values.number import TracedNumber, TracedShape
from tracer.edge.torchs_checks import passing_answer
from tracer.memory.recorder import Recorder


class AnsweringTensor(fx.Proxy):
    """A graph node's value as far as it is asked: its type, its shape, and its data where that is known."""

    tracer: Recorder

    def type_for(self) -> type:
        """The type of what this stands for."""
        if self.tracer.awaited(self.node) is not None:
            return nn.Parameter
        if self.node.op == "get_attr":
            return nn.Parameter if self.is_parameter else torch.Tensor
        value = self.tracer.value(self.node)
        return torch.Tensor if isinstance(value, TensorSpec) else type(value)

    @property
    def is_parameter(self) -> bool:
        if self.node.op != "get_attr":
            return False
        with self.tracer.computing():
            return isinstance(self.tracer.program.tensor(str(self.node.target)), nn.Parameter)

    @property
    def spec(self) -> TensorSpec:
        value = self.tracer.value(self.node)
        if not isinstance(value, TensorSpec):
            raise AttributeError(f"{builtins.type(value).__name__!r} object is no tensor")
        return value

    @property
    def typed(self) -> TensorSpec | torch.Tensor:
        """What has this tensor's dtype and device: also that of a lazy layer which has not been called yet."""
        awaited = self.tracer.awaited(self.node)
        return self.spec if awaited is None else awaited

    def rank(self) -> Any:
        """How many axes the tensor has."""
        known = self.tracer.awaited_rank(self.node)
        return self.number(self.spec.ndim, "dim", self.node) if known is None else known

    def number(self, value: Any, operation: Any, *operands: Any) -> TracedNumber:
        return TracedNumber(self.tracer, value, operation, operands)

    @property
    def shape(self) -> TracedShape:
        return TracedShape(self.number(size, "size", self.node, axis) for axis, size in enumerate(self.spec.shape))

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> TracedNumber:
        return self.number(product(self.spec.shape), "numel", self.node)

    nelement = numel

    def __len__(self) -> int:
        value = self.tracer.value(self.node)
        if not isinstance(value, TensorSpec):
            return len(value)
        if not value.shape:
            raise TypeError("len() of a 0-d tensor")
        if self.length() is not None:
            self.tracer.miss(sys._getframe(1))
        return int(self.shape[0].itself())

    def length(self) -> TracedNumber | None:
        """What `len` of the tensor is where that is over named sizes, None for every other value."""
        value = self.tracer.value(self.node)
        if not isinstance(value, TensorSpec) or not value.shape or not is_dynamic(value.shape[0]):
            return None
        return self.number(value.shape[0], "size", self.node, 0)

    def __contains__(self, item: Any) -> bool:
        return item in self.read("`in`")

    def __bool__(self) -> bool:
        value = self.tracer.value(self.node)
        if not isinstance(value, TensorSpec):
            return bool(value)
        answer = passing_answer(sys._getframe(1))
        if answer is not None and self.tracer.known.tensor(self.node) is None:
            return answer
        return bool(self.read("control flow"))

    def __index__(self) -> int:
        return int(self.read("an index"))

    def __int__(self) -> int:
        if self.holds_unknown_number():
            self.tracer.miss(sys._getframe(1))
        return int(self.read("int()"))

    def __float__(self) -> float:
        if self.holds_unknown_number():
            self.tracer.miss(sys._getframe(1))
        return float(self.read("float()"))

    def item(self) -> Any:
        """The number itself where it is known, else a number that stands for it; of bool, the tensor without axes."""
        if not self.holds_unknown_number():
            return self.read("item()").item()
        return self.reshape(()) if self.spec.dtype == torch.bool else self.number_within()

    def tolist(self) -> Any:
        """The numbers in nested lists; those that depend on an input, only where it is fixed how many there are."""
        if self.tracer.known.tensor(self.node) is not None or any(map(is_dynamic, self.spec.shape)):
            return self.read("tolist()").tolist()
        return [part.tolist() for part in self.unbind()] if self.spec.shape else self.item()

    def holds_unknown_number(self) -> bool:
        """Whether a number of Python's can stand for this, a tensor that depends on an input."""
        value = self.tracer.value(self.node)
        is_real = isinstance(value, TensorSpec) and not value.dtype.is_complex
        return is_real and self.tracer.known.tensor(self.node) is None

    def number_within(self) -> TracedNumber:
        """The one number in this tensor, which depends on an input: an int, or a float in a tensor of floats."""
        function = real_number if self.spec.dtype.is_floating_point else whole_number
        node = self.tracer.create_node("call_function", function, (self.node,), {})
        number = self.number(self.tracer.value(node), function, self.node)
        number.found_by(node)
        return number

    def numpy(self) -> Any:
        return _read_only(self.read("numpy()").clone().numpy())

    def read(self, use: str) -> torch.Tensor:
        """The tensor's data, where it follows from the model's own tensors; recorded as a guard.

        Raises CaptureError where it depends on an input.
        """
        found = self.tracer.known.tensor(self.node)
        if found is None:
            raise self._needs_data(use)
        if found.numel() == 1:
            self.tracer.record_guard(f"{self.node.name} is {found.item()}, from the model's own tensors")
        return found

    def _needs_data(self, use: str) -> CaptureError:
        return CaptureError(
            f"the forward needs the data of {self.node.name} {self.tracer.value(self.node)} for {use}",
            remedy=_REMEDIES.get(use, "compute it with torch's operations, or before the forward"),
        )


def _read_only(array: Any) -> Any:
    """The array, which refuses to be written to: nothing of that would reach the tensor."""
    array.flags.writeable = False
    return array


def _requires_grad(tensor: AnsweringTensor) -> bool:
    """A parameter's own answer; of what is computed, that of a forward for inference, which records no gradients."""
    if tensor.is_parameter:
        with tensor.tracer.computing():
            return bool(tensor.tracer.program.tensor(str(tensor.node.target)).requires_grad)
    return bool(_without_gradients(tensor, "requires_grad", False))


def _is_leaf(tensor: AnsweringTensor) -> bool:
    return tensor.is_parameter or bool(_without_gradients(tensor, "is_leaf", True))


def _grad_fn(tensor: AnsweringTensor) -> None:
    _without_gradients(tensor, "grad_fn", None)


def _without_gradients(tensor: AnsweringTensor, question: str, answer: Any) -> Any:
    """The answer where no gradients are recorded; a guard, where what was computed would have another with them."""
    if tensor.node.op not in ("placeholder", "get_attr"):
        if torch.is_grad_enabled():
            raise CaptureError(
                f"the forward turns gradients on and asks for {tensor.node.name}.{question}",
                remedy="leave gradients to the caller: an exported model has none",
            )
        tensor.tracer.record_guard(f"{tensor.node.name}.{question} is {answer}, without gradients")
    return answer


# What to do in place of a question about a tensor's data.
_REPEAT = "repeat with torch.while_loop what is done so often, and compute with torch's operations in all else"
_REMEDIES = {
    "control flow": "use torch.cond in place of if and torch.while_loop in place of while, or choose with torch.where",
    "an index": _REPEAT,
    "int()": _REPEAT,
    "tolist()": "compute with the tensor itself, as pack_padded_sequence and torch's other functions can",
}

# Answers that need no graph node: attributes and methods by name, and functions about a tensor's type.
ATTRIBUTES: dict[str, Callable[[AnsweringTensor], Any]] = {
    "dtype": lambda t: t.typed.dtype,
    "device": lambda t: t.typed.device,
    "ndim": lambda t: t.rank(),
    "layout": lambda t: torch.strided,
    "is_cuda": lambda t: t.typed.device.type == "cuda",
    "is_cpu": lambda t: t.typed.device.type == "cpu",
    "is_meta": lambda t: False,
    "is_mps": lambda t: False,
    "is_sparse": lambda t: False,
    "is_quantized": lambda t: False,
    "is_nested": lambda t: False,
    "requires_grad": lambda t: _requires_grad(t),
    "is_leaf": lambda t: _is_leaf(t),
    "grad": lambda t: None,
    "grad_fn": lambda t: _grad_fn(t),
    "dim": lambda t: t.rank,
    "ndimension": lambda t: t.rank,
    "stride": lambda t: lambda dim=None: t.tracer.layouts.stride(t, dim),
    "is_contiguous": lambda t: lambda **given: t.tracer.layouts.is_contiguous(t, **given),
    "storage_offset": lambda t: lambda: t.tracer.layouts.storage_offset(t),
    "is_floating_point": lambda t: lambda: t.typed.dtype.is_floating_point,
    "is_complex": lambda t: lambda: t.typed.dtype.is_complex,
    "element_size": lambda t: lambda: t.typed.dtype.itemsize,
    "get_device": lambda t: lambda: t.typed.device.index if t.typed.device.index is not None else -1,
    "requires_grad_": lambda t: lambda *args: t,
}

FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.numel: lambda t: t.numel(),
    torch.is_floating_point: lambda t: t.is_floating_point(),
    torch.is_complex: lambda t: t.is_complex(),
    torch.Tensor.size: lambda t, dim=None: t.size(dim),
    torch.Tensor.dim: lambda t: t.dim(),
}
