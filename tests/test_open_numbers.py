"""Open sizes as numbers of operations: windows, groups and tables, in onnxruntime beside eager at other sizes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException
from torch import Tensor, nn
from torch.nn import functional as F

import tracer
from tracer import TracerWarning, spec

Forward = Callable[[Any], Any]
RUNTIME_ERRORS = (Fail, InvalidArgument, RuntimeException)
ANY = "valid for N >= 1, H >= 1"
SHAPES = [(2, 12), (1, 12), (3, 5), (1, 1), (2, 13), (4, 30)]


class Net(nn.Module):
    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def image(of: Forward) -> Forward:
    """Of the input as an image of H rows of 4."""
    return lambda x: of(x[:, None])


# By name: the forward, for which sizes it holds, and how many of SHAPES are among them.
CASES: dict[str, tuple[Forward, str, int]] = {
    "an average over all": (image(lambda y: F.avg_pool2d(y, y.shape[2:])), ANY, 6),
    "an average over all, flat": (image(lambda y: F.avg_pool2d(y, kernel_size=y.size()[2:]).flatten(1)), ANY, 6),
    "a maximum over all": (image(lambda y: F.max_pool2d(y, kernel_size=y.size()[2:])), ANY, 6),
    "a maximum over one axis": (lambda x: F.max_pool1d(x.transpose(1, 2), x.size(1)), ANY, 6),
    "an average of columns": (image(lambda y: F.avg_pool2d(y, (y.shape[2], 2))), ANY, 6),
    "maxima of columns that overlap": (image(lambda y: F.max_pool2d(y, (y.shape[2], 2), stride=1)), ANY, 6),
    "a sum over all": (image(lambda y: F.avg_pool2d(y, y.shape[2:], divisor_override=3)), ANY, 6),
    "a sum of columns": (image(lambda y: F.avg_pool2d(y, (y.shape[2], 2), divisor_override=3)), ANY, 6),
    "a norm over all": (image(lambda y: F.lp_pool2d(y.abs(), 2.0, y.shape[2:])), ANY, 6),
    "windows of half": (lambda x: x.unfold(1, (x.shape[1] + 1) // 2, 1), ANY, 6),
    "half a window": (lambda x: F.avg_pool1d(x.transpose(1, 2), x.shape[1] // 2), "valid for N >= 1, 12 <= H <= 13", 3),
    "a stride": (
        lambda x: F.max_pool1d(x.transpose(1, 2), 2, stride=x.shape[1] // 4), "valid for N >= 1, 12 <= H <= 15", 3,
    ),
    "a pyramid": (
        image(lambda y: F.max_pool2d(y, (math.ceil(y.shape[2] / 4), 4), (y.shape[2] // 4, 4))),
        "valid for N >= 1, H == 12", 2,
    ),
    "windows in steps": (lambda x: x.unfold(1, 2, x.shape[1] // 4), "valid for N >= 1, 12 <= H <= 15", 3),
    "padding": (
        lambda x: F.conv1d(x.transpose(1, 2), torch.ones(2, 4, 3), padding=x.shape[1] // 4),
        "valid for N >= 1, 12 <= H <= 15", 3,
    ),
    "a kernel for each image": (
        lambda x: F.conv1d(
            x.transpose(1, 2).reshape(1, x.shape[0] * 4, -1), torch.ones(4, 1, 3).repeat(x.shape[0], 1, 1),
            groups=x.shape[0] * 4,
        ),
        "valid for N == 2, H >= 3", 2,
    ),
    "groups": (lambda x: F.group_norm(x, x.shape[1]), "valid for N >= 1, H == 12", 2),
    "a pool behind an assertion": (
        lambda x: F.max_pool1d(x.transpose(1, 2), x.shape[1] // 4) if x.shape[1] == 12 else x,
        "valid for N >= 1, H == 12", 2,
    ),
    "a window function": (lambda x: x * torch.hann_window(x.shape[1])[:, None], "valid for N >= 1, H == 12", 2),
    "places of a triangle": (
        lambda x: (x @ x.transpose(1, 2))[(slice(None), *torch.tril_indices(x.shape[1], x.shape[1]))],
        "valid for N >= 1, H == 12", 2,
    ),
    "places backwards": (lambda x: x[:, torch.arange(x.shape[1] - 1, -1, -1)], ANY, 6),
    "places from the end": (lambda x: x[:, torch.arange(-1, -x.shape[1] - 1, -1)], ANY, 6),
    "places around the end": (lambda x: x.index_select(1, torch.arange(-1, x.shape[1] - 1) % x.shape[1]), ANY, 6),
    "places around it": (lambda x: x[:, torch.arange(-1, x.shape[1] - 1)], ANY, 6),
    "an array of sizes": (lambda x: x * torch.from_numpy(np.array(x.shape)).float()[1], ANY, 6),
    "an array of floats": (lambda x: x * torch.tensor(np.array([[x.shape[1] / 3, 1], [2, 3]])).float().sum(), ANY, 6),
    "an array that is computed with": (
        lambda x: x * torch.as_tensor(np.asarray(x.shape[1:]) * 2 + 1, dtype=torch.float32).sum(), ANY, 6,
    ),
    "numpy's numbers": (
        lambda x: np.float32(0.5) * x.reshape(x.shape[0], -1, np.prod([2, 2])) * np.float64(3) + np.int64(2), ANY, 6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_open_sizes_as_numbers_of_operations(name: str) -> None:
    function, statement, count = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        conversion = tracer.convert(
            Net(function), spec("N", "H", 4), dims={"H": 12}, route="direct", verify=False, guards="checked"
        )
    assert conversion.report.statement == statement
    session = onnxruntime.InferenceSession(conversion.onnx_model.SerializeToString())
    agreed = 0
    for n, height in SHAPES:
        x = torch.randn(n, height, 4)
        if not all(eval(part, {"N": n, "H": height}) for part in statement.removeprefix("valid for ").split(", ")):
            with pytest.raises(RUNTIME_ERRORS):
                session.run(None, {session.get_inputs()[0].name: x.numpy()})
            continue
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        wanted = function(x)
        assert (found.shape, str(found.dtype)) == (tuple(wanted.shape), str(wanted.dtype).removeprefix("torch."))
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-5, atol=1e-5)
        agreed += 1
    assert agreed == count
