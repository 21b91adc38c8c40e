"""An exported model ready to run: in onnxruntime, or in onnx's own evaluator where that is not installed or able."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from passes.errors import VerificationError
from passes.files.writer import temporary_model
from passes.onnx.lowered_model import LoweredModel
from passes.onnx.precision import holds, in_float32

_ANOTHER_WAY = "try another --opset or --route torch, and report the model"


class Session:
    """Runs a model on the CPU. `runtime` says in words what runs it.

    `file` is the model as it was written. Where a CPU does not compute in its dtype, a copy with float32 between casts
    runs in its place: in bfloat16 for everything, as runtimes have next to no kernels for it and numpy's sums
    stand still at 256; in float64 for the operators that onnxruntime has no kernel for. What it lacks in other
    dtypes runs in onnx's evaluator. `in_float32` says whether float32 may have been computed in, whatever the
    model's dtype.

    Raises VerificationError where no runtime takes the model.
    """

    def __init__(self, lowered: LoweredModel, file: Path | None = None):
        self._input_names = lowered.input_names
        note = ""
        if holds(lowered, torch.bfloat16):
            note = ", bfloat16 computed in float32"
            lowered, file = in_float32(lowered, torch.bfloat16), None
        self._evaluator: Any = None
        if _is_installed():
            self._evaluator, operators = _onnxruntime_in_any_way(lowered, file)
            note += f", float64 computed in float32 by {', '.join(operators)}" if operators else ""
        name = "onnxruntime"
        if self._evaluator is None:
            name = "onnx.reference"
            self._evaluator = _reference(lowered, file)
        self.runtime = name + note
        # onnx's evaluator computes some functions in float32 always, such as Erf.
        self.in_float32 = bool(note) or name == "onnx.reference"

    def run(self, inputs: Sequence[torch.Tensor]) -> list[np.ndarray[Any, Any]]:
        """The outputs. Raises VerificationError where the model fails on the inputs."""
        tensors = [tensor.float() if tensor.dtype == torch.bfloat16 else tensor for tensor in inputs]
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


class _NoKernelError(VerificationError):
    """onnxruntime has no kernel for an operator, in a dtype that the model has it in."""

    def __init__(self, message: str):
        super().__init__(message, remedy=_ANOTHER_WAY)
        found = re.search(r"implementation for (\w+)", message)
        self.operator = found.group(1) if found else ""


def _onnxruntime_in_any_way(
    lowered: LoweredModel, file: Path | None, operators: tuple[str, ...] = ()
) -> tuple[Any, tuple[str, ...]]:
    """A session of onnxruntime, and the operators that compute float64 in float32 in it; None where there is no way."""
    tried = in_float32(lowered, torch.float64, operators) if operators else lowered
    try:
        return _onnxruntime(tried, file), operators
    except _NoKernelError as error:
        if not holds(lowered, torch.float64) or error.operator in operators:
            return None, ()
        return _onnxruntime_in_any_way(lowered, None, (*operators, error.operator))


def _onnxruntime(lowered: LoweredModel, file: Path | None) -> Any:
    if file is None:
        with temporary_model(lowered) as file:
            return _onnxruntime(lowered, file)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes derive from nothing narrower
        message = f"onnxruntime does not load the exported model: {_first_line(error)}"
        if type(error).__name__ == "NotImplemented":
            raise _NoKernelError(message) from error
        raise VerificationError(message, remedy=_ANOTHER_WAY) from error


def _reference(lowered: LoweredModel, file: Path | None) -> Any:
    from onnx.reference import ReferenceEvaluator

    if file is None:
        with temporary_model(lowered) as file:
            return ReferenceEvaluator(str(file))
    return ReferenceEvaluator(str(file))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
