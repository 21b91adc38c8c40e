"""An exported model ready to run: in onnxruntime, or in onnx's own evaluator where that is not installed or able."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from passes.errors import VerificationError
from passes.onnx_lowering import LoweredModel
from passes.onnx_precision import holds, in_float32
from passes.onnx_writer import temporary_model

_ANOTHER_WAY = "try another --opset, or convert with verify=False (--no-verify)"


class Session:
    """Runs a model on the CPU. `runtime` says in words what runs it.

    `file` is the model as it was written. Where a CPU does not compute in its dtype, a copy that computes in float32
    runs in its place: in bfloat16 always, as runtimes have next to no kernels for it and numpy's sums stand
    still at 256; in float64 where onnxruntime lacks a kernel. What it lacks otherwise runs in onnx's evaluator.
    `in_float32` says whether float32 may have been computed in, whatever the model's dtype.

    Raises VerificationError where no runtime takes the model.
    """

    def __init__(self, lowered: LoweredModel, file: Path | None = None):
        self._input_names = lowered.input_names
        self._recast: list[torch.dtype] = []
        if holds(lowered, torch.bfloat16):
            lowered, file = self._in_float32(lowered, torch.bfloat16), None
        self._evaluator = _onnxruntime(lowered, file)
        if self._evaluator is None and _is_installed() and holds(lowered, torch.float64):
            lowered, file = self._in_float32(lowered, torch.float64), None
            self._evaluator = _onnxruntime(lowered, file)
        name = "onnxruntime" if self._evaluator is not None else "onnx.reference"
        if self._evaluator is None:
            self._evaluator = _reference(lowered, file)
        recast = " and ".join(str(dtype).removeprefix("torch.") for dtype in self._recast)
        self.runtime = f"{name}, {recast} computed in float32" if recast else name
        # onnx's evaluator computes some functions in float32 always, such as Erf.
        self.in_float32 = bool(recast) or name == "onnx.reference"

    def _in_float32(self, lowered: LoweredModel, dtype: torch.dtype) -> LoweredModel:
        self._recast.append(dtype)
        return in_float32(lowered, dtype)

    def run(self, inputs: Sequence[torch.Tensor]) -> list[np.ndarray[Any, Any]]:
        """The outputs. Raises VerificationError where the model fails on the inputs."""
        tensors = [tensor.float() if tensor.dtype in self._recast else tensor for tensor in inputs]
        feed = {name: tensor.detach().numpy() for name, tensor in zip(self._input_names, tensors, strict=True)}
        try:
            return [np.asarray(result) for result in self._evaluator.run(None, feed)]
        except Exception as error:  # the runtimes share no narrower class
            raise VerificationError(
                f"{self.runtime} cannot run the exported model: {_first_line(error)}", remedy=_ANOTHER_WAY
            ) from error


def _is_installed() -> bool:
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return False
    return True


def _onnxruntime(lowered: LoweredModel, file: Path | None) -> Any:
    """A session of onnxruntime; None where it is not installed, or has no kernel for one of the model's types."""
    if not _is_installed():
        return None
    if file is None:
        with temporary_model(lowered) as file:
            return _onnxruntime(lowered, file)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes derive from nothing narrower
        if type(error).__name__ == "NotImplemented":
            return None
        raise VerificationError(
            f"onnxruntime does not load the exported model: {_first_line(error)}", remedy=_ANOTHER_WAY
        ) from error


def _reference(lowered: LoweredModel, file: Path | None) -> Any:
    from onnx.reference import ReferenceEvaluator

    if file is None:
        with temporary_model(lowered) as file:
            return ReferenceEvaluator(str(file))
    return ReferenceEvaluator(str(file))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
