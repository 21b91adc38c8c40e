"""All rewrites, in the order in which they are tried."""

from __future__ import annotations

from passes.ops.op import IDENTITIES
from passes.ops.rewrite import Rewrite
from passes.stages.rewrites.batchnorm_folds import BATCH_NORM_FOLDS


def identities() -> tuple[Rewrite, ...]:
    """The rows that the ops declare of themselves: a result that is an operand."""
    return tuple(IDENTITIES.values())


def rewrites() -> tuple[Rewrite, ...]:
    """Identities first: what stands between two calls hides what they are together."""
    return (*identities(), *BATCH_NORM_FOLDS)


__all__ = ["BATCH_NORM_FOLDS", "identities", "rewrites"]
