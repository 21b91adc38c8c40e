"""What `convert` gives: the model as ONNX, as an eager module and as a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from passes.errors import LoadError
from passes.program.stages import Eager
from tracer.edge.boundary import of_result
from tracer.inputs.input_files import checked_target
from tracer.reports.html_table import conversion_html
from tracer.reports.report import Report
from tracer.reports.text import file_size

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import fx

    from passes.onnx.lowered_model import LoweredModel
    from tracer.checking.verification import Verification
    from tracer.steps.work import Work


@dataclass(slots=True)
class Conversion:
    """A converted model.

    `program` is what the passes made of the model;
    `route` is "direct" or "torch" and `route_reason` says why; `verification` is None where it was turned
    off; `timings` holds the seconds of each step.
    """

    program: Eager
    route: str
    route_reason: str
    report: Report
    lowered: LoweredModel
    verification: Verification | None = None
    timings: dict[str, float] = field(default_factory=dict)
    path: Path | None = None
    _module: nn.Module | None = None
    _graph_module: fx.GraphModule | None = None
    _again: Callable[[], Work] | None = None

    @property
    @of_result
    def module(self) -> nn.Module:
        """The eager model, of the caller's class.

        Where the weights went straight into the file, they are drawn once more, the same ones, when this is first
        asked for; from the model as it then is.
        """
        if self._module is None:
            self._keep_weights()
        assert self._module is not None
        return self._module

    @property
    @of_result
    def graph_module(self) -> fx.GraphModule:
        """The simplified graph for inference, as a torch.fx module; made when it is first asked for."""
        self._keep_weights()
        if self._graph_module is None:
            self._graph_module = self.program.graph_module()
        return self._graph_module

    def _keep_weights(self) -> None:
        """Makes this a conversion whose weights are in memory."""
        if self._again is not None:
            whole = self._again()
            self.program, self.lowered, self._module = whole.lowered, whole.lowered.model, whole.resolved
            self._again = None

    @property
    @of_result
    def state(self) -> dict[str, torch.Tensor]:
        """What the inputs begin with that are the model's own tensors, by the inputs' names (`convert(state=…)`).

        `report.state` says which output is each one's next value. Raises LoadError where the model has no values.
        """
        from passes.files.metadata import state_pairs

        self._keep_weights()
        return {pair.input: pair.start.clone() for pair in state_pairs(self.lowered, self.program)}

    @property
    @of_result
    def onnx_model(self) -> onnx.ModelProto:
        """The model as an onnx.ModelProto, weights included; one above 2 GB refers to the file's external data."""
        from passes.files.writer import model_proto

        self._keep_weights()
        check_weights_are_there(self.lowered)
        return model_proto(self.lowered, self.path)

    @of_result
    def save(self, path: str | Path) -> Path:
        """Writes the ONNX file, whole or not at all. Raises ExportError where it cannot be written."""
        from passes.files.writer import write_model

        target = checked_target(path, self.program.root)
        self._keep_weights()
        check_weights_are_there(self.lowered)
        write_model(self.lowered, target)
        self.path = target
        return target

    @of_result
    def _repr_html_(self) -> str:
        return conversion_html(self.report, self._facts())

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Where the file is, which route it took, and how well it agrees, by name."""
        if self.path is not None and self.path.exists():
            yield "file", f"{self.path}, {file_size(self.path.stat().st_size)}"
        yield "route", f"{self.route} ({self.route_reason})"
        if self.verification is not None:
            difference = f"largest difference {self.verification.largest_difference:.2g}"
            yield "checked", f"{difference} in {self.verification.runtime}"
            yield from (("note", text) for text in self.verification.notes)


def check_weights_are_there(lowered: LoweredModel) -> None:
    """Raises LoadError for weights on the meta device, which have no data to write or to run."""
    without = [name for name, tensor in lowered.weights.items() if tensor.is_meta]
    if without:
        raise LoadError(
            f"{len(without)} weights are on the meta device and have no data: {', '.join(without[:3])}",
            remedy="give weights=, or load the model's weights before it is converted",
        )


__all__ = ["Conversion", "check_weights_are_there"]
