"""The report of a program: what is known of a model without running it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from torch import fx

from passes.lowering.blockers import known_blockers
from passes.lowering.interface_names import InterfaceNames, interface_names
from passes.lowering.pinned_sizes import pinned_sizes
from passes.modules.lazy import LazyLayer
from passes.program.costs import multiply_adds, parameter_count, repetitions, weight_bytes
from passes.program.liveness import peak_activation
from passes.program.notes import CALL, VALUE, location_of
from passes.program.program import Program, operation_of, tensor_specs
from passes.program.regions import sources
from passes.program.stages import Shaped
from passes.sizes.dimension import Size, hint
from passes.text.printing import print_program
from passes.values.spec import TensorSpec
from tracer.edge.boundary import of_result
from tracer.reports.data import Layer, ReportData, State
from tracer.reports.html_table import report_html


@dataclass(slots=True)
class Report(ReportData):
    __doc__ = ReportData.__doc__

    _text: Callable[[], str] = field(default=str, repr=False, compare=False)

    @of_result
    def program_text(self) -> str:
        """The program that the report is made from as text, one line an operation; of a conversion, as its passes have
        left it."""
        return self._text()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, in another process maybe, has the text in place of the program."""
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        return partial(Report, **{**known, "_text": partial(str, self._text())}), ()

    def _repr_html_(self) -> str:
        return report_html(self)


def build_report(program: Shaped, model_name: str) -> Report:
    """The report of a program whose shapes are propagated."""
    layers: list[Layer] = []
    operations: list[Layer] = []
    entered: dict[str, int] = {}
    macs: Size = 0
    often = repetitions(program)
    for step, node in enumerate(program.graph.nodes):
        entered.setdefault(location_of(node).path, step)
        cost = multiply_adds(node, program)
        macs = macs + often.times(node, cost)
        if node.op == "call_module":
            layers.append(_layer(node, step, cost, program))
        elif type(cost) is not int or cost:  # a formula is not asked whether it is 0, which would be recorded
            operations.append(_operation(node, step, cost, program))
    shown = {layer.path for layer in layers}
    hidden = [lazy for lazy in program.lazies.values() if lazy.path not in shown]
    layers += [_hidden_layer(lazy, _step_of(lazy.path, entered), program) for lazy in hidden]
    peak = peak_activation(program)
    return Report(
        model=model_name,
        inputs={str(node.target): str(VALUE.of(node)) for node in program.inputs_of_sample()},
        outputs=[str(spec) for spec in tensor_specs(program.result())],
        layers=layers,
        guards=program.log.guards,
        unreached=program.unreached,
        rungs=program.rungs,
        params=parameter_count(program.root, program),
        macs=_plain(macs),
        counted=often.words,
        operations=operations,
        macs_sampled=hint(macs),
        weight_bytes=weight_bytes(program),
        peak_bytes=peak.bytes,
        peak_at=name_of(peak.node, program),
        blockers=known_blockers(program),
        sampled=dict(program.log.sampled),
        pinned=pinned_sizes(program.log),
        guards_unknown=[rung.path or model_name for rung in program.rungs] if program.log.sampled else [],
        constraints=program.log.constraints(),
        statement=program.log.statement() if not program.rungs else "",
        from_data=program.log.from_data(),
        required=list(program.log.required),
        left_behind=list(program.left_behind),
        state=state_of_report(program, interface_names(program, None, None)) if program.kept else [],
        _text=lambda: print_program(program),
    )


def state_of_report(program: Program, names: InterfaceNames) -> list[State]:
    """The tensors of the model that are kept, by what an exported file calls them."""
    count = len(program.kept)
    pairs = zip(names.inputs[-count:], names.outputs[-count:], strict=True) if count else ()
    values = program.state_values().items()
    return [State(path, str(spec), *pair) for (path, (spec, _)), pair in zip(values, pairs, strict=True)]


def name_of(node: fx.Node, program: Program) -> str:
    """What people call a node: `input image`, a layer's path, `encoder/matmul` for an operation within a module."""
    if node.op == "placeholder":
        return f"input {node.target}"
    if node.op == "call_module":
        return program.path(node) or type(program.root).__name__
    if node.op in ("output", "get_attr"):
        return str(node.target)
    path = location_of(node).path
    operation = operation_of(node).strip("_")
    return f"{path}/{operation}" if path else operation


def _layer(node: fx.Node, step: int, cost: Size, program: Program) -> Layer:
    path = program.path(node)
    module = program.module(path)
    lazy = program.lazies.get(path)
    return Layer(
        path=path,
        type=lazy.type if lazy is not None else type(module).__name__,
        input_shapes=_input_shapes(node),
        output_shape=shape_of(VALUE.of(node)),
        params=parameter_count(module, program),
        macs=_plain(cost),
        resolved=_inferred(lazy),
        source=location_of(node).source,
        inferred_from=_origin(node, program) if lazy is not None else None,
        macs_sampled=hint(cost),
        step=step,
    )


def _operation(node: fx.Node, step: int, cost: Size, program: Program) -> Layer:
    return Layer(
        path=name_of(node, program),
        type=CALL.of(node).op.name,
        input_shapes=_input_shapes(node),
        output_shape=shape_of(VALUE.of(node)),
        params=0,
        macs=_plain(cost),
        resolved={},
        source=location_of(node).source,
        macs_sampled=hint(cost),
        step=step,
    )


def _origin(node: fx.Node, program: Program) -> str | None:
    """The value that a lazy layer's sizes are inferred from: its first operand, with its line where it is no layer."""
    operand = next(sources(node), None)
    if operand is None:
        return None
    while operand.target is operator.getitem and not CALL.on(operand):  # one of a layer's several results
        operand = next(sources(operand))
    source = location_of(operand).source
    name = name_of(operand, program)
    return f"{name} ({source})" if source and operand.op not in ("call_module", "placeholder") else name


def _step_of(path: str, entered: Mapping[str, int]) -> int:
    """The step at which a module is entered, or the innermost module around it that the graph shows."""
    while path and path not in entered:
        path = path.rpartition(".")[0]
    return entered.get(path, 0)


def _hidden_layer(lazy: LazyLayer, step: int, program: Program) -> Layer:
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
        inferred_from=lazy.location.source,
        step=step,
    )


def _inferred(lazy: LazyLayer | None) -> dict[str, int]:
    return {name: int(size) for name, size in lazy.inference.attributes.items()} if lazy is not None else {}


def _plain(size: Size) -> int | str:
    return size if type(size) is int else str(size)


def _input_shapes(node: fx.Node) -> list[list[int | str]]:
    return [_axes(spec) for operand in node.all_input_nodes for spec in tensor_specs(VALUE.of(operand))]


def _axes(spec: TensorSpec) -> list[int | str]:
    return [_plain(size) for size in spec.shape]


def shape_of(value: Any) -> list[Any]:
    """A tensor's sizes, each an int or a formula's text; of several tensors, a list of each."""
    if isinstance(value, TensorSpec):
        return _axes(value)
    return [_axes(spec) for spec in tensor_specs(value)]
