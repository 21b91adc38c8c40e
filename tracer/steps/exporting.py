"""The steps from the resolved model to its ONNX graph: by our own lowerings, or through torch's exporter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from passes.errors import ExportError, InputError, UnsupportedOpError
from passes.files.metadata import annotate, check_metadata
from passes.isolation.copy_on_write import running_copy
from passes.isolation.own_randomness import own_random_state, own_randomness, python_randomness_kept
from passes.isolation.torch_state import TORCH_STATE
from passes.lowering.interface_names import InterfaceNames, interface_names
from passes.lowering.onnx_lowering import OnnxLowering
from passes.lowering.pinned_sizes import pinned_sizes, write_as_fixed
from passes.modules.explicit_state import held_at
from passes.onnx.opsets import SUPPORTED_OPSETS
from passes.program.legality import check
from passes.program.notes import VALUE
from passes.program.program import tensor_specs
from passes.program.stages import Lowered
from passes.sizes.dimension import Dim
from passes.stages.eager_rewrite import EagerRewrite
from passes.stages.simplification import Simplification
from passes.values.nested import leaves
from tracer.edge.source_lines import current_source
from tracer.inputs.sample import check_sample
from tracer.reports.report import state_of_report
from tracer.steps.work import CallersPasses, Work
from tracer.version import __version__

ROUTES = ("auto", "direct", "torch")
GUARDS = ("metadata", "checked")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How the resolved model becomes ONNX. Raises InputError where that is not possible."""

    opset: int
    route: str
    metadata: Mapping[str, str]
    input_names: Sequence[str] | None
    output_names: Sequence[str] | None
    fold_batchnorm: bool
    passes: CallersPasses
    guards: str = "metadata"

    def __post_init__(self) -> None:
        if self.opset not in SUPPORTED_OPSETS:
            first, last = SUPPORTED_OPSETS.start, SUPPORTED_OPSETS.stop - 1
            raise InputError(
                f"opset {self.opset!r} is not supported", remedy=f"use one of {first} to {last}; 20 is the default"
            )
        if self.route not in ROUTES:
            raise InputError(f"there is no route {self.route!r}", remedy="use auto, direct or torch")
        if self.guards not in GUARDS:
            raise InputError(f"there is no guards={self.guards!r}", remedy="use metadata or checked")
        if self.guards == "checked" and self.route == "torch":
            raise InputError("only the direct route can check sizes in the graph", remedy="use route auto or direct")
        check_metadata(self.metadata)

    @property
    def direct_reason(self) -> str:
        """Why the direct route was taken, where it was."""
        return "asked for" if self.route == "direct" else "every operation has a direct lowering"


def export(work: Work, options: ExportOptions) -> None:
    """Leaves the ONNX graph of the resolved model, by the route that was asked for, or else the first that holds.

    Raises UnsupportedOpError where no such route holds.
    """
    names = prepare_graph(work, options)
    if options.route == "torch":
        lower_through_torch(work, options, names, "asked for")
    elif options.route == "direct":
        lower_directly(work, options, names)
    else:
        try:
            lower_directly(work, options, names)
        except UnsupportedOpError as blocked:
            if options.guards == "checked":
                raise _unchecked(blocked) from blocked
            lower_in_spite_of(blocked, work, options, names)
    annotate_graph(work, options, names)


def export_directly(work: Work, options: ExportOptions) -> None:
    """Leaves the ONNX graph by the direct route alone. Raises UnsupportedOpError where it is blocked."""
    names = prepare_graph(work, options)
    lower_directly(work, options, names)
    annotate_graph(work, options, names)


def prepare_graph(work: Work, options: ExportOptions) -> InterfaceNames:
    """The eager graph for inference, after the caller's passes, and what its inputs and outputs are called."""
    eager = work.run_callers(options.passes, work.run(EagerRewrite(work.resolved), work.shaped))
    work.eager = work.run(Simplification(options.fold_batchnorm, options.opset), eager)
    return interface_names(work.eager, options.input_names, options.output_names)


def lower_directly(work: Work, options: ExportOptions, names: InterfaceNames) -> None:
    """The direct route. Raises UnsupportedOpError with every operation that has no lowering."""
    work.lowered = work.run(OnnxLowering(options.opset, names, options.guards == "checked"), work.eager)
    work.route, work.route_reason = "direct", options.direct_reason


def lower_in_spite_of(blocked: UnsupportedOpError, work: Work, options: ExportOptions, names: InterfaceNames) -> None:
    """The torch route in place of the direct one; where it fails too, the error names what blocked both."""
    try:
        lower_through_torch(work, options, names, "; ".join(map(str, blocked.blockers)))
    except ExportError as error:
        message = f"neither route can export the model. {blocked.message}\nAnd {error.message}"
        raise UnsupportedOpError(message, remedy=error.remedy, blockers=blocked.blockers) from error


def _unchecked(blocked: UnsupportedOpError) -> UnsupportedOpError:
    """What blocks the direct route, where no other checks sizes in the graph."""
    remedy = "leave out guards=checked (--check-guards), which the torch route does not have"
    return UnsupportedOpError(blocked.message, remedy=remedy, blockers=blocked.blockers)


def lower_through_torch(work: Work, options: ExportOptions, names: InterfaceNames, reason: str) -> None:
    """The torch route: the whole resolved model through `torch.onnx.export`."""
    from passes.lowering.torch_exporter import export_through_torch  # here, as few models need it

    pinned = pinned_sizes(work.log)
    with own_randomness(0):
        data = work.sample.data(work.log.sampled)
    with work.timed("lowering"), TORCH_STATE, _followed_by_torch(work.resolved) as module:
        given = [leaf for leaf in leaves(data) if isinstance(leaf, torch.Tensor)]
        model = export_through_torch(
            module.eval(),
            [*given, *(held_at(module, path).detach().clone() for path in work.eager.kept)],
            work.sample.filled,
            state=work.eager.state(),
            kept=work.eager.kept,
            dynamic_axes=[
                {axis: size for axis, size in axes.items() if not pinned.keys() >= set(size.symbols())}
                for axes in (*work.sample.dynamic_axes(), *({} for _ in work.eager.kept))
            ],
            opset=options.opset,
            names=names,
            log=work.log,
            current_source=partial(current_source, export_through_torch.__code__),
        )
    work.lowered = Lowered.of_eager(work.eager, model)
    _say_sizes_of_outputs(work)
    check_sample(work.log)
    check(work.lowered, "torch's exporter")
    work.route, work.route_reason = "torch", reason


def _say_sizes_of_outputs(work: Work) -> None:
    """Writes the outputs' sizes by the sample's names. Torch's exporter knows the names of axes, and invents one where
    an axis is a multiple of a name that is no axis itself."""
    named = [size for axes in work.sample.dynamic_axes() for size in axes.values()]
    if all(str(size) in size.symbols() for size in named):
        return
    specs = tensor_specs(VALUE.of(work.lowered.output()))
    for value, spec in zip(work.lowered.model.proto.graph.output, specs, strict=True):
        for axis, size in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
            if axis.HasField("dim_param") and isinstance(size, Dim):
                axis.dim_param = str(size)


def annotate_graph(work: Work, options: ExportOptions, names: InterfaceNames) -> None:
    """Writes into the graph and the report what is known only now: the guards, the sizes that they pin, the route."""
    pinned = pinned_sizes(work.log)
    if pinned:
        write_as_fixed(work.lowered.model, work.lowered, pinned)
    annotate(work.lowered.model, work.lowered, metadata=options.metadata, version=__version__, route=work.route)
    work.report.state = state_of_report(work.eager, names)
    work.report.guards, work.report.pinned = work.log.guards, pinned
    work.report.statement = work.log.statement()
    work.report.guards_unknown = []  # what is opaque to us is none to torch's exporter, or not in the file


@contextmanager
def _followed_by_torch(resolved: nn.Module) -> Iterator[nn.Module]:
    """A copy of the model that torch's exporter may follow inside the block."""
    with own_random_state(), python_randomness_kept(), running_copy(resolved) as module:
        yield module


__all__ = ["ExportOptions", "export", "export_directly"]
