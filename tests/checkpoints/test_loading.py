"""A checkpoint is loaded as `load_state_dict` loads it into the model that a dry run has made."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tracer
from tests.checkpoints.changes import CHANGES
from tests.checkpoints.models import MODELS, SAMPLE, Weights, assert_same, dry_run, everything, trained
from tests.reading import run
from tracer import LazyResolutionError, LoadError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Casting complex values"),
    pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match num_features"),
]

# Every model with its own state_dict, and by turns with every change; the others are slow.
PAIRS = [
    pytest.param(kind, change, marks=[] if row == 0 or (row + column) % 6 == 0 else [pytest.mark.slow])
    for column, kind in enumerate(MODELS)
    for row, change in enumerate(CHANGES)
]


def loaded(model: nn.Module, weights: Weights) -> nn.Module | None:
    """The model after torch's own loading, or None where torch refuses."""
    try:
        model.load_state_dict(copy.deepcopy(weights))
    except (RuntimeError, KeyError, NotImplementedError, TypeError, IndexError):
        return None
    return model


@pytest.mark.parametrize(("kind", "change"), PAIRS)
def test_with_a_sample_it_is_what_torch_loads(kind: str, change: str) -> None:
    weights = trained(MODELS[kind])
    CHANGES[change](weights)
    before = copy.deepcopy(weights)
    torch.manual_seed(1)
    expected = loaded(dry_run(MODELS[kind]()), weights)
    torch.manual_seed(1)
    model = MODELS[kind]()
    untouched, state = everything(model), torch.get_rng_state()
    if expected is None:
        with pytest.raises((LoadError, LazyResolutionError)):
            tracer.resolve(model, tracer.spec(*SAMPLE), weights=weights)
    else:
        assert_same(tracer.resolve(model, tracer.spec(*SAMPLE), weights=weights), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert str(everything(model)) == str(untouched)
    assert str(weights) == str(before)


@pytest.mark.parametrize(("kind", "change"), PAIRS)
def test_without_a_sample_the_forward_is_that_of_torch(kind: str, change: str) -> None:
    """Torch's lazy layers take any shape that a checkpoint has: one that they make of no input is refused."""
    weights = trained(MODELS[kind])
    CHANGES[change](weights)
    x = torch.rand(SAMPLE)
    torch.manual_seed(1)
    model = MODELS[kind]()
    state = torch.get_rng_state()
    expected = loaded(copy_of(kind), weights)
    try:
        found = tracer.resolve(model, weights=weights)
    except LoadError:
        refused = True
    else:
        refused = False
    assert torch.equal(torch.get_rng_state(), state)
    if refused:
        assert expected is None or loaded(dry_run(copy_of(kind)), weights) is None
        return
    assert expected is not None
    assert {type(module) for module in found.modules()} & {nn.LazyLinear, nn.LazyConv1d} == set()
    if "Norm" in kind:  # torch's own lazy norm does not learn its size from a checkpoint, and then fails or warns
        expected.norm.num_features = 6
    assert_same_result(found, expected, x)


def assert_same_result(found: nn.Module, expected: nn.Module, x: torch.Tensor) -> None:
    """The two give the same, or fail alike."""
    try:
        result = expected.eval()(x)
    except (RuntimeError, TypeError, AttributeError, AssertionError, IndexError):
        with pytest.raises((RuntimeError, TypeError, AttributeError, AssertionError, IndexError)):
            found.eval()(x)
    else:
        torch.testing.assert_close(found.eval()(x), result, rtol=0, atol=0, equal_nan=True)


def copy_of(kind: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return MODELS[kind]()


@pytest.mark.parametrize("change", ["as it is", "other values in ties", "double", "other extra state"])
@pytest.mark.parametrize("kind", MODELS)
def test_the_file_is_the_loaded_model(kind: str, change: str, tmp_path: Path) -> None:
    weights = trained(MODELS[kind])
    CHANGES[change](weights)
    model = loaded(dry_run(MODELS[kind]()), weights)
    assert model is not None
    x = torch.rand(SAMPLE)
    with torch.no_grad():
        expected = model(x)
    path = tmp_path / "model.onnx"
    conversion = tracer.convert(
        MODELS[kind](), tracer.spec(*SAMPLE), path, input_names=["x"], weights=weights, verify=False
    )
    (found,) = run(path, x=x).values()
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=1e-4, atol=1e-4)
    assert conversion.report.resolved == tracer.inspect(MODELS[kind](), tracer.spec(*SAMPLE)).resolved


@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_in_place(kind: str, sample: bool) -> None:
    weights = trained(MODELS[kind])
    torch.manual_seed(1)
    expected = loaded(dry_run(MODELS[kind]()) if sample else MODELS[kind](), weights)
    assert expected is not None
    torch.manual_seed(1)
    model = MODELS[kind]()
    held = dict(model.named_parameters())
    assert tracer.resolve(model, tracer.spec(*SAMPLE) if sample else None, weights=weights, inplace=True) is model
    if sample:
        assert_same(model, expected)
    elif "Norm" not in kind:
        assert_same_result(model, expected, torch.rand(SAMPLE))
    assert all(found is held[name] for name, found in model.named_parameters() if name in held)


@pytest.mark.parametrize("form", ["safetensors", "pt", "nested"])
@pytest.mark.parametrize("kind", ["Plain", "Tied", "Extra", "Versioned", "ExtraTensor"])
def test_from_a_file(kind: str, form: str, tmp_path: Path) -> None:
    weights = trained(MODELS[kind])
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        if kind in ("Extra", "Versioned"):
            pytest.skip("the format holds tensors alone")
        save_file({key: tensor.clone() for key, tensor in weights.items()}, path)
    else:
        torch.save({"model": weights, "epoch": 1} if form == "nested" else weights, path)
    expected = loaded(dry_run(MODELS[kind]()), weights)
    assert expected is not None
    assert_same(tracer.resolve(MODELS[kind](), tracer.spec(*SAMPLE), weights=path), expected)
