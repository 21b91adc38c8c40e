"""The ONNX file: the graph first, then each weight straight from its tensor's memory. Atomic.

A model file is one protobuf message; a weight is a length-delimited field of the graph in it, and all lengths
follow from shapes. So the graph is serialised without weights, and each weight's bytes are written
behind it without a copy. Protobuf messages end at 2 GB: larger models keep their weights in one file
of external data beside the model.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx
import torch
from onnx import TensorProto

from passes.errors import ExportError
from passes.files.output_file import check_target, name_beside, staged
from passes.onnx.lowered_model import LoweredModel
from passes.onnx.protos import raw_bytes
from passes.onnx.types import onnx_type

# A protobuf message holds less than 2 GiB; the graph itself needs room too.
SINGLE_FILE_LIMIT = 2**31 - 2**24

# Field numbers of onnx.proto, which never change.
MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9
_LENGTH_DELIMITED = 2


def weight_bytes(lowered: LoweredModel) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in lowered.weights.values())


def write_model(
    lowered: LoweredModel,
    path: Path,
    verify: Callable[[Path], None] | None = None,
    limit: int = SINGLE_FILE_LIMIT,
    tensors: Iterable[torch.Tensor] | None = None,
) -> None:
    """Writes the model to `path`, whole or not at all.

    `tensors` are the weights in their order, where those in `lowered` only stand for them; each is let go once written.

    It is written beside the target, handed to `verify`, and only then put in the target's place, so a
    failure at any point leaves what was there. Above `limit` bytes of weights they go to a file
    `<name>.<digest>.data` beside it; a name by content, so that an older model keeps its own.

    Raises ExportError where no file can be written there.
    """
    check_target(path)
    if weight_bytes(lowered) < limit:
        with staged(path) as staging:
            write_single(lowered, staging.file, tensors)
            staging.file.flush()
            if verify is not None:
                verify(staging.path)
        return
    data = (raw_bytes(tensor).data for tensor in tensors or lowered.weights.values())
    with external_data(data, path) as location, staged(path, named=True) as staging:
        staging.file.write(_with_external_data(lowered, location).SerializeToString(deterministic=True))
        staging.file.flush()
        if verify is not None:
            verify(staging.path)


def write_single(lowered: LoweredModel, file: BinaryIO, tensors: Iterable[torch.Tensor] | None = None) -> None:
    """The model with its weights inside, as one protobuf message."""
    frame = onnx.ModelProto()
    frame.CopyFrom(lowered.proto)
    frame.ClearField("graph")
    graph = lowered.proto.graph.SerializeToString(deterministic=True)
    headers = [_initializer_header(name, tensor) for name, tensor in lowered.weights.items()]
    sizes = [tensor.numel() * tensor.element_size() for tensor in lowered.weights.values()]
    length = len(graph) + sum(len(header) + size for header, size in zip(headers, sizes, strict=True))
    file.write(frame.SerializeToString(deterministic=True))
    file.write(_field(MODEL_GRAPH, length))
    file.write(graph)
    for header, tensor in zip(headers, tensors or lowered.weights.values(), strict=True):
        file.write(header)
        file.write(raw_bytes(tensor).data)


def with_weights(lowered: LoweredModel) -> onnx.ModelProto:
    """The model as one message in memory, weights included."""
    model = onnx.ModelProto()
    model.CopyFrom(lowered.proto)
    for name, tensor in lowered.weights.items():
        initializer = model.graph.initializer.add()
        initializer.CopyFrom(_declaration(name, tensor))
        initializer.raw_data = raw_bytes(tensor).tobytes()
    return model


def _initializer_header(name: str, tensor: torch.Tensor) -> bytes:
    """Everything of an initializer's field that comes before its data."""
    size = tensor.numel() * tensor.element_size()
    body: bytes = _declaration(name, tensor).SerializeToString(deterministic=True) + _field(TENSOR_RAW_DATA, size)
    return _field(GRAPH_INITIALIZER, len(body) + size) + body


def _declaration(name: str, tensor: torch.Tensor) -> TensorProto:
    return TensorProto(name=name, dims=tensor.shape, data_type=onnx_type(tensor.dtype))


def _field(number: int, length: int) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


@contextmanager
def external_data(chunks: Iterable[memoryview], path: Path) -> Iterator[str]:
    """A file of these bytes beside the model `path`, whose name is given; it is gone again where the block fails.

    It has the permissions of the model that it belongs to. Raises ExportError where the model is written through a
    link from another folder: whoever opens the link looks for the weights beside it.
    """
    model = check_target(path)
    if os.path.realpath(model.parent) != os.path.realpath(path.parent):
        raise ExportError(
            f"the output {path} is a link into another folder, where the file of its weights would not be found",
            remedy=f"name the file itself: {model}",
        )
    digest = hashlib.blake2b(digest_size=4)
    with staged(path) as staging:
        for chunk in chunks:
            digest.update(chunk)
            staging.file.write(chunk)
        staging.target = target = name_beside(model, f".{digest.hexdigest()}.data")
        is_new = not target.exists()
    try:
        yield target.name
    except BaseException:
        if is_new:
            target.unlink(missing_ok=True)
        raise


def _with_external_data(lowered: LoweredModel, location: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(lowered.proto)
    offset = 0
    for name, tensor in lowered.weights.items():
        length = tensor.numel() * tensor.element_size()
        initializer = model.graph.initializer.add()
        initializer.CopyFrom(_declaration(name, tensor))
        initializer.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
            initializer.external_data.add(key=key, value=value)
        offset += length
    return model


@contextmanager
def temporary_model(lowered: LoweredModel) -> Iterator[Path]:
    """The model as a file that is gone after the block."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_model(lowered, path)
        yield path


def model_proto(lowered: LoweredModel, path: Path | None) -> onnx.ModelProto:
    """The model as a message: with its weights, or, above the limit, as the written file's graph."""
    if weight_bytes(lowered) < SINGLE_FILE_LIMIT:
        return with_weights(lowered)
    if path is None:
        raise ExportError(
            "the model has more than 2 GB of weights, so it has no message of its own", remedy="save it to a file first"
        )
    return onnx.load(str(path), load_external_data=False)
