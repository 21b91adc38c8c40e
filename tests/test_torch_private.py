"""What we rely on in what torch keeps private: a torch that does it in another way fails here first."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules import module as module_calls
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from passes import torch_private
from passes.isolation.control_flow import _FUNCTIONS
from passes.torch_private import TorchDispatchMode

REPOSITORY = Path(__file__).parents[1]


class AskedError(Exception):
    """Something else than torch was asked."""


class Asked(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AskedError


class FunctionsAsked(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AskedError


class OperationsSeen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


class FunctionsSeen(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


def in_its_own_process(code: str) -> list[str]:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return result.stdout.split()


def patched(place: torch_private.Place, value: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    before = getattr(*place)
    monkeypatch.setattr(*place, value)
    return before


# Blocks -------------------------------------------------------------------------------------------


def test_without_classes_no_tensor_answers_for_torch() -> None:
    asked = torch.ones(2).as_subclass(Asked)
    with torch_private.without_classes():
        assert asked.size() == (2,)
        with FunctionsAsked(), pytest.raises(AskedError):
            torch.ones(2).size()
    with pytest.raises(AskedError):
        asked.size()


def test_without_overrides_nobody_does() -> None:
    with FunctionsAsked(), torch_private.without_overrides():
        assert torch.ones(2).as_subclass(Asked).size() == (2,)


def test_without_dispatch_no_mode_sees_operations() -> None:
    with OperationsSeen() as mode:
        with torch_private.without_dispatch():
            torch.ones(2)
        assert not mode.seen
        torch.ones(2)
        assert mode.seen


# What a thread has of torch -----------------------------------------------------------------------


def test_modes_are_counted_and_left() -> None:
    functions, operations = torch_private.function_modes(), torch_private.dispatch_modes()
    FunctionsAsked().__enter__()
    OperationsSeen().__enter__()
    assert (torch_private.function_modes(), torch_private.dispatch_modes()) == (functions + 1, operations + 1)
    torch_private.leave_function_mode()
    torch_private.leave_dispatch_mode()
    assert (torch_private.function_modes(), torch_private.dispatch_modes()) == (functions, operations)
    assert torch.ones(2).size() == (2,)


def test_gradients_are_set() -> None:
    before = torch.is_grad_enabled()
    try:
        torch_private.set_gradients(not before)
        assert torch.is_grad_enabled() is not before
    finally:
        torch_private.set_gradients(before)


# Tensors ------------------------------------------------------------------------------------------


def test_tensors_are_exchanged() -> None:
    left, right = torch.zeros(2), torch.ones(3, dtype=torch.int64)
    torch_private.exchange_tensors(left, right)
    assert (left.dtype, left.tolist(), right.dtype, right.tolist()) == (torch.int64, [1, 1, 1], torch.float32, [0, 0])


def test_a_tensor_of_a_class_has_the_memory_and_meets_no_constructor() -> None:
    class Own(nn.Parameter):
        def __new__(cls, *_: Any) -> Any:
            raise AskedError

    data = torch.ones(2)
    made = torch_private.tensor_of_class(Own, data, True)
    assert type(made) is Own
    assert (made.requires_grad, made.data_ptr()) == (True, data.data_ptr())


def test_everything_draws_from_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.random, "default_generator", torch.Generator())
    state = torch_private.cpu_generator.get_state()
    first = torch.randn(2)
    torch_private.cpu_generator.set_state(state)
    assert torch.equal(torch.randn(2), first)
    assert torch.Generator()._cdata != torch_private.cpu_generator._cdata  # type: ignore[attr-defined]
    assert torch.default_generator._cdata == torch_private.cpu_generator._cdata  # type: ignore[attr-defined]


# Operations ---------------------------------------------------------------------------------------


def test_modes_see_overloads_with_their_arguments() -> None:
    with OperationsSeen() as mode:
        torch.ones(2).add_(1)
    overload = mode.seen[-1]
    assert isinstance(overload, torch_private.OpOverload)
    assert overload.overloadpacket is torch.ops.aten.add_
    assert [argument.name for argument in overload._schema.arguments] == ["self", "other", "alpha"]
    assert [str(argument.type) for argument in overload._schema.arguments][:1] == ["Tensor"]
    written = [a.name for a in overload._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    assert written == ["self"]
    assert len(overload._schema.returns) == 1


def test_native_functions_are_those_of_torch() -> None:
    assert torch.add is torch_private.native_functions.add
    assert not hasattr(torch_private.native_functions, "is_tensor")
    x = torch.ones(2)
    assert torch_private.native_functions.atleast_2d([x, x])[0].shape == torch.atleast_2d([x, x])[0].shape == (1, 2)


def test_functional_calls_native_functions() -> None:
    x, image = torch.rand(2, 4), torch.rand(1, 4, 6, 6)
    native = torch_private.native_nn
    assert torch.equal(native.silu(x), F.silu(x))
    assert torch.equal(native.im2col(image, (2, 2), (1, 1), (0, 0), (1, 1)), F.unfold(image, 2))
    assert torch.equal(native.reflection_pad2d(image, (1, 1, 1, 1)), F.pad(image, (1, 1, 1, 1), "reflect"))
    assert torch.equal(native.adaptive_avg_pool2d(image, 2), F.adaptive_avg_pool2d(image, 2))


def test_assertions() -> None:
    for holds in torch_private.assertions:
        assert holds(torch.tensor(True), "it does") is None
        with pytest.raises((AssertionError, RuntimeError)):
            holds(torch.tensor(False), "it does not")


def test_sequences_are_packed_by_these_functions() -> None:
    with FunctionsSeen() as mode:
        packed = nn.utils.rnn.pack_padded_sequence(torch.rand(3, 2, 4), torch.tensor([3, 2]))
        nn.utils.rnn.pad_packed_sequence(packed)
        nn.utils.rnn.pad_sequence([torch.rand(3), torch.rand(2)])
    assert {torch_private.pack_padded, torch_private.pad_packed, torch_private.pad_rows} <= set(mode.seen)


def test_weights_are_normed_by_this_function() -> None:
    v, g = torch.rand(3, 4), torch.rand(3, 1)
    expected = v * (g / v.norm(dim=1, keepdim=True))
    torch.testing.assert_close(torch_private.normed_weight(v, g, 0), expected)
    with FunctionsSeen() as mode:
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)).weight.sum()
    assert torch_private.normed_weight in mode.seen


def test_truth_is_asked_for_by_these_functions() -> None:
    for values in ([True, True], [True, False], [False, False]):
        tensor = torch.tensor(values)
        assert (bool(torch_private.all_true(tensor)), bool(torch_private.any_true(tensor))) == (
            all(values),
            any(values),
        )
    with FunctionsSeen() as mode:
        torch.distributions.Normal(0.0, torch.ones(2), validate_args=True)
    assert torch_private.all_true in mode.seen


def test_native_losses_reduce_by_a_number_and_nothing_where_none_is_given() -> None:
    x, y = torch.rand(3), torch.rand(3)
    for loss in (torch_private.native_nn.mse_loss, torch.kl_div):
        assert [loss(x, y, number).ndim for number in (0, 1, 2)] == [1, 0, 0]
        torch.testing.assert_close(loss(x, y, 1) * 3, loss(x, y, 2))
        assert loss(x, y).ndim == 1
    assert torch.ops.aten.mse_loss(x, y).ndim == torch.ops.aten.kl_div(x, y).ndim == 0


class Arguments(TorchFunctionMode):
    """Notes the keyword arguments that a function hands itself over with."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.named = kwargs or {}


def test_torch_hands_a_weighted_distance_over_without_its_weight() -> None:
    """What `tracer/memory/handed_over.py` makes up for; a torch that hands it over needs nothing of that."""
    x = torch.rand(3)
    with Arguments() as mode:
        F.l1_loss(x, x, weight=x)
    assert "reduction" in mode.named
    assert "weight" not in mode.named
    with Arguments() as mode:
        F.mse_loss(x, x, weight=x)
    assert mode.named["weight"] is x


def test_overrides_that_are_off_are_told() -> None:
    assert not torch_private.overrides_are_off()
    with torch_private.without_overrides():
        assert torch_private.overrides_are_off()


def test_checks_of_sizes_end_in_these_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(*torch_private.CHECK, lambda error, holds, message: seen.append(holds))
    torch._check(True)
    torch._check_value(False)
    assert seen == [True, False]
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="no size"):
        torch_private.check_holds(RuntimeError, False, lambda: "no size")
    assert getattr(*torch_private.CHECK_OF_SIZE) is torch_private.check_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch would have `_check(i >= 0)` in its place
        assert torch_private.check_size(3) is None
        with pytest.raises(RuntimeError):
            torch_private.check_size(-1)


# Classes of modules -------------------------------------------------------------------------------

RANKS = (1, 2, 3)


def of_each_rank(*names: str) -> tuple[type[nn.Module], ...]:
    return tuple(getattr(nn, name.format(rank)) for name in names for rank in RANKS)


def test_the_bases_are_those_of_each_rank() -> None:
    convolutions = of_each_rank("Conv{}d", "ConvTranspose{}d")
    lazy_convolutions = of_each_rank("LazyConv{}d", "LazyConvTranspose{}d")
    batch_norms = of_each_rank("BatchNorm{}d", "LazyBatchNorm{}d")
    lazy_norms = of_each_rank("LazyBatchNorm{}d", "LazyInstanceNorm{}d")
    assert all(issubclass(kind, torch_private.ConvNd) for kind in convolutions + lazy_convolutions)
    assert all(issubclass(kind, torch_private.LazyConvMixin) for kind in lazy_convolutions)
    assert all(issubclass(kind, torch_private.NormBase) for kind in batch_norms + of_each_rank("InstanceNorm{}d"))
    assert all(issubclass(kind, torch_private.LazyNormBase) for kind in lazy_norms)
    assert all(issubclass(kind, torch_private.BatchNorm) for kind in batch_norms)
    assert not any(issubclass(kind, torch_private.BatchNorm) for kind in of_each_rank("InstanceNorm{}d"))
    assert all(issubclass(kind, torch_private.ConstantPadNd) for kind in of_each_rank("ConstantPad{}d", "ZeroPad{}d"))


def test_what_is_read_of_them() -> None:
    assert len(nn.LazyConv2d(4, 3).kernel_size) == 2
    assert (nn.ConstantPad1d(2, 0.5).padding, nn.ConstantPad1d(2, 0.5).value) == ((2, 2), 0.5)
    assert (nn.BatchNorm1d(3).num_features, nn.LazyBatchNorm1d().num_features) == (3, 0)
    for kind in of_each_rank("LazyBatchNorm{}d", "LazyInstanceNorm{}d"):
        assert kind.reset_parameters is torch_private.LazyNormBase.reset_parameters
        assert kind.reset_running_stats is torch_private.NormBase.reset_running_stats


def test_a_hook_on_loading_is_wrapped() -> None:
    def hook(*_: Any) -> None: ...

    module = nn.Linear(2, 2)
    module.register_load_state_dict_pre_hook(hook)
    (wrapped,) = module._load_state_dict_pre_hooks.values()
    assert type(wrapped) is torch_private.WrappedHook
    assert wrapped.hook is hook
    made = torch_private.WrappedHook.__new__(torch_private.WrappedHook)
    made.__setstate__(wrapped.__getstate__())
    assert made.hook is hook
    assert all("WrappedHook" in type(kept).__name__ for kept in nn.LazyLinear(2)._load_state_dict_pre_hooks.values())


def test_the_hooks_of_all_modules() -> None:
    after, before = torch_private.HOOKS_OF_ALL
    handles = (
        module_calls.register_module_forward_hook(lambda module, args, output: None),
        module_calls.register_module_forward_pre_hook(lambda module, args: None),
    )
    try:
        assert (len(after), len(before)) == (1, 1)
    finally:
        for handle in handles:
            handle.remove()
    assert not after
    assert not before


# What is patched ----------------------------------------------------------------------------------


def test_a_mask_is_looked_at_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def detect(mask: Any, is_causal: bool | None = None, size: Any = None) -> bool:
        seen.append(mask)
        return is_causal is True

    patched(torch_private.CAUSAL_DETECTION, detect, monkeypatch)
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1, enable_nested_tensor=False
    )
    mask = nn.Transformer.generate_square_subsequent_mask(3)
    encoder.eval()(torch.rand(1, 3, 4), mask=mask)
    assert any(value is mask for value in seen)


def test_custom_functions_are_called_through_one_base(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Any) -> Any:
            return x * 2

    seen: list[Any] = []
    unwrap = patched(
        torch_private.CUSTOM_FUNCTION_ARGUMENTS, lambda args: seen.append(args) or unwrap(args), monkeypatch
    )
    x = torch.ones(2)
    assert Doubled.apply(x).tolist() == [2, 2]
    assert [args[0] is x for args in seen] == [True]
    assert issubclass(Doubled, torch_private.CustomFunction)
    assert Doubled.setup_context is torch_private.CustomFunction.setup_context
    monkeypatch.setattr(torch_private.CustomFunction, "apply", classmethod(lambda cls, *args: cls), raising=False)
    assert Doubled.apply(x) is Doubled


def kept_from_fx(x: torch.Tensor) -> torch.Tensor:
    return x.relu()


fx.wrap("kept_from_fx")


def test_wrapped_functions_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return kept_from_fx(x) + 1

    names = {name for _, name in torch_private.FX_NOTES}
    assert {"_wrapped_fns_to_patch", "_wrapped_methods_to_patch"} <= names
    for place in torch_private.FX_NOTES:
        monkeypatch.setattr(*place, getattr(*place))
    assert "kept_from_fx" in [node.name for node in fx.Tracer().trace(forward).nodes]
    torch_private.forget_wrapped_functions()
    assert "relu" in [node.name for node in fx.Tracer().trace(forward).nodes]


def test_device_functions_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_private.note_device_functions()
    genuine = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *_: None)
    with torch.device("meta"):
        assert genuine(2).device.type == "meta"


# Control flow -------------------------------------------------------------------------------------


def test_functions_of_control_flow_can_be_given_other_code() -> None:
    functions = torch_private.control_flow_functions()
    assert functions.keys() == {"cond", "while_loop", "scan", "map"}
    assert functions["cond"] is torch.cond
    for name, function in functions.items():
        assert not function.__code__.co_freevars
        assert str(_bare(function)) == str(_bare(_FUNCTIONS[name]))


def _bare(function: Any) -> inspect.Signature:
    """What a function takes, without types."""
    parameters = inspect.signature(function).parameters.values()
    return inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters])


def test_operators_of_control_flow_are_called_as_their_classes_say() -> None:
    operators = torch_private.control_flow_operators()
    names = {"cond": "cond", "while_loop": "while_loop", "scan": "scan", "map": "map_impl"}
    assert operators.keys() == names.keys()
    for name, operator in operators.items():
        assert type(getattr(torch.ops.higher_order, names[name])) is operator
        assert "__call__" in vars(operator)


def test_containers_come_apart_by_their_class() -> None:
    class Pair:
        def __init__(self, left: Any, right: Any) -> None:
            self.left, self.right = left, right

    pytree.register_pytree_node(
        Pair,
        lambda pair: ([pair.left, pair.right], "context"),
        lambda parts, context: Pair(*parts) if context == "context" else None,
        flatten_with_keys_fn=lambda pair: ([(pytree.GetAttrKey("left"), pair.left), (pytree.SequenceKey(1), 2)], None),
    )
    node = torch_private.registered_containers[Pair]
    assert node.flatten_fn(Pair(1, 2)) == ([1, 2], "context")
    assert vars(node.unflatten_fn([3, 4], "context")) == {"left": 3, "right": 4}
    keys = [key for key, _ in node.flatten_with_keys_fn(Pair(1, 2))[0]]
    assert (keys[0].name, keys[1].idx, pytree.MappingKey("k").key) == ("left", 1, "k")


# The compiler and the exporter --------------------------------------------------------------------


def test_the_compiler_is_left_until_something_loads_it() -> None:
    code = """
import sys, torch
from passes import torch_private
from passes.isolation.dispatch_mode import DispatchMode
with DispatchMode():
    torch.ones(2) + 1
print(torch_private.COMPILER in sys.modules)
print(torch_private.apart_from_compiler(lambda x: x + 1)(2))
print(torch_private.COMPILER in sys.modules)
def backend(graph, inputs):
    print("compiled")
    return graph.forward
def hidden(x): return x + 1
def shown(x): return x + 2
torch_private.hide_from_compiler(hidden.__code__)
print(torch.compile(hidden, backend=backend)(torch.ones(1)).item())
print(torch.compile(shown, backend=backend)(torch.ones(1)).item())
"""
    assert in_its_own_process(code) == ["False", "3", "True", "2.0", "compiled", "3.0"]


def test_names_of_registered_functions() -> None:
    aten = torch.ops.aten
    assert torch_private.registered_name(aten.add) == torch_private.registered_name(aten.add.Tensor) == "aten::add"
    assert torch_private.registered_name(torch.add) is None


def test_the_exporter_logs_its_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    decisions: list[Any] = []

    def log(self: Any, prefix: str, condition: Any, *args: Any, **kwargs: Any) -> None:
        decisions.append((prefix, condition))
        note(self, prefix, condition, *args, **kwargs)

    note = patched(torch_private.decision_log(), log, monkeypatch)
    environment = ShapeEnv()
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
    fake = FakeTensorMode(shape_env=environment).from_tensor(torch.rand(5), symbolic_context=context)
    assert bool(fake.shape[0] > 3)
    ((prefix, condition),) = decisions
    assert type(prefix) is str
    assert condition.free_symbols <= set(environment.var_to_sources)


def test_frames_of_the_interpreter() -> None:
    assert not torch_private.interpreted_frames()
    from torch._guards import TracingContext, tracing

    with tracing(TracingContext(None)):
        assert list(torch_private.interpreted_frames()) == []
