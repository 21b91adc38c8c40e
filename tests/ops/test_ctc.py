"""Connectionist temporal classification against torch: shapes on real tensors, values in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tracer
from passes.errors import ShapeError
from tests.ops.oracle import Call, assert_lowering_matches, assert_shape_matches, propagated

REDUCTIONS = ("none", "mean", "sum")
TIGHT = {"rtol": 1e-9, "atol": 1e-10}
STEPS, LABELS = torch.tensor([6, 5, 3]), torch.tensor([3, 2, 1])
# One label twice in a row; what is beyond a length is not read.
PADDED = torch.tensor([[1, 2, 2], [3, 3, -1], [4, 9, 9]])
JOINED = torch.tensor([1, 2, 2, 3, 3, 4])


def scores(steps: int = 6, batch: int = 3, classes: int = 5) -> torch.Tensor:
    return torch.randn(steps, batch, classes).log_softmax(-1)


def every(**options: Any) -> Callable[..., Any]:
    """The loss in each reduction, some with zeros in place of infinities."""

    def all_of(log_probs: torch.Tensor, targets: torch.Tensor, *lengths: Any) -> Any:
        given = {"input_lengths": lengths[0], "target_lengths": lengths[1]} if lengths else {}
        return tuple(
            F.ctc_loss(log_probs, targets, reduction=reduction, zero_infinity=zero, **{**given, **options})
            for reduction, zero in (("none", False), ("none", True), ("mean", True), ("sum", False))
        )

    return all_of


IN_NUMBERS = every(input_lengths=(6, 5, 3), target_lengths=(3, 2, 1))

# Shapes ---------------------------------------------------------------------------------------------

lengths = st.sampled_from(
    [(2, 2), (2,), (2, 1), (1, 1), (7, 2), (-1, 1), (2, 0), torch.tensor([2, 2]), torch.tensor(2)]
)


@settings(max_examples=40)
@given(
    shape=st.sampled_from([(6, 2, 4), (6, 4), (6,), (6, 0, 4), (0, 2, 4), (6, 1, 4)]),
    targets=st.sampled_from([(2, 2), (4,), (2,), (3,), (), (2, 3), (1, 2), (2, 2, 1)]),
    inputs=lengths, labels=lengths, blank=st.sampled_from([0, 3, 4, -1]), reduction=st.sampled_from(REDUCTIONS),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float64, torch.float16, torch.int64]),
)  # fmt: skip
def test_shape(shape: Any, targets: Any, inputs: Any, labels: Any, blank: int, reduction: str, dtype: Any) -> None:
    def loss(log_probs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.ctc_loss(log_probs, targets, inputs, labels, blank, reduction)

    assert_shape_matches(loss, torch.zeros(shape).to(dtype), torch.ones(targets).long(), device="cpu")
    assert_shape_matches(loss, torch.zeros(6, 2, 4), torch.ones(2, 3).long(), device="cpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: F.ctc_loss(x, y, (6, 6, 7), (3, 2, 1)), "log_probs of 6 steps, but an input length is 7"),
        (lambda x, y: F.ctc_loss(x, y, (6, 6, 6), (4, 2, 1)), "targets of 3 labels, but a target length is 4"),
        (lambda x, y: F.ctc_loss(x, y[0], (6, 6, 6), (1, 1, 2)), r"add up to 4, but the targets are int64\[3\]"),
        (lambda x, y: F.ctc_loss(x, y, (6, 6), (1, 1)), r"input_lengths for a batch of 3, found \(6, 6\)"),
        (lambda x, y: F.ctc_loss(x, y, STEPS.float(), LABELS), r"input_lengths that are integers, found torch.float32"),
        (lambda x, y: F.ctc_loss(x, y, STEPS, LABELS, blank=5), "5 classes, but the blank is 5"),
        (lambda x, y: F.ctc_loss(x.half(), y, STEPS, LABELS), "in float32 or float64, found torch.float16"),
    ],
)
def test_messages_have_the_numbers(call: Callable[..., Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        propagated(call, scores(), PADDED)


# Values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("targets", "opset"), [(PADDED, 13), (JOINED, 23)], ids=["padded", "joined"])
def test_values(targets: torch.Tensor, opset: int) -> None:
    assert_lowering_matches(every(), scores(), targets, STEPS, LABELS, opset=opset)
    assert_lowering_matches(IN_NUMBERS, scores().double(), targets, opset=opset, **TIGHT)


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(13, 24))
@pytest.mark.parametrize("targets", [PADDED, JOINED], ids=["padded", "joined"])
@pytest.mark.parametrize("blank", [0, 4])
def test_opsets(targets: torch.Tensor, opset: int, blank: int) -> None:
    assert_lowering_matches(every(blank=blank), scores(), targets, STEPS, LABELS, opset=opset)
    assert_lowering_matches(every(blank=blank), scores().double(), targets, STEPS, LABELS, opset=opset, **TIGHT)


def test_kinds_of_operands() -> None:
    """Labels are converted, lengths may be of any integer type, and either list of them a table."""
    assert_lowering_matches(every(blank=4), scores(), PADDED.clamp(0, 3).float(), STEPS.int(), LABELS.to(torch.uint8))
    assert_lowering_matches(every(), scores(), PADDED, STEPS[:, None], LABELS[None])


def test_without_a_batch() -> None:
    one = scores()[:, 0]
    assert_lowering_matches(every(), one, PADDED[:1], torch.tensor([6]), torch.tensor([3]))
    assert_lowering_matches(every(input_lengths=(6,), target_lengths=(3,)), one, PADDED[0])
    assert_lowering_matches(every(), one, PADDED[0], torch.tensor(6), torch.tensor(3))


def test_dynamic() -> None:
    """Any number of steps, sequences, classes and labels."""
    names = {0: {0: "T", 1: "N", 2: "C"}, 1: {0: "N", 1: "S"}, 2: {0: "N"}, 3: {0: "N"}}
    inputs, labels = torch.tensor([11, 9, 11, 10]), torch.tensor([5, 2, 0, 4])
    also = scores(11, 4, 9), torch.randint(1, 9, (4, 5)), inputs, labels
    assert_lowering_matches(every(), scores(), PADDED, STEPS, LABELS, dynamic=names, also=also)
    also = scores(11, 4, 9), torch.randint(1, 9, (11,)), inputs, labels
    names[1] = {0: "S"}
    assert_lowering_matches(every(), scores(), JOINED, STEPS, LABELS, dynamic=names, also=also)


class WholeLength(nn.Module):
    """Every sequence is as long as the scores: lengths are sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(5)
        self.loss = nn.CTCLoss(zero_infinity=True)

    def forward(self, x: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(x).log_softmax(-1).transpose(0, 1)
        inputs = torch.full((x.shape[0],), x.shape[1], dtype=torch.long)
        labels = torch.full((x.shape[0],), targets.shape[1], dtype=torch.long)
        two = F.ctc_loss(logits[:, :2], targets[:2], (x.shape[1],) * 2, [targets.shape[1]] * 2)
        return {"loss": self.loss(logits, targets, inputs, labels), "two": two, "logits": logits}


def test_lengths_that_are_sizes() -> None:
    sample = torch.randn(3, 8, 4), torch.tensor([[1, 2], [3, 3], [4, 1]])
    conversion = tracer.convert(WholeLength(), sample, dynamic_shapes=({1: "T"}, None), route="direct", seed=0)
    assert conversion.report.resolved == {"head": {"in_features": 4}}
    assert conversion.verification is not None


def test_special_lengths_and_numbers() -> None:
    """No alignments, no steps, no labels; scores that are infinite, or nan, some of them where nothing reads them."""
    for inputs, labels in (([2, 5, 0], [3, 2, 1]), ([2, 0, 0], [0, 0, 1])):
        assert_lowering_matches(every(), scores(), PADDED, torch.tensor(inputs), torch.tensor(labels))
    assert_lowering_matches(every(input_lengths=(6, 5, 3), target_lengths=(0, 0, 0)), scores(), torch.zeros(0).long())
    assert_lowering_matches(
        every(input_lengths=(6, 5, 3), target_lengths=(0, 0, 0)), scores(), torch.zeros(3, 0).long()
    )
    special = scores()
    special[3, 0, 2] = special[5, 1, 3] = math.nan
    special[1, 2, 0] = special[1, 2, 4] = -math.inf
    assert_lowering_matches(every(), special, PADDED, STEPS, LABELS)


def test_a_blank_among_the_labels() -> None:
    assert_lowering_matches(every(), scores(), torch.tensor([[0, 2, 0], [0, 0, 1], [1, 0, 0]]), STEPS, LABELS)


@pytest.mark.parametrize(
    ("targets", "inputs", "labels"),
    [
        (PADDED, [7, 5, 3], [3, 2, 1]),
        (PADDED, [-1, 5, 3], [3, 2, 1]),
        (PADDED, [6, 5, 3], [4, 2, 1]),
        (PADDED, [6, 5, 3], [3, -1, 1]),
        (JOINED, [6, 5, 3], [3, 1, 1]),
        (JOINED, [6, 5, 3], [3, 2, 2]),
    ],
)
def test_lengths_that_torch_refuses_make_the_file_fail(targets: Any, inputs: Any, labels: Any) -> None:
    given = scores(), targets, torch.tensor(inputs), torch.tensor(labels)
    with pytest.raises(RuntimeError):
        F.ctc_loss(*given)
    sample = scores(), targets, STEPS, LABELS
    model = tracer.convert(Call(F.ctc_loss), sample, verify=False, route="direct").onnx_model
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    with pytest.raises(Exception, match="Gather"):
        session.run(None, {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)})


def test_spellings() -> None:
    """The reduction of native functions is a number; where it is not given, only aten takes the mean."""
    losses = torch.ctc_loss, torch.ops.aten.ctc_loss, torch.ops.aten.ctc_loss.Tensor

    def all_of(*given: torch.Tensor) -> Any:
        return tuple(loss(*given, *more) for loss in losses for more in ([], [0, 0], [4, 1, True], [0, 2]))

    assert_lowering_matches(all_of, scores(), PADDED.clamp(0, 4), STEPS, LABELS)
    assert_lowering_matches(nn.CTCLoss(4, "sum", True), scores(), PADDED.clamp(0, 4), STEPS, LABELS)
