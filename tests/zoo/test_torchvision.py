"""Every model of torchvision with its layers made lazy: resolved exactly, exported directly, in agreement."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import tracer
from tests.zoo.lazifier import lazify
from tests.zoo.torchvision_models import ZooModel, classification, segmentation, video

IMAGE = classification()
ALL = [*IMAGE, *video(), *segmentation()]
NAMES = {model.name: model for model in ALL}

# One of each family that is quickly run: the others are marked slow, and docs/zoo.md has them all.
QUICK = (
    "densenet121", "efficientnet_b0", "googlenet", "mobilenet_v3_small", "regnet_y_400mf", "resnet18",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "mc3_18",
)  # fmt: skip
SMALL = ("mobilenet_v3_small", "resnet18", "squeezenet1_1", "swin_t")
SWEEP = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NAMES]
# The largest difference, relative to the output's range, that is still agreement.
TOLERANCE = 1e-4


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_the_zoo_is_complete() -> None:
    assert (len(IMAGE), len(ALL)) == (80, 95)
    assert {*QUICK, *SMALL} <= NAMES.keys()


@pytest.mark.parametrize("name", SWEEP)
def test_resolves_exactly_and_takes_the_direct_route(name: str) -> None:
    model = NAMES[name].on_meta()
    original = shapes(model)
    assert lazify(model, torch.empty(2, *NAMES[name].shape, device="meta"))
    conversion = tracer.convert(model, tracer.spec("N", *NAMES[name].shape), verify=False)
    assert shapes(conversion.module) == original
    assert conversion.route == "direct", conversion.route_reason
    assert not [guard for guard in conversion.report.guards if guard.dynamic]


def agree(zoo: ZooModel, path: Path, opset: int = 20) -> tracer.Conversion:
    """Converts the lazy twin with the weights of the original, and holds it against the original at two batch sizes."""
    original = zoo.with_weights()
    weights = original.state_dict()
    lazify(original, torch.zeros(2, *zoo.small))
    conversion = tracer.convert(
        original, tracer.spec("N", *zoo.small), path, weights=weights, opset_version=opset, route="direct"
    )
    assert conversion.verification is not None
    comparisons = conversion.verification.comparisons
    least, sampled, far = sorted({comparison.sizes["N"] for comparison in comparisons})
    assert (least, sampled) == (1, 2)
    assert far > 2
    for comparison in comparisons:
        assert comparison.scale > 1e-3, "the output is next to nothing, so agreement says nothing"
        assert comparison.difference <= TOLERANCE * comparison.scale
    return conversion


@pytest.mark.parametrize("name", SWEEP)
def test_agrees_with_the_original(name: str, tmp_path: Path) -> None:
    agree(NAMES[name], tmp_path / "model.onnx")


@pytest.mark.parametrize("opset", [13, 17, 18, 23])
@pytest.mark.parametrize("name", SMALL)
def test_agrees_at_other_opsets(name: str, opset: int, tmp_path: Path) -> None:
    conversion = agree(NAMES[name], tmp_path / "model.onnx", opset)
    assert conversion.lowered.proto.opset_import[0].version == opset
