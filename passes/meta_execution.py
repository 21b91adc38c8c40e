"""Shapes of an op without a rule: the op itself, run on meta tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from passes.dimension import is_static
from passes.errors import ShapeError, UnsupportedOpError
from passes.program import operation_of, tensor_specs
from passes.spec import TensorSpec


def run_on_meta(node: fx.Node, module: nn.Module | None, args: Any, kwargs: Any) -> Any:
    """The value of `node` with every tensor on the meta device; no data, but torch's own kernels' shape code.

    Raises ShapeError with torch's own words where torch refuses the operands, UnsupportedOpError where
    a dimension is dynamic (meta tensors have fixed sizes).
    """
    operation = operation_of(node)
    if not all(is_static(spec.shape) for spec in tensor_specs([*args, *kwargs.values()])):
        raise UnsupportedOpError(
            f"{operation} has no shape rule, so its shape is known only for fixed sizes",
            remedy="give a sample without dynamic dimensions",
        )
    meta_args, meta_kwargs = _to_meta(args), _to_meta(kwargs)
    try:
        with torch.no_grad():
            if module is not None:
                state = {name: tensor.to("meta") for name, tensor in _state(module)}
                result = torch.func.functional_call(module, state, meta_args, meta_kwargs)
            elif node.op == "call_method":
                result = getattr(meta_args[0], str(node.target))(*meta_args[1:], **meta_kwargs)
            else:
                assert callable(node.target)
                result = node.target(*meta_args, **meta_kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        raise ShapeError(f"torch refuses {operation}: {str(error).splitlines()[0]}") from error
    return _from_meta(result)


def _state(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _to_meta(value: Any) -> Any:
    if isinstance(value, TensorSpec):
        return value.meta_tensor()
    if isinstance(value, (tuple, list)):
        return type(value)([_to_meta(item) for item in value])
    if isinstance(value, dict):
        return {key: _to_meta(item) for key, item in value.items()}
    return value


def _from_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return TensorSpec(tuple(value.shape), value.dtype)
    if isinstance(value, (tuple, list)):
        return tuple(_from_meta(item) for item in value)
    if isinstance(value, dict):
        return {key: _from_meta(item) for key, item in value.items()}
    return value
