"""The sliding windows of a pool: where they are, and how many. Registers no op.

With `ceil_mode`, torch counts a last window that reaches beyond the padded input, but only where it starts inside
the input or its left padding. ONNX's `ceil_mode` always counts it. So where torch leaves one out on some axes, the
last windows on the others are lowered as padding at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from passes.errors import check
from passes.sizes.dimension import Dim, Size, pinned, same_size
from passes.values.spec import TensorSpec, shape_text

if TYPE_CHECKING:
    from passes.onnx.emitter import Value

Sizes = int | Sequence[int]


def per_axis(name: str, sizes: Any, rank: int) -> tuple[int, ...]:
    """One number for all spatial axes, or one for each, as one for each."""
    if isinstance(sizes, (int, Dim)):
        return (cast(int, sizes),) * rank  # a dynamic one too
    given = tuple(sizes)
    check(len(given) in (1, rank), "{} has {} numbers for {} spatial axes: {}", name, len(given), rank, given)
    return given * rank if len(given) == 1 else given


def _fixed(name: str, sizes: Any, rank: int) -> tuple[int, ...]:
    return tuple(map(pinned, per_axis(name, sizes, rank)))


def check_rank(input: TensorSpec, rank: int, may_be_empty: bool = False) -> None:
    """An input of a pool has its spatial axes, channels, and mostly a batch, and no axis but this may be empty."""
    check(
        input.ndim in (rank + 1, rank + 2),
        "a {}d pool needs an input of {} or {} axes, found {}",
        rank,
        rank + 1,
        rank + 2,
        shape_text(input.shape),
    )
    within = () if may_be_empty else input.shape[1:] if input.ndim == rank + 2 else input.shape
    full = all(size != 0 for size in within)
    check(full, "a pool needs an input without empty axes, found {}", shape_text(input.shape))


class Windows:
    """The windows of a pool along its spatial axes, and how many of them there are.

    Windows that are not all of an axis must be known: an open size among their numbers is assumed to be as sampled.
    """

    def __init__(
        self, input: TensorSpec | Value, rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
    ):
        self.rank = rank
        self.sizes = input.shape[-rank:]
        self.padding = _fixed("padding", padding, rank)
        self.dilation = _fixed("dilation", dilation, rank)
        asked: tuple[Size, ...] = per_axis("kernel_size", kernel, rank)
        # The axes of open size that one window covers, whatever that is; of all others ONNX has the window as a number.
        self.whole = [
            axis
            for axis, (window, size) in enumerate(zip(asked, self.sizes, strict=True))
            if isinstance(window, Dim) and same_size(window, size)
            if self.padding[axis] == 0 and self.dilation[axis] == 1
        ]
        kernels = [window if axis in self.whole else pinned(window) for axis, window in enumerate(asked)]
        self.kernel = cast("tuple[int, ...]", tuple(kernels))
        given = stride is not None and stride != [] and stride != ()
        self.stride = _fixed("stride", stride, rank) if given else self.kernel
        self.ceil = ceil
        self.counts = tuple(self._count(axis) for axis in range(rank))

    def reach(self, axis: int) -> int:
        """How many elements one window spans."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def _count(self, axis: int) -> Size:
        kernel, stride, padding = self.kernel[axis], self.stride[axis], self.padding[axis]
        check(kernel > 0, "kernel_size must be positive, found {}", kernel)
        check(stride > 0, "stride must be positive, found {}", stride)
        check(self.dilation[axis] > 0, "dilation must be positive, found {}", self.dilation[axis])
        check(
            0 <= padding <= kernel // 2,
            "padding must be at most half of the kernel's {} elements, found {}",
            kernel,
            padding,
        )
        room = self.sizes[axis] + 2 * padding - self.reach(axis)
        if not self.ceil:
            check(
                room >= 0,
                "the window of {} elements is larger than spatial axis {}, which has {} with its padding",
                self.reach(axis),
                axis,
                self.sizes[axis] + 2 * padding,
                remedy="give a larger input, or make kernel_size smaller",
            )
            return room // stride + 1
        # With ceil_mode the last window reaches beyond the end, but starts inside the input or its left padding.
        last_start = self.sizes[axis] + padding - 1 - max(self.reach(axis) - stride - padding, 0)
        check(last_start >= 0, "the window of {} elements finds no place on spatial axis {}", self.reach(axis), axis)
        return last_start // stride + 1

    def end_padding(self, axis: int) -> int:
        """How far beyond the input the last window reaches, or may reach where the size is dynamic; at least the
        padding."""
        padding, stride, size = self.padding[axis], self.stride[axis], self.sizes[axis]
        if not self.ceil:
            return padding
        count = self.counts[axis]
        if isinstance(size, int) and isinstance(count, int):
            return max((count - 1) * stride + self.reach(axis) - size - padding, padding)
        return min(padding + stride, self.reach(axis)) - 1

    def pads(self) -> list[int]:
        """ONNX's `pads`: what is before each spatial axis, then what is behind."""
        return [*self.padding, *(self.end_padding(axis) for axis in range(self.rank))]


__all__ = ["Sizes", "Windows", "check_rank", "per_axis"]
