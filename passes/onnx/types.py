"""Between torch's element types and ONNX's."""

from __future__ import annotations

import torch
from onnx import TensorProto

from passes.errors import UnsupportedOpError

# The one table between torch's and ONNX's element types.
ONNX_TYPES: dict[torch.dtype, int] = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int16: TensorProto.INT16,
    torch.int8: TensorProto.INT8,
    torch.uint64: TensorProto.UINT64,
    torch.uint32: TensorProto.UINT32,
    torch.uint16: TensorProto.UINT16,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}


def onnx_type(dtype: torch.dtype) -> int:
    """ONNX's element type of a dtype. Raises UnsupportedOpError where it has none."""
    if dtype not in ONNX_TYPES:
        raise UnsupportedOpError(
            f"a tensor of {dtype} cannot be in an ONNX graph", remedy="convert it to another dtype"
        )
    return ONNX_TYPES[dtype]


__all__ = ["ONNX_TYPES", "onnx_type"]
