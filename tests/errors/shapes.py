"""Operations on tensors that do not fit together."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from passes.errors import ShapeError
from tests.errors.case import Net, broken

# mypy: disable-error-code="no-any-return, override"

IMAGE = ("input x float32[N, 3, 8, 8]",)
ROWS = ("input x float32[N, 8]",)


@broken(
    "Nx3x32x32", ShapeError, "", "axis 2 is 32 in number 0, [N, 3, 32, 32]", "16 in number 1, [N, 3, 16, 16]",
    chain=("input x float32[N, 3, 32, 32]", "down -> float32[N, 3, 16, 16]"), remedy="make axis 2 equal",
)  # fmt: skip
class CatOfTwoHeights(Net):
    def build(self) -> None:
        self.down = nn.Conv2d(3, 3, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.down(x)], 1)  # here


@broken(
    "Nx3x8", ShapeError, "", "tensors of 3 and of 2 axes", "float32[N, 24]",
    chain=("flatten -> float32[N, 24]",), remedy="with flatten or unsqueeze",
)  # fmt: skip
class CatOfTwoRanks(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x.flatten(1)], 1)  # here


@broken(
    "Nx8", ShapeError, "", "number 0 is [N, 8], number 1 is [N, 4]",
    chain=("getitem -> float32[N, 4]",), remedy="bring them to one shape",
)  # fmt: skip
class StackOfTwoShapes(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x, x[:, :4]])  # here


@broken(
    "Nx16x100", ShapeError, "block", "[N, 16, 100] and [N, 16, 98]", "the sizes 100 and 98",
    chain=("input x float32[N, 16, 100]", "block.conv -> float32[N, 16, 98]"), remedy="pad or slice one",
)  # fmt: skip
class ResidualOfTwoLengths(Net):
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(16, 16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.conv(x)  # here

    def build(self) -> None:
        self.block = self.Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


@broken("Nx8", ShapeError, "", "[N, 8] and [7]", "the sizes 8 and 7", chain=ROWS, remedy="these two sizes")
class ScaleOfWrongLength(Net):
    def build(self) -> None:
        self.scale = nn.Parameter(torch.ones(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale  # here


@broken(
    "Nx300x8", ShapeError, "", "the sizes 300 and 256",
    chain=("input x float32[N, 300, 8]",), remedy="pad or slice one",
)  # fmt: skip
class MorePositionsThanLearned(Net):
    def build(self) -> None:
        self.positions = nn.Parameter(torch.zeros(256, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.positions  # here


@broken("Nx8", ShapeError, "", "the sizes 8 and 3", chain=("getitem -> float32[N, 3]",), remedy="these two sizes")
class WhereOfTwoWidths(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, x[:, :3])  # here


# Views ----------------------------------------------------------------------------------------------


@broken("4x10", ShapeError, "", "40 elements", "no multiple of 3", "[-1, 3]", chain=("input x",), remedy="divides 40")
class ViewThatDoesNotDivide(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, 3)  # here


@broken(
    "4x10", ShapeError, "", "[4, 5] has 20 elements, but the input has 40",
    chain=("input x float32[4, 10]",), remedy="whose product is 40",
)  # fmt: skip
class ViewOfFewerElements(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(4, 5)  # here


@broken("4x10", ShapeError, "", "[-2, 5]", "negative", chain=("input x float32[4, 10]",), remedy="one of them as -1")
class ViewOfNegativeSize(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-2, 5)  # here


@broken("4x10", ShapeError, "", "[-1, -1, 5] leaves 2", chain=("input x float32[4, 10]",), remedy="one of them as -1")
class ViewWithTwoOpenSizes(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, -1, 5)  # here


@broken(
    "NxTx8", ShapeError, "", "[N, 12] has 12*N elements, but the input has 8*N*T",
    chain=("input x float32[N, T, 8]",), remedy="-1 for one of them",
)  # fmt: skip
class ViewOverDynamicSizes(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], 12)  # here


@broken(
    "Nx10", ShapeError, "", "[3, 4] has 12 elements, but the input has 10",
    chain=("input x float32[N, 10]",), remedy="whose product is 10",
)  # fmt: skip
class UnflattenToOtherSizes(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(1, (3, 4))  # here


# Axes -----------------------------------------------------------------------------------------------


@broken("Nx3x8x8", ShapeError, "", "3 axes", "the tensor has 4", chain=IMAGE, remedy="every axis from 0 to 3")
class PermuteOfTooFewAxes(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 1)  # here


@broken("Nx3x8x8", ShapeError, "", "(0, 2, 2, 1) name one axis twice", chain=IMAGE, remedy="each axis once")
class PermuteOfOneAxisTwice(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 2, 1)  # here


@broken("Nx8", ShapeError, "", "axis 2 is out of range", "2 axes", chain=ROWS, remedy="from 0 to 1")
class TransposeOutOfRange(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)  # here


@broken("Nx8", ShapeError, "", "axis 3 is out of range", "2 axes", chain=ROWS, remedy="from 0 to 1")
class SqueezeOutOfRange(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.squeeze(3)  # here


@broken("Nx8", ShapeError, "", "dim is 2", "2 axes", chain=ROWS, remedy="dim=-1")
class SoftmaxOutOfRange(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.softmax(2)  # here


@broken("Nx8", ShapeError, "", "index 8 is out of range for axis 1 of size 8", chain=ROWS, remedy="an index below 8")
class IndexOutOfRange(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 8]  # here


@broken("Nx8", ShapeError, "", "3 indices", "2 axes, [N, 8]", chain=ROWS, remedy="at most 2")
class TooManyIndices(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, 0]  # here


@broken("Nx8", ShapeError, "", "4 elements from 6", "axis 1 of size 8", chain=ROWS, remedy="at most 8")
class NarrowBeyondTheEnd(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.narrow(1, 6, 4)  # here


@broken("Nx8", ShapeError, "", "[4, 3] add up to 7", "axis 1 has 8", chain=ROWS, remedy="add up to 8")
class SplitOfOtherSizes(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.split([4, 3], 1)[0]  # here


@broken("Nx3x8x8", ShapeError, "", "axis 1 of size 3 cannot be expanded to 6", chain=IMAGE, remedy="x.repeat")
class ExpandOfAFixedSize(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(-1, 6, 8, 8)  # here


@broken("Nx8", ShapeError, "", "1 repeats", "2 axes", chain=ROWS, remedy="each of the 2 axes")
class RepeatOfTooFewAxes(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat(2)  # here


@broken("Nx8", ShapeError, "", "topk of 9", "axis 1 has only 8", chain=ROWS, remedy="at most 8")
class MoreThanThereAre(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.topk(9, 1)[0]  # here


@broken("Nx8", ShapeError, "", "torch.float32", "neither int64 nor int32", chain=ROWS, remedy="index.long()")
class GatherByFloats(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.gather(1, x)  # here


@broken("Nx8", ShapeError, "", "a mask of bool", "found torch.float32", chain=ROWS, remedy="x > 0")
class MaskOfFloats(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.masked_fill(x, 0.0)  # here


@broken(
    "Nx8", ShapeError, "", "[N, 4] cannot be assigned to elements of shape [N, 3]",
    chain=("getitem -> float32[N, 4]",), remedy="of shape [N, 3]",
)  # fmt: skip
class AssignmentOfOtherWidth(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, :3] = x[:, :4]  # here
        return x


# Products -------------------------------------------------------------------------------------------


@broken(
    "Nx5x8", ShapeError, "", "rows of 8", "columns of 9",
    chain=("input x float32[N, 5, 8]",), remedy="make these two sizes equal",
)  # fmt: skip
class MatmulOfInnerSizes(Net):
    def build(self) -> None:
        self.weight = nn.Parameter(torch.ones(9, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight  # here


@broken(
    "Nx5x8", ShapeError, "", "rows of 8", "columns of 5",
    chain=("input x float32[N, 5, 8]",), remedy="transpose the second",
)  # fmt: skip
class ForgottenTranspose(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x  # here


@broken(
    "2x5x8", ShapeError, "", "batch axes [2] and [3]",
    chain=("input x float32[2, 5, 8]", "zeros -> float32[3, 8, 2]"), remedy="the same batch",
)  # fmt: skip
class MatmulOfTwoBatches(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.zeros(3, 8, 2)  # here


@broken(
    "Nx8x5", ShapeError, "", "j is 5 in one operand and 8 in another",
    chain=("input x float32[N, 8, 5]",), remedy="letters of their own",
)  # fmt: skip
class EinsumOfTwoSizes(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nij,njk->nik", x, x)  # here


@broken(
    "Nx8x5",
    ShapeError,
    "",
    "'ij' names 2 axes",
    "has 3",
    chain=("input x float32[N, 8, 5]",),
    remedy="each of the 3 axes",
)
class EinsumOfOtherRank(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ij,jk->ik", x, x)  # here


@broken(
    "Nx2x10x32", ShapeError, "", "query's last axis is 32, the key's 16",
    chain=("getitem -> float32[N, 2, 10, 16]",), remedy="one width",
)  # fmt: skip
class AttentionOfTwoWidths(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x[..., :16], x)  # here


# Images ---------------------------------------------------------------------------------------------


@broken(
    "Nx6x8x8", ShapeError, "", "6 channels do not divide by 4 * 4",
    chain=("input x float32[N, 6, 8, 8]",), remedy="upscale_factor squared",
)  # fmt: skip
class PixelShuffleChannels(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(x, 4)  # here


@broken("Nx3x8x8", ShapeError, "", "[0, 0], from [8, 8]", chain=IMAGE, remedy="a larger scale_factor")
class InterpolateToNothing(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=0.1)  # here


@broken("Nx3x8x8", ShapeError, "", "3 numbers", "2 spatial axes", chain=IMAGE, remedy="each of the 2 axes")
class InterpolateOfOtherRank(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, size=(8, 8, 8))  # here


@broken("Nx3x8x8", ShapeError, "", "reflect padding by (9, 9) of axis 3", "size 8", chain=IMAGE, remedy="pad less")
class ReflectBeyondTheSize(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, (9, 9, 1, 1), mode="reflect")  # here


@broken("Nx3x8x8", ShapeError, "", "no block of 11", "size of 8", chain=IMAGE, remedy="a smaller kernel")
class UnfoldLargerThanTheImage(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.unfold(x, 11)  # here


@broken("Nx3", ShapeError, "", "halves axis 1, whose size 3 is odd", chain=("input x float32[N, 3]",), remedy="even")
class HalfOfAnOddSize(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.glu(x, 1)  # here


@broken(
    "3x8", ShapeError, "", "torch refuses linalg_solve", "square matrices", "3 by 8",
    chain=("input x float32[3, 8]",), remedy="change the sizes there",
)  # fmt: skip
class OperationWithoutARule(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve(x, x)  # here


@broken(
    "Nx5", ShapeError, "loss", "cross_entropy takes labels of shape [N]", "an input of shape [N, 5], found [1]",
    chain=("input x float32[N, 5]",), remedy="classes are axis 1 of the input",
)  # fmt: skip
class LabelsOfAnotherBatch(Net):
    def build(self) -> None:
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.loss(x, torch.zeros(1, dtype=torch.long))  # here


@broken(
    "Nx5", ShapeError, "loss", "cross_entropy takes 4 weights", "found float32[5]",
    chain=("head -> float32[N, 4]",), remedy="change the sizes there",
)  # fmt: skip
class WeightsForMoreClasses(Net):
    def build(self) -> None:
        self.head = nn.Linear(5, 4)
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.loss(self.head(x), x[:, 0].long())  # here


@broken(
    "Nx5", ShapeError, "", "input and target of one shape, found [N, 1] and [N]",
    chain=("head -> float32[N, 1]",), remedy="bring the target to the shape of the input: [N, 1]",
)  # fmt: skip
class TargetsWithoutAnAxis(Net):
    def build(self) -> None:
        self.head = nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(self.head(x), x[:, 0])  # here
