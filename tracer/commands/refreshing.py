"""New weights in an exported file, without tracing the model again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from passes.errors import InputError, LoadError
from passes.files.metadata import WeightTable, digest
from passes.files.output_file import check_target
from passes.files.rewriting import WrittenModel, read_written, rewrite
from passes.stages.weight_loading import check_keys
from passes.values.spec import TensorSpec
from tracer.edge.boundary import public
from tracer.inputs.input_files import checked_target
from tracer.inputs.weights import Weights, read_weights


@public
def refresh(onnx_file: str | Path, state_dict: Weights, f: str | Path | None = None) -> Path:
    """Puts new weights into a file that `convert` wrote; returns the path of the result: `f`, or the file itself.

    `state_dict` is a mapping, or a `.safetensors` or `.pt` file. The result is what `convert` gives with these
    weights, to the byte: batch norms are folded into them again, tied ones stay tied. Entries that the file holds
    nothing of (of layers that the sample never reaches, or counters that inference does not need) are not looked at.
    What `passes=` of the caller's own made of the weights is not made of the new ones.

    A model that saves or loads with code of its own, hooks, overrides or extra states, is refused: the file knows
    nothing of it. External data stays external, in a new file: the old one is left to those who use it. Raises
    LoadError where the file is not one of ours or damaged, and where keys, shapes or dtypes do not fit it; ExportError
    where the result cannot be written. Nothing is written then.
    """
    source, target = _paths(onnx_file, state_dict, f)
    written = _read_for(target, source)
    table = _weight_table(written)
    weights = read_weights(state_dict)
    _check(table, weights)
    rewrite(written, target, _makers(table, weights, written))
    return target


def _paths(onnx_file: str | Path, weights: Weights, f: str | Path | None) -> tuple[Path, Path]:
    """The file that is read, and the one that is written."""
    if not isinstance(onnx_file, (str, os.PathLike)):
        raise InputError(
            f"the model file is a {type(onnx_file).__name__}, not a path", remedy="give the path of a file"
        )
    source = Path(onnx_file)
    return source, checked_target(source if f is None else f, weights=weights)


def _read_for(target: Path, source: Path) -> WrittenModel:
    """What the file holds. Raises ExportError where the target is the file of its weights, which would be lost."""
    written = read_written(source)
    if written.data != source:
        check_target(target, [written.data])
    return written


def _weight_table(written: WrittenModel) -> WeightTable:
    """Where each entry of the state_dict is in the file. Raises LoadError where only the model itself could tell."""
    table = WeightTable.read(written.path, written.properties)
    if table.loading:
        raise LoadError(
            f"the model saves and loads its weights with code of its own ({', '.join(table.loading[:4])}), "
            "and what that makes of them cannot be told without it",
            remedy="convert the model again, with these weights",
        )
    return table


def _makers(
    table: WeightTable, weights: Mapping[str, torch.Tensor], written: WrittenModel
) -> dict[str, Callable[[], torch.Tensor]]:
    """What makes each initializer of the file from the new weights."""
    makers: dict[str, Callable[[], torch.Tensor]] = {}
    for path, fold in table.folds.items():
        makers[f"{path}.weight"] = partial(_folded, path, fold.weight, weights)
        makers[f"{path}.bias"] = partial(_folded, path, fold.bias, weights)
    for key, name in table.initializers.items():
        makers[name] = partial(weights.__getitem__, key)
    lost = sorted(makers.keys() - written.spans.keys())
    if lost:
        raise LoadError(f"{written.path} has no initializer {lost[0]} any more", remedy="export the model again")
    return makers


def _folded(
    path: str, make: Callable[[Mapping[str, torch.Tensor]], torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    try:
        return make(weights)
    except (
        RuntimeError,
        TypeError,
        ValueError,
        IndexError,
        OverflowError,
    ) as error:  # what goes together, the file says
        said = str(error).partition("\n")[0]
        raise LoadError(f"the tensors of {path} do not go together: {said}", remedy="export the model again") from error


def _check(table: WeightTable, weights: Mapping[str, torch.Tensor]) -> None:
    """Raises LoadError unless the file's entries are all there, as they were, and tied ones still equal."""
    needed = [key for key, spec in table.specs.items() if spec is not None]
    check_keys(weights, table.specs, needed, "the file")
    for key in needed:
        tensor = weights[key]
        if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided or tensor.is_meta:
            raise LoadError(
                f"the weights' {key} is no dense tensor with values", remedy="give the values of the tensor"
            )
        found = TensorSpec.of(tensor)
        if str(found) != table.specs[key]:
            raise LoadError(
                f"the weights' {key} is {found}, but the file's is {table.specs[key]}",
                remedy="give weights of the model that was exported",
            )
    for key, expected in table.baked_in.items():
        if digest(weights[key]) != expected:
            raise LoadError(
                f"the value of {key} is built into the file, but is another in the weights",
                remedy="export the model again, with these weights",
            )
    holders: dict[str, str] = {}
    for key, name in table.initializers.items():
        first = holders.setdefault(name, key)
        if first != key and digest(weights[key]) != digest(weights[first]):
            raise LoadError(
                f"{first} and {key} are one tensor in the file, but differ in the weights",
                remedy="tie them again, or export the model anew",
            )
