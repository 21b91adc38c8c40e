"""What an exported file says about itself, in its model's properties.

Beside the caller's own entries there are ours, all under one prefix; but for the first two, their values are JSON.

    lazytracer.version      the version that wrote the file
    lazytracer.route        direct or torch
    lazytracer.signature    name, dtype and shape of every input and output, dynamic dimensions by name, and the sizes
                            at which those were sampled
    lazytracer.constraints  what was promised of the sizes: a file is made for all that meet it, and for no others
    lazytracer.guards       what else has to hold of the sizes, and where in the model that was decided
    lazytracer.statement    for which sizes the file holds, in one sentence; empty where no size is named
    lazytracer.from_data    the sizes that only the data say: what each is and between which numbers it lies
    lazytracer.required     what must be so of these, or the model itself fails, and where that was decided
    lazytracer.state        only where the tensors of the model that its forward writes are inputs and outputs: of each
                            its `path` in the model, its `input`, the `output` that is the next run's input, and its
                            `start`, the first run's: the number that all its elements are, its bytes in base64 (in C
                            order, little endian), or null where these are more than a megabyte
    lazytracer.state_dict   dtype and shape of every state_dict entry; null where the file holds nothing of it
    lazytracer.initializers the initializer that is this entry; tied ones have the same
    lazytracer.baked_in     a digest of every entry whose value decided something, was computed with, or is the start of
                            a state; it cannot change
    lazytracer.loading      the model's own code for saving and loading, where it has any: what its entries become, only
                            the model can say
    lazytracer.folds        by its path in the file, which layer and batch norm a folded layer's weight and bias are of
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper

from passes.errors import InputError, LoadError
from passes.modules.batchnorm_folding import Fold
from passes.modules.explicit_state import held_at
from passes.onnx.lowered_model import LoweredModel
from passes.onnx.protos import raw_bytes
from passes.onnx.types import ONNX_TYPES
from passes.program.stages import Eager
from passes.stages.loading_code import loading_code
from passes.values.spec import TensorSpec

PREFIX = "lazytracer."
_WEIGHT_KEYS = ("state_dict", "initializers", "baked_in", "folds")
_LOADING = "loading"
_MOST_BYTES = 10**6  # of a state's start


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raises InputError where one of the caller's keys is under our prefix."""
    for key in metadata:
        if key.startswith(PREFIX):
            raise InputError(f"the metadata key {key} begins with {PREFIX}", remedy="choose another key")


def annotate(lowered: LoweredModel, program: Eager, *, metadata: Mapping[str, str], version: str, route: str) -> None:
    """Writes the caller's entries and ours into the model's properties."""
    graph = lowered.proto.graph
    signature = {
        "inputs": [_declared(value) for value in graph.input],
        "outputs": [_declared(value) for value in graph.output],
        "sampled": program.log.sampled,
    }
    ours = {
        "version": version,
        "route": route,
        "signature": _json(signature),
        "constraints": _json(program.log.constraints()),
        "statement": program.log.statement(),
        "guards": _json([guard.to_dict() for guard in program.log.guards]),
        "from_data": _json(program.log.from_data()),
        "required": _json([guard.to_dict() for guard in program.log.required]),
        **({"state": _json([pair.to_dict() for pair in state_pairs(lowered, program)])} if program.kept else {}),
        **WeightTable.of(lowered, program).properties(),
    }
    helper.set_model_props(lowered.proto, {**metadata, **{PREFIX + key: value for key, value in ours.items()}})


@dataclass(frozen=True, slots=True)
class StatePair:
    """A tensor of the model that its forward writes: its path there, the file's input and output that it is, and its
    value before the first run."""

    path: str
    input: str
    output: str
    start: torch.Tensor

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "input": self.input, "output": self.output, "start": _start(self.start)}


def state_pairs(lowered: LoweredModel, program: Eager) -> list[StatePair]:
    """The tensors of the model that are kept. Raises LoadError where one has no value to begin with."""
    count = len(program.kept)
    inputs, outputs = (names[len(names) - count :] for names in (lowered.input_names, lowered.output_names))
    pairs = []
    for path, given, left in zip(program.kept, inputs, outputs, strict=True):
        tensor = held_at(program.root, path).detach()
        if tensor.is_meta:
            raise LoadError(
                f"{path}, which the forward writes, is on the meta device and has no value to begin with",
                remedy="give weights=, or load the model's weights before it is converted",
            )
        pairs.append(StatePair(path, given, left, tensor))
    return pairs


def _start(tensor: torch.Tensor) -> int | float | str | None:
    """A tensor in a property: one number for all of it, its bytes, or nothing."""
    first = tensor.flatten()[0].item() if tensor.numel() and not tensor.dtype.is_complex else math.nan
    if math.isfinite(first) and bool((tensor == first).all()):
        return int(first) if isinstance(first, bool) else first
    data = raw_bytes(tensor).data
    return base64.b64encode(data).decode() if data.nbytes <= _MOST_BYTES else None


@dataclass(frozen=True, slots=True)
class WeightTable:
    """Where in a file each entry of a state_dict is.

    `specs` has every entry, with its dtype and shape as text, or None where the file holds nothing of it;
    `initializers` says which are initializers themselves (tied ones the same), `folds` which are part of one, and
    `baked_in` which decided about the graph. `loading` names the model's own code for saving and loading.
    """

    specs: dict[str, str | None]
    initializers: dict[str, str]
    baked_in: dict[str, str]
    folds: dict[str, Fold]
    loading: list[str] = field(default_factory=list)

    @staticmethod
    def of(lowered: LoweredModel, program: Eager) -> WeightTable:
        state = program.state()
        names = {id(tensor): name for name, tensor in lowered.weights.items()}
        initializers = {key: names[id(tensor)] for key, tensor in state.items() if id(tensor) in names}
        folds = {path: fold for path, fold in program.folds.items() if f"{path}.weight" in lowered.weights}
        fixed = (*program.read, *lowered.changed, *program.kept)
        baked_in = {key: digest(state[key]) for key in fixed if key in state}
        used = {*initializers, *baked_in, *(key for fold in folds.values() for key in fold.sources())}
        specs = {key: str(TensorSpec.of(tensor)) if key in used else None for key, tensor in state.items()}
        return WeightTable(specs, initializers, baked_in, folds, loading_code(program.root))

    @staticmethod
    def read(file: Path, properties: Mapping[str, str]) -> WeightTable:
        """The table in the properties of a file. Raises LoadError where there is none."""
        try:
            specs, initializers, baked_in, folds = (json.loads(properties[PREFIX + key]) for key in _WEIGHT_KEYS)
            table = WeightTable(
                _checked(specs, str, type(None)),
                _checked(initializers, str),
                _checked(baked_in, str),
                {path: Fold(**fold) for path, fold in _checked(folds, dict).items()},
                list(map(str, json.loads(properties.get(PREFIX + _LOADING, "[]")))),
            )
            table.check()
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise LoadError(
                f"{file} does not say where its weights come from", remedy="give a file that convert has written"
            ) from error
        return table

    def check(self) -> None:
        """Raises ValueError unless the tables agree with each other, whoever wrote them."""
        held = {key for key, spec in self.specs.items() if spec is not None}
        if not (self.initializers.keys() | self.baked_in.keys()) <= held:
            raise ValueError("an entry is in one table only")
        for path, fold in self.folds.items():
            fold.check()
            if not set(fold.needed()) <= held or {f"{path}.weight", f"{path}.bias"} & set(self.initializers.values()):
                raise ValueError(f"the fold {path} is of other entries")

    def properties(self) -> dict[str, str]:
        folds = {path: asdict(fold) for path, fold in self.folds.items()}
        tables = (self.specs, self.initializers, self.baked_in, folds)
        loading = {_LOADING: _json(self.loading)} if self.loading else {}
        return {**dict(zip(_WEIGHT_KEYS, map(_json, tables), strict=True)), **loading}


def _checked(table: Any, *kinds: type) -> dict[str, Any]:
    """A table of a file's properties, whose values are of these types."""
    if not isinstance(table, dict) or not all(isinstance(value, kinds) for value in table.values()):
        raise ValueError("it is no table")
    return table


def digest(tensor: torch.Tensor) -> str:
    """What tells a tensor's value from another."""
    return hashlib.blake2b(raw_bytes(tensor).data, digest_size=16).hexdigest()


def _declared(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    dtypes = {number: str(dtype).removeprefix("torch.") for dtype, number in ONNX_TYPES.items()}
    shape = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None for axis in tensor.shape.dim]
    theirs = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()  # of a type that only torch's exporter writes
    return {"name": value.name, "dtype": dtypes.get(tensor.elem_type, theirs), "shape": shape}


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
