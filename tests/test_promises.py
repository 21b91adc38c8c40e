"""What the caller promises of named sizes: at which sizes a model is followed then, and that it keeps the promise."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

import tracer
from passes.text.constraints import parse_constraints
from tests.ops.oracle import Call
from tracer import InputError
from tracer.inputs.promises import least_sizes
from tracer.inputs.size_search import nearest_sizes


class Images(nn.Module):
    """Needs images of at least 29 x 29."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(4, 29)
        self.head = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.conv(x).mean((2, 3)))


def sampled(*constraints: str, model: nn.Module | None = None, **options: Any) -> dict[str, int]:
    model = model or Call(lambda x: x + 1)
    return tracer.inspect(model, tracer.spec("N", 3, "H", "W", *constraints), **options).sampled


# Writing --------------------------------------------------------------------------------------------


def test_a_spec_keeps_its_constraints() -> None:
    sample = tracer.spec("N", 3, "H", "W", "H>=33", "W%32==0, N*H <= 4096")
    assert sample.shape == ("N", 3, "H", "W")
    assert sample.constraints == ("H>=33", "W%32==0, N*H <= 4096")
    assert str(sample) == "float32[N, 3, H, W] where H>=33, W%32==0, N*H <= 4096"
    assert "H>=33" in repr(sample)
    assert tracer.spec("N", 3).constraints == ()


@pytest.mark.parametrize("text", ["H>=", "H=3", "H > 3.5", "3>=2", ">=3", "H!3"])
def test_a_spec_refuses_at_once_what_is_no_constraint(text: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        tracer.spec("N", 3, "H", "W", text)


def test_a_constraint_may_be_of_another_inputs_size_but_of_no_unknown_one() -> None:
    model = Call(lambda x, y: x.sum() + y.sum())
    report = tracer.inspect(model, (tracer.spec("N", 3, "T <= 9"), tracer.spec("N", "T")))
    assert report.sampled == {"N": 2, "T": 9}
    with pytest.raises(InputError, match="expected one of the named sizes, found U <= 9") as raised:
        tracer.inspect(model, (tracer.spec("N", 3, "U <= 9"), tracer.spec("N", "T")))
    assert "the named sizes are N, T" in raised.value.remedy
    with pytest.raises(InputError, match="'N<=9' is of a named size, but the sample names none"):
        tracer.inspect(model, (tracer.spec(2, 3, "N<=9"), torch.ones(2, 3)))


# Sampled sizes --------------------------------------------------------------------------------------

SAMPLED: dict[tuple[str, ...], dict[str, int]] = {
    (): {"N": 2, "H": 64, "W": 64},
    ("H>=33", "W%32==0"): {"N": 2, "H": 64, "W": 64},
    ("H>=100, W%48==0",): {"N": 2, "H": 100, "W": 48},
    ("H<=5", "N>=8"): {"N": 8, "H": 5, "W": 64},
    ("H==W", "W<=32"): {"N": 2, "H": 32, "W": 32},
    ("H==2*W+1",): {"N": 2, "H": 129, "W": 64},
    ("N*W<=64",): {"N": 2, "H": 64, "W": 32},
    ("H==W+1000",): {"N": 2, "H": 1064, "W": 64},
    ("H>=100000",): {"N": 2, "H": 100000, "W": 64},
    ("H%1000==1",): {"N": 2, "H": 1001, "W": 64},
    ("H!=64",): {"N": 2, "H": 63, "W": 64},
    ("H>=0",): {"N": 2, "H": 64, "W": 64},
}


@pytest.mark.parametrize("constraints", SAMPLED, ids=" and ".join)
def test_a_model_is_followed_at_the_nearest_sizes_that_were_promised(constraints: tuple[str, ...]) -> None:
    assert sampled(*constraints) == SAMPLED[constraints]


@pytest.mark.parametrize("one", ["H >= 40", "H % 7 == 3", "H != 64", "H <= 12", "H*W == 960", "H + W <= 30"])
@pytest.mark.parametrize("other", ["H == W + 4", "N*H >= 100", "H // 3 >= W", "W % 5 == 0", "H <= W"])
def test_what_is_found_keeps_every_fact_and_is_found_where_there_is_any(one: str, other: str) -> None:
    facts = list(parse_constraints([one, other]))
    found = nearest_sizes({"N": 2, "H": 64, "W": 64}, facts, {"N": 2, "H": 2, "W": 2})
    there = (
        {"N": n, "H": h, "W": w}
        for n in (2, 50)
        for h in range(2, 130)
        for w in range(2, 130)
        if all(fact.holds({"N": n, "H": h, "W": w}) for fact in facts)
    )
    assert (found is None) == (next(there, None) is None)
    assert found is None or (all(fact.holds(found) for fact in facts) and min(found.values()) >= 2)


def test_least_sizes_are_1_unless_promised_otherwise() -> None:
    facts = parse_constraints(["P >= 0", "H >= 33", "W <= 9", "-1 <= Q"])
    assert least_sizes("NPHWQ", facts) == {"N": 1, "P": 0, "H": 33, "W": 1, "Q": 0}


def test_sizes_of_the_callers_choice_are_held_against_what_was_promised() -> None:
    assert sampled("H>=33", dims={"H": 40}) == {"N": 2, "H": 40, "W": 64}
    assert sampled("H==W", dims={"H": 40}) == {"N": 2, "H": 40, "W": 40}
    with pytest.raises(
        InputError, match="the sizes to sample at have H = 20, but the constraint H >= 33 excludes that"
    ):
        sampled("H>=33", dims={"H": 20})
    with pytest.raises(InputError, match=r"at H = 40 there are no sizes of the other names .*: H == W, W <= 32"):
        sampled("H==W", "W<=32", dims={"H": 40})


def test_data_is_held_against_what_was_promised() -> None:
    model, shapes = Call(lambda x: x + 1), ({0: "4 <= N <= 8", 1: "P >= 0"},)
    assert tracer.inspect(model, torch.ones(5, 3), dynamic_shapes=shapes).sampled == {"N": 5, "P": 3}
    assert tracer.inspect(model, torch.ones(5, 0), dynamic_shapes=shapes).sampled == {"N": 5, "P": 2}
    with pytest.raises(InputError, match="the sample has N = 3, but the constraint N >= 4 excludes that") as raised:
        tracer.inspect(model, torch.ones(3, 3), dynamic_shapes=shapes)
    assert "give a sample for which it holds" in raised.value.remedy


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        (("H>=10", "H<=5"), "no sizes fulfil H >= 10 and H <= 5"),
        (("H==W", "H>=W+1"), "no sizes fulfil H == W and H > W"),
        (("H*W==4999", "H>=2, W>=2"), "no sizes for which the constraints hold together: H*W == 4999, H >= 2, W >= 2"),
        (("H==1",), "leave nothing but H = 1, and a model is followed at sizes of at least 2"),
        (("H>=0", "H<=0"), "leave nothing but H = 0"),
        (("N*H<=3",), "leave nothing but"),
    ],
)
def test_promises_that_leave_no_size_to_follow_are_refused(constraints: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError) as raised:
        sampled(*constraints)
    assert said in raised.value.message


def test_a_promise_of_one_size_is_written_as_that_size() -> None:
    conversion = tracer.convert(Call(lambda x: x + 1), tracer.spec("N", "T", "T==8"))
    assert conversion.report.pinned == {"T": 8}
    axes = conversion.lowered.proto.graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == ["N", 8]


# Contracts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constraints", [("H>=29", "W>=29"), ("H>=33", "W%32==0"), ("H==W", "W>29"), ("64==H", "W==H")])
def test_what_was_promised_is_no_guard(constraints: tuple[str, ...]) -> None:
    report = tracer.inspect(Images(), tracer.spec("N", 3, "H", "W", *constraints))
    assert [guard for guard in report.guards if guard.dynamic] == []
    assert report.constraints


def test_a_name_of_which_nothing_was_promised_keeps_its_guards() -> None:
    report = tracer.inspect(Images(), tracer.spec("N", 3, "H", "W", "H>=33"))
    assert [guard.condition for guard in report.guards] == ["W >= 29"]


def test_a_model_that_needs_more_than_was_promised_is_refused_with_the_place_and_what_to_write() -> None:
    with pytest.raises(InputError) as raised:
        tracer.convert(Images(), tracer.spec("N", 3, "H", "W", "H>=20"))
    assert "the model needs H >= 29, but the constraint H >= 20 promises more: it allows H = 28" in raised.value.message
    assert raised.value.location is not None
    assert raised.value.location.path == "conv"
    assert raised.value.remedy.startswith('write "H>=29"')


def test_what_to_write_is_a_constraint_that_helps() -> None:
    model = Call(lambda x: x.relu() if x.shape[1] % 4 % 3 else x)
    with pytest.raises(InputError) as raised:
        tracer.inspect(model, tracer.spec("N", "H", "H>=5", "H%4!=0"), dims={"H": 65})
    wanted = raised.value.remedy.split('"')[1]
    assert tracer.inspect(model, tracer.spec("N", "H", "H>=5", "H%4!=0", wanted), dims={"H": 65}).constraints


BRANCHES: dict[str, Callable[[Tensor], Any]] = {
    "a branch": lambda x: x.relu() if x.shape[1] > 0 else x,
    "the first": lambda x: x[:, 0],
    "the largest": lambda x: x.amax(1),
}


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("work", [tracer.inspect, tracer.convert])
def test_a_size_that_may_be_0_is_asked_whether_it_is(name: str, work: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="needs P >= 1, but the constraint P >= 0 promises more: it allows P = 0"):
        work(Call(BRANCHES[name]), tracer.spec(2, "P", 4, "P>=0"))
    work(Call(BRANCHES[name]), tracer.spec(2, "P", 4))
    work(Call(BRANCHES[name]), tracer.spec(2, "P", 4, "P>=1"))


def test_so_does_the_torch_route() -> None:
    pytest.importorskip("onnxscript")
    model = Call(lambda x: x * 2 if x.shape[1] > 5 else x)
    with pytest.raises(InputError, match="needs T >= 6, but the constraint T >= 3 promises more"):
        tracer.convert(model, tracer.spec(2, "T", "T>=3"), route="torch")
    tracer.convert(model, tracer.spec(2, "T", "T>=6"), route="torch")


# Formulas as sizes of an input ----------------------------------------------------------------------


def run(conversion: tracer.Conversion, *inputs: Tensor) -> list[Any]:
    assert conversion.path is not None
    session = onnxruntime.InferenceSession(conversion.path)
    fed = dict(zip([value.name for value in session.get_inputs()], [tensor.numpy() for tensor in inputs], strict=True))
    return list(session.run(None, fed))


def check(conversion: tracer.Conversion, *inputs: Tensor) -> None:
    with torch.no_grad():
        expected = conversion.module.eval()(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for ours, theirs in zip(run(conversion, *inputs), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


class Patches(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n, c, h, w = x.shape
        tiles = x.reshape(n, c, h // 8, 8, w // 8, 8).mean((3, 5))
        return F.avg_pool2d(x, 8).flatten(1), tiles


@pytest.mark.parametrize("route", ["direct", "torch"])
def test_an_axis_may_be_a_multiple_of_a_name(route: str, tmp_path: Path) -> None:
    if route == "torch":
        pytest.importorskip("onnxscript")
    shapes = ({0: Dim("n"), 2: 8 * Dim("h", min=1, max=100), 3: 8 * Dim("w")},)
    conversion = tracer.convert(
        Patches(), torch.randn(2, 3, 32, 24), tmp_path / "m.onnx", dynamic_shapes=shapes, route=route
    )
    assert conversion.report.inputs == {"x": "float32[n, 3, 8*h, 8*w]"}
    assert conversion.report.sampled == {"n": 2, "h": 4, "w": 3}
    assert conversion.report.constraints == ["h >= 1", "h <= 100"]
    assert not [guard for guard in conversion.report.guards if guard.dynamic]
    axes = conversion.lowered.proto.graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == ["n", 3, "8*h", "8*w"]
    axes = conversion.lowered.proto.graph.output[1].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == ["n", 3, "h", "w"]
    assert conversion.verification is not None
    assert {"n": 2, "h": 1, "w": 3} in [comparison.sizes for comparison in conversion.verification.comparisons]
    for n, h, w in [(1, 1, 1), (2, 5, 3), (3, 100, 2)]:
        check(conversion, torch.randn(n, 3, 8 * h, 8 * w))


@pytest.mark.parametrize(
    ("dim", "size", "formula"),
    [(2 * Dim("h") - 1, 15, "2*h - 1"), (Dim("h") + 1, 5, "h + 1"), (3 * Dim("h") + 4, 16, "3*h + 4")],
)
@pytest.mark.parametrize("opset", [13, 20])
def test_the_name_of_an_axis_is_found_from_its_size(
    dim: Any, size: int, formula: str, opset: int, tmp_path: Path
) -> None:
    def repeat(x: Tensor) -> Tensor:  # computes with the size in the graph
        return x.sum(1, keepdim=True).expand(x.shape[0], x.shape[1] + 1).cumsum(1) / x.shape[1]

    conversion = tracer.convert(
        Call(repeat), torch.randn(2, size), tmp_path / "m.onnx", dynamic_shapes=({1: dim},), opset_version=opset
    )
    assert conversion.report.inputs == {"tensors_0": f"float32[2, {formula}]"}
    for h in (4, 5, 9):
        check(conversion, torch.randn(2, dim.fn(h)))
    with pytest.raises(InputError, match="dynamic dimension h is 4 in one place of the sample, 5 in another"):
        model = Call(lambda x, y: x.sum() + y.sum())
        tracer.inspect(model, (torch.randn(dim.fn(4)), torch.randn(5)), dynamic_shapes=({0: dim}, {0: "h"}))


def test_a_size_that_is_no_value_of_the_formula_is_refused() -> None:
    with pytest.raises(InputError, match=r"has 20 elements, which is 8\*h for no size of h"):
        tracer.inspect(Call(lambda x: x), torch.randn(2, 20), dynamic_shapes=({1: 8 * Dim("h")},))


def test_names_that_are_shared_are_one_and_why_knows_formulas(tmp_path: Path) -> None:
    h = Dim("h", min=2, max=50)
    model = Call(lambda x, y: (x.reshape(y.shape[0], 8) * y[:, :1]).sum(1))
    sample = (torch.randn(24), torch.randn(3, 5))
    conversion = tracer.convert(model, sample, tmp_path / "m.onnx", dynamic_shapes=({0: 8 * h}, {0: h}))
    assert conversion.report.outputs == ["float32[h]"]
    check(conversion, torch.randn(40), torch.randn(5, 5))
    net = nn.Sequential(nn.Flatten(1), nn.LazyLinear(2))
    explained = tracer.why(net, torch.randn(4, 3, 5), "1", dynamic_shapes=({0: 2 * Dim("n")},))
    assert explained.steps[0].formula[0] == "2*n"
    assert explained.named["n"] == 2


def test_bounds_of_hints_are_promises_too() -> None:
    model = Call(lambda x: x + 1)
    report = tracer.inspect(model, torch.ones(4, 5), dynamic_shapes=({0: Dim.DYNAMIC(min=0), 1: Dim.AUTO(max=9)},))
    assert report.constraints == ["tensors_0_dim_0 >= 0", "tensors_0_dim_1 <= 9"]
    assert tracer.inspect(model, torch.ones(4, 5), dynamic_shapes=({0: Dim("n"), 1: Dim.STATIC},)).constraints == []
    with pytest.raises(InputError, match="is of M, N, and an axis has one name"):
        tracer.inspect(model, torch.ones(4, 5), dynamic_shapes=({0: "N <= M"},))


# A decoder's step -----------------------------------------------------------------------------------


class Decoder(nn.Module):
    """One step of a decoder, with the keys and values of those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.LazyLinear(32) for _ in range(3))
        self.out = nn.LazyLinear(16)

    def forward(self, x: Tensor, past_key: Tensor, past_value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, t, _ = x.shape
        query, key, value = (layer(x).reshape(n, t, 4, 8) for layer in (self.query, self.key, self.value))
        key, value = torch.cat([past_key, key], 1), torch.cat([past_value, value], 1)
        mixed = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)))
        return self.out(mixed.transpose(1, 2).flatten(2)), key, value


@pytest.mark.parametrize("route", ["direct", "torch"])
def test_one_file_for_a_cache_of_any_length(route: str, tmp_path: Path) -> None:
    if route == "torch":
        pytest.importorskip("onnxscript")
    sample = (tracer.spec("N", 1, 24), tracer.spec("N", "P", 4, 8, "P>=0"), tracer.spec("N", "P", 4, 8))
    conversion = tracer.convert(Decoder(), sample, tmp_path / "decoder.onnx", route=route)
    assert not [guard for guard in conversion.report.guards if guard.dynamic]
    assert conversion.verification is not None
    assert 0 in {comparison.sizes["P"] for comparison in conversion.verification.comparisons}
    for batch in (1, 3):
        for past in (0, 1, 7):
            cache = torch.randn(2, batch, past, 4, 8)
            check(conversion, torch.randn(batch, 1, 24), cache[0], cache[1])


def test_a_division_of_what_may_be_negative_rounds_down(tmp_path: Path) -> None:
    def forward(x: Tensor) -> Tensor:
        return torch.full((3 + (x.shape[1] - 1) // 2, 2), 1.5) + x.sum()

    conversion = tracer.convert(Call(forward), tracer.spec(2, "P", "P>=0"), tmp_path / "m.onnx")
    for past in (0, 1, 2, 5):
        assert run(conversion, torch.ones(2, past))[0].shape == (3 + (past - 1) // 2, 2)


# What is told ---------------------------------------------------------------------------------------


def test_constraints_stand_in_the_file_and_in_the_report(tmp_path: Path) -> None:
    sample = tracer.spec("N", 3, "H", "W", "H>=33", "W%32==0")
    conversion = tracer.convert(Images(), sample, tmp_path / "m.onnx")
    stored = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert json.loads(stored["lazytracer.constraints"]) == ["H >= 33", "W % 32 == 0"]
    assert json.loads(stored["lazytracer.guards"]) == []
    report = conversion.report
    assert report.to_dict()["constraints"] == report.constraints == ["H >= 33", "W % 32 == 0"]
    assert "made for" in report._repr_html_()
    assert "W % 32 == 0" in report._repr_html_()
    drawing = tracer.draw(Images(), sample, tmp_path / "page.html")
    assert drawing.report.constraints == report.constraints
    assert "W % 32 == 0" in (tmp_path / "page.html").read_text()


def tried(*constraints: str, model: nn.Module | None = None) -> list[dict[str, int]]:
    sample = tracer.spec("N", 3, "H", "W", *constraints)
    verification = tracer.convert(model or Call(lambda x: x * 2), sample).verification
    assert verification is not None
    assert verification.notes == []
    return [comparison.sizes for comparison in verification.comparisons]


@pytest.mark.parametrize(
    ("constraints", "least"),
    [
        ((), {"N": 1, "H": 1, "W": 1}),
        (("H>=33", "W%32==0"), {"N": 1, "H": 33, "W": 32}),
        (("H>=0",), {"N": 2, "H": 0, "W": 64}),
        (("N*H<=128",), {"N": 1, "H": 1, "W": 1}),
        (("H==W", "H%300==0"), {"N": 1, "H": 300, "W": 300}),
    ],
)
def test_verification_keeps_to_what_was_promised_and_tries_the_least(
    constraints: Sequence[str], least: dict[str, int]
) -> None:
    facts = parse_constraints(constraints)
    sizes = tried(*constraints)
    assert least in sizes
    assert all(fact.holds(each) for fact in facts for each in sizes)


def test_verification_moves_a_size_that_no_usual_step_reaches() -> None:
    assert len({sizes["H"] for sizes in tried("H%1000==0")}) >= 2


def test_names_without_constraints_are_sampled_as_ever() -> None:
    assert tried()[0] == {"N": 2, "H": 64, "W": 64}
