"""Shared test settings."""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, settings

torch.manual_seed(0)
# `LAZYTRACER_SWEEP=1` generates ten times as many cases.
settings.register_profile("default", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("sweep", max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sweep" if os.environ.get("LAZYTRACER_SWEEP") else "default")
