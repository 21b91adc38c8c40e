"""Containers of the caller's classes as inputs and outputs: registered with torch's pytree, or known by their names."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import tracer
from passes.values.nested import Opened, leaves, map_structure
from tests.decoder import GROUPS, HEAD, LAYERS, Cache, Decoder, tokens_of
from tracer import spec

X = torch.arange(6.0).reshape(2, 3)


def names(conversion: tracer.Conversion) -> tuple[list[str], list[str]]:
    return conversion.lowered.input_names, conversion.lowered.output_names


# What is a container --------------------------------------------------------------------------------


class Without:
    """Registered without the names of its parts, with a count in its context."""

    def __init__(self, *parts: Any, seen: Any = None) -> None:
        self.parts, self.seen = list(parts), [] if seen is None else seen


@dataclass
class Named:
    left: Any
    right: Any = None
    label: str | None = None


class Keyed(dict[str, Any]):
    """A registered subclass of dict; its parts are called as its keys."""


class Row(list[Any]):
    pass


pytree.register_pytree_node(Without, lambda it: (it.parts, it.seen), lambda parts, seen: Without(*parts, seen=seen))
torch.export.register_dataclass(Named)
pytree.register_pytree_node(
    Keyed, lambda it: (list(it.values()), list(it)), lambda parts, keys: Keyed(zip(keys, parts, strict=True))
)
pytree.register_pytree_node(Row, lambda it: (list(it), None), lambda parts, _: Row(parts))


class Of(nn.Module):
    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


def of_class(kind: type, value: Any) -> Any:
    assert type(value) is kind
    return value


KINDS: dict[str, tuple[Any, Callable[[Any], Any], list[str], list[str]]] = {
    "without names": (
        Without(X, X + 1), lambda it: Without(it.parts[1], of_class(Without, it).parts[0] * 2),
        ["it_0", "it_1"], ["0", "1"],
    ),
    "a dataclass": (
        Named(X, label="a"), lambda it: Named(of_class(Named, it).left, it.left * 2),
        ["it_left"], ["left", "right"],
    ),
    "a dict": (
        Keyed(a=X, b=X + 1), lambda it: Keyed(sum=of_class(Keyed, it)["a"] + it["b"]),
        ["it_a", "it_b"], ["sum"],
    ),
    "an ordered dict": (
        OrderedDict(a=X, b=X + 1), lambda it: (it.move_to_end("a"), it)[1],
        ["it_a", "it_b"], ["b", "a"],
    ),
    "a list": (Row([X, X + 1]), lambda it: Row(reversed(of_class(Row, it))), ["it_0", "it_1"], ["0", "1"]),
    "nested": (
        {"k": (Without(Row([X]), Named(X)), [X])}, lambda it: [Named({"p": it["k"][0].parts[1].left + 1})],
        ["it_k_0_0_0", "it_k_0_1_left", "it_k_1_0"], ["output_0_left_p"],
    ),
    "none of it": (Without(None, X), lambda it: Without(it.parts[0], None, it.parts[1]), ["it_1"], ["2"]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "route"), [*((name, "direct") for name in KINDS), pytest.param("nested", "torch", marks=pytest.mark.slow)]
)
def test_a_container_is_its_parts_inside_and_of_its_class_in_the_forward(name: str, route: str) -> None:
    given, run, inputs, outputs = KINDS[name]
    conversion = tracer.convert(Of(lambda it: run(it)), (), kwargs={"it": given}, route=route)
    assert names(conversion) == (inputs, outputs)
    verification = conversion.verification
    assert verification is not None
    assert [comparison.output for comparison in verification.comparisons] == outputs
    assert verification.largest_difference == 0
    assert not conversion.report.rungs


def test_parts_are_given_by_specs_and_in_keywords() -> None:
    model = Of(lambda *, it: it.parts[0] @ it.parts[1].left)
    conversion = tracer.convert(model, (), kwargs={"it": Without(spec("N", 4), Named(spec(4, "M")))})
    assert conversion.report.inputs == {"it_0": "float32[N, 4]", "it_1_left": "float32[4, M]"}
    assert conversion.report.outputs == ["float32[N, M]"]


SHAPES: dict[str, Any] = {
    "by name": {"it": {"left": {0: "N"}, "right": [None, {1: "M"}]}},
    "in order": {"it": [{0: "N"}, {1: {1: "M"}}]},
    "in order of all": [[("N", None), [{}, (None, "M")]]],
    "by the file's names": {"it_left": {0: "N"}, "it_right_1": {1: "M"}},
}


@pytest.mark.parametrize("name", SHAPES)
def test_dynamic_shapes_are_nested_like_the_container(name: str) -> None:
    class Model(nn.Module):
        def forward(self, it: Named) -> Any:
            return it.left, it.right.parts[0], it.right.parts[1]

    file_names = ["it_left", "it_right_0", "it_right_1"] if name == "by the file's names" else None
    report = tracer.convert(
        Model(), (Named(X, Without(X, X)),), dynamic_shapes=SHAPES[name], input_names=file_names, verify=False
    ).report
    assert list(report.inputs.values()) == ["float32[N, 3]", "float32[2, 3]", "float32[2, M]"]


def test_what_a_forward_writes_into_a_container_stays_there() -> None:
    """Into its lists, and into what its class keeps as context."""

    def run(it: Without, cache: Cache) -> Any:
        it.seen.append("call")
        it.parts.append(it.parts[0] + 1)
        keys, _ = cache.update(0, it.parts[0][:, None, :1], it.parts[0][:, None, :1])
        return it, keys, len(it.seen) + it.parts[0]

    given, cache = Without(X), Cache([torch.zeros(2, 1, 2)], [torch.zeros(2, 1, 2)])
    cache.keys[0], cache.values[0] = torch.zeros(2, 1, 1), torch.zeros(2, 1, 1)
    conversion = tracer.convert(Of(run), (given, cache))
    assert conversion.verification is not None
    assert conversion.lowered.output_names[-1] == "output_2"
    assert (given.parts, given.seen) == ([X], [])
    assert [tuple(tensor.shape) for tensor in (*cache.keys, *cache.values)] == [(2, 1, 1)] * 2


def test_lazy_layers_before_and_after() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.LazyLinear(4), nn.LazyLinear(2)

        def forward(self, it: Named) -> Named:
            found = Named(self.before(it.left), it.left)
            return Named(self.after(torch.cat([found.left, found.right], -1)))

    model, given = Model(), Named(spec("N", 5))
    assert tracer.inspect(model, (given,)).resolved == {"before": {"in_features": 5}, "after": {"in_features": 9}}
    resolved = tracer.resolve(model, (given,), seed=0)
    assert resolved(Named(torch.ones(3, 5))).left.shape == (3, 2)
    assert names(tracer.convert(model, (given,), seed=0)) == (["it_left"], ["left"])
    assert "Named" not in tracer.inspect(model, (given,)).program_text()


# What is none ---------------------------------------------------------------------------------------


class Unknown:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def test_an_object_of_an_unknown_class_is_refused_with_what_to_do() -> None:
    with pytest.raises(tracer.InputError, match="args_0 holds a tensor") as info:
        tracer.inspect(Of(lambda it: it.tensor), (Unknown(X),))
    assert "register its class with torch.utils._pytree.register_pytree_node" in info.value.remedy
    with pytest.raises(tracer.ExportError, match=r"the model returns .*Unknown.* which is no tensor") as returned:
        tracer.convert(Of(Unknown), (X,))
    assert "registered with torch.utils._pytree.register_pytree_node" in returned.value.remedy


class Picky:
    """It looks at what it is made of."""

    def __init__(self, part: Any) -> None:
        if not isinstance(part, torch.Tensor):
            raise TypeError(f"{type(part).__name__} is no tensor")
        self.part = part


def flattened(it: Picky) -> tuple[list[Any], None]:
    if not isinstance(it.part, torch.Tensor):
        raise TypeError("what is a spec?")
    return [it.part], None


pytree.register_pytree_node(Picky, flattened, lambda parts, _: Picky(*parts))


def test_a_class_that_looks_at_its_parts_is_given_tensors() -> None:
    model, given = Of(lambda it: it.part * 2), Picky(X)
    conversion = tracer.convert(model, (given,), dynamic_shapes=([{0: "N"}],))
    assert conversion.report.inputs == {"args_0_0": "float32[N, 3]"}
    given.part = spec(2, 3)
    with pytest.raises(
        tracer.InputError, match=r"the code that is registered to take apart a Picky raises TypeError: what is a spec"
    ):
        tracer.inspect(model, (given,))


# Modules that cannot be traced ----------------------------------------------------------------------


class Untraceable(nn.Module):
    """Runs on meta tensors, and on data."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: torch.Tensor, it: Any) -> Any:
        found = self.run(x, it)
        if hasattr(x, "tracer"):
            raise NotImplementedError("it is no tensor of torch's")
        return found


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, it: Any) -> Any:
        return self.inner(x + 1, it) * 2, it


WRITING: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "a registered class": (lambda x, it: of_class(Without, it).parts.append(x) or x + it.parts[0], Without(X)),
    "a list": (lambda x, it: it.append(x) or x + it[0], [X]),
    "a dict": (lambda x, it: it.update(new=x) or x + it["old"], {"old": X}),
    "a tensor": (lambda x, it: x + it[0].add_(1), [X]),
}


@pytest.mark.parametrize("name", WRITING)
def test_what_an_untraced_module_writes_into_its_arguments_is_not_lost(name: str) -> None:
    """Then whatever calls it is followed on meta tensors too."""
    run, given = WRITING[name]
    report = tracer.inspect(Around(Untraceable(run)), (X, given))
    assert [(rung.path, rung.level) for rung in report.rungs] == [("", "meta")]
    assert len(report.outputs) == (2 if name == "a tensor" else 3)


@pytest.mark.slow
def test_such_a_model_is_exported_as_a_whole() -> None:
    run, given = WRITING["a registered class"]
    conversion = tracer.convert(Around(Untraceable(run)), (X, given))
    assert names(conversion) == (["x", "it_0"], ["output_0", "output_1_0", "output_1_1"])
    assert conversion.verification is not None
    assert conversion.verification.largest_difference == 0


def test_an_untraced_module_gets_a_container_of_its_class() -> None:
    model = Around(Untraceable(lambda x, it: x + of_class(Named, it).left))
    report = tracer.inspect(model, (spec("N", 3), Named(spec("N", 3))))
    assert [(rung.path, rung.level) for rung in report.rungs] == [("inner", "meta")]
    assert report.outputs == ["float32[N, 3]", "float32[N, 3]"]


# Known by its name ----------------------------------------------------------------------------------


class DynamicLayer:
    """As Hugging Face's has it."""

    def __init__(self, keys: Any = None, values: Any = None) -> None:
        self.keys, self.values, self.is_initialized = keys, values, keys is not None

    def update(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[Any, Any]:
        self.keys = torch.cat([self.keys, keys], -2) if self.is_initialized else keys
        self.values = torch.cat([self.values, values], -2) if self.is_initialized else values
        self.is_initialized = True
        return self.keys, self.values

    def get_seq_length(self) -> Any:
        if not self.is_initialized or self.keys.numel() == 0:
            return 0
        return self.keys.shape[-2]


class DynamicCache:
    def __init__(self, layers: Sequence[Any] = ()) -> None:
        self.layers = list(layers)

    def length(self) -> Any:
        return self.layers[0].get_seq_length()

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[Any, Any]:
        return self.layers[layer].update(keys, values)


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("transformers.cache_utils")
    for kind in (DynamicLayer, DynamicCache):
        monkeypatch.setattr(kind, "__module__", module.__name__)
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return None


@pytest.mark.usefixtures("transformers")
def test_a_cache_of_hugging_face_is_known_though_not_registered() -> None:
    given = DynamicCache([DynamicLayer(spec("N", GROUPS, "P", HEAD), spec("N", GROUPS, "P", HEAD)) for _ in range(2)])
    conversion = tracer.convert(Decoder(), (spec("N", "T", dtype=torch.int64), given), seed=0, opset_version=18)
    layers = [f"layers_{index}_{part}" for index in range(LAYERS) for part in ("keys", "values")]
    assert names(conversion) == (
        ["tokens", *(f"past_{layer}" for layer in layers)], ["output_0", *(f"output_1_{layer}" for layer in layers)]
    )  # fmt: skip
    assert conversion.report.statement == "valid for N >= 1, T >= 1, P >= 1"


@pytest.mark.usefixtures("transformers")
def test_how_long_it_is_does_not_depend_on_whether_it_is_empty() -> None:
    """Its own method asks for the number of elements, which would be a guard."""

    def past(*constraints: str) -> tuple[Any, ...]:
        part = spec("N", GROUPS, "P", HEAD, *constraints)
        return (DynamicCache([DynamicLayer(part, part)]),)

    model, own = Of(lambda past: past.layers[0].keys + past.length()), DynamicLayer.get_seq_length
    assert tracer.convert(model, past("P>=0")).report.statement == "valid for N >= 1, P >= 0"
    with pytest.raises(tracer.InputError, match=r"the model needs N >= 1, but the constraint N >= 0"):
        tracer.inspect(model, past("P>=0", "N>=0"))
    assert DynamicLayer.get_seq_length is own


@pytest.mark.usefixtures("transformers")
def test_an_empty_one_is_filled() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, past: DynamicCache) -> Any:
            past.update(1, x, x + 1)
            return past

    given = DynamicCache([DynamicLayer(), DynamicLayer()])
    conversion = tracer.convert(Model(), (X, given))
    assert names(conversion) == (["x"], ["layers_1_keys", "layers_1_values"])
    assert given.layers[1].keys is None
    assert not given.layers[1].is_initialized


@pytest.mark.usefixtures("transformers")
def test_what_derives_from_it_may_hold_more_and_is_not_known() -> None:
    class Mine(DynamicCache):
        pass

    with pytest.raises(tracer.InputError, match="past holds a tensor"):
        tracer.inspect(Decoder(), (spec(1, 2, dtype=torch.int64), Mine([DynamicLayer(X, X)])))


def test_of_another_module_it_is_any_class() -> None:
    with pytest.raises(tracer.InputError, match="past holds a tensor"):
        tracer.inspect(Decoder(), (spec(1, 2, dtype=torch.int64), DynamicCache([DynamicLayer(X, X)])))


# A decoder ------------------------------------------------------------------------------------------


def empty() -> Cache:
    return Cache(*([torch.zeros(1, GROUPS, 0, HEAD) for _ in range(LAYERS)] for _ in range(2)))


class OnTensors(nn.Module):
    """The decoder with its cache as tensors, all layers in one."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> Any:
        logits, past = self.decoder(tokens, Cache(keys.unbind(0), values.unbind(0)))
        return logits, torch.stack(past.keys), torch.stack(past.values)


@pytest.mark.parametrize("form", ["a registered class", "tensors"])
def test_a_decoder_begins_and_goes_on_by_one_file(form: str, tmp_path: Path) -> None:
    torch.manual_seed(6)
    decoder = Decoder().eval()
    tokens, file = spec("N", "T", "P>=0", dtype=torch.int64), tmp_path / "decoder.onnx"
    part = spec("N", GROUPS, "P", HEAD) if form == "a registered class" else spec(LAYERS, "N", GROUPS, "P", HEAD)
    if form == "tensors":
        model, sample, past = (
            OnTensors(decoder),
            (tokens, part, part),
            [np.zeros((LAYERS, 1, GROUPS, 0, HEAD), "f4")] * 2,
        )
    else:
        model, sample = decoder, (tokens, Cache([part] * LAYERS, [part] * LAYERS))
        past = [tensor.numpy() for tensor in leaves(empty())]
    conversion = tracer.convert(model, sample, file, dims={"N": 2, "T": 3, "P": 4}, route="direct")
    assert conversion.report.statement == "valid for N >= 1, T >= 1, P >= 0"
    session = onnxruntime.InferenceSession(file)
    inputs = [value.name for value in session.get_inputs()]

    def step(tokens: torch.Tensor, past: Any) -> tuple[Any, Any]:
        logits, *past = session.run(None, dict(zip(inputs, [tokens.numpy(), *past], strict=True)))
        return logits, past

    with torch.no_grad():
        expected = tokens_of(decoder, empty())
    assert len(set(expected)) > 10
    assert tokens_of(step, past) == expected


# How they are walked --------------------------------------------------------------------------------


def test_a_container_that_was_opened_is_closed_again() -> None:
    given = {"it": Without(1, Named(2, 3, "x")), "t": (4,)}
    found = map_structure(given, lambda leaf: leaf if isinstance(leaf, str) else leaf * 10)
    assert type(found["it"]) is Opened
    assert list(leaves(found)) == [10, 20, 30, "x", 40] == list(leaves(map_structure(found, lambda leaf: leaf)))
    closed = map_structure(found, lambda leaf: leaf, keep_classes=True)
    assert of_class(Without, closed["it"]).parts == [10, Named(20, 30, "x")]
    assert closed["t"] == (40,)


# Branches and loops -------------------------------------------------------------------------------


class Pair:
    def __init__(self, left: torch.Tensor, right: torch.Tensor):
        self.left, self.right = left, right


pytree.register_pytree_node(Pair, lambda it: ([it.left, it.right], None), lambda parts, _: Pair(*parts))


def test_a_branch_gives_a_container_of_a_registered_class() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        pair = torch.cond(x.sum() > 0, lambda: Pair(x + 1, x), lambda: Pair(x * 2, x - 1))
        return pair.left - pair.right

    conversion = tracer.convert(Calls(forward), torch.ones(2, 3), route="direct")
    assert conversion.verification is not None
    assert not conversion.verification.notes


def test_branches_that_give_containers_of_two_classes_are_refused() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        pair = torch.cond(x.sum() > 0, lambda: Pair(x + 1, x), lambda: {"left": x, "right": x})
        return pair.left

    with pytest.raises(tracer.TracerError, match=r"torch\.cond takes one structure"):
        tracer.convert(Calls(forward), torch.ones(2, 3), route="direct")


class Calls(nn.Module):
    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)
