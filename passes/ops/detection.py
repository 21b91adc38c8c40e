"""What detectors do with boxes: suppression of all but the best, and features cut out along them. Torchvision registers
these with torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from passes.errors import ShapeError, check
from passes.onnx.value import Value
from passes.ops.op import Op
from passes.ops.record import Record, T
from passes.sizes.dimension import Dim, Size
from passes.sizes.unknown import DataSize
from passes.values.spec import TensorSpec

if TYPE_CHECKING:
    from passes.onnx.emitter import Emitter

# As many boxes as there may be.
_ALL = 2**62


@dataclass(frozen=True, slots=True)
class Suppression(Record[T]):
    dets: T
    scores: T
    iou_threshold: float


nms = Op("nms", Suppression, library=("torchvision::nms",))


@nms.shape
def nms_shape(call: Suppression[TensorSpec]) -> TensorSpec:
    """The numbers of the boxes that are kept, from the best on."""
    boxes, scores = call.dets, call.scores
    check(boxes.ndim == 2 and boxes.shape[1] == 4, "nms takes boxes of shape [N, 4], found {}", boxes)
    check(scores.ndim == 1, "nms takes one score for each box, found {}", scores)
    check(boxes.shape[0] == scores.shape[0], "nms takes one score for each box, found {} for {}", scores, boxes)
    kept: Any = DataSize("number of boxes that are kept", 0, boxes.shape[0])
    return TensorSpec((kept,), torch.int64, boxes.device)


@nms.lower
def lower_nms(emit: Emitter, call: Suppression[Value]) -> Value:
    """NonMaxSuppression of one batch and one class, of whose [batch, class, box] the last is what torch gives."""
    boxes, scores = (emit.cast(value, torch.float32) for value in (call.dets, call.scores))
    chosen = emit.node(
        "NonMaxSuppression",
        emit.unsqueeze(boxes, 0),
        emit.unsqueeze(scores, 0, 1),
        emit.ints(_ALL),
        emit.constant([float(call.iou_threshold)], torch.float32),
    )
    return emit.node("Squeeze", emit.node("Slice", chosen, emit.ints(2), emit.ints(3), emit.ints(1)), emit.ints(1))


@dataclass(frozen=True, slots=True)
class SuppressionByClass(Record[T]):
    boxes: T
    scores: T
    idxs: T
    iou_threshold: float


batched_nms = Op("batched_nms", SuppressionByClass, library=("torchvision.ops.boxes.batched_nms",))


@batched_nms.shape
def batched_nms_shape(call: SuppressionByClass[TensorSpec]) -> TensorSpec:
    check(call.idxs.shape == call.scores.shape, "nms takes one class for each box, found {}", call.idxs)
    return nms_shape(Suppression(call.boxes, call.scores, call.iou_threshold))


@batched_nms.lower
def lower_batched_nms(emit: Emitter, call: SuppressionByClass[Value]) -> Value:
    """NonMaxSuppression with a row of scores for each class, in which the boxes of others are left out; what is kept is
    put in the order of the scores again."""
    boxes, scores = (emit.cast(value, torch.float32) for value in (call.boxes, call.scores))
    classes = emit.cast(call.idxs, torch.int64)
    last = emit.node("ReduceMax", emit.node("Concat", classes, emit.ints(0), axis=0), keepdims=0)
    rows = emit.node("Range", emit.scalar(0, torch.int64), emit.node("Add", last, emit.scalar(1, torch.int64)),
                     emit.scalar(1, torch.int64))  # fmt: skip
    own = emit.node("Equal", emit.unsqueeze(Value(rows.name, TensorSpec((1,), torch.int64)), 1), classes)
    lowest = torch.finfo(torch.float32).min
    by_class = emit.node("Where", own, scores, emit.scalar(-math.inf, torch.float32))
    chosen = emit.node(
        "NonMaxSuppression",
        emit.unsqueeze(boxes, 0),
        emit.node("Unsqueeze", by_class, emit.ints(0)),
        emit.ints(_ALL),
        emit.constant([float(call.iou_threshold)], torch.float32),
        emit.constant([lowest], torch.float32),
    )
    kept = emit.node("Squeeze", emit.node("Slice", chosen, emit.ints(2), emit.ints(3), emit.ints(1)), emit.ints(1))
    theirs = emit.node("Gather", scores, kept)
    _, order = emit.nodes("TopK", theirs, emit.node("Shape", theirs), outputs=2)
    return emit.node("Gather", kept, order)


@dataclass(frozen=True, slots=True)
class RoiAlign(Record[T]):
    input: T
    rois: T
    spatial_scale: float
    pooled_height: int
    pooled_width: int
    sampling_ratio: int
    aligned: bool


roi_align = Op("roi_align", RoiAlign, library=("torchvision::roi_align",))


@roi_align.shape
def roi_align_shape(call: RoiAlign[TensorSpec]) -> TensorSpec:
    input, rois = call.input, call.rois
    check(input.ndim == 4, "roi_align cuts out of features [N, C, H, W], found {}", input)
    check(rois.ndim == 2 and rois.shape[1] == 5, "roi_align takes regions of shape [K, 5], found {}", rois)
    size: tuple[Size, Size] = call.pooled_height, call.pooled_width
    if any(isinstance(length, Dim) for length in size):
        raise ShapeError(f"roi_align gives windows of a fixed size, found {size}", wants_fixed_size=True)
    return input.with_shape(rois.shape[0], input.shape[1], *size)


@roi_align.lower
def lower_roi_align(emit: Emitter, call: RoiAlign[Value]) -> Value:
    """RoiAlign; the image that a region is of stands apart from its corners there. `aligned` is the half pixel that
    ONNX has had since opset 16, and before it is taken off the corners."""
    working = call.input.dtype if call.input.dtype in (torch.float32, torch.float64) else torch.float32
    rois = emit.cast(call.rois, working)
    corners = emit.node("Slice", rois, emit.ints(1), emit.ints(5), emit.ints(1))
    images = emit.node("Slice", rois, emit.ints(0), emit.ints(1), emit.ints(1))
    mode = None
    if emit.has_attribute("RoiAlign", "coordinate_transformation_mode"):
        mode = "half_pixel" if call.aligned else "output_half_pixel"
    elif call.aligned:
        emit.unsupported("ONNX has aligned regions since opset 16")
    cut = emit.node(
        "RoiAlign",
        emit.cast(call.input, working),
        corners,
        emit.cast(emit.node("Squeeze", images, emit.ints(1)), torch.int64),
        coordinate_transformation_mode=mode,
        output_height=call.pooled_height,
        output_width=call.pooled_width,
        sampling_ratio=max(call.sampling_ratio, 0),
        spatial_scale=float(call.spatial_scale),
    )
    return cut if working == call.input.dtype else emit.cast(cut, call.input.dtype)


__all__ = ["batched_nms", "nms", "roi_align"]
