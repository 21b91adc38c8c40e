"""What a report holds, as plain data: its layers, what was inferred, what had to be true."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from passes.errors import Blocker
from passes.program.program import Rung
from passes.sizes.guards import Guard


@dataclass(slots=True)
class Layer:
    """One module call, or one functional operation that multiplies and adds.

    `resolved` holds what was inferred for a lazy layer, such as `{"in_features": 400}`, and `inferred_from` the value
    that decided it. Shapes have an int or a formula's text per axis. `params` counts the module's own parameters.
    `macs` are the multiply-adds, as an int or a formula, `macs_sampled` at the sampled sizes. `step` is the place in
    the order of execution.
    """

    path: str
    type: str
    input_shapes: list[list[int | str]]
    output_shape: list[Any]
    params: int
    macs: int | str
    resolved: dict[str, int]
    source: str | None = None
    inferred_from: str | None = None
    macs_sampled: int = 0
    step: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class State:
    """A tensor of the model that its forward writes: its path there, what it is, and the file's input and output that
    it is."""

    path: str
    spec: str
    input: str
    output: str

    def to_dict(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class ReportData:
    """What is known of a model without running it.

    `layers` are the module calls, `operations` the functional ones that multiply and add (matrix products, attention,
    resampling). `params` counts every parameter of the model once, but those of lazy layers in `unreached`;
    `weight_bytes` is the size of all parameters and buffers. `macs` are the multiply-adds of all layers and operations,
    half of what counts of floating-point operations give; `counted` says how branches and loops count in them.
    `peak_bytes` is the most that values take at once at the sampled sizes, which is `peak_at`. `rungs` says which
    modules could not be traced, how they were followed instead, and why: what happens inside them is not counted.
    `blockers` are the operations that keep the model from the direct route. `constraints` are what was promised of
    named sizes, `statement` says in one sentence for which of them everything here holds, and is empty where that is
    not known; `from_data` are the sizes that only the data say, and `required` what must be so of these, or the model
    itself fails; `pinned` are those that guards leave one value; `guards_unknown` the untraced modules of which it is
    not known what they ask of named sizes; `left_behind` the buffers and attributes that the forward writes, which an
    exported file does not keep; `state` those that are inputs and outputs of it, beside what `inputs` and `outputs`
    tell of the forward's own.
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
    counted: list[str] = field(default_factory=list)
    operations: list[Layer] = field(default_factory=list)
    macs_sampled: int = 0
    weight_bytes: int = 0
    peak_bytes: int = 0
    peak_at: str = ""
    blockers: list[Blocker] = field(default_factory=list)
    sampled: dict[str, int] = field(default_factory=dict)
    pinned: dict[str, int] = field(default_factory=dict)
    guards_unknown: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    statement: str = ""
    from_data: list[str] = field(default_factory=list)
    required: list[Guard] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    state: list[State] = field(default_factory=list)

    @property
    def route(self) -> str:
        """The route that an export takes, as far as it can be told before lowering."""
        return "torch" if self.blockers else "direct"

    @property
    def route_reason(self) -> str:
        return "; ".join(map(str, self.blockers)) or "every operation has a direct lowering"

    @property
    def steps(self) -> list[Layer]:
        """Layers and operations in the order of execution."""
        return sorted([*self.layers, *self.operations], key=lambda layer: layer.step)

    @property
    def resolved(self) -> dict[str, dict[str, int]]:
        """What was inferred, by lazy layer."""
        return {layer.path: layer.resolved for layer in self.layers if layer.resolved}

    def note_inferred(self, other: ReportData) -> None:
        """Takes over what was inferred for lazy layers, of a model in which they are eager by now."""
        known = {layer.path: layer for layer in other.layers if layer.resolved}
        for layer in self.layers:
            if layer.path in known:
                layer.resolved, layer.inferred_from = known[layer.path].resolved, known[layer.path].inferred_from
        shown = {layer.path for layer in self.layers}
        self.layers += [layer for path, layer in known.items() if path not in shown]  # traced through, as it was before

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "layers": [layer.to_dict() for layer in self.layers],
            "operations": [layer.to_dict() for layer in self.operations],
            "params": self.params,
            "macs": self.macs,
            "counted": self.counted,
            "macs_sampled": self.macs_sampled,
            "weight_bytes": self.weight_bytes,
            "peak_bytes": self.peak_bytes,
            "peak_at": self.peak_at,
            "sampled": self.sampled,
            "route": self.route,
            "route_reason": self.route_reason,
            "rungs": [rung.to_dict() for rung in self.rungs],
            "guards": [guard.to_dict() for guard in self.guards],
            "constraints": self.constraints,
            "statement": self.statement,
            "from_data": self.from_data,
            "required": [guard.to_dict() for guard in self.required],
            "guards_unknown": self.guards_unknown,
            "pinned": self.pinned,
            "left_behind": self.left_behind,
            "state": [each.to_dict() for each in self.state],
            "unreached": self.unreached,
        }
