"""The fallback route: the whole resolved module through `torch.onnx.export`.

The exporter gets a module of flat lists of tensors, so that inputs and outputs, nested or not, come in our order, and
the names of everything on the outside are given afterwards. What it notes about the machine it runs on is dropped.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import Any

import torch
from onnx import helper
from torch import nn

from passes.errors import ExportError
from passes.isolation.torch_state import Loan
from passes.lowering import export_guards
from passes.lowering.interface_names import InterfaceNames
from passes.lowering.onnx_lowering import PRODUCER
from passes.modules.explicit_state import call_with_state
from passes.onnx.lowered_model import LoweredModel
from passes.sizes.formulas.formula import Formula
from passes.sizes.guards import GuardLog, Location
from passes.values.nested import leaves

# torch's exporter writes opset 18 and converts that to later ones; what it converts to earlier ones is not valid.
TORCH_OPSETS = range(18, 24)

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def export_through_torch(
    module: nn.Module,
    tensors: Sequence[torch.Tensor],
    arguments: Callable[[Sequence[torch.Tensor]], Arguments],
    *,
    state: Mapping[str, torch.Tensor],
    kept: Sequence[str],
    dynamic_axes: Sequence[Mapping[int, Formula]],
    opset: int,
    names: InterfaceNames,
    log: GuardLog,
    current_source: Callable[[], str | None],
) -> LoweredModel:
    """The model that torch's exporter makes of `module` (in eval mode), with our names and no local path.

    `tensors` are the sample's, with the sizes of their dynamic axes; `arguments` puts such a list into the structure
    that the forward takes. The last of them stand in the places of the module's own that are `kept`. Every tensor of
    `state`, the module's state_dict, that the model uses is an initializer under its key: torch's optimizer, which
    would compute with them, folds only what does not depend on one. What the exporter decides about the named sizes
    becomes guards of `log`, at the line that `current_source` gives.

    Raises ExportError with torch's own reason where it refuses the module, where it has no such opset, and where it
    fixes a size that is to be dynamic.
    """
    if opset not in TORCH_OPSETS:
        first, last = TORCH_OPSETS.start, TORCH_OPSETS.stop - 1
        raise ExportError(
            f"torch.onnx.export has opsets {first} to {last}, not {opset}", remedy=f"use --opset {first} or later"
        )
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            "the torch route needs the package onnxscript, which is not installed", remedy="pip install onnxscript"
        ) from error
    dims = {size: _export_dim(size) for axes in dynamic_axes for size in axes.values()}
    try:
        with (
            _quiet(),
            torch.no_grad(),
            export_guards.noted_decisions(current_source) as decisions,
        ):
            program = torch.onnx.export(
                _Flat(module, arguments, kept),
                tuple(tensors),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes={
                    "tensors": tuple({axis: dims[size] for axis, size in axes.items()} for axes in dynamic_axes)
                },
                optimize=False,
                verbose=False,
            )
            assert program is not None
            held, changed = _optimize(program, state)
    except (Exception, SystemExit) as error:  # torch's exporter documents no narrower class for what it refuses
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(
            f"torch.onnx.export refuses the model: {type(error.__cause__ or error).__name__}: {reason}",
            remedy="rewrite the operations named, or keep them out of the exported module",
        ) from error
    _check_inputs(program.model.graph.inputs, names.inputs, dynamic_axes, decisions)
    export_guards.record(decisions, dynamic_axes, log)
    _rename(program.model, names, held, state)
    weights = {value.name: state[key] for key, value in held.items()}
    lowered = _detached(program.model, weights, names, opset)
    lowered.proto.graph.name = type(module).__name__
    lowered.changed = changed
    return lowered


def _export_dim(size: Formula) -> Any:
    """The size of an axis as torch's exporter takes it: a name, or a multiple of one and more."""
    (name,) = size.symbols()
    more = size.constant
    times = size.at({name: 1}) - more
    dim: Any = torch.export.Dim(name)
    dim = dim * times if times != 1 else dim
    return dim + more if more else dim


def _check_inputs(
    inputs: Sequence[Any],
    names: Sequence[str],
    dynamic_axes: Sequence[Mapping[int, Formula]],
    decisions: Sequence[export_guards.Decision],
) -> None:
    """Raises ExportError where a size that is to be dynamic is fixed: the exporter gives up names without a word."""
    for value, name, axes in zip(inputs, names, dynamic_axes, strict=True):
        for axis, dimension in axes.items():
            size = value.shape[axis]
            if isinstance(size, int):
                line = export_guards.line_that_fixes(decisions, dynamic_axes, dimension.symbols())
                raise ExportError(
                    f"torch.onnx.export fixes {dimension}, axis {axis} of {name}, at {size}"
                    + (f", as {line} needs one size of it" if line else ""),
                    remedy=f"give {dimension} a fixed size in the sample, or keep it out of Python's loops and indices",
                ).placed(Location("", line))


class _Flat(nn.Module):
    """A model between flat lists of tensors, as ONNX has them."""

    MODEL = "model"

    def __init__(self, model: nn.Module, arguments: Callable[[Sequence[torch.Tensor]], Arguments], kept: Sequence[str]):
        super().__init__()
        self.model = model
        self.arguments = arguments
        self.kept = kept

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = len(tensors) - len(self.kept)
        args, kwargs = self.arguments(tensors[:count])
        before = [tensor.clone() for tensor in tensors[count:]]
        result = call_with_state(self.model, self.kept, before, lambda: self.model(*args, **kwargs))
        return tuple(leaf for leaf in leaves(result) if isinstance(leaf, torch.Tensor))


def _optimize(program: Any, state: Mapping[str, torch.Tensor]) -> tuple[dict[str, Any], list[str]]:
    """Runs torch's optimizer with the module's tensors as graph inputs, out of its reach; returns those that are used.

    Afterwards they are neither inputs nor initializers, but free values, here by key: a tied one's first. The keys of
    those that the exporter has in another form (of a complex one its parts) are returned too.
    """
    graph = program.model.graph
    first = {id(tensor): key for key, tensor in reversed(list(state.items()))}
    held: dict[str, Any] = {}
    changed: list[str] = []
    for key, tensor in state.items():
        value = graph.initializers.get(f"{_Flat.MODEL}.{key}")
        if value is None:
            continue
        if (value.const_value.raw.shape, value.const_value.raw.dtype) != (tensor.shape, tensor.dtype):
            changed.append(key)
            continue
        del graph.initializers[value.name]
        value.const_value = None
        graph.inputs.append(value)
        held[first[id(tensor)]] = value
    program.optimize()
    for value in held.values():
        graph.inputs.remove(value)
    return {key: value for key, value in held.items() if value.uses()}, changed


def _rename(model: Any, names: InterfaceNames, held: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Gives inputs and outputs their names, weights their keys, and to all else names that are none of these."""
    top = model.graph
    outside = dict(zip([*top.inputs, *top.outputs], [*names.inputs, *names.outputs], strict=True))
    constants = [top.initializers.pop(name) for name in list(top.initializers)]
    inside = list(constants)
    for graph in model.graphs():
        inside.extend(graph.inputs)
        inside.extend(output for node in graph for output in node.outputs)
    taken = {*outside.values(), *keys}
    for value, name in outside.items():
        value.name = name
    for key, value in held.items():
        value.name = _fresh(key, taken) if key in outside.values() else key
    for value in inside:
        if value.name and value not in outside:
            value.name = _fresh(value.name.removeprefix(f"{_Flat.MODEL}."), taken)
    for value in constants:
        top.initializers[value.name] = value


def _fresh(name: str, taken: set[str]) -> str:
    """The name, or one like it that is not taken yet; now it is."""
    fresh, count = name, 0
    while fresh in taken:
        count += 1
        fresh = f"{name}_{count}"
    taken.add(fresh)
    return fresh


def _detached(model: Any, weights: dict[str, torch.Tensor], names: InterfaceNames, opset: int) -> LoweredModel:
    """The exporter's model with all its large tensors set aside, and without what it notes about its origin."""
    import onnx_ir

    for name, value in list(model.graph.initializers.items()):
        constant = getattr(value.const_value, "raw", None)
        if isinstance(constant, torch.Tensor):
            weights[name] = constant.detach()
            del model.graph.initializers[name]
    proto = onnx_ir.serde.serialize_model(model)
    found = {entry.domain: entry.version for entry in proto.opset_import}
    if found != {"": opset}:
        raise ExportError(
            f"torch.onnx.export gave a model of the opsets {found}, not {opset}", remedy="ask for another --opset"
        )
    proto.ir_version = helper.find_min_ir_version_for(list(proto.opset_import))
    proto.producer_name = PRODUCER
    proto.ClearField("producer_version")
    proto.graph.ClearField("value_info")
    _forget_origin(proto)
    return LoweredModel(proto, weights, names.inputs, names.outputs)


def _forget_origin(message: Any) -> None:
    """Drops the stack traces and file names that the exporter notes on what it makes, and on all within it."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                _forget_origin(part)


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter prints and logs (packages it looks for, graphs it gave up on) is not for our caller."""
    before = logging.root.manager.disable
    places = [(sys, "stdout"), (sys, "stderr"), *((warnings, name) for name in ("filters", "showwarning"))]
    with Loan(places, partial(logging.disable, before)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
