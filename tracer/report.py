"""Plain data about a model: its layers, what was inferred, what had to be true."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx

from passes.dimension import Size
from passes.guards import Guard
from passes.lazy_modules import LazyLayer
from passes.program import SPEC, Program, Rung, location_of, tensor_specs
from passes.spec import TensorSpec
from tracer.costs import multiply_adds, parameter_count


@dataclass(slots=True)
class Layer:
    """One module call. `resolved` holds what was inferred for a lazy layer, such as `{"in_features": 400}`.

    Shapes have an int or a formula's text per axis; `params` counts the module's own parameters, `macs` its
    multiply-adds, as an int or a formula.
    """

    path: str
    type: str
    input_shapes: list[list[int | str]]
    output_shape: list[Any]
    params: int
    macs: int | str
    resolved: dict[str, int]
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Report:
    """What is known of a model without running it.

    `params` counts every parameter of the model once, but those of lazy layers in `unreached`; `macs` are the
    multiply-adds of all operations, functional ones too. `rungs` says which modules could not be traced, how they
    were followed instead, and why.
    """

    model: str
    inputs: dict[str, str]
    outputs: list[str]
    layers: list[Layer]
    guards: list[Guard] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)
    params: int = 0
    macs: int | str = 0

    @property
    def resolved(self) -> dict[str, dict[str, int]]:
        """What was inferred, by lazy layer."""
        return {layer.path: layer.resolved for layer in self.layers if layer.resolved}

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "layers": [layer.to_dict() for layer in self.layers],
            "params": self.params,
            "macs": self.macs,
            "rungs": [rung.to_dict() for rung in self.rungs],
            "guards": [guard.to_dict() for guard in self.guards],
            "unreached": self.unreached,
        }


def build_report(program: Program, model_name: str) -> Report:
    """The report of a program whose shapes are propagated."""
    layers = [_layer(node, program) for node in program.graph.nodes if node.op == "call_module"]
    shown = {layer.path for layer in layers}
    layers += [_hidden_layer(lazy, program) for lazy in program.lazies.values() if lazy.path not in shown]
    inputs = {str(node.target): str(node.meta[SPEC]) for node in program.inputs()}
    outputs = [str(spec) for spec in tensor_specs(program.output().meta[SPEC])]
    macs = sum((multiply_adds(node, program) for node in program.graph.nodes), 0)
    return Report(
        model=model_name,
        inputs=inputs,
        outputs=outputs,
        layers=layers,
        guards=program.log.guards,
        unreached=program.unreached,
        rungs=program.rungs,
        params=parameter_count(program.root, program),
        macs=_plain(macs),
    )


def _layer(node: fx.Node, program: Program) -> Layer:
    path = program.path(node)
    module = program.module(path)
    lazy = program.lazies.get(path)
    return Layer(
        path=path,
        type=lazy.type if lazy is not None else type(module).__name__,
        input_shapes=[_axes(spec) for operand in node.all_input_nodes for spec in tensor_specs(operand.meta[SPEC])],
        output_shape=_output_shape(node.meta[SPEC]),
        params=parameter_count(module, program),
        macs=_plain(multiply_adds(node, program)),
        resolved=_inferred(lazy),
        source=location_of(node).source,
    )


def _hidden_layer(lazy: LazyLayer, program: Program) -> Layer:
    """A lazy module that is no node of the graph: traced through, or inside a module that could not be traced."""
    return Layer(
        path=lazy.path,
        type=lazy.type,
        input_shapes=[_axes(spec) for spec in tensor_specs([*lazy.args, *lazy.kwargs.values()])],
        output_shape=[],
        params=parameter_count(program.module(lazy.path), program),
        macs=0,
        resolved=_inferred(lazy),
        source=lazy.location.source,
    )


def _inferred(lazy: LazyLayer | None) -> dict[str, int]:
    return {name: int(size) for name, size in lazy.inference.attributes.items()} if lazy is not None else {}


def _plain(size: Size) -> int | str:
    return size if type(size) is int else str(size)


def _axes(spec: TensorSpec) -> list[int | str]:
    return [_plain(size) for size in spec.shape]


def _output_shape(value: Any) -> list[Any]:
    if isinstance(value, TensorSpec):
        return _axes(value)
    return [_axes(spec) for spec in tensor_specs(value)]
