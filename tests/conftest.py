"""Shared test settings."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# A plain run generates the same cases every time, so that its answer is about the code; `LAZYTRACER_SWEEP=1` generates
# ten times as many, and others each time.
settings.register_profile(
    "default", max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("sweep", max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sweep" if os.environ.get("LAZYTRACER_SWEEP") else "default")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Each test draws the same numbers, whichever ran before it."""
    torch.manual_seed(0)
