"""Why a layer has its sizes: the chain of shapes, and formulas that hold at other sizes too."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tracer
from tracer.commands.explanation import Explanation


class Net(nn.Module):
    """Two convolutions without padding, each pooled; a side branch that has no part in the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.LazyConv2d(6, 5)
        self.conv2 = nn.LazyConv2d(16, 5)
        self.side = nn.LazyLinear(3)
        self.fc1 = nn.LazyLinear(120)
        self.fc2 = nn.Linear(120, 10)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        side = self.side(image)
        h = F.max_pool2d(F.relu(self.conv1(image)), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        return self.fc2(F.relu(self.fc1(h.flatten(1)))), side


def value(formula: str, **sizes: int) -> int:
    result: int = eval(formula, {}, sizes)
    return result


class TestChain:
    def test_sizes_as_formulas(self) -> None:
        explanation = tracer.why(Net(), tracer.spec(2, 3, 32, 32), "fc1")
        (size,) = explanation.sizes
        assert str(size) == "fc1.in_features = 16*((H//4) - 3)*((W//4) - 3) = 400"
        assert explanation.named == {"N": 2, "C": 3, "H": 32, "W": 32}

    def test_steps(self) -> None:
        explanation = tracer.why(Net(), tracer.spec(2, 3, 32, 32), "fc1")
        names = [step.name for step in explanation.steps]
        assert names == ["input image", "conv1", "max_pool2d", "conv2", "max_pool2d", "flatten", "fc1"]
        assert [step.kept for step in explanation.steps] == [0, 0, 1, 0, 1, 0, 0]  # the relus
        first, convolved = explanation.steps[:2]
        assert (str(first), first.source) == ("N x C x H x W = 2 x 3 x 32 x 32", None)
        assert (convolved.type, convolved.formula, convolved.shape) == (
            "LazyConv2d",
            ["N", 6, "H - 4", "W - 4"],
            [2, 6, 28, 28],
        )
        assert convolved.source is not None
        assert convolved.source.startswith("test_explanation.py:")

    def test_every_formula_holds_at_other_sizes(self) -> None:
        explanation = tracer.why(Net(), tracer.spec(2, 3, 32, 32), "fc1")
        for n, c, h, w in ((3, 3, 33, 47), (1, 3, 64, 20)):
            there = tracer.why(Net(), tracer.spec(n, c, h, w), "fc1")
            sizes = {"N": n, "C": c, "H": h, "W": w}
            for step, other in zip(explanation.steps, there.steps, strict=True):
                assert [value(str(size), **sizes) for size in step.formula] == other.shape
            assert value(explanation.sizes[0].formula, **sizes) == there.sizes[0].value

    def test_channels(self) -> None:
        (size,) = tracer.why(Net(), tracer.spec(2, 3, 32, 32), "conv1").sizes
        assert (size.name, size.formula, size.value) == ("conv1.in_channels", "C", 3)

    def test_printed(self) -> None:
        lines = str(tracer.why(Net(), tracer.spec(1, 3, 32, 32), "conv2")).splitlines()
        assert lines[0] == "input image  1 x C x H x W = 1 x 3 x 32 x 32"
        assert lines[-1] == "conv2.in_channels = 6"
        assert len(lines) == 5

    def test_json(self) -> None:
        facts = json.loads(json.dumps(tracer.why(Net(), tracer.spec(2, 3, 32, 32), "fc1").to_dict()))
        assert facts.keys() == {"path", "type", "declared", "named", "steps", "sizes"}
        assert (facts["path"], facts["type"]) == ("fc1", "LazyLinear")
        assert facts["sizes"][0]["value"] == 400


class TestWhichLayer:
    def test_not_lazy(self) -> None:
        explanation = tracer.why(Net(), tracer.spec(2, 3, 32, 32), "fc2")
        assert explanation.sizes == []
        assert explanation.conclusion() == ["fc2 is not lazy: Linear(in_features=120, out_features=10, bias=True)"]

    def test_container_and_whole_model(self) -> None:
        model = nn.Sequential(nn.Sequential(nn.LazyLinear(3), nn.Flatten()), nn.LazyLinear(4))
        assert [step.name for step in tracer.why(model, tracer.spec(2, 5, 6), "0").steps] == [
            "input input",
            "0.0",
            "0.1",
        ]
        assert [step.name for step in tracer.why(model, tracer.spec(2, 5, 6), "").steps][-1] == "1"

    def test_shared_layer_by_its_other_path(self) -> None:
        layer = nn.LazyLinear(4)
        explanation = tracer.why(nn.Sequential(layer, nn.ReLU(), layer), tracer.spec(2, 4), "2")
        assert explanation.path == "0"
        assert str(explanation.sizes[0]) == "0.in_features = C = 4"

    @pytest.mark.parametrize(
        ("path", "suggested"), [("fc", "fc1"), ("conv", "conv"), ("1", "block.1"), ("wholly different", "conv1")]
    )
    def test_unknown(self, path: str, suggested: str) -> None:
        model = Net()
        model.block = nn.Sequential(nn.ReLU(), nn.ReLU())
        with pytest.raises(tracer.InputError, match=f"Net has no layer '{path}'") as error:
            tracer.why(model, tracer.spec(2, 3, 32, 32), path)
        assert suggested in error.value.remedy

    def test_unreached(self) -> None:
        model = Net()
        model.spare = nn.Linear(2, 2)
        with pytest.raises(tracer.InputError, match="never reaches spare"):
            tracer.why(model, tracer.spec(2, 3, 32, 32), "spare")

    def test_no_module(self) -> None:
        with pytest.raises(tracer.InputError, match=r"not a torch\.nn\.Module"):
            tracer.why("net", tracer.spec(2), "x")  # type: ignore[arg-type]


class Allocates(nn.Module):
    """Takes as many steps as there are tokens: that size must stay a number, while the batch may be named."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(4)

    def forward(self, tokens: Tensor) -> Tensor:
        found = tokens.unsqueeze(-1).float()
        found = found + torch.Tensor(tokens.shape[1], 1)  # which needs a number, and does not say what for
        return self.layer(found.flatten(1))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(torch.cat([x, y], dim=1))


class TestNames:
    def explain(self, model: nn.Module, *shapes: tuple[int | str, ...]) -> Explanation:
        return tracer.why(model, tuple(tracer.spec(*shape) for shape in shapes), "layer")

    def test_only_those_that_the_forward_allows(self) -> None:
        explanation = tracer.why(Allocates(), tracer.spec(3, 5, dtype=torch.int64), "layer")
        assert (explanation.named, str(explanation.sizes[0])) == ({"N": 3}, "layer.in_features = 5")

    def test_inputs_share_a_name_where_their_sizes_agree(self) -> None:
        explanation = self.explain(TwoInputs(), (2, 3), (2, 5))
        assert explanation.named == {"N": 2, "C": 3, "C_y": 5}
        assert explanation.sizes[0].formula == "C + C_y"

    def test_the_callers_own_names_stand(self) -> None:
        explanation = self.explain(TwoInputs(), ("batch", 3), ("batch", 3))
        assert explanation.named == {"batch": 2, "C": 3}
        assert explanation.sizes[0].formula == "2*C"

    @pytest.mark.parametrize(
        ("shape", "named"),
        [((7,), ["N"]), ((2, 3), ["N", "C"]), ((2, 3, 4), ["N", "d1", "d2"]), ((2, 1, 4, 5), ["N", "H", "W"]),
         ((2, 3, 4, 5, 6), ["N", "C", "D", "H", "W"]), ((2, 3, 4, 5, 6, 7), ["N", "d1", "d2", "d3", "d4", "d5"])],
    )  # fmt: skip
    def test_by_the_number_of_axes(self, shape: tuple[int, ...], named: list[str]) -> None:
        model = nn.Sequential()
        model.layer = nn.LazyLinear(2)
        assert list(self.explain(model, shape).named) == named

    def test_tokens(self) -> None:
        model = nn.Sequential()
        model.layer = nn.Embedding(9, 3)
        assert list(tracer.why(model, tracer.spec(2, 7, dtype=torch.int64), "layer").named) == ["N", "T"]

    def test_of_data(self) -> None:
        assert tracer.why(TwoInputs(), (torch.zeros(2, 3), torch.zeros(2, 3)), "layer").sizes[0].value == 6


class ByData(nn.Module):
    """Can be followed on data alone; counts how often that happens."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = x + 1
        type(self).calls += 1
        return self.layer(x)


def test_what_cannot_be_traced_is_not_followed_again() -> None:
    explanation = tracer.why(ByData(), tracer.spec(2, 3), "layer")
    assert ByData.calls == 1
    assert str(explanation.sizes[0]) == "layer.in_features = 3"
    assert [step.name for step in explanation.steps] == ["input x", "ByData"]


def test_sizes_that_must_be_fixed_stay_so_elsewhere() -> None:
    tracer.why(Net(), tracer.spec(2, 3, 32, 32), "fc1")
    with pytest.raises(tracer.LazyResolutionError, match="depends on H"):
        tracer.inspect(Net(), tracer.spec(2, 3, "H", 32))


def test_changes_nothing() -> None:
    model = Net()
    state = torch.random.get_rng_state()
    tracer.why(model, tracer.spec(2, 3, 32, 32), "fc1")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(model.fc1, nn.LazyLinear)
    assert isinstance(model.fc1.weight, nn.UninitializedParameter)
