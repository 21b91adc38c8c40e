"""Exported files beside the modules that they come from, at many lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import tracer
from passes.values.nested import leaves

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3}


class Of(nn.Module):
    """A module with the forward it is given, and parts to use in it."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module):
        super().__init__()
        self.call = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(self, *inputs)


class Packs(nn.Module):
    """A recurrent layer on rows of some lengths, padded again to as many steps and `more`; its results, all of them.

    States, where they are given, are for the first layer; an LSTM takes them as a tuple.
    """

    def __init__(self, net: nn.RNNBase, sorts: bool = True, padding_value: float = 0.0, more: int = 0):
        super().__init__()
        self.net, self.sorts, self.padding_value, self.more = net, sorts, padding_value, more

    def forward(self, x: Tensor, lengths: Tensor, *states: Tensor) -> Any:
        batch_first = self.net.batch_first
        packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=not self.sorts)
        given = (states if isinstance(self.net, nn.LSTM) else states[0],) if states else ()
        packed, last = self.net(packed, *given)
        steps = x.shape[1 if batch_first else 0] + self.more
        rows, found = pad_packed_sequence(packed, batch_first, self.padding_value, steps)
        return rows, found, last


def state_sizes(net: nn.RNNBase) -> list[tuple[int, int]]:
    """Layers and features of each state that a recurrent layer takes."""
    layers = net.num_layers * (2 if net.bidirectional else 1)
    widths = [net.proj_size or net.hidden_size, *([net.hidden_size] if isinstance(net, nn.LSTM) else [])]
    return [(layers, width) for width in widths]


def flat(value: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def assert_agrees(
    model: nn.Module, sample: Any, runs: Iterable[tuple[Tensor, ...]], **options: Any
) -> tracer.Conversion:
    """One file for the sample gives on every one of these inputs what the module gives, by the direct route."""
    conversion = tracer.convert(model.eval(), sample, verify=False, route="direct", **options)
    with TemporaryDirectory() as folder:
        path = conversion.save(Path(folder) / "model.onnx")
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    for inputs in runs:
        with torch.no_grad():
            expected = flat(conversion.module(*(tensor.clone() for tensor in inputs)))
        found = session.run(None, dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True)))
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape == tuple(theirs.shape)
            assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
            allowed = TOLERANCE.get(theirs.dtype, 0)
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=allowed, atol=allowed)
    return conversion


def assert_packs(
    model: Packs, rows: int | str, steps: int | str, sizes: Iterable[tuple[int, int]], with_states: bool, opset: int
) -> None:
    """The file of a model for so many rows and steps, which may be names, agrees at these sizes: with all lengths the
    greatest, all one, and random ones, of which the second half are without states."""
    net = model.net
    dtype = net.weight_ih_l0.dtype
    of_rows = [tracer.spec(layers, rows, width, dtype=dtype) for layers, width in state_sizes(net) if with_states]
    lead = (rows, steps) if net.batch_first else (steps, rows)
    sample = (tracer.spec(*lead, net.input_size, dtype=dtype), tracer.spec(rows, dtype=torch.int64), *of_rows)

    def inputs(n: int, t: int, lengths: Tensor) -> tuple[Tensor, ...]:
        shape = (n, t) if net.batch_first else (t, n)
        states = [torch.randn(layers, n, width, dtype=dtype) for layers, width in state_sizes(net) if with_states]
        lengths = lengths if model.sorts else lengths.sort(descending=True).values
        return torch.randn(*shape, net.input_size, dtype=dtype), lengths, *states

    runs = [
        inputs(n, t, lengths)
        for n, t in sizes
        for lengths in (torch.full((n,), t), torch.ones(n, dtype=torch.int64), torch.randint(1, t + 1, (n,)))
    ]
    assert_agrees(model, sample, runs, opset_version=opset)
