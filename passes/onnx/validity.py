"""Whether a lowered graph is valid ONNX, and the model's: onnx's own checker, and sizes that it infers."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from passes.errors import ExportError
from passes.onnx.lowered_model import LoweredModel
from passes.onnx.protos import value_info
from passes.onnx.types import onnx_type
from passes.sizes.dimension import Dim
from passes.sizes.facts import Answer, Facts
from passes.sizes.guards import GuardLog
from passes.values.spec import TensorSpec


def check_model(lowered: LoweredModel, specs: Mapping[str, TensorSpec], log: GuardLog) -> None:
    """onnx's checker with full shape inference, the weights declared by type alone.

    `specs` is what propagation knows of the graph's values; wherever inference comes to a fixed size it must be that
    one. So a size that a lowering took from the sample is found without a run. The comparison is always on: it costs
    half a millisecond on a ResNet-50, of the 300 that its conversion takes.

    Raises ExportError: the graph is not valid ONNX or not the model's, which is a bug of a lowering or a shape rule.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(lowered.proto)
    for name, tensor in lowered.weights.items():
        proto.graph.input.append(value_info(name, TensorSpec.of(tensor)))
    remedy = "report this with the model; --route torch may do"
    try:
        onnx.checker.check_model(proto)
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        too_early = "bfloat16" in str(error) and lowered.proto.opset_import[0].version < 22
        raise ExportError(
            f"the lowered graph is not valid ONNX: {error}",
            remedy="use --opset 22 or later, where more operations take bfloat16" if too_early else remedy,
        ) from error
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        found, spec = value.type.tensor_type, specs.get(value.name)
        if spec is not None and not _agree(found, spec, log.facts):
            sizes = ", ".join(str(axis.dim_value or axis.dim_param or "?") for axis in found.shape.dim)
            raise ExportError(
                f"{value.name} is {spec} in the model, but onnx infers "
                f"{onnx.TensorProto.DataType.Name(found.elem_type)}[{sizes}] for the lowered graph",
                remedy=remedy,
            )


def _agree(inferred: onnx.TypeProto.Tensor, spec: TensorSpec, facts: Facts) -> bool:
    """Whether what onnx infers of a value is what propagation knows, as far as onnx knows it."""
    if inferred.elem_type != onnx_type(spec.dtype):
        return False
    if not inferred.HasField("shape"):
        return True
    axes = inferred.shape.dim
    return len(axes) == spec.ndim and all(
        facts.decide(size.formula - axis.dim_value if isinstance(size, Dim) else size - axis.dim_value, "==").answer
        is Answer.YES
        for axis, size in zip(axes, spec.shape, strict=True)
        if axis.HasField("dim_value")
    )


__all__ = ["check_model"]
