"""Other weights in a written ONNX file: the bytes of some initializers are replaced, all others are copied.

A tensor of the same shape and dtype takes as many bytes, so the rest of the file need not be understood. Where each
initializer's bytes are is read off the wire format; no weight is loaded for it. Nothing is taken for granted that the
file says: it may be damaged, or made to be misread.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import math
import mmap
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto

from passes.errors import LoadError
from passes.files.output_file import staged
from passes.files.writer import GRAPH_INITIALIZER, MODEL_GRAPH, TENSOR_RAW_DATA, external_data
from passes.onnx.protos import raw_bytes
from passes.onnx.types import ONNX_TYPES

Span = tuple[int, int]

# A number on the wire has 64 bits, seven in a byte.
_VARINT_BYTES = 10
# A checksum, which is a key too, would be that of the old weights.
_EXTERNAL_KEYS = {"location", "offset", "length"}
_DTYPES = {number: dtype for dtype, number in ONNX_TYPES.items()}


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """An ONNX file whose weights are left where they are.

    `properties` are the model's; `spans` says where each initializer's bytes begin and end in `data`, which is the
    file itself or one of external data beside it; `outline` is the model without them; `shapes` and `dtypes` are what
    it says of them.
    """

    path: Path
    outline: onnx.ModelProto
    properties: dict[str, str]
    data: Path
    spans: dict[str, Span]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype | None]


def read_written(path: Path) -> WrittenModel:
    """Finds an ONNX file's properties and weights. Raises LoadError where it is none, or is not whole."""
    if not path.is_file():
        raise LoadError(f"the model file {path} does not exist", remedy="give the path of an exported .onnx file")
    try:
        with _mapped(path) as view:
            model, tensors, spans = _scan(view)
        _check_unique([tensor.name for tensor in tensors], "initializer")
        _check_unique([entry.key for entry in model.metadata_props], "property")
        external = [tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL]
        data, beside = _find_external(path, external) if external else (path, {})
        held = {**spans, **beside}
        for tensor in tensors:
            _check_size(tensor, held.get(tensor.name))
        return WrittenModel(
            path,
            _without_data(model, tensors, set(held)),
            {entry.key: entry.value for entry in model.metadata_props},
            data,
            beside or spans,
            {tensor.name: tuple(tensor.dims) for tensor in tensors},
            {tensor.name: _DTYPES.get(tensor.data_type) for tensor in tensors},
        )
    except (OSError, ValueError, KeyError, IndexError, DecodeError) as error:
        raise LoadError(f"{path} cannot be read as an ONNX model: {error}", remedy="export the model again") from error


def rewrite(model: WrittenModel, target: Path, tensors: Mapping[str, Callable[[], torch.Tensor]]) -> None:
    """Writes the model to `target` with other tensors in some of its initializers, whole or not at all.

    A tensor is made when its turn comes, and must have the initializer's shape and dtype. External data goes to a new
    file, as `write_model` says. Raises LoadError where the model is not valid or a tensor takes other than the
    initializer's bytes, ExportError where the target cannot be written.
    """
    try:
        onnx.checker.check_model(model.outline)
    except (onnx.checker.ValidationError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise LoadError(f"{model.path} is no valid ONNX model: {said}", remedy="export the model again") from error
    if model.data == model.path:
        with staged(target) as staging, _mapped(model.data) as view:
            staging.file.writelines(_patched(view, model, tensors))
        return
    with _mapped(model.data) as view, external_data(_patched(view, model, tensors), target) as location:
        proto = onnx.load(model.path, load_external_data=False)
        for entry in (entry for tensor in proto.graph.initializer for entry in tensor.external_data):
            if entry.key == "location":
                entry.value = location
        with staged(target) as staging:
            staging.file.write(proto.SerializeToString(deterministic=True))


def _patched(
    view: memoryview, model: WrittenModel, tensors: Mapping[str, Callable[[], torch.Tensor]]
) -> Iterator[memoryview]:
    """The bytes of a file, with those of the tensors in their places."""
    copied = 0
    for (start, end), name in sorted((model.spans[name], name) for name in tensors):
        tensor = tensors[name]()
        data = raw_bytes(tensor).data
        if data.nbytes != end - start:
            raise LoadError(
                f"{name} takes {end - start} bytes in the file, but {data.nbytes} now", remedy="export the model again"
            )
        if (tuple(tensor.shape), tensor.dtype) != (model.shapes[name], model.dtypes[name]):
            raise LoadError(
                f"{name} is {list(model.shapes[name])} in the file, but {list(tensor.shape)} now",
                remedy="export the model again",
            )
        yield view[copied:start]
        yield data
        copied = end
    yield view[copied:]


def _find_external(path: Path, tensors: list[TensorProto]) -> tuple[Path, dict[str, Span]]:
    """The file beside the model that holds these tensors, and where in it each is.

    Raises ValueError unless that is a file of its own in the model's folder, in which each tensor has a part of its
    own: what shares bytes with another would change with it.
    """
    for tensor in tensors:
        _check_unique([entry.key for entry in tensor.external_data], f"entry of {tensor.name}")
    entries = {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in tensors}
    if not all(entry.keys() <= _EXTERNAL_KEYS for entry in entries.values()):
        raise ValueError("its weights are in a place that has to be said otherwise")
    (location,) = {entry["location"] for entry in entries.values()}
    if not isinstance(location, str):
        raise ValueError(f"its weights are in a file whose name is no text: {location!r}")
    data = path.with_name(location)  # which refuses a path that leads elsewhere
    found = data.lstat()
    if not stat.S_ISREG(found.st_mode) or data.samefile(path):
        raise ValueError(f"its weights are in {location}, which is no file of their own")
    starts = {name: _number(entry.get("offset", "0")) for name, entry in entries.items()}
    spans = {name: (start, start + _number(entries[name]["length"])) for name, start in starts.items()}
    if found.st_size < max(end for _, end in spans.values()):
        raise ValueError(f"its weights in {location} are not whole")
    for (before, last), (after, first) in pairwise(sorted((span, name) for name, span in spans.items())):
        if before[1] > after[0]:
            raise ValueError(f"{last} and {first} share bytes")
    return data, spans


def _number(text: str) -> int:
    if not isinstance(text, str) or not re.fullmatch("[0-9]{1,19}", text):
        raise ValueError(f"{text!r} is no place in a file")
    return int(text)


def _check_unique(names: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str):  # what is no UTF-8 comes as bytes
            raise ValueError(f"it has a name that is no text: {name!r}")
        if name in seen:
            raise ValueError(f"it has the {what} {name} twice")
        seen.add(name)


def _check_size(tensor: TensorProto, span: Span | None) -> None:
    dtype = _DTYPES.get(tensor.data_type)
    if any(size < 0 for size in tensor.dims):
        raise ValueError(f"{tensor.name} has a negative size")
    if span is not None and dtype is not None and math.prod(tensor.dims) * dtype.itemsize != span[1] - span[0]:
        raise ValueError(f"{tensor.name} takes {span[1] - span[0]} bytes in the file, but is {list(tensor.dims)}")


def _without_data(model: onnx.ModelProto, tensors: list[TensorProto], elsewhere: set[str]) -> onnx.ModelProto:
    """The model with its weights as inputs: whether it is valid does not depend on their values."""
    held = {entry.name for entry in model.graph.input}
    for tensor in tensors:
        if tensor.name not in elsewhere:
            model.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in held:
            value = model.graph.input.add(name=tensor.name)
            value.type.tensor_type.elem_type = tensor.data_type
            value.type.tensor_type.shape.SetInParent()  # that of a scalar has no axes, but is there
            for size in tensor.dims:
                value.type.tensor_type.shape.dim.add(dim_value=size)
    return model


def _scan(view: memoryview) -> tuple[onnx.ModelProto, list[TensorProto], dict[str, Span]]:
    """A model file without its initializers, each of these without its bytes, and where those are."""
    outside, graph = bytearray(), bytearray()
    tensors: list[TensorProto] = []
    spans: dict[str, Span] = {}
    for number, begin, start, end in _fields(view, 0, len(view)):
        if number != MODEL_GRAPH:
            outside += view[begin:end]
            continue
        for inner, at, first, last in _fields(view, start, end):
            if inner != GRAPH_INITIALIZER:
                graph += view[at:last]
                continue
            tensor, span = _scan_tensor(view, first, last)
            tensors.append(tensor)
            if span is not None:
                spans[tensor.name] = span
    model = onnx.ModelProto.FromString(bytes(outside))
    model.graph.MergeFromString(bytes(graph))
    return model, tensors, spans


def _scan_tensor(view: memoryview, start: int, end: int) -> tuple[TensorProto, Span | None]:
    head, span = bytearray(), None
    for number, begin, first, last in _fields(view, start, end):
        if number != TENSOR_RAW_DATA:
            head += view[begin:last]
        elif span is not None:
            raise ValueError("an initializer has its bytes twice")
        else:
            span = first, last
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
        if tag >> 3 in (MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA) and tag & 7 != 2:
            tag = 0  # a field of another type than the format's is an unknown one, which protobuf leaves alone
        yield tag >> 3, position, first, last
        position = last


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = 0
    for index in range(_VARINT_BYTES):
        byte = view[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError("a number has too many bytes")


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    """A file's bytes, read when they are looked at."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping,
        memoryview(mapping) as view,
    ):
        yield view
