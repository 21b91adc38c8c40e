"""How a traced tensor lies in memory: the answers to `stride()`, `is_contiguous()` and `storage_offset()`.

torch itself says it, on tensors without data, for the operations that led to the tensor. What nothing is known of (a
lazy layer whose input is not contiguous, an operation that needs data) is refused, and each answer is a guard, since
inputs are taken to be contiguous.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from passes.errors import CaptureError
from passes.ops.op import map_leaves
from passes.sizes.dimension import Dim, Size, hint, product
from passes.stages.meta_execution import on_meta
from passes.values.nested import leaves, map_structure
from passes.values.spec import TensorSpec
from tracer.memory.recorder import Recorder

if TYPE_CHECKING:
    from tracer.capture.values.tensor import TracedTensor


class MemoryLayouts:
    """Answers questions about the memory of one tracer's tensors."""

    def __init__(self, tracer: Recorder):
        self._tracer = tracer
        self._found: dict[fx.Node, Any] = {}

    def is_contiguous(self, tensor: TracedTensor, memory_format: torch.memory_format = torch.contiguous_format) -> bool:
        answer = self._tensor(tensor, "is_contiguous()").is_contiguous(memory_format=memory_format)
        given = "" if memory_format is torch.contiguous_format else str(memory_format)
        self._tracer.record_guard(f"{tensor.node.name}.is_contiguous({given}) is {answer}")
        return answer

    def storage_offset(self, tensor: TracedTensor) -> int:
        answer = int(self._tensor(tensor, "storage_offset()").storage_offset())
        if answer and any(isinstance(size, Dim) for size in tensor.spec.shape):
            raise self._unknown(tensor, "storage_offset()")
        self._tracer.record_guard(f"{tensor.node.name}.storage_offset() == {answer}")
        return answer

    def stride(self, tensor: TracedTensor, dim: int | None = None) -> Any:
        shape = tensor.spec.shape
        there = self._tensor(tensor, "stride()").stride()
        strides = there if all(isinstance(size, int) for size in shape) else self._formulas(shape, there)
        if strides is None:
            raise self._unknown(tensor, "stride()")
        self._tracer.record_guard(f"{tensor.node.name}.stride() == {tuple(strides)}")
        return tuple(strides) if dim is None else strides[dim]

    def _formulas(self, shape: tuple[Size, ...], there: tuple[int, ...]) -> tuple[Any, ...] | None:
        """The strides over dynamic sizes, of a tensor whose elements lie side by side in some order of its axes."""
        order = sorted(range(len(shape)), key=lambda axis: (-there[axis], -hint(shape[axis])))
        strides = {axis: product([shape[inner] for inner in order[place + 1 :]]) for place, axis in enumerate(order)}
        found = tuple(strides[axis] for axis in range(len(shape)))
        return found if tuple(map(hint, found)) == tuple(there) else None

    def _unknown(self, tensor: TracedTensor, question: str) -> CaptureError:
        return CaptureError(
            f"the forward asks {question} of {tensor.node.name} {tensor.spec}, which cannot be told without running it",
            remedy="call contiguous() there: it costs nothing in the exported model",
        )

    def _tensor(self, tensor: TracedTensor, question: str) -> torch.Tensor:
        try:
            with self._tracer.computing(), torch.no_grad():
                found = self._meta(tensor.node)
        except Exception as error:  # torch says in its own ways that it needs data
            raise self._unknown(tensor, question) from error
        if not isinstance(found, torch.Tensor):
            raise self._unknown(tensor, question)
        return found

    def _meta(self, node: fx.Node) -> Any:
        """What a node gives, without data, at the sampled sizes; what it depends on comes first."""
        needed: set[fx.Node] = set()
        waiting = [node]
        while waiting:
            current = waiting.pop()
            if current not in needed and current not in self._found:
                needed.add(current)
                waiting += current.all_input_nodes
        for known in [known for known in self._tracer.graph.nodes if known in needed]:
            self._found[known] = self._run(known)
        return self._found[node]

    def _run(self, node: fx.Node) -> Any:
        value = self._tracer.value(node)
        if node.op == "placeholder":
            return value.meta_tensor()
        if node.op == "get_attr":
            tensor = self._tracer.program.tensor(str(node.target))
            lies = isinstance(value, TensorSpec) and tuple(tensor.shape) == value.shape
            if not lies:
                return value.meta_tensor()
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        if not isinstance(value, TensorSpec) and not any(isinstance(leaf, TensorSpec) for leaf in leaves(value)):
            return map_structure(value, hint)
        args, kwargs = map_leaves((node.args, dict(node.kwargs)), self._found.__getitem__)
        with torch.device("meta"):
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            if node.op == "call_function":
                assert callable(node.target)
                return node.target(*args, **kwargs)
            module = self._tracer.program.module(str(node.target))
            if not self._tracer.program.awaits(module) and str(node.target) not in self._tracer.program.lazies:
                return on_meta(module)(*args, **kwargs)
            if all(tensor.is_contiguous() for tensor in leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)):
                return value.meta_tensor()
        raise CaptureError(f"the layout of what {node.target} gives is not known")
