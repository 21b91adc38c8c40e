"""The two oracles that every op is held against: torch on meta tensors for shapes, torch in onnxruntime for values.

Both take a module, or any callable of tensors, and go through the public pipeline, so spelling, binding,
shape rule and lowering are tested as users reach them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import fx, nn

import tracer
from passes.errors import TracerError
from passes.ops.op import is_inplace
from passes.program.notes import CALL, VALUE
from passes.program.program import Program
from passes.sizes.guards import GuardLog
from passes.stages.shape_propagation import ShapePropagation
from passes.values.nested import leaves
from passes.values.spec import TensorSpec
from tracer.capture.tracing import capture
from tracer.inputs.sample import bind_sample


class Call(nn.Module):
    """A callable of tensors as a module."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors)


def as_module(target: nn.Module | Callable[..., Any]) -> nn.Module:
    return (target if isinstance(target, nn.Module) else Call(target)).eval()


def propagated(target: nn.Module | Callable[..., Any], *tensors: Any) -> Program:
    """The program of `target` with a value on every node, all of them from rules and none from meta execution."""
    module = as_module(target)
    log = GuardLog()
    program = capture(module, bind_sample(module, tensors, None, None, None, log), log)
    ShapePropagation().run(program)
    for node in program.graph.nodes:
        if node.op.startswith("call_") and isinstance(VALUE.of(node), TensorSpec):
            assert CALL.on(node) or node.target.__name__ == "getitem", f"{node.target} has no rule"  # type: ignore[union-attr]
    return program


def assert_shape_matches(target: nn.Module | Callable[..., Any], *tensors: torch.Tensor, device: str = "meta") -> None:
    """The propagated result equals torch's on a device in structure, shape and dtype; where torch refuses the operands,
    so does the rule. On the meta device torch refuses less than its kernels do, which need operands that are right."""
    module = as_module(target)
    try:
        expected = module.to(device)(*(tensor.to(device) for tensor in tensors))
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        try:
            program = propagated(target, *tensors)
        except TracerError:
            return
        raise AssertionError(f"torch refuses ({error}), the rule gives {VALUE.of(program.output())}") from error
    found = VALUE.of(propagated(target, *tensors).output())
    assert _described(found) == _described(expected)


class Views(fx.Interpreter):
    """Runs a program and checks of each operation that what shares memory with an operand is declared as a view."""

    def __init__(self, program: Program):
        super().__init__(program.graph_module())
        self.program = program

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        call = CALL.get(node)
        if call is None or call.op.view or is_inplace(str(getattr(node.target, "__name__", node.target))):
            return result
        operands = _memory([self.env[operand] for operand in node.all_input_nodes])
        inplace = getattr(call.module, "inplace", False) or "out" in node.kwargs or node.kwargs.get("inplace")
        assert inplace or not operands & _memory(result), (
            f"{call.op} gives a view of an operand, but is not declared so"
        )
        return result


def _memory(value: Any) -> set[int]:
    found = (leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor))
    return {leaf.untyped_storage().data_ptr() for leaf in found if leaf.numel()}


def assert_lowering_matches(
    target: nn.Module | Callable[..., Any],
    *tensors: torch.Tensor,
    dynamic: Mapping[int, Mapping[int, str]] | None = None,
    opset: int = 20,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    also: tuple[torch.Tensor, ...] | None = None,
    cases: Sequence[tuple[torch.Tensor, ...]] = (),
) -> Any:
    """The model exported by the direct route gives torch's values in onnxruntime; returns the onnx model.

    `dynamic` maps an input's position to `{axis: name}`; `also` are inputs of other sizes that the same
    file must run, and so are all `cases`.
    """
    module = as_module(target)
    if not dynamic:
        with torch.no_grad():
            Views(propagated(module, *tensors)).run(*(tensor.clone() for tensor in tensors))
    shapes = [dict((dynamic or {}).get(index, {})) for index in range(len(tensors))]
    conversion = tracer.convert(
        module, tensors, dynamic_shapes=shapes, opset_version=opset, verify=False, route="direct"
    )
    with TemporaryDirectory() as folder:
        path = conversion.save(Path(folder) / "model.onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for inputs in (tensors, *([also] if also else []), *cases):
            with torch.no_grad():
                expected = _flat(module(*(tensor.clone() for tensor in inputs)))
            names = [entry.name for entry in session.get_inputs()]
            found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
            assert len(found) == len(expected)
            for ours, theirs in zip(found, expected, strict=True):
                assert tuple(ours.shape) == tuple(theirs.shape)
                assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
                np.testing.assert_allclose(ours, theirs.numpy(), rtol=rtol, atol=atol)
    return conversion.onnx_model


def _described(value: Any) -> Any:
    if isinstance(value, (TensorSpec, torch.Tensor)):
        return (tuple(value.shape), value.dtype)
    if isinstance(value, (tuple, list)):
        return tuple(_described(item) for item in value)
    if isinstance(value, dict):
        return {key: _described(item) for key, item in value.items()}
    return value


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [tensor for item in items if item is not None for tensor in _flat(item)]
