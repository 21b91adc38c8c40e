"""Models whose forward computes a loss: with labels or without, in whatever it returns, behind lazy layers."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer

ROWS, LABELS = tracer.spec("N", 3), tracer.spec("N", dtype=torch.int64)


class Classifier(nn.Module):
    """A lazy body and a lazy head; the loss has a weight for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LazyLinear(8)
        self.head = nn.LazyLinear(5)
        self.loss = nn.CrossEntropyLoss(weight=torch.rand(5) + 0.5, label_smoothing=0.1)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu())


class Tuple(Classifier):
    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = self.logits(x)
        return logits if labels is None else (self.loss(logits, labels), logits)


class Dict(Classifier):
    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = self.logits(x)
        loss = {} if labels is None else {"loss": self.loss(logits, labels)}
        return {**loss, "logits": logits}


@dataclasses.dataclass
class Output:
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class Dataclass(Classifier):
    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Output:
        logits = self.logits(x)
        return Output(None if labels is None else self.loss(logits, labels), logits)


@dataclasses.dataclass
class Results(OrderedDict[str, Any]):
    """A dataclass that is a dict of those of its fields that are there, as results of large models are."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)

    def __getitem__(self, key: Any) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else tuple(self.values())[key]


class WithResults(Classifier):
    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool = True) -> Any:
        logits = self.logits(x)
        loss = None
        if labels is not None:
            loss = nn.CrossEntropyLoss(self.loss.weight)(logits.view(-1, 5), labels.view(-1))
        if not return_dict:
            return logits if loss is None else (loss, logits)
        return Results(loss, logits)


MODELS = [Tuple, Dict, Dataclass, WithResults]


def outputs(conversion: Any) -> list[str]:
    return [output.name for output in conversion.onnx_model.graph.output]


@pytest.mark.parametrize("kind", MODELS)
def test_with_labels_and_without(kind: type[Classifier]) -> None:
    """Labels are an input of the file where the sample has them; the weight is in it under its own name."""
    conversion = tracer.convert(kind(), (ROWS, LABELS), route="direct", seed=0)
    assert conversion.verification is not None
    assert [entry.name for entry in conversion.onnx_model.graph.input] == ["x", "labels"]
    assert outputs(conversion) == (["output_0", "output_1"] if kind is Tuple else ["loss", "logits"])
    weights = {initializer.name for initializer in conversion.onnx_model.graph.initializer}
    assert {"loss.weight", "head.weight", "body.bias"} <= weights
    assert conversion.report.resolved == {"body": {"in_features": 3}, "head": {"in_features": 8}}
    alone = tracer.convert(kind(), (ROWS,), route="direct", seed=0)
    assert outputs(alone) == ["output" if kind is Tuple else "logits"]
    assert "loss.weight" not in {initializer.name for initializer in alone.onnx_model.graph.initializer}


def test_on_data_whose_labels_are_not_just_any() -> None:
    labels = torch.tensor([4, 0, -100, 2])
    conversion = tracer.convert(Tuple(), (torch.randn(4, 3), labels), route="direct", seed=0)
    assert conversion.verification is not None


class Step(nn.Module):
    """A training step in the way of trainers, which takes a batch and notes what it found."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Tuple()
        self.criterion = nn.CrossEntropyLoss(ignore_index=0)

    def log(self, name: str, value: torch.Tensor) -> None:
        self.__dict__.setdefault("logged", {})[name] = value

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
        x, labels = batch
        logits = self.net(x)
        loss = self.criterion(logits, labels) + 1e-3 * sum(p.square().sum() for p in self.net.head.parameters())
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log("accuracy", accuracy)
        return {"loss": loss, "accuracy": accuracy}

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.training_step((x, labels), 0)


def test_a_training_step() -> None:
    conversion = tracer.convert(Step(), (ROWS, LABELS), route="direct", seed=0)
    assert outputs(conversion) == ["loss", "accuracy"]
    assert conversion.verification is not None


class Segmentation(nn.Module):
    """Images of any size, with three losses at once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(4, 3, padding=1)
        self.edges = nn.LazyConv2d(1, 1)

    def forward(self, image: torch.Tensor, labels: torch.Tensor, edges: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.conv(image)
        found = self.edges(logits)[:, 0]
        return {
            "classes": F.cross_entropy(logits, labels, ignore_index=255),
            "outline": F.binary_cross_entropy_with_logits(found, edges, pos_weight=torch.tensor(3.0)),
            "smooth": F.smooth_l1_loss(found[:, 1:], found[:, :-1], reduction="sum"),
        }


def test_images_of_any_size() -> None:
    sample = (
        tracer.spec("N", 3, "H", "W"),
        tracer.spec("N", "H", "W", dtype=torch.int64),
        tracer.spec("N", "H", "W"),
    )
    conversion = tracer.convert(Segmentation(), sample, route="direct", seed=0)
    assert outputs(conversion) == ["classes", "outline", "smooth"]
    assert len({frozenset(found.sizes.items()) for found in conversion.verification.comparisons}) > 3


def test_a_subclass_that_reads_no_more_than_its_class() -> None:
    """What a loss has beside what its forward reads is not taken for an argument."""

    class Named(nn.MSELoss):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.tensor([1.0, 100.0]))

    conversion = tracer.convert(Named(), (torch.randn(3, 2), torch.randn(3, 2)), route="direct")
    assert conversion.verification is not None
    assert not conversion.onnx_model.graph.initializer


class OfItsOwn(nn.Module):
    """A loss of the model's own tensors, which torch computes while the forward is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weight = torch.tensor([1.0, 5.0, 25.0])
        return x + F.l1_loss(self.first, self.second, weight=weight), F.l1_loss(x, self.second, weight=weight)


def test_a_weight_that_torch_does_not_hand_over() -> None:
    """The weighted distance, of a traced tensor and of real ones: torch hands its function over without the weight."""
    conversion = tracer.convert(OfItsOwn(), (torch.randn(3),), route="direct")
    assert conversion.verification is not None
