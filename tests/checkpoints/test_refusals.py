"""What cannot be loaded is refused: code that fails, what is no state_dict, damaged files; and layers never reached."""

from __future__ import annotations

import random
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tracer
from tests.checkpoints.models import SAMPLE, Plain, trained
from tracer import InputError, LoadError, TracerError


def exiting(*_: Any) -> None:
    sys.exit(3)


def failing(*_: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("action", [exiting, failing])
@pytest.mark.parametrize(
    "install",
    [
        lambda model, action: model.register_load_state_dict_pre_hook(action),
        lambda model, action: model.head.register_load_state_dict_post_hook(action),
        lambda model, action: setattr(model.head, "_load_from_state_dict", action),
        lambda model, action: setattr(model, "load_state_dict", action),
    ],
)
@pytest.mark.parametrize("sample", [True, False])
def test_loading_code_that_fails(install: Any, action: Any, sample: bool) -> None:
    model, weights = Plain(), trained(Plain)
    install(model, action)
    with pytest.raises(LoadError, match=r"own loading code raises (SystemExit|ZeroDivisionError)"):
        tracer.resolve(model, tracer.spec(*SAMPLE) if sample else None, weights=weights)


@pytest.mark.parametrize("action", [exiting, failing])
def test_an_initialisation_that_fails(action: Any) -> None:
    class Failing(nn.LazyLinear):
        reset_parameters = staticmethod(lambda: None)

        def initialize_parameters(self, x: torch.Tensor) -> None:
            super().initialize_parameters(x)
            action()

    for given in (None, {"0.weight": torch.ones(3, 5), "0.bias": torch.ones(3)}):
        with pytest.raises(TracerError, match=r"SystemExit|ZeroDivisionError"):
            tracer.resolve(nn.Sequential(Failing(3)), tracer.spec(*SAMPLE), weights=given)


class Unreached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.idle, self.spare = nn.LazyLinear(3), nn.LazyLinear(4), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


@pytest.mark.parametrize("given", [True, False])
def test_a_layer_that_the_sample_never_reaches(given: bool) -> None:
    full = nn.ModuleDict({"fc": nn.Linear(5, 3), "idle": nn.Linear(7, 4), "spare": nn.Linear(2, 2)})
    weights = {key: value for key, value in full.state_dict().items() if given or not key.startswith("idle")}
    model = Unreached()
    with pytest.warns(tracer.TracerWarning, match="never reaches the lazy layers idle"):
        found = tracer.resolve(model, tracer.spec(*SAMPLE), weights=weights)
    assert isinstance(model.idle.weight, nn.UninitializedParameter)
    if given:
        assert torch.equal(found.idle.weight, full["idle"].weight)
        assert found.idle(torch.ones(1, 7)).shape == (1, 4)
    else:
        assert isinstance(found.idle.weight, nn.UninitializedParameter)
    with warnings.catch_warnings(), pytest.raises(LoadError, match=r"spare\.bias"):
        warnings.simplefilter("ignore")
        tracer.resolve(
            Unreached(), tracer.spec(*SAMPLE), weights={k: v for k, v in weights.items() if k != "spare.bias"}
        )


@pytest.mark.parametrize("weights", [3, b"w.pt", [1], {1: torch.ones(2)}, {"epoch": 3, "net": {}}, object()])
def test_what_is_no_state_dict(weights: Any) -> None:
    with pytest.raises(LoadError if isinstance(weights, dict) else InputError):
        tracer.resolve(Plain(), tracer.spec(*SAMPLE), weights=weights)


def flipped(content: bytes, source: random.Random, count: int = 1) -> bytes:
    changed = bytearray(content)
    for _ in range(count):
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["safetensors", "pt", "old pt"])
def test_damaged_files_are_refused_or_loaded(form: str, tmp_path: Path) -> None:
    weights = nn.Linear(2, 3).state_dict()
    path = tmp_path / f"w.{form.split()[-1]}"
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "pt")
    whole, source = path.read_bytes(), random.Random(0)
    for attempt in range(150):
        damaged = flipped(whole, source, 1 + attempt % 3) if attempt % 5 else whole[: source.randrange(len(whole))]
        path.write_bytes(damaged)
        try:
            tracer.resolve(nn.Linear(2, 3), weights=path)
        except LoadError as error:
            assert str(error).replace("\n", "").isprintable()  # noqa: PT017
