"""torchvision's operators of detection as Python kernels, for machines where its compiled ones do not load.

They are registered with torch under torchvision's names where nothing is there: `nms` and `roi_align`.
"""

from __future__ import annotations

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": "(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
}


def nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """The numbers of the boxes that overlap no better one by more than the threshold, from the best on."""
    order = scores.sort(descending=True, stable=True)[1]
    area = (dets[:, 2] - dets[:, 0]) * (dets[:, 3] - dets[:, 1])
    kept: list[int] = []
    gone = torch.zeros(len(dets), dtype=torch.bool)
    for number in order.tolist():
        if gone[number]:
            continue
        kept.append(number)
        low = torch.maximum(dets[number, :2], dets[:, :2])
        high = torch.minimum(dets[number, 2:], dets[:, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        gone |= shared / (area[number] + area - shared) > iou_threshold
    return torch.tensor(kept, dtype=torch.int64)


def _weights(start: float, length: float, bins: int, samples: int, size: int) -> torch.Tensor:
    """How much each element of an axis counts in each bin of a region, the mean of samples between elements."""
    weights = torch.zeros(bins, size, dtype=torch.float64)
    for place in range(bins):
        for sample in range(samples):
            at = start + (place + (sample + 0.5) / samples) * length / bins
            if not -1.0 <= at <= size:
                continue
            at = max(at, 0.0)
            low = min(int(at), size - 1)
            high = min(low + 1, size - 1)
            part = at - low if low < size - 1 else 0.0
            weights[place, low] += (1 - part) / samples
            weights[place, high] += part / samples
    return weights


def roi_align(
    input: torch.Tensor,
    rois: torch.Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    """Features along regions, each bin the mean of points in it, between which is interpolated."""
    shift = 0.5 if aligned else 0.0
    results = [input.new_zeros(0, input.shape[1], pooled_height, pooled_width)]
    for image, *corners in rois.tolist():
        left, top, right, bottom = (corner * spatial_scale - shift for corner in corners)
        width, height = right - left, bottom - top
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        down = _weights(top, height, pooled_height, _samples(sampling_ratio, height, pooled_height), input.shape[2])
        across = _weights(left, width, pooled_width, _samples(sampling_ratio, width, pooled_width), input.shape[3])
        results.append((down @ input[int(image)].double() @ across.T).to(input.dtype)[None])
    return torch.cat(results)


def _samples(ratio: int, length: float, bins: int) -> int:
    return ratio if ratio > 0 else max(-int(-length // bins), 1)


def register_kernels() -> None:
    """Declares torchvision's operators and gives them these kernels, where torch has none under their names."""
    for name, kernel in (("nms", nms), ("roi_align", roi_align)):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", _SCHEMAS[name])
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"torchvision::{name}", "CPU"):
            torch.library.impl(f"torchvision::{name}", "CPU", kernel)
