"""Why a layer has its sizes: the chain of shapes from the inputs to it, in formulas of the inputs' dimensions."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from torch import fx, nn

from passes import ops  # noqa: F401  registers every op
from passes.errors import InputError
from passes.isolation.torch_state import undisturbed
from passes.lowering.blockers import ON_CONTAINERS
from passes.program.notes import CALL, VALUE, location_of
from passes.program.program import Program, operation_of, tensor_specs
from passes.program.regions import begins_region, ends_region
from passes.sizes.dimension import Dim, Size, hint, product
from passes.values.nested import map_structure
from passes.values.spec import TensorSpec
from tracer.capture.fitting_sizes import follow_where_it_fits
from tracer.capture.named_sizes import with_names
from tracer.edge.boundary import public
from tracer.edge.collection_pause import without_collection
from tracer.inputs.dynamic_shapes import without_dynamic_axes
from tracer.inputs.request import Request
from tracer.reports.report import name_of, shape_of
from tracer.reports.text import shape as shape_text


@dataclass(frozen=True, slots=True)
class Step:
    """One step on the way to a layer: what it is, the shape it gives as formulas and as numbers, and its line.

    `kept` counts the steps between the one shown before and this one, which leave the shape as it is.
    """

    name: str
    type: str
    formula: list[Any]
    shape: list[Any]
    source: str | None
    kept: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        formula, numbers = shape_text(self.formula), shape_text(self.shape)
        return formula if formula == numbers else f"{formula} = {numbers}"


@dataclass(frozen=True, slots=True)
class DerivedSize:
    """A size that was inferred, and how it follows from the inputs: `fc1.in_features = 16*(H//4)*(W//4) = 784`."""

    name: str
    formula: str
    value: int

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        numbers = "" if self.formula == str(self.value) else f" = {self.value}"
        return f"{self.name} = {self.formula}{numbers}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The chain of shapes that ends at the layer `path`, and the sizes that were inferred for it.

    `declared` is what the layer's author wrote, as the layer prints itself. `named` gives the input's sizes by
    their names in the formulas.
    """

    path: str
    type: str
    declared: str
    steps: list[Step]
    sizes: list[DerivedSize]
    named: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "type": self.type,
            "declared": self.declared,
            "named": self.named,
            "steps": [step.to_dict() for step in self.steps],
            "sizes": [size.to_dict() for size in self.sizes],
        }

    def __str__(self) -> str:
        width = max(len(step.name) for step in self.steps)
        lines = [f"{step.name:{width}}  {step}" + (f"  {step.source}" if step.source else "") for step in self.steps]
        return "\n".join([*lines, *map(str, self.conclusion())])

    def conclusion(self) -> list[DerivedSize | str]:
        """What it comes to: the sizes inferred, or that none had to be."""
        return [*self.sizes] or [f"{self.path or 'the model'} is not lazy: {self.type}({self.declared})"]


@public
@undisturbed
@without_collection
@without_dynamic_axes
def why(
    model: nn.Module,
    args: Any,
    path: str,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    dims: Mapping[str, int] | None = None,
) -> Explanation:
    """Why the layer at `path` has its sizes: every step from the inputs that decides them.

    The sizes of the sample are named (N, C, H, W), and the model is followed once more with names in their place, as
    far as its forward allows that. Allocates no weight, runs nothing and changes nothing.

    Raises TracerError; InputError where the model has no such layer, or the sample never reaches it.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the model is a {type(model).__name__}, not a torch.nn.Module",
            remedy="pass an instance of your model class",
        )
    path = _known_path(model, path)
    followed = follow_where_it_fits(model, Request(args, kwargs, dynamic_shapes, dims))
    program = with_names(model, followed.sample, followed.program)
    target = _call_of(path, program)
    if target is None:
        raise InputError(f"the sample never reaches {path}", remedy="give a sample that reaches it")
    behind = _leading_to(target, program)
    lazy = program.lazies.get(path)
    module = program.module(path)
    attributes = lazy.inference.attributes if lazy is not None else {}
    return Explanation(
        path=path,
        type=lazy.type if lazy is not None else type(module).__name__,
        declared=_declared(module),
        steps=list(_steps(behind, program)),
        sizes=[
            DerivedSize(f"{path}.{name}" if path else name, _factored(size, behind), hint(size))
            for name, size in attributes.items()
        ],
        named=dict(program.log.sampled),
    )


def _declared(module: nn.Module) -> str:
    """What the module prints of itself; nothing where its own code for that fails."""
    try:
        return str(module.extra_repr())
    except Exception:
        return ""


def _known_path(model: nn.Module, path: str) -> str:
    """The path by which the graph knows the module at `path`: the first of a shared one."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if path not in modules:
        ending = [known for known in modules if known.endswith(f".{path}")]
        close = ending or difflib.get_close_matches(path, modules, cutoff=0.4)
        listed = ", ".join((close or [known for known in modules if known])[:3])
        raise InputError(
            f"{type(model).__name__} has no layer {path!r}",
            remedy=f"did you mean {listed}?" if close else f"name one of its layers: {listed}, ...",
        )
    first: str = next(known for known, module in model.named_modules() if module is modules[path])
    return first


# The chain -----------------------------------------------------------------------------------------


def _call_of(path: str, program: Program) -> fx.Node | None:
    """The call of the module; where it was traced through, the last operation in it; where it is part of a module
    that could not be traced, the call of that module."""
    calls = [node for node in program.graph.nodes if node.op == "call_module"]
    computed = [node for node in program.graph.nodes if node.op in ("call_module", "call_function", "call_method")]
    own = [node for node in calls if program.path(node) == path]
    inside = [node for node in computed if _is_within(location_of(node).path, path)]
    around = [node for node in calls if _is_within(path, program.path(node))]
    return next(iter([*own[:1], *inside[-1:], *around[:1]]), None)


def _is_within(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")


def _leading_to(target: fx.Node, program: Program) -> list[fx.Node]:
    """The node and all that it depends on, in graph order."""
    needed = {target}
    for node in reversed(program.graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [node for node in program.graph.nodes if node in needed]


def _steps(behind: Sequence[fx.Node], program: Program) -> Iterator[Step]:
    kept = 0
    for node in behind:
        if node.op == "get_attr" or next(tensor_specs(VALUE.of(node)), None) is None or _is_container_access(node):
            continue
        if node is not behind[-1] and _keeps_shape(node):
            kept += 1
            continue
        value = VALUE.of(node)
        yield Step(name_of(node, program), _kind(node, program), shape_of(value), shape_of(_numbers(value)),
                   location_of(node).source, kept)  # fmt: skip
        kept = 0


def _is_container_access(node: fx.Node) -> bool:
    if begins_region(node) or ends_region(node):
        return True
    return not CALL.on(node) and node.target in ON_CONTAINERS


def _keeps_shape(node: fx.Node) -> bool:
    before = [shape_of(VALUE.of(operand)) for operand in node.all_input_nodes]
    return node.op != "placeholder" and shape_of(VALUE.of(node)) in before[:1]


def _kind(node: fx.Node, program: Program) -> str:
    lazy = program.lazies.get(program.path(node)) if node.op == "call_module" else None
    return lazy.type if lazy is not None else "" if node.op == "placeholder" else operation_of(node, program)


def _numbers(value: Any) -> Any:
    return map_structure(
        value, lambda leaf: leaf.with_shape(*map(hint, leaf.shape)) if isinstance(leaf, TensorSpec) else leaf
    )


def _factored(size: Size, behind: Sequence[fx.Node]) -> str:
    """The formula as a product of axes that were merged on the way, where the size is one; else as it is."""
    if isinstance(size, int) or len(size.terms) == 1:
        return str(size)
    for node in reversed(behind[:-1]):
        for spec in tensor_specs(VALUE.of(node)):
            axes = [axis for axis in spec.shape if str(axis) != "1"]
            for start, end in combinations(range(len(axes) + 1), 2):
                if end - start > 1 and str(product(axes[start:end])) == str(size):
                    return "*".join(map(_factor, axes[start:end]))
    return str(size)


def _factor(size: Size) -> str:
    text = str(size)
    return f"({text})" if isinstance(size, Dim) and ("/" in text or len(size.terms) > 1) else text
