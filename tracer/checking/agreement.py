"""Whether a value of the exported file is the module's: how far apart they are, and how far they may be."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import fx

from passes.program.notes import VALUE
from passes.program.program import Program, tensor_specs
from passes.values.nested import ATOMS, leaves, map_structure

Array: TypeAlias = np.ndarray[Any, Any]

# Largest difference allowed, relative to a value's range (at least 1), by the coarsest dtype that takes part.
TOLERANCES: dict[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}


def tolerances(program: Program, in_float32: bool = False) -> dict[fx.Node, float]:
    """The difference allowed in each node's value: that of the coarsest dtype of what it is computed from.

    `in_float32` says that what runs the file may compute in that, whatever the program's dtypes.
    """
    least = TOLERANCES[torch.float32] if in_float32 else 0.0
    found: dict[fx.Node, float] = {}
    for node in program.graph.nodes:
        own = (TOLERANCES.get(dtype, 0.0) for dtype in _dtypes(node, program))
        found[node] = max([least, *own, *(found[operand] for operand in node.all_input_nodes)])
    return found


def _dtypes(node: fx.Node, program: Program) -> Iterator[torch.dtype]:
    """The dtypes of a node's value, and of the weights of the module that it calls."""
    yield from (spec.dtype for spec in tensor_specs(VALUE.of(node)))
    if node.op == "call_module":
        module = program.module(str(node.target))
        yield from (tensor.dtype for tensor in (*module.parameters(), *module.buffers()))


def fault_of(found: Array, expected: torch.Tensor, tolerance: float) -> str | None:
    """What is wrong with the file's value beside the module's, or None; integers must be equal."""
    if tuple(found.shape) != tuple(expected.shape):
        return f"has the shape {list(found.shape)}, but the module gives {list(expected.shape)}"
    if not (expected.dtype.is_floating_point or expected.dtype.is_complex):
        return _fault_of_integers(found, expected.detach().cpu().numpy())
    exact, approximate = as_float64(expected), found.astype(np.float64)
    odd = ~np.isfinite(exact)
    if not np.array_equal(exact[odd], approximate[odd], equal_nan=True) or not np.isfinite(approximate[~odd]).all():
        return "has other infinities or NaNs than the module's"
    difference, scale = distance(found, expected)
    if difference > tolerance * max(scale, 1.0):
        return (
            f"differs from the module's by {difference:.3g} in a range of {scale:.3g}; "
            f"{tolerance:g} of the range is allowed"
        )
    return None


def _fault_of_integers(found: Array, exact: Array) -> str | None:
    """What is wrong with integers or booleans: they are compared as they are, beyond 2**53 too."""
    differing = np.flatnonzero(found.ravel() != exact.ravel())
    if not differing.size:
        return None
    first = differing[0]
    place = [int(index) for index in np.unravel_index(first, exact.shape)]
    return (
        f"differs from the module's in {differing.size} of {exact.size} elements: "
        f"{found.ravel()[first]} and not {exact.ravel()[first]} at {place}"
    )


def distance(found: Array, expected: torch.Tensor) -> tuple[float, float]:
    """The largest difference between finite numbers, and the largest of the module's."""
    exact = as_float64(expected)
    return float(differences(found, exact).max(initial=0.0)), float(np.abs(exact[np.isfinite(exact)]).max(initial=0.0))


def differences(found: Array, exact: Array) -> Array:
    """How far the elements are apart, all of them finite; 0 where one is not."""
    finite = np.isfinite(exact) & np.isfinite(found)
    return np.abs(np.where(finite, found, 0).astype(np.float64) - np.where(finite, exact, 0))


def as_float64(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().cpu().double().numpy()
    return array


def flat_tensors(value: Any) -> list[torch.Tensor]:
    """The tensors of a nested value, in order."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor)]


def cloned(value: Any) -> Any:
    """A nested value with clones of its tensors, and copies of what else may change in it, where that is possible."""
    return map_structure(value, _cloned, keep_classes=True)


def _cloned(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return leaf.clone()
    if type(leaf) in ATOMS:
        return leaf
    try:
        return copy.deepcopy(leaf)
    except Exception:  # what cannot be copied may raise anything
        return leaf
