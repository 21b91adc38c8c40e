"""Names of an exported model's inputs and outputs: one per tensor, readable, and different from each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from passes.errors import ExportError
from passes.program.notes import location_of
from passes.program.program import Program
from passes.values.spec import TensorSpec, describe


@dataclass(frozen=True, slots=True)
class InterfaceNames:
    """The inputs' names in the order of the sample's tensors, the outputs' in that of the result's.

    The tensors of the model that are kept are the last of both, in their order.
    """

    inputs: list[str]
    outputs: list[str]


def interface_names(program: Program, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> InterfaceNames:
    """The names that the caller gives, or where they give none the model's own.

    An input's own name is its argument's, `state_0` or `batch_mask` inside a structure; an output's is `output`, a
    dict's key, a field, `output_0`, `boxes_1`. An output's own name that an input or a weight has gets `_out` added.
    A tensor of the model that is kept has its path as an input, with `_in` added where an argument has that name, and
    the path with `_out` as an output. Names may be given for the arguments and results alone.

    Raises ExportError where the given names are not one for each, or not different, and where the forward returns
    no tensor, or something that is none.
    """
    arguments = [str(node.target) for node in program.inputs_of_sample()]
    results = _output_names(program)
    input_names = _checked(inputs, arguments, _distinct(program.kept, arguments, "_in"), "input")
    taken = {*input_names, *program.state(), *program.kept}
    results = _distinct(results, taken)
    kept = _distinct([f"{path}_out" for path in program.kept], {*taken, *results})
    output_names = _checked(outputs, results, kept, "output")
    shared = [name for name in output_names if name in input_names]
    if shared:
        raise ExportError(f"an input and an output are both named {shared[0]!r}", remedy="give different names")
    return InterfaceNames(input_names, output_names)


def _output_names(program: Program) -> list[str]:
    try:
        names = _named("", program.result())
        if not names and not program.kept:
            raise ExportError("the model returns no tensor", remedy="return at least one tensor from the forward")
    except ExportError as error:
        raise error.placed(location_of(program.output())) from error
    return names


def _named(name: str, value: Any) -> list[str]:
    """A name for each tensor in a result; those in the outermost container are not named after it."""
    if isinstance(value, TensorSpec):
        return [name or "output"]
    if hasattr(value, "_fields"):  # a named tuple
        value = value._asdict()
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _named(f"{name}_{key}" if name else str(key), item)]
    if isinstance(value, (tuple, list)):
        return [leaf for index, item in enumerate(value) for leaf in _named(f"{name or 'output'}_{index}", item)]
    if value is None:
        return []
    raise ExportError(
        f"the model returns {describe(value)}, which is no tensor",
        remedy="return tensors only, in tuples, lists, dicts, dataclasses, or classes that are registered with "
        "torch.utils._pytree.register_pytree_node",
    )


def _distinct(names: Sequence[str], taken: Collection[str], more: str = "_out") -> list[str]:
    """The names, with more behind those that are taken or come a second time."""
    distinct: list[str] = []
    for name in names:
        while name in taken or name in distinct:
            name += more
        distinct.append(name)
    return distinct


def _checked(given: Sequence[str] | None, own: list[str], kept: list[str], kind: str) -> list[str]:
    """The names that are given, for all or for all but what is kept, or else our own."""
    own = [*own, *kept]
    if given is None:
        return own
    names = [given] if isinstance(given, str) else list(given)
    if kept and len(names) == len(own) - len(kept):
        names += kept
    if isinstance(given, str) or len(names) != len(own) or len(set(names)) != len(own) or not all(names):
        raise ExportError(
            f"{kind}_names is {given!r}, but the model has {len(own)} {kind}s: {', '.join(own)}",
            remedy=f"give a list of {len(own)} different names",
        )
    return names
