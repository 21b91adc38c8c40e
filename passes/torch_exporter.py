"""The fallback route: the whole resolved module through `torch.onnx.export`."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import nn

from passes.errors import ExportError
from passes.onnx_lowering import PRODUCER, LoweredModel


def export_through_torch(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    dynamic_axes: Mapping[str, Any],
    opset: int,
    input_names: Sequence[str],
    output_names: Sequence[str],
    metadata: Mapping[str, str],
) -> LoweredModel:
    """The model that torch's exporter makes of `module` (in eval mode), with our names and no local path.

    `dynamic_axes` maps each forward argument to its `{axis: torch.export.Dim}`, nested as the argument is.
    Raises ExportError with torch's own reason where it refuses the module.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            "the torch route needs the package onnxscript, which is not installed", remedy="pip install onnxscript"
        ) from error
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                module,
                args,
                kwargs=dict(kwargs),
                dynamo=True,
                opset_version=opset,
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes=dict(dynamic_axes),
                verbose=False,
            )
    except Exception as error:  # torch's exporter documents no narrower class for what it refuses
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(
            f"torch.onnx.export refuses the model: {type(error.__cause__ or error).__name__}: {reason}",
            remedy="rewrite the operations named, or keep them out of the exported module",
        ) from error
    assert exported is not None
    return _detached(exported.model, opset, metadata)


def _detached(model: Any, opset: int, metadata: Mapping[str, str]) -> LoweredModel:
    """The exporter's model with its weights set aside, and without what it notes about the machine it ran on."""
    import onnx
    from onnx import helper

    weights: dict[str, torch.Tensor] = {}
    for name, value in list(model.graph.initializers.items()):
        raw = getattr(value.const_value, "raw", None)
        if isinstance(raw, torch.Tensor):
            weights[name] = raw.detach()
            del model.graph.initializers[name]
    import onnx_ir

    proto: onnx.ModelProto = onnx_ir.serde.serialize_model(model)
    written = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if written != opset:
        raise ExportError(
            f"torch.onnx.export cannot write this model in opset {opset}; it writes opset {written}",
            remedy=f"use --opset {written}, or later",
        )
    proto.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    proto.producer_name = PRODUCER
    proto.ClearField("producer_version")
    for holder in (proto, *proto.functions):
        _forget_origin(holder)
    helper.set_model_props(proto, dict(metadata))
    return LoweredModel(
        proto, weights, [value.name for value in proto.graph.input], [value.name for value in proto.graph.output]
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter prints and logs (packages it looks for, graphs it gave up on) is not for our caller."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _forget_origin(holder: Any) -> None:
    """Drops the stack traces and file names that the exporter notes on what it makes, and on all within it."""
    for field, value in holder.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            holder.ClearField(field.name)
        elif field.message_type is not None and field.name != "initializer":
            for item in value if isinstance(value, Sequence) or hasattr(value, "add") else (value,):
                _forget_origin(item)
