"""torch.nn's transformer layers on their plain path, whatever the mode and the data.

In eval mode these layers may take a fast path: fused kernels, and nested tensors where a padding mask is aligned.
Whether they do is decided by data, by gradient mode and by the number of heads, and at padded positions, whose
values mean nothing, the two paths differ. They also compare a mask's data to see whether it is causal. That only makes
them faster: a mask is applied in any case. All that follows a model, or compares an export to it, takes the plain path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from passes.isolation.torch_state import Loan
from passes.torch_private import CAUSAL_DETECTION


def _by_hint_alone(mask: Any, is_causal: bool | None = None, size: Any = None) -> bool:
    """In place of torch's detection: a mask counts as causal only where the caller says so."""
    return is_causal is True


@contextmanager
def plain_attention() -> Iterator[None]:
    """Inside the block no transformer layer takes its fast path or looks at its mask's data."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    with Loan([CAUSAL_DETECTION], lambda: torch.backends.mha.set_fastpath_enabled(enabled)):
        torch.backends.mha.set_fastpath_enabled(False)
        setattr(*CAUSAL_DETECTION, _by_hint_alone)
        yield


__all__ = ["plain_attention"]
