"""What a caller writes of an input in place of data: its sizes, names and constraints."""

from __future__ import annotations

import torch

from passes.errors import InputError
from passes.text.constraints import parse_constraint
from passes.values.spec import InputSpec, device_of

# What tells a constraint from the name of a size.
_COMPARISONS = "<>=!"


def is_constraint(text: str) -> bool:
    """Whether a text compares sizes, and names none."""
    return any(sign in text for sign in _COMPARISONS)


def spec(*shape: int | str, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> InputSpec:
    """A sample input without data: `spec("N", 3, 224, 224)`, `spec("N", 3, "H", "W", "H>=33", "W%32==0")`.

    A number is a fixed size, a string names a dynamic dimension; the same name stands for the same
    size wherever it occurs. No sizes at all describe a 0-d tensor.

    A string that compares sizes is no size but a constraint, or several with commas between them. It promises that the
    model will see no other sizes, and asks in turn that the file is right at every one of them: a model that needs more
    is refused. It may be of the names of other inputs too. `"P>=0"` says that a size may be 0; one of which nothing is
    said is at least 1.

    Raises InputError for a negative size, a name that is not an identifier, or a constraint that cannot be read.
    """
    sizes: list[int | str] = []
    constraints: list[str] = []
    for size in shape:
        if isinstance(size, str):
            if is_constraint(size):
                parse_constraint(size)
                constraints.append(size)
                continue
            if not size.isidentifier():
                raise InputError(f"a dynamic dimension is named by a word, not {size!r}", remedy="use one such as 'N'")
        elif isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise InputError(f"a size is a whole number of at least 0, not {size!r}", remedy='write spec("N", 3, 224)')
        sizes.append(size)
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"the dtype of a sample is a torch.dtype, not {dtype!r}", remedy="write dtype=torch.float32")
    return InputSpec(tuple(sizes), dtype, device_of(device), tuple(constraints))


__all__ = ["is_constraint", "spec"]
