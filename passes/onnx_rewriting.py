"""Other weights in a written ONNX file: the bytes of some initializers are replaced, all others are copied.

A tensor of the same shape and dtype takes as many bytes, so the rest of the file need not be understood. Where each
initializer's bytes are is read off the wire format; no weight is loaded for it.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto

from passes.errors import LoadError
from passes.onnx_emitter import raw_bytes
from passes.onnx_writer import GRAPH_INITIALIZER, MODEL_GRAPH, TENSOR_RAW_DATA, external_data
from passes.output_file import staged

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """An ONNX file whose weights are left where they are.

    `properties` are the model's; `spans` says where each initializer's bytes begin and end in `data`, which is the
    file itself or one of external data beside it.
    """

    path: Path
    properties: dict[str, str]
    data: Path
    spans: dict[str, Span]


def read_written(path: Path) -> WrittenModel:
    """Finds an ONNX file's properties and weights. Raises LoadError where it is none, or is not whole."""
    if not path.is_file():
        raise LoadError(f"the model file {path} does not exist", remedy="give the path of an exported .onnx file")
    try:
        with _mapped(path) as view:
            model, tensors, spans = _scan(view)
        external = [tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL]
        data, beside = _find_external(path, external) if external else (path, {})
    except (OSError, ValueError, KeyError, IndexError, DecodeError) as error:
        raise LoadError(f"{path} cannot be read as an ONNX model: {error}", remedy="export the model again") from error
    return WrittenModel(path, {entry.key: entry.value for entry in model.metadata_props}, data, beside or spans)


def rewrite(model: WrittenModel, target: Path, tensors: Mapping[str, Callable[[], torch.Tensor]]) -> None:
    """Writes the model to `target` with other tensors in some of its initializers, whole or not at all.

    A tensor is made when its turn comes, and must have the initializer's shape and dtype. External data goes to a new
    file, as `write_model` says. Raises LoadError where a tensor takes other than the initializer's bytes, ExportError
    where the target cannot be written.
    """
    if model.data == model.path:
        with staged(target) as staging, _mapped(model.data) as view:
            staging.file.writelines(_patched(view, model.spans, tensors))
        return
    with _mapped(model.data) as view, external_data(_patched(view, model.spans, tensors), target) as location:
        proto = onnx.load(model.path, load_external_data=False)
        for entry in (entry for tensor in proto.graph.initializer for entry in tensor.external_data):
            if entry.key == "location":
                entry.value = location
        with staged(target) as staging:
            staging.file.write(proto.SerializeToString(deterministic=True))


def _patched(
    view: memoryview, spans: Mapping[str, Span], tensors: Mapping[str, Callable[[], torch.Tensor]]
) -> Iterator[memoryview]:
    """The bytes of a file, with those of the tensors in their places."""
    copied = 0
    for (start, end), name in sorted((spans[name], name) for name in tensors):
        data = raw_bytes(tensors[name]()).data
        if data.nbytes != end - start:
            raise LoadError(
                f"{name} takes {end - start} bytes in the file, but {data.nbytes} now", remedy="export the model again"
            )
        yield view[copied:start]
        yield data
        copied = end
    yield view[copied:]


def _find_external(path: Path, tensors: list[TensorProto]) -> tuple[Path, dict[str, Span]]:
    """The file beside the model that holds these tensors, and where in it each is."""
    entries = {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in tensors}
    (location,) = {entry["location"] for entry in entries.values()}
    starts = {name: int(entry["offset"]) for name, entry in entries.items()}
    spans = {name: (start, start + int(entries[name]["length"])) for name, start in starts.items()}
    data = path.with_name(location)  # which refuses a path that leads elsewhere
    if data.stat().st_size < max(end for _, end in spans.values()):
        raise ValueError(f"its weights in {location} are not whole")
    return data, spans


def _scan(view: memoryview) -> tuple[onnx.ModelProto, list[TensorProto], dict[str, Span]]:
    """A model file without its graph, each of its initializers without its bytes, and where these are."""
    outside = bytearray()
    tensors: list[TensorProto] = []
    spans: dict[str, Span] = {}
    for number, begin, start, end in _fields(view, 0, len(view)):
        if number != MODEL_GRAPH:
            outside += view[begin:end]
            continue
        for inner, _, first, last in _fields(view, start, end):
            if inner == GRAPH_INITIALIZER:
                tensor, span = _scan_tensor(view, first, last)
                tensors.append(tensor)
                if span is not None:
                    spans[tensor.name] = span
    return onnx.ModelProto.FromString(bytes(outside)), tensors, spans


def _scan_tensor(view: memoryview, start: int, end: int) -> tuple[TensorProto, Span | None]:
    head, span = bytearray(), None
    for number, begin, first, last in _fields(view, start, end):
        if number == TENSOR_RAW_DATA:
            span = first, last
        else:
            head += view[begin:last]
    return TensorProto.FromString(bytes(head)), span


def _fields(view: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Each field of the message: its number, where it begins, and where its value begins and ends."""
    position = start
    while position < end:
        tag, first = _varint(view, position)
        match tag & 7:
            case 0:
                _, last = _varint(view, first)
            case 1:
                last = first + 8
            case 2:
                length, first = _varint(view, first)
                last = first + length
            case 5:
                last = first + 4
            case kind:
                raise ValueError(f"there is no field of the wire type {kind}")
        if last > end:
            raise ValueError("it is not whole")
        yield tag >> 3, position, first, last
        position = last


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = shift = 0
    while True:
        byte = view[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    """A file's bytes, read when they are looked at."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping,
        memoryview(mapping) as view,
    ):
        yield view
