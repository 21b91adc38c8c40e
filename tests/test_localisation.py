"""A wrong lowering is found at the place where it was made, and nothing else is blamed for it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from passes.lowering.torch_exporter import export_through_torch
from passes.modules.batchnorm_folding import Fold
from passes.onnx.lowered_model import LoweredModel
from passes.ops.op import FUNCTIONS
from tests.sabotage import spoil
from tracer import VerificationError
from tracer.checking.localisation import locator

RANGES = re.compile(r"where the file has (\S+) to (\S+) and the module (\S+) to (\S+), (\S+) apart at (\[.*\])")
X = tracer.spec("N", 4)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.outer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.outer(self.inner(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.last = nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.blocks(x))


def disagreement(model: nn.Module, *args: Any, **options: Any) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        tracer.convert(model, args or X, seed=0, **options)
    return caught.value


def place(error: VerificationError) -> tuple[str, str]:
    assert error.location is not None, error
    return error.location.path, error.operation


@pytest.mark.parametrize("installed", [True, False])
def test_a_layer_is_named_with_its_line_and_both_ranges(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    spoil(monkeypatch, nn.Linear, call=4)
    error = disagreement(Net())
    assert place(error) == ("blocks.1.outer", "Linear")
    assert error.location is not None
    assert re.fullmatch(r"test_localisation\.py:\d+", error.location.source or "")
    assert "output output at N=2 differs from the module's by" in error.message
    found = RANGES.search(error.message)
    assert found is not None
    low, high, exact_low, exact_high, apart = map(float, found.groups()[:5])
    assert (low - exact_low, high - exact_high, apart) == pytest.approx((1, 1, 1), abs=1e-2)
    assert re.fullmatch(r"\[[01], [0-3]\]", found.group(6))


def test_an_operation_between_layers_is_named_by_its_place_in_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, torch.tanh, call=2)
    error = disagreement(Net())
    assert place(error) == ("blocks.1/tanh", "tanh")
    names = [node.name for node in tracer.convert(Net(), X, verify=False).onnx_model.graph.node]
    assert any(name.startswith("blocks.1/tanh") for name in names)


class Normed(nn.Module):
    """Two layers, each with its batch norm, of which one is shared."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.first = nn.LazyConv2d(6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.LazyConv2d(6, 3, padding=1)
        self.norm2 = self.norm if shared else nn.BatchNorm2d(6)
        for norm in {self.norm, self.norm2}:
            nn.init.uniform_(norm.weight)
            norm.running_mean = torch.randn(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        return F.relu(self.norm2(self.second(x)))


def test_a_folded_batch_norm_stands_for_the_layer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, nn.Conv2d, call=2)
    error = disagreement(Normed(), tracer.spec("N", 3, 8, 8))
    assert place(error) == ("norm2", "folded into second")
    monkeypatch.undo()
    spoil(monkeypatch, nn.Conv2d, call=2)
    assert place(disagreement(Normed(), tracer.spec("N", 3, 8, 8), fold_batchnorm=False)) == ("second", "Conv2d")


def test_a_wrong_fold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fold, "bias", lambda self, tensors: torch.zeros(6))
    assert place(disagreement(Normed(), tracer.spec("N", 3, 8, 8))) == ("norm", "folded into first")


def test_a_batch_norm_folded_into_two_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, nn.Conv2d, call=2)
    error = disagreement(Normed(shared=True), tracer.spec("N", 3, 8, 8))
    assert place(error) == ("norm", "folded into second, call 2 of 2")


class Repeats(nn.Module):
    """One layer called three times; what the first call gives is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.layer(100 * x)
        return self.last(torch.sigmoid(self.layer(torch.sigmoid(self.layer(x)))))


@pytest.mark.parametrize(
    ("call", "expected"),
    [(1, ("layer", "Linear, call 2 of 3")), (2, ("layer", "Linear, call 3 of 3")), (3, ("last", "Linear"))],
)
def test_the_call_of_a_repeated_layer_is_told(
    call: int, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, nn.Linear, call=call)
    assert place(disagreement(Repeats())) == expected


class InPlace(nn.Module):
    """Writes into what a layer gave, and into the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)
        self.last = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        y = self.act(self.first(x))
        y.add_(x)
        y[:, 0] = 3.0
        y[:, 1:].neg_()
        return self.last(y)


def test_writes_in_place_are_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, nn.Linear, call=2)
    assert place(disagreement(InPlace())) == ("last", "Linear")


def test_the_inputs_are_those_that_showed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clears(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.tanh(x)
            x.zero_()
            return y + x

    tanh = FUNCTIONS[torch.tanh][0]
    monkeypatch.setattr(tanh, "lowering", lambda emit, call: emit.node("Sin", call.input))  # right for zeros
    assert place(disagreement(Clears())) == ("tanh", "tanh")


def test_the_callers_model_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("offset", -torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + torch.relu_(self.offset)

    spoil(monkeypatch, torch.relu_)
    model = Writes()
    assert place(disagreement(model)) == ("relu", "relu_")
    assert model.offset.tolist() == [-1] * 4


class Filled(nn.Module):
    """Starts from memory that nobody has written to."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.empty(3, 4)
        z = torch.empty_like(y)
        for part in (y, z):
            part[:, :2] = 1.0
            part[:, 2:] = x[0, 2:]
        return self.last(x * y[0] + z[0])


def test_memory_that_is_not_written_to_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, nn.Linear)
    torch.use_deterministic_algorithms(True)  # it is full of NaN then
    try:
        assert place(disagreement(Filled())) == ("last", "Linear")
    finally:
        torch.use_deterministic_algorithms(False)


def test_other_strides_are_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.tanh(x).t().contiguous().view(-1, 4))

    spoil(monkeypatch, nn.Linear)
    assert place(disagreement(Turned())) == ("last", "Linear")


def test_a_result_that_is_not_used_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    class Greatest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(2, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values, _ = x.sort(-1)
            return self.last(values[:, 2:])

    spoil(monkeypatch, nn.Linear)
    right = FUNCTIONS[torch.sort][0].lowering
    assert right is not None

    def other_places(emit: Any, *args: Any, **kwargs: Any) -> Any:
        values, places = right(emit, *args, **kwargs)
        return values, emit.node("Neg", places)

    monkeypatch.setattr(FUNCTIONS[torch.sort][0], "lowering", other_places)
    assert place(disagreement(Greatest())) == ("last", "Linear")


class Nested(nn.Module):
    """Layers with several results."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(4, 4)
        self.second = nn.LSTM(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, (_, memory) = self.second(self.first(x)[0])
        top, bottom = y.chunk(2, 1)
        return top * bottom, memory


@pytest.mark.parametrize(
    ("spelling", "call", "expected"),
    [(nn.LSTM, 2, ("second", "LSTM")), (torch.chunk, 1, ("chunk", "chunk"))],
)
def test_layers_with_several_results(
    spelling: Any, call: int, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, spelling, call)
    assert place(disagreement(Nested(), tracer.spec(3, 2, 4))) == expected


def test_what_is_not_a_number_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Logarithm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(torch.log(x)) * 2

    spoil(monkeypatch, torch.log)
    error = disagreement(Logarithm(), torch.tensor([1.0, -1.0, 0.0, 2.0]))
    assert place(error) == ("log", "log")
    assert "where the file has 1 to 1.69 and 2 infinities or NaNs and the module 0 to 0.693 and 2" in error.message


def test_a_wrong_condition_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Positive(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x > 0

    greater = FUNCTIONS[torch.gt][0]
    monkeypatch.setattr(
        greater, "lowering", lambda emit, call: emit.node("Less", call.input, emit.scalar(0, call.input))
    )
    error = disagreement(Positive(), torch.tensor([1.0, 2.0]))
    assert place(error) == ("gt", "gt")
    assert "where the file has 0 to 0 and the module 1 to 1, 1 apart at [0]" in error.message


def test_a_wrong_shape_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from passes.ops.softmax import softmax

    monkeypatch.setattr(softmax, "lowering", lambda emit, call: emit.slice(call.input, 0, 0, 1))
    error = disagreement(nn.Sequential(nn.Softmax(-1), nn.Tanh()))
    assert place(error) == ("0", "Softmax")
    assert "output output at N=2 has the shape [1, 4], but the module gives [2, 4]" in error.message
    assert "of shapes [1, 4] and [2, 4]" in error.message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, nn.Linear, call=4)
    model = tracer.resolve(Net(), X, seed=0).to(dtype)
    assert place(disagreement(model, tracer.spec("N", 4, dtype=dtype))) == ("blocks.1.outer", "Linear")


def test_a_module_that_a_callers_pass_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def replaces(program: Any) -> None:
        for node in program.graph.nodes:
            if node.target == "blocks.0.inner":
                program.added["twin"] = program.module("blocks.0.inner")
                with program.graph.inserting_before(node):
                    twin = program.graph.call_module("twin", node.args)
                node.replace_all_uses_with(twin)
                program.graph.erase_node(node)
                return

    spoil(monkeypatch, nn.Linear, call=2)
    assert place(disagreement(Net(), passes=[replaces])) == ("blocks.0.outer", "Linear")


def test_the_torch_route_says_that_it_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    export: Callable[..., LoweredModel] = export_through_torch

    def wrong(*args: Any, **kwargs: Any) -> LoweredModel:
        lowered = export(*args, **kwargs)
        lowered.weights = {name: tensor + 1 for name, tensor in lowered.weights.items()}
        return lowered

    monkeypatch.setattr("passes.lowering.torch_exporter.export_through_torch", wrong)
    error = disagreement(nn.Linear(4, 3), route="torch")
    assert error.location is None
    assert error.message.endswith("of the range is allowed; where it begins cannot be told on the torch route")


def test_nothing_is_blamed_where_all_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def keep(lowered: LoweredModel, program: Any) -> Any:
        locate = locator(lowered, program)
        found.append(locate)
        return locate

    monkeypatch.setattr("tracer.checking.localisation.locator", keep)
    model = Net()
    conversion = tracer.convert(model, X)
    origin = found[0](conversion.module, (torch.randn(3, 4),), {})
    assert origin.location is None
    assert origin.text == "no value on the way to it differs when the file gives them all"
